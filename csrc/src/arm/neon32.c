/* neon32: ARMv7 with NEON and VFPv4, 16 vector registers, and no fused multiply-add by one lane of a vector.
 *
 * They are offered when the kernel says that this CPU is one. gcc compiles them for such a CPU whatever the build's own
 * flags, so that a build for plain armhf gets them too; clang, whose arm_neon.h refuses that, needs
 * -mfpu=neon-vfpv4. */
#if defined(__arm__) && !defined(EDGEFL_SOFTWARE_FMA)
#if defined(__GNUC__) && !defined(__clang__) && (!defined(__ARM_NEON) || !defined(__ARM_FEATURE_FMA))
#pragma GCC target("arch=armv7-a,fpu=neon-vfpv4")
#endif
#endif

#include "../variant.h"

#if defined(__arm__) && !defined(EDGEFL_SOFTWARE_FMA) && defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#include <asm/hwcap.h>
#include <sys/auxv.h>

#include "neon.h"
#include "neon_softmax.h"

/* Forward: 2 x 5 sums, 2 vectors of rows and 1 of the kernel. Backward: 5 x 2 sums, 2 vectors of a row and 2 of
 * coefficients. */
#define ROWS 2u
#define CLASSES 5u
#define QUARTERS 4u /* vectors of the 16 lanes */

/* Four floats, and the pointer moved by step bytes by the same instruction, which compilers do not find. */
EDGEFL_INLINE float32x4_t load_and_step(const float **p, size_t step_bytes) {
    float32x4_t v;
    __asm__("vld1.32 {%e0-%f0}, [%1], %2" : "=w"(v), "+r"(*p) : "r"(step_bytes), "m"(*(const float (*)[4]) * p));
    return v;
}

/* The same with the pointer moved past them. */
EDGEFL_INLINE float32x4_t load_next(const float **p) {
    float32x4_t v;
    __asm__("vld1.32 {%e0-%f0}, [%1]!" : "=w"(v), "+r"(*p) : "m"(*(const float (*)[4]) * p));
    return v;
}

EDGEFL_INLINE block load_next_block(const float **p) {
    block v;
#if defined(__clang__)
    v = load_block(*p);
    *p += BLOCK;
#else
    __asm__("vld1.32 %h0, [%1]!" : "=w"(v), "+r"(*p) : "m"(*(const float (*)[BLOCK]) * p));
#endif
    return v;
}

/* A class's sums of two rows, each by its four quarters, become the two sums of its lanes. */
EDGEFL_INLINE float32x2_t tree2(float32x4_t quarters[QUARTERS][ROWS]) {
    float32x2_t d[ROWS];
    EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) {
        const float32x4_t t =
            vaddq_f32(vaddq_f32(quarters[0][e], quarters[2][e]), vaddq_f32(quarters[1][e], quarters[3][e]));
        d[e] = vadd_f32(vget_low_f32(t), vget_high_f32(t));
    }
    return vpadd_f32(d[0], d[1]);
}

/* Logits of two rows and of `classes` classes, a constant: one pass over the features for each quarter of the lanes,
 * because all 40 sums do not fit in the registers. The two rows may be one. */
EDGEFL_INLINE void logits_block(const float *const rows[ROWS], const float *const tails[ROWS], size_t num_features,
                                const float *kernel, size_t stride, const float *bias, float *const logits[ROWS],
                                size_t classes) {
    float32x4_t sums[CLASSES][QUARTERS][ROWS];
    const bool has_tail = num_features % EDGEFL_LANES != 0;
    const size_t step = EDGEFL_LANES * sizeof(float);
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
        EDGEFL_UNROLL_BY(2) for (size_t left = num_features / EDGEFL_LANES; left > 0; left--) {
            float32x4_t u[ROWS];
            EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) { u[e] = load_and_step(&x[e], step); }
            EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
                const float32x4_t v = load_and_step(&w[k], step);
                EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) { a[k][e] = vfmaq_f32(a[k][e], v, u[e]); }
            }
        }
        EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
            EDGEFL_UNROLL for (size_t e = 0; e < ROWS; e++) {
                if (has_tail) {
                    a[k][e] = vfmaq_f32(a[k][e], vld1q_f32(w[k]), vld1q_f32(tails[e] + first));
                }
                sums[k][quarter][e] = a[k][e];
            }
        }
    }
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        const float32x2_t z = vadd_f32(tree2(sums[k]), vdup_n_f32(bias[k]));
        vst1_lane_f32(logits[0] + k, z, 0);
        vst1_lane_f32(logits[1] + k, z, 1);
    }
}

