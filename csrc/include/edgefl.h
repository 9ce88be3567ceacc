/* libedgefl: softmax and mlp training, exact aggregation and statistics for small devices. C11.
 *
 * This is the only public header. The library allocates nothing, reads and prints nothing, keeps no state and reads no
 * environment variable: every buffer, the scratch memory included, comes from the caller.
 *
 * Promised: the same inputs give the same output bits on every supported machine and with every variant (IEEE 754
 * binary32 and binary64, round to nearest even, fused multiply-adds only where written). Training, evaluation and
 * prediction make no subnormal.
 *
 * Not promised: the bits of a NaN (results that hold one are refused), the contents of an output after a status other
 * than EDGEFL_OK unless the function says so, speed for a misaligned buffer, or a stable binary interface between
 * versions. No function checks that a pointer is what its comment asks for.
 *
 * All functions may be called from any thread, on distinct outputs and scratch, at the same time. Buffers must be
 * aligned as C asks for their type; scratch may have any alignment. Outputs must not overlap inputs unless said.
 */
#ifndef EDGEFL_H
#define EDGEFL_H

#include <stdatomic.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* Features, scales and hyper-parameters are 0 or at least this in magnitude. */
#define EDGEFL_MIN_MAGNITUDE 0x1p-30f
/* A stored value (weight, bias, velocity, gradient, correction) below this in magnitude becomes +0. */
#define EDGEFL_STORED_MIN_MAGNITUDE 0x1p-50f
/* With both limits every product is a multiple of 2^-126: no subnormal arises, so flush-to-zero modes do not matter. */

#define EDGEFL_MAX_CLASSES 4096u
#define EDGEFL_MAX_HIDDEN 512u
#define EDGEFL_MAX_FEATURES 65536u
#define EDGEFL_MAX_BATCH (1u << 20)
/* Rows are permuted by 32-bit indices. */
#define EDGEFL_MAX_ROWS 0x7fffffffu
/* 2^shift times any float32 stays a normal binary64 number, exactly. */
#define EDGEFL_MIN_GRID_SHIFT (-128)
#define EDGEFL_MAX_GRID_SHIFT 128
/* A coordinate on the grid; with weights up to 2^32 a sum stays within 2^62. */
#define EDGEFL_MAX_GRID_VALUE (INT64_C(1) << 30)
#define EDGEFL_MAX_WEIGHT (UINT64_C(1) << 32)
#define EDGEFL_MAX_FEATURE_SUM (INT64_C(1) << 62)
#define EDGEFL_MAX_BINS 1024u

typedef enum edgefl_status {
    EDGEFL_OK = 0,
    EDGEFL_BAD_ARGUMENT = 1,           /* a shape or an option outside its legal range */
    EDGEFL_SCRATCH_TOO_SMALL = 2,      /* fewer bytes than the _scratch_bytes function asked for */
    EDGEFL_BAD_FEATURE = 3,            /* not finite, or not 0 and below 2^-30; place: row, column */
    EDGEFL_BAD_STANDARDIZED = 4,       /* the standardized (or scaled) feature is not finite; place: row, column */
    EDGEFL_BAD_LABEL = 5,              /* below 0 or not below num_classes; place: row */
    EDGEFL_BAD_EXAMPLE_WEIGHT = 6,     /* negative, not finite, or not 0 and below 2^-30; place: row */
    EDGEFL_BAD_START_WEIGHT = 7,       /* not finite; place: class, feature (column == num_features: the bias) */
    EDGEFL_NON_FINITE_LOGIT = 8,       /* or a hidden unit's sum; place: row */
    EDGEFL_NON_FINITE_WEIGHT = 9,      /* after training; place as for BAD_START_WEIGHT */
    EDGEFL_GRADIENT_EXPLODED = 10,     /* clipping would scale by less than 2^-30; place: first row of the batch,
                                          in the order of processing */
    EDGEFL_OUT_OF_RANGE = 11,          /* a value does not fit its integer grid; place: row is the index */
    EDGEFL_OVERFLOW = 12,              /* a sum leaves int64; place: row is the index */
    EDGEFL_NON_FINITE_RESULT = 13,     /* place: row is the index */
    EDGEFL_FEATURE_OUT_OF_BOUNDS = 14, /* above the declared bound; place: row, column */
    EDGEFL_BAD_CORRECTION = 15,        /* not finite; place as for BAD_START_WEIGHT */
    EDGEFL_BAD_EDGE = 16,              /* not finite, or below the edge before it; place: row is the index */
    EDGEFL_NUM_STATUSES
} edgefl_status;

