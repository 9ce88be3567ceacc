/* Evaluation and prediction: the forward pass alone, tile by tile. Each tile's features are checked where they are
 * loaded, and a call that fails for any reason then checks them all, as train.c says. */
#include "layer.h"
#include "numeric.h"
#include "rows.h"

struct inference {
    struct layer layer;
    float *values; /* (EDGEFL_TILE_ROWS, num_classes): logits, then probabilities */
    struct tile tile;
};

static void take_scratch(struct inference *inference, struct arena *arena, const edgefl_features *features,
                         size_t num_classes) {
    inference->values = arena_take(arena, EDGEFL_TILE_ROWS, num_classes * sizeof(float));
    inference->tile = tile_take(arena, features);
    inference->layer = layer_take(arena, num_classes, features->num_features);
}

static bool arguments_ok(const edgefl_features *features, size_t num_classes) {
    return features_shape_ok(features) && num_classes >= 1 && num_classes <= EDGEFL_MAX_CLASSES;
}

size_t edgefl_softmax_infer_scratch_bytes(const edgefl_features *features, size_t num_classes) {
    if (!arguments_ok(features, num_classes)) {
        return 0; /* the call itself names the fault */
    }
    struct inference inference;
    struct arena arena = arena_open(NULL);
    take_scratch(&inference, &arena, features, num_classes);
    return arena_bytes(&arena);
}

/* Lays out the scratch, loads the model and checks all but the rows. */
static edgefl_status prepare(struct inference *inference, const edgefl_variant *variant,
                             const edgefl_features *features, const edgefl_model *model, void *scratch,
                             size_t scratch_bytes, edgefl_place *place) {
    if (!arguments_ok(features, model->num_classes)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (scratch_bytes < edgefl_softmax_infer_scratch_bytes(features, model->num_classes)) {
        return EDGEFL_SCRATCH_TOO_SMALL;
    }
    struct arena arena = arena_open(scratch);
    take_scratch(inference, &arena, features, model->num_classes);
    const edgefl_status status = layer_load(&inference->layer, model, place);
    return status == EDGEFL_OK ? features_check_description(variant, features) : status;
}

/* After prepare: the status of the call, a fault of the features first. */
static edgefl_status finish(struct inference *inference, const edgefl_variant *variant, const edgefl_features *features,
                            edgefl_status status, edgefl_place *place) {
    if (status == EDGEFL_OK) {
        return status; /* all tiles passed */
    }
    edgefl_place checked_place = {0, 0};
    const edgefl_status checked = features_check(variant, features, inference->tile.loaded, &checked_place);
    if (checked != EDGEFL_OK) {
        *place = checked_place;
        return checked;
    }
    return status;
}

/* Probabilities of rows first .. first + num_rows into values. */
static edgefl_status forward(struct inference *inference, const edgefl_variant *variant,
                             const edgefl_features *features, size_t first, size_t num_rows, const int32_t *labels,
                             float *values, float *loss, uint32_t *predicted, edgefl_place *place) {
    const struct layer *layer = &inference->layer;
    /* Not tile_load_logits: nothing has fetched these rows, and 8-bit ones arrive faster one after the other. */
    tile_load(&inference->tile, variant, features, NULL, first, num_rows);
    if (!tile_ok(&inference->tile, variant, features, NULL, first, num_rows)) {
        return EDGEFL_BAD_FEATURE; /* finish finds which, and the place */
    }
    variant->logits(inference->tile.rows, num_rows, layer->num_features, layer->kernel, layer->stride, layer->bias,
                    layer->num_classes, values);
    const size_t bad = variant->softmax(values, num_rows, layer->num_classes, labels, loss, predicted);
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

edgefl_status edgefl_softmax_evaluate(const edgefl_variant *variant, const edgefl_features *features,
                                      const int32_t *labels, const edgefl_model *model, void *scratch,
                                      size_t scratch_bytes, uint64_t *confusion, double *loss_sum,
                                      edgefl_place *place) {
    struct inference inference;
    edgefl_status status = prepare(&inference, variant, features, model, scratch, scratch_bytes, place);
    if (status != EDGEFL_OK) {
        return status;
    }
    *loss_sum = 0.0;
    status = labels_check(labels, features->num_rows, model->num_classes, place);
    for (size_t first = 0; status == EDGEFL_OK && first < features->num_rows; first += EDGEFL_TILE_ROWS) {
        const size_t rows = rows_of_tile(features, first);
        float loss[EDGEFL_TILE_ROWS];
        uint32_t predicted[EDGEFL_TILE_ROWS];
        status = forward(&inference, variant, features, first, rows, labels + first, inference.values, loss, predicted,
                         place);
        for (size_t i = 0; status == EDGEFL_OK && i < rows; i++) {
            *loss_sum += (double)loss[i];
            confusion[(size_t)labels[first + i] * model->num_classes + predicted[i]] += 1;
        }
    }
    return finish(&inference, variant, features, status, place);
}

edgefl_status edgefl_softmax_predict(const edgefl_variant *variant, const edgefl_features *features,
                                     const edgefl_model *model, void *scratch, size_t scratch_bytes,
                                     float *probabilities, edgefl_place *place) {
    struct inference inference;
    edgefl_status status = prepare(&inference, variant, features, model, scratch, scratch_bytes, place);
    if (status != EDGEFL_OK) {
        return status;
    }
    for (size_t first = 0; status == EDGEFL_OK && first < features->num_rows; first += EDGEFL_TILE_ROWS) {
        uint32_t predicted[EDGEFL_TILE_ROWS];
        status = forward(&inference, variant, features, first, rows_of_tile(features, first), NULL,
                         probabilities + first * model->num_classes, NULL, predicted, place);
    }
    return finish(&inference, variant, features, status, place);
}
