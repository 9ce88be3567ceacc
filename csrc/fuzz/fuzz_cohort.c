/* edgefl_cohort_run: each job of a mixed cohort gives what edgefl_softmax_train gives for it alone. */
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
    input_close(&in);
    return 0;
}