/* Where a call failed; written only when the status says that it has a place. */
typedef struct edgefl_place {
    size_t row;
    size_t column;
} edgefl_place;

/* ---- variants -----------------------------------------------------------------------------------------------------
 */

/* One implementation of the hot loops. All variants give the same bits; they differ in speed alone. */
typedef struct edgefl_variant edgefl_variant;

/* The number of variants compiled in; index 0 is "scalar", which every CPU supports, and later ones are faster. */
size_t edgefl_variant_count(void);

/* The name of a variant. index: [0, edgefl_variant_count()). The string is static. */
const char *edgefl_variant_name(size_t index);

/* The variant of that name; NULL asks for the fastest one that this CPU supports.
 * Returns NULL when the name is unknown or this CPU does not support it. The result is static. */
const edgefl_variant *edgefl_variant_find(const char *name);

/* The name of a variant that edgefl_variant_find returned. */
const char *edgefl_variant_name_of(const edgefl_variant *variant);

/* ---- features and models ------------------------------------------------------------------------------------------
 */

typedef enum edgefl_dtype { EDGEFL_FLOAT32 = 0, EDGEFL_UINT8 = 1, EDGEFL_INT8 = 2 } edgefl_dtype;

/* Feature f of row i is
 *   x = data[i, f]                              for float32 (finite; 0, -0 or |x| >= 2^-30)
 *   x = scale * (float)(data[i, f] - zero_point) for uint8 and int8
 * and with standardization v = (x - mean[f]) * inverse_spread[f], where |v| < 2^-30 becomes +0. */
typedef struct edgefl_features {
    edgefl_dtype dtype;
    const void *data;            /* in: (num_rows, num_features), row-major */
    size_t num_rows;             /* [1, EDGEFL_MAX_ROWS] */
    size_t num_features;         /* [1, EDGEFL_MAX_FEATURES] */
    float scale;                 /* 8-bit only: finite, at least 2^-30 */
    int32_t zero_point;          /* 8-bit only: [-128, 255] */
    const float *mean;           /* in: (num_features,), each finite, 0 or |.| >= 2^-30; or NULL */
    const float *inverse_spread; /* in: as mean; NULL exactly when mean is NULL */
} edgefl_features;

/* A softmax layer to start from, or a value for each of its weights. Values below 2^-50 in magnitude, and -0, are read
 * as +0. */
typedef struct edgefl_model {
    size_t num_classes;  /* [1, EDGEFL_MAX_CLASSES] */
    const float *kernel; /* in: (num_classes, num_features), row-major, finite */
    const float *bias;   /* in: (num_classes,), finite */
} edgefl_model;

/* One hidden layer of rectified linear units and a softmax layer. Values as in edgefl_model. */
typedef struct edgefl_mlp {
    size_t num_hidden;  /* [1, EDGEFL_MAX_HIDDEN] */
    size_t num_classes; /* [1, EDGEFL_MAX_CLASSES] */
    /* in: the hidden kernel (num_hidden, num_features), row-major; the hidden bias (num_hidden,); the output kernel
     * (num_classes, num_hidden), row-major; the output bias (num_classes,). One after the other, finite. */
    const float *parameters;
} edgefl_mlp;

/* ---- training -----------------------------------------------------------------------------------------------------
 */

/* A flag that one thread sets and a training reads between its batches. */
typedef struct edgefl_stop_flag {
    atomic_int value;
} edgefl_stop_flag;

void edgefl_stop_flag_init(edgefl_stop_flag *flag);
void edgefl_stop_flag_set(edgefl_stop_flag *flag);
bool edgefl_stop_flag_is_set(const edgefl_stop_flag *flag);