/* One function for each number of classes, not inlined: the nine registers of its loop must not be shared. */
typedef void logits_function(const float *const rows[ROWS], const float *const tails[ROWS], size_t num_features,
                             const float *kernel, size_t stride, const float *bias, float *const logits[ROWS]);
#define LOGITS(classes)                                                                                          \
    __attribute__((noinline)) static void logits_##classes(                                                      \
        const float *const rows[ROWS], const float *const tails[ROWS], size_t num_features, const float *kernel, \
        size_t stride, const float *bias, float *const logits[ROWS]) {                                           \
        logits_block(rows, tails, num_features, kernel, stride, bias, logits, classes);                          \
    }
LOGITS(1)
LOGITS(2)
LOGITS(3)
LOGITS(4)
LOGITS(5)
static logits_function *const logits_of[CLASSES + 1] = {NULL, logits_1, logits_2, logits_3, logits_4, logits_5};

static void neon32_logits(const float *const *rows, size_t num_rows, size_t num_features, const float *kernel,
                          size_t stride, const float *bias, size_t num_classes, float *logits) {
    struct tails tails;
    tails_take(&tails, rows, num_rows, num_features);
    /* Classes outside: five rows of the kernel stay in the first cache while the tile goes by. */
    for (size_t c = 0; c < num_classes; c += CLASSES) {
        logits_function *const block_of_rows = logits_of[num_classes - c < CLASSES ? num_classes - c : CLASSES];
        for (size_t i = 0; i < num_rows; i += ROWS) {
            /* An odd last row goes with itself, and is written twice. */
            const size_t j = i + 1 < num_rows ? i + 1 : i;
            const float *const two[ROWS] = {rows[i], rows[j]};
            const float *const two_tails[ROWS] = {tails.rows[i], tails.rows[j]};
            float *const out[ROWS] = {logits + i * num_classes + c, logits + j * num_classes + c};
            block_of_rows(two, two_tails, num_features, kernel + c * stride, stride, bias + c, out);
        }
    }
}

/* Each coefficient in all four lanes of a vector, since a multiply-add takes no single lane: spread once for a tile and
 * read again for every 8 features. */
struct spread {
    float32x4_t values[EDGEFL_TILE_ROWS * CLASSES];
    size_t classes;
};

/* Groups of classes that are spread together: the rows' 8 features stay in the first cache from one to the next. */
#define GROUPS 2u

static void spread_take(struct spread *spread, size_t num_rows, const float *coefficients, size_t num_classes,
                        size_t classes) {
    spread->classes = classes;
    for (size_t i = 0; i < num_rows; i++) {
        for (size_t k = 0; k < classes; k++) {
            spread->values[i * classes + k] = vld1q_dup_f32(coefficients + i * num_classes + k);
        }
    }
}

EDGEFL_INLINE void outer_row(float32x4_t a[CLASSES][2], const float *row, const float **g, size_t classes) {
    const block u = load_block(row);
    EDGEFL_UNROLL for (size_t k = 0; k + 2 <= classes; k += 2) {
        const block two = load_next_block(g);
        EDGEFL_UNROLL for (size_t j = 0; j < 2; j++) {
            a[k + j][0] = vfmaq_f32(a[k + j][0], u.val[0], two.val[j]);
            a[k + j][1] = vfmaq_f32(a[k + j][1], u.val[1], two.val[j]);
        }
    }
    if (classes % 2 == 1) {
        const float32x4_t one = load_next(g);
        a[classes - 1][0] = vfmaq_f32(a[classes - 1][0], u.val[0], one);
        a[classes - 1][1] = vfmaq_f32(a[classes - 1][1], u.val[1], one);
    }
}

/* sums (classes, 8 features) += coefficients * rows; then flush, if asked for. */
EDGEFL_INLINE void outer_block(const float *const *rows, size_t first, size_t num_rows, const struct spread *spread,
                               float *sums, size_t stride, bool flushes, size_t classes) {
    float32x4_t a[CLASSES][2];
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        a[k][0] = vld1q_f32(sums + k * stride);
        a[k][1] = vld1q_f32(sums + k * stride + VECTOR);
    }
    const float *g = (const float *)spread->values;
    /* By hand: compilers leave this loop as it is. */
    for (size_t left = num_rows / 2; left > 0; left--) {
        outer_row(a, rows[0] + first, &g, classes);
        outer_row(a, rows[1] + first, &g, classes);
        rows += 2;
    }
    if (num_rows % 2 == 1) {
        outer_row(a, rows[0] + first, &g, classes);
    }
    EDGEFL_UNROLL for (size_t k = 0; k < classes; k++) {
        vst1q_f32(sums + k * stride, flushes ? flush4(a[k][0]) : a[k][0]);
        vst1q_f32(sums + k * stride + VECTOR, flushes ? flush4(a[k][1]) : a[k][1]);
    }
}

