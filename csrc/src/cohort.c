/* Many trainings in one call: threads take the jobs from a shared cursor, so that a slow client delays only one of
 * them. Each job touches its own outputs alone; the threads meet nowhere but at the cursor. */
#include "edgefl.h"

void edgefl_cohort_cursor_init(edgefl_cohort_cursor *cursor) { atomic_init(&cursor->next, 0); }

/* Relaxed order is enough here and below: jobs are written before the threads start, and read after they are joined. */
void edgefl_cohort_cursor_close(edgefl_cohort_cursor *cursor, size_t num_jobs) {
    atomic_store_explicit(&cursor->next, num_jobs, memory_order_relaxed);
}

size_t edgefl_cohort_scratch_bytes(const edgefl_cohort_job *jobs, size_t num_jobs) {
    size_t most = 0;
    for (size_t j = 0; j < num_jobs; j++) {
        const size_t bytes =
            edgefl_softmax_train_scratch_bytes(&jobs[j].features, jobs[j].start->num_classes, &jobs[j].options);
        most = bytes > most ? bytes : most;
    }
    return most;
}

static void run_job(const edgefl_variant *variant, edgefl_cohort_job *job, const edgefl_stop_flag *stop, void *scratch,
                    size_t scratch_bytes) {
    const edgefl_model *start = job->start;
    job->status = edgefl_softmax_train(variant, &job->features, job->labels, job->example_weights, start, &job->options,
                                       stop, scratch, scratch_bytes, job->kernel, job->bias, &job->stats, &job->place);
    if (job->status == EDGEFL_OK && job->as_delta) {
        edgefl_subtract(job->kernel, start->kernel, start->num_classes * job->features.num_features, job->kernel);
        edgefl_subtract(job->bias, start->bias, start->num_classes, job->bias);
    }
}

static void fold_job(const edgefl_variant *variant, edgefl_cohort_job *job, const edgefl_stop_flag *stop, void *scratch,
                     size_t scratch_bytes, const edgefl_cohort_fold *fold) {
    const size_t num_classes = job->start->num_classes;
    const size_t num_weights = num_classes * job->features.num_features;
    const size_t n = num_weights + num_classes;
    edgefl_cohort_job own = *job;
    own.kernel = fold->delta;
    own.bias = fold->delta + num_weights;
    own.as_delta = true;
    run_job(variant, &own, stop, scratch, scratch_bytes);
    job->stats = own.stats;
    job->place = own.place;
    job->status = own.status;
    if (own.status != EDGEFL_OK || own.stats.stopped) {
        return;
    }
    /* Written so that a norm that is not a number is refused. The squares of finite values fit binary64. */
    if (!(edgefl_squared_norm(fold->delta, n) <= fold->max_squared_norm)) {
        job->place = (edgefl_place){0, 0};
        job->status = EDGEFL_OUT_OF_RANGE;
        return;
    }
    job->status = edgefl_accumulate(variant, fold->sums, fold->delta, n, job->features.num_rows, fold->grid_shift, 1.0,
                                    &job->place);
}

/* The next job, or NULL. The cursor passes num_jobs by at most one for each thread. */
static edgefl_cohort_job *take(edgefl_cohort_job *jobs, size_t num_jobs, edgefl_cohort_cursor *cursor) {
    const size_t taken = atomic_fetch_add_explicit(&cursor->next, 1, memory_order_relaxed);
    return taken < num_jobs ? &jobs[taken] : NULL;
}

void edgefl_cohort_run(const edgefl_variant *variant, edgefl_cohort_job *jobs, size_t num_jobs,
                       edgefl_cohort_cursor *cursor, const edgefl_stop_flag *stop, void *scratch,
                       size_t scratch_bytes) {
    for (edgefl_cohort_job *job; (job = take(jobs, num_jobs, cursor)) != NULL;) {
        run_job(variant, job, stop, scratch, scratch_bytes);
    }
}

void edgefl_cohort_run_and_fold(const edgefl_variant *variant, edgefl_cohort_job *jobs, size_t num_jobs,
                                edgefl_cohort_cursor *cursor, const edgefl_stop_flag *stop, void *scratch,
                                size_t scratch_bytes, const edgefl_cohort_fold *fold) {
    for (edgefl_cohort_job *job; (job = take(jobs, num_jobs, cursor)) != NULL;) {
        fold_job(variant, job, stop, scratch, scratch_bytes, fold);
    }
}
