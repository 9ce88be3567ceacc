/* Loading rows of features as float32, and the checks that precede any use of them. */
#ifndef EDGEFL_ROWS_H
#define EDGEFL_ROWS_H

#include "edgefl.h"
#include "variant.h"

/* Whether rows have to be converted; otherwise they are used where they lie. */
bool features_need_loading(const edgefl_features *features);

/* The bytes of a row as it is stored. */
static inline size_t features_row_bytes(const edgefl_features *features) {
    return features->num_features * (features->dtype == EDGEFL_FLOAT32 ? sizeof(float) : 1u);
}

/* Where row `row` is stored. */
static inline const void *features_stored(const edgefl_features *features, size_t row) {
    return (const unsigned char *)features->data + row * features_row_bytes(features);
}

/* Row `row` as float32. buffer: (num_features,), written and returned when the rows need loading. */
const float *features_row(const edgefl_variant *variant, const edgefl_features *features, size_t row, float *buffer);

/* The part of features_check that does not look at rows. */
edgefl_status features_check_description(const edgefl_variant *variant, const edgefl_features *features);

/* Shape, quantization and standardization are legal, and every feature can be used.
 * buffer: (num_features,) of scratch, used when the rows need loading. */
edgefl_status features_check(const edgefl_variant *variant, const edgefl_features *features, float *buffer,
                             edgefl_place *place);

/* Whether the shape is legal: asked before the scratch is laid out. */
bool features_shape_ok(const edgefl_features *features);

/* Whether features_check would pass this row. loaded: what features_row gave for it. */
bool features_row_ok(const edgefl_variant *variant, const edgefl_features *features, size_t row, const float *loaded);

#endif
