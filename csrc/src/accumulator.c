/* Exact aggregation: sums of integers do not depend on the order of their arrival.
 *
 * What is refused changes nothing, so that a server can refuse one update and go on. edgefl_accumulate adds block after
 * block, without looking ahead; when a block may not be added it is taken back, with those before it, which integers do
 * exactly: the memory is passed once. */
#include "numeric.h"
#include "variant.h"

/* 12 kB of deltas and sums: a block that is taken back is still in the nearest cache. */
#define BLOCK 1024u

static edgefl_status at_index(edgefl_place *place, size_t index, edgefl_status status) {
    place->row = index;
    place->column = 0;
    return status;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

/* The exact rule, value by value, for a block that the variant's loop does not vouch for. */
static edgefl_status check_block(const int64_t *sums, const float *delta, size_t n, int64_t weight, double scale,
                                 size_t first, edgefl_place *place) {
    const double limit = (double)EDGEFL_MAX_GRID_VALUE;
    for (size_t j = 0; j < n; j++) {
        const double q = round_even((double)delta[j] * scale);
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

/* 2^shift * factor in one number, so that delta * scale has the one rounding of (delta * 2^shift) * factor, in which
 * the first product is exact. That holds where the scale itself is exact. Where it is not, being subnormal, both round
 * to 0 on the grid; where it is too large, every delta but 0 is off the grid by far, as it is for the largest number.
 */
static double scale_of(int grid_shift, double factor) {
    const double scale = power_of_two(grid_shift) * factor;
    return scale <= DBL_MAX ? scale : DBL_MAX;
}

edgefl_status edgefl_accumulate(const edgefl_variant *variant, int64_t *sums, const float *delta, size_t n,
                                uint64_t weight, int grid_shift, double factor, edgefl_place *place) {
    if (weight < 1 || weight > EDGEFL_MAX_WEIGHT || !is_grid_shift(grid_shift) ||
        !(factor >= 0.0 && factor <= DBL_MAX)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    const double scale = scale_of(grid_shift, factor);
    const int64_t signed_weight = (int64_t)weight;
    for (size_t first = 0; first < n; first += BLOCK) {
        const size_t count = smaller(n - first, BLOCK);
        int64_t *block = sums + first;
        if (variant->accumulate(block, delta + first, count, signed_weight, scale)) {
            continue;
        }
        variant->accumulate(block, delta + first, count, -signed_weight, scale);
        const edgefl_status status = check_block(block, delta + first, count, signed_weight, scale, first, place);
        if (status != EDGEFL_OK) {
            for (size_t done = 0; done < first; done += BLOCK) {
                variant->accumulate(sums + done, delta + done, BLOCK, -signed_weight, scale);
            }
            return status;
        }
        variant->accumulate(block, delta + first, count, signed_weight, scale);
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
