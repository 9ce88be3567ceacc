/* No function reads or writes outside its buffers, for any variant, odd sizes and the least alignment; and where the
 * buffers lie changes no bit. Every buffer lies between unreadable pages, inputs are read-only bytes to be unchanged.
 */
#define _DEFAULT_SOURCE
#include <math.h>

#include "edgefl.h"
#include "guard.h"
#include "variant.h"

#define MAX_BUFFERS 32u

/* The buffers of one call. */
struct arena_of_guards {
    enum placement placement;
    struct guard guards[MAX_BUFFERS];
    size_t count;
};

static void *give(struct arena_of_guards *arena, size_t count, size_t element) {
    if (arena->count == MAX_BUFFERS) {
        fprintf(stderr, "more than %u buffers\n", MAX_BUFFERS);
        exit(2);
    }
    struct guard *guard = &arena->guards[arena->count++];
    *guard = guard_open(count * element, element, arena->placement);
    return guard->data;
}

static void take_back(struct arena_of_guards *arena) {
    while (arena->count > 0) {
        guard_close(&arena->guards[--arena->count]);
    }
}

static float *give_floats(struct arena_of_guards *arena, size_t n, uint64_t *state) {
    float *values = give(arena, n, sizeof(float));
    for (size_t j = 0; j < n; j++) {
        values[j] = draw(state) % 8 == 0 ? 0.0f : draw_unit(state);
    }
    return values;
}

/* Digest of what a call gave (FNV-1a): equal digests stand for equal bits here. */
static uint64_t digest(uint64_t so_far, const void *data, size_t size) {
    const unsigned char *bytes = data;
    for (size_t j = 0; j < size; j++) {
        so_far = (so_far ^ bytes[j]) * UINT64_C(0x100000001b3);
    }
    return so_far;
}

struct shape {
    size_t num_rows, num_features, num_classes, batch_size;
};

static const struct shape shapes[] = {
    {1, 1, 1, 1},     {2, 15, 2, 3},    {3, 16, 3, 2},  {5, 17, 7, 4},   {66, 31, 8, 65},
    {65, 33, 9, 100}, {20, 63, 10, 20}, {4, 65, 16, 3}, {7, 784, 17, 7}, {131, 9, 33, 64},
};

static edgefl_features make_features(struct arena_of_guards *arena, const struct shape *shape, int kind,
                                     uint64_t *state) {
    const size_t count = shape->num_rows * shape->num_features;
    edgefl_features features = {.dtype = (edgefl_dtype)(kind / 2),
                                .num_rows = shape->num_rows,
                                .num_features = shape->num_features,
                                .scale = 0x1p-7f,
                                .zero_point = 3};
    if (features.dtype == EDGEFL_FLOAT32) {
        features.data = give_floats(arena, count, state);
    } else {
        uint8_t *stored = give(arena, count, 1);
        for (size_t j = 0; j < count; j++) {
            stored[j] = (uint8_t)draw(state);
        }
        features.data = stored;
    }
    if (kind % 2 == 1) {
        features.mean = give_floats(arena, shape->num_features, state);
        features.inverse_spread = give_floats(arena, shape->num_features, state);
    }
    return features;
}

