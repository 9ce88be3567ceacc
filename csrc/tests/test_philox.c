/* Philox4x32-10 against the known answers of Random123 1.14 (kat_vectors), and the stream and permutation over it. */
#define _DEFAULT_SOURCE
#include "check.h"
#include "edgefl.h"

struct known_answer {
    uint32_t counter[4], key[2], out[4];
};

static const struct known_answer known_answers[] = {
    {{0, 0, 0, 0}, {0, 0}, {0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8}},
    {{0xffffffff, 0xffffffff, 0xffffffff, 0xffffffff},
     {0xffffffff, 0xffffffff},
     {0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd}},
    {{0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344},
     {0xa4093822, 0x299f31d0},
     {0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1}},
};

static void known_answers_hold(void) {
    for (size_t j = 0; j < sizeof known_answers / sizeof known_answers[0]; j++) {
        uint32_t out[4];
        edgefl_philox4x32(known_answers[j].counter, known_answers[j].key, out);
        CHECK(memcmp(out, known_answers[j].out, sizeof out) == 0);
    }
}

static void stream_is_blocks_in_order(void) {
    const uint8_t key[16] = {0x01, 0x12, 0x23, 0x34, 0x45, 0x56, 0x67, 0x78,
                             0x89, 0x9a, 0xab, 0xbc, 0xcd, 0xde, 0xef, 0xf0};
    const uint32_t words[2] = {0x34231201, 0x78675645};
    uint32_t *stream = guarded(9 * sizeof *stream);
    edgefl_random_words(key, 7, stream, 9);
    for (uint32_t j = 0; j < 9; j++) {
        const uint32_t counter[4] = {j / 4, 7, 0xbcab9a89, 0xf0efdecd};
        uint32_t out[4];
        edgefl_philox4x32(counter, words, out);
        CHECK(stream[j] == out[j % 4]);
    }
}

static void permutation_holds_each_index_once(void) {
    const uint8_t key[16] = {1, 2, 3};
    const size_t sizes[] = {0, 1, 2, 3, 10, 1000};
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        const size_t n = sizes[s];
        uint32_t *order = guarded(n * sizeof *order);
        unsigned char *seen = calloc(n + 1, 1);
        edgefl_permutation(key, 0, order, n);
        for (size_t i = 0; i < n; i++) {
            CHECK(order[i] < n && !seen[order[i]]);
            seen[order[i] % n] = 1;
        }
        free(seen);
    }
}

/* The first swap, by hand: j = floor(word * n / 2^32), for the word of the stream. */
static void permutation_takes_the_high_half(void) {
    const uint8_t key[16] = {9};
    uint32_t word, order[5];
    edgefl_random_words(key, 3, &word, 1);
    edgefl_permutation(key, 3, order, 5);
    CHECK(order[4] == (uint32_t)(((uint64_t)word * 5) >> 32));
}

/* Each of the 6 orders of 3 should come 1,000 times in 6,000; 5 standard deviations are 144. */
static void permutations_are_uniform(void) {
    const uint8_t key[16] = {42};
    int counts[27] = {0};
    for (uint32_t epoch = 0; epoch < 6000; epoch++) {
        uint32_t order[3];
        edgefl_permutation(key, epoch, order, 3);
        counts[order[0] * 9 + order[1] * 3 + order[2]]++;
    }
    int orders = 0;
    for (int j = 0; j < 27; j++) {
        CHECK(counts[j] == 0 || abs(counts[j] - 1000) < 144);
        orders += counts[j] > 0;
    }
    CHECK(orders == 6);
}

/* The definition, written apart from the library: a word is drawn again when the low half of word * bound is below
 * 2^32 mod bound. Returns how often that happened. */
static int reference_permutation(const uint8_t key[16], uint32_t epoch, uint32_t *order, uint32_t n) {
    uint32_t *words = calloc(2 * n, sizeof *words);
    int rejected = 0;
    size_t used = 0;
    edgefl_random_words(key, epoch, words, 2 * n);
    for (uint32_t i = 0; i < n; i++) {
        order[i] = i;
    }
    for (uint32_t i = n - 1; i > 0; i--) {
        const uint64_t bound = i + 1;
        while (words[used] * bound % (UINT64_C(1) << 32) < (UINT64_C(1) << 32) % bound) {
            used++;
            rejected++;
        }
        const size_t j = (size_t)(words[used++] * bound >> 32);
        const uint32_t swapped = order[i];
        order[i] = order[j];
        order[j] = swapped;
    }
    free(words);
    return rejected;
}

/* A rejection is rare: about once in 20,000 permutations of 1,000. This epoch was searched for. */
static void a_biased_draw_is_repeated(void) {
    const uint8_t key[16] = {0};
    uint32_t order[1000];
    uint32_t expected[1000];
    CHECK(reference_permutation(key, 5616, expected, 1000) == 1);
    edgefl_permutation(key, 5616, order, 1000);
    CHECK(memcmp(order, expected, sizeof order) == 0);
}

int main(void) {
    known_answers_hold();
    stream_is_blocks_in_order();
    permutation_holds_each_index_once();
    permutation_takes_the_high_half();
    permutations_are_uniform();
    a_biased_draw_is_repeated();
    return failures != 0;
}
