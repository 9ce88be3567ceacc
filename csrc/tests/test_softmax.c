/* Training and inference, by hand-computed values and at the edges of the domain. */
#define _DEFAULT_SOURCE
#include <math.h>

#include "check.h"
#include "edgefl.h"

static edgefl_train_options plain(float learning_rate, size_t batch_size) {
    const edgefl_train_options options = {.learning_rate = learning_rate, .batch_size = batch_size, .num_epochs = 1};
    return options;
}

/* Two classes from all-zero weights. */
struct run {
    float kernel[8], bias[2];
    edgefl_train_stats stats;
    edgefl_place place;
    edgefl_status status;
};

static struct run train2(const edgefl_features *features, const int32_t *labels, const float *example_weights,
                         const edgefl_train_options *options, const edgefl_stop_flag *stop) {
    const float zeros[10] = {0.0f};
    const edgefl_model start = {2, zeros, zeros + 8};
    struct run run;
    memset(&run, 0x55, sizeof run);
    const size_t size = edgefl_softmax_train_scratch_bytes(features, 2, options);
    run.status = edgefl_softmax_train(edgefl_variant_find(NULL), features, labels, example_weights, &start, options,
                                      stop, guarded(size), size, run.kernel, run.bias, &run.stats, &run.place);
    return run;
}

/* From zero weights p = 1/2: with one example (x = 2, label 0) and rate 0.5, g = (-1/4, 1/4). */
static void one_step(void) {
    const float x = 2.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    edgefl_train_options options = plain(0.5f, 32);
    struct run run = train2(&features, &label, NULL, &options, NULL);
    CHECK(run.status == EDGEFL_OK && run.kernel[0] == 0.5f && run.kernel[1] == -0.5f);
    CHECK(run.bias[0] == 0.25f && run.bias[1] == -0.25f);
    CHECK(run.stats.examples_seen == 1 && run.stats.num_steps == 1 && run.stats.num_correct == 1);
    CHECK(fabs(run.stats.loss_sum - 0.6931471805599453) < 1e-7 && !run.stats.stopped);
    /* An example weight scales the gradient; 0 takes the example away. */
    const float third = 3.0f, none = 0.0f;
    run = train2(&features, &label, &third, &options, NULL);
    CHECK(run.kernel[0] == 1.5f && run.bias[1] == -0.75f);
    run = train2(&features, &label, &none, &options, NULL);
    CHECK(same(run.kernel[0], 0.0f) && same(run.bias[1], 0.0f));
    /* The other path: the gradient is (-1, 1 | -1/2, 1/2), its norm sqrt(2.5); clipped to half of it. */
    options.clip_norm = 0.7905694f;
    run = train2(&features, &label, NULL, &options, NULL);
    CHECK(fabsf(run.kernel[0] - 0.25f) < 1e-6f && fabsf(run.bias[0] - 0.125f) < 1e-6f);
    options.clip_norm = 0x1p-30f;
    run = train2(&features, &label, NULL, &options, NULL);
    CHECK(run.status == EDGEFL_GRADIENT_EXPLODED && run.place.row == 0);
}

/* A batch of more rows than are converted at a time: every example counts, once. From zero weights each g is 1/2 when
 * rate / batch size is 1, so the kernel is the sum of i / 2 over i = 0 .. 127. */
static void a_batch_of_many_tiles(void) {
    float values[128];
    uint8_t stored[128];
    int32_t labels[128] = {0};
    for (size_t i = 0; i < 128; i++) {
        values[i] = (float)i;
        stored[i] = (uint8_t)i;
    }
    const edgefl_train_options options = plain(128.0f, 128);
    edgefl_features features = {.data = values, .num_rows = 128, .num_features = 1};
    CHECK(train2(&features, labels, NULL, &options, NULL).kernel[0] == 4064.0f);
    features = (edgefl_features){
        .dtype = EDGEFL_UINT8, .data = stored, .num_rows = 128, .num_features = 1, .scale = 1.0f, .zero_point = 0};
    const struct run run = train2(&features, labels, NULL, &options, NULL);
    CHECK(run.kernel[0] == 4064.0f && run.bias[0] == 64.0f && run.stats.num_steps == 1);
}

