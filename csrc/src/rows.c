#include "rows.h"

#include "numeric.h"

/* Any standardized result below this is +0: it is a feature of the layer, and follows the features' rule. */
static inline float flush_feature(float v) { return __builtin_fabsf(v) < EDGEFL_MIN_MAGNITUDE ? 0.0f : v; }

bool features_need_loading(const edgefl_features *features) {
    return features->dtype != EDGEFL_FLOAT32 || features->mean != NULL;
}

const float *features_row(const edgefl_features *features, size_t row, float *buffer) {
    const size_t n = features->num_features;
    const float *values = buffer;
    if (features->dtype == EDGEFL_FLOAT32) {
        values = (const float *)features->data + row * n;
    } else if (features->dtype == EDGEFL_UINT8) {
        const uint8_t *stored = (const uint8_t *)features->data + row * n;
        for (size_t f = 0; f < n; f++) {
            buffer[f] = features->scale * (float)((int32_t)stored[f] - features->zero_point);
        }
    } else {
        const int8_t *stored = (const int8_t *)features->data + row * n;
        for (size_t f = 0; f < n; f++) {
            buffer[f] = features->scale * (float)((int32_t)stored[f] - features->zero_point);
        }
    }
    if (features->mean == NULL) {
        return values;
    }
    for (size_t f = 0; f < n; f++) {
        buffer[f] = flush_feature((values[f] - features->mean[f]) * features->inverse_spread[f]);
    }
    return buffer;
}

bool features_shape_ok(const edgefl_features *features) {
    return features->num_rows >= 1 && features->num_rows <= EDGEFL_MAX_ROWS && features->num_features >= 1 &&
           features->num_features <= EDGEFL_MAX_FEATURES &&
           (features->dtype == EDGEFL_FLOAT32 || features->dtype == EDGEFL_UINT8 || features->dtype == EDGEFL_INT8);
}

static bool quantization_ok(const edgefl_features *features) {
    if (features->dtype == EDGEFL_FLOAT32) {
        return true;
    }
    /* The largest |stored - zero_point| of legal zero points is 383. */
    return features->scale >= EDGEFL_MIN_MAGNITUDE && is_finite(features->scale * 383.0f) &&
           features->zero_point >= -128 && features->zero_point <= 255;
}

static edgefl_status at(edgefl_place *place, size_t row, size_t column, edgefl_status status) {
    place->row = row;
    place->column = column;
    return status;
}

edgefl_status features_check(const edgefl_variant *variant, const edgefl_features *features, float *buffer,
                             edgefl_place *place) {
    const size_t n = features->num_features;
    if (!features_shape_ok(features) || !quantization_ok(features) ||
        (features->mean == NULL) != (features->inverse_spread == NULL)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (features->mean != NULL && (variant->first_bad_feature(features->mean, n) < n ||
                                   variant->first_bad_feature(features->inverse_spread, n) < n)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    /* 8-bit values without standardization are all good once the scale is. */
    for (size_t row = 0; features->dtype == EDGEFL_FLOAT32 && row < features->num_rows; row++) {
        const size_t bad = variant->first_bad_feature((const float *)features->data + row * n, n);
        if (bad < n) {
            return at(place, row, bad, EDGEFL_BAD_FEATURE);
        }
    }
    for (size_t row = 0; features->mean != NULL && row < features->num_rows; row++) {
        const size_t bad = variant->first_bad_feature(features_row(features, row, buffer), n);
        if (bad < n) {
            return at(place, row, bad, EDGEFL_BAD_STANDARDIZED);
        }
    }
    return EDGEFL_OK;
}
