#include "rows.h"

#include "numeric.h"

/* Any standardized result below this is +0: it is a feature of the layer, and follows the features' rule. */
static inline float flush_feature(float v) { return __builtin_fabsf(v) < EDGEFL_MIN_MAGNITUDE ? 0.0f : v; }

bool features_need_loading(const edgefl_features *features) {
    return features->dtype != EDGEFL_FLOAT32 || features->mean != NULL;
}

static void load_uint8(float *values, const uint8_t *stored, size_t n, float scale, int32_t zero_point) {
    for (size_t f = 0; f < n; f++) {
        values[f] = scale * (float)((int32_t)stored[f] - zero_point);
    }
}

static void load_int8(float *values, const int8_t *stored, size_t n, float scale, int32_t zero_point) {
    for (size_t f = 0; f < n; f++) {
        values[f] = scale * (float)((int32_t)stored[f] - zero_point);
    }
}

const float *features_row(const edgefl_variant *variant, const edgefl_features *features, size_t row, float *buffer) {
    const size_t n = features->num_features;
    const void *stored = features_stored(features, row);
    const float *values = buffer;
    if (features->dtype == EDGEFL_FLOAT32) {
        values = stored;
    } else if (features->dtype == EDGEFL_UINT8) {
        (variant->load_uint8 != NULL ? variant->load_uint8 : load_uint8)(buffer, stored, n, features->scale,
                                                                         features->zero_point);
    } else {
        (variant->load_int8 != NULL ? variant->load_int8 : load_int8)(buffer, stored, n, features->scale,
                                                                      features->zero_point);
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

edgefl_status features_check_description(const edgefl_variant *variant, const edgefl_features *features) {
    const size_t n = features->num_features;
    if (!features_shape_ok(features) || !quantization_ok(features) ||
        (features->mean == NULL) != (features->inverse_spread == NULL)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (features->mean != NULL && (variant->first_bad_feature(features->mean, n) < n ||
                                   variant->first_bad_feature(features->inverse_spread, n) < n)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    return EDGEFL_OK;
}

bool features_row_ok(const edgefl_variant *variant, const edgefl_features *features, size_t row, const float *loaded) {
    const size_t n = features->num_features;
    /* 8-bit values without standardization are all good once the scale is. */
    return (features->dtype != EDGEFL_FLOAT32 || variant->first_bad_feature(features_stored(features, row), n) == n) &&
           (features->mean == NULL || variant->first_bad_feature(loaded, n) == n);
}

edgefl_status features_check(const edgefl_variant *variant, const edgefl_features *features, float *buffer,
                             edgefl_place *place) {
    const size_t n = features->num_features;
    const edgefl_status status = features_check_description(variant, features);
    if (status != EDGEFL_OK) {
        return status;
    }
    for (size_t row = 0; features->dtype == EDGEFL_FLOAT32 && row < features->num_rows; row++) {
        const size_t bad = variant->first_bad_feature(features_stored(features, row), n);
        if (bad < n) {
            return at(place, row, bad, EDGEFL_BAD_FEATURE);
        }
    }
    for (size_t row = 0; features->mean != NULL && row < features->num_rows; row++) {
        const size_t bad = variant->first_bad_feature(features_row(variant, features, row, buffer), n);
        if (bad < n) {
            return at(place, row, bad, EDGEFL_BAD_STANDARDIZED);
        }
    }
    return EDGEFL_OK;
}
