/* Sums, extremes and counts of features: every variant gives what the software scalar body gives, no sum leaves the
 * grid, no extreme is passed by the other, and every row is counted once a feature. */
#include "problem.h"

struct summed {
    edgefl_status status;
    edgefl_place place;
    int64_t *sums;
};

static struct summed sum(struct input *in, const struct problem *problem, const edgefl_variant *variant,
                         const float *center, double bound, int grid_shift) {
    struct summed result = {.place = nowhere,
                            .sums = block(in, problem->num_features * sizeof(int64_t), sizeof(int64_t))};
    const size_t asked = edgefl_feature_sums_scratch_bytes(&problem->features);
    /* A shape that is refused may ask for any size: it gets none. */
    const size_t size = asked <= (size_t)64 * EDGEFL_MAX_FEATURES ? asked : 0;
    result.status = edgefl_feature_sums(variant, &problem->features, center, bound, grid_shift, scratch_room(in, size),
                                        size, result.sums, &result.place);
    return result;
}

struct distribution {
    edgefl_status extremes, counts;
    edgefl_place places[2];
    float *smallest, *largest;
    int64_t *numbers;
};

static struct distribution distribute(struct input *in, const struct problem *problem, const edgefl_variant *variant,
                                      const double *edges, size_t num_bins) {
    const size_t n = problem->num_features;
    struct distribution found = {.places = {nowhere, nowhere},
                                 .smallest = room(in, n, sizeof(float)),
                                 .largest = room(in, n, sizeof(float)),
                                 .numbers = room(in, n * num_bins, sizeof(int64_t))};
    size_t size = edgefl_feature_extremes_scratch_bytes(&problem->features);
    size = size <= (size_t)64 * EDGEFL_MAX_FEATURES ? size : 0;
    found.extremes = edgefl_feature_extremes(variant, &problem->features, scratch_room(in, size), size, found.smallest,
                                             found.largest, &found.places[0]);
    size = edgefl_feature_counts_scratch_bytes(&problem->features);
    size = size <= (size_t)64 * EDGEFL_MAX_FEATURES ? size : 0;
    found.counts = edgefl_feature_counts(variant, &problem->features, edges, num_bins, scratch_room(in, size), size,
                                         found.numbers, &found.places[1]);
    return found;
}

/* Mostly rising: each edge is the one before and a step, which is now and then any number. */
static double *take_edges(struct input *in, size_t num_edges) {
    const float *steps = take_floats(in, num_edges, 0x1p-30f);
    double *edges = room(in, num_edges, sizeof *edges);
    const bool rising = !take_rarely(in, 8);
    for (size_t k = 0; k < num_edges; k++) {
        edges[k] = k > 0 && rising ? edges[k - 1] + 0x1p-3 * __builtin_fabs((double)steps[k]) : (double)steps[k];
    }
    if (num_edges > 0 && take_rarely(in, 16)) {
        edges[take_below(in, num_edges)] = take_double(in);
    }
    return edges;
}

static void check_distribution(const struct problem *problem, const struct distribution *found, size_t num_bins) {
    for (size_t f = 0; found->extremes == EDGEFL_OK && f < problem->num_features; f++) {
        REQUIRE(found->smallest[f] <= found->largest[f]);
    }
    for (size_t f = 0; found->counts == EDGEFL_OK && f < problem->num_features; f++) {
        int64_t total = 0;
        for (size_t b = 0; b < num_bins; b++) {
            REQUIRE(found->numbers[f * num_bins + b] >= 0);
            total += found->numbers[f * num_bins + b];
        }
        REQUIRE(total == (int64_t)problem->num_rows);
    }
}

static void fuzz_distribution(struct input *in, const struct problem *problem) {
    const size_t n = problem->num_features, num_bins = 1 + take_below(in, 40);
    const double *edges = take_edges(in, num_bins - 1);
    const struct distribution expected = distribute(in, problem, edgefl_scalar_software(), edges, num_bins);
    check_distribution(problem, &expected, num_bins);
    EACH_VARIANT(variant) {
        const struct distribution found = distribute(in, problem, variant, edges, num_bins);
        REQUIRE(found.extremes == expected.extremes && same_place(&found.places[0], &expected.places[0]));
        REQUIRE(found.counts == expected.counts && same_place(&found.places[1], &expected.places[1]));
        REQUIRE(expected.extremes != EDGEFL_OK || (same_bytes(found.smallest, expected.smallest, n * sizeof(float)) &&
                                                   same_bytes(found.largest, expected.largest, n * sizeof(float))));
        REQUIRE(expected.counts != EDGEFL_OK ||
                same_bytes(found.numbers, expected.numbers, n * num_bins * sizeof(int64_t)));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    struct problem problem = take_problem(&in);
    if (!take_rarely(&in, 16)) {
        problem.features.mean = NULL;
        problem.features.inverse_spread = NULL;
    }
    const float *center = take_rarely(&in, 2) ? take_floats(&in, problem.num_features, 0x1p-149f) : NULL;
    const double bound = take_rarely(&in, 4) ? take_double(&in) : 0x1p10;
    const int grid_shift = take_rarely(&in, 8) ? (int)(take_word(&in) % 600) - 300 : (int)take_below(&in, 40);
    if (problem.features.num_features != problem.num_features) {
        center = NULL; /* its size is part of the caller's promise */
    }
    const struct summed expected = sum(&in, &problem, edgefl_scalar_software(), center, bound, grid_shift);
    REQUIRE(expected.status < EDGEFL_NUM_STATUSES);
    EACH_VARIANT(variant) {
        const struct summed found = sum(&in, &problem, variant, center, bound, grid_shift);
        REQUIRE(found.status == expected.status && same_place(&found.place, &expected.place));
        REQUIRE(expected.status != EDGEFL_OK ||
                same_bytes(found.sums, expected.sums, problem.num_features * sizeof(int64_t)));
    }
    for (size_t f = 0; expected.status == EDGEFL_OK && f < problem.num_features; f++) {
        REQUIRE(expected.sums[f] >= -EDGEFL_MAX_FEATURE_SUM && expected.sums[f] <= EDGEFL_MAX_FEATURE_SUM);
    }
    fuzz_distribution(&in, &problem);
    input_close(&in);
    return 0;
}
