/* The working copy of a softmax layer: aligned, padded, with stored values flushed. */
#ifndef EDGEFL_LAYER_H
#define EDGEFL_LAYER_H

#include "arena.h"
#include "edgefl.h"
#include "numeric.h"
#include "rows.h"
#include "variant.h"

struct layer {
    size_t num_classes;
    size_t num_features;
    size_t stride; /* num_features rounded up to a multiple of 16; the padding is +0 */
    float *kernel; /* (num_classes, stride) */
    float *bias;   /* (num_classes,) */
};

/* Rows that are processed together: pointers to them, and room to convert them. */
struct tile {
    float *loaded; /* (EDGEFL_TILE_ROWS, num_features), or NULL when rows are used where they lie */
    const float *rows[EDGEFL_TILE_ROWS];
};

/* The stride of a row of so many values: up to a multiple of 16. */
static inline size_t padded(size_t n) { return (n + EDGEFL_LANES - 1) / EDGEFL_LANES * EDGEFL_LANES; }

/* To be taken after the tile and what a forward pass writes: the vector that holds the end of a row of these reaches
 * past it, and finds the layer there. It uses none of that, but where the page had never been written each such load or
 * store would cost Zen 4 some 500 cycles. */
struct layer layer_take(struct arena *arena, size_t num_classes, size_t num_features);

/* Every value +0, padding included. */
void layer_clear(struct layer *layer);

/* Copies a model in. EDGEFL_BAD_START_WEIGHT, with its place, for a value that is not finite. */
edgefl_status layer_load(struct layer *layer, const edgefl_model *model, edgefl_place *place);

/* EDGEFL_BAD_CORRECTION, with its place, for the first value that is not finite. */
edgefl_status correction_check(const edgefl_model *correction, size_t num_features, edgefl_place *place);

/* The first value that is not finite, as EDGEFL_NON_FINITE_WEIGHT with its place. */
edgefl_status layer_check_finite(const struct layer *layer, edgefl_place *place);

/* Copies the layer out, without the padding. */
void layer_store(const struct layer *layer, float *kernel, float *bias);

struct tile tile_take(struct arena *arena, const edgefl_features *features);

/* Points tile->rows[0 .. num_rows) to rows order[i], or first + i when order is NULL. */
void tile_load(struct tile *tile, const edgefl_variant *variant, const edgefl_features *features, const uint32_t *order,
               size_t first, size_t num_rows);

/* features_row_ok of each row of the tile, which tile_load has loaded with the same arguments. */
bool tile_ok(const struct tile *tile, const edgefl_variant *variant, const edgefl_features *features,
             const uint32_t *order, size_t first, size_t num_rows);

/* tile_load, and the logits (num_rows, C) that the layer gives for its rows. With `check`, false and no logits when
 * features_row_ok does not hold for a row. */
bool tile_load_logits(struct tile *tile, const edgefl_variant *variant, const edgefl_features *features,
                      const uint32_t *order, size_t first, size_t num_rows, bool check, const struct layer *layer,
                      float *logits);

edgefl_status labels_check(const int32_t *labels, size_t num_rows, size_t num_classes, edgefl_place *place);

#endif