/* Trains, evaluates and predicts; a digest of all results. */
static uint64_t softmax(const edgefl_variant *variant, const struct shape *shape, int kind, bool gradient_path,
                        enum placement placement) {
    struct arena_of_guards arena = {.placement = placement};
    uint64_t state = shape->num_features;
    const size_t f = shape->num_features, c = shape->num_classes, n = shape->num_rows;
    const edgefl_features features = make_features(&arena, shape, kind, &state);
    int32_t *labels = give(&arena, n, sizeof(int32_t));
    for (size_t i = 0; i < n; i++) {
        labels[i] = (int32_t)(draw(&state) % c);
    }
    const edgefl_model start = {c, give_floats(&arena, c * f, &state), give_floats(&arena, c, &state)};
    const edgefl_model correction = {c, give_floats(&arena, c * f, &state), give_floats(&arena, c, &state)};
    edgefl_train_options options = {.learning_rate = 0.25f, .batch_size = shape->batch_size, .num_epochs = 2};
    float *example_weights = NULL;
    if (gradient_path) {
        options.l2 = 0.01f;
        options.momentum = 0.5f;
        options.proximal = 0.125f;
        options.clip_norm = 0.5f;
        options.shuffle_key = give(&arena, 16, 1);
        options.correction = &correction;
        example_weights = give(&arena, n, sizeof(float));
        for (size_t i = 0; i < n; i++) {
            example_weights[i] = (float)(draw(&state) % 4);
        }
    }
    float *kernel = give(&arena, c * f, sizeof(float)), *bias = give(&arena, c, sizeof(float));
    edgefl_train_stats *stats = give(&arena, 1, sizeof *stats);
    edgefl_place *place = give(&arena, 1, sizeof *place);
    const size_t scratch = edgefl_softmax_train_scratch_bytes(&features, c, &options);
    CHECK(edgefl_softmax_train(variant, &features, labels, example_weights, &start, &options, NULL,
                               give(&arena, scratch, 1), scratch, kernel, bias, stats, place) == EDGEFL_OK);
    const edgefl_model trained = {c, kernel, bias};
    const size_t infer = edgefl_softmax_infer_scratch_bytes(&features, c);
    uint64_t *confusion = give(&arena, c * c, sizeof(uint64_t));
    memset(confusion, 0, c * c * sizeof *confusion);
    double *loss_sum = give(&arena, 1, sizeof(double));
    CHECK(edgefl_softmax_evaluate(variant, &features, labels, &trained, give(&arena, infer, 1), infer, confusion,
                                  loss_sum, place) == EDGEFL_OK);
    float *probabilities = give(&arena, n * c, sizeof(float));
    CHECK(edgefl_softmax_predict(variant, &features, &trained, give(&arena, infer, 1), infer, probabilities, place) ==
          EDGEFL_OK);
    uint64_t result = digest(stats->num_correct, kernel, c * f * sizeof(float));
    result = digest(result, bias, c * sizeof(float));
    result = digest(result, &stats->loss_sum, sizeof(double));
    result = digest(result, confusion, c * c * sizeof(uint64_t));
    result = digest(result, loss_sum, sizeof(double));
    result = digest(result, probabilities, n * c * sizeof(float));
    take_back(&arena);
    return result;
}

static uint64_t statistics(const edgefl_variant *variant, const struct shape *shape, int kind, bool centered,
                           enum placement placement) {
    struct arena_of_guards arena = {.placement = placement};
    uint64_t state = shape->num_features;
    const edgefl_features features = make_features(&arena, shape, kind / 2 * 2, &state);
    const float *center = centered ? give_floats(&arena, shape->num_features, &state) : NULL;
    int64_t *sums = give(&arena, shape->num_features, sizeof(int64_t));
    edgefl_place *place = give(&arena, 1, sizeof *place);
    const size_t scratch = edgefl_feature_sums_scratch_bytes(&features);
    CHECK(edgefl_feature_sums(variant, &features, center, 100.0, 20, give(&arena, scratch, 1), scratch, sums, place) ==
          EDGEFL_OK);
    uint64_t result = digest(0, sums, shape->num_features * sizeof(int64_t));
    const size_t f = shape->num_features, num_bins = centered ? 2 : 5;
    float *smallest = give(&arena, f, sizeof(float)), *largest = give(&arena, f, sizeof(float));
    const size_t room = edgefl_feature_extremes_scratch_bytes(&features);
    CHECK(edgefl_feature_extremes(variant, &features, give(&arena, room, 1), room, smallest, largest, place) ==
          EDGEFL_OK);
    double *edges = give(&arena, num_bins - 1, sizeof(double));
    for (size_t j = 0; j + 1 < num_bins; j++) {
        edges[j] = (double)j * 0.25 - 0.5;
    }
    int64_t *counts = give(&arena, num_bins * f, sizeof(int64_t));
    const size_t more = edgefl_feature_counts_scratch_bytes(&features);
    CHECK(edgefl_feature_counts(variant, &features, edges, num_bins, give(&arena, more, 1), more, counts, place) ==
          EDGEFL_OK);
    result = digest(digest(result, smallest, f * sizeof(float)), largest, f * sizeof(float));
    result = digest(result, counts, num_bins * f * sizeof(int64_t));
    take_back(&arena);
    return result;
}

