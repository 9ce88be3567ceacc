/* The working copy of a model: a softmax layer, alone or behind a hidden layer. In both cases the last layer is the
 * softmax layer. A layer's classes are its outputs, and its features are its inputs: of a softmax layer behind a hidden
 * one, the hidden units. */
#ifndef EDGEFL_NETWORK_H
#define EDGEFL_NETWORK_H

#include "layer.h"

#define EDGEFL_MAX_LAYERS 2u

struct network_shape {
    size_t num_layers; /* 2 with a hidden layer, else 1 */
    size_t num_inputs;
    size_t num_outputs[EDGEFL_MAX_LAYERS];
};

/* A caller's values of each layer. */
struct network_values {
    edgefl_model layers[EDGEFL_MAX_LAYERS];
};

struct network {
    size_t num_layers;
    struct layer layers[EDGEFL_MAX_LAYERS];
};

static inline struct network_shape softmax_shape(size_t num_features, size_t num_classes) {
    return (struct network_shape){1, num_features, {num_classes, 0}};
}

static inline struct network_shape mlp_shape(size_t num_features, size_t num_hidden, size_t num_classes) {
    return (struct network_shape){2, num_features, {num_hidden, num_classes}};
}

static inline size_t network_num_classes(const struct network_shape *shape) {
    return shape->num_outputs[shape->num_layers - 1];
}

/* 0 without a hidden layer. */
static inline size_t network_num_hidden(const struct network_shape *shape) {
    return shape->num_layers > 1 ? shape->num_outputs[0] : 0;
}

/* Whether the numbers of classes and hidden units are legal: asked before anything is laid out. */
bool network_shape_ok(const struct network_shape *shape);

/* The four parts of an mlp's parameters. */
struct network_values mlp_values(const struct network_shape *shape, const float *parameters);

struct network network_take(struct arena *arena, const struct network_shape *shape);

void network_clear(struct network *network);

/* What follows goes layer by layer. A place's row counts the outputs of both layers, the hidden units first. */

/* EDGEFL_BAD_START_WEIGHT, with its place, for a value that is not finite. */
edgefl_status network_load(struct network *network, const struct network_values *values, edgefl_place *place);

/* EDGEFL_BAD_CORRECTION, with its place, for the first value that is not finite. */
edgefl_status network_check_correction(const struct network *network, const struct network_values *correction,
                                       edgefl_place *place);

/* EDGEFL_NON_FINITE_WEIGHT, with its place, for the first value that is not finite. */
edgefl_status network_check_finite(const struct network *network, edgefl_place *place);

/* flush of every value. */
void network_flush(const edgefl_variant *variant, struct network *network);

#endif
