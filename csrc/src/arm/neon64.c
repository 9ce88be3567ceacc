/* neon64: aarch64, where NEON and its fused multiply-add always exist and 32 vector registers are at hand. */
#include "../variant.h"

#if defined(__aarch64__) && !defined(EDGEFL_SOFTWARE_FMA)
#include "neon.h"
#include "neon_softmax.h"

/* Forward: 4 x 5 sums, 4 vectors of rows and 1 of the kernel. Backward: 5 x 4 sums, 4 vectors of a row and 2 of
 * coefficients. */
#define ROWS 4u
#define CLASSES 5u
#define QUARTERS 4u /* vectors of the 16 lanes */

/* Makes the compiler step this pointer, which a load does for nothing, where it prefers one index for all. */
#define KEEP_POINTER(p) __asm__("" : "+r"(p))

/* A class's sums of four rows, each by its four quarters, become the four sums of its lanes. */
EDGEFL_INLINE float32x4_t tree4(float32x4_t quarters[QUARTERS][ROWS]) {
    float32x4_t t[ROWS];
    EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) {
        t[e] = vaddq_f32(vaddq_f32(quarters[0][e], quarters[2][e]), vaddq_f32(quarters[1][e], quarters[3][e]));
    }
    const float32x4_t first = vaddq_f32(vcombine_f32(vget_low_f32(t[0]), vget_low_f32(t[1])),
                                        vcombine_f32(vget_high_f32(t[0]), vget_high_f32(t[1])));
    const float32x4_t second = vaddq_f32(vcombine_f32(vget_low_f32(t[2]), vget_low_f32(t[3])),
                                         vcombine_f32(vget_high_f32(t[2]), vget_high_f32(t[3])));
    return vpaddq_f32(first, second);
}

/* Logits of four rows and of `classes` classes, a constant: one pass over the features for each quarter of the lanes,
 * because all 80 sums do not fit in the registers. */
EDGEFL_INLINE void logits_block(const float *const *rows, const float *const *tails, size_t num_features,
                                const float *kernel, size_t stride, const float *bias, size_t num_classes,
                                float *logits, size_t classes) {
    float32x4_t sums[CLASSES][QUARTERS][ROWS];
    const bool has_tail = num_features % EDGEFL_LANES != 0;
    for (size_t quarter = 0; quarter < QUARTERS; quarter++) {
        const size_t first = quarter * VECTOR;
        const float *x[ROWS];
        const float *w[CLASSES];
        float32x4_t a[CLASSES][ROWS];
        EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) { x[e] = rows[e] + first; }
        EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
            w[k] = kernel + k * stride + first;
            EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) { a[k][e] = vdupq_n_f32(0.0f); }
        }
        EDGEFL_UNROLL_BY(4) for (size_t left = num_features / EDGEFL_LANES; left > 0; left--) {
            float32x4_t u[ROWS];
            EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) {
                u[e] = vld1q_f32(x[e]);
                x[e] += EDGEFL_LANES;
                KEEP_POINTER(x[e]);
            }
            EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
                const float32x4_t v = vld1q_f32(w[k]);
                w[k] += EDGEFL_LANES;
                KEEP_POINTER(w[k]);
                EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) { a[k][e] = vfmaq_f32(a[k][e], v, u[e]); }
            }
        }
        EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
            EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) {
                sums[k][quarter][e] = a[k][e];
                if (has_tail) {
                    sums[k][quarter][e] = vfmaq_f32(a[k][e], vld1q_f32(w[k]), vld1q_f32(tails[e] + first));
                }
            }
        }
    }
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        scatter4(logits + k, num_classes, vaddq_f32(tree4(sums[k]), vdupq_n_f32(bias[k])));
    }
}