/* Each number is finite, and 0 or at least 2^-30. */
typedef struct edgefl_train_options {
    float learning_rate;
    float l2;                   /* adds l2 * w to the kernel's gradient */
    float momentum;             /* [0, 1] */
    float proximal;             /* adds proximal * (w - w_start) to the gradient of kernel and bias */
    float clip_norm;            /* 0 does not clip */
    size_t batch_size;          /* [1, EDGEFL_MAX_BATCH] */
    size_t num_epochs;          /* [0, 2^32 - 1] */
    const uint8_t *shuffle_key; /* in: 16 bytes, a new order each epoch; or NULL for the given order */
    /* in: added to the gradient of every step, num_classes as the start's; or NULL. SCAFFOLD's client (Karimireddy et
     * al., "SCAFFOLD: Stochastic Controlled Averaging for Federated Learning", ICML 2020, algorithm 1) steps along
     * g - c_i + c: its correction is c - c_i. */
    const edgefl_model *correction;
} edgefl_train_options;

typedef struct edgefl_train_stats {
    uint64_t examples_seen; /* over all epochs */
    uint64_t num_steps;
    double loss_sum; /* of the forward passes before each step */
    uint64_t num_correct;
    bool stopped;
} edgefl_train_stats;

/* The scratch that edgefl_softmax_train needs; SIZE_MAX when it exceeds the address space. */
size_t edgefl_softmax_train_scratch_bytes(const edgefl_features *features, size_t num_classes,
                                          const edgefl_train_options *options);

/* Mini-batch SGD on the mean cross-entropy.
 *
 * With learning_rate alone the step is DIRECT: each example of a batch is subtracted from the weights. With any of l2,
 * proximal, correction, clip_norm and momentum it takes the GRADIENT path, whose roundings differ: the examples'
 * gradients are summed, then come
 *   + l2 * w, + proximal * (w - w_start), + correction, each rounded; below 2^-50 becomes +0
 *   clipping, of all that
 *   velocity = momentum * velocity + that
 *   w - learning_rate * velocity
 * A correction of zeros therefore gives the bits of none only beside another option, and else those of a clip_norm that
 * nothing reaches.
 *
 * labels           in: (num_rows,), each in [0, num_classes)
 * example_weights  in: (num_rows,), each 0 or at least 2^-30, finite; or NULL for all 1
 * stop             in: read before each batch, the first too; or NULL
 * kernel, bias     out: shapes as in start, and may be start's own; written only with EDGEFL_OK, which includes a stop:
 *                  they are then the weights after the last finished batch
 * stats, place     out
 *
 * The first fault is reported as if all inputs were checked before the first step. */
edgefl_status edgefl_softmax_train(const edgefl_variant *variant, const edgefl_features *features,
                                   const int32_t *labels, const float *example_weights, const edgefl_model *start,
                                   const edgefl_train_options *options, const edgefl_stop_flag *stop, void *scratch,
                                   size_t scratch_bytes, float *kernel, float *bias, edgefl_train_stats *stats,
                                   edgefl_place *place);

/* The scratch that edgefl_mlp_train needs; SIZE_MAX as above. Of correction it matters only whether it is NULL. */
size_t edgefl_mlp_train_scratch_bytes(const edgefl_features *features, size_t num_hidden, size_t num_classes,
                                      const float *correction, const edgefl_train_options *options);

/* As edgefl_softmax_train, for an mlp; docs/adr/0004-mlp.md states the order of the operations. What the options add
 * to the gradient, clipping and momentum are those of all parameters as one vector; l2 leaves both biases out.
 *
 * start        its place in BAD_START_WEIGHT, NON_FINITE_WEIGHT and BAD_CORRECTION: row is the hidden unit, or
 *              num_hidden + the class; column is the feature, or the hidden unit of a class, and their number stands
 *              for the bias
 * correction   in: as start's parameters; or NULL. options->correction must be NULL: EDGEFL_BAD_ARGUMENT
 * parameters   out: as start's, and may be start's own; written only with EDGEFL_OK */
edgefl_status edgefl_mlp_train(const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
                               const float *example_weights, const edgefl_mlp *start, const float *correction,
                               const edgefl_train_options *options, const edgefl_stop_flag *stop, void *scratch,
                               size_t scratch_bytes, float *parameters, edgefl_train_stats *stats, edgefl_place *place);

/* ---- cohorts ------------------------------------------------------------------------------------------------------
 */