/* Two epochs with momentum 1/2 and a gradient that hardly moves: rate 2^-20, so that p stays near 1/2. */
static void momentum_adds_up(void) {
    const float x = 1.0f;
    const int32_t label = 1;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    edgefl_train_options options = plain(0x1p-20f, 1);
    options.momentum = 0.5f;
    options.num_epochs = 2;
    const struct run run = train2(&features, &label, NULL, &options, NULL);
    /* v = g, then 1.5 g; the steps sum to 2.5 g with g = -1/2. */
    CHECK(fabsf(run.kernel[1] - 2.5f * 0.5f * 0x1p-20f) < 0x1p-38f && run.stats.num_steps == 2);
}

static void the_stop_flag_ends_before_the_first_batch(void) {
    const float x[] = {1.0f, 2.0f};
    const int32_t labels[] = {0, 1};
    const edgefl_features features = {.data = x, .num_rows = 2, .num_features = 1};
    const edgefl_train_options options = plain(0.5f, 1);
    edgefl_stop_flag stop;
    edgefl_stop_flag_init(&stop);
    CHECK(!edgefl_stop_flag_is_set(&stop));
    edgefl_stop_flag_set(&stop);
    const struct run run = train2(&features, labels, NULL, &options, &stop);
    CHECK(run.status == EDGEFL_OK && run.stats.stopped && run.stats.examples_seen == 0 && run.kernel[0] == 0.0f);
}

static edgefl_status status_of(float x, int32_t label, float example_weight, size_t *column) {
    const float row[] = {1.0f, x, 1.0f};
    const edgefl_features features = {.data = guarded_copy(row, sizeof row), .num_rows = 1, .num_features = 3};
    const edgefl_train_options options = plain(0.5f, 1);
    const struct run run = train2(&features, &label, &example_weight, &options, NULL);
    *column = run.place.column;
    if (run.status != EDGEFL_OK) {
        CHECK(bits_of(run.kernel[0]) == 0x55555555u); /* outputs are untouched */
    }
    return run.status;
}

static void inputs_are_checked(void) {
    size_t column;
    CHECK(status_of(0x1p-30f, 1, 0x1p-30f, &column) == EDGEFL_OK);
    CHECK(status_of(-0.0f, 1, 0.0f, &column) == EDGEFL_OK);
    CHECK(status_of(0x1.fffffep-31f, 1, 1.0f, &column) == EDGEFL_BAD_FEATURE && column == 1);
    CHECK(status_of(NAN, 1, 1.0f, &column) == EDGEFL_BAD_FEATURE && column == 1);
    CHECK(status_of(-INFINITY, 1, 1.0f, &column) == EDGEFL_BAD_FEATURE);
    CHECK(status_of(1.0f, 2, 1.0f, &column) == EDGEFL_BAD_LABEL);
    CHECK(status_of(1.0f, -1, 1.0f, &column) == EDGEFL_BAD_LABEL);
    CHECK(status_of(1.0f, 0, -1.0f, &column) == EDGEFL_BAD_EXAMPLE_WEIGHT);
    CHECK(status_of(1.0f, 0, 0x1p-31f, &column) == EDGEFL_BAD_EXAMPLE_WEIGHT);
}

static void options_are_checked(void) {
    const float x = 1.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    edgefl_train_options options = plain(-1.0f, 1);
    CHECK(train2(&features, &label, NULL, &options, NULL).status == EDGEFL_BAD_ARGUMENT);
    options = plain(INFINITY, 1);
    CHECK(train2(&features, &label, NULL, &options, NULL).status == EDGEFL_BAD_ARGUMENT);
    options = plain(0x1p-31f, 1);
    CHECK(train2(&features, &label, NULL, &options, NULL).status == EDGEFL_BAD_ARGUMENT);
    options = plain(1.0f, 0);
    CHECK(train2(&features, &label, NULL, &options, NULL).status == EDGEFL_BAD_ARGUMENT);
}

