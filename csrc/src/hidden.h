/* A hidden layer of rectified linear units: its activations in the forward pass, and its output gradients in the
 * backward pass. The products with the features are those of a softmax layer. docs/adr/0004-mlp.md states the order. */
#ifndef EDGEFL_HIDDEN_H
#define EDGEFL_HIDDEN_H

#include "network.h"

/* What the backward pass needs besides the network. */
struct back_propagation {
    float *multipliers; /* (num_classes, num_hidden): the output kernel as it multiplies output gradients */
    float *transposed;  /* (EDGEFL_TILE_ROWS, EDGEFL_TILE_ROWS): output gradients of some classes, class by class */
    float *sums;        /* (EDGEFL_TILE_ROWS, num_hidden rounded up to a multiple of 16) */
    float *gradients;   /* (EDGEFL_TILE_ROWS, num_hidden): out, the output gradients of the hidden layer */
};

struct back_propagation back_propagation_take(struct arena *arena, const struct network_shape *shape);

/* activations (num_rows, num_hidden): in, sums with bias; out, each one below 2^-30 +0. Then the logits (num_rows,
 * num_classes) of the output layer. Returns how many rows have finite sums before the first that has one that is not;
 * only these have logits. */
size_t hidden_to_logits(const edgefl_variant *variant, const struct layer *output, float *activations, size_t num_rows,
                        float *logits);

/* Takes the output kernel as it is before the batch changes it. */
void back_propagation_open(struct back_propagation *back, const struct layer *output);

/* back->gradients from the output gradients (num_rows, num_classes) and the activations of one tile. */
void back_propagate(struct back_propagation *back, const edgefl_variant *variant, const float *output_gradients,
                    const float *activations, size_t num_rows, size_t num_hidden, size_t num_classes);

/* Points rows[0 .. num_rows) at the rows of values (num_rows, n). */
static inline void point_at_rows(const float **rows, const float *values, size_t num_rows, size_t n) {
    for (size_t i = 0; i < num_rows; i++) {
        rows[i] = values + i * n;
    }
}

#endif
