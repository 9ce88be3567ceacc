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

void edgefl_cohort_run(const edgefl_variant *variant, edgefl_cohort_job *jobs, size_t num_jobs,
                       edgefl_cohort_cursor *cursor, const edgefl_stop_flag *stop, void *scratch,
                       size_t scratch_bytes) {
    /* The cursor passes num_jobs by at most one for each thread. */
    for (;;) {
        const size_t taken = atomic_fetch_add_explicit(&cursor->next, 1, memory_order_relaxed);
        if (taken >= num_jobs) {
            return;
        }
        run_job(variant, &jobs[taken], stop, scratch, scratch_bytes);
    }
}
