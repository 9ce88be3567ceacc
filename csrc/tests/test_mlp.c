/* The mlp: every variant gives the bits of a plain program that follows docs/adr/0004-mlp.md sentence by sentence, on
 * shapes that leave remainders, with every buffer ending at a guard page; the edges of its own; and every refusal. */
#define _DEFAULT_SOURCE
#include <math.h>

#include "check.h"
#include "edgefl.h"
#include "variant.h"

struct shape {
    size_t num_rows, num_features, num_hidden, num_classes, batch_size;
};

static const struct shape shapes[] = {
    {1, 1, 1, 1, 1},     {3, 15, 2, 2, 2},     {5, 16, 16, 3, 50},    {7, 17, 17, 4, 3},
    {70, 31, 33, 5, 70}, {130, 9, 5, 66, 129}, {40, 65, 130, 10, 32}, {3, 5, 512, 2, 3},
};

static size_t num_parameters(const struct shape *shape) {
    return shape->num_hidden * (shape->num_features + 1) + shape->num_classes * (shape->num_hidden + 1);
}

static float flushed(float v, float least) { return fabsf(v) < least ? 0.0f : v; }

/* ---- the plain program ---- */

/* sum over j of w[j] * x[j] + bias: 16 lanes, then the tree. */
static float unit(const float *w, const float *x, size_t n, float bias) {
    float lanes[16] = {0.0f};
    for (size_t j = 0; j < n; j++) {
        lanes[j % 16] = fmaf(w[j], x[j], lanes[j % 16]);
    }
    for (size_t width = 8; width > 0; width /= 2) {
        for (size_t l = 0; l < width; l++) {
            lanes[l] += lanes[l + width];
        }
    }
    return lanes[0] + bias;
}

struct plain {
    const struct shape *shape;
    const float *x; /* loaded features */
    const int32_t *labels;
    const float *example_weights;
    const float *start;
    const float *correction;
    const edgefl_train_options *options;
    float *w, *target, *velocity; /* parameters; target is w or the gradient */
    float *hidden, *g2;           /* of the batch */
};

/* The library's own softmax of given logits: a layer of zeros whose bias they are. */
static void softmax_of(const float *logits, size_t c, float *p) {
    const float x = 1.0f, *zeros = calloc(c, sizeof(float));
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    const edgefl_model model = {c, zeros, logits};
    const size_t size = edgefl_softmax_infer_scratch_bytes(&features, c);
    void *scratch = malloc(size);
    edgefl_place place;
    CHECK(edgefl_softmax_predict(edgefl_scalar_software(), &features, &model, scratch, size, p, &place) == EDGEFL_OK);
    free(scratch);
    free((void *)(uintptr_t)zeros);
}

static void plain_forward(struct plain *plain, const uint32_t *rows, size_t batch, float factor) {
    const size_t f = plain->shape->num_features, h = plain->shape->num_hidden, c = plain->shape->num_classes;
    const float *w1 = plain->w, *b1 = w1 + h * f, *w2 = b1 + h, *b2 = w2 + c * h;
    float *logits = malloc(c * sizeof(float));
    for (size_t i = 0; i < batch; i++) {
        float *hidden = plain->hidden + i * h, *g2 = plain->g2 + i * c;
        for (size_t j = 0; j < h; j++) {
            const float z = unit(w1 + j * f, plain->x + rows[i] * f, f, b1[j]);
            hidden[j] = z >= 0x1p-30f ? z : 0.0f;
        }
        for (size_t k = 0; k < c; k++) {
            logits[k] = unit(w2 + k * h, hidden, h, b2[k]);
        }
        softmax_of(logits, c, g2);
        g2[plain->labels[rows[i]]] -= 1.0f;
        for (size_t k = 0; k < c; k++) {
            g2[k] = flushed(g2[k] * factor, 0x1p-50f);
            g2[k] = plain->example_weights ? flushed(g2[k] * plain->example_weights[rows[i]], 0x1p-50f) : g2[k];
        }
    }
    free(logits);
}

static void plain_backward(struct plain *plain, const uint32_t *rows, size_t batch) {
    const size_t f = plain->shape->num_features, h = plain->shape->num_hidden, c = plain->shape->num_classes;
    const float *w2 = plain->w + h * f + h;
    float *t1 = plain->target, *tb1 = t1 + h * f, *t2 = tb1 + h, *tb2 = t2 + c * h;
    float *gh = malloc(batch * h * sizeof(float)); /* from the weights before the batch */
    for (size_t i = 0; i < batch; i++) {
        for (size_t j = 0; j < h; j++) {
            float sum = 0.0f;
            for (size_t k = 0; k < c; k++) {
                sum = fmaf(plain->g2[i * c + k], flushed(w2[k * h + j], 0x1p-30f), sum);
            }
            gh[i * h + j] = plain->hidden[i * h + j] > 0.0f ? flushed(sum, 0x1p-50f) : 0.0f;
        }
    }
    for (size_t i = 0; i < batch; i++) {
        for (size_t k = 0; k < c; k++) {
            const float g = plain->g2[i * c + k];
            tb2[k] += g;
            for (size_t j = 0; j < h; j++) {
                t2[k * h + j] = fmaf(g, plain->hidden[i * h + j], t2[k * h + j]);
            }
        }
        for (size_t j = 0; j < h; j++) {
            const float g = gh[i * h + j];
            tb1[j] += g;
            for (size_t m = 0; m < f; m++) {
                t1[j * f + m] = fmaf(g, plain->x[rows[i] * f + m], t1[j * f + m]);
            }
        }
    }
    free(gh);
}

