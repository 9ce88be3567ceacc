/* The integer grid and the vector functions, by hand-computed values. */
#define _DEFAULT_SOURCE
#include <math.h>

#include "check.h"
#include "edgefl.h"

static const edgefl_variant *variant;

static void values_round_to_even_on_the_grid(void) {
    /* grid step 1/4: 0.125 is half a step (to 0), 0.375 one and a half (to 2). */
    const float values[] = {1.0f, -1.0f, 0.125f, 0.375f, -0.375f, 0.3f};
    const float *delta = guarded_copy(values, sizeof values);
    int64_t *sums = guarded(6 * sizeof *sums);
    edgefl_place place = {0, 0};
    memset(sums, 0, 6 * sizeof *sums);
    CHECK(edgefl_accumulate(variant, sums, delta, 6, 3, 2, 1.0, &place) == EDGEFL_OK);
    const int64_t expected[] = {12, -12, 0, 6, -6, 3};
    CHECK(memcmp(sums, expected, sizeof expected) == 0);
    /* 2 * 0.75 = 1.5 steps is a tie, to 2; added to what is there. */
    const float half = 0.5f;
    CHECK(edgefl_accumulate(variant, sums, &half, 1, 1, 2, 0.75, &place) == EDGEFL_OK);
    CHECK(sums[0] == 14);
}

