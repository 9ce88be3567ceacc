/* Exact aggregation: sums of integers do not depend on the order of their arrival.
 *
 * What is refused changes nothing, so that a server can refuse one update and go on. edgefl_accumulate adds block after
 * block, without looking ahead; when a block may not be added it is taken back, with those before it, which integers do
 * exactly: the memory is passed once. */
#include "accumulate.h"
#include "numeric.h"

/* 12 kB of deltas and sums: a block that is taken back is still in the nearest cache. */
#define BLOCK 1024u

static edgefl_status at_index(edgefl_place *place, size_t index, edgefl_status status) {
    place->row = index;
    place->column = 0;
    return status;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* The exact rule, value by value, for a block that accumulate_loop does not vouch for. */
static edgefl_status check_block(const int64_t *sums, const float *delta, size_t n, int64_t weight, double grid,
                                 double factor, size_t first, edgefl_place *place) {
    const double limit = (double)EDGEFL_MAX_GRID_VALUE;
    for (size_t j = 0; j < n; j++) {
        /* delta * 2^shift is exact: a float32 times a power of two stays a normal binary64 number. */
        const double q = round_even((double)delta[j] * grid * factor);
        int64_t sum;
        if (!(q >= -limit && q <= limit)) {
            return at_index(place, first + j, EDGEFL_OUT_OF_RANGE);
        }
        /* |q * weight| is at most 2^62. */
        if (__builtin_add_overflow(sums[j], (int64_t)q * weight, &sum)) {
            return at_index(place, first + j, EDGEFL_OVERFLOW);
        }
    }
    return EDGEFL_OK;
}

edgefl_status edgefl_accumulate(int64_t *sums, const float *delta, size_t n, uint64_t weight, int grid_shift,
                                double factor, edgefl_place *place) {
    if (weight < 1 || weight > EDGEFL_MAX_WEIGHT || !is_grid_shift(grid_shift) ||
        !(factor >= 0.0 && factor <= DBL_MAX)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    const double grid = power_of_two(grid_shift);
    const int64_t signed_weight = (int64_t)weight;
    accumulate_loop *loop = edgefl_accumulate_loop();
    for (size_t first = 0; first < n; first += BLOCK) {
        const size_t count = smaller(n - first, BLOCK);
        int64_t *block = sums + first;
        if (loop(block, delta + first, count, signed_weight, grid, factor)) {
            continue;
        }
        loop(block, delta + first, count, -signed_weight, grid, factor);
        const edgefl_status status =
            check_block(block, delta + first, count, signed_weight, grid, factor, first, place);
        if (status != EDGEFL_OK) {
            for (size_t done = 0; done < first; done += BLOCK) {
                loop(sums + done, delta + done, BLOCK, -signed_weight, grid, factor);
            }
            return status;
        }
        loop(block, delta + first, count, signed_weight, grid, factor);
    }
    return EDGEFL_OK;
}

edgefl_status edgefl_add_sums(int64_t *sums, const int64_t *other, size_t n, edgefl_place *place) {
    for (size_t j = 0; j < n; j++) {
        int64_t sum;
        if (__builtin_add_overflow(sums[j], other[j], &sum)) {
            return at_index(place, j, EDGEFL_OVERFLOW);
        }
    }
    for (size_t j = 0; j < n; j++) {
        sums[j] += other[j];
    }
    return EDGEFL_OK;
}

edgefl_status edgefl_finalize_mean(const int64_t *sums, size_t n, uint64_t total_weight, int grid_shift, double *mean) {
    if (total_weight < 1 || total_weight > (uint64_t)INT64_MAX || !is_grid_shift(grid_shift)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    const double divisor = (double)total_weight;
    const double step = power_of_two(-grid_shift);
    for (size_t j = 0; j < n; j++) {
        mean[j] = (double)sums[j] / divisor * step;
    }
    return EDGEFL_OK;
}