static bool is_bias(const struct shape *shape, size_t j) {
    const size_t first = shape->num_hidden * shape->num_features, end = first + shape->num_hidden;
    return (j >= first && j < end) || j >= end + shape->num_classes * shape->num_hidden;
}

static void plain_step(struct plain *plain) {
    const edgefl_train_options *o = plain->options;
    const size_t n = num_parameters(plain->shape);
    float *g = plain->target;
    for (size_t j = 0; j < n; j++) {
        if (o->l2 > 0.0f && !is_bias(plain->shape, j)) {
            g[j] = fmaf(o->l2, plain->w[j], g[j]);
        }
        if (o->proximal > 0.0f) {
            g[j] = fmaf(o->proximal, plain->w[j] - flushed(plain->start[j], 0x1p-50f), g[j]);
        }
        g[j] = flushed(plain->correction ? g[j] + flushed(plain->correction[j], 0x1p-50f) : g[j], 0x1p-50f);
    }
    const double norm = sqrt(edgefl_squared_norm(g, n));
    if (o->clip_norm > 0.0f && norm > (double)o->clip_norm) {
        const float factor = (float)((double)o->clip_norm / norm);
        for (size_t j = 0; j < n; j++) {
            g[j] = flushed(g[j] * factor, 0x1p-50f);
        }
    }
    for (size_t j = 0; j < n; j++) {
        if (o->momentum > 0.0f) {
            plain->velocity[j] = flushed(fmaf(o->momentum, plain->velocity[j], g[j]), 0x1p-50f);
        }
        const float direction = o->momentum > 0.0f ? plain->velocity[j] : g[j];
        plain->w[j] = flushed(fmaf(-o->learning_rate, direction, plain->w[j]), 0x1p-50f);
    }
}

static void plain_train(struct plain *plain, float *trained) {
    const struct shape *shape = plain->shape;
    const edgefl_train_options *o = plain->options;
    const size_t n = num_parameters(shape);
    const bool direct =
        o->l2 <= 0.0f && o->proximal <= 0.0f && o->momentum <= 0.0f && o->clip_norm <= 0.0f && !plain->correction;
    plain->w = trained;
    plain->target = direct ? trained : malloc(n * sizeof(float));
    plain->velocity = calloc(n, sizeof(float));
    plain->hidden = malloc(shape->num_rows * shape->num_hidden * sizeof(float));
    plain->g2 = malloc(shape->num_rows * shape->num_classes * sizeof(float));
    uint32_t *order = malloc(shape->num_rows * sizeof(uint32_t));
    for (size_t j = 0; j < n; j++) {
        trained[j] = flushed(plain->start[j], 0x1p-50f);
    }
    for (size_t epoch = 0; epoch < o->num_epochs; epoch++) {
        for (size_t i = 0; i < shape->num_rows; i++) {
            order[i] = (uint32_t)i;
        }
        if (o->shuffle_key != NULL) {
            edgefl_permutation(o->shuffle_key, (uint32_t)epoch, order, shape->num_rows);
        }
        for (size_t first = 0; first < shape->num_rows; first += shape->batch_size) {
            const size_t left = shape->num_rows - first;
            const size_t batch = left < shape->batch_size ? left : shape->batch_size;
            plain_forward(plain, order + first, batch,
                          direct ? -(o->learning_rate / (float)batch) : 1.0f / (float)batch);
            if (!direct) {
                memset(plain->target, 0, n * sizeof(float));
            }
            plain_backward(plain, order + first, batch);
            for (size_t j = 0; direct && j < n; j++) {
                trained[j] = flushed(trained[j], 0x1p-50f);
            }
            if (!direct) {
                plain_step(plain);
            }
        }
    }
    free(order);
    free(plain->hidden);
    free(plain->g2);
    free(plain->velocity);
    if (!direct) {
        free(plain->target);
    }
}

/* ---- the comparison ---- */

static const uint8_t shuffle_key[16] = {1, 2, 3};

static const edgefl_train_options all_options[] = {
    {.learning_rate = 0.25f, .num_epochs = 2},
    {.learning_rate = 0.25f, .num_epochs = 2, .shuffle_key = shuffle_key},
    {.learning_rate = 0.25f, .momentum = 0.5f, .num_epochs = 2},
    {.learning_rate = 0x1p-30f, .num_epochs = 2},
    {.learning_rate = 0.25f,
     .l2 = 0.01f,
     .momentum = 0.5f,
     .proximal = 0.125f,
     .clip_norm = 0.5f,
     .num_epochs = 2,
     .shuffle_key = shuffle_key},
};
#define NUM_OPTIONS (sizeof all_options / sizeof all_options[0])

