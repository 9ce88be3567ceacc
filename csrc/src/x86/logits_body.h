/* The product of a step's forward pass, in blocks that stay in registers. A file that includes this has included
 * vec512.h or vec256.h before.
 *
 * logits_ExK       E examples x K classes: E * K * VEC_PARTS vectors of sums go once through the features
 *
 * The order of each single sum is the reference's; blocks only decide which sums are under way together. With 5
 * classes, 4 examples (AVX-512) make 20 multiply-adds of 9 loads; the CPU can do one load for each multiply-add. */
#include "../variant.h"

#define QUADS (VEC_LANES / 4u) /* examples of a full block: one for each 128-bit part of a vector */
#define MAX_BLOCK_CLASSES 5u

/* The classes of a logits block. */
struct logits_place {
    const float *kernel;
    size_t num_features;
    size_t stride;
    const float *bias;
    size_t num_classes;
    uintptr_t ahead; /* fetch a line from here on for each 16 features: an address, which may pass the kernel's end */
};

/* sums[k][e][part] = rows[e] * kernel[k] over the features part * VEC_LANES + lane (mod 16). */
X86_INLINE void sum_products(const struct logits_place *place, const float *const *rows,
                             vec sums[MAX_BLOCK_CLASSES][QUADS][VEC_PARTS], const unsigned num_rows,
                             const unsigned num_classes, const unsigned part) {
    const float *kernel = place->kernel;
    const size_t num_features = place->num_features;
    const size_t stride = place->stride;
    const uintptr_t ahead = place->ahead;
    vec s[MAX_BLOCK_CLASSES][QUADS];
#pragma GCC unroll 5
    for (unsigned k = 0; k < num_classes; k++) {
#pragma GCC unroll 4
        for (unsigned e = 0; e < num_rows; e++) {
            s[k][e] = vec_zero();
        }
    }
    size_t f = part * VEC_LANES;
    for (; f + VEC_LANES <= num_features; f += EDGEFL_LANES) {
        vec x[QUADS];
#pragma GCC unroll 4
        for (unsigned e = 0; e < num_rows; e++) {
            x[e] = vec_load(rows[e] + f);
        }
        if (part == 0) {
            _mm_prefetch((const char *)(ahead + f * sizeof(float)), _MM_HINT_T1);
        }
#pragma GCC unroll 5
        for (unsigned k = 0; k < num_classes; k++) {
            vec w = vec_load(kernel + k * stride + f);
            VEC_PIN(w);
#pragma GCC unroll 4
            for (unsigned e = 0; e < num_rows; e++) {
                s[k][e] = vec_fma(w, x[e], s[k][e]);
            }
        }
    }
    if (f < num_features) { /* the lanes past the end add 0 * 0 to a sum that is never -0 */
#pragma GCC unroll 4
        for (unsigned e = 0; e < num_rows; e++) {
            const vec x = vec_load_first(rows[e] + f, num_features - f);
#pragma GCC unroll 5
            for (unsigned k = 0; k < num_classes; k++) {
                s[k][e] = vec_fma(vec_load(kernel + k * stride + f), x, s[k][e]);
            }
        }
    }
#pragma GCC unroll 5
    for (unsigned k = 0; k < num_classes; k++) {
#pragma GCC unroll 4
        for (unsigned e = 0; e < QUADS; e++) {
            sums[k][e][part] = e < num_rows ? s[k][e] : vec_zero();
        }
    }
}

/* The end of a block: the trees of its sums, then the bias. */
X86_INLINE void store_logits(const struct logits_place *place, vec sums[MAX_BLOCK_CLASSES][QUADS][VEC_PARTS],
                             float *logits, const unsigned e_count, const unsigned k_count) {
    const float *bias = place->bias;
    const size_t num_classes = place->num_classes;
    vec quads[MAX_BLOCK_CLASSES];
#pragma GCC unroll 5
    for (unsigned k = 0; k < MAX_BLOCK_CLASSES; k++) {
        quads[k] = k < k_count ? vec_quads(sums[k]) : vec_zero();
    }
    /* Block e: the sums of example e for classes 0 to 3. */
    vec four = vec_add_neighbours(vec_add_halves(quads[0], quads[1]), vec_add_halves(quads[2], quads[3]));
    const unsigned stored = k_count < 4 ? k_count : 4;
    float four_bias[4] = {0.0f};
#pragma GCC unroll 4
    for (unsigned k = 0; k < stored; k++) {
        four_bias[k] = bias[k];
    }
    four = vec_add(four, vec_all_quads(_mm_loadu_ps(four_bias)));
    const vec fifth = vec_add_neighbours(vec_add_halves(quads[4], quads[4]), vec_add_halves(quads[4], quads[4]));
#pragma GCC unroll 4
    for (unsigned e = 0; e < e_count; e++) {
        float *to = logits + e * num_classes;
        if (stored == 4) {
            _mm_storeu_ps(to, vec_quad(four, e));
        } else {
            float values[4];
            _mm_storeu_ps(values, vec_quad(four, e));
            for (unsigned k = 0; k < stored; k++) {
                to[k] = values[k];
            }
        }
        if (k_count == 5) {
            to[4] = _mm_cvtss_f32(vec_quad(fifth, e)) + bias[4];
        }
    }
}

