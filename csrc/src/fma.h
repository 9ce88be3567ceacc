/* fma32: a * b + c in binary32 with one rounding, by hardware or in binary64.
 *
 * A file that includes this defines EDGEFL_FMA_HARDWARE to 1 or 0 first. With 1, each function of that file must carry
 * EDGEFL_FMA_TARGET, which lets the compiler use the instruction without a flag for the whole build; the dispatcher
 * calls such a file's functions only on a CPU that has it. libm's fmaf is never called: without the instruction it is
 * many times slower than the software below. */
#ifndef EDGEFL_FMA_H
#define EDGEFL_FMA_H

#include <stdint.h>
#include <string.h>

#include "fma_target.h"

/* Exact for all finite inputs, infinities and NaNs included (a NaN's bits are not promised).
 *
 * The product of two binary32 numbers is exact in binary64 (48 bits; exponents far inside). TwoSum gives the sum s and
 * its error e exactly. If e is not 0, s is moved to the odd one of the two binary64 numbers that enclose the exact sum:
 * then rounding s to binary32 is the same as rounding the exact sum, because binary64 has more than two extra bits.
 * (Boldo and Melquiond, "Emulation of FMA and correctly rounded sums: proved algorithms using rounding to odd", 2008;
 * TwoSum: Knuth, TAOCP 2, 4.2.2.) Written without branches. */
static inline float edgefl_software_fma(float a, float b, float c) {
    const double product = (double)a * (double)b;
    const double addend = (double)c;
    const double sum = product + addend;
    const double addend_part = sum - product;
    const double error = (product - (sum - addend_part)) + (addend - addend_part);
    uint64_t sum_bits;
    uint64_t error_bits;
    double odd;
    memcpy(&sum_bits, &sum, sizeof sum_bits);
    memcpy(&error_bits, &error, sizeof error_bits);
    /* Not error != 0: an infinite sum has a NaN for its error, and must stay as it is. */
    const uint64_t inexact = (uint64_t)((error > 0.0) | (error < 0.0));
    const uint64_t step = inexact & ~sum_bits & 1u;
    const uint64_t away = ((sum_bits ^ error_bits) >> 63) ^ 1u;
    /* Magnitude + 1 when the error points away from zero, - 1 when it points to it. */
    sum_bits += step * (2u * away) - step;
    memcpy(&odd, &sum_bits, sizeof odd);
    return (float)odd;
}

#if EDGEFL_FMA_HARDWARE
#ifndef EDGEFL_FMA_TARGET /* a variant's file asks for more */
#define EDGEFL_FMA_TARGET EDGEFL_HARDWARE_TARGET
#endif
EDGEFL_FMA_TARGET static inline float fma32(float a, float b, float c) { return __builtin_fmaf(a, b, c); }
#else
#define EDGEFL_FMA_TARGET
static inline float fma32(float a, float b, float c) { return edgefl_software_fma(a, b, c); }
#endif

#endif