/* A digest of the jobs' folded deltas, n values. */
static uint64_t folded(struct arena_of_guards *arena, const edgefl_variant *variant, edgefl_cohort_job *jobs,
                       size_t num_jobs, size_t n, void *scratch, size_t size) {
    edgefl_cohort_cursor cursor;
    edgefl_cohort_cursor_init(&cursor);
    int64_t *sums = give(arena, n, sizeof(int64_t));
    memset(sums, 0, n * sizeof(int64_t));
    const edgefl_cohort_fold fold = {sums, give(arena, n, sizeof(float)), INFINITY, 10};
    edgefl_cohort_run_and_fold(variant, jobs, num_jobs, &cursor, NULL, scratch, size, &fold);
    for (size_t j = 0; j < num_jobs; j++) {
        CHECK(jobs[j].status == EDGEFL_OK);
    }
    return digest(0, sums, n * sizeof(int64_t));
}

/* A cohort of two clients that share a start. */
static uint64_t cohort(const edgefl_variant *variant, const struct shape *shape, enum placement placement) {
    struct arena_of_guards arena = {.placement = placement};
    uint64_t state = shape->num_features;
    const size_t f = shape->num_features, c = shape->num_classes;
    int32_t *labels = give(&arena, shape->num_rows, sizeof(int32_t));
    memset(labels, 0, shape->num_rows * sizeof(int32_t));
    const edgefl_model start = {c, give_floats(&arena, c * f, &state), give_floats(&arena, c, &state)};
    const edgefl_model correction = {c, give_floats(&arena, c * f, &state), give_floats(&arena, c, &state)};
    edgefl_cohort_job *jobs = give(&arena, 2, sizeof *jobs);
    for (size_t j = 0; j < 2; j++) {
        jobs[j] = (edgefl_cohort_job){
            .features = make_features(&arena, shape, (int)j * 3, &state),
            .labels = labels,
            .start = &start,
            .options = {.learning_rate = 0.25f,
                        .batch_size = shape->batch_size,
                        .num_epochs = 1,
                        .correction = j == 0 ? &correction : NULL},
            .as_delta = j == 1,
            .kernel = give(&arena, c * f, sizeof(float)),
            .bias = give(&arena, c, sizeof(float)),
        };
    }
    edgefl_cohort_cursor cursor;
    edgefl_cohort_cursor_init(&cursor);
    const size_t scratch = edgefl_cohort_scratch_bytes(jobs, 2);
    void *memory = give(&arena, scratch, 1);
    uint64_t result = folded(&arena, variant, jobs, 2, c * f + c, memory, scratch);
    edgefl_cohort_run(variant, jobs, 2, &cursor, NULL, memory, scratch);
    for (size_t j = 0; j < 2; j++) {
        CHECK(jobs[j].status == EDGEFL_OK);
        result = digest(result, jobs[j].kernel, c * f * sizeof(float));
        result = digest(result, jobs[j].bias, c * sizeof(float));
    }
    take_back(&arena);
    return result;
}

static uint64_t aggregation(const edgefl_variant *variant, size_t n, enum placement placement) {
    struct arena_of_guards arena = {.placement = placement};
    uint64_t state = n;
    edgefl_place *place = give(&arena, 1, sizeof *place);
    int64_t *sums = give(&arena, n, sizeof(int64_t)), *other = give(&arena, n, sizeof(int64_t));
    for (size_t j = 0; j < n; j++) {
        sums[j] = (int32_t)draw(&state);
        other[j] = (int32_t)draw(&state);
    }
    double *mean = give(&arena, n, sizeof(double));
    CHECK(edgefl_accumulate(variant, sums, give_floats(&arena, n, &state), n, 3, 20, 0.5, place) == EDGEFL_OK);
    CHECK(edgefl_add_sums(sums, other, n, place) == EDGEFL_OK);
    CHECK(edgefl_finalize_mean(sums, n, 7, 20, mean) == EDGEFL_OK);
    const uint64_t result = digest(digest(0, sums, n * sizeof(int64_t)), mean, n * sizeof(double));
    take_back(&arena);
    return result;
}

