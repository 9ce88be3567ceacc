/* The golden cases of the mlp: shapes with remainders, every dtype, every way, and the edges of the hidden layer. */
#include <string.h>

#include "golden.h"
#include "sha256.h"

#define MAX_NAME 96

struct mlp_case {
    const char *name;
    struct shape shape;
    size_t num_hidden;
    float scale; /* of the start's parameters */
};

#define EVERYTHING (MOMENTUM | PROXIMAL | CLIPPED | WEIGHTED | L2 | SHUFFLED | STANDARDIZED)

static const struct mlp_case cases[] = {
    {"1x1x1/b1/float32/plain", {GOLDEN_NUM_ROWS, 1, 1, 1, 1, EDGEFL_FLOAT32, 0}, 1, 1.0f},
    {"13x7x2/b10/float32/plain", {GOLDEN_NUM_ROWS, 13, 2, 10, 2, EDGEFL_FLOAT32, 0}, 7, 1.0f},
    {"16x16x7/b32/uint8/plain", {GOLDEN_NUM_ROWS, 16, 7, 32, 2, EDGEFL_UINT8, 0}, 16, 1.0f},
    {"45x33x11/b100/int8/plain", {GOLDEN_NUM_ROWS, 45, 11, 100, 2, EDGEFL_INT8, 0}, 33, 0.25f},
    {"45x33x66/b1000/float32/plain", {GOLDEN_NUM_ROWS, 45, 66, 1000, 2, EDGEFL_FLOAT32, 0}, 33, 0.25f},
    {"784x128x10/b32/uint8/shuffled", {GOLDEN_NUM_ROWS, 784, 10, 32, 1, EDGEFL_UINT8, SHUFFLED}, 128, 0.0625f},
    {"9x512x10/b32/float32/plain", {GOLDEN_NUM_ROWS, 9, 10, 32, 1, EDGEFL_FLOAT32, 0}, 512, 0.125f},
    {"45x17x11/b10/float32/momentum", {GOLDEN_NUM_ROWS, 45, 11, 10, 2, EDGEFL_FLOAT32, MOMENTUM}, 17, 0.25f},
    {"45x17x11/b10/float32/proximal", {GOLDEN_NUM_ROWS, 45, 11, 10, 2, EDGEFL_FLOAT32, PROXIMAL}, 17, 0.25f},
    {"45x17x11/b100/float32/clipped", {GOLDEN_NUM_ROWS, 45, 11, 100, 2, EDGEFL_FLOAT32, CLIPPED}, 17, 0.25f},
    {"45x17x11/b32/float32/weighted", {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_FLOAT32, WEIGHTED}, 17, 0.25f},
    {"45x17x11/b32/int8/l2", {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_INT8, L2}, 17, 0.25f},
    {"45x17x11/b32/uint8/standardized", {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_UINT8, STANDARDIZED}, 17, 0.25f},
    {"45x17x11/b32/float32/corrected", {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_FLOAT32, CORRECTED}, 17, 0.25f},
    {"45x17x11/b32/uint8/everything",
     {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_UINT8, EVERYTHING | CORRECTED},
     17,
     0.25f},
    {"45x17x11/b32/float32/stopped", {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_FLOAT32, STOPPED}, 17, 0.25f},
    {"45x17x11/b32/float32/smallest", {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_FLOAT32, 0}, 17, 0x1p-29f},
    {"45x17x11/b32/float32/too-large", {GOLDEN_NUM_ROWS, 45, 11, 32, 2, EDGEFL_FLOAT32, 0}, 17, 0x1p125f},
};
#define NUM_MLP_CASES (sizeof cases / sizeof cases[0])

static float *scaled_floats(uint32_t seed, uint8_t purpose, size_t count, float scale) {
    float *values = golden_floats(seed, purpose, count, EDGEFL_STORED_MIN_MAGNITUDE);
    for (size_t j = 0; j < count; j++) {
        values[j] *= scale;
    }
    return values;
}

/* Evaluation and prediction enter the digest after the training. */
static edgefl_status infer(const edgefl_variant *variant, const struct inputs *in, const edgefl_mlp *model,
                           struct sha256 *hash, edgefl_place *place) {
    const size_t n = in->shape.num_rows, c = in->shape.num_classes;
    uint64_t *confusion = golden_take(c * c, sizeof *confusion);
    float *probabilities = golden_take(n * c, sizeof *probabilities);
    double loss_sum = 0.0;
    const size_t size = edgefl_mlp_infer_scratch_bytes(&in->features, model->num_hidden, c);
    void *scratch = golden_take(size, 1);
    edgefl_status status =
        edgefl_mlp_evaluate(variant, &in->features, in->labels, model, scratch, size, confusion, &loss_sum, place);
    if (status == EDGEFL_OK) {
        status = edgefl_mlp_predict(variant, &in->features, model, scratch, size, probabilities, place);
    }
    sha256_add(hash, confusion, c * c * sizeof *confusion);
    sha256_add(hash, &loss_sum, sizeof loss_sum);
    sha256_add(hash, probabilities, n * c * sizeof *probabilities);
    return status;
}

static void run_case(struct text *text, const edgefl_variant *variant, const struct mlp_case *mlp, uint32_t seed) {
    struct inputs in;
    golden_draw(&in, &mlp->shape, seed);
    in.options.correction = NULL; /* a vector of the mlp's takes its place */
    const size_t h = mlp->num_hidden, c = mlp->shape.num_classes;
    const size_t count = h * (mlp->shape.num_features + 1) + c * (h + 1);
    const edgefl_mlp start = {h, c, scaled_floats(seed, 8, count, mlp->scale)};
    const float *correction = mlp->shape.how & CORRECTED ? scaled_floats(seed, 9, count, 0.125f) : NULL;
    float *parameters = golden_take(count, sizeof *parameters);
    edgefl_stop_flag stop;
    edgefl_stop_flag_init(&stop);
    if (mlp->shape.how & STOPPED) {
        edgefl_stop_flag_set(&stop);
    }
    edgefl_train_stats stats = {0};
    edgefl_place place = {0};
    struct sha256 hash;
    sha256_open(&hash);
    const size_t size = edgefl_mlp_train_scratch_bytes(&in.features, h, c, correction, &in.options);
    edgefl_status status = edgefl_mlp_train(variant, &in.features, in.labels,
                                            mlp->shape.how & WEIGHTED ? in.example_weights : NULL, &start, correction,
                                            &in.options, &stop, golden_take(size, 1), size, parameters, &stats, &place);
    if (status == EDGEFL_OK) {
        const uint64_t counts[] = {stats.examples_seen, stats.num_steps, stats.num_correct, stats.stopped};
        sha256_add(&hash, parameters, count * sizeof *parameters);
        sha256_add(&hash, counts, sizeof counts);
        sha256_add(&hash, &stats.loss_sum, sizeof stats.loss_sum);
        const edgefl_mlp trained = {h, c, parameters};
        status = infer(variant, &in, &trained, &hash, &place);
    }
    char name[MAX_NAME] = "mlp/";
    strncat(name, mlp->name, sizeof name - sizeof "mlp/");
    golden_add_result(text, name, status, &hash, &place);
    golden_release_all();
}

void golden_run_mlp(struct text *text, const edgefl_variant *variant) {
    for (size_t j = 0; j < NUM_MLP_CASES; j++) {
        run_case(text, variant, &cases[j], 6000 + (uint32_t)j);
    }
}
