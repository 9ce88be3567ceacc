/* edgefl_softmax_train: every variant gives the status, place and bits of the software scalar body; what is refused
 * leaves the outputs alone; what is trained holds stored values only. */
#include "trained.h"

static void require_legal(const struct problem *problem, const struct trained *result, bool stopped) {
    REQUIRE(result->status < EDGEFL_NUM_STATUSES && result->status != EDGEFL_SCRATCH_TOO_SMALL);
    REQUIRE(result->status == EDGEFL_BAD_ARGUMENT || !(problem->bad_shape || problem->bad_options));
    if (result->status != EDGEFL_OK) {
        REQUIRE(is_untouched(result->kernel, kernel_bytes(problem)) && is_untouched(result->bias, bias_bytes(problem)));
        return;
    }
    REQUIRE(result->stats.stopped == (stopped && problem->options.num_epochs > 0));
    REQUIRE(result->stats.examples_seen == (stopped ? 0 : problem->num_rows * problem->options.num_epochs));
    REQUIRE(result->stats.num_correct <= result->stats.examples_seen);
    require_stored(result->kernel, problem->num_classes * problem->num_features);
    require_stored(result->bias, problem->num_classes);
}

static void require_scratch_checked(struct input *in, const struct problem *problem) {
    struct trained result = {.place = nowhere};
    const size_t size =
        edgefl_softmax_train_scratch_bytes(&problem->features, problem->model.num_classes, &problem->options);
    if (size > 0) {
        REQUIRE(edgefl_softmax_train(edgefl_variant_find(NULL), &problem->features, problem->labels,
                                     problem->example_weights, &problem->model, &problem->options, NULL,
                                     block(in, 0, 0), size - 1, NULL, NULL, &result.stats,
                                     &result.place) == EDGEFL_SCRATCH_TOO_SMALL);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    const bool stopped = take_rarely(&in, 16);
    const struct problem problem = take_problem(&in);
    edgefl_stop_flag stop;
    edgefl_stop_flag_init(&stop);
    if (stopped) {
        edgefl_stop_flag_set(&stop);
    }
    const struct trained expected = train(&in, &problem, edgefl_scalar_software(), &stop);
    require_legal(&problem, &expected, stopped);
    EACH_VARIANT(variant) {
        const struct trained found = train(&in, &problem, variant, stopped ? &stop : NULL);
        require_same(&problem, &expected, &found);
    }
    require_scratch_checked(&in, &problem);
    input_close(&in);
    return 0;
}
