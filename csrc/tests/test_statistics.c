/* Sums of features, by hand-computed values. */
#define _DEFAULT_SOURCE
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

int main(void) {
    sums_and_squares();
    quantized_features();
    limits();
    large_sums_round_to_even();
    return failures != 0;
}
