/* Inputs of the golden cases, and the edges: design §4.2's limits, and every refusal of a training. */
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "golden.h"

static void *owned[64];
static size_t num_owned = 0;

void *golden_take(size_t count, size_t size) {
    void *memory = calloc(count, size);
    if (memory == NULL || num_owned == sizeof owned / sizeof owned[0]) {
        fputs("golden: out of memory\n", stderr);
        exit(2);
    }
    owned[num_owned++] = memory;
    return memory;
}

void golden_release_all(void) {
    while (num_owned > 0) {
        free(owned[--num_owned]);
    }
}

static uint32_t *draw_words(uint32_t seed, uint8_t purpose, size_t count) {
    const uint8_t key[16] = {'g', 'o', 'l', 'd', purpose};
    uint32_t *words = golden_take(count, sizeof *words);
    edgefl_random_words(key, seed, words, count);
    return words;
}

float *golden_floats(uint32_t seed, uint8_t purpose, size_t count, float smallest) {
    const uint32_t *words = draw_words(seed, purpose, count);
    const float edges[4] = {0.0f, -0.0f, smallest, -smallest * (1.0f + 0x1p-23f)};
    float *values = golden_take(count, sizeof *values);
    for (size_t j = 0; j < count; j++) {
        const int32_t units = (int32_t)(words[j] >> 8) - (1 << 23);
        values[j] = (words[j] & 0xf0u) == 0 ? edges[words[j] & 3u] : (float)units * 0x1p-23f;
    }
    return values;
}

static const uint8_t shuffle_key[16] = {3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5, 8, 9, 7, 9, 3};

static edgefl_train_options options_of(const struct shape *shape) {
    return (edgefl_train_options){
        .learning_rate = 0.25f,
        .l2 = shape->how & L2 ? 0.01f : 0.0f,
        .momentum = shape->how & MOMENTUM ? 0.5f : 0.0f,
        .proximal = shape->how & PROXIMAL ? 0.125f : 0.0f,
        .clip_norm = shape->how & CLIPPED ? 0.5f : 0.0f,
        .batch_size = shape->batch_size,
        .num_epochs = shape->num_epochs,
        .shuffle_key = shape->how & SHUFFLED ? shuffle_key : NULL,
    };
}

void golden_draw(struct inputs *inputs, const struct shape *shape, uint32_t seed) {
    const size_t n = shape->num_rows, f = shape->num_features, c = shape->num_classes;
    *inputs = (struct inputs){.shape = *shape, .options = options_of(shape)};
    if (shape->dtype == EDGEFL_FLOAT32) {
        inputs->data = golden_floats(seed, 0, n * f, EDGEFL_MIN_MAGNITUDE);
    } else {
        inputs->stored = (uint8_t *)draw_words(seed, 0, (n * f + 3) / 4);
    }
    inputs->kernel = golden_floats(seed, 1, c * f, EDGEFL_STORED_MIN_MAGNITUDE);
    inputs->bias = golden_floats(seed, 2, c, EDGEFL_STORED_MIN_MAGNITUDE);
    inputs->mean = golden_floats(seed, 3, f, EDGEFL_MIN_MAGNITUDE);
    inputs->inverse_spread = golden_floats(seed, 4, f, EDGEFL_MIN_MAGNITUDE);
    inputs->kernel_correction = golden_floats(seed, 6, c * f, EDGEFL_STORED_MIN_MAGNITUDE);
    inputs->bias_correction = golden_floats(seed, 7, c, EDGEFL_STORED_MIN_MAGNITUDE);
    inputs->correction = (edgefl_model){c, inputs->kernel_correction, inputs->bias_correction};
    inputs->options.correction = shape->how & CORRECTED ? &inputs->correction : NULL;
    inputs->labels = golden_take(n, sizeof *inputs->labels);
    inputs->example_weights = golden_take(n, sizeof *inputs->example_weights);
    const uint32_t *words = draw_words(seed, 5, n);
    for (size_t i = 0; i < n; i++) {
        inputs->labels[i] = (int32_t)((words[i] >> 8) % c);
        inputs->example_weights[i] = (float)(words[i] & 3u);
    }
    inputs->features = (edgefl_features){
        .dtype = shape->dtype,
        .data = shape->dtype == EDGEFL_FLOAT32 ? (const void *)inputs->data : (const void *)inputs->stored,
        .num_rows = n,
        .num_features = f,
        .scale = shape->dtype == EDGEFL_UINT8 ? 1.0f / 255.0f : 0.0307f,
        .zero_point = shape->dtype == EDGEFL_UINT8 ? 0 : -11,
        .mean = shape->how & STANDARDIZED ? inputs->mean : NULL,
        .inverse_spread = shape->how & STANDARDIZED ? inputs->inverse_spread : NULL,
    };
}

