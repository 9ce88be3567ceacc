/* Mini-batch SGD: the order of the steps, over the loops of a variant.
 *
 * Plain SGD takes the DIRECT path: the output gradient already holds rate / batch size, and each example is subtracted
 * from the weights. With any of l2, momentum, proximal, correction and clip_norm the GRADIENT path sums a gradient
 * first, in an order that edgefl.h states. Both go through the rows in tiles, in order, so a batch of any size needs
 * room for EDGEFL_TILE_ROWS converted rows.
 *
 * Features are checked while the first epoch loads them: a pass of its own over data that no cache holds would cost as
 * much as a third of that epoch. A first epoch that does not come to its end, whatever the reason, is followed by the
 * whole check, whose answer comes first: the caller sees the same as if it had been made before. */
#include "layer.h"
#include "numeric.h"
#include "rows.h"

struct trainer {
    const edgefl_variant *variant;
    const edgefl_features *features;
    const edgefl_train_options *options;
    const int32_t *labels;
    const float *example_weights;
    const edgefl_model *start;
    bool direct;
    bool checked; /* every row's features, by the first epoch or before it */
    struct layer layer;
    struct layer gradient; /* GRADIENT path */
    struct layer velocity; /* with momentum */
    float *coefficients;   /* (batch, num_classes): logits, then probabilities, then output gradients */
    uint32_t *order;       /* with a shuffle key */
    struct tile tile;
};

/* Whether anything is added to the gradient of the examples. */
static bool has_terms(const edgefl_train_options *options) {
    return options->l2 > 0.0f || options->proximal > 0.0f || options->correction != NULL;
}

static bool is_direct(const edgefl_train_options *options) {
    return !has_terms(options) && options->momentum <= 0.0f && options->clip_norm <= 0.0f;
}

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static void take_scratch(struct trainer *trainer, struct arena *arena, size_t num_classes) {
    const edgefl_features *features = trainer->features;
    const size_t num_features = features->num_features;
    const size_t batch = smaller(trainer->options->batch_size, features->num_rows);
    trainer->coefficients = arena_take(arena, batch, num_classes * sizeof(float));
    trainer->tile = tile_take(arena, features);
    if (trainer->options->shuffle_key != NULL) {
        trainer->order = arena_take(arena, features->num_rows, sizeof(uint32_t));
    }
    trainer->layer = layer_take(arena, num_classes, num_features);
    if (!trainer->direct) {
        trainer->gradient = layer_take(arena, num_classes, num_features);
    }
    if (trainer->options->momentum > 0.0f) {
        trainer->velocity = layer_take(arena, num_classes, num_features);
    }
}

/* A function, because a size_t of 32 bits compared with its own limit is a warning. */
static bool fits_uint32(uint64_t value) { return value <= UINT32_MAX; }

static bool options_ok(const edgefl_train_options *o) {
    const float numbers[] = {o->learning_rate, o->l2, o->momentum, o->proximal, o->clip_norm};
    for (size_t j = 0; j < sizeof numbers / sizeof numbers[0]; j++) {
        if (is_bad_multiplier(numbers[j]) || numbers[j] < 0.0f) {
            return false;
        }
    }
    return o->momentum <= 1.0f && o->batch_size >= 1 && o->batch_size <= EDGEFL_MAX_BATCH && fits_uint32(o->num_epochs);
}

static bool arguments_ok(const edgefl_features *features, size_t num_classes, const edgefl_train_options *options) {
    return features_shape_ok(features) && num_classes >= 1 && num_classes <= EDGEFL_MAX_CLASSES &&
           options_ok(options) && (options->correction == NULL || options->correction->num_classes == num_classes);
}

size_t edgefl_softmax_train_scratch_bytes(const edgefl_features *features, size_t num_classes,
                                          const edgefl_train_options *options) {
    if (!arguments_ok(features, num_classes, options)) {
        return 0; /* the call itself names the fault */
    }
    struct trainer trainer = {.features = features, .options = options, .direct = is_direct(options)};
    struct arena arena = arena_open(NULL);
    take_scratch(&trainer, &arena, num_classes);
    return arena_bytes(&arena);
}

static edgefl_status example_weights_check(const float *weights, size_t num_rows, edgefl_place *place) {
    for (size_t row = 0; weights != NULL && row < num_rows; row++) {
        if (is_bad_multiplier(weights[row]) || weights[row] < 0.0f) {
            place->row = row;
            place->column = 0;
            return EDGEFL_BAD_EXAMPLE_WEIGHT;
        }
    }
    return EDGEFL_OK;
}

