#include "network.h"

bool network_shape_ok(const struct network_shape *shape) {
    const size_t num_classes = network_num_classes(shape);
    return num_classes >= 1 && num_classes <= EDGEFL_MAX_CLASSES &&
           (shape->num_layers == 1 || (shape->num_outputs[0] >= 1 && shape->num_outputs[0] <= EDGEFL_MAX_HIDDEN));
}

struct network_values mlp_values(const struct network_shape *shape, const float *parameters) {
    const size_t num_hidden = shape->num_outputs[0];
    const size_t num_classes = shape->num_outputs[1];
    const float *hidden_bias = parameters + num_hidden * shape->num_inputs;
    const float *kernel = hidden_bias + num_hidden;
    return (struct network_values){
        {{num_hidden, parameters, hidden_bias}, {num_classes, kernel, kernel + num_classes * num_hidden}}};
}

struct network network_take(struct arena *arena, const struct network_shape *shape) {
    struct network network = {.num_layers = shape->num_layers};
    size_t num_inputs = shape->num_inputs;
    for (size_t l = 0; l < shape->num_layers; l++) {
        network.layers[l] = layer_take(arena, shape->num_outputs[l], num_inputs);
        num_inputs = shape->num_outputs[l];
    }
    return network;
}

void network_clear(struct network *network) {
    for (size_t l = 0; l < network->num_layers; l++) {
        layer_clear(&network->layers[l]);
    }
}

edgefl_status network_load(struct network *network, const struct network_values *values, edgefl_place *place) {
    size_t before = 0;
    for (size_t l = 0; l < network->num_layers; l++) {
        const edgefl_status status = layer_load(&network->layers[l], &values->layers[l], place);
        if (status != EDGEFL_OK) {
            place->row += before;
            return status;
        }
        before += network->layers[l].num_classes;
    }
    return EDGEFL_OK;
}

edgefl_status network_check_correction(const struct network *network, const struct network_values *correction,
                                       edgefl_place *place) {
    size_t before = 0;
    for (size_t l = 0; l < network->num_layers; l++) {
        const edgefl_status status = correction_check(&correction->layers[l], network->layers[l].num_features, place);
        if (status != EDGEFL_OK) {
            place->row += before;
            return status;
        }
        before += network->layers[l].num_classes;
    }
    return EDGEFL_OK;
}

edgefl_status network_check_finite(const struct network *network, edgefl_place *place) {
    size_t before = 0;
    for (size_t l = 0; l < network->num_layers; l++) {
        const edgefl_status status = layer_check_finite(&network->layers[l], place);
        if (status != EDGEFL_OK) {
            place->row += before;
            return status;
        }
        before += network->layers[l].num_classes;
    }
    return EDGEFL_OK;
}

void network_flush(const edgefl_variant *variant, struct network *network) {
    for (size_t l = 0; l < network->num_layers; l++) {
        struct layer *layer = &network->layers[l];
        variant->flush(layer->kernel, layer->num_classes * layer->stride);
        variant->flush(layer->bias, layer->num_classes);
    }
}
