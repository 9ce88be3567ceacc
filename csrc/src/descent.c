#include "descent.h"

#include "numeric.h"

bool descent_has_terms(const struct descent *descent) {
    return descent->options->l2 > 0.0f || descent->options->proximal > 0.0f || descent->has_correction;
}

bool descent_is_direct(const struct descent *descent) {
    return !descent_has_terms(descent) && descent->options->momentum <= 0.0f && descent->options->clip_norm <= 0.0f;
}

/* Adds the pull of l2 (kernel) and of the proximal term (kernel and bias), then the correction, to one layer. */
static void add_terms(const struct descent *descent, size_t l, const struct layer *layer) {
    const edgefl_variant *variant = descent->variant;
    const struct layer *gradient = &descent->gradient.layers[l];
    const edgefl_model *start = &descent->start.layers[l];
    const edgefl_model *correction = &descent->correction.layers[l];
    const float l2 = descent->options->l2;
    const float proximal = descent->options->proximal;
    const size_t num_features = layer->num_features;
    if (l2 > 0.0f) {
        variant->add_scaled(gradient->kernel, l2, layer->kernel, layer->num_classes * layer->stride);
    }
    if (proximal > 0.0f) {
        for (size_t c = 0; c < layer->num_classes; c++) {
            variant->add_scaled_difference(gradient->kernel + c * layer->stride, proximal,
                                           layer->kernel + c * layer->stride, start->kernel + c * num_features,
                                           num_features);
        }
        variant->add_scaled_difference(gradient->bias, proximal, layer->bias, start->bias, layer->num_classes);
    }
    if (descent->has_correction) {
        for (size_t c = 0; c < layer->num_classes; c++) {
            variant->add_stored(gradient->kernel + c * layer->stride, correction->kernel + c * num_features,
                                num_features);
        }
        variant->add_stored(gradient->bias, correction->bias, layer->num_classes);
    }
}

/* Scales values as a clipped gradient. */
static void scale(float *values, size_t n, float factor) {
    for (size_t j = 0; j < n; j++) {
        values[j] = flush(values[j] * factor);
    }
}

/* The norm is that of one vector: layer by layer, the kernel without its padding, then the bias. */
static bool clip(struct network *gradient, float clip_norm) {
    double lanes[EDGEFL_LANES] = {0.0};
    size_t before = 0;
    for (size_t l = 0; l < gradient->num_layers; l++) {
        const struct layer *layer = &gradient->layers[l];
        const size_t num_features = layer->num_features;
        for (size_t c = 0; c < layer->num_classes; c++) {
            edgefl_add_squares(lanes, before, layer->kernel + c * layer->stride, num_features);
            before += num_features;
        }
        edgefl_add_squares(lanes, before, layer->bias, layer->num_classes);
        before += layer->num_classes;
    }
    const double norm = __builtin_sqrt(edgefl_tree_double(lanes));
    if (!(norm > (double)clip_norm)) {
        return true;
    }
    const float factor = (float)((double)clip_norm / norm);
    if (factor < EDGEFL_MIN_MAGNITUDE) {
        return false;
    }
    for (size_t l = 0; l < gradient->num_layers; l++) {
        struct layer *layer = &gradient->layers[l];
        scale(layer->kernel, layer->num_classes * layer->stride, factor);
        scale(layer->bias, layer->num_classes, factor);
    }
    return true;
}

static void move(struct descent *descent, size_t l, struct layer *layer) {
    const edgefl_variant *variant = descent->variant;
    const edgefl_train_options *options = descent->options;
    const size_t num_weights = layer->num_classes * layer->stride;
    const struct layer *gradient = &descent->gradient.layers[l];
    const struct layer *direction = gradient;
    if (options->momentum > 0.0f) {
        const struct layer *velocity = &descent->velocity.layers[l];
        variant->add_momentum(velocity->kernel, options->momentum, gradient->kernel, num_weights);
        variant->add_momentum(velocity->bias, options->momentum, gradient->bias, layer->num_classes);
        direction = velocity;
    }
    variant->descend(layer->kernel, options->learning_rate, direction->kernel, num_weights);
    variant->descend(layer->bias, options->learning_rate, direction->bias, layer->num_classes);
}

bool descent_step(struct descent *descent, struct network *network) {
    if (descent_has_terms(descent)) {
        for (size_t l = 0; l < network->num_layers; l++) {
            add_terms(descent, l, &network->layers[l]);
        }
        network_flush(descent->variant, &descent->gradient);
    }
    if (descent->options->clip_norm > 0.0f && !clip(&descent->gradient, descent->options->clip_norm)) {
        return false;
    }
    for (size_t l = 0; l < network->num_layers; l++) {
        move(descent, l, &network->layers[l]);
    }
    return true;
}