/* Logits of one row, where there are no four. */
EDGEFL_INLINE void logits_of_row(const float *row, const float *tail, size_t num_features, const float *kernel,
                                 size_t stride, const float *bias, float *logits, size_t classes) {
    float32x4_t a[CLASSES][QUARTERS];
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        EDGEFL_UNROLL for (size_t q = 0; q < QUARTERS; q++) { a[k][q] = vdupq_n_f32(0.0f); }
    }
    for (size_t f = 0; f < num_features; f += EDGEFL_LANES) {
        const float *x = f + EDGEFL_LANES <= num_features ? row + f : tail;
        EDGEFL_UNROLL for (size_t q = 0; q < QUARTERS; q++) {
            const float32x4_t u = vld1q_f32(x + q * VECTOR);
            EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
                a[k][q] = vfmaq_f32(a[k][q], vld1q_f32(kernel + k * stride + f + q * VECTOR), u);
            }
        }
    }
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        const float32x4_t t = vaddq_f32(vaddq_f32(a[k][0], a[k][2]), vaddq_f32(a[k][1], a[k][3]));
        const float32x2_t d = vadd_f32(vget_low_f32(t), vget_high_f32(t));
        logits[k] = (vget_lane_f32(d, 0) + vget_lane_f32(d, 1)) + bias[k];
    }
}

/* Each row, `classes` classes: fours of rows, of which the last may overlap the one before and write the same again. */
EDGEFL_INLINE void logits_of_classes(const float *const *rows, const float *const *tails, size_t num_rows,
                                     size_t num_features, const float *kernel, size_t stride, const float *bias,
                                     size_t num_classes, float *logits, size_t classes) {
    for (size_t i = 0; num_rows < ROWS && i < num_rows; i++) {
        logits_of_row(rows[i], tails[i], num_features, kernel, stride, bias, logits + i * num_classes, classes);
    }
    for (size_t done = 0; num_rows >= ROWS && done < num_rows; done += ROWS) {
        const size_t i = num_rows - done < ROWS ? num_rows - ROWS : done;
        logits_block(rows + i, tails + i, num_features, kernel, stride, bias, num_classes, logits + i * num_classes,
                     classes);
    }
}

/* CASE(number of classes), a constant: a full block, or what is left. */
#define FOR_CLASSES(left, CASE) \
    switch (left) {             \
        case 1:                 \
            CASE(1);            \
            break;              \
        case 2:                 \
            CASE(2);            \
            break;              \
        case 3:                 \
            CASE(3);            \
            break;              \
        case 4:                 \
            CASE(4);            \
            break;              \
        default:                \
            CASE(5);            \
            break;              \
    }

static void neon64_logits(const float *const *rows, size_t num_rows, size_t num_features, const float *kernel,
                          size_t stride, const float *bias, size_t num_classes, float *logits) {
    struct tails tails;
    tails_take(&tails, rows, num_rows, num_features);
    /* Classes outside: five rows of the kernel stay in the first cache while the tile goes by. */
    for (size_t c = 0; c < num_classes; c += CLASSES) {
        const float *w = kernel + c * stride;
#define CASE(classes) \
    logits_of_classes(rows, tails.rows, num_rows, num_features, w, stride, bias + c, num_classes, logits + c, classes)
        FOR_CLASSES(num_classes - c, CASE)
#undef CASE
    }
}

/* Four coefficients, and the pointer moved to the next row by the same instruction, which compilers do not find. */
EDGEFL_INLINE float32x4_t load_and_step(const float **p, size_t step_bytes) {
    float32x4_t v;
    __asm__("ld1 {%0.4s}, [%1], %2" : "=w"(v), "+r"(*p) : "r"(step_bytes), "m"(*(const float (*)[4]) * p));
    return v;
}

