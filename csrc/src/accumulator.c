/* Exact aggregation: sums of integers do not depend on the order of their arrival.
 *
 * Each function that adds goes twice through its input, first to check and then to add: what is refused changes
 * nothing, so that a server can refuse one update and go on. */
#include "numeric.h"

static edgefl_status at_index(edgefl_place *place, size_t index, edgefl_status status) {
    place->row = index;
    place->column = 0;
    return status;
}

/* delta * 2^shift is exact: a float32 times a power of two stays a normal binary64 number. */
static inline double on_grid(float delta, double grid, double factor) {
    return round_even((double)delta * grid * factor);
}

edgefl_status edgefl_accumulate(int64_t *sums, const float *delta, size_t n, uint64_t weight, int grid_shift,
                                double factor, edgefl_place *place) {
    if (weight < 1 || weight > EDGEFL_MAX_WEIGHT || !is_grid_shift(grid_shift) ||
        !(factor >= 0.0 && factor <= DBL_MAX)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    const double grid = power_of_two(grid_shift);
    const double limit = (double)EDGEFL_MAX_GRID_VALUE;
    for (size_t j = 0; j < n; j++) {
        const double q = on_grid(delta[j], grid, factor);
        int64_t sum;
        if (!(q >= -limit && q <= limit)) {
            return at_index(place, j, EDGEFL_OUT_OF_RANGE);
        }
        /* |q * weight| is at most 2^62. */
        if (__builtin_add_overflow(sums[j], (int64_t)q * (int64_t)weight, &sum)) {
            return at_index(place, j, EDGEFL_OVERFLOW);
        }
    }
    for (size_t j = 0; j < n; j++) {
        sums[j] += (int64_t)on_grid(delta[j], grid, factor) * (int64_t)weight;
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
