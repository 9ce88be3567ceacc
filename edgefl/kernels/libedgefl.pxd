# What Cython must know of csrc/include/edgefl.h, where every parameter is described.

from libc.stddef cimport size_t
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

cdef extern from "edgefl.h" nogil:
    const Py_ssize_t EDGEFL_MAX_ROWS
    const size_t EDGEFL_MAX_BINS
    const size_t EDGEFL_MAX_HIDDEN

    ctypedef enum edgefl_status:
        EDGEFL_OK
        EDGEFL_NUM_STATUSES

    ctypedef struct edgefl_place:
        size_t row
        size_t column

    ctypedef struct edgefl_variant:
        pass

    size_t edgefl_variant_count()
    const char *edgefl_variant_name(size_t index)
    const edgefl_variant *edgefl_variant_find(const char *name)
    const char *edgefl_variant_name_of(const edgefl_variant *variant)

    ctypedef enum edgefl_dtype:
        EDGEFL_FLOAT32
        EDGEFL_UINT8
        EDGEFL_INT8

    ctypedef struct edgefl_features:
        edgefl_dtype dtype
        const void *data
        size_t num_rows
        size_t num_features
        float scale
        int32_t zero_point
        const float *mean
        const float *inverse_spread

    ctypedef struct edgefl_model:
        size_t num_classes
        const float *kernel
        const float *bias

    ctypedef struct edgefl_stop_flag:
        pass

    void edgefl_stop_flag_init(edgefl_stop_flag *flag)
    void edgefl_stop_flag_set(edgefl_stop_flag *flag)
    bint edgefl_stop_flag_is_set(const edgefl_stop_flag *flag)

    ctypedef struct edgefl_train_options:
        float learning_rate
        float l2
        float momentum
        float proximal
        float clip_norm
        size_t batch_size
        size_t num_epochs
        const uint8_t *shuffle_key
        const edgefl_model *correction

    ctypedef struct edgefl_train_stats:
        uint64_t examples_seen
        uint64_t num_steps
        double loss_sum
        uint64_t num_correct
        bint stopped

    size_t edgefl_softmax_train_scratch_bytes(const edgefl_features *features, size_t num_classes,
                                              const edgefl_train_options *options)
    edgefl_status edgefl_softmax_train(
        const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
        const float *example_weights, const edgefl_model *start, const edgefl_train_options *options,
        const edgefl_stop_flag *stop, void *scratch, size_t scratch_bytes, float *kernel, float *bias,
        edgefl_train_stats *stats, edgefl_place *place)
    ctypedef struct edgefl_mlp:
        size_t num_hidden
        size_t num_classes
        const float *parameters

    size_t edgefl_mlp_train_scratch_bytes(const edgefl_features *features, size_t num_hidden, size_t num_classes,
                                          const float *correction, const edgefl_train_options *options)
    edgefl_status edgefl_mlp_train(
        const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
        const float *example_weights, const edgefl_mlp *start, const float *correction,
        const edgefl_train_options *options, const edgefl_stop_flag *stop, void *scratch, size_t scratch_bytes,
        float *parameters, edgefl_train_stats *stats, edgefl_place *place)
    size_t edgefl_mlp_infer_scratch_bytes(const edgefl_features *features, size_t num_hidden, size_t num_classes)
    edgefl_status edgefl_mlp_evaluate(
        const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
        const edgefl_mlp *model, void *scratch, size_t scratch_bytes, uint64_t *confusion, double *loss_sum,
        edgefl_place *place)
    edgefl_status edgefl_mlp_predict(
        const edgefl_variant *variant, const edgefl_features *features, const edgefl_mlp *model, void *scratch,
        size_t scratch_bytes, float *probabilities, edgefl_place *place)

    ctypedef struct edgefl_cohort_job:
        edgefl_features features
        const int32_t *labels
        const float *example_weights
        const edgefl_model *start
        edgefl_train_options options
        bint as_delta
        float *kernel
        float *bias
        edgefl_train_stats stats
        edgefl_place place
        edgefl_status status

    ctypedef struct edgefl_cohort_cursor:
        pass

    void edgefl_cohort_cursor_init(edgefl_cohort_cursor *cursor)
    void edgefl_cohort_cursor_close(edgefl_cohort_cursor *cursor, size_t num_jobs)
    size_t edgefl_cohort_scratch_bytes(const edgefl_cohort_job *jobs, size_t num_jobs)
    void edgefl_cohort_run(const edgefl_variant *variant, edgefl_cohort_job *jobs, size_t num_jobs,
                           edgefl_cohort_cursor *cursor, const edgefl_stop_flag *stop, void *scratch,
                           size_t scratch_bytes)
    ctypedef struct edgefl_cohort_fold:
        int64_t *sums
        float *delta
        double max_squared_norm
        int grid_shift

    void edgefl_cohort_run_and_fold(const edgefl_variant *variant, edgefl_cohort_job *jobs, size_t num_jobs,
                                    edgefl_cohort_cursor *cursor, const edgefl_stop_flag *stop, void *scratch,
                                    size_t scratch_bytes, const edgefl_cohort_fold *fold)

    size_t edgefl_softmax_infer_scratch_bytes(const edgefl_features *features, size_t num_classes)
    edgefl_status edgefl_softmax_evaluate(
        const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
        const edgefl_model *model, void *scratch, size_t scratch_bytes, uint64_t *confusion, double *loss_sum,
        edgefl_place *place)
    edgefl_status edgefl_softmax_predict(
        const edgefl_variant *variant, const edgefl_features *features, const edgefl_model *model, void *scratch,
        size_t scratch_bytes, float *probabilities, edgefl_place *place)
    void edgefl_random_words(const uint8_t *key, uint32_t epoch, uint32_t *words, size_t count)
    void edgefl_permutation(const uint8_t *key, uint32_t epoch, uint32_t *order, size_t n)
    edgefl_status edgefl_accumulate(const edgefl_variant *variant, int64_t *sums, const float *delta, size_t n,
                                    uint64_t weight, int grid_shift, double factor, edgefl_place *place)
    edgefl_status edgefl_add_sums(int64_t *sums, const int64_t *other, size_t n, edgefl_place *place)
    edgefl_status edgefl_finalize_mean(const int64_t *sums, size_t n, uint64_t total_weight, int grid_shift,
                                       double *mean)
    double edgefl_squared_norm(const float *values, size_t n)
    size_t edgefl_first_non_finite(const float *values, size_t n)
    void edgefl_subtract(const float *a, const float *b, size_t n, float *out)
    edgefl_status edgefl_apply_update(const float *model, const double *update, size_t n, double rate, float *out,
                                      edgefl_place *place)
    ctypedef enum edgefl_adaptive_rule:
        EDGEFL_ADAM
        EDGEFL_YOGI
        EDGEFL_ADAGRAD

    ctypedef struct edgefl_adaptive_options:
        edgefl_adaptive_rule rule
        double learning_rate
        double beta_1
        double beta_2
        double epsilon

    edgefl_status edgefl_adaptive_step(
        const edgefl_adaptive_options *options, const double *delta, size_t n, double *first, double *second,
        float *model, edgefl_place *place)
    size_t edgefl_feature_sums_scratch_bytes(const edgefl_features *features)
    edgefl_status edgefl_feature_sums(
        const edgefl_variant *variant, const edgefl_features *features, const float *center, double bound,
        int grid_shift, void *scratch, size_t scratch_bytes, int64_t *sums, edgefl_place *place)
    size_t edgefl_feature_extremes_scratch_bytes(const edgefl_features *features)
    edgefl_status edgefl_feature_extremes(
        const edgefl_variant *variant, const edgefl_features *features, void *scratch, size_t scratch_bytes,
        float *smallest, float *largest, edgefl_place *place)
    size_t edgefl_feature_counts_scratch_bytes(const edgefl_features *features)
    edgefl_status edgefl_feature_counts(
        const edgefl_variant *variant, const edgefl_features *features, const double *edges, size_t num_bins,
        void *scratch, size_t scratch_bytes, int64_t *counts, edgefl_place *place)