/* One client's training: what edgefl_softmax_train takes and gives, but for what all jobs of a cohort share. */
typedef struct edgefl_cohort_job {
    edgefl_features features;
    const int32_t *labels;
    const float *example_weights; /* or NULL */
    const edgefl_model *start;    /* jobs may share it */
    edgefl_train_options options;
    bool as_delta;            /* kernel and bias receive trained - start, as edgefl_subtract gives it */
    float *kernel;            /* out: with status EDGEFL_OK only; not shared, not start's */
    float *bias;              /* out: as kernel */
    edgefl_train_stats stats; /* out */
    edgefl_place place;       /* out: when the status has one */
    edgefl_status status;     /* out */
} edgefl_cohort_job;

/* The next job that nobody has taken; the threads of one cohort share it. */
typedef struct edgefl_cohort_cursor {
    atomic_size_t next;
} edgefl_cohort_cursor;

void edgefl_cohort_cursor_init(edgefl_cohort_cursor *cursor);

/* No thread takes a further job; a job that runs is finished. What was not taken keeps its outputs as they were. */
void edgefl_cohort_cursor_close(edgefl_cohort_cursor *cursor, size_t num_jobs);

/* The scratch that each thread needs: the most that any job asks for; SIZE_MAX when one exceeds the address space. */
size_t edgefl_cohort_scratch_bytes(const edgefl_cohort_job *jobs, size_t num_jobs);

/* Takes jobs from the cursor and trains them, until none is left; each thread of the caller calls it once, with scratch
 * of its own. A job's outputs are those of edgefl_softmax_train, whatever the number of threads and whatever becomes of
 * the other jobs. stop: as there, read by every job; or NULL. */
void edgefl_cohort_run(const edgefl_variant *variant, edgefl_cohort_job *jobs, size_t num_jobs,
                       edgefl_cohort_cursor *cursor, const edgefl_stop_flag *stop, void *scratch, size_t scratch_bytes);

/* Where one thread folds the deltas of the jobs that it takes; n is C * F + C, the same for all jobs of the cohort. */
typedef struct edgefl_cohort_fold {
    int64_t *sums;           /* in and out, (n,): the kernel's, row-major, then the bias's; of this thread alone */
    float *delta;            /* scratch, (n,); of this thread alone */
    double max_squared_norm; /* what edgefl_squared_norm of a delta may be, at least 0; infinity for no bound */
    int grid_shift;          /* [MIN_GRID_SHIFT, MAX_GRID_SHIFT]: EDGEFL_BAD_ARGUMENT of each job for another */
} edgefl_cohort_fold;

/* As edgefl_cohort_run, but each delta is folded while it is in the caches, as edgefl_accumulate does with the job's
 * number of rows as its weight and factor 1, and is kept nowhere. kernel, bias and as_delta of a job are neither read
 * nor written. num_classes and num_features of every job must be those that n counts: a job of another shape is not
 * refused, but writes outside of delta and sums.
 *
 * status is also what edgefl_accumulate answers, with its place, an index into sums; and EDGEFL_OUT_OF_RANGE, with
 * place (0, 0), for a squared norm above the bound or a norm that is not a number. sums hold the jobs with EDGEFL_OK
 * that were not stopped, whole, and nothing of any other: not the part that a stopped job was trained.
 *
 * The sums of all threads, added, do not depend on who took which job. Whether a job meets EDGEFL_OVERFLOW does, since
 * that is said of the sums of its own thread. */
void edgefl_cohort_run_and_fold(const edgefl_variant *variant, edgefl_cohort_job *jobs, size_t num_jobs,
                                edgefl_cohort_cursor *cursor, const edgefl_stop_flag *stop, void *scratch,
                                size_t scratch_bytes, const edgefl_cohort_fold *fold);

/* ---- inference ----------------------------------------------------------------------------------------------------
 */

/* The scratch that edgefl_softmax_evaluate and edgefl_softmax_predict need; SIZE_MAX as above. */
size_t edgefl_softmax_infer_scratch_bytes(const edgefl_features *features, size_t num_classes);