static uint64_t vectors(size_t n, enum placement placement) {
    struct arena_of_guards arena = {.placement = placement};
    uint64_t state = n;
    edgefl_place *place = give(&arena, 1, sizeof *place);
    const float *a = give_floats(&arena, n, &state), *b = give_floats(&arena, n, &state);
    double *update = give(&arena, n, sizeof(double));
    for (size_t j = 0; j < n; j++) {
        update[j] = (double)draw_unit(&state);
    }
    float *difference = give(&arena, n, sizeof(float)), *applied = give(&arena, n, sizeof(float));
    uint32_t *order = give(&arena, n, sizeof(uint32_t)), *words = give(&arena, n, sizeof(uint32_t));
    const uint8_t *key = give(&arena, 16, 1);
    const double norm = edgefl_squared_norm(a, n);
    CHECK(edgefl_first_non_finite(a, n) == n);
    edgefl_subtract(a, b, n, difference);
    CHECK(edgefl_apply_update(a, update, n, 0.5, applied, place) == EDGEFL_OK);
    edgefl_permutation(key, 1, order, n);
    edgefl_random_words(key, 1, words, n);
    uint64_t result = digest(0, &norm, sizeof norm);
    result = digest(result, difference, n * sizeof(float));
    result = digest(result, applied, n * sizeof(float));
    result = digest(digest(result, order, n * sizeof(uint32_t)), words, n * sizeof(uint32_t));
    take_back(&arena);
    return result;
}

static const size_t lengths[] = {0, 1, 3, 7, 8, 15, 16, 17, 31, 33, 100, 4096};
#define NUM_LENGTHS (sizeof lengths / sizeof lengths[0])

static void every_placement(const edgefl_variant *variant) {
    const edgefl_variant *reference = edgefl_scalar_software();
    for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++) {
        const struct shape *shape = &shapes[s];
        for (int kind = 0; kind < 6; kind++) {
            for (int other = 0; other < 2; other++) {
                const uint64_t trained = softmax(reference, shape, kind, other, AT_END);
                const uint64_t summed = statistics(reference, shape, kind, other, AT_END);
                for (int placement = 0; placement < NUM_PLACEMENTS; placement++) {
                    CHECK(softmax(variant, shape, kind, other, (enum placement)placement) == trained);
                    CHECK(statistics(variant, shape, kind, other, (enum placement)placement) == summed);
                }
            }
        }
        const uint64_t expected = cohort(reference, shape, AT_END);
        for (int placement = 0; placement < NUM_PLACEMENTS; placement++) {
            CHECK(cohort(variant, shape, (enum placement)placement) == expected);
        }
    }
    for (size_t j = 0; j < NUM_LENGTHS; j++) {
        const uint64_t expected = aggregation(reference, lengths[j], AT_END);
        for (int placement = 0; placement < NUM_PLACEMENTS; placement++) {
            CHECK(aggregation(variant, lengths[j], (enum placement)placement) == expected);
        }
    }
}

int main(void) {
    for (size_t j = 0; j < edgefl_variant_count(); j++) {
        const edgefl_variant *variant = edgefl_variant_find(edgefl_variant_name(j));
        if (variant == NULL) {
            printf("%s: not supported by this CPU\n", edgefl_variant_name(j));
        } else {
            every_placement(variant);
        }
    }
    for (size_t j = 0; j < NUM_LENGTHS; j++) {
        for (int placement = 1; placement < NUM_PLACEMENTS; placement++) {
            CHECK(vectors(lengths[j], (enum placement)placement) == vectors(lengths[j], AT_END));
        }
    }
    return failures != 0;
}
