/* Sums, extremes and counts of features, by hand-computed values. */
#define _DEFAULT_SOURCE
#include <float.h>
#include <math.h>

#include "check.h"
#include "edgefl.h"

static edgefl_status sums_of(const edgefl_features *features, const float *center, double bound, int shift,
                             int64_t *sums, edgefl_place *place) {
    const size_t size = edgefl_feature_sums_scratch_bytes(features);
    return edgefl_feature_sums(edgefl_variant_find(NULL), features, center, bound, shift, guarded(size), size, sums,
                               place);
}

static void sums_and_squares(void) {
    const float data[] = {1.0f, -2.0f, 0.5f, 3.0f, 0.25f, -0.0f};
    const edgefl_features features = {.data = guarded_copy(data, sizeof data), .num_rows = 3, .num_features = 2};
    int64_t *sums = guarded(2 * sizeof *sums);
    edgefl_place place;
    CHECK(sums_of(&features, NULL, 3.0, 1, sums, &place) == EDGEFL_OK);
    CHECK(sums[0] == 4 && sums[1] == 2); /* 2 * 1.75 = 3.5 is a tie, to 4 */
    const float center[] = {0.5f, 1.0f};
    CHECK(sums_of(&features, center, 3.0, 4, sums, &place) == EDGEFL_OK);
    CHECK(sums[0] == 5 && sums[1] == 224); /* 16 * (.25 + 0 + .0625), 16 * (9 + 4 + 1) */
}

static void quantized_features(void) {
    const uint8_t data[] = {0, 255, 128, 129};
    const edgefl_features features = {.dtype = EDGEFL_UINT8,
                                      .data = guarded_copy(data, sizeof data),
                                      .num_rows = 2,
                                      .num_features = 2,
                                      .scale = 0.5f,
                                      .zero_point = 128};
    int64_t sums[2];
    edgefl_place place;
    CHECK(sums_of(&features, NULL, 64.0, 1, sums, &place) == EDGEFL_OK && sums[0] == -128 && sums[1] == 128);
    CHECK(sums_of(&features, NULL, 63.75, 1, sums, &place) == EDGEFL_FEATURE_OUT_OF_BOUNDS);
    CHECK(place.row == 0 && place.column == 0);
    const int8_t lowest = -128;
    edgefl_features one = {
        .dtype = EDGEFL_INT8, .data = &lowest, .num_rows = 1, .num_features = 1, .scale = 1.0f, .zero_point = 127};
    CHECK(sums_of(&one, NULL, 255.0, 0, sums, &place) == EDGEFL_OK && sums[0] == -255);
    one.scale = 0x1.fffffep-31f;
    CHECK(sums_of(&one, NULL, 255.0, 0, sums, &place) == EDGEFL_BAD_ARGUMENT);
    one.scale = 0x1p127f; /* 383 times it is not finite */
    CHECK(sums_of(&one, NULL, 255.0, 0, sums, &place) == EDGEFL_BAD_ARGUMENT);
}

