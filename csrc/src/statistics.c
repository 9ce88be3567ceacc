/* Sums of features over a client's rows, on an integer grid, for standardization across a fleet. */
#include "arena.h"
#include "numeric.h"
#include "rows.h"

struct sums_scratch {
    double *sums;  /* (num_features,) */
    float *loaded; /* (num_features,) */
};

static struct sums_scratch take_scratch(struct arena *arena, size_t num_features) {
    struct sums_scratch scratch;
    scratch.sums = arena_take(arena, num_features, sizeof(double));
    scratch.loaded = arena_take(arena, num_features, sizeof(float));
    return scratch;
}

size_t edgefl_feature_sums_scratch_bytes(const edgefl_features *features) {
    struct arena arena = arena_open(NULL);
    take_scratch(&arena, features->num_features);
    return arena_bytes(&arena);
}

/* The first value above bound in magnitude; n when there is none. */
static size_t first_out_of_bounds(const float *x, size_t n, double bound) {
    for (size_t f = 0; f < n; f++) {
        if (!(__builtin_fabs((double)x[f]) <= bound)) {
            return f;
        }
    }
    return n;
}

static void add_row(double *sums, const float *x, const float *center, size_t n) {
    for (size_t f = 0; f < n; f++) {
        if (center == NULL) {
            sums[f] += (double)x[f];
        } else {
            const double distance = (double)x[f] - (double)center[f];
            sums[f] += distance * distance;
        }
    }
}

static edgefl_status round_sums(const double *from, size_t n, int grid_shift, int64_t *sums, edgefl_place *place) {
    const double grid = power_of_two(grid_shift);
    const double limit = (double)EDGEFL_MAX_FEATURE_SUM;
    for (size_t f = 0; f < n; f++) {
        const double q = round_even(from[f] * grid);
        if (!(q >= -limit && q <= limit)) {
            place->row = f;
            place->column = 0;
            return EDGEFL_OUT_OF_RANGE;
        }
        sums[f] = (int64_t)q;
    }
    return EDGEFL_OK;
}

edgefl_status edgefl_feature_sums(const edgefl_variant *variant, const edgefl_features *features, const float *center,
                                  double bound, int grid_shift, void *scratch, size_t scratch_bytes, int64_t *sums,
                                  edgefl_place *place) {
    const size_t n = features->num_features;
    if (!features_shape_ok(features) || features->mean != NULL || !is_grid_shift(grid_shift) ||
        !(bound > 0.0 && bound <= DBL_MAX) || (center != NULL && edgefl_first_non_finite(center, n) < n)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (scratch_bytes < edgefl_feature_sums_scratch_bytes(features)) {
        return EDGEFL_SCRATCH_TOO_SMALL;
    }
    struct arena arena = arena_open(scratch);
    const struct sums_scratch taken = take_scratch(&arena, n);
    const edgefl_status status = features_check(variant, features, taken.loaded, place);
    if (status != EDGEFL_OK) {
        return status;
    }
    memset(taken.sums, 0, n * sizeof(double));
    for (size_t row = 0; row < features->num_rows; row++) {
        const float *x = features_row(variant, features, row, taken.loaded);
        const size_t bad = first_out_of_bounds(x, n, bound);
        if (bad < n) {
            place->row = row;
            place->column = bad;
            return EDGEFL_FEATURE_OUT_OF_BOUNDS;
        }
        add_row(taken.sums, x, center, n);
    }
    return round_sums(taken.sums, n, grid_shift, sums, place);
}
