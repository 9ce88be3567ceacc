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
#include "train.h"

#include "descent.h"
#include "hidden.h"
#include "numeric.h"
#include "rows.h"

struct trainer {
    const edgefl_variant *variant;
    const edgefl_features *features;
    const edgefl_train_options *options;
    const int32_t *labels;
    const float *example_weights;
    size_t num_hidden; /* 0 without a hidden layer */
    size_t num_classes;
    bool direct;
    bool checked; /* every row's features, by the first epoch or before it */
    struct network network;
    struct descent descent; /* GRADIENT path */
    float *coefficients;    /* (batch, num_classes): logits, then probabilities, then output gradients */
    float *activations;     /* (batch, num_hidden) */
    struct back_propagation back;
    uint32_t *order; /* with a shuffle key */
    struct tile tile;
};

static size_t smaller(size_t a, size_t b) { return a < b ? a : b; }

static struct trainer make_trainer(const struct train_problem *problem) {
    struct trainer trainer = {.variant = problem->variant,
                              .features = problem->features,
                              .options = problem->options,
                              .labels = problem->labels,
                              .example_weights = problem->example_weights,
                              .num_hidden = network_num_hidden(&problem->shape),
                              .num_classes = network_num_classes(&problem->shape),
                              .descent = {.variant = problem->variant,
                                          .options = problem->options,
                                          .start = problem->start,
                                          .correction = problem->correction,
                                          .has_correction = problem->has_correction}};
    trainer.direct = descent_is_direct(&trainer.descent);
    return trainer;
}

