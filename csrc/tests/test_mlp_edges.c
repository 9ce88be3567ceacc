/* The mlp by hand-computed values: one step, dead units, limits, places and refusals; a softmax layer behind it. */
#define _DEFAULT_SOURCE
#include <math.h>

#include "check.h"
#include "edgefl.h"

#define MAX_PARAMETERS 64u

struct run {
    edgefl_status status;
    edgefl_place place;
    edgefl_train_stats stats;
    float w[MAX_PARAMETERS];
};

static edgefl_train_options plain(float rate, size_t batch_size) {
    return (edgefl_train_options){.learning_rate = rate, .batch_size = batch_size, .num_epochs = 1};
}

/* hidden 2, classes 2; of F features: w holds F * 2 + 2 + 4 + 2 values. */
static struct run train22(const edgefl_features *features, const int32_t *labels, const float *example_weights,
                          const float *w, const float *correction, const edgefl_train_options *options) {
    struct run run;
    memset(&run, 0x55, sizeof run);
    const edgefl_mlp start = {2, 2, w};
    const size_t size = edgefl_mlp_train_scratch_bytes(features, 2, 2, correction, options);
    run.status = edgefl_mlp_train(edgefl_variant_find(NULL), features, labels, example_weights, &start, correction,
                                  options, NULL, guarded(size), size, run.w, &run.stats, &run.place);
    return run;
}

/* One feature: hidden kernel 0, 1; hidden bias 2, 3; output kernel 4 to 7, class by class; output bias 8, 9. */
#define W(...) ((const float[10]){__VA_ARGS__})
static const float none = 0.0f;

/* x = 2: h = (2 * 1 + 1, dead) = (3, 0), both logits 3 * 1: p = 1/2. With rate 1/2 and label 0, g2 = (-1/4, 1/4) * rate
 * subtracted: class 0 gains 1/4 * 3. gh = -1/4 * w2[0] + 1/4 * w2[1] for unit 0 = 1/4 * (1 - 1) = 0. */
static void one_step(void) {
    const float x = 2.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    const edgefl_train_options options = plain(0.5f, 32);
    struct run run = train22(&features, &label, NULL, W(1, -1, 1, 1, 1, 5, 1, 7, 0, 0), NULL, &options);
    CHECK(run.status == EDGEFL_OK && run.stats.examples_seen == 1 && run.stats.num_correct == 1);
    const float same_hidden[] = {1, -1, 1, 1, 1.75f, 5, 0.25f, 7, 0.25f, -0.25f};
    CHECK(memcmp(run.w, same_hidden, sizeof same_hidden) == 0); /* unit 1 is dead: nothing of it moves */
    /* Logits equal by the bias: gh of unit 0 = 1/4 * 1 - 1/4 * 2 = -1/4 of the output kernel before the step. */
    run = train22(&features, &label, NULL, W(1, -1, 1, 1, 1, 5, 2, 7, 3, 0), NULL, &options);
    const float moved[] = {0.5f, -1, 0.75f, 1, 1.75f, 5, 1.25f, 7, 3.25f, -0.25f};
    CHECK(run.status == EDGEFL_OK && memcmp(run.w, moved, sizeof moved) == 0);
}

/* A sum of exactly 2^-30 is active, its neighbour below is not, and neither is 0 or anything negative. */
static void activations_start_at_the_limit(void) {
    const float x = 1.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    const edgefl_train_options options = plain(1.0f, 1);
    const float inactive[] = {0x1.fffffep-31f, 0.0f, -0x1p-30f, -5.0f};
    for (size_t j = 0; j < 4; j++) {
        const struct run run =
            train22(&features, &label, NULL, W(0x1p-30f, inactive[j], 0, 0, 1, 1, -1, -1, 0, 2), NULL, &options);
        CHECK(run.status == EDGEFL_OK && run.w[0] > 0.25f);
        CHECK(same(run.w[1], inactive[j]) && run.w[5] == 1.0f && run.w[7] == -1.0f);
    }
}

/* In the backward pass a weight below 2^-30 counts as 0; 2^-30 itself does not. */
static void small_output_weights_pass_nothing_back(void) {
    const float x = 1.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    const edgefl_train_options options = plain(1.0f, 1);
    const float below = 0x1.fffffep-31f, at = 0x1p-30f;
    /* Both units are active with a bias of 2^-20, which a change of 2^-31 is seen in. */
    const struct run run =
        train22(&features, &label, NULL, W(0, 0, 0x1p-20f, 0x1p-20f, at, below, -at, -below, 0, 0), NULL, &options);
    CHECK(run.status == EDGEFL_OK && run.w[2] == 0x1p-20f + 0x1p-30f && run.w[3] == 0x1p-20f);
    CHECK(run.w[0] == 0x1p-30f && same(run.w[1], 0.0f) && run.w[5] > 0x1p-22f);
}