/* labels     in: as in training
 * confusion  in: (num_classes, num_classes) zeros, or counts to add to; out: row = label, column = predicted, which is
 *            the lowest class of the largest logit; after an error, a part of the counts. With many classes most of it
 *            is not touched: fresh pages of zeros stay free
 * loss_sum   out: cross-entropies, added in row order in binary64 */
edgefl_status edgefl_softmax_evaluate(const edgefl_variant *variant, const edgefl_features *features,
                                      const int32_t *labels, const edgefl_model *model, void *scratch,
                                      size_t scratch_bytes, uint64_t *confusion, double *loss_sum, edgefl_place *place);

/* probabilities  out: (num_rows, num_classes) */
edgefl_status edgefl_softmax_predict(const edgefl_variant *variant, const edgefl_features *features,
                                     const edgefl_model *model, void *scratch, size_t scratch_bytes,
                                     float *probabilities, edgefl_place *place);

/* As the three above, for an mlp. */
size_t edgefl_mlp_infer_scratch_bytes(const edgefl_features *features, size_t num_hidden, size_t num_classes);

edgefl_status edgefl_mlp_evaluate(const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
                                  const edgefl_mlp *model, void *scratch, size_t scratch_bytes, uint64_t *confusion,
                                  double *loss_sum, edgefl_place *place);

edgefl_status edgefl_mlp_predict(const edgefl_variant *variant, const edgefl_features *features,
                                 const edgefl_mlp *model, void *scratch, size_t scratch_bytes, float *probabilities,
                                 edgefl_place *place);

/* ---- randomness: Philox4x32-10 (Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011) -------------
 */

/* One block. counter: in; key: in; out: out. */
void edgefl_philox4x32(const uint32_t counter[4], const uint32_t key[2], uint32_t out[4]);

/* The first count words of a stream. key: in, 16 bytes, whose little-endian words are the generator's key (0, 1) and
 * the upper half of its counter (2, 3); epoch: any; words: out, (count,), count < 2^34. */
void edgefl_random_words(const uint8_t key[16], uint32_t epoch, uint32_t *words, size_t count);

/* A uniform permutation of 0 .. n-1 by Fisher-Yates over that stream. n: [0, EDGEFL_MAX_ROWS]; order: out, (n,). */
void edgefl_permutation(const uint8_t key[16], uint32_t epoch, uint32_t *order, size_t n);

/* ---- exact aggregation --------------------------------------------------------------------------------------------
 */

/* sums[j] += q * weight, with q = round-to-even(delta[j] * 2^grid_shift * factor) computed in binary64.
 * sums: in and out, (n,); delta: in, (n,), finite; weight: [1, 2^32]; grid_shift: [MIN_GRID_SHIFT, MAX_GRID_SHIFT];
 * factor: finite, at least 0 (1 when nothing is clipped). EDGEFL_OUT_OF_RANGE when |q| > 2^30 or q is not a number,
 * EDGEFL_OVERFLOW when a sum would leave int64; sums are then unchanged. The two must not share memory. */
edgefl_status edgefl_accumulate(const edgefl_variant *variant, int64_t *sums, const float *delta, size_t n,
                                uint64_t weight, int grid_shift, double factor, edgefl_place *place);

/* sums[j] += other[j]. sums: in and out, unchanged with EDGEFL_OVERFLOW; other: in, and may be sums, but no part of it.
 */
edgefl_status edgefl_add_sums(int64_t *sums, const int64_t *other, size_t n, edgefl_place *place);

/* mean[j] = (double)sums[j] / (double)total_weight * 2^-grid_shift. sums: in; total_weight: [1, 2^63); mean: out. */
edgefl_status edgefl_finalize_mean(const int64_t *sums, size_t n, uint64_t total_weight, int grid_shift, double *mean);

/* ---- vectors ------------------------------------------------------------------------------------------------------
 */

/* The sum of squares in binary64: 16 lanes by index, then a tree. values: in, (n,). */
double edgefl_squared_norm(const float *values, size_t n);

/* The index of the first NaN or infinity; n when there is none. values: in, (n,). */
size_t edgefl_first_non_finite(const float *values, size_t n);

/* out[j] = a[j] - b[j]. a, b: in, (n,); out: out, and may be a or b. */
void edgefl_subtract(const float *a, const float *b, size_t n, float *out);