/* ---- edits ---- */

static size_t num_weights(const struct inputs *in) { return in->shape.num_classes * in->shape.num_features; }

static size_t num_values(const struct inputs *in) { return in->shape.num_rows * in->shape.num_features; }

static void fill(float *values, size_t n, float value) {
    for (size_t j = 0; j < n; j++) {
        values[j] = value;
    }
}

/* The biases alone make the logits. */
static void set_logits(struct inputs *in, const float bias[7]) {
    fill(in->kernel, num_weights(in), 0.0f);
    for (size_t c = 0; c < 7; c++) {
        in->bias[c] = bias[c];
    }
}

static void smallest_features(struct inputs *in) {
    for (size_t j = 0; j < num_values(in); j++) {
        in->data[j] = j % 2 ? EDGEFL_MIN_MAGNITUDE : -EDGEFL_MIN_MAGNITUDE;
    }
}

/* The smallest that is kept, and its neighbour that becomes +0. */
static void smallest_weights(struct inputs *in) {
    for (size_t j = 0; j < num_weights(in); j++) {
        in->kernel[j] = (j % 3 ? EDGEFL_STORED_MIN_MAGNITUDE : 0x1.fffffep-51f) * (j % 2 ? 1.0f : -1.0f);
    }
    for (size_t c = 0; c < in->shape.num_classes; c++) {
        in->bias[c] = c % 2 ? -EDGEFL_STORED_MIN_MAGNITUDE : -0x1.fffffep-51f;
    }
    in->options.learning_rate = EDGEFL_MIN_MAGNITUDE;
}

static void smallest_everywhere(struct inputs *in) {
    smallest_features(in);
    smallest_weights(in);
    in->options.l2 = in->options.momentum = in->options.proximal = EDGEFL_MIN_MAGNITUDE;
}

static void around_minus_40(struct inputs *in) {
    set_logits(in, (const float[]){0.0f, -40.0f, -0x1.400002p5f, -0x1.3ffffep5f, -39.0f, -41.0f, -1000.0f});
    in->options.learning_rate = 0x1p-20f;
}

static void equal_logits(struct inputs *in) { set_logits(in, (const float[7]){0}); }

static void negative_zeros(struct inputs *in) {
    fill(in->data, num_values(in), -0.0f);
    fill(in->kernel, num_weights(in), -0.0f);
    fill(in->bias, in->shape.num_classes, -0.0f);
}

/* The probability of each label is exactly 0; its loss is not infinite. */
static void underflowing_labels(struct inputs *in) {
    set_logits(in, (const float[]){200.0f, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, -200.0f});
    for (size_t i = 0; i < in->shape.num_rows; i++) {
        in->labels[i] = 6;
    }
}

/* Output gradients on both sides of 2^-50, after the rate and after the example weight. Large features would make
 * stored weights of the ones that must be +0. */
static void flushed_gradients(struct inputs *in) {
    set_logits(in, (const float[]){0.0f, -10.0f, -12.0f, -13.0f, -14.0f, -15.0f, -16.0f});
    in->options.learning_rate = EDGEFL_MIN_MAGNITUDE;
    for (size_t j = 0; j < num_values(in); j++) {
        in->data[j] *= 0x1p30f;
    }
    for (size_t i = 0; i < in->shape.num_rows; i++) {
        in->example_weights[i] = i % 2 ? EDGEFL_MIN_MAGNITUDE : 1.0f;
    }
}

/* Beside gradients of the same magnitude: what is read as +0, and what is kept. The rate would make stored weights of
 * either. */
static void smallest_corrections(struct inputs *in) {
    fill(in->kernel, num_weights(in), 0x1p-20f);
    fill(in->example_weights, in->shape.num_rows, 0.0f);
    for (size_t j = 0; j < num_weights(in); j++) {
        const float edges[] = {0x1.fffffep-51f, -0x1.fffffep-51f, 0x1p-50f, -0x1p-149f, -0.0f};
        in->kernel_correction[j] = edges[j % 5];
    }
    in->options.l2 = EDGEFL_MIN_MAGNITUDE;
    in->options.learning_rate = 0x1p20f;
}

