/* Philox4x32-10: J. K. Salmon, M. A. Moraes, R. O. Dror, D. E. Shaw, "Parallel random numbers: as easy as 1, 2, 3",
 * SC 2011. Bounded integers: D. Lemire, "Fast random integer generation in an interval", ACM TOMACS 29(1), 2019. */
#include "edgefl.h"

#define NUM_ROUNDS 10

void edgefl_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]) {
    uint32_t c0 = counter[0];
    uint32_t c1 = counter[1];
    uint32_t c2 = counter[2];
    uint32_t c3 = counter[3];
    uint32_t k0 = key[0];
    uint32_t k1 = key[1];
    for (int round = 0; round < NUM_ROUNDS; round++) {
        const uint64_t product0 = UINT64_C(0xD2511F53) * c0;
        const uint64_t product1 = UINT64_C(0xCD9E8D57) * c2;
        c0 = (uint32_t)(product1 >> 32) ^ c1 ^ k0;
        c1 = (uint32_t)product1;
        c2 = (uint32_t)(product0 >> 32) ^ c3 ^ k1;
        c3 = (uint32_t)product0;
        k0 += 0x9E3779B9u;
        k1 += 0xBB67AE85u;
    }
    out[0] = c0;
    out[1] = c1;
    out[2] = c2;
    out[3] = c3;
}

struct stream {
    uint32_t key[2];
    uint32_t counter[4]; /* block index, epoch, the key's last 8 bytes */
    uint32_t words[4];
    unsigned used;
};

static uint32_t load_little_endian(const uint8_t *bytes) {
    return (uint32_t)bytes[0] | (uint32_t)bytes[1] << 8 | (uint32_t)bytes[2] << 16 | (uint32_t)bytes[3] << 24;
}

static struct stream stream_open(const uint8_t key[16], uint32_t epoch) {
    const struct stream stream = {
        .key = {load_little_endian(key), load_little_endian(key + 4)},
        .counter = {0, epoch, load_little_endian(key + 8), load_little_endian(key + 12)},
        .used = 4,
    };
    return stream;
}

static uint32_t next_word(struct stream *stream) {
    if (stream->used == 4) {
        edgefl_philox4x32(stream->counter, stream->key, stream->words);
        stream->counter[0] += 1;
        stream->used = 0;
    }
    return stream->words[stream->used++];
}

/* Uniform in [0, bound), bound > 0, without bias: a draw in the short last interval is repeated. */
static uint32_t next_below(struct stream *stream, uint32_t bound) {
    uint64_t product = (uint64_t)next_word(stream) * bound;
    if ((uint32_t)product < bound) {
        const uint32_t threshold = (0u - bound) % bound;
        while ((uint32_t)product < threshold) {
            product = (uint64_t)next_word(stream) * bound;
        }
    }
    return (uint32_t)(product >> 32);
}

void edgefl_random_words(const uint8_t key[16], uint32_t epoch, uint32_t *words, size_t count) {
    struct stream stream = stream_open(key, epoch);
    for (size_t j = 0; j < count; j++) {
        words[j] = next_word(&stream);
    }
}

void edgefl_permutation(const uint8_t key[16], uint32_t epoch, uint32_t *order, size_t n) {
    struct stream stream = stream_open(key, epoch);
    for (size_t i = 0; i < n; i++) {
        order[i] = (uint32_t)i;
    }
    for (size_t i = n; i > 1; i--) {
        const uint32_t j = next_below(&stream, (uint32_t)i);
        const uint32_t last = order[i - 1];
        order[i - 1] = order[j];
        order[j] = last;
    }
}
