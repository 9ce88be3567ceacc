/* One training with everything that it gives, to be compared between variants. */
#ifndef EDGEFL_FUZZ_TRAINED_H
#define EDGEFL_FUZZ_TRAINED_H

#include "problem.h"

struct trained {
    edgefl_status status;
    edgefl_place place;
    edgefl_train_stats stats;
    float *kernel;
    float *bias;
};

static inline size_t kernel_bytes(const struct problem *problem) {
    return problem->num_classes * problem->num_features * sizeof(float);
}

static inline size_t bias_bytes(const struct problem *problem) { return problem->num_classes * sizeof(float); }

static inline struct trained train(struct input *in, const struct problem *problem, const edgefl_variant *variant,
                                   const edgefl_stop_flag *stop) {
    struct trained result = {.place = nowhere,
                             .kernel = block(in, kernel_bytes(problem), sizeof(float)),
                             .bias = block(in, bias_bytes(problem), sizeof(float))};
    const size_t size =
        edgefl_softmax_train_scratch_bytes(&problem->features, problem->model.num_classes, &problem->options);
    result.status = edgefl_softmax_train(variant, &problem->features, problem->labels, problem->example_weights,
                                         &problem->model, &problem->options, stop, scratch_room(in, size), size,
                                         result.kernel, result.bias, &result.stats, &result.place);
    return result;
}

static inline void require_same(const struct problem *problem, const struct trained *a, const struct trained *b) {
    REQUIRE(a->status == b->status);
    REQUIRE(same_place(&a->place, &b->place));
    REQUIRE(same_bytes(a->kernel, b->kernel, kernel_bytes(problem)));
    REQUIRE(same_bytes(a->bias, b->bias, bias_bytes(problem)));
    if (a->status == EDGEFL_OK) {
        REQUIRE(a->stats.examples_seen == b->stats.examples_seen && a->stats.num_steps == b->stats.num_steps);
        REQUIRE(same_bytes(&a->stats.loss_sum, &b->stats.loss_sum, sizeof(double)));
        REQUIRE(a->stats.num_correct == b->stats.num_correct && a->stats.stopped == b->stats.stopped);
    }
}

/* Stored values are +0, or finite and at least 2^-50: nothing subnormal, no -0. */
static inline void require_stored(const float *values, size_t n) {
    for (size_t j = 0; j < n; j++) {
        const float magnitude = __builtin_fabsf(values[j]);
        REQUIRE(magnitude >= EDGEFL_STORED_MIN_MAGNITUDE ? magnitude <= 0x1.fffffep127f
                                                         : same_bytes(&values[j], &(float){0.0f}, sizeof(float)));
    }
}

#endif