static edgefl_status check_inputs(struct trainer *trainer, edgefl_place *place) {
    const size_t num_rows = trainer->features->num_rows;
    const edgefl_model *correction = trainer->options->correction;
    edgefl_status status = layer_load(&trainer->layer, trainer->start, place);
    if (status == EDGEFL_OK && correction != NULL) {
        status = correction_check(correction, trainer->layer.num_features, place);
    }
    if (status == EDGEFL_OK) {
        status = labels_check(trainer->labels, num_rows, trainer->layer.num_classes, place);
    }
    if (status == EDGEFL_OK) {
        status = example_weights_check(trainer->example_weights, num_rows, place);
    }
    if (status == EDGEFL_OK) {
        status = features_check_description(trainer->variant, trainer->features);
    }
    return status;
}

/* Checks all features, unless the first epoch has come to its end and found nothing. */
static edgefl_status check_features(struct trainer *trainer, edgefl_place *place) {
    return trainer->checked ? EDGEFL_OK
                            : features_check(trainer->variant, trainer->features, trainer->tile.loaded, place);
}

/* The row of the data set at a position of this epoch. */
static size_t row_at(const struct trainer *trainer, size_t position) {
    return trainer->order != NULL ? trainer->order[position] : position;
}

/* The rest of the forward pass of one tile: coefficients are logits, then output gradients. factor scales them, before
 * the example weights. */
static edgefl_status forward(struct trainer *trainer, size_t first, size_t num_rows, float factor, float *coefficients,
                             edgefl_train_stats *stats, edgefl_place *place) {
    const edgefl_variant *variant = trainer->variant;
    const size_t num_classes = trainer->layer.num_classes;
    int32_t labels[EDGEFL_TILE_ROWS];
    float weights[EDGEFL_TILE_ROWS];
    float loss[EDGEFL_TILE_ROWS];
    uint32_t predicted[EDGEFL_TILE_ROWS];
    for (size_t i = 0; i < num_rows; i++) {
        const size_t row = row_at(trainer, first + i);
        labels[i] = trainer->labels[row];
        weights[i] = trainer->example_weights != NULL ? trainer->example_weights[row] : 1.0f;
    }
    const size_t bad = variant->softmax(coefficients, num_rows, num_classes, labels, loss, predicted);
    if (bad < num_rows) {
        place->row = row_at(trainer, first + bad);
        place->column = 0;
        return EDGEFL_NON_FINITE_LOGIT;
    }
    for (size_t i = 0; i < num_rows; i++) {
        stats->loss_sum += (double)loss[i];
        stats->num_correct += predicted[i] == (uint32_t)labels[i];
    }
    variant->output_gradient(coefficients, num_rows, num_classes, labels, factor,
                             trainer->example_weights != NULL ? weights : NULL);
    return EDGEFL_OK;
}

/* The rows of the first tile after this batch, in this epoch. */
static void find_upcoming(const struct trainer *trainer, size_t first, edgefl_upcoming *upcoming) {
    const size_t left = trainer->features->num_rows - first;
    upcoming->num_rows = smaller(smaller(left, trainer->options->batch_size), EDGEFL_TILE_ROWS);
    upcoming->row_bytes = features_row_bytes(trainer->features);
    for (size_t i = 0; i < upcoming->num_rows; i++) {
        upcoming->rows[i] = features_stored(trainer->features, row_at(trainer, first + i));
    }
}

static void flush_layer(const edgefl_variant *variant, struct layer *layer) {
    variant->flush(layer->kernel, layer->num_classes * layer->stride);
    variant->flush(layer->bias, layer->num_classes);
}

/* add_outer of the batch's last tile and flush of the whole target. */
static void finish_target(struct trainer *trainer, size_t rows, const float *coefficients, size_t next,
                          struct layer *target) {
    const edgefl_variant *variant = trainer->variant;
    if (variant->add_outer_and_flush == NULL) {
        variant->add_outer(trainer->tile.rows, rows, target->num_features, coefficients, target->num_classes,
                           target->kernel, target->stride);
        flush_layer(variant, target);
        return;
    }
    edgefl_upcoming upcoming;
    find_upcoming(trainer, next, &upcoming);
    variant->add_outer_and_flush(trainer->tile.rows, rows, target->num_features, coefficients, target->num_classes,
                                 target->kernel, target->stride, &upcoming);
    variant->flush(target->bias, target->num_classes);
}

