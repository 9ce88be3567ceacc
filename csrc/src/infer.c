/* Evaluation and prediction: the forward pass alone, tile by tile. Each tile's features are checked where they are
 * loaded, and a call that fails for any reason then checks them all, as train.c says. */
#include "hidden.h"
#include "network.h"
#include "numeric.h"
#include "rows.h"

struct inference {
    const edgefl_variant *variant;
    const edgefl_features *features;
    struct network network;
    float *values;      /* (EDGEFL_TILE_ROWS, num_classes): logits, then probabilities */
    float *activations; /* (EDGEFL_TILE_ROWS, num_hidden) */
    struct tile tile;
};

static void take_scratch(struct inference *inference, struct arena *arena, const edgefl_features *features,
                         const struct network_shape *shape) {
    inference->values = arena_take(arena, EDGEFL_TILE_ROWS, network_num_classes(shape) * sizeof(float));
    inference->activations = arena_take(arena, EDGEFL_TILE_ROWS, network_num_hidden(shape) * sizeof(float));
    inference->tile = tile_take(arena, features);
    inference->network = network_take(arena, shape);
}

static bool arguments_ok(const edgefl_features *features, const struct network_shape *shape) {
    return features_shape_ok(features) && network_shape_ok(shape);
}

static size_t scratch_bytes_of(const edgefl_features *features, const struct network_shape *shape) {
    if (!arguments_ok(features, shape)) {
        return 0; /* the call itself names the fault */
    }
    struct inference inference;
    struct arena arena = arena_open(NULL);
    take_scratch(&inference, &arena, features, shape);
    return arena_bytes(&arena);
}

/* Lays out the scratch, loads the model and checks all but the rows. Legal arguments. */
static edgefl_status prepare(struct inference *inference, const struct network_shape *shape,
                             const struct network_values *model, void *scratch, size_t scratch_bytes,
                             edgefl_place *place) {
    const edgefl_features *features = inference->features;
    if (scratch_bytes < scratch_bytes_of(features, shape)) {
        return EDGEFL_SCRATCH_TOO_SMALL;
    }
    struct arena arena = arena_open(scratch);
    take_scratch(inference, &arena, features, shape);
    const edgefl_status status = network_load(&inference->network, model, place);
    return status == EDGEFL_OK ? features_check_description(inference->variant, features) : status;
}

/* After prepare: the status of the call, a fault of the features first. */
static edgefl_status finish(struct inference *inference, edgefl_status status, edgefl_place *place) {
    if (status == EDGEFL_OK) {
        return status; /* all tiles passed */
    }
    edgefl_place checked_place = {0, 0};
    const edgefl_status checked =
        features_check(inference->variant, inference->features, inference->tile.loaded, &checked_place);
    if (checked != EDGEFL_OK) {
        *place = checked_place;
        return checked;
    }
    return status;
}

/* Probabilities of rows first .. first + num_rows into values. */
static edgefl_status forward(struct inference *inference, size_t first, size_t num_rows, const int32_t *labels,
                             float *values, float *loss, uint32_t *predicted, edgefl_place *place) {
    const edgefl_variant *variant = inference->variant;
    const struct network *network = &inference->network;
    const struct layer *layer = &network->layers[0];
    const bool hidden = network->num_layers > 1;
    size_t finite = num_rows;
    /* Not tile_load_logits: nothing has fetched these rows, and 8-bit ones arrive faster one after the other. */
    tile_load(&inference->tile, variant, inference->features, NULL, first, num_rows);
    if (!tile_ok(&inference->tile, variant, inference->features, NULL, first, num_rows)) {
        return EDGEFL_BAD_FEATURE; /* finish finds which, and the place */
    }
    variant->logits(inference->tile.rows, num_rows, layer->num_features, layer->kernel, layer->stride, layer->bias,
                    layer->num_classes, hidden ? inference->activations : values);
    if (hidden) {
        finite = hidden_to_logits(variant, &network->layers[1], inference->activations, num_rows, values);
    }
    const size_t num_classes = network->layers[network->num_layers - 1].num_classes;
    const size_t bad = finite > 0 ? variant->softmax(values, finite, num_classes, labels, loss, predicted) : 0;
    if (bad < num_rows) {
        place->row = first + bad;
        place->column = 0;
        return EDGEFL_NON_FINITE_LOGIT;
    }
    return EDGEFL_OK;
}

static size_t rows_of_tile(const edgefl_features *features, size_t first) {
    const size_t left = features->num_rows - first;
    return left < EDGEFL_TILE_ROWS ? left : EDGEFL_TILE_ROWS;
}

