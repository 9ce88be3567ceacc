/* edgefl_feature_sums: every variant gives what the software scalar body gives, and no sum leaves the grid. */
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
    input_close(&in);
    return 0;
}