/* sums (classes, 16 features) += coefficients * rows; then flush, if asked for. */
EDGEFL_INLINE void outer_block(const float *const *rows, size_t first, size_t num_rows, const float *coefficients,
                               size_t num_classes, float *sums, size_t stride, bool flushes, size_t classes) {
    float32x4_t a[CLASSES][QUARTERS];
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        EDGEFL_UNROLL for (size_t q = 0; q < QUARTERS; q++) { a[k][q] = vld1q_f32(sums + k * stride + q * VECTOR); }
    }
    const size_t step = num_classes * sizeof(float);
    EDGEFL_UNROLL_BY(4) for (size_t i = 0; i < num_rows; i++) {
        const float32x4x4_t u = vld1q_f32_x4(rows[i] + first);
        if (classes == CLASSES) {
            const float32x4_t last = vld1q_dup_f32(coefficients + 4);
            const float32x4_t g = load_and_step(&coefficients, step);
            EDGEFL_UNROLL for (size_t q = 0; q < QUARTERS; q++) {
                a[0][q] = vfmaq_laneq_f32(a[0][q], u.val[q], g, 0);
                a[1][q] = vfmaq_laneq_f32(a[1][q], u.val[q], g, 1);
                a[2][q] = vfmaq_laneq_f32(a[2][q], u.val[q], g, 2);
                a[3][q] = vfmaq_laneq_f32(a[3][q], u.val[q], g, 3);
                a[4][q] = vfmaq_f32(a[4][q], u.val[q], last);
            }
        } else {
            EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
                const float32x4_t g = vld1q_dup_f32(coefficients + k);
                EDGEFL_UNROLL for (size_t q = 0; q < QUARTERS; q++) { a[k][q] = vfmaq_f32(a[k][q], u.val[q], g); }
            }
            coefficients += num_classes;
        }
    }
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        EDGEFL_UNROLL for (size_t q = 0; q < QUARTERS; q++) {
            vst1q_f32(sums + k * stride + q * VECTOR, flushes ? flush4(a[k][q]) : a[k][q]);
        }
    }
}

/* All classes, 16 features: the rows' 16 features stay in the first cache from one group of classes to the next. */
static void outer_column(const float *const *rows, size_t first, size_t num_rows, const float *coefficients,
                         size_t num_classes, float *sums, size_t stride, bool flushes) {
    for (size_t c = 0; c < num_classes; c += CLASSES) {
        float *s = sums + c * stride;
#define CASE(classes) outer_block(rows, first, num_rows, coefficients + c, num_classes, s, stride, flushes, classes)
        FOR_CLASSES(num_classes - c, CASE)
#undef CASE
    }
}

static void outer(const float *const *rows, size_t num_rows, size_t num_features, const float *coefficients,
                  size_t num_classes, float *sums, size_t stride, bool flushes) {
    size_t f = 0;
    for (; f + EDGEFL_LANES <= num_features; f += EDGEFL_LANES) {
        outer_column(rows, f, num_rows, coefficients, num_classes, sums + f, stride, flushes);
    }
    if (f < num_features) {
        struct tails tails;
        tails_take(&tails, rows, num_rows, num_features);
        outer_column(tails.rows, 0, num_rows, coefficients, num_classes, sums + f, stride, flushes);
        clear_padding(sums, stride, num_features, num_classes);
    }
}

static void neon64_add_outer(const float *const *rows, size_t num_rows, size_t num_features, const float *coefficients,
                             size_t num_classes, float *sums, size_t stride) {
    outer(rows, num_rows, num_features, coefficients, num_classes, sums, stride, false);
}

static void neon64_add_outer_and_flush(const float *const *rows, size_t num_rows, size_t num_features,
                                       const float *coefficients, size_t num_classes, float *sums, size_t stride,
                                       const edgefl_upcoming *next) {
    (void)next; /* rows are read from end to end, which these CPUs' own prefetchers follow */
    outer(rows, num_rows, num_features, coefficients, num_classes, sums, stride, true);
}

static const edgefl_variant neon64_variant = {
    .name = "neon64",
    .first_bad_feature = neon_first_bad_feature,
    .logits = neon64_logits,
    .softmax = neon_softmax,
    .output_gradient = neon_output_gradient,
    .add_outer = neon64_add_outer,
    .flush = neon_flush,
    .add_scaled = neon_add_scaled,
    .add_stored = neon_add_stored,
    .add_scaled_difference = neon_add_scaled_difference,
    .add_momentum = neon_add_momentum,
    .descend = neon_descend,
    .accumulate = scalar_accumulate,
    .add_outer_and_flush = neon64_add_outer_and_flush,
    .load_uint8 = neon_load_uint8,
    .load_int8 = neon_load_int8,
};

const edgefl_variant *edgefl_variant_neon64(void) { return &neon64_variant; }
#elif defined(__aarch64__)
const edgefl_variant *edgefl_variant_neon64(void) { return NULL; }
#else
typedef int edgefl_neon64_is_for_aarch64; /* C forbids an empty file */
#endif