static edgefl_status evaluate(struct inference *inference, const struct network_shape *shape, const int32_t *labels,
                              const struct network_values *model, void *scratch, size_t scratch_bytes,
                              uint64_t *confusion, double *loss_sum, edgefl_place *place) {
    const edgefl_features *features = inference->features;
    const size_t num_classes = network_num_classes(shape);
    edgefl_status status = prepare(inference, shape, model, scratch, scratch_bytes, place);
    if (status != EDGEFL_OK) {
        return status;
    }
    *loss_sum = 0.0;
    status = labels_check(labels, features->num_rows, num_classes, place);
    for (size_t first = 0; status == EDGEFL_OK && first < features->num_rows; first += EDGEFL_TILE_ROWS) {
        const size_t rows = rows_of_tile(features, first);
        float loss[EDGEFL_TILE_ROWS];
        uint32_t predicted[EDGEFL_TILE_ROWS];
        status = forward(inference, first, rows, labels + first, inference->values, loss, predicted, place);
        for (size_t i = 0; status == EDGEFL_OK && i < rows; i++) {
            *loss_sum += (double)loss[i];
            confusion[(size_t)labels[first + i] * num_classes + predicted[i]] += 1;
        }
    }
    return finish(inference, status, place);
}

static edgefl_status predict(struct inference *inference, const struct network_shape *shape,
                             const struct network_values *model, void *scratch, size_t scratch_bytes,
                             float *probabilities, edgefl_place *place) {
    const edgefl_features *features = inference->features;
    edgefl_status status = prepare(inference, shape, model, scratch, scratch_bytes, place);
    if (status != EDGEFL_OK) {
        return status;
    }
    for (size_t first = 0; status == EDGEFL_OK && first < features->num_rows; first += EDGEFL_TILE_ROWS) {
        uint32_t predicted[EDGEFL_TILE_ROWS];
        status = forward(inference, first, rows_of_tile(features, first), NULL,
                         probabilities + first * network_num_classes(shape), NULL, predicted, place);
    }
    return finish(inference, status, place);
}

size_t edgefl_softmax_infer_scratch_bytes(const edgefl_features *features, size_t num_classes) {
    const struct network_shape shape = softmax_shape(features->num_features, num_classes);
    return scratch_bytes_of(features, &shape);
}

edgefl_status edgefl_softmax_evaluate(const edgefl_variant *variant, const edgefl_features *features,
                                      const int32_t *labels, const edgefl_model *model, void *scratch,
                                      size_t scratch_bytes, uint64_t *confusion, double *loss_sum,
                                      edgefl_place *place) {
    const struct network_shape shape = softmax_shape(features->num_features, model->num_classes);
    if (!arguments_ok(features, &shape)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    struct inference inference = {.variant = variant, .features = features};
    const struct network_values values = {{*model}};
    return evaluate(&inference, &shape, labels, &values, scratch, scratch_bytes, confusion, loss_sum, place);
}

edgefl_status edgefl_softmax_predict(const edgefl_variant *variant, const edgefl_features *features,
                                     const edgefl_model *model, void *scratch, size_t scratch_bytes,
                                     float *probabilities, edgefl_place *place) {
    const struct network_shape shape = softmax_shape(features->num_features, model->num_classes);
    if (!arguments_ok(features, &shape)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    struct inference inference = {.variant = variant, .features = features};
    const struct network_values values = {{*model}};
    return predict(&inference, &shape, &values, scratch, scratch_bytes, probabilities, place);
}

size_t edgefl_mlp_infer_scratch_bytes(const edgefl_features *features, size_t num_hidden, size_t num_classes) {
    const struct network_shape shape = mlp_shape(features->num_features, num_hidden, num_classes);
    return scratch_bytes_of(features, &shape);
}

edgefl_status edgefl_mlp_evaluate(const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
                                  const edgefl_mlp *model, void *scratch, size_t scratch_bytes, uint64_t *confusion,
                                  double *loss_sum, edgefl_place *place) {
    const struct network_shape shape = mlp_shape(features->num_features, model->num_hidden, model->num_classes);
    if (!arguments_ok(features, &shape)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    struct inference inference = {.variant = variant, .features = features};
    const struct network_values values = mlp_values(&shape, model->parameters);
    return evaluate(&inference, &shape, labels, &values, scratch, scratch_bytes, confusion, loss_sum, place);
}

edgefl_status edgefl_mlp_predict(const edgefl_variant *variant, const edgefl_features *features,
                                 const edgefl_mlp *model, void *scratch, size_t scratch_bytes, float *probabilities,
                                 edgefl_place *place) {
    const struct network_shape shape = mlp_shape(features->num_features, model->num_hidden, model->num_classes);
    if (!arguments_ok(features, &shape)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    struct inference inference = {.variant = variant, .features = features};
    const struct network_values values = mlp_values(&shape, model->parameters);
    return predict(&inference, &shape, &values, scratch, scratch_bytes, probabilities, place);
}
