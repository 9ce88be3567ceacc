/* edgefl_softmax_evaluate and edgefl_softmax_predict: every variant gives what the software scalar body gives. */
#include "problem.h"

struct inferred {
    edgefl_status evaluated, predicted;
    edgefl_place evaluated_at, predicted_at;
    uint64_t *confusion;
    float *probabilities;
    double loss_sum;
};

static struct inferred infer(struct input *in, const struct problem *problem, const edgefl_variant *variant) {
    struct inferred result = {
        .evaluated_at = nowhere,
        .predicted_at = nowhere,
        .confusion = block(in, problem->num_classes * problem->num_classes * sizeof(uint64_t), sizeof(uint64_t)),
        .probabilities = block(in, problem->num_rows * problem->num_classes * sizeof(float), sizeof(float)),
        .loss_sum = 0.0};
    memset(result.confusion, 0, problem->num_classes * problem->num_classes * sizeof(uint64_t));
    const size_t size = edgefl_softmax_infer_scratch_bytes(&problem->features, problem->model.num_classes);
    void *scratch = scratch_room(in, size);
    result.evaluated = edgefl_softmax_evaluate(variant, &problem->features, problem->labels, &problem->model, scratch,
                                               size, result.confusion, &result.loss_sum, &result.evaluated_at);
    result.predicted = edgefl_softmax_predict(variant, &problem->features, &problem->model, scratch, size,
                                              result.probabilities, &result.predicted_at);
    return result;
}

static void require_same(const struct problem *problem, const struct inferred *a, const struct inferred *b) {
    REQUIRE(a->evaluated == b->evaluated && same_place(&a->evaluated_at, &b->evaluated_at));
    REQUIRE(a->predicted == b->predicted && same_place(&a->predicted_at, &b->predicted_at));
    if (a->evaluated == EDGEFL_OK) {
        REQUIRE(same_bytes(&a->loss_sum, &b->loss_sum, sizeof(double)));
        REQUIRE(same_bytes(a->confusion, b->confusion, problem->num_classes * problem->num_classes * sizeof(uint64_t)));
    }
    if (a->predicted == EDGEFL_OK) {
        REQUIRE(
            same_bytes(a->probabilities, b->probabilities, problem->num_rows * problem->num_classes * sizeof(float)));
    }
}

static void require_legal(const struct problem *problem, const struct inferred *result) {
    const size_t c = problem->num_classes;
    REQUIRE(result->evaluated != EDGEFL_SCRATCH_TOO_SMALL && result->predicted != EDGEFL_SCRATCH_TOO_SMALL);
    REQUIRE(!problem->bad_shape ||
            (result->evaluated == EDGEFL_BAD_ARGUMENT && result->predicted == EDGEFL_BAD_ARGUMENT));
    if (result->evaluated == EDGEFL_OK) {
        uint64_t counted = 0;
        for (size_t j = 0; j < c * c; j++) {
            counted += result->confusion[j];
        }
        REQUIRE(counted == problem->num_rows && result->loss_sum >= 0.0);
    }
    for (size_t j = 0; result->predicted == EDGEFL_OK && j < problem->num_rows * c; j++) {
        REQUIRE(result->probabilities[j] >= 0.0f && result->probabilities[j] <= 1.0f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    const struct problem problem = take_problem(&in);
    const struct inferred expected = infer(&in, &problem, edgefl_scalar_software());
    require_legal(&problem, &expected);
    EACH_VARIANT(variant) {
        const struct inferred found = infer(&in, &problem, variant);
        require_same(&problem, &expected, &found);
    }
    input_close(&in);
    return 0;
}
