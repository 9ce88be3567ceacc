#include "layer.h"

#include "numeric.h"

struct layer layer_take(struct arena *arena, size_t num_classes, size_t num_features) {
    struct layer layer = {num_classes, num_features, padded(num_features), NULL, NULL};
    /* Within 2^12 * 2^16 elements: no overflow even of 32 bits. */
    layer.kernel = arena_take(arena, num_classes * layer.stride, sizeof(float));
    layer.bias = arena_take(arena, num_classes, sizeof(float));
    return layer;
}

void layer_clear(struct layer *layer) {
    memset(layer->kernel, 0, layer->num_classes * layer->stride * sizeof(float));
    memset(layer->bias, 0, layer->num_classes * sizeof(float));
}

edgefl_status layer_load(struct layer *layer, const edgefl_model *model, edgefl_place *place) {
    const size_t num_features = layer->num_features;
    bool finite = true;
    for (size_t c = 0; c < layer->num_classes; c++) {
        const float *from = model->kernel + c * num_features;
        float *to = layer->kernel + c * layer->stride;
        uint32_t tops = 0; /* a top bit when a value is not finite; here, because a large model leaves the cache */
        for (size_t f = 0; f < num_features; f++) {
            tops |= (float_bits(from[f]) & 0x7fffffffu) + 0x00800000u;
            to[f] = flush(from[f]);
        }
        memset(to + num_features, 0, (layer->stride - num_features) * sizeof(float));
        layer->bias[c] = flush(model->bias[c]);
        finite = finite && tops >> 31 == 0 && is_finite(model->bias[c]);
    }
    return finite || layer_check_finite(layer, place) == EDGEFL_OK ? EDGEFL_OK : EDGEFL_BAD_START_WEIGHT;
}

/* Class by class, its features before its bias: the first that is not finite is the place. */
static bool all_finite(const edgefl_model *model, size_t stride, size_t num_features, edgefl_place *place) {
    for (size_t c = 0; c < model->num_classes; c++) {
        const size_t bad = edgefl_first_non_finite(model->kernel + c * stride, num_features);
        if (bad < num_features || !is_finite(model->bias[c])) {
            place->row = c;
            place->column = bad;
            return false;
        }
    }
    return true;
}

edgefl_status correction_check(const edgefl_model *correction, size_t num_features, edgefl_place *place) {
    return all_finite(correction, num_features, num_features, place) ? EDGEFL_OK : EDGEFL_BAD_CORRECTION;
}

edgefl_status layer_check_finite(const struct layer *layer, edgefl_place *place) {
    const edgefl_model values = {layer->num_classes, layer->kernel, layer->bias};
    return all_finite(&values, layer->stride, layer->num_features, place) ? EDGEFL_OK : EDGEFL_NON_FINITE_WEIGHT;
}

void layer_store(const struct layer *layer, float *kernel, float *bias) {
    for (size_t c = 0; c < layer->num_classes; c++) {
        memcpy(kernel + c * layer->num_features, layer->kernel + c * layer->stride,
               layer->num_features * sizeof(float));
    }
    memcpy(bias, layer->bias, layer->num_classes * sizeof(float));
}

struct tile tile_take(struct arena *arena, const edgefl_features *features) {
    struct tile tile = {NULL, {NULL}};
    if (features_need_loading(features)) {
        const size_t rows = features->num_rows < EDGEFL_TILE_ROWS ? features->num_rows : EDGEFL_TILE_ROWS;
        tile.loaded = arena_take(arena, rows * features->num_features, sizeof(float));
    }
    return tile;
}

void tile_load(struct tile *tile, const edgefl_variant *variant, const edgefl_features *features, const uint32_t *order,
               size_t first, size_t num_rows) {
    const size_t step = tile->loaded != NULL ? features->num_features : 0;
    for (size_t i = 0; i < num_rows; i++) {
        const size_t row = order != NULL ? order[first + i] : first + i;
        tile->rows[i] = features_row(variant, features, row, step ? tile->loaded + i * step : NULL);
    }
}

bool tile_ok(const struct tile *tile, const edgefl_variant *variant, const edgefl_features *features,
             const uint32_t *order, size_t first, size_t num_rows) {
    if (order == NULL && !features_need_loading(features)) { /* one after another: in one stream */
        const size_t n = num_rows * features->num_features;
        return variant->first_bad_feature(tile->rows[0], n) == n;
    }
    bool ok = true;
    for (size_t i = 0; ok && i < num_rows; i++) {
        ok = features_row_ok(variant, features, order != NULL ? order[first + i] : first + i, tile->rows[i]);
    }
    return ok;
}

static void load_and_logits(struct tile *tile, const edgefl_variant *variant, const edgefl_features *features,
                            const uint32_t *order, size_t first, size_t num_rows, const struct layer *layer,
                            float *logits) {
    const uint8_t *rows[EDGEFL_TILE_ROWS];
    for (size_t i = 0; i < num_rows; i++) {
        rows[i] = features_stored(features, order != NULL ? order[first + i] : first + i);
        tile->rows[i] = tile->loaded + i * features->num_features;
    }
    const edgefl_stored_rows stored = {.rows = rows,
                                       .is_signed = features->dtype == EDGEFL_INT8,
                                       .scale = features->scale,
                                       .zero_point = features->zero_point};
    variant->load_and_logits(&stored, num_rows, features->num_features, tile->loaded, layer->kernel, layer->stride,
                             layer->bias, layer->num_classes, logits);
}

bool tile_load_logits(struct tile *tile, const edgefl_variant *variant, const edgefl_features *features,
                      const uint32_t *order, size_t first, size_t num_rows, bool check, const struct layer *layer,
                      float *logits) {
    if (variant->load_and_logits != NULL && features->dtype != EDGEFL_FLOAT32 && features->mean == NULL) {
        load_and_logits(tile, variant, features, order, first, num_rows, layer, logits);
        return true; /* 8-bit values without standardization are all good once the scale is */
    }
    tile_load(tile, variant, features, order, first, num_rows);
    /* Before the logits: rows that no cache holds arrive faster in the check's one stream than in the four of a block
     * of examples. */
    if (check && !tile_ok(tile, variant, features, order, first, num_rows)) {
        return false;
    }
    variant->logits(tile->rows, num_rows, layer->num_features, layer->kernel, layer->stride, layer->bias,
                    layer->num_classes, logits);
    return true;
}

edgefl_status labels_check(const int32_t *labels, size_t num_rows, size_t num_classes, edgefl_place *place) {
    for (size_t row = 0; row < num_rows; row++) {
        if (labels[row] < 0 || (size_t)labels[row] >= num_classes) {
            place->row = row;
            place->column = 0;
            return EDGEFL_BAD_LABEL;
        }
    }
    return EDGEFL_OK;
}