/* Adds the batch's output gradients times its features to target, tile by tile; with `last`, flushes it at the end. */
static void backward(struct trainer *trainer, size_t first, size_t batch, struct layer *target, bool last) {
    const size_t num_classes = target->num_classes;
    for (size_t i = 0; i < batch; i++) {
        for (size_t c = 0; c < num_classes; c++) {
            target->bias[c] += trainer->coefficients[i * num_classes + c];
        }
    }
    for (size_t done = 0; done < batch; done += EDGEFL_TILE_ROWS) {
        const size_t rows = smaller(batch - done, EDGEFL_TILE_ROWS);
        if (batch > EDGEFL_TILE_ROWS) {
            tile_load(&trainer->tile, trainer->variant, trainer->features, trainer->order, first + done, rows);
        } /* else the forward pass left the only tile loaded */
        const float *coefficients = trainer->coefficients + done * num_classes;
        if (last && done + rows == batch) {
            finish_target(trainer, rows, coefficients, first + batch, target);
        } else {
            trainer->variant->add_outer(trainer->tile.rows, rows, target->num_features, coefficients, num_classes,
                                        target->kernel, target->stride);
        }
    }
}

/* Adds the pull of l2 (kernel) and of the proximal term (kernel and bias), then the correction, to the gradient. */
static void add_terms(struct trainer *trainer) {
    const edgefl_variant *variant = trainer->variant;
    const struct layer *layer = &trainer->layer;
    struct layer *gradient = &trainer->gradient;
    const float l2 = trainer->options->l2;
    const float proximal = trainer->options->proximal;
    const edgefl_model *correction = trainer->options->correction;
    if (l2 > 0.0f) {
        variant->add_scaled(gradient->kernel, l2, layer->kernel, layer->num_classes * layer->stride);
    }
    if (proximal > 0.0f) {
        for (size_t c = 0; c < layer->num_classes; c++) {
            variant->add_scaled_difference(gradient->kernel + c * layer->stride, proximal,
                                           layer->kernel + c * layer->stride,
                                           trainer->start->kernel + c * layer->num_features, layer->num_features);
        }
        variant->add_scaled_difference(gradient->bias, proximal, layer->bias, trainer->start->bias, layer->num_classes);
    }
    if (correction != NULL) {
        for (size_t c = 0; c < layer->num_classes; c++) {
            variant->add_stored(gradient->kernel + c * layer->stride, correction->kernel + c * layer->num_features,
                                layer->num_features);
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

static bool clip(struct layer *gradient, float clip_norm) {
    double lanes[EDGEFL_LANES] = {0.0};
    const size_t num_features = gradient->num_features;
    for (size_t c = 0; c < gradient->num_classes; c++) {
        edgefl_add_squares(lanes, c * num_features, gradient->kernel + c * gradient->stride, num_features);
    }
    edgefl_add_squares(lanes, gradient->num_classes * num_features, gradient->bias, gradient->num_classes);
    const double norm = __builtin_sqrt(edgefl_tree_double(lanes));
    if (!(norm > (double)clip_norm)) {
        return true;
    }
    const float factor = (float)((double)clip_norm / norm);
    if (factor < EDGEFL_MIN_MAGNITUDE) {
        return false;
    }
    scale(gradient->kernel, gradient->num_classes * gradient->stride, factor);
    scale(gradient->bias, gradient->num_classes, factor);
    return true;
}

static void step(struct trainer *trainer) {
    const edgefl_variant *variant = trainer->variant;
    const edgefl_train_options *options = trainer->options;
    struct layer *layer = &trainer->layer;
    const size_t num_weights = layer->num_classes * layer->stride;
    const struct layer *direction = &trainer->gradient;
    if (options->momentum > 0.0f) {
        variant->add_momentum(trainer->velocity.kernel, options->momentum, trainer->gradient.kernel, num_weights);
        variant->add_momentum(trainer->velocity.bias, options->momentum, trainer->gradient.bias, layer->num_classes);
        direction = &trainer->velocity;
    }
    variant->descend(layer->kernel, options->learning_rate, direction->kernel, num_weights);
    variant->descend(layer->bias, options->learning_rate, direction->bias, layer->num_classes);
}

static edgefl_status train_batch(struct trainer *trainer, size_t first, size_t batch, edgefl_train_stats *stats,
                                 edgefl_place *place) {
    /* The DIRECT path subtracts: a negative factor negates each output gradient exactly. */
    const float factor = trainer->direct ? -(trainer->options->learning_rate / (float)batch) : 1.0f / (float)batch;
    for (size_t done = 0; done < batch; done += EDGEFL_TILE_ROWS) {
        const size_t rows = smaller(batch - done, EDGEFL_TILE_ROWS);
        float *coefficients = trainer->coefficients + done * trainer->layer.num_classes;
        if (!tile_load_logits(&trainer->tile, trainer->variant, trainer->features, trainer->order, first + done, rows,
                              !trainer->checked, &trainer->layer, coefficients)) {
            return EDGEFL_BAD_FEATURE; /* edgefl_softmax_train finds which, and the place */
        }
        const edgefl_status status = forward(trainer, first + done, rows, factor, coefficients, stats, place);
        if (status != EDGEFL_OK) {
            return status;
        }
    }
    if (trainer->direct) {
        backward(trainer, first, batch, &trainer->layer, true);
        return EDGEFL_OK;
    }
    layer_clear(&trainer->gradient);
    const bool more = has_terms(trainer->options);
    backward(trainer, first, batch, &trainer->gradient, !more);
    if (more) {
        add_terms(trainer);
        flush_layer(trainer->variant, &trainer->gradient);
    }
    if (trainer->options->clip_norm > 0.0f && !clip(&trainer->gradient, trainer->options->clip_norm)) {
        place->row = row_at(trainer, first);
        place->column = 0;
        return EDGEFL_GRADIENT_EXPLODED;
    }
    step(trainer);
    return EDGEFL_OK;
}

static edgefl_status train_epochs(struct trainer *trainer, const edgefl_stop_flag *stop, edgefl_train_stats *stats,
                                  edgefl_place *place) {
    const edgefl_train_options *options = trainer->options;
    const size_t num_rows = trainer->features->num_rows;
    for (size_t epoch = 0; epoch < options->num_epochs; epoch++) {
        if (trainer->order != NULL) {
            edgefl_permutation(options->shuffle_key, (uint32_t)epoch, trainer->order, num_rows);
        }
        for (size_t first = 0; first < num_rows; first += options->batch_size) {
            if (stop != NULL && edgefl_stop_flag_is_set(stop)) {
                stats->stopped = true;
                return EDGEFL_OK;
            }
            const size_t batch = smaller(options->batch_size, num_rows - first);
            const edgefl_status status = train_batch(trainer, first, batch, stats, place);
            if (status != EDGEFL_OK) {
                return status;
            }
            stats->examples_seen += batch;
            stats->num_steps += 1;
        }
        trainer->checked = true;
    }
    return EDGEFL_OK;
}

edgefl_status edgefl_softmax_train(const edgefl_variant *variant, const edgefl_features *features,
                                   const int32_t *labels, const float *example_weights, const edgefl_model *start,
                                   const edgefl_train_options *options, const edgefl_stop_flag *stop, void *scratch,
                                   size_t scratch_bytes, float *kernel, float *bias, edgefl_train_stats *stats,
                                   edgefl_place *place) {
    if (!arguments_ok(features, start->num_classes, options)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (scratch_bytes < edgefl_softmax_train_scratch_bytes(features, start->num_classes, options)) {
        return EDGEFL_SCRATCH_TOO_SMALL;
    }
    struct trainer trainer = {.variant = variant,
                              .features = features,
                              .options = options,
                              .labels = labels,
                              .example_weights = example_weights,
                              .start = start,
                              .direct = is_direct(options)};
    struct arena arena = arena_open(scratch);
    take_scratch(&trainer, &arena, start->num_classes);
    *stats = (edgefl_train_stats){0};
    edgefl_status status = check_inputs(&trainer, place);
    edgefl_place checked_place = {0, 0};
    if (status == EDGEFL_OK) {
        if (options->momentum > 0.0f) {
            layer_clear(&trainer.velocity);
        }
        status = train_epochs(&trainer, stop, stats, place);
        const edgefl_status checked = check_features(&trainer, &checked_place);
        if (checked != EDGEFL_OK) {
            *stats = (edgefl_train_stats){0};
            *place = checked_place;
            status = checked;
        }
    }
    if (status == EDGEFL_OK) {
        status = layer_check_finite(&trainer.layer, place);
    }
    if (status == EDGEFL_OK) {
        layer_store(&trainer.layer, kernel, bias);
    }
    return status;
}

void edgefl_stop_flag_init(edgefl_stop_flag *flag) { atomic_init(&flag->value, 0); }

void edgefl_stop_flag_set(edgefl_stop_flag *flag) { atomic_store_explicit(&flag->value, 1, memory_order_relaxed); }

bool edgefl_stop_flag_is_set(const edgefl_stop_flag *flag) {
    return atomic_load_explicit(&flag->value, memory_order_relaxed) != 0;
}
