/* A cohort trained by several threads gives what each client gives alone; a client that fails spoils no other. */
#define _DEFAULT_SOURCE
#include <math.h>
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

struct folder {
    int64_t sums[NUM_VALUES];
    float delta[NUM_VALUES];
    double max_squared_norm;
    int grid_shift;
    const edgefl_stop_flag *stop;
};

/* Takes what is left of `together`. */
static void *fold(void *argument) {
    struct folder *folder = argument;
    const edgefl_cohort_fold fold = {folder->sums, folder->delta, folder->max_squared_norm, folder->grid_shift};
    const size_t size = edgefl_cohort_scratch_bytes(together.jobs, NUM_JOBS);
    void *scratch = malloc(size);
    if (scratch == NULL) {
        exit(2);
    }
    edgefl_cohort_run_and_fold(edgefl_variant_find(NULL), together.jobs, NUM_JOBS, &together.cursor, folder->stop,
                               scratch, size, &fold);
    free(scratch);
    return NULL;
}

/* Trains `alone` and adds up what may be folded; the largest squared norm of a delta. */
static double fold_apart(int64_t sums[NUM_VALUES]) {
    double largest = 0.0;
    fill(&alone);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        alone.jobs[j].as_delta = true;
    }
    work(&alone);
    memset(sums, 0, NUM_VALUES * sizeof *sums);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        const float *delta = alone.outputs[j].kernel;
        edgefl_place place;
        if (alone.jobs[j].status == EDGEFL_OK) {
            const double norm = edgefl_squared_norm(delta, NUM_VALUES);
            largest = norm > largest ? norm : largest;
            CHECK(edgefl_accumulate(edgefl_variant_find(NULL), sums, delta, NUM_VALUES, alone.jobs[j].features.num_rows,
                                    GRID_SHIFT, 1.0, &place) == EDGEFL_OK);
        }
    }
    CHECK(sums[0] != 0);
    return largest;
}

/* Each delta, weighted by its client's rows; a client that fails is not in the sums. */
static void deltas_are_folded_where_they_arise(void) {
    static struct folder folders[NUM_THREADS];
    int64_t expected[NUM_VALUES];
    const double largest = fold_apart(expected);
    for (size_t count = 1; count <= NUM_THREADS; count++) {
        pthread_t threads[NUM_THREADS];
        edgefl_place place;
        fill(&together);
        memset(together.outputs, 0x55, sizeof together.outputs);
        for (size_t j = 0; j < count; j++) {
            folders[j] = (struct folder){.max_squared_norm = largest, .grid_shift = GRID_SHIFT};
            CHECK(pthread_create(&threads[j], NULL, fold, &folders[j]) == 0);
        }
        for (size_t j = 0; j < count; j++) {
            CHECK(pthread_join(threads[j], NULL) == 0);
        }
        for (size_t j = 1; j < count; j++) {
            CHECK(edgefl_add_sums(folders[0].sums, folders[j].sums, NUM_VALUES, &place) == EDGEFL_OK);
        }
        CHECK(memcmp(expected, folders[0].sums, sizeof expected) == 0);
        for (size_t j = 0; j < NUM_JOBS; j++) {
            const edgefl_cohort_job *job = &together.jobs[j];
            CHECK(job->status == alone.jobs[j].status);
            CHECK(job->status != EDGEFL_OK || job->stats.num_correct == alone.jobs[j].stats.num_correct);
            CHECK(job->kernel == together.outputs[j].kernel && !job->as_delta);
            CHECK(bits_of(job->kernel[0]) == 0x55555555u);
        }
    }
}

static bool all_are(const int64_t sums[NUM_VALUES], int64_t value) {
    for (size_t i = 0; i < NUM_VALUES; i++) {
        if (sums[i] != value) {
            return false;
        }
    }
    return true;
}

/* A delta that is too long, and every one on a grid that there is not. */
static void what_may_not_be_folded_is_left_out(void) {
    struct folder folder = {.max_squared_norm = 0.0, .grid_shift = GRID_SHIFT};
    fill(&together);
    fold(&folder);
    CHECK(together.jobs[0].status == EDGEFL_OUT_OF_RANGE && all_are(folder.sums, 0));
    CHECK(together.jobs[0].place.row == 0 && together.jobs[0].place.column == 0);
    folder.max_squared_norm = NAN;
    fill(&together);
    fold(&folder);
    CHECK(together.jobs[0].status == EDGEFL_OUT_OF_RANGE && all_are(folder.sums, 0));
    folder.max_squared_norm = INFINITY;
    folder.grid_shift = EDGEFL_MAX_GRID_SHIFT + 1;
    fill(&together);
    fold(&folder);
    CHECK(together.jobs[0].status == EDGEFL_BAD_ARGUMENT && all_are(folder.sums, 0));
}

/* Stopped before its first batch, a job still has a delta where the start holds values that are read as 0: it shows
 * on a fine grid. */
static void a_job_that_was_stopped_is_left_out(void) {
    edgefl_stop_flag stop;
    float little[NUM_CLASSES * NUM_FEATURES];
    const edgefl_model from = {NUM_CLASSES, little, little};
    struct folder folder = {.max_squared_norm = INFINITY, .grid_shift = 60, .stop = &stop};
    for (size_t i = 0; i < NUM_CLASSES * NUM_FEATURES; i++) {
        little[i] = 0x1p-51f;
    }
    edgefl_stop_flag_init(&stop);
    edgefl_stop_flag_set(&stop);
    fill(&together);
    for (size_t j = 0; j < NUM_JOBS; j++) {
        together.jobs[j].start = &from;
    }
    fold(&folder);
    CHECK(together.jobs[0].status == EDGEFL_OK && together.jobs[0].stats.stopped && all_are(folder.sums, 0));
}

/* The last of the values leaves int64 for some jobs: those before it are as if these jobs had not been. */
static void a_job_that_overflows_a_sum_is_left_out(void) {
    int64_t expected[NUM_VALUES] = {0};
    struct folder folder = {.max_squared_norm = INFINITY, .grid_shift = GRID_SHIFT};
    fold_apart(expected);
    memset(expected, 0, sizeof expected);
    expected[NUM_VALUES - 1] = folder.sums[NUM_VALUES - 1] = INT64_MAX;
    fill(&together);
    fold(&folder);
    size_t refused = 0;
    for (size_t j = 0; j < NUM_JOBS; j++) {
        edgefl_place place = {0, 0};
        if (alone.jobs[j].status == EDGEFL_OK) {
            const edgefl_status status =
                edgefl_accumulate(edgefl_variant_find(NULL), expected, alone.outputs[j].kernel, NUM_VALUES,
                                  alone.jobs[j].features.num_rows, GRID_SHIFT, 1.0, &place);
            CHECK(together.jobs[j].status == status);
            CHECK(status == EDGEFL_OK || (status == EDGEFL_OVERFLOW && together.jobs[j].place.row == NUM_VALUES - 1));
            refused += status != EDGEFL_OK;
        }
    }
    CHECK(refused > 0 && memcmp(expected, folder.sums, sizeof expected) == 0);
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
    what_may_not_be_folded_is_left_out();
    a_job_that_was_stopped_is_left_out();
    a_job_that_overflows_a_sum_is_left_out();
    return failures != 0;
}