static void take_scratch(struct trainer *trainer, struct arena *arena, const struct network_shape *shape) {
    const edgefl_features *features = trainer->features;
    const size_t batch = smaller(trainer->options->batch_size, features->num_rows);
    trainer->coefficients = arena_take(arena, batch, trainer->num_classes * sizeof(float));
    trainer->activations = arena_take(arena, batch, trainer->num_hidden * sizeof(float));
    trainer->tile = tile_take(arena, features);
    trainer->back = back_propagation_take(arena, shape);
    if (trainer->options->shuffle_key != NULL) {
        trainer->order = arena_take(arena, features->num_rows, sizeof(uint32_t));
    }
    trainer->network = network_take(arena, shape);
    if (!trainer->direct) {
        trainer->descent.gradient = network_take(arena, shape);
    }
    if (trainer->options->momentum > 0.0f) {
        trainer->descent.velocity = network_take(arena, shape);
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

bool train_arguments_ok(const struct train_problem *problem) {
    return features_shape_ok(problem->features) && network_shape_ok(&problem->shape) && options_ok(problem->options);
}

size_t train_scratch_bytes(const struct train_problem *problem) {
    if (!train_arguments_ok(problem)) {
        return 0; /* the call itself names the fault */
    }
    struct trainer trainer = make_trainer(problem);
    struct arena arena = arena_open(NULL);
    take_scratch(&trainer, &arena, &problem->shape);
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
    const struct descent *descent = &trainer->descent;
    edgefl_status status = network_load(&trainer->network, &descent->start, place);
    if (status == EDGEFL_OK && descent->has_correction) {
        status = network_check_correction(&trainer->network, &descent->correction, place);
    }
    if (status == EDGEFL_OK) {
        status = labels_check(trainer->labels, num_rows, trainer->num_classes, place);
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

/* The logits of the tile that begins at `first`. False when a feature is bad. *num_finite: how many rows have finite
 * hidden sums before the first that has one that is not; only these have logits. */
static bool load_and_logits(struct trainer *trainer, size_t first, size_t num_rows, float *activations,
                            float *coefficients, size_t *num_finite) {
    const struct layer *layers = trainer->network.layers;
    *num_finite = num_rows;
    if (!tile_load_logits(&trainer->tile, trainer->variant, trainer->features, trainer->order, first, num_rows,
                          !trainer->checked, &layers[0], trainer->num_hidden > 0 ? activations : coefficients)) {
        return false;
    }
    if (trainer->num_hidden > 0) {
        *num_finite = hidden_to_logits(trainer->variant, &layers[1], activations, num_rows, coefficients);
    }
    return true;
}

/* The rest of the forward pass of one tile: coefficients are logits, then output gradients. factor scales them, before
 * the example weights. */
static edgefl_status forward(struct trainer *trainer, size_t first, size_t num_rows, size_t num_finite, float factor,
                             float *coefficients, edgefl_train_stats *stats, edgefl_place *place) {
    const edgefl_variant *variant = trainer->variant;
    const size_t num_classes = trainer->num_classes;
    int32_t labels[EDGEFL_TILE_ROWS];
    float weights[EDGEFL_TILE_ROWS];
    float loss[EDGEFL_TILE_ROWS];
    uint32_t predicted[EDGEFL_TILE_ROWS];
    for (size_t i = 0; i < num_rows; i++) {
        const size_t row = row_at(trainer, first + i);
        labels[i] = trainer->labels[row];
        weights[i] = trainer->example_weights != NULL ? trainer->example_weights[row] : 1.0f;
    }
    const size_t bad =
        num_finite > 0 ? variant->softmax(coefficients, num_finite, num_classes, labels, loss, predicted) : 0;
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

/* Adds a tile's output gradients times its rows to target; with `last`, flushes all of target and fetches `next`. */
static void add_tile(const edgefl_variant *variant, const float *const *rows, size_t num_rows,
                     const float *coefficients, struct layer *target, bool last, const edgefl_upcoming *next) {
    const size_t num_classes = target->num_classes;
    for (size_t i = 0; i < num_rows; i++) {
        for (size_t c = 0; c < num_classes; c++) {
            target->bias[c] += coefficients[i * num_classes + c];
        }
    }
    if (last && variant->add_outer_and_flush != NULL) {
        variant->add_outer_and_flush(rows, num_rows, target->num_features, coefficients, num_classes, target->kernel,
                                     target->stride, next);
    } else {
        variant->add_outer(rows, num_rows, target->num_features, coefficients, num_classes, target->kernel,
                           target->stride);
        if (last) {
            variant->flush(target->kernel, num_classes * target->stride);
        }
    }
    if (last) {
        variant->flush(target->bias, num_classes);
    }
}

/* The output layer's part of a tile, then what it leaves as the output gradients of the hidden layer. */
static const float *backward_through_output(struct trainer *trainer, const float *coefficients,
                                            const float *activations, size_t num_rows, struct layer *target,
                                            bool last) {
    const float *rows[EDGEFL_TILE_ROWS];
    point_at_rows(rows, activations, num_rows, trainer->num_hidden);
    add_tile(trainer->variant, rows, num_rows, coefficients, target, last, NULL);
    back_propagate(&trainer->back, trainer->variant, coefficients, activations, num_rows, trainer->num_hidden,
                   trainer->num_classes);
    return trainer->back.gradients;
}

/* Adds the batch's output gradients times its features to target, tile by tile; with `flushes`, flushes it at the end.
 */
static void backward(struct trainer *trainer, size_t first, size_t batch, struct network *target, bool flushes) {
    for (size_t done = 0; done < batch; done += EDGEFL_TILE_ROWS) {
        const size_t rows = smaller(batch - done, EDGEFL_TILE_ROWS);
        const bool last = flushes && done + rows == batch;
        const float *coefficients = trainer->coefficients + done * trainer->num_classes;
        if (trainer->num_hidden > 0) {
            coefficients =
                backward_through_output(trainer, coefficients, trainer->activations + done * trainer->num_hidden, rows,
                                        &target->layers[1], last);
        }
        if (batch > EDGEFL_TILE_ROWS) {
            tile_load(&trainer->tile, trainer->variant, trainer->features, trainer->order, first + done, rows);
        } /* else the forward pass left the only tile loaded */
        edgefl_upcoming upcoming;
        if (last) {
            find_upcoming(trainer, first + batch, &upcoming);
        }
        add_tile(trainer->variant, trainer->tile.rows, rows, coefficients, &target->layers[0], last,
                 last ? &upcoming : NULL);
    }
}

static edgefl_status train_batch(struct trainer *trainer, size_t first, size_t batch, edgefl_train_stats *stats,
                                 edgefl_place *place) {
    /* The DIRECT path subtracts: a negative factor negates each output gradient exactly. */
    const float factor = trainer->direct ? -(trainer->options->learning_rate / (float)batch) : 1.0f / (float)batch;
    for (size_t done = 0; done < batch; done += EDGEFL_TILE_ROWS) {
        const size_t rows = smaller(batch - done, EDGEFL_TILE_ROWS);
        float *coefficients = trainer->coefficients + done * trainer->num_classes;
        float *activations = trainer->num_hidden > 0 ? trainer->activations + done * trainer->num_hidden : NULL;
        size_t num_finite;
        if (!load_and_logits(trainer, first + done, rows, activations, coefficients, &num_finite)) {
            return EDGEFL_BAD_FEATURE; /* train finds which, and the place */
        }
        const edgefl_status status =
            forward(trainer, first + done, rows, num_finite, factor, coefficients, stats, place);
        if (status != EDGEFL_OK) {
            return status;
        }
    }
    if (trainer->num_hidden > 0) {
        back_propagation_open(&trainer->back, &trainer->network.layers[1]);
    }
    if (trainer->direct) {
        backward(trainer, first, batch, &trainer->network, true);
        return EDGEFL_OK;
    }
    network_clear(&trainer->descent.gradient);
    backward(trainer, first, batch, &trainer->descent.gradient, !descent_has_terms(&trainer->descent));
    if (!descent_step(&trainer->descent, &trainer->network)) {
        place->row = row_at(trainer, first);
        place->column = 0;
        return EDGEFL_GRADIENT_EXPLODED;
    }
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

edgefl_status train(const struct train_problem *problem, void *scratch, size_t scratch_bytes, struct network *trained,
                    edgefl_train_stats *stats, edgefl_place *place) {
    if (!train_arguments_ok(problem)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (scratch_bytes < train_scratch_bytes(problem)) {
        return EDGEFL_SCRATCH_TOO_SMALL;
    }
    struct trainer trainer = make_trainer(problem);
    struct arena arena = arena_open(scratch);
    take_scratch(&trainer, &arena, &problem->shape);
    *stats = (edgefl_train_stats){0};
    edgefl_status status = check_inputs(&trainer, place);
    edgefl_place checked_place = {0, 0};
    if (status == EDGEFL_OK) {
        if (problem->options->momentum > 0.0f) {
            network_clear(&trainer.descent.velocity);
        }
        status = train_epochs(&trainer, problem->stop, stats, place);
        const edgefl_status checked = check_features(&trainer, &checked_place);
        if (checked != EDGEFL_OK) {
            *stats = (edgefl_train_stats){0};
            *place = checked_place;
            status = checked;
        }
    }
    *trained = trainer.network;
    return status == EDGEFL_OK ? network_check_finite(trained, place) : status;
}

void edgefl_stop_flag_init(edgefl_stop_flag *flag) { atomic_init(&flag->value, 0); }

void edgefl_stop_flag_set(edgefl_stop_flag *flag) { atomic_store_explicit(&flag->value, 1, memory_order_relaxed); }

bool edgefl_stop_flag_is_set(const edgefl_stop_flag *flag) {
    return atomic_load_explicit(&flag->value, memory_order_relaxed) != 0;
}