static void options_apply_to_all_parameters(void) {
    const float x = 1.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    edgefl_train_options options = plain(1.0f, 1);
    /* Example weight 0: the terms alone. l2 moves the kernels and no bias. */
    options.l2 = 0.5f;
    struct run run = train22(&features, &label, &none, W(2, 4, 6, 8, 2, 4, 6, 8, 10, 12), NULL, &options);
    const float decayed[] = {1, 2, 6, 8, 1, 2, 3, 4, 10, 12};
    CHECK(run.status == EDGEFL_OK && memcmp(run.w, decayed, sizeof decayed) == 0);
    /* A correction with one value in each part has norm sqrt(4 * 4^2) = 8; clipped to 4. */
    options.l2 = 0.0f;
    options.clip_norm = 4.0f;
    const float *correction = W(4, 0, 0, -4, 0, 0, 4, 0, 0, -4);
    run = train22(&features, &label, &none, W(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), correction, &options);
    const float stepped[] = {-2, 0, 0, 2, 0, 0, -2, 0, 0, 2};
    CHECK(run.status == EDGEFL_OK && memcmp(run.w, stepped, sizeof stepped) == 0);
    /* v = c, then 1.5 c. */
    options.clip_norm = 0.0f;
    options.momentum = 0.5f;
    options.num_epochs = 2;
    run = train22(&features, &label, &none, W(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), correction, &options);
    CHECK(run.w[0] == -10.0f && run.w[3] == 10.0f && run.w[6] == -10.0f && run.w[9] == 10.0f);
    options = plain(1.0f, 1);
    options.proximal = 0.5f;
    options.num_epochs = 2; /* at the start nothing pulls; then half of the way back, which is none */
    run = train22(&features, &label, &none, W(2, 4, 6, 8, 2, 4, 6, 8, 10, 12), NULL, &options);
    CHECK(run.w[0] == 2.0f && run.w[9] == 12.0f);
    options.clip_norm = 0x1p-29f;
    options.proximal = 0.0f;
    run = train22(&features, &label, &none, W(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), correction, &options);
    CHECK(run.status == EDGEFL_GRADIENT_EXPLODED && run.place.row == 0);
}

static void places_count_both_layers(void) {
    const float x = 1.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    const edgefl_train_options options = plain(1.0f, 1);
    const size_t rows[] = {0, 1, 0, 1, 2, 2, 3, 3, 2, 3}, columns[] = {0, 0, 1, 1, 0, 1, 0, 1, 2, 2};
    const float bads[] = {NAN, INFINITY, -INFINITY};
    for (size_t j = 0; j < 10; j++) {
        float w[10] = {0.0f};
        w[j] = bads[j % 3];
        struct run run = train22(&features, &label, NULL, w, NULL, &options);
        CHECK(run.status == EDGEFL_BAD_START_WEIGHT && run.place.row == rows[j] && run.place.column == columns[j]);
        CHECK(bits_of(run.w[0]) == 0x55555555u); /* outputs are untouched */
        run = train22(&features, &label, NULL, W(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), w, &options);
        CHECK(run.status == EDGEFL_BAD_CORRECTION && run.place.row == rows[j] && run.place.column == columns[j]);
    }
    /* A correction of 2^127 and the rate 2 overflow one weight. */
    for (size_t j = 0; j < 10; j++) {
        float correction[10] = {0.0f};
        correction[j] = 0x1p127f;
        const edgefl_train_options fast = plain(2.0f, 1);
        const struct run run = train22(&features, &label, &none, W(0, 0, 0, 0, 0, 0, 0, 0, 0, 0), correction, &fast);
        CHECK(run.status == EDGEFL_NON_FINITE_WEIGHT && run.place.row == rows[j] && run.place.column == columns[j]);
    }
}

/* Row 1 has a hidden sum that overflows; row 0 has finite ones, and a logit that overflows in the second model. */
static void sums_that_overflow_are_named(void) {
    const float data[] = {1.0f, 0x1p28f, 1.0f};
    const int32_t labels[] = {0, 0, 0};
    const edgefl_features features = {.data = data, .num_rows = 3, .num_features = 1};
    const edgefl_train_options options = plain(0x1p-20f, 3);
    const float *hidden = W(0x1p100f, -0x1p100f, 0, 0, 0, 0, 0, 0, 0, 0);
    const float *both = W(0x1p100f, 0, 0, 0, 0x1p28f, 0, 0, 0, 0, 0);
    CHECK(train22(&features, labels, NULL, hidden, NULL, &options).place.row == 1);
    const struct run run = train22(&features, labels, NULL, both, NULL, &options);
    CHECK(run.status == EDGEFL_NON_FINITE_LOGIT && run.place.row == 0);
    edgefl_mlp model = {2, 2, hidden};
    const size_t size = edgefl_mlp_infer_scratch_bytes(&features, 2, 2);
    float *probabilities = guarded(6 * sizeof *probabilities);
    uint64_t confusion[4] = {0};
    double loss;
    edgefl_place place;
    const edgefl_variant *variant = edgefl_variant_find(NULL);
    void *scratch = guarded(size);
    CHECK(edgefl_mlp_predict(variant, &features, &model, scratch, size, probabilities, &place) ==
          EDGEFL_NON_FINITE_LOGIT);
    CHECK(place.row == 1);
    model.parameters = both;
    CHECK(edgefl_mlp_evaluate(variant, &features, labels, &model, scratch, size, confusion, &loss, &place) ==
          EDGEFL_NON_FINITE_LOGIT);
    CHECK(place.row == 0);
    CHECK(edgefl_mlp_evaluate(variant, &features, labels, &model, scratch, size - 1, confusion, &loss, &place) ==
          EDGEFL_SCRATCH_TOO_SMALL);
}

