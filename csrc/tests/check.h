/* What the C tests share: checks that name their line, buffers that end at a guard page, and a small generator. */
#ifndef EDGEFL_TESTS_CHECK_H
#define EDGEFL_TESTS_CHECK_H

#ifndef _DEFAULT_SOURCE
#error "define _DEFAULT_SOURCE before the first include: mmap"
#endif

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static int failures = 0;

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
            failures++;                                                     \
        }                                                                   \
    } while (0)

static inline uint32_t bits_of(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static inline float of_bits(uint32_t bits) {
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

/* Equal bits: +0 and -0 differ, a NaN equals itself. */
static inline bool same(float a, float b) { return bits_of(a) == bits_of(b); }

/* size bytes that end where an unreadable page begins: reading or writing one byte past the end is a fault. They are
 * not freed before the process ends; each test makes few. */
static inline void *guarded(size_t size) {
    const size_t page = (size_t)sysconf(_SC_PAGESIZE);
    const size_t pages = (size + page - 1) / page + 1;
    unsigned char *base = mmap(NULL, (pages + 1) * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (base == MAP_FAILED || mprotect(base + pages * page, page, PROT_NONE) != 0) {
        perror("guarded");
        exit(2);
    }
    memset(base, 0xa5, pages * page);
    return base + pages * page - size;
}

/* A guarded copy. */
static inline void *guarded_copy(const void *from, size_t size) {
    void *to = guarded(size);
    memcpy(to, from, size);
    return to;
}

/* Weyl sequence with a mixer: fixed inputs, not randomness under test. */
static inline uint32_t draw(uint64_t *state) {
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);
    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return (uint32_t)(x >> 32);
}

/* In [-1, 1), a multiple of 2^-23: never in (0, 2^-30). */
static inline float draw_unit(uint64_t *state) { return (float)((int32_t)draw(state) >> 8) * 0x1p-23f; }

/* A feature or weight at an edge now and then: 0, -0, and the smallest magnitude that may be stored. */
static inline float draw_value(uint64_t *state, float smallest) {
    switch (draw(state) % 16) {
        case 0:
            return 0.0f;
        case 1:
            return -0.0f;
        case 2:
            return smallest;
        case 3:
            return -smallest * (1.0f + 0x1p-23f);
        default:
            return draw_unit(state);
    }
}

#endif
