/* The loop of edgefl_accumulate, for this build's own instructions or for what the CPU has besides. */
#ifndef EDGEFL_ACCUMULATE_H
#define EDGEFL_ACCUMULATE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* sums[j] += q * weight in the integers modulo 2^64, where q = round-to-even(delta[j] * grid * factor), grid a power of
 * two. False: a value may be off the grid or a sum may have left int64; the same call with -weight takes all of it
 * back, whatever the values were. */
typedef bool accumulate_loop(int64_t *sums, const float *delta, size_t n, int64_t weight, double grid, double factor);

/* The best one for this CPU. */
accumulate_loop *edgefl_accumulate_loop(void);

#if defined(__x86_64__)
/* NULL when the CPU lacks it. */
accumulate_loop *edgefl_accumulate_avx2(void);
accumulate_loop *edgefl_accumulate_avx512(void);
#endif

#endif
