/* The loop of exact aggregation. The compiler makes one of elementwise_body.h's, but multiplies 64 bits by 64: three
 * multiplications for AVX2, a slow one for AVX-512. Included after vec512.h or vec256.h and elementwise_body.h. */
#include "../variant.h"

/* Two vectors at a time: AVX-512 takes both their checks in by one instruction of three operands. */
#define LONGS_STEP (2 * LONGS_LANES)

/* One vector: adds what it finds to values and moved_sums, which are those of all_fit. */
X86_INLINE void accumulate_vector(int64_t *sums, const float *delta, longs weight, double scale, longs *values,
                                  longs *moved_sums) {
    const longs sum = longs_load(sums);
    const longs bits = longs_scale_and_shift(delta, scale);
    const uint64_t limit_moved = (uint64_t)EDGEFL_MAX_GRID_VALUE - EDGEFL_ROUNDING_SHIFT_BITS;
    *values = longs_or(*values, longs_add(bits, longs_all(limit_moved)));
    *moved_sums = longs_or(*moved_sums, longs_add(sum, longs_all(UINT64_C(1) << 62)));
    /* The low half of the bits is q's, and a q on the grid has no more. */
    longs_store(sums, longs_add(sum, longs_mul_low(bits, weight)));
}

X86_TARGET static bool x86_accumulate(int64_t *sums, const float *delta, size_t n, int64_t weight, double scale) {
    longs values = longs_all(0);
    longs moved_sums = longs_all(0);
    size_t j = 0;
    /* Larger weights are legal, but nobody has so many examples. */
    if (weight >= -INT32_MAX && weight <= INT32_MAX) {
        const longs weights = longs_all((uint64_t)weight);
        for (; j + LONGS_STEP <= n; j += LONGS_STEP) {
            accumulate_vector(sums + j, delta + j, weights, scale, &values, &moved_sums);
            accumulate_vector(sums + j + LONGS_LANES, delta + j + LONGS_LANES, weights, scale, &values, &moved_sums);
        }
    }
    const bool rest = scalar_accumulate(sums + j, delta + j, n - j, weight, scale);
    return all_fit(longs_or_all(values), longs_or_all(moved_sums)) && rest;
}