/* Only the first batch has a gradient, just above 2^-50, and the velocity decays past it. The rate would make stored
 * weights of what must be +0. */
static void flushed_velocities(struct inputs *in) {
    set_logits(in, (const float[]){0.0f, -10.0f, -12.0f, -13.0f, -14.0f, -15.0f, -16.0f});
    fill(in->data, num_values(in), 0x1p-24f);
    in->options.learning_rate = 0x1p20f;
    for (size_t i = 0; i < in->shape.num_rows; i++) {
        in->labels[i] = 0;
        in->example_weights[i] = i < in->shape.batch_size ? 1.0f : 0.0f;
    }
}

static void no_weight_at_all(struct inputs *in) { fill(in->example_weights, in->shape.num_rows, 0.0f); }

static void large_values(struct inputs *in) {
    for (size_t j = 0; j < num_values(in); j++) {
        in->data[j] *= 0x1p60f;
    }
}

static void smallest_scale(struct inputs *in) { in->features.scale = EDGEFL_MIN_MAGNITUDE; }

/* Standardized to both sides of 2^-30. */
static void smallest_standardized(struct inputs *in) {
    for (size_t j = 0; j < num_values(in); j++) {
        in->data[j] = j % 2 ? 1.0f + 0x1p-23f : 1.0f - 0x1p-24f;
    }
    for (size_t f = 0; f < in->shape.num_features; f++) {
        in->mean[f] = 1.0f;
        in->inverse_spread[f] = f % 2 ? 0x1p-7f : 0x1p-8f;
    }
}

static void nan_feature(struct inputs *in) { in->data[5 * 13 + 12] = NAN; }
static void infinite_feature(struct inputs *in) { in->data[36 * 13 + 7] = -INFINITY; }
static void feature_below(struct inputs *in) { in->data[2 * 13 + 1] = 0x1.fffffep-31f; }
static void subnormal_feature(struct inputs *in) { in->data[0] = 0x1p-149f; }
static void label_below(struct inputs *in) { in->labels[9] = -1; }
static void label_above(struct inputs *in) { in->labels[36] = 7; }
static void weight_below_zero(struct inputs *in) { in->example_weights[4] = -1.0f; }
static void weight_below_limit(struct inputs *in) { in->example_weights[6] = 0x1p-31f; }
static void nan_start(struct inputs *in) { in->kernel[3 * 13 + 5] = NAN; }
static void infinite_bias(struct inputs *in) { in->bias[2] = INFINITY; }
static void nan_correction(struct inputs *in) { in->kernel_correction[4 * 13 + 11] = NAN; }
static void infinite_bias_correction(struct inputs *in) { in->bias_correction[5] = -INFINITY; }
static void correction_of_fewer_classes(struct inputs *in) { in->correction.num_classes = 6; }
static void bad_momentum(struct inputs *in) { in->options.momentum = 1.5f; }
static void rate_below(struct inputs *in) { in->options.learning_rate = 0x1p-31f; }
static void no_batch(struct inputs *in) { in->options.batch_size = 0; }
static void keep(struct inputs *in) { (void)in; }

static void overflowing_standardized(struct inputs *in) {
    in->data[8 * 13 + 3] = 0x1.8p127f;
    in->mean[3] = -0x1.8p127f;
}

static void overflowing_logit(struct inputs *in) {
    fill(in->data + 20 * 13, 13, 0x1p100f);
    fill(in->kernel, num_weights(in), 0x1p100f);
}

static void overflowing_weight(struct inputs *in) {
    fill(in->data, num_values(in), 0x1p60f);
    fill(in->kernel, num_weights(in), 0.0f);
    in->options.learning_rate = 0x1p100f;
}

static void exploding_gradient(struct inputs *in) {
    fill(in->data, num_values(in), 0x1p40f);
    in->options.clip_norm = EDGEFL_MIN_MAGNITUDE;
}

/* rows, features, classes, batch, epochs. */
#define SMALL(dtype, how) {37, 13, 7, 10, 2, dtype, how}
#define ONE_BATCH(dtype, how) {37, 13, 7, 37, 1, dtype, how}

