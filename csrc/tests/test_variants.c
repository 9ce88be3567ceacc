/* Every variant on the list gives the bits of the software scalar one, on shapes that leave remainders everywhere, with
 * every buffer ending at a guard page, and aligned to a float only. */
#define _DEFAULT_SOURCE
#include "check.h"
#include "edgefl.h"
#include "variant.h"

struct shape {
    size_t num_rows, num_features, num_classes, batch_size;
};

static const struct shape shapes[] = {
    {1, 1, 1, 1},     {3, 15, 2, 2},   {5, 16, 3, 5},     {7, 17, 4, 3},  {70, 31, 5, 70},    {65, 33, 6, 64},
    {40, 65, 10, 32}, {9, 127, 11, 4}, {33, 784, 10, 32}, {6, 5, 100, 6}, {130, 20, 17, 129},
};

struct data {
    float *features;
    uint8_t *stored;
    int32_t *labels;
    float *example_weights;
    float *kernel;
    float *bias;
    float *mean;
    float *inverse_spread;
    edgefl_model correction;
};

static struct data make_data(const struct shape *shape, uint64_t *state) {
    const size_t n = shape->num_rows, f = shape->num_features, c = shape->num_classes;
    float *correction = guarded(c * f * sizeof(float)), *bias_correction = guarded(c * sizeof(float));
    const struct data data = {
        .features = guarded(n * f * sizeof(float)),
        .stored = guarded(n * f),
        .labels = guarded(n * sizeof(int32_t)),
        .example_weights = guarded(n * sizeof(float)),
        .kernel = guarded(c * f * sizeof(float)),
        .bias = guarded(c * sizeof(float)),
        .mean = guarded(f * sizeof(float)),
        .inverse_spread = guarded(f * sizeof(float)),
        .correction = {c, correction, bias_correction},
    };
    for (size_t j = 0; j < n * f; j++) {
        data.features[j] = draw_value(state, 0x1p-30f);
        data.stored[j] = (uint8_t)draw(state);
    }
    for (size_t i = 0; i < n; i++) {
        data.labels[i] = (int32_t)(draw(state) % c);
        data.example_weights[i] = (float)(draw(state) % 4);
    }
    for (size_t j = 0; j < c * f; j++) {
        data.kernel[j] = draw_value(state, 0x1p-50f);
        correction[j] = draw_value(state, 0x1p-51f);
    }
    for (size_t j = 0; j < c; j++) {
        data.bias[j] = draw_value(state, 0x1p-51f);
        bias_correction[j] = draw_value(state, 0x1p-50f);
    }
    for (size_t j = 0; j < f; j++) {
        data.mean[j] = draw_value(state, 0x1p-30f);
        data.inverse_spread[j] = draw_value(state, 0x1p-30f);
    }
    return data;
}

struct results {
    float *kernel;
    float *bias;
    float *probabilities;
    uint64_t *confusion;
    double loss_sum;
    edgefl_train_stats stats;
};

static struct results run(const edgefl_variant *variant, const struct shape *shape, const struct data *data,
                          const edgefl_features *features, const edgefl_train_options *options) {
    const size_t n = shape->num_rows, f = shape->num_features, c = shape->num_classes;
    struct results results = {.kernel = guarded(c * f * sizeof(float)),
                              .bias = guarded(c * sizeof(float)),
                              .probabilities = guarded(n * c * sizeof(float)),
                              .confusion = guarded(c * c * sizeof(uint64_t))};
    const edgefl_model start = {c, data->kernel, data->bias};
    edgefl_place place;
    const size_t size = edgefl_softmax_train_scratch_bytes(features, c, options);
    CHECK(edgefl_softmax_train(variant, features, data->labels, options->l2 > 0.0f ? data->example_weights : NULL,
                               &start, options, NULL, guarded(size), size, results.kernel, results.bias, &results.stats,
                               &place) == EDGEFL_OK);
    const edgefl_model trained = {c, results.kernel, results.bias};
    const size_t infer = edgefl_softmax_infer_scratch_bytes(features, c);
    CHECK(edgefl_softmax_predict(variant, features, &trained, guarded(infer), infer, results.probabilities, &place) ==
          EDGEFL_OK);
    CHECK(edgefl_softmax_evaluate(variant, features, data->labels, &trained, guarded(infer), infer, results.confusion,
                                  &results.loss_sum, &place) == EDGEFL_OK);
    return results;
}

