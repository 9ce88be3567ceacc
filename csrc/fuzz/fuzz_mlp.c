/* edgefl_mlp_train, _evaluate and _predict: every variant gives the status, place and bits of the software scalar body;
 * what is refused leaves the outputs alone; what is trained holds stored values only. */
#include "trained.h"

struct mlp_problem {
    struct problem problem;
    size_t num_hidden, num_parameters;
    edgefl_mlp start;
    float *correction;
};

struct mlp_results {
    edgefl_status trained, evaluated, predicted;
    edgefl_place trained_at, evaluated_at, predicted_at;
    edgefl_train_stats stats;
    float *parameters, *probabilities;
    uint64_t *confusion;
    double loss_sum;
};

static size_t probability_bytes(const struct mlp_problem *mlp) {
    return mlp->problem.num_rows * mlp->problem.num_classes * sizeof(float);
}

static size_t confusion_bytes(const struct mlp_problem *mlp) {
    return mlp->problem.num_classes * mlp->problem.num_classes * sizeof(uint64_t);
}

static struct mlp_problem take_mlp_problem(struct input *in) {
    struct mlp_problem mlp = {.problem = take_problem(in), .num_hidden = take_size(in)};
    struct problem *problem = &mlp.problem;
    mlp.num_parameters = mlp.num_hidden * (problem->num_features + 1) + problem->num_classes * (mlp.num_hidden + 1);
    mlp.start = (edgefl_mlp){mlp.num_hidden, problem->model.num_classes,
                             take_floats(in, mlp.num_parameters, take_rarely(in, 2) ? 0x1p-31f : 0x1p-50f)};
    if (problem->options.correction != NULL && !problem->bad_options) {
        problem->options.correction = NULL;
        mlp.correction = take_floats(in, mlp.num_parameters, 0x1p-50f);
    }
    if (take_rarely(in, 24)) {
        mlp.start.num_hidden = take_rarely(in, 2) ? 0 : EDGEFL_MAX_HIDDEN + 1 + take_below(in, 2) * (SIZE_MAX / 2);
        problem->bad_shape = true;
    }
    return mlp;
}

static struct mlp_results run(struct input *in, const struct mlp_problem *mlp, const edgefl_variant *variant,
                              const edgefl_stop_flag *stop) {
    const struct problem *problem = &mlp->problem;
    struct mlp_results result = {.trained_at = nowhere,
                                 .evaluated_at = nowhere,
                                 .predicted_at = nowhere,
                                 .parameters = block(in, mlp->num_parameters * sizeof(float), sizeof(float)),
                                 .probabilities = block(in, probability_bytes(mlp), sizeof(float)),
                                 .confusion = block(in, confusion_bytes(mlp), sizeof(uint64_t))};
    memset(result.confusion, 0, confusion_bytes(mlp));
    const size_t size = edgefl_mlp_train_scratch_bytes(&problem->features, mlp->start.num_hidden,
                                                       mlp->start.num_classes, mlp->correction, &problem->options);
    result.trained = edgefl_mlp_train(variant, &problem->features, problem->labels, problem->example_weights,
                                      &mlp->start, mlp->correction, &problem->options, stop, scratch_room(in, size),
                                      size, result.parameters, &result.stats, &result.trained_at);
    const size_t infer =
        edgefl_mlp_infer_scratch_bytes(&problem->features, mlp->start.num_hidden, mlp->start.num_classes);
    void *scratch = scratch_room(in, infer);
    result.evaluated = edgefl_mlp_evaluate(variant, &problem->features, problem->labels, &mlp->start, scratch, infer,
                                           result.confusion, &result.loss_sum, &result.evaluated_at);
    result.predicted = edgefl_mlp_predict(variant, &problem->features, &mlp->start, scratch, infer,
                                          result.probabilities, &result.predicted_at);
    return result;
}

static void require_equal(const struct mlp_problem *mlp, const struct mlp_results *a, const struct mlp_results *b) {
    REQUIRE(a->trained == b->trained && same_place(&a->trained_at, &b->trained_at));
    REQUIRE(same_bytes(a->parameters, b->parameters, mlp->num_parameters * sizeof(float)));
    if (a->trained == EDGEFL_OK) {
        REQUIRE(a->stats.examples_seen == b->stats.examples_seen && a->stats.num_steps == b->stats.num_steps);
        REQUIRE(same_bytes(&a->stats.loss_sum, &b->stats.loss_sum, sizeof(double)));
        REQUIRE(a->stats.num_correct == b->stats.num_correct && a->stats.stopped == b->stats.stopped);
    }
    REQUIRE(a->evaluated == b->evaluated && same_place(&a->evaluated_at, &b->evaluated_at));
    REQUIRE(a->predicted == b->predicted && same_place(&a->predicted_at, &b->predicted_at));
    if (a->evaluated == EDGEFL_OK) {
        REQUIRE(same_bytes(&a->loss_sum, &b->loss_sum, sizeof(double)));
        REQUIRE(same_bytes(a->confusion, b->confusion, confusion_bytes(mlp)));
    }
    if (a->predicted == EDGEFL_OK) {
        REQUIRE(same_bytes(a->probabilities, b->probabilities, probability_bytes(mlp)));
    }
}

static void require_legal(const struct mlp_problem *mlp, const struct mlp_results *result) {
    const struct problem *problem = &mlp->problem;
    REQUIRE(result->trained < EDGEFL_NUM_STATUSES && result->trained != EDGEFL_SCRATCH_TOO_SMALL);
    REQUIRE(result->trained == EDGEFL_BAD_ARGUMENT || !(problem->bad_shape || problem->bad_options));
    REQUIRE(!problem->bad_shape ||
            (result->evaluated == EDGEFL_BAD_ARGUMENT && result->predicted == EDGEFL_BAD_ARGUMENT));
    if (result->trained == EDGEFL_OK) {
        require_stored(result->parameters, mlp->num_parameters);
    } else {
        REQUIRE(is_untouched(result->parameters, mlp->num_parameters * sizeof(float)));
    }
    for (size_t j = 0; result->predicted == EDGEFL_OK && j < problem->num_rows * problem->num_classes; j++) {
        REQUIRE(result->probabilities[j] >= 0.0f && result->probabilities[j] <= 1.0f);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    const bool stopped = take_rarely(&in, 16);
    const struct mlp_problem mlp = take_mlp_problem(&in);
    edgefl_stop_flag stop;
    edgefl_stop_flag_init(&stop);
    if (stopped) {
        edgefl_stop_flag_set(&stop);
    }
    const struct mlp_results expected = run(&in, &mlp, edgefl_scalar_software(), &stop);
    require_legal(&mlp, &expected);
    EACH_VARIANT(variant) {
        const struct mlp_results found = run(&in, &mlp, variant, stopped ? &stop : NULL);
        require_equal(&mlp, &expected, &found);
    }
    input_close(&in);
    return 0;
}
