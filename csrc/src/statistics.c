/* What a client tells of its features: sums over its rows on an integer grid, extremes, and counts in bins. */
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

size_t edgefl_feature_extremes_scratch_bytes(const edgefl_features *features) {
    struct arena arena = arena_open(NULL);
    arena_take(&arena, features->num_features, sizeof(float));
    return arena_bytes(&arena);
}

static void widen(float *smallest, float *largest, const float *x, size_t n) {
    for (size_t f = 0; f < n; f++) {
        smallest[f] = x[f] < smallest[f] ? x[f] : smallest[f];
        largest[f] = x[f] > largest[f] ? x[f] : largest[f];
    }
}

edgefl_status edgefl_feature_extremes(const edgefl_variant *variant, const edgefl_features *features, void *scratch,
                                      size_t scratch_bytes, float *smallest, float *largest, edgefl_place *place) {
    const size_t n = features->num_features;
    if (!features_shape_ok(features) || features->mean != NULL) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (scratch_bytes < edgefl_feature_extremes_scratch_bytes(features)) {
        return EDGEFL_SCRATCH_TOO_SMALL;
    }
    struct arena arena = arena_open(scratch);
    float *loaded = arena_take(&arena, n, sizeof(float));
    const edgefl_status status = features_check(variant, features, loaded, place);
    if (status != EDGEFL_OK) {
        return status;
    }
    const float *first = features_row(variant, features, 0, loaded);
    memcpy(smallest, first, n * sizeof(float));
    memcpy(largest, first, n * sizeof(float));
    for (size_t row = 1; row < features->num_rows; row++) {
        widen(smallest, largest, features_row(variant, features, row, loaded), n);
    }
    /* -0 becomes +0: if it did not, the result would show which of the two came first. */
    for (size_t f = 0; f < n; f++) {
        smallest[f] += 0.0f;
        largest[f] += 0.0f;
    }
    return EDGEFL_OK;
}

size_t edgefl_feature_counts_scratch_bytes(const edgefl_features *features) {
    return edgefl_feature_extremes_scratch_bytes(features);
}

static edgefl_status check_edges(const double *edges, size_t num_edges, edgefl_place *place) {
    for (size_t k = 0; k < num_edges; k++) {
        const double before = k > 0 ? edges[k - 1] : -DBL_MAX;
        if (!(edges[k] >= before && edges[k] <= DBL_MAX)) {
            place->row = k;
            return EDGEFL_BAD_EDGE;
        }
    }
    return EDGEFL_OK;
}

/* How many edges are not above x, by halving what is left of them. Without a jump that depends on x: those of data
 * cannot be foreseen. */
static size_t bin_of(double x, const double *edges, size_t num_edges) {
    const double *from = edges;
    for (size_t left = num_edges; left > 0; left -= (left + 1) / 2) {
        const size_t half = (left + 1) / 2;
        from += half * (size_t)(from[half - 1] <= x);
    }
    return (size_t)(from - edges);
}

edgefl_status edgefl_feature_counts(const edgefl_variant *variant, const edgefl_features *features, const double *edges,
                                    size_t num_bins, void *scratch, size_t scratch_bytes, int64_t *counts,
                                    edgefl_place *place) {
    const size_t n = features->num_features;
    if (!features_shape_ok(features) || features->mean != NULL || num_bins < 1 || num_bins > EDGEFL_MAX_BINS) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (scratch_bytes < edgefl_feature_counts_scratch_bytes(features)) {
        return EDGEFL_SCRATCH_TOO_SMALL;
    }
    struct arena arena = arena_open(scratch);
    float *loaded = arena_take(&arena, n, sizeof(float));
    edgefl_status status = features_check(variant, features, loaded, place);
    if (status == EDGEFL_OK) {
        status = check_edges(edges, num_bins - 1, place);
    }
    if (status != EDGEFL_OK) {
        return status;
    }
    memset(counts, 0, n * num_bins * sizeof(int64_t));
    for (size_t row = 0; row < features->num_rows; row++) {
        const float *x = features_row(variant, features, row, loaded);
        for (size_t f = 0; f < n; f++) {
            counts[f * num_bins + bin_of((double)x[f], edges, num_bins - 1)]++;
        }
    }
    return EDGEFL_OK;
}
