/* A cohort trained by several threads gives what each client gives alone; a client that fails spoils no other. */
#define _DEFAULT_SOURCE
#include <pthread.h>

#include "check.h"
#include "edgefl.h"

#define NUM_JOBS 24u
#define NUM_THREADS 4u
#define NUM_FEATURES 13u
#define NUM_CLASSES 3u
#define MAX_ROWS 60u

static float features[MAX_ROWS * NUM_FEATURES];
static int32_t labels[MAX_ROWS];
static int32_t bad_labels[MAX_ROWS];
static float zeros[NUM_CLASSES * NUM_FEATURES];
static const edgefl_model start = {NUM_CLASSES, zeros, zeros};
static uint8_t keys[NUM_JOBS][16];
static float pulls[NUM_JOBS][NUM_CLASSES * NUM_FEATURES];
static edgefl_model corrections[NUM_JOBS];

struct outputs {
    float kernel[NUM_CLASSES * NUM_FEATURES];
    float bias[NUM_CLASSES];
};

struct shared {
    edgefl_cohort_job jobs[NUM_JOBS];
    edgefl_cohort_cursor cursor;
    struct outputs outputs[NUM_JOBS];
};

static struct shared together;
static struct shared alone;

/* Clients of different sizes; every third has a correction of its own, every fifth a label that does not exist. */
static void fill(struct shared *shared) {
    for (size_t j = 0; j < NUM_JOBS; j++) {
        shared->jobs[j] = (edgefl_cohort_job){
            .features = {.data = features, .num_rows = 1 + (j * 7) % MAX_ROWS, .num_features = NUM_FEATURES},
            .labels = j % 5 == 4 ? bad_labels : labels,
            .start = &start,
            .options = {.learning_rate = 0.5f,
                        .batch_size = 8,
                        .num_epochs = 1 + j % 3,
                        .shuffle_key = keys[j],
                        .correction = j % 3 == 1 ? &corrections[j] : NULL},
            .kernel = shared->outputs[j].kernel,
            .bias = shared->outputs[j].bias,
            .status = EDGEFL_NUM_STATUSES,
        };
    }
    edgefl_cohort_cursor_init(&shared->cursor);
}

static void *work(void *argument) {
    struct shared *shared = argument;
    const size_t size = edgefl_cohort_scratch_bytes(shared->jobs, NUM_JOBS);
    void *scratch = malloc(size);
    if (scratch == NULL) {
        exit(2);
    }
    edgefl_cohort_run(edgefl_variant_find(NULL), shared->jobs, NUM_JOBS, &shared->cursor, NULL, scratch, size);
    free(scratch);
    return NULL;
}

static void threads_share_the_work(void) {
    fill(&together);
    pthread_t threads[NUM_THREADS];
    for (size_t j = 0; j < NUM_THREADS; j++) {
        CHECK(pthread_create(&threads[j], NULL, work, &together) == 0);
    }
    for (size_t j = 0; j < NUM_THREADS; j++) {
        CHECK(pthread_join(threads[j], NULL) == 0);
    }
    fill(&alone);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        edgefl_cohort_job *job = &alone.jobs[j];
        const size_t size = edgefl_softmax_train_scratch_bytes(&job->features, NUM_CLASSES, &job->options);
        const edgefl_status status =
            edgefl_softmax_train(edgefl_variant_find(NULL), &job->features, job->labels, NULL, &start, &job->options,
                                 NULL, guarded(size), size, job->kernel, job->bias, &job->stats, &job->place);
        CHECK(status == (j % 5 == 4 ? EDGEFL_BAD_LABEL : EDGEFL_OK));
        CHECK(together.jobs[j].status == status);
        CHECK(memcmp(&alone.outputs[j], &together.outputs[j], sizeof alone.outputs[j]) == 0);
        CHECK(status != EDGEFL_OK || (job->stats.examples_seen == together.jobs[j].stats.examples_seen &&
                                      job->stats.num_correct == together.jobs[j].stats.num_correct));
    }
    /* Guards against a test of nothing. */
    CHECK(alone.outputs[1].kernel[0] < 0.0f || alone.outputs[1].kernel[0] > 0.0f);
}

/* What a closed cursor leaves is not touched. */
static void a_closed_cursor_gives_no_job(void) {
    fill(&together);
    edgefl_cohort_cursor_close(&together.cursor, NUM_JOBS);
    work(&together);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        CHECK(together.jobs[j].status == EDGEFL_NUM_STATUSES);
    }
}