/* out[j] = (float)((double)model[j] + rate * update[j]), below 2^-50 +0. model, update: in, (n,); rate: finite;
 * out: out, and may be model. EDGEFL_NON_FINITE_RESULT names the index. */
edgefl_status edgefl_apply_update(const float *model, const double *update, size_t n, double rate, float *out,
                                  edgefl_place *place);

/* ---- server optimizers: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2 --------------------
 */

/* How a second moment v moves, with s = delta * delta. */
typedef enum edgefl_adaptive_rule {
    EDGEFL_ADAM = 0,   /* v = beta_2 * v + (1 - beta_2) * s */
    EDGEFL_YOGI = 1,   /* v = v - (1 - beta_2) * s * sign(v - s), where sign(0) = 0 */
    EDGEFL_ADAGRAD = 2 /* v = v + s */
} edgefl_adaptive_rule;

typedef struct edgefl_adaptive_options {
    edgefl_adaptive_rule rule;
    double learning_rate; /* finite */
    double beta_1;        /* [0, 1) */
    double beta_2;        /* [0, 1); not read by EDGEFL_ADAGRAD */
    double epsilon;       /* finite, above 0 */
} edgefl_adaptive_options;

/* One step of a server, in binary64, each operation rounded:
 *   m = beta_1 * m + (1 - beta_1) * delta, below 2^-50 in magnitude +0; without first moments m = delta
 *   v as the rule says, below 2^-100 +0
 *   model = (float)(model + learning_rate * (m / (sqrt(v) + epsilon))), below 2^-50 in magnitude +0
 * delta: in, (n,); first: in and out, (n,), or NULL; second: in and out, (n,), each at least 0; model: in and out,
 * (n,). None may overlap another. Options outside their ranges are not looked for, but for an unknown rule, which is
 * EDGEFL_BAD_ARGUMENT and changes nothing. EDGEFL_NON_FINITE_RESULT names the first index whose weight or second
 * moment is not finite, as it is where a delta, moment or weight was not; all n are then written. place: out, then. */
edgefl_status edgefl_adaptive_step(const edgefl_adaptive_options *options, const double *delta, size_t n, double *first,
                                   double *second, float *model, edgefl_place *place);

/* ---- statistics ---------------------------------------------------------------------------------------------------
 */

size_t edgefl_feature_sums_scratch_bytes(const edgefl_features *features);

/* sums[f] = round-to-even(S * 2^grid_shift), where S is the sum over rows, in order and in binary64, of x or, with a
 * center, of ((double)x - center[f])^2. features: standardization must be NULL; bound: finite, above 0: |x| may not
 * exceed it; grid_shift: as above; center: in, (num_features,), finite, or NULL; sums: out, (num_features,).
 * EDGEFL_OUT_OF_RANGE when |sums[f]| > 2^62; place: row is f. */
edgefl_status edgefl_feature_sums(const edgefl_variant *variant, const edgefl_features *features, const float *center,
                                  double bound, int grid_shift, void *scratch, size_t scratch_bytes, int64_t *sums,
                                  edgefl_place *place);

size_t edgefl_feature_extremes_scratch_bytes(const edgefl_features *features);

/* smallest[f], largest[f] = the extremes of x over the rows, a -0 as +0: they do not depend on the order of rows.
 * features: standardization must be NULL; smallest, largest: out, (num_features,). */
edgefl_status edgefl_feature_extremes(const edgefl_variant *variant, const edgefl_features *features, void *scratch,
                                      size_t scratch_bytes, float *smallest, float *largest, edgefl_place *place);

size_t edgefl_feature_counts_scratch_bytes(const edgefl_features *features);

/* counts[f, b] = how many rows have x in bin b, the number of edges that are not above x. Nothing is divided: a value
 * that is an edge lies in the bin above it, and the first and the last bin have no end.
 * features: standardization must be NULL; num_bins: [1, EDGEFL_MAX_BINS]; edges: in, (num_bins - 1,), those between the
 * bins, each finite and none below the one before; counts: out, (num_features, num_bins). */
edgefl_status edgefl_feature_counts(const edgefl_variant *variant, const edgefl_features *features, const double *edges,
                                    size_t num_bins, void *scratch, size_t scratch_bytes, int64_t *counts,
                                    edgefl_place *place);

#endif
