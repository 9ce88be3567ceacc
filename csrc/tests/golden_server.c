/* The golden cases of what a server computes: sums, extremes and counts of features, a fold of updates, and adaptive
 * steps. */
#include "golden.h"
#include "sha256.h"

static void run_feature_sums(struct text *text, const edgefl_variant *variant, edgefl_dtype dtype, const char *name) {
    const struct shape shape = {GOLDEN_NUM_ROWS, 75, 1, 1, 1, dtype, 0};
    struct inputs in;
    golden_draw(&in, &shape, 3000 + (uint32_t)dtype);
    int64_t *sums = golden_take(2 * shape.num_features, sizeof *sums);
    const size_t size = edgefl_feature_sums_scratch_bytes(&in.features);
    void *scratch = golden_take(size, 1);
    edgefl_place place = {0};
    edgefl_status status = edgefl_feature_sums(variant, &in.features, NULL, 8.0, 30, scratch, size, sums, &place);
    if (status == EDGEFL_OK) {
        status = edgefl_feature_sums(variant, &in.features, in.mean, 8.0, 30, scratch, size, sums + shape.num_features,
                                     &place);
    }
    struct sha256 hash;
    sha256_open(&hash);
    sha256_add(&hash, sums, 2 * shape.num_features * sizeof *sums);
    golden_add_result(text, name, status, &hash, &place);
    golden_release_all();
}

void golden_run_statistics(struct text *text, const edgefl_variant *variant) {
    run_feature_sums(text, variant, EDGEFL_FLOAT32, "feature_sums/float32");
    run_feature_sums(text, variant, EDGEFL_UINT8, "feature_sums/uint8");
    run_feature_sums(text, variant, EDGEFL_INT8, "feature_sums/int8");
}

/* Extremes, and counts in bins: few of one width, then many of another. */
static void run_distribution(struct text *text, const edgefl_variant *variant, edgefl_dtype dtype, const char *name) {
    static const size_t num_bins[] = {8, 1000};
    const struct shape shape = {GOLDEN_NUM_ROWS, 75, 1, 1, 1, dtype, 0};
    const size_t n = shape.num_features;
    struct inputs in;
    golden_draw(&in, &shape, 7000 + (uint32_t)dtype);
    float *extremes = golden_take(2 * n, sizeof *extremes);
    const size_t size = edgefl_feature_counts_scratch_bytes(&in.features); /* enough for both */
    void *scratch = golden_take(size, 1);
    edgefl_place place = {0};
    edgefl_status status =
        edgefl_feature_extremes(variant, &in.features, scratch, size, extremes, extremes + n, &place);
    struct sha256 hash;
    sha256_open(&hash);
    sha256_add(&hash, extremes, 2 * n * sizeof *extremes);
    for (size_t j = 0; j < 2 && status == EDGEFL_OK; j++) {
        double *edges = golden_take(num_bins[j] - 1, sizeof *edges);
        int64_t *counts = golden_take(num_bins[j] * n, sizeof *counts);
        for (size_t k = 0; k + 1 < num_bins[j]; k++) {
            edges[k] = -1.0 + 2.0 * (double)(k + 1) / (double)num_bins[j];
        }
        status = edgefl_feature_counts(variant, &in.features, edges, num_bins[j], scratch, size, counts, &place);
        sha256_add(&hash, counts, num_bins[j] * n * sizeof *counts);
    }
    golden_add_result(text, name, status, &hash, &place);
    golden_release_all();
}

void golden_run_distributions(struct text *text, const edgefl_variant *variant) {
    run_distribution(text, variant, EDGEFL_FLOAT32, "distribution/float32");
    run_distribution(text, variant, EDGEFL_UINT8, "distribution/uint8");
    run_distribution(text, variant, EDGEFL_INT8, "distribution/int8");
}

/* A fold of updates with a clip factor, its mean, and the step of a model. */
void golden_run_aggregation(struct text *text, const edgefl_variant *variant) {
    const struct shape shape = {11, 1003, 1, 1, 1, EDGEFL_FLOAT32, 0};
    const size_t n = shape.num_features;
    struct inputs in;
    golden_draw(&in, &shape, 4000);
    int64_t *sums = golden_take(n, sizeof *sums);
    double *mean = golden_take(n, sizeof *mean);
    float *model = golden_take(n, sizeof *model);
    edgefl_place place = {0};
    struct sha256 hash;
    sha256_open(&hash);
    uint64_t total = 0;
    edgefl_status status = EDGEFL_OK;
    for (size_t i = 0; i < shape.num_rows && status == EDGEFL_OK; i++) {
        const float *delta = in.data + i * n;
        const double norm2 = edgefl_squared_norm(delta, n);
        sha256_add(&hash, &norm2, sizeof norm2);
        status = edgefl_accumulate(variant, sums, delta, n, 3 * i + 1, 27, i % 2 ? 1.0 : 3.0 / (norm2 + 1.0), &place);
        total += 3 * i + 1;
    }
    if (status == EDGEFL_OK) {
        status = edgefl_finalize_mean(sums, n, total, 27, mean);
    }
    if (status == EDGEFL_OK) {
        status = edgefl_apply_update(in.kernel, mean, n, 0.7, model, &place);
    }
    sha256_add(&hash, sums, n * sizeof *sums);
    sha256_add(&hash, mean, n * sizeof *mean);
    sha256_add(&hash, model, n * sizeof *model);
    golden_add_result(text, "aggregation", status, &hash, &place);
    golden_release_all();
}

/* Three rounds of each adaptive optimizer. */
void golden_run_adaptive(struct text *text) {
    static const char *const rules[] = {"adaptive/adam", "adaptive/yogi", "adaptive/adagrad"};
    for (size_t rule = 0; rule < sizeof rules / sizeof rules[0]; rule++) {
        const struct shape shape = {3, 1003, 1, 1, 1, EDGEFL_FLOAT32, 0};
        const size_t n = shape.num_features;
        const edgefl_adaptive_options options = {(edgefl_adaptive_rule)rule, 0.03, 0.9, 0.99, 0.001};
        struct inputs in;
        golden_draw(&in, &shape, 6000);
        double *moments = golden_take(3 * n, sizeof *moments), *delta = moments + 2 * n;
        edgefl_status status = EDGEFL_OK;
        edgefl_place place = {0};
        for (size_t i = 0; i < shape.num_rows && status == EDGEFL_OK; i++) {
            for (size_t j = 0; j < n; j++) {
                delta[j] = (double)in.data[i * n + j] * 0x1.23456789abcdep-4;
            }
            status =
                edgefl_adaptive_step(&options, delta, n, rule < 2 ? moments : NULL, moments + n, in.kernel, &place);
        }
        struct sha256 hash;
        sha256_open(&hash);
        sha256_add(&hash, moments, 2 * n * sizeof *moments);
        sha256_add(&hash, in.kernel, n * sizeof *in.kernel);
        golden_add_result(text, rules[rule], status, &hash, &place);
        golden_release_all();
    }
}