static void what_is_refused_changes_nothing(void) {
    int64_t sums[3] = {5, INT64_MAX - 1, 7};
    edgefl_place place = {99, 99};
    const float too_large[3] = {1.0f, 0.0f, 0x1.000002p30f};
    CHECK(edgefl_accumulate(variant, sums, too_large, 3, 1, 0, 1.0, &place) == EDGEFL_OUT_OF_RANGE && place.row == 2);
    const float nan[3] = {1.0f, NAN, 0.0f};
    CHECK(edgefl_accumulate(variant, sums, nan, 3, 1, 0, 1.0, &place) == EDGEFL_OUT_OF_RANGE && place.row == 1);
    const float overflowing[3] = {1.0f, 2.0f, 0.0f};
    CHECK(edgefl_accumulate(variant, sums, overflowing, 3, 1, 0, 1.0, &place) == EDGEFL_OVERFLOW && place.row == 1);
    CHECK(edgefl_accumulate(variant, sums, nan, 3, 0, 0, 1.0, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(edgefl_accumulate(variant, sums, nan, 3, EDGEFL_MAX_WEIGHT + 1, 0, 1.0, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(edgefl_accumulate(variant, sums, nan, 3, 1, EDGEFL_MAX_GRID_SHIFT + 1, 1.0, &place) == EDGEFL_BAD_ARGUMENT);
    CHECK(edgefl_accumulate(variant, sums, nan, 3, 1, 0, -0.5, &place) == EDGEFL_BAD_ARGUMENT);
    const int64_t other[3] = {1, 2, 3};
    CHECK(edgefl_add_sums(sums, other, 3, &place) == EDGEFL_OVERFLOW && place.row == 1);
    CHECK(sums[0] == 5 && sums[1] == INT64_MAX - 1 && sums[2] == 7);
}

static void limits_are_inside(void) {
    int64_t sum = 0;
    edgefl_place place;
    const float limit = -0x1p30f;
    CHECK(edgefl_accumulate(variant, &sum, &limit, 1, EDGEFL_MAX_WEIGHT, 0, 1.0, &place) == EDGEFL_OK);
    CHECK(sum == -(INT64_C(1) << 62));
    CHECK(edgefl_add_sums(&sum, &sum, 1, &place) == EDGEFL_OK && sum == INT64_MIN);
    const float largest = 0x1.fffffep127f; /* 2^128 - 2^104: in steps of 2^98 it is 2^30 - 2^6 */
    sum = 0;
    CHECK(edgefl_accumulate(variant, &sum, &largest, 1, 1, -98, 1.0, &place) == EDGEFL_OK && sum == (1 << 30) - 64);
    CHECK(edgefl_accumulate(variant, &sum, &largest, 1, 1, -97, 1.0, &place) == EDGEFL_OUT_OF_RANGE);
}

static void mean_divides_once(void) {
    const int64_t sums[] = {6, -7, 0};
    double *mean = guarded(3 * sizeof *mean);
    CHECK(edgefl_finalize_mean(sums, 3, 3, 2, mean) == EDGEFL_OK);
    CHECK(mean[0] == 0.5 && mean[1] == -7.0 / 3.0 * 0.25 && mean[2] == 0.0);
    CHECK(edgefl_finalize_mean(sums, 3, 0, 2, mean) == EDGEFL_BAD_ARGUMENT);
    CHECK(edgefl_finalize_mean(sums, 3, UINT64_C(1) << 63, 2, mean) == EDGEFL_BAD_ARGUMENT);
}

/* The spacing of binary64 at 2^61 is 512, and 256 is lost in a tie: the result shows which values met before. */
static void norm_has_16_lanes_and_the_tree(void) {
    float values[33] = {0.0f};
    values[0] = values[16] = 0x1p30f; /* lane 0: 2^61 */
    values[32] = 16.0f;               /* lane 0: 256, lost */
    CHECK(edgefl_squared_norm(values, 33) == 0x1p61);
    for (size_t lane = 1; lane < 16; lane++) {
        values[lane] = 16.0f;
    }
    /* Lane 8 is lost in lane 0; lanes 4 and 12 make 512 first; 2, 6, 10, 14 make 1024; the odd ones 2048. */
    CHECK(edgefl_squared_norm(guarded_copy(values, sizeof values), 33) == 0x1p61 + 512 + 1024 + 2048);
    CHECK(edgefl_squared_norm(values, 0) == 0.0);
}

static void vectors(void) {
    float *values = guarded(600 * sizeof *values);
    for (size_t j = 0; j < 600; j++) {
        values[j] = 1.0f;
    }
    CHECK(edgefl_first_non_finite(values, 600) == 600);
    values[599] = NAN;
    CHECK(edgefl_first_non_finite(values, 600) == 599);
    values[300] = -INFINITY;
    values[301] = INFINITY;
    CHECK(edgefl_first_non_finite(values, 600) == 300 && edgefl_first_non_finite(values, 300) == 300);
    const float a[] = {1.0f, 3.0f}, b[] = {0.25f, 4.0f};
    float *out = guarded(sizeof a);
    edgefl_subtract(a, b, 2, out);
    CHECK(out[0] == 0.75f && out[1] == -1.0f);
}

static void updates_round_once_and_flush(void) {
    const float model[] = {1.0f, 0x1p-60f, 1.0f, -0x1p-50f};
    const double update[] = {0x1p-24, 0.0, 0x1p-24 + 0x1p-52, 0.0};
    float *out = guarded(sizeof model);
    edgefl_place place;
    CHECK(edgefl_apply_update(model, update, 4, 1.0, out, &place) == EDGEFL_OK);
    CHECK(same(out[0], 1.0f) && same(out[1], 0.0f) && same(out[2], 1.0f + 0x1p-23f) && same(out[3], -0x1p-50f));
    CHECK(edgefl_apply_update(model, update, 4, 0x1p200, out, &place) == EDGEFL_NON_FINITE_RESULT && place.row == 0);
}

int main(void) {
    for (size_t j = 0; j < edgefl_variant_count(); j++) {
        variant = edgefl_variant_find(edgefl_variant_name(j));
        if (variant == NULL) {
            printf("%s: not supported by this CPU\n", edgefl_variant_name(j));
            continue;
        }
        values_round_to_even_on_the_grid();
        what_is_refused_changes_nothing();
        limits_are_inside();
    }
    mean_divides_once();
    norm_has_16_lanes_and_the_tree();
    vectors();
    updates_round_once_and_flush();
    return failures != 0;
}