static edgefl_status status_of(size_t num_hidden, size_t num_classes, const edgefl_train_options *options) {
    static const float parameters[4 * 513 + 1];
    const float x = 1.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    const edgefl_mlp model = {num_hidden, num_classes, parameters};
    static float out[4 * 513 + 1];
    edgefl_train_stats stats;
    edgefl_place place;
    const size_t size = edgefl_mlp_train_scratch_bytes(&features, num_hidden, num_classes, NULL, options);
    const size_t infer = edgefl_mlp_infer_scratch_bytes(&features, num_hidden, num_classes);
    float p[4];
    const edgefl_variant *variant = edgefl_variant_find(NULL);
    const edgefl_status predicted = edgefl_mlp_predict(variant, &features, &model, guarded(infer), infer, p, &place);
    const edgefl_status trained = edgefl_mlp_train(variant, &features, &label, NULL, &model, NULL, options, NULL,
                                                   guarded(size), size, out, &stats, &place);
    CHECK(trained == predicted || options->correction != NULL);
    return trained;
}

static void shapes_are_checked(void) {
    edgefl_train_options options = plain(1.0f, 1);
    CHECK(status_of(1, 1, &options) == EDGEFL_OK);
    CHECK(status_of(EDGEFL_MAX_HIDDEN, 2, &options) == EDGEFL_OK);
    CHECK(status_of(0, 2, &options) == EDGEFL_BAD_ARGUMENT);
    CHECK(status_of(EDGEFL_MAX_HIDDEN + 1, 2, &options) == EDGEFL_BAD_ARGUMENT);
    CHECK(status_of(SIZE_MAX, 2, &options) == EDGEFL_BAD_ARGUMENT);
    CHECK(status_of(1, 0, &options) == EDGEFL_BAD_ARGUMENT);
    CHECK(status_of(1, EDGEFL_MAX_CLASSES + 1, &options) == EDGEFL_BAD_ARGUMENT);
    const edgefl_model correction = {2, NULL, NULL};
    options.correction = &correction; /* that of a softmax layer */
    CHECK(status_of(1, 2, &options) == EDGEFL_BAD_ARGUMENT);
}

/* Units that pass the features on: the output is that of the softmax layer with the same kernel. */
static void inference_is_that_of_the_softmax_layer(void) {
    const float data[] = {0.5f, 2.0f, 3.0f, 0.25f, 1.0f, 1.0f};
    const int32_t labels[] = {0, 1, 2};
    const float w[] = {1, 0, 0, 1, 0, 0, 1, -2, 0.5f, 0.25f, -1, 3, 0.5f, 0, -0.5f};
    const edgefl_features features = {.data = data, .num_rows = 3, .num_features = 2};
    const edgefl_mlp mlp = {2, 3, w};
    const edgefl_model softmax = {3, w + 6, w + 12};
    const edgefl_variant *variant = edgefl_variant_find(NULL);
    unsigned char scratch[65536];
    float p[9], q[9];
    uint64_t a[9] = {0}, b[9] = {0};
    double loss_a, loss_b;
    edgefl_place place;
    const size_t size = sizeof scratch;
    CHECK(edgefl_mlp_predict(variant, &features, &mlp, scratch, size, p, &place) == EDGEFL_OK);
    CHECK(edgefl_softmax_predict(variant, &features, &softmax, scratch, size, q, &place) == EDGEFL_OK);
    CHECK(memcmp(p, q, sizeof p) == 0);
    CHECK(edgefl_mlp_evaluate(variant, &features, labels, &mlp, scratch, size, a, &loss_a, &place) == EDGEFL_OK);
    CHECK(edgefl_softmax_evaluate(variant, &features, labels, &softmax, scratch, size, b, &loss_b, &place) ==
          EDGEFL_OK);
    CHECK(memcmp(a, b, sizeof a) == 0 && !(loss_a < loss_b) && !(loss_a > loss_b));
}

int main(void) {
    one_step();
    activations_start_at_the_limit();
    small_output_weights_pass_nothing_back();
    options_apply_to_all_parameters();
    places_count_both_layers();
    sums_that_overflow_are_named();
    shapes_are_checked();
    inference_is_that_of_the_softmax_layer();
    return failures != 0;
}
