/* The loop of accumulate.h, vectorized by the compiler for ACCUMULATE_TARGET, which the including file defines. It is
 * written with additions, multiplications and bits alone, which every vector unit has for 64-bit lanes: neither a
 * conversion of binary64 to int64 nor a rounding instruction. */
#include <string.h>

#include "accumulate.h"
#include "numeric.h"

ACCUMULATE_TARGET static bool accumulate(int64_t *sums, const float *delta, size_t n, int64_t weight, double grid,
                                         double factor) {
    /* A tie rounds to even: up to 2^30 + 1/2 the rounded value is at most 2^30. */
    const double limit = (double)EDGEFL_MAX_GRID_VALUE + 0.5;
    const uint64_t quarter = UINT64_C(1) << 62;
    /* The unit of 1.5 * 2^52 is 1: adding it rounds to even and leaves the integer in the low bits, in two's
     * complement, above the bits of 1.5 * 2^52 itself. */
    const double magic = 0x1.8p52;
    uint64_t bad = 0;
    for (size_t j = 0; j < n; j++) {
        const double exact = (double)delta[j] * grid * factor;
        const double shifted = exact + magic;
        const uint64_t sum = (uint64_t)sums[j];
        uint64_t bits;
        memcpy(&bits, &shifted, sizeof bits);
        const uint64_t q = bits - UINT64_C(0x4338000000000000);
        /* A sum in [-2^62, 2^62) and a term of at most 2^62 in magnitude stay in range: moved up by 2^62, such a sum
         * has no top bit. */
        bad |= (sum + quarter) >> 63;
        bad |= (uint64_t)!(__builtin_fabs(exact) <= limit);
        sums[j] = (int64_t)(sum + q * (uint64_t)weight);
    }
    return bad == 0;
}