X86_INLINE void logits_block(const struct logits_place *place, const float *const *rows, float *logits,
                             const unsigned e_count, const unsigned k_count) {
    vec sums[MAX_BLOCK_CLASSES][QUADS][VEC_PARTS];
    const float *local_rows[QUADS];
#pragma GCC unroll 4
    for (unsigned e = 0; e < e_count; e++) {
        local_rows[e] = rows[e];
    }
#pragma GCC unroll 2
    for (unsigned part = 0; part < VEC_PARTS; part++) {
        sum_products(place, local_rows, sums, e_count, k_count, part);
    }
    store_logits(place, sums, logits, e_count, k_count);
}

typedef void logits_function(const struct logits_place *place, const float *const *rows, float *logits);

#define LOGITS(E, K)                                                                                    \
    X86_TARGET static void logits_##E##x##K(const struct logits_place *place, const float *const *rows, \
                                            float *logits) {                                            \
        logits_block(place, rows, logits, E, K);                                                        \
    }
#define LOGITS_OF(E) LOGITS(E, 1) LOGITS(E, 2) LOGITS(E, 3) LOGITS(E, 4) LOGITS(E, 5)
#define LOGITS_ROW(E) {logits_##E##x1, logits_##E##x2, logits_##E##x3, logits_##E##x4, logits_##E##x5}
LOGITS_OF(1)
LOGITS_OF(2)
#if VEC_LANES == 16
LOGITS_OF(3)
LOGITS_OF(4)
static logits_function *const logits_blocks[QUADS][MAX_BLOCK_CLASSES] = {LOGITS_ROW(1), LOGITS_ROW(2), LOGITS_ROW(3),
                                                                         LOGITS_ROW(4)};
#else
static logits_function *const logits_blocks[QUADS][MAX_BLOCK_CLASSES] = {LOGITS_ROW(1), LOGITS_ROW(2)};
#endif

X86_INLINE size_t at_most(size_t value, size_t limit) { return value < limit ? value : limit; }

/* The block of classes from c on. */
X86_INLINE struct logits_place place_of_classes(size_t num_features, const float *kernel, size_t stride,
                                                const float *bias, size_t num_classes, size_t c) {
    struct logits_place place = {.num_features = num_features, .stride = stride, .num_classes = num_classes};
    place.kernel = kernel + c * stride;
    place.bias = bias + c;
    place.ahead = (uintptr_t)place.kernel;
    if (num_classes - c > MAX_BLOCK_CLASSES) {
        place.ahead += MAX_BLOCK_CLASSES * stride * sizeof(float);
    }
    return place;
}

/* How far `ahead` moves with each block of rows, so that all of them fetch the next block of the kernel together. */
X86_INLINE size_t ahead_step(size_t stride, size_t num_rows) {
    return MAX_BLOCK_CLASSES * stride * sizeof(float) / ((num_rows + QUADS - 1) / QUADS);
}

/* x86_logits of the classes from `first` on. Classes outside, so that a block of the kernel is read from memory once
 * for all the rows. */
X86_INLINE void logits_from(size_t first, const float *const *rows, size_t num_rows, size_t num_features,
                            const float *kernel, size_t stride, const float *bias, size_t num_classes, float *logits) {
    const size_t step = ahead_step(stride, num_rows);
    for (size_t c = first; c < num_classes; c += MAX_BLOCK_CLASSES) {
        const size_t k_count = at_most(num_classes - c, MAX_BLOCK_CLASSES);
        struct logits_place place = place_of_classes(num_features, kernel, stride, bias, num_classes, c);
        for (size_t i = 0; i < num_rows; i += QUADS) {
            const size_t e_count = at_most(num_rows - i, QUADS);
            logits_blocks[e_count - 1][k_count - 1](&place, rows + i, logits + i * num_classes + c);
            place.ahead += step;
        }
    }
}

X86_TARGET static void x86_logits(const float *const *rows, size_t num_rows, size_t num_features, const float *kernel,
                                  size_t stride, const float *bias, size_t num_classes, float *logits) {
    logits_from(0, rows, num_rows, num_features, kernel, stride, bias, num_classes, logits);
}
