/* edgefl_cohort_run: each job of a mixed cohort gives what edgefl_softmax_train gives for it alone.
 * edgefl_cohort_run_and_fold: what edgefl_accumulate makes of those, one after the other. */
#include "trained.h"

#define MAX_JOBS 5u

static edgefl_cohort_job make_job(struct input *in, const struct problem *problem, bool as_delta) {
    edgefl_cohort_job job = {.features = problem->features,
                             .labels = problem->labels,
                             .example_weights = problem->example_weights,
                             .start = &problem->model,
                             .options = problem->options,
                             .as_delta = as_delta,
                             .kernel = block(in, kernel_bytes(problem), sizeof(float)),
                             .bias = block(in, bias_bytes(problem), sizeof(float)),
                             .place = nowhere};
    return job;
}

static void as_delta(const struct problem *problem, struct trained *trained) {
    if (trained->status == EDGEFL_OK) {
        edgefl_subtract(trained->kernel, problem->model.kernel, kernel_bytes(problem) / sizeof(float), trained->kernel);
        edgefl_subtract(trained->bias, problem->model.bias, problem->num_classes, trained->bias);
    }
}

static void run(struct input *in, const edgefl_variant *variant, const struct problem *problems,
                const struct trained *expected, size_t num_jobs, size_t skipped, bool deltas) {
    edgefl_cohort_job *jobs = block(in, num_jobs * sizeof(edgefl_cohort_job), 0);
    for (size_t j = 0; j < num_jobs; j++) {
        jobs[j] = make_job(in, &problems[j], deltas);
    }
    const size_t size = edgefl_cohort_scratch_bytes(jobs, num_jobs);
    edgefl_cohort_cursor cursor;
    edgefl_cohort_cursor_init(&cursor);
    /* As another thread does that has taken some. */
    atomic_fetch_add(&cursor.next, skipped);
    edgefl_cohort_run(variant, jobs, num_jobs, &cursor, NULL, scratch_room(in, size), size);
    for (size_t j = 0; j < num_jobs; j++) {
        const struct trained found = {jobs[j].status, jobs[j].place, jobs[j].stats, jobs[j].kernel, jobs[j].bias};
        if (j < skipped) {
            REQUIRE(is_untouched(found.kernel, kernel_bytes(&problems[j])));
        } else {
            require_same(&problems[j], &expected[j], &found);
        }
    }
}

/* What jobs of one shape are folded into, and what accumulate makes of it. */
struct folding {
    size_t n;
    int64_t *before, *sums;
    double max_squared_norm;
    int grid_shift;
    edgefl_status status[MAX_JOBS];
    edgefl_place place[MAX_JOBS];
};

/* Also false for a shape that is spoilt: run_and_fold does not refuse it. */
static bool has_shape(const struct problem *problem, const struct problem *of) {
    return problem->num_features == of->num_features && problem->num_classes == of->num_classes &&
           problem->features.num_features == of->num_features && problem->model.num_classes == of->num_classes;
}

static struct folding take_folding(struct input *in, const struct problem *problems, const struct trained *deltas,
                                   size_t num_jobs) {
    struct folding folding = {
        .n = problems[0].num_classes * (problems[0].num_features + 1),
        .max_squared_norm = take_rarely(in, 4) ? take_double(in) : __builtin_inf(),
        .grid_shift = (int)take_below(in, 40) + (take_rarely(in, 8) ? EDGEFL_MAX_GRID_SHIFT : 0),
    };
    folding.before = take_integers(in, folding.n);
    folding.sums = copied(in, folding.before, folding.n * sizeof(int64_t));
    for (size_t j = 0; j < num_jobs; j++) {
        const size_t split = folding.n - problems[j].num_classes;
        folding.status[j] = deltas[j].status;
        folding.place[j] = deltas[j].place;
        if (deltas[j].status != EDGEFL_OK) {
            continue;
        }
        float *delta = block(in, folding.n * sizeof(float), 0);
        memcpy(delta, deltas[j].kernel, split * sizeof(float));
        memcpy(delta + split, deltas[j].bias, problems[j].num_classes * sizeof(float));
        if (edgefl_squared_norm(delta, folding.n) <= folding.max_squared_norm) {
            folding.status[j] =
                edgefl_accumulate(edgefl_scalar_software(), folding.sums, delta, folding.n,
                                  problems[j].features.num_rows, folding.grid_shift, 1.0, &folding.place[j]);
        } else {
            folding.status[j] = EDGEFL_OUT_OF_RANGE;
            folding.place[j] = (edgefl_place){0, 0};
        }
    }
    return folding;
}

static void run_and_fold(struct input *in, const edgefl_variant *variant, const struct problem *problems,
                         const struct trained *deltas, const struct folding *folding, size_t num_jobs) {
    edgefl_cohort_job *jobs = block(in, num_jobs * sizeof(edgefl_cohort_job), 0);
    for (size_t j = 0; j < num_jobs; j++) {
        jobs[j] = make_job(in, &problems[j], take_rarely(in, 2));
    }
    const size_t size = edgefl_cohort_scratch_bytes(jobs, num_jobs);
    int64_t *sums = room(in, folding->n, sizeof(int64_t));
    memcpy(sums, folding->before, folding->n * sizeof(int64_t));
    const edgefl_cohort_fold fold = {sums, room(in, folding->n, sizeof(float)), folding->max_squared_norm,
                                     folding->grid_shift};
    edgefl_cohort_cursor cursor;
    edgefl_cohort_cursor_init(&cursor);
    edgefl_cohort_run_and_fold(variant, jobs, num_jobs, &cursor, NULL, scratch_room(in, size), size, &fold);
    REQUIRE(same_bytes(sums, folding->sums, folding->n * sizeof(int64_t)));
    for (size_t j = 0; j < num_jobs; j++) {
        REQUIRE(jobs[j].status == folding->status[j] && same_place(&jobs[j].place, &folding->place[j]));
        REQUIRE(is_untouched(jobs[j].kernel, kernel_bytes(&problems[j])));
        REQUIRE(is_untouched(jobs[j].bias, bias_bytes(&problems[j])));
        REQUIRE(deltas[j].status != EDGEFL_OK || jobs[j].stats.num_correct == deltas[j].stats.num_correct);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    const size_t num_jobs = take_below(&in, MAX_JOBS + 1);
    const size_t skipped = take_rarely(&in, 4) ? take_below(&in, num_jobs + 1) : 0;
    const bool deltas = take_rarely(&in, 2);
    struct problem problems[MAX_JOBS];
    struct trained expected[MAX_JOBS];
    for (size_t j = 0; j < num_jobs; j++) {
        problems[j] = take_problem(&in);
        expected[j] = train(&in, &problems[j], edgefl_scalar_software(), NULL);
        if (deltas) {
            as_delta(&problems[j], &expected[j]);
        }
    }
    EACH_VARIANT(variant) { run(&in, variant, problems, expected, num_jobs, skipped, deltas); }
    if (deltas && num_jobs > 0 && has_shape(&problems[0], &problems[0])) {
        for (size_t j = 1; j < num_jobs; j++) {
            if (!has_shape(&problems[j], &problems[0])) {
                problems[j] = problems[0];
                expected[j] = expected[0];
            }
        }
        const struct folding folding = take_folding(&in, problems, expected, num_jobs);
        EACH_VARIANT(variant) { run_and_fold(&in, variant, problems, expected, &folding, num_jobs); }
    }
    input_close(&in);
    return 0;
}