const struct edge golden_edges[] = {
    {"edge/smallest_features", SMALL(EDGEFL_FLOAT32, 0), smallest_features},
    {"edge/smallest_weights", SMALL(EDGEFL_FLOAT32, 0), smallest_weights},
    {"edge/smallest_weights+l2+momentum", SMALL(EDGEFL_FLOAT32, L2 | MOMENTUM), smallest_weights},
    {"edge/smallest_everywhere", SMALL(EDGEFL_FLOAT32, L2 | MOMENTUM | PROXIMAL), smallest_everywhere},
    {"edge/around_minus_40", SMALL(EDGEFL_FLOAT32, 0), around_minus_40},
    {"edge/equal_logits", ONE_BATCH(EDGEFL_FLOAT32, 0), equal_logits},
    {"edge/negative_zeros", SMALL(EDGEFL_FLOAT32, 0), negative_zeros},
    {"edge/negative_zeros+l2+momentum", SMALL(EDGEFL_FLOAT32, L2 | MOMENTUM), negative_zeros},
    {"edge/underflowing_labels", SMALL(EDGEFL_FLOAT32, 0), underflowing_labels},
    {"edge/flushed_gradients", SMALL(EDGEFL_FLOAT32, 0), flushed_gradients},
    {"edge/flushed_gradients+weighted", SMALL(EDGEFL_FLOAT32, WEIGHTED), flushed_gradients},
    {"edge/flushed_velocities", SMALL(EDGEFL_FLOAT32, MOMENTUM | WEIGHTED), flushed_velocities},
    {"edge/no_weight_at_all", SMALL(EDGEFL_FLOAT32, WEIGHTED), no_weight_at_all},
    {"edge/large_values", SMALL(EDGEFL_FLOAT32, 0), large_values},
    {"edge/smallest_scale", SMALL(EDGEFL_UINT8, 0), smallest_scale},
    {"edge/smallest_standardized", SMALL(EDGEFL_FLOAT32, STANDARDIZED), smallest_standardized},
    {"edge/no_epoch", {37, 13, 7, 10, 0, EDGEFL_FLOAT32, 0}, keep},
    {"edge/smallest_weights+stopped", SMALL(EDGEFL_FLOAT32, STOPPED), smallest_weights},
    {"error/nan_feature", SMALL(EDGEFL_FLOAT32, 0), nan_feature},
    {"error/infinite_feature", SMALL(EDGEFL_FLOAT32, 0), infinite_feature},
    {"error/feature_below", SMALL(EDGEFL_FLOAT32, 0), feature_below},
    {"error/subnormal_feature", SMALL(EDGEFL_FLOAT32, 0), subnormal_feature},
    {"error/label_below", SMALL(EDGEFL_INT8, 0), label_below},
    {"error/label_above", SMALL(EDGEFL_FLOAT32, 0), label_above},
    {"error/weight_below_zero", SMALL(EDGEFL_FLOAT32, WEIGHTED), weight_below_zero},
    {"error/weight_below_limit", SMALL(EDGEFL_FLOAT32, WEIGHTED), weight_below_limit},
    {"error/nan_start", SMALL(EDGEFL_FLOAT32, 0), nan_start},
    {"error/infinite_bias", SMALL(EDGEFL_UINT8, 0), infinite_bias},
    {"error/overflowing_standardized", SMALL(EDGEFL_FLOAT32, STANDARDIZED), overflowing_standardized},
    {"error/overflowing_logit", SMALL(EDGEFL_FLOAT32, 0), overflowing_logit},
    {"error/overflowing_logit+shuffled", SMALL(EDGEFL_FLOAT32, SHUFFLED), overflowing_logit},
    {"error/overflowing_weight", ONE_BATCH(EDGEFL_FLOAT32, 0), overflowing_weight},
    {"error/exploding_gradient", SMALL(EDGEFL_FLOAT32, CLIPPED), exploding_gradient},
    {"error/bad_momentum", SMALL(EDGEFL_FLOAT32, 0), bad_momentum},
    {"error/rate_below", SMALL(EDGEFL_FLOAT32, 0), rate_below},
    {"error/no_batch", SMALL(EDGEFL_FLOAT32, 0), no_batch},
    {"error/short_scratch", SMALL(EDGEFL_FLOAT32, SHORT_SCRATCH), keep},
    {"edge/smallest_corrections", SMALL(EDGEFL_FLOAT32, CORRECTED | WEIGHTED), smallest_corrections},
    {"error/nan_correction", SMALL(EDGEFL_FLOAT32, CORRECTED), nan_correction},
    {"error/infinite_bias_correction", SMALL(EDGEFL_UINT8, CORRECTED), infinite_bias_correction},
    {"error/correction_of_fewer_classes", SMALL(EDGEFL_FLOAT32, CORRECTED), correction_of_fewer_classes},
};

const size_t golden_num_edges = sizeof golden_edges / sizeof golden_edges[0];
