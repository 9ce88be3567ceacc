#include "hidden.h"

#include "numeric.h"

struct back_propagation back_propagation_take(struct arena *arena, const struct network_shape *shape) {
    const size_t num_hidden = network_num_hidden(shape);
    struct back_propagation back = {NULL, NULL, NULL, NULL};
    if (num_hidden > 0) {
        back.gradients = arena_take(arena, EDGEFL_TILE_ROWS * num_hidden, sizeof(float));
        back.multipliers = arena_take(arena, network_num_classes(shape) * num_hidden, sizeof(float));
        back.transposed = arena_take(arena, EDGEFL_TILE_ROWS * EDGEFL_TILE_ROWS, sizeof(float));
        back.sums = arena_take(arena, EDGEFL_TILE_ROWS * padded(num_hidden), sizeof(float));
    }
    return back;
}

/* False when one of the values is not finite. An activation multiplies weights: it is +0 or at least 2^-30. */
static bool rectify(float *values, size_t n) {
    uint32_t tops = 0; /* a top bit when a value is not finite */
    for (size_t j = 0; j < n; j++) {
        tops |= (float_bits(values[j]) & 0x7fffffffu) + 0x00800000u;
        values[j] = values[j] >= EDGEFL_MIN_MAGNITUDE ? values[j] : 0.0f;
    }
    return tops >> 31 == 0;
}

size_t hidden_to_logits(const edgefl_variant *variant, const struct layer *output, float *activations, size_t num_rows,
                        float *logits) {
    const size_t num_hidden = output->num_features;
    const float *rows[EDGEFL_TILE_ROWS];
    size_t finite = 0;
    while (finite < num_rows && rectify(activations + finite * num_hidden, num_hidden)) {
        finite++;
    }
    if (finite > 0) {
        point_at_rows(rows, activations, finite, num_hidden);
        variant->logits(rows, finite, num_hidden, output->kernel, output->stride, output->bias, output->num_classes,
                        logits);
    }
    return finite;
}

void back_propagation_open(struct back_propagation *back, const struct layer *output) {
    const size_t num_hidden = output->num_features;
    for (size_t c = 0; c < output->num_classes; c++) {
        const float *from = output->kernel + c * output->stride;
        float *to = back->multipliers + c * num_hidden;
        for (size_t j = 0; j < num_hidden; j++) {
            to[j] = __builtin_fabsf(from[j]) < EDGEFL_MIN_MAGNITUDE ? 0.0f : from[j];
        }
    }
}

void back_propagate(struct back_propagation *back, const edgefl_variant *variant, const float *output_gradients,
                    const float *activations, size_t num_rows, size_t num_hidden, size_t num_classes) {
    const size_t stride = padded(num_hidden);
    memset(back->sums, 0, num_rows * stride * sizeof(float));
    /* An outer product with the roles exchanged: a class is a row, whose features are the weights of the hidden units,
     * and each example has its own row of sums. */
    for (size_t first = 0; first < num_classes; first += EDGEFL_TILE_ROWS) {
        const size_t left = num_classes - first;
        const size_t count = left < EDGEFL_TILE_ROWS ? left : EDGEFL_TILE_ROWS;
        const float *rows[EDGEFL_TILE_ROWS];
        point_at_rows(rows, back->multipliers + first * num_hidden, count, num_hidden);
        for (size_t c = 0; c < count; c++) {
            for (size_t i = 0; i < num_rows; i++) {
                back->transposed[c * num_rows + i] = output_gradients[i * num_classes + first + c];
            }
        }
        variant->add_outer(rows, count, num_hidden, back->transposed, num_rows, back->sums, stride);
    }
    for (size_t i = 0; i < num_rows; i++) {
        const float *sums = back->sums + i * stride;
        const float *active = activations + i * num_hidden;
        float *to = back->gradients + i * num_hidden;
        for (size_t j = 0; j < num_hidden; j++) {
            const float gradient = flush(sums[j]);
            to[j] = active[j] > 0.0f ? gradient : 0.0f;
        }
    }
}
