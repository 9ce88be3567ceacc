/* The loops that treat each value by itself. Any vector gives the bits of one lane, so the compiler makes the vectors;
 * each file that includes this, the reference as well as a variant with wider vectors, chooses the instructions by
 * EDGEFL_FMA_TARGET. EDGEFL_ELEMENTWISE puts them into a variant's table. */
#include "fma.h"
#include "numeric.h"
#include "variant.h"

EDGEFL_FMA_TARGET static size_t scalar_first_bad_feature(const float *values, size_t n) {
    /* Blocks without an exit inside, so that the common case, no bad value, runs in vectors. */
    const size_t block = 256;
    for (size_t start = 0; start < n; start += block) {
        const size_t end = n - start < block ? n : start + block;
        uint32_t bad = 0;
        for (size_t j = start; j < end; j++) {
            bad |= is_bad_multiplier(values[j]);
        }
        for (size_t j = start; bad && j < end; j++) {
            if (is_bad_multiplier(values[j])) {
                return j;
            }
        }
    }
    return n;
}

EDGEFL_FMA_TARGET static void scalar_output_gradient(float *values, size_t num_rows, size_t num_classes,
                                                     const int32_t *labels, float factor, const float *weights) {
    for (size_t i = 0; i < num_rows; i++) {
        values[i * num_classes + (size_t)labels[i]] -= 1.0f;
    }
    for (size_t j = 0; j < num_rows * num_classes; j++) {
        values[j] = flush(values[j] * factor);
    }
    for (size_t i = 0; weights && i < num_rows; i++) {
        float *g = values + i * num_classes;
        for (size_t c = 0; c < num_classes; c++) {
            g[c] = flush(g[c] * weights[i]);
        }
    }
}

EDGEFL_FMA_TARGET static void scalar_flush(float *values, size_t n) {
    for (size_t j = 0; j < n; j++) {
        values[j] = flush(values[j]);
    }
}

EDGEFL_FMA_TARGET static void scalar_add_scaled(float *sums, float factor, const float *values, size_t n) {
    for (size_t j = 0; j < n; j++) {
        sums[j] = fma32(factor, values[j], sums[j]);
    }
}

EDGEFL_FMA_TARGET static void scalar_add_stored(float *sums, const float *values, size_t n) {
    for (size_t j = 0; j < n; j++) {
        sums[j] += flush(values[j]);
    }
}

EDGEFL_FMA_TARGET static void scalar_add_scaled_difference(float *sums, float factor, const float *values,
                                                           const float *origin, size_t n) {
    for (size_t j = 0; j < n; j++) {
        sums[j] = fma32(factor, values[j] - flush(origin[j]), sums[j]);
    }
}

EDGEFL_FMA_TARGET static void scalar_add_momentum(float *velocity, float momentum, const float *gradient, size_t n) {
    for (size_t j = 0; j < n; j++) {
        velocity[j] = flush(fma32(momentum, velocity[j], gradient[j]));
    }
}

EDGEFL_FMA_TARGET static void scalar_descend(float *weights, float rate, const float *direction, size_t n) {
    for (size_t j = 0; j < n; j++) {
        weights[j] = flush(fma32(-rate, direction[j], weights[j]));
    }
}

EDGEFL_FMA_TARGET static void scalar_load_uint8(float *values, const uint8_t *stored, size_t n, float scale,
                                                int32_t zero_point) {
    for (size_t j = 0; j < n; j++) {
        values[j] = scale * (float)((int32_t)stored[j] - zero_point);
    }
}

EDGEFL_FMA_TARGET static void scalar_load_int8(float *values, const int8_t *stored, size_t n, float scale,
                                               int32_t zero_point) {
    for (size_t j = 0; j < n; j++) {
        values[j] = scale * (float)((int32_t)stored[j] - zero_point);
    }
}

/* Written with additions, multiplications and bits alone, which every vector unit has for 64-bit lanes: neither a
 * conversion of binary64 to int64 nor a rounding instruction. */
EDGEFL_FMA_TARGET static bool scalar_accumulate(int64_t *sums, const float *delta, size_t n, int64_t weight,
                                                double scale) {
    const uint64_t limit = (uint64_t)EDGEFL_MAX_GRID_VALUE;
    const uint64_t quarter = UINT64_C(1) << 62;
    uint64_t values = 0;
    uint64_t moved_sums = 0;
    for (size_t j = 0; j < n; j++) {
        const double shifted = (double)delta[j] * scale + EDGEFL_ROUNDING_SHIFT;
        const uint64_t sum = (uint64_t)sums[j];
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        const uint64_t q = bits - EDGEFL_ROUNDING_SHIFT_BITS;
        values |= q + limit;
        moved_sums |= sum + quarter;
        sums[j] = (int64_t)(sum + q * (uint64_t)weight);
    }
    return all_fit(values, moved_sums);
}

#define EDGEFL_ELEMENTWISE                                                                             \
    .output_gradient = scalar_output_gradient, .flush = scalar_flush, .add_scaled = scalar_add_scaled, \
    .add_stored = scalar_add_stored, .add_scaled_difference = scalar_add_scaled_difference,            \
    .add_momentum = scalar_add_momentum, .descend = scalar_descend