/* Small values as well: they are what the rule of 2^-30 is about. */
static float *draw_parameters(size_t n, uint64_t *state) {
    float *values = guarded(n * sizeof(float));
    for (size_t j = 0; j < n; j++) {
        values[j] = draw_value(state, draw(state) % 2 ? 0x1p-31f : 0x1p-50f) * 0.5f;
    }
    return values;
}

struct given {
    const struct shape *shape;
    edgefl_features features;
    const float *loaded;
    int32_t *labels;
    float *example_weights;
    float *start;
    float *correction;
};

static struct given draw_given(const struct shape *shape, edgefl_dtype dtype, uint64_t *state) {
    const size_t count = shape->num_rows * shape->num_features, n = num_parameters(shape);
    float *loaded = guarded(count * sizeof(float));
    uint8_t *stored = guarded(count);
    struct given given = {.shape = shape,
                          .features = {.dtype = dtype,
                                       .data = dtype == EDGEFL_FLOAT32 ? (const void *)loaded : (const void *)stored,
                                       .num_rows = shape->num_rows,
                                       .num_features = shape->num_features,
                                       .scale = 0x1p-6f,
                                       .zero_point = -3},
                          .loaded = loaded,
                          .labels = guarded(shape->num_rows * sizeof(int32_t)),
                          .example_weights = guarded(shape->num_rows * sizeof(float)),
                          .start = draw_parameters(n, state),
                          .correction = draw_parameters(n, state)};
    for (size_t j = 0; j < count; j++) {
        stored[j] = (uint8_t)draw(state);
        loaded[j] = dtype == EDGEFL_FLOAT32 ? draw_value(state, 0x1p-30f)
                    : dtype == EDGEFL_UINT8 ? 0x1p-6f * (float)(stored[j] + 3)
                                            : 0x1p-6f * (float)((int8_t)stored[j] + 3);
    }
    for (size_t i = 0; i < shape->num_rows; i++) {
        given.labels[i] = (int32_t)(draw(state) % shape->num_classes);
        given.example_weights[i] = (float)(draw(state) % 4);
    }
    return given;
}

static void compare(const edgefl_variant *variant, const struct given *given, const edgefl_train_options *options,
                    const float *weights, const float *correction, const float *expected) {
    const struct shape *shape = given->shape;
    const size_t n = num_parameters(shape), c = shape->num_classes;
    const edgefl_mlp start = {shape->num_hidden, c, given->start};
    const size_t size = edgefl_mlp_train_scratch_bytes(&given->features, shape->num_hidden, c, correction, options);
    float *found = guarded(n * sizeof(float));
    void *scratch = guarded(size);
    edgefl_train_stats stats;
    edgefl_place place;
    CHECK(edgefl_mlp_train(variant, &given->features, given->labels, weights, &start, correction, options, NULL,
                           scratch, size, found, &stats, &place) == EDGEFL_OK);
    if (memcmp(found, expected, n * sizeof(float)) != 0) {
        fprintf(stderr, "%s differs: %zu rows, %zu-%zu-%zu, batches of %zu\n", edgefl_variant_name_of(variant),
                shape->num_rows, shape->num_features, shape->num_hidden, c, shape->batch_size);
        failures++;
    }
}

static void compare_all(const struct given *given, const edgefl_train_options *options, bool weighted, bool corrected) {
    const float *weights = weighted ? given->example_weights : NULL;
    const float *correction = corrected ? given->correction : NULL;
    float *expected = malloc(num_parameters(given->shape) * sizeof(float));
    struct plain plain = {.shape = given->shape,
                          .x = given->loaded,
                          .labels = given->labels,
                          .example_weights = weights,
                          .start = given->start,
                          .correction = correction,
                          .options = options};
    plain_train(&plain, expected);
    compare(edgefl_scalar_software(), given, options, weights, correction, expected);
    for (size_t j = 0; j < edgefl_variant_count(); j++) {
        const edgefl_variant *variant = edgefl_variant_find(edgefl_variant_name(j));
        if (variant != NULL) {
            compare(variant, given, options, weights, correction, expected);
        }
    }
    free(expected);
}

int main(void) {
    uint64_t state = 11;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        for (int dtype = 0; dtype < 3; dtype++) {
            const struct given given = draw_given(&shapes[s], (edgefl_dtype)dtype, &state);
            for (size_t o = 0; o < NUM_OPTIONS; o++) {
                edgefl_train_options options = all_options[o];
                options.batch_size = shapes[s].batch_size;
                options.num_epochs = dtype == 0 ? 2 : 1;
                compare_all(&given, &options, o % 2 == 1, dtype == (int)o % 3);
            }
        }
    }
    return failures != 0;
}