static void compare(const char *name, const struct shape *shape, const struct results *a, const struct results *b) {
    const size_t n = shape->num_rows, f = shape->num_features, c = shape->num_classes;
    const bool equal = memcmp(a->kernel, b->kernel, c * f * sizeof(float)) == 0 &&
                       memcmp(a->bias, b->bias, c * sizeof(float)) == 0 &&
                       memcmp(a->probabilities, b->probabilities, n * c * sizeof(float)) == 0 &&
                       memcmp(a->confusion, b->confusion, c * c * sizeof(uint64_t)) == 0 &&
                       memcmp(&a->loss_sum, &b->loss_sum, sizeof(double)) == 0 &&
                       memcmp(&a->stats.loss_sum, &b->stats.loss_sum, sizeof(double)) == 0 &&
                       a->stats.num_correct == b->stats.num_correct;
    if (!equal) {
        fprintf(stderr, "%s differs: %zu rows, %zu features, %zu classes, batches of %zu\n", name, n, f, c,
                shape->batch_size);
        failures++;
    }
}

static const uint8_t shuffle_key[16] = {1, 2, 3};

static const edgefl_train_options all_options[] = {
    {.learning_rate = 0.25f, .num_epochs = 2},
    {.learning_rate = 0.25f, .num_epochs = 3, .shuffle_key = shuffle_key},
    {.learning_rate = 0.25f,
     .l2 = 0.01f,
     .momentum = 0.5f,
     .proximal = 0.125f,
     .clip_norm = 0.5f,
     .num_epochs = 2,
     .shuffle_key = shuffle_key},
};
#define NUM_OPTIONS (sizeof all_options / sizeof all_options[0])

static void compare_all(const edgefl_variant *variant, const char *name) {
    const edgefl_variant *reference = edgefl_scalar_software();
    uint64_t state = 7;
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const struct shape *shape = &shapes[s];
        const struct data data = make_data(shape, &state);
        for (int kind = 0; kind < 5; kind++) {
            edgefl_features features = {.dtype = kind < 2    ? EDGEFL_FLOAT32
                                                 : kind == 2 ? EDGEFL_INT8
                                                             : EDGEFL_UINT8,
                                        .data = kind < 2 ? (const void *)data.features : (const void *)data.stored,
                                        .num_rows = shape->num_rows,
                                        .num_features = shape->num_features,
                                        .scale = 0x1p-7f,
                                        .zero_point = kind == 2 ? -3 : 100};
            if (kind % 2 == 1) {
                features.mean = data.mean;
                features.inverse_spread = data.inverse_spread;
            }
            for (size_t o = 0; o < 2 * NUM_OPTIONS; o++) {
                edgefl_train_options options = all_options[o % NUM_OPTIONS];
                options.batch_size = shape->batch_size;
                options.correction = o < NUM_OPTIONS ? NULL : &data.correction;
                const struct results expected = run(reference, shape, &data, &features, &options);
                const struct results found = run(variant, shape, &data, &features, &options);
                compare(name, shape, &expected, &found);
            }
        }
    }
}

static void names_are_found(void) {
    CHECK(edgefl_variant_count() >= 1 && strcmp(edgefl_variant_name(0), "scalar") == 0);
    CHECK(edgefl_variant_find("scalar") != NULL && edgefl_variant_find(NULL) != NULL);
    CHECK(edgefl_variant_find("") == NULL && edgefl_variant_find("scalar ") == NULL);
    CHECK(strcmp(edgefl_variant_name_of(edgefl_variant_find("scalar")), "scalar") == 0);
}

int main(void) {
    names_are_found();
    for (size_t j = 0; j < edgefl_variant_count(); j++) {
        const edgefl_variant *variant = edgefl_variant_find(edgefl_variant_name(j));
        if (variant == NULL) {
            printf("%s: not supported by this CPU\n", edgefl_variant_name(j));
        } else {
            compare_all(variant, edgefl_variant_name(j));
        }
    }
#if !defined(EDGEFL_SOFTWARE_FMA)
    if (edgefl_scalar_hardware() == NULL) {
        printf("scalar: only its software body runs on this CPU\n");
    }
#endif
    return failures != 0;
}