/* With rate 0.5 and x = 2 as in one_step, g = (-1, 1 | -1/2, 1/2); clipping and momentum see the corrected gradient. */
static void a_correction_is_added_to_the_gradient(void) {
    float x = 2.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    float kernel[] = {3.0f, -0.0f}, bias[] = {-0x1p-149f, -0.25f};
    const edgefl_model correction = {2, kernel, bias};
    edgefl_train_options options = plain(0.5f, 32);
    options.correction = &correction;
    struct run run = train2(&features, &label, NULL, &options, NULL);
    CHECK(run.status == EDGEFL_OK && run.kernel[0] == -1.0f && run.kernel[1] == -0.5f);
    CHECK(run.bias[0] == 0.25f && run.bias[1] == -0.125f);
    /* Below 2^-50 it is nothing, also beside a gradient that is not: 1/2 * 2^-21 * 2^-28 is 2^-50. */
    const float little = 0x1p-21f, none = 0.0f;
    x = 0x1p-28f;
    kernel[1] = 0x1.fffffep-51f;
    options.learning_rate = 0x1p20f;
    run = train2(&features, &label, &little, &options, NULL);
    CHECK(run.kernel[0] == -0x1.8p21f && run.kernel[1] == -0x1p-30f);
    /* Without an example's pull the correction alone moves the weights. (3, 0 | 0, -4) has norm 5. */
    options.learning_rate = 1.0f;
    bias[1] = -4.0f;
    options.clip_norm = 2.5f;
    run = train2(&features, &label, &none, &options, NULL);
    CHECK(run.kernel[0] == -1.5f && run.bias[1] == 2.0f);
    options.clip_norm = 0.0f;
    options.momentum = 0.5f;
    options.num_epochs = 2; /* v = c, then 1.5 c */
    run = train2(&features, &label, &none, &options, NULL);
    CHECK(run.kernel[0] == -7.5f && run.bias[1] == 10.0f);
}

static void corrections_are_checked(void) {
    const float x = 1.0f;
    int32_t label = 0;
    const edgefl_features features = {.data = &x, .num_rows = 1, .num_features = 1};
    float kernel[] = {0.0f, 0.0f, 0.0f}, bias[] = {0.0f, 0.0f, 0.0f};
    edgefl_model correction = {2, kernel, bias};
    edgefl_train_options options = plain(1.0f, 1);
    options.num_epochs = 0; /* checked even where no step would read it */
    options.correction = &correction;
    CHECK(train2(&features, &label, NULL, &options, NULL).status == EDGEFL_OK);
    label = 2; /* reported after the correction */
    const float bads[] = {NAN, INFINITY, -INFINITY};
    for (size_t j = 0; j < 3; j++) {
        kernel[1] = bads[j];
        struct run run = train2(&features, &label, NULL, &options, NULL);
        CHECK(run.status == EDGEFL_BAD_CORRECTION && run.place.row == 1 && run.place.column == 0);
        CHECK(bits_of(run.kernel[0]) == 0x55555555u);
        kernel[1] = 0.0f;
        bias[0] = bads[j];
        run = train2(&features, &label, NULL, &options, NULL);
        CHECK(run.status == EDGEFL_BAD_CORRECTION && run.place.row == 0 && run.place.column == 1);
        bias[0] = 0.0f;
    }
    for (correction.num_classes = 1; correction.num_classes <= 3; correction.num_classes += 2) {
        CHECK(train2(&features, &label, NULL, &options, NULL).status == EDGEFL_BAD_ARGUMENT);
    }
}

static void standardization_flushes_small_values_and_names_large_ones(void) {
    const float mean[] = {1.0f, 0.0f}, spread[] = {0x1p-29f, 0x1p100f};
    const float data[] = {1.25f, 1.0f, 9.0f, 0x1p28f};
    const int32_t labels[] = {0, 0};
    edgefl_features features = {.data = data, .num_rows = 1, .num_features = 2, .mean = mean, .inverse_spread = spread};
    const edgefl_train_options options = plain(0x1p-20f, 1);
    struct run run = train2(&features, labels, NULL, &options, NULL);
    /* 0.25 * 2^-29 = 2^-31 becomes 0, so its weight does not move. */
    CHECK(run.status == EDGEFL_OK && same(run.kernel[0], 0.0f) && run.kernel[1] == 0x1p79f);
    features.num_rows = 2;
    run = train2(&features, labels, NULL, &options, NULL);
    CHECK(run.status == EDGEFL_BAD_STANDARDIZED && run.place.row == 1 && run.place.column == 1);
}

