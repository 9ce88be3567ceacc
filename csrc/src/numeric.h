/* Bit-level helpers that every file shares. They use no fused operation, so they may be inlined into any variant. */
#ifndef EDGEFL_NUMERIC_H
#define EDGEFL_NUMERIC_H

#include <float.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include "edgefl.h"

#if defined(__FAST_MATH__)
#error "libedgefl needs IEEE arithmetic: compile without -ffast-math"
#endif
#if FLT_EVAL_METHOD != 0
#error "libedgefl needs float and double to be evaluated in their own precision (on 32-bit x86: -msse2 -mfpmath=sse)"
#endif

#define EDGEFL_LANES 16u

static inline uint32_t float_bits(float v) {
    uint32_t bits;
    memcpy(&bits, &v, sizeof bits);
    return bits;
}

static inline float float_from_bits(uint32_t bits) {
    float v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline bool is_finite(float v) { return (float_bits(v) & 0x7fffffffu) < 0x7f800000u; }

/* 0, -0, or finite and at least 2^-30 (whose bits are 0x30800000). By integers, so that a loop vectorizes anywhere. */
static inline uint32_t is_bad_multiplier(float v) {
    const uint32_t magnitude = float_bits(v) & 0x7fffffffu;
    return (uint32_t)(magnitude != 0u) & (uint32_t)(magnitude - 0x30800000u >= 0x7f800000u - 0x30800000u);
}

/* A stored value: below 2^-50 it is +0. A NaN stays. */
static inline float flush(float v) { return __builtin_fabsf(v) < EDGEFL_STORED_MIN_MAGNITUDE ? 0.0f : v; }

/* Round to nearest even: adding 2^52 to a smaller magnitude leaves no bit for a fraction. */
static inline double round_even(double v) {
    const double magnitude = __builtin_fabs(v);
    if (!(magnitude < 0x1p52)) {
        return v;
    }
    return __builtin_copysign((magnitude + 0x1p52) - 0x1p52, v);
}

/* The unit of 1.5 * 2^52 is 1: adding it to a binary64 number below 2^51 in magnitude rounds to even, and leaves the
 * integer in the low bits, in two's complement, above the bits of 1.5 * 2^52 itself. */
#define EDGEFL_ROUNDING_SHIFT 0x1.8p52
#define EDGEFL_ROUNDING_SHIFT_BITS UINT64_C(0x4338000000000000)

/* What an accumulate loop answers. values: every q + 2^30, or-ed: in [0, 2^31) for a q on the grid, but for the
 * largest, and for no other bits that adding EDGEFL_ROUNDING_SHIFT can give, a NaN's included. moved_sums: every sum as
 * it was,
 * + 2^62, or-ed: no top bit for a sum in [-2^62, 2^62), which a term of at most 2^62 in magnitude keeps in int64. */
static inline bool all_fit(uint64_t values, uint64_t moved_sums) {
    return (values >> 31) == 0 && (moved_sums >> 63) == 0;
}

/* 2^shift for a shift within the grid's limits. */
static inline double power_of_two(int shift) {
    const uint64_t bits = (uint64_t)(shift + 1023) << 52;
    double v;
    memcpy(&v, &bits, sizeof v);
    return v;
}

static inline bool is_grid_shift(int shift) { return shift >= EDGEFL_MIN_GRID_SHIFT && shift <= EDGEFL_MAX_GRID_SHIFT; }

/* lanes[(first + j) mod 16] += values[j]^2 in binary64, in rising order of j. */
void edgefl_add_squares(double lanes[EDGEFL_LANES], size_t first, const float *values, size_t n);

/* The one reduction tree: l and l+8, then l+4, l+2, l+1. lanes is overwritten. */
double edgefl_tree_double(double lanes[EDGEFL_LANES]);

#endif
