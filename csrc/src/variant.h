/* What a variant is, and the one list of variants, which the dispatcher and the tests read.
 *
 * To add a variant: write `const edgefl_variant *edgefl_variant_NAME(void)`, which returns NULL when the CPU lacks what
 * it needs, and add X(NAME) below, for the architectures that can compile it, after the ones that it beats. Every
 * variant must give the bits of `scalar`; the tests compare each one on the list with it. */
#ifndef EDGEFL_VARIANT_H
#define EDGEFL_VARIANT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "edgefl.h"

/* Slowest first. */
#if defined(__x86_64__) && !defined(EDGEFL_SOFTWARE_FMA)
#define EDGEFL_VARIANTS(X) X(scalar) X(avx2) X(avx512)
#elif defined(__aarch64__)
#define EDGEFL_VARIANTS(X) X(scalar) X(neon64)
#elif defined(__arm__)
#define EDGEFL_VARIANTS(X) X(scalar) X(neon32)
#else
#define EDGEFL_VARIANTS(X) X(scalar)
#endif

/* Rows that pass through the loops together; bounds what is converted at a time, and small enough for the stack. */
#define EDGEFL_TILE_ROWS 64u

/* Conventions: `rows` points to num_rows (at most EDGEFL_TILE_ROWS) rows of F loaded features, with any alignment of a
 * float, not padded. A matrix `(C, stride)` starts at a multiple of 64 bytes, stride is F rounded up to a multiple of
 * 16, and its padding is +0 and must stay so. */
#define EDGEFL_CACHE_LINE 64u

/* Rows that the next batch will read, as they are stored, to be fetched into the cache meanwhile. */
typedef struct edgefl_upcoming {
    const void *rows[EDGEFL_TILE_ROWS];
    size_t num_rows;
    size_t row_bytes;
} edgefl_upcoming;

/* Rows of 8-bit features as they are stored: num_rows pointers to F values, int8 ones when is_signed. */
typedef struct edgefl_stored_rows {
    const uint8_t *const *rows;
    bool is_signed;
    float scale;
    int32_t zero_point;
} edgefl_stored_rows;

struct edgefl_variant {
    const char *name;

    /* The index of the first feature that is not finite, or not 0 and below 2^-30; n when there is none. */
    size_t (*first_bad_feature)(const float *values, size_t n);

    /* logits (num_rows, C) out = bias + the 16-lane sum of products of each row with each row of kernel. */
    void (*logits)(const float *const *rows, size_t num_rows, size_t num_features, const float *kernel, size_t stride,
                   const float *bias, size_t num_classes, float *logits);

    /* values (num_rows, C): in logits, out probabilities. labels: in, or NULL; loss: out, when labels are given;
     * predicted: out. Returns the first row with a non-finite logit, num_rows when there is none. */
    size_t (*softmax)(float *values, size_t num_rows, size_t num_classes, const int32_t *labels, float *loss,
                      uint32_t *predicted);

    /* values (num_rows, C): in probabilities, out flush((p - onehot) * factor), and flush(that * weight). */
    void (*output_gradient)(float *values, size_t num_rows, size_t num_classes, const int32_t *labels, float factor,
                            const float *weights);

    /* sums (C, stride) = fma(coefficients[i, c], rows[i][f], sums[c, f]) for i in rising order. */
    void (*add_outer)(const float *const *rows, size_t num_rows, size_t num_features, const float *coefficients,
                      size_t num_classes, float *sums, size_t stride);

    /* values[j] = flush(values[j]). */
    void (*flush)(float *values, size_t n);

    /* sums[j] = fma(factor, values[j], sums[j]). */
    void (*add_scaled)(float *sums, float factor, const float *values, size_t n);

    /* sums[j] = sums[j] + flush(values[j]). */
    void (*add_stored)(float *sums, const float *values, size_t n);

    /* sums[j] = fma(factor, values[j] - flush(origin[j]), sums[j]). */
    void (*add_scaled_difference)(float *sums, float factor, const float *values, const float *origin, size_t n);

    /* velocity[j] = flush(fma(momentum, velocity[j], gradient[j])). */
    void (*add_momentum)(float *velocity, float momentum, const float *gradient, size_t n);

    /* weights[j] = flush(fma(-rate, direction[j], weights[j])). */
    void (*descend)(float *weights, float rate, const float *direction, size_t n);

    /* sums[j] += q * weight in the integers modulo 2^64, where q = round-to-even(delta[j] * scale). False: a value may
     * be off the grid or a sum may have left int64; the same call with -weight takes all of it back, whatever the
     * values were. weight: at most 2^32 in magnitude; scale: finite. */
    bool (*accumulate)(int64_t *sums, const float *delta, size_t n, int64_t weight, double scale);

    /* The rest is optional: NULL when the variant gains nothing by it. */

    /* add_outer, then flush of all the sums, in one pass over them; next: NULL, or what to fetch meanwhile. */
    void (*add_outer_and_flush)(const float *const *rows, size_t num_rows, size_t num_features,
                                const float *coefficients, size_t num_classes, float *sums, size_t stride,
                                const edgefl_upcoming *next);

    /* values[j] = scale * (stored[j] - zero_point). */
    void (*load_uint8)(float *values, const uint8_t *stored, size_t n, float scale, int32_t zero_point);
    void (*load_int8)(float *values, const int8_t *stored, size_t n, float scale, int32_t zero_point);

    /* load_uint8 or load_int8 of each row into loaded (num_rows, F), out, and logits of loaded, in one pass. */
    void (*load_and_logits)(const edgefl_stored_rows *stored, size_t num_rows, size_t num_features, float *loaded,
                            const float *kernel, size_t stride, const float *bias, size_t num_classes, float *logits);
};

#define EDGEFL_DECLARE_VARIANT(name) const edgefl_variant *edgefl_variant_##name(void);
EDGEFL_VARIANTS(EDGEFL_DECLARE_VARIANT)
#undef EDGEFL_DECLARE_VARIANT

/* The two bodies of `scalar`: NULL for the hardware one when this build or this CPU has no FMA instruction. */
const edgefl_variant *edgefl_scalar_hardware(void);
const edgefl_variant *edgefl_scalar_software(void);

#endif