/* The most that one asks for: the last has the largest batch. */
static void scratch_is_the_largest(void) {
    fill(&together);
    together.jobs[NUM_JOBS - 1].options.batch_size = MAX_ROWS;
    together.jobs[NUM_JOBS - 1].features.num_rows = MAX_ROWS;
    const edgefl_cohort_job *last = &together.jobs[NUM_JOBS - 1];
    CHECK(edgefl_cohort_scratch_bytes(together.jobs, NUM_JOBS) ==
          edgefl_softmax_train_scratch_bytes(&last->features, NUM_CLASSES, &last->options));
    CHECK(edgefl_cohort_scratch_bytes(together.jobs, NUM_JOBS - 1) <
          edgefl_cohort_scratch_bytes(together.jobs, NUM_JOBS));
    CHECK(edgefl_cohort_scratch_bytes(together.jobs, 0) == 0);
}

#define NUM_VALUES (NUM_CLASSES * NUM_FEATURES + NUM_CLASSES)
#define GRID_SHIFT 27

static edgefl_status fold_all(int64_t *sums, double max_squared_norm) {
    static float delta[NUM_VALUES];
    const edgefl_cohort_fold fold = {sums, delta, max_squared_norm, GRID_SHIFT};
    const size_t size = edgefl_cohort_scratch_bytes(together.jobs, NUM_JOBS);
    fill(&together);
    edgefl_cohort_run_and_fold(edgefl_variant_find(NULL), together.jobs, NUM_JOBS, &together.cursor, NULL,
                               guarded(size), size, &fold);
    return together.jobs[0].status;
}

/* Each delta, weighted by its client's rows; a client that fails, or whose delta is too long, is not in the sums. */
static void deltas_are_folded_where_they_arise(void) {
    static int64_t expected[NUM_VALUES], sums[NUM_VALUES];
    double largest = 0.0;
    fill(&alone);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        alone.jobs[j].as_delta = true;
    }
    const size_t size = edgefl_cohort_scratch_bytes(alone.jobs, NUM_JOBS);
    edgefl_cohort_run(edgefl_variant_find(NULL), alone.jobs, NUM_JOBS, &alone.cursor, NULL, guarded(size), size);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        const float *delta = alone.outputs[j].kernel;
        edgefl_place place;
        if (alone.jobs[j].status == EDGEFL_OK) {
            const double norm = edgefl_squared_norm(delta, NUM_VALUES);
            largest = norm > largest ? norm : largest;
            CHECK(edgefl_accumulate(edgefl_variant_find(NULL), expected, delta, NUM_VALUES,
                                    alone.jobs[j].features.num_rows, GRID_SHIFT, 1.0, &place) == EDGEFL_OK);
        }
    }
    CHECK(fold_all(sums, largest) == EDGEFL_OK);
    CHECK(memcmp(expected, sums, sizeof sums) == 0 && sums[0] != 0);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        CHECK(together.jobs[j].status == alone.jobs[j].status);
        CHECK(together.jobs[j].kernel == NULL);
    }
    memset(sums, 0, sizeof sums);
    CHECK(fold_all(sums, 0.0) == EDGEFL_OUT_OF_RANGE);
    for (size_t i = 0; i < NUM_VALUES; i++) {
        CHECK(sums[i] == 0);
    }
}

int main(void) {
    uint64_t state = 3;
    for (size_t j = 0; j < MAX_ROWS * NUM_FEATURES; j++) {
        features[j] = draw_unit(&state);
    }
    for (size_t i = 0; i < MAX_ROWS; i++) {
        labels[i] = (int32_t)(draw(&state) % NUM_CLASSES);
        bad_labels[i] = i == 0 ? (int32_t)NUM_CLASSES : labels[i];
    }
    for (size_t j = 0; j < NUM_JOBS; j++) {
        keys[j][0] = (uint8_t)j;
        for (size_t i = 0; i < NUM_CLASSES * NUM_FEATURES; i++) {
            pulls[j][i] = draw_unit(&state);
        }
        corrections[j] = (edgefl_model){NUM_CLASSES, pulls[j], pulls[j]};
    }
    threads_share_the_work();
    a_closed_cursor_gives_no_job();
    scratch_is_the_largest();
    deltas_are_folded_where_they_arise();
    return failures != 0;
}