static void a_logit_that_overflows_is_named(void) {
    const float kernel[] = {0x1p100f, 0.0f}, bias[] = {0.0f, 0.0f};
    const float data[] = {1.0f, 0x1p28f};
    const edgefl_features features = {.data = data, .num_rows = 2, .num_features = 1};
    const edgefl_model model = {2, kernel, bias};
    const size_t size = edgefl_softmax_infer_scratch_bytes(&features, 2);
    float *out = guarded(4 * sizeof *out);
    edgefl_place place;
    CHECK(edgefl_softmax_predict(edgefl_variant_find(NULL), &features, &model, guarded(size), size, out, &place) ==
          EDGEFL_NON_FINITE_LOGIT);
    CHECK(place.row == 1 && out[0] == 1.0f && out[1] == 0.0f);
}

static void start_weights_are_flushed_and_checked(void) {
    float kernel[] = {0x1.fffffep-51f, 0.0f, 0.0f, -0x1.fffffep-51f}, bias[] = {-0.0f, 0.0f};
    const float data[] = {0x1p127f, 0.0f};
    const int32_t label = 0;
    const edgefl_features features = {.data = data, .num_rows = 1, .num_features = 2};
    const edgefl_model model = {2, kernel, bias};
    const size_t size = edgefl_softmax_infer_scratch_bytes(&features, 2);
    const uint64_t none[4] = {0};
    uint64_t *confusion = guarded_copy(none, sizeof none);
    double loss = 0.0;
    edgefl_place place;
    void *scratch = guarded(size);
    const edgefl_variant *variant = edgefl_variant_find(NULL);
    CHECK(edgefl_softmax_evaluate(variant, &features, &label, &model, scratch, size, confusion, &loss, &place) ==
          EDGEFL_OK);
    CHECK((float)loss == 0.693147182f && confusion[0] == 1 && confusion[1] == 0 && confusion[2] == 0);
    CHECK(edgefl_softmax_evaluate(variant, &features, &label, &model, scratch, size, confusion, &loss, &place) ==
          EDGEFL_OK);
    CHECK((float)loss == 0.693147182f && confusion[0] == 2); /* counts add, losses do not */
    bias[1] = INFINITY;
    CHECK(edgefl_softmax_evaluate(variant, &features, &label, &model, scratch, size, confusion, &loss, &place) ==
          EDGEFL_BAD_START_WEIGHT);
    CHECK(place.row == 1 && place.column == 2);
    CHECK(edgefl_softmax_evaluate(variant, &features, &label, &model, scratch, size - 1, confusion, &loss, &place) ==
          EDGEFL_SCRATCH_TOO_SMALL);
}

/* Probabilities and losses against libm in binary64, over logits from even to a difference beyond the cut-off. */
static void softmax_is_accurate(void) {
    const float one = 1.0f;
    const int32_t label = 0;
    const edgefl_features features = {.data = &one, .num_rows = 1, .num_features = 1};
    for (int j = 0; j <= 4500; j++) {
        const float z = -(float)j * 0.01f;
        const float kernel[] = {z, 0.0f, -1.5f}, bias[3] = {0.0f};
        const edgefl_model model = {3, kernel, bias};
        const size_t size = edgefl_softmax_infer_scratch_bytes(&features, 3);
        unsigned char scratch[16384];
        float p[3];
        uint64_t confusion[9] = {0};
        double loss;
        edgefl_place place;
        CHECK(size <= sizeof scratch);
        const edgefl_variant *variant = edgefl_variant_find(NULL);
        CHECK(edgefl_softmax_predict(variant, &features, &model, scratch, size, p, &place) == EDGEFL_OK);
        CHECK(edgefl_softmax_evaluate(variant, &features, &label, &model, scratch, size, confusion, &loss, &place) ==
              EDGEFL_OK);
        const double sum = exp((double)z) + 1.0 + exp(-1.5);
        const double expected = z >= -40.0f ? exp((double)z) / sum : 0.0;
        CHECK(fabs((double)p[0] - expected) <= 3e-7 * expected);
        CHECK(fabs(loss - (log(sum) - (double)z)) <= 2e-7 * (log(sum) - (double)z));
    }
}

int main(void) {
    one_step();
    a_batch_of_many_tiles();
    momentum_adds_up();
    the_stop_flag_ends_before_the_first_batch();
    inputs_are_checked();
    options_are_checked();
    a_correction_is_added_to_the_gradient();
    corrections_are_checked();
    standardization_flushes_small_values_and_names_large_ones();
    a_logit_that_overflows_is_named();
    start_weights_are_flushed_and_checked();
    softmax_is_accurate();
    return failures != 0;
}