static void limits(void) {
    const float large[] = {0x1p62f, 0x1p62f};
    edgefl_features features = {.data = large, .num_rows = 1, .num_features = 2};
    int64_t sums[2];
    edgefl_place place;
    CHECK(sums_of(&features, NULL, 0x1p62, 0, sums, &place) == EDGEFL_OK && sums[1] == INT64_C(1) << 62);
    features.num_rows = 2;
    features.num_features = 1;
    CHECK(sums_of(&features, NULL, 0x1p62, 0, sums, &place) == EDGEFL_OUT_OF_RANGE && place.row == 0);
    CHECK(sums_of(&features, NULL, INFINITY, 0, sums, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(sums_of(&features, NULL, 0.0, 0, sums, &place) == EDGEFL_BAD_ARGUMENT);
    const float bad_center = NAN;
    CHECK(sums_of(&features, &bad_center, 1.0, 0, sums, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(edgefl_feature_sums(edgefl_variant_find(NULL), &features, NULL, 1.0, 0, sums, 8, sums, &place) ==
          EDGEFL_SCRATCH_TOO_SMALL);
}

/* Fractions of magnitudes around 2^51 round to even too. */
static void large_sums_round_to_even(void) {
    const float data[] = {0x1p51f, 0.5f, 1.0f};
    const edgefl_features features = {.data = data, .num_rows = 3, .num_features = 1};
    int64_t sum;
    edgefl_place place;
    CHECK(sums_of(&features, NULL, 0x1p51, 0, &sum, &place) == EDGEFL_OK);
    CHECK(sum == (INT64_C(1) << 51) + 2);
}

static edgefl_status extremes_of(const edgefl_features *features, float *smallest, float *largest,
                                 edgefl_place *place) {
    const size_t size = edgefl_feature_extremes_scratch_bytes(features);
    return edgefl_feature_extremes(edgefl_variant_find(NULL), features, guarded(size), size, smallest, largest, place);
}

static edgefl_status counts_of(const edgefl_features *features, const double *edges, size_t num_bins, int64_t *counts,
                               edgefl_place *place) {
    const size_t size = edgefl_feature_counts_scratch_bytes(features);
    return edgefl_feature_counts(edgefl_variant_find(NULL), features, edges, num_bins, guarded(size), size, counts,
                                 place);
}

static void extremes(void) {
    const float data[] = {1.0f, -0.0f, -5.0f, -2.0f, 0.0f, -5.0f, 0.5f, -0.0f, -7.5f};
    edgefl_features features = {.data = guarded_copy(data, sizeof data), .num_rows = 3, .num_features = 3};
    float *smallest = guarded(3 * sizeof(float)), *largest = guarded(3 * sizeof(float));
    edgefl_place place;
    CHECK(extremes_of(&features, smallest, largest, &place) == EDGEFL_OK);
    CHECK(same(smallest[0], -2.0f) && same(smallest[1], 0.0f) && same(smallest[2], -7.5f));
    CHECK(same(largest[0], 1.0f) && same(largest[1], 0.0f) && same(largest[2], -5.0f));
    const int8_t stored[] = {-128, 127};
    features = (edgefl_features){.dtype = EDGEFL_INT8,
                                 .data = guarded_copy(stored, sizeof stored),
                                 .num_rows = 2,
                                 .num_features = 1,
                                 .scale = 0.5f,
                                 .zero_point = -1};
    CHECK(extremes_of(&features, smallest, largest, &place) == EDGEFL_OK);
    CHECK(same(smallest[0], -63.5f) && same(largest[0], 64.0f));
}

static void counts_in_bins(void) {
    /* On an edge: the bin above it; beyond the ends: the first and the last. Between equal edges there is nothing. */
    const float data[] = {0.5f, 1.0f, -9.0f, 1.0f, 1.0f, -0.0f, 0x1.fffffep-2f, 9.0f};
    const double edges[] = {0.0, 0.5, 1.0, 1.0};
    const edgefl_features features = {.data = guarded_copy(data, sizeof data), .num_rows = 4, .num_features = 2};
    int64_t *counts = guarded(10 * sizeof *counts);
    edgefl_place place;
    CHECK(counts_of(&features, guarded_copy(edges, sizeof edges), 5, counts, &place) == EDGEFL_OK);
    const int64_t expected[] = {1, 1, 1, 0, 1, 0, 1, 0, 0, 3};
    CHECK(memcmp(counts, expected, sizeof expected) == 0);
    /* Edges that no float32 is: halfway to the next one, and below the smallest. */
    const double between[] = {-0x1p-1074, 0x1p-1074, 1.0 - 0x1p-25, 1.0 + 0x1p-52};
    CHECK(counts_of(&features, guarded_copy(between, sizeof between), 5, counts, &place) == EDGEFL_OK);
    const int64_t found[] = {1, 0, 2, 1, 0, 0, 1, 0, 2, 1};
    CHECK(memcmp(counts, found, sizeof found) == 0);
    CHECK(counts_of(&features, NULL, 1, counts, &place) == EDGEFL_OK && counts[0] == 4 && counts[1] == 4);
}

/* For every number of bins: what a look at one edge after the other says, at, below and above each of them. */
static void every_bin(void) {
    float data[3 * 33];
    double edges[32];
    for (size_t j = 0; j < 33; j++) {
        const float at = (float)j - 16.0f;
        data[3 * j] = at;
        data[3 * j + 1] = at - 0.25f;
        data[3 * j + 2] = at + 0.25f;
    }
    const edgefl_features features = {.data = data, .num_rows = 3 * 33, .num_features = 1};
    for (size_t num_bins = 1; num_bins <= 33; num_bins++) {
        int64_t expected[33] = {0}, *counts = guarded(num_bins * sizeof *counts);
        for (size_t k = 0; k + 1 < num_bins; k++) {
            edges[k] = (double)k - 15.0;
        }
        for (size_t i = 0; i < features.num_rows; i++) {
            size_t bin = 0;
            while (bin + 1 < num_bins && edges[bin] <= (double)data[i]) {
                bin++;
            }
            expected[bin]++;
        }
        edgefl_place place;
        const double *guarded_edges = guarded_copy(edges, (num_bins - 1) * sizeof *edges);
        CHECK(counts_of(&features, guarded_edges, num_bins, counts, &place) == EDGEFL_OK);
        CHECK(memcmp(counts, expected, num_bins * sizeof *counts) == 0);
    }
}

static void bad_edges(void) {
    const float data[] = {1.0f, 2.0f};
    const edgefl_features features = {.data = data, .num_rows = 1, .num_features = 2};
    const double bad[] = {NAN, INFINITY, -INFINITY, -1.0 - 0x1p-52};
    int64_t counts[6];
    edgefl_place place;
    for (size_t j = 0; j < sizeof bad / sizeof bad[0]; j++) {
        const double edges[] = {-1.0, bad[j]};
        CHECK(counts_of(&features, edges, 3, counts, &place) == EDGEFL_BAD_EDGE && place.row == 1);
    }
    const double edges[] = {-DBL_MAX, DBL_MAX};
    CHECK(counts_of(&features, edges, 3, counts, &place) == EDGEFL_OK && counts[1] == 1 && counts[4] == 1);
}

static void distribution_arguments(void) {
    const float data[] = {1.0f, 2.0f};
    const double edges[EDGEFL_MAX_BINS] = {0};
    edgefl_features features = {.data = data, .num_rows = 1, .num_features = 2};
    int64_t counts[2 * (EDGEFL_MAX_BINS + 1)];
    float found[4];
    edgefl_place place;
    CHECK(counts_of(&features, edges, 0, counts, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(counts_of(&features, edges, EDGEFL_MAX_BINS + 1, counts, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(counts_of(&features, edges, EDGEFL_MAX_BINS, counts, &place) == EDGEFL_OK);
    CHECK(counts[EDGEFL_MAX_BINS - 1] == 1 && counts[2 * EDGEFL_MAX_BINS - 1] == 1);
    const edgefl_variant *variant = edgefl_variant_find(NULL);
    CHECK(edgefl_feature_counts(variant, &features, edges, 2, counts, 8, counts, &place) == EDGEFL_SCRATCH_TOO_SMALL);
    CHECK(edgefl_feature_extremes(variant, &features, counts, 8, found, found + 2, &place) == EDGEFL_SCRATCH_TOO_SMALL);
    features.mean = features.inverse_spread = data;
    CHECK(counts_of(&features, edges, 2, counts, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(extremes_of(&features, found, found + 2, &place) == EDGEFL_BAD_ARGUMENT);
    const float not_a_number[] = {1.0f, NAN};
    features = (edgefl_features){.data = not_a_number, .num_rows = 1, .num_features = 2};
    CHECK(extremes_of(&features, found, found + 2, &place) == EDGEFL_BAD_FEATURE && place.column == 1);
    CHECK(counts_of(&features, edges, 2, counts, &place) == EDGEFL_BAD_FEATURE && place.column == 1);
}

int main(void) {
    extremes();
    counts_in_bins();
    every_bin();
    bad_edges();
    distribution_arguments();
    sums_and_squares();
    quantized_features();
    limits();
    large_sums_round_to_even();
    return failures != 0;
}
