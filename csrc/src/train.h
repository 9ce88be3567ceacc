/* Training of a network of any shape; train_entries.c makes the public functions of it. */
#ifndef EDGEFL_TRAIN_H
#define EDGEFL_TRAIN_H

#include "network.h"

/* What a training takes, for a model of any shape. */
struct train_problem {
    const edgefl_variant *variant;
    const edgefl_features *features;
    const int32_t *labels;
    const float *example_weights;
    const edgefl_train_options *options;
    const edgefl_stop_flag *stop;
    struct network_shape shape;
    struct network_values start;
    struct network_values correction; /* with has_correction */
    bool has_correction;
};

/* Whether shape and options are legal. */
bool train_arguments_ok(const struct train_problem *problem);

/* 0 for illegal arguments. */
size_t train_scratch_bytes(const struct train_problem *problem);

/* trained: out, with EDGEFL_OK; its values lie in scratch. */
edgefl_status train(const struct train_problem *problem, void *scratch, size_t scratch_bytes, struct network *trained,
                    edgefl_train_stats *stats, edgefl_place *place);

#endif
