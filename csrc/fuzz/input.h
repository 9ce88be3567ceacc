/* What the fuzz targets share: reading structure out of the fuzzer's bytes, and heap buffers of the exact size, whose
 * every over-read AddressSanitizer sees.
 *
 * Bulk values come from a generator that the bytes seed, and single ones are then overwritten by raw bytes: a short
 * input fills a large buffer, and the fuzzer still reaches any bit pattern in any place. An input that is used up goes
 * on with the generator. */
#ifndef EDGEFL_FUZZ_INPUT_H
#define EDGEFL_FUZZ_INPUT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgefl.h"
#include "variant.h"

/* The interface of libFuzzer, AFL++ and smoke.c. Always returns 0; aborts on a finding. */
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(condition)                                                  \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            abort();                                                        \
        }                                                                   \
    } while (0)

/* More than any target takes for one input. */
#define MAX_BLOCKS 512u

struct input {
    const uint8_t *data;
    size_t left;
    uint64_t state;
    void *blocks[MAX_BLOCKS]; /* freed by input_close */
    size_t num_blocks;
};

static inline void input_open(struct input *in, const uint8_t *data, size_t size) {
    *in = (struct input){.data = data, .left = size};
}

static inline void input_close(struct input *in) {
    while (in->num_blocks > 0) {
        free(in->blocks[--in->num_blocks]);
    }
}

/* Weyl sequence with a mixer. */
static inline uint32_t mixed(uint64_t *state) {
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(x >> 32);
}

static inline uint8_t take_byte(struct input *in) {
    if (in->left == 0) {
        return (uint8_t)mixed(&in->state);
    }
    in->left--;
    return *in->data++;
}

static inline uint32_t take_word(struct input *in) {
    uint32_t word = 0;
    for (int j = 0; j < 4; j++) {
        word = word << 8 | take_byte(in);
    }
    return word;
}

static inline uint64_t take_long(struct input *in) { return (uint64_t)take_word(in) << 32 | take_word(in); }

/* 0 .. n - 1; by one byte when that is enough. */
static inline size_t take_below(struct input *in, size_t n) { return (n <= 256 ? take_byte(in) : take_word(in)) % n; }

/* True about once in n. */
static inline bool take_rarely(struct input *in, size_t n) { return take_below(in, n) == n - 1; }

static inline float take_float(struct input *in) {
    const uint32_t bits = take_word(in);
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline double take_double(struct input *in) {
    const uint64_t bits = take_long(in);
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* size bytes that begin `shift` bytes into a block and end with it. */
static inline void *block(struct input *in, size_t size, size_t shift) {
    REQUIRE(in->num_blocks < MAX_BLOCKS);
    unsigned char *base = malloc(size + shift);
    REQUIRE(base != NULL || size + shift == 0);
    in->blocks[in->num_blocks++] = base;
    if (size + shift > 0) {
        memset(base, 0xa5, size + shift);
    }
    return shift > 0 ? base + shift : base;
}

/* Room for count elements, aligned to an element only. */
static inline void *room(struct input *in, size_t count, size_t element) {
    return block(in, count * element, take_below(in, 16) * element);
}

/* Scratch: any alignment. */
static inline void *scratch_room(struct input *in, size_t size) { return block(in, size, take_below(in, 64)); }

/* n floats: 0, +-smallest, or in [-1, 1) with a full significand; up to three of them replaced by any bits. */
static inline float *take_floats(struct input *in, size_t n, float smallest) {
    float *values = room(in, n, sizeof(float));
    uint64_t state = take_word(in);
    for (size_t j = 0; j < n; j++) {
        const uint32_t word = mixed(&state);
        const float unit = (float)((int32_t)word >> 8) * 0x1p-23f;
        values[j] = word % 16 == 0 ? 0.0f : word % 16 == 1 ? -0.0f : word % 16 == 2 ? smallest : unit;
    }
    for (size_t left = take_below(in, 16) == 0 ? take_below(in, 4) : 0; n > 0 && left > 0; left--) {
        values[take_below(in, n)] = take_float(in);
    }
    return values;
}

/* n int64, most of them far from the ends of the type. */
static inline int64_t *take_integers(struct input *in, size_t n) {
    int64_t *values = room(in, n, sizeof(int64_t));
    uint64_t state = take_word(in);
    for (size_t j = 0; j < n; j++) {
        values[j] = (int64_t)(int32_t)mixed(&state) * (int32_t)mixed(&state);
    }
    for (size_t left = take_below(in, 4); n > 0 && left > 0; left--) {
        values[take_below(in, n)] = (int64_t)take_long(in);
    }
    return values;
}

/* A copy in a block of its own. */
static inline void *copied(struct input *in, const void *from, size_t size) {
    void *to = block(in, size, 0);
    if (size > 0) {
        memcpy(to, from, size);
    }
    return to;
}

static inline bool same_bytes(const void *a, const void *b, size_t size) {
    return size == 0 || memcmp(a, b, size) == 0;
}

static inline bool is_untouched(const void *values, size_t size) {
    const unsigned char *bytes = values;
    for (size_t j = 0; j < size; j++) {
        if (bytes[j] != 0xa5) {
            return false;
        }
    }
    return true;
}

/* A place that no call of a target can name: what is not written stays so. */
static const edgefl_place nowhere = {SIZE_MAX, SIZE_MAX};

static inline bool same_place(const edgefl_place *a, const edgefl_place *b) {
    return a->row == b->row && a->column == b->column;
}

/* A loop over the variants on the one list that run here. */
#define EACH_VARIANT(variant)                                                                           \
    for (size_t variant##_index = 0; variant##_index < edgefl_variant_count(); variant##_index++)       \
        for (const edgefl_variant *variant = edgefl_variant_find(edgefl_variant_name(variant##_index)); \
             variant != NULL; variant = NULL)

#endif