/* outer_block of 16 features: a cache line of each row. Not inlined, for the registers of its loop. */
typedef void outer_function(const float *const *rows, size_t first, size_t num_rows, const struct spread *spread,
                            float *sums, size_t stride, bool flushes);
#define OUTER(classes)                                                                                             \
    __attribute__((noinline)) static void outer_##classes(const float *const *rows, size_t first, size_t num_rows, \
                                                          const struct spread *spread, float *sums, size_t stride, \
                                                          bool flushes) {                                          \
        for (size_t f = 0; f < EDGEFL_LANES; f += BLOCK) {                                                         \
            outer_block(rows, first + f, num_rows, spread, sums + f, stride, flushes, classes);                    \
        }                                                                                                          \
    }
OUTER(1)
OUTER(2)
OUTER(3)
OUTER(4)
OUTER(5)
static outer_function *const outer_of[CLASSES + 1] = {NULL, outer_1, outer_2, outer_3, outer_4, outer_5};

static void outer_columns(const float *const *rows, size_t num_rows, size_t num_features, const struct spread *spreads,
                          size_t num_spreads, float *sums, size_t stride, bool flushes) {
    for (size_t f = 0; f < num_features; f += EDGEFL_LANES) {
        for (size_t s = 0; s < num_spreads; s++) {
            outer_of[spreads[s].classes](rows, f, num_rows, &spreads[s], sums + s * CLASSES * stride + f, stride,
                                         flushes);
        }
    }
}

static void outer(const float *const *rows, size_t num_rows, size_t num_features, const float *coefficients,
                  size_t num_classes, float *sums, size_t stride, bool flushes) {
    struct spread spreads[GROUPS];
    struct tails tails;
    const size_t whole = num_features / EDGEFL_LANES * EDGEFL_LANES;
    tails_take(&tails, rows, num_rows, num_features);
    for (size_t c = 0; c < num_classes;) {
        float *group_sums = sums + c * stride;
        size_t num_spreads = 0;
        for (; num_spreads < GROUPS && c < num_classes; num_spreads++) {
            const size_t classes = num_classes - c < CLASSES ? num_classes - c : CLASSES;
            spread_take(&spreads[num_spreads], num_rows, coefficients + c, num_classes, classes);
            c += classes;
        }
        outer_columns(rows, num_rows, whole, spreads, num_spreads, group_sums, stride, flushes);
        if (whole < num_features) {
            outer_columns(tails.rows, num_rows, EDGEFL_LANES, spreads, num_spreads, group_sums + whole, stride,
                          flushes);
        }
    }
    clear_padding(sums, stride, num_features, num_classes);
}

static void neon32_add_outer(const float *const *rows, size_t num_rows, size_t num_features, const float *coefficients,
                             size_t num_classes, float *sums, size_t stride) {
    outer(rows, num_rows, num_features, coefficients, num_classes, sums, stride, false);
}

static void neon32_add_outer_and_flush(const float *const *rows, size_t num_rows, size_t num_features,
                                       const float *coefficients, size_t num_classes, float *sums, size_t stride,
                                       const edgefl_upcoming *next) {
    (void)next; /* rows are read from end to end, which these CPUs' own prefetchers follow */
    outer(rows, num_rows, num_features, coefficients, num_classes, sums, stride, true);
}

static const edgefl_variant neon32_variant = {
    .name = "neon32",
    .first_bad_feature = neon_first_bad_feature,
    .logits = neon32_logits,
    .softmax = neon_softmax,
    .output_gradient = neon_output_gradient,
    .add_outer = neon32_add_outer,
    .flush = neon_flush,
    .add_scaled = neon_add_scaled,
    .add_stored = neon_add_stored,
    .add_scaled_difference = neon_add_scaled_difference,
    .add_momentum = neon_add_momentum,
    .descend = neon_descend,
    .accumulate = scalar_accumulate,
    .add_outer_and_flush = neon32_add_outer_and_flush,
    .load_uint8 = neon_load_uint8,
    .load_int8 = neon_load_int8,
};

const edgefl_variant *edgefl_variant_neon32(void) {
    const unsigned long needed = HWCAP_NEON | HWCAP_VFPv4;
    return (getauxval(AT_HWCAP) & needed) == needed ? &neon32_variant : NULL;
}
#elif defined(__arm__)
const edgefl_variant *edgefl_variant_neon32(void) { return NULL; }
#else
typedef int edgefl_neon32_is_for_armv7; /* C forbids an empty file */
#endif
