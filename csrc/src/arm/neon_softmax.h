/* The softmax of neon64 and neon32: four examples in the lanes, class by class, as in scalar_body.h. */
#ifndef EDGEFL_ARM_NEON_SOFTMAX_H
#define EDGEFL_ARM_NEON_SOFTMAX_H

#include "neon.h"

EDGEFL_INLINE float32x4_t exp4(float32x4_t x) {
    const uint32x4_t counts = vcgeq_f32(x, vdupq_n_f32(-40.0f));
    const float32x4_t rounder = vdupq_n_f32(12582912.0f);
    const float32x4_t rounded = vfmaq_f32(rounder, x, vdupq_n_f32(1.44269504f));
    const float32x4_t n = vsubq_f32(rounded, rounder);
    float32x4_t r = vfmaq_f32(x, n, vdupq_n_f32(-0.693359375f));
    r = vfmaq_f32(r, n, vdupq_n_f32(2.12194440e-4f));
    float32x4_t p = vfmaq_f32(vdupq_n_f32(1.3981999507e-3f), r, vdupq_n_f32(1.9875691500e-4f));
    p = vfmaq_f32(vdupq_n_f32(8.3334519073e-3f), p, r);
    p = vfmaq_f32(vdupq_n_f32(4.1665795894e-2f), p, r);
    p = vfmaq_f32(vdupq_n_f32(1.6666665459e-1f), p, r);
    p = vfmaq_f32(vdupq_n_f32(5.0000001201e-1f), p, r);
    p = vaddq_f32(vfmaq_f32(r, p, vmulq_f32(r, r)), vdupq_n_f32(1.0f));
    /* The low bits of `rounded` hold the integer n: (n + 127) << 23 without a conversion. */
    const uint32x4_t exponent =
        vaddq_u32(vshlq_n_u32(vreinterpretq_u32_f32(rounded), 23), vdupq_n_u32(UINT32_C(127) << 23));
    const float32x4_t e = vmulq_f32(p, vreinterpretq_f32_u32(exponent));
    return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(e), counts));
}

EDGEFL_INLINE float32x4_t log4(float32x4_t s) {
    const uint32x4_t bits = vreinterpretq_u32_f32(s);
    const float32x4_t half_to_one =
        vreinterpretq_f32_u32(vorrq_u32(vandq_u32(bits, vdupq_n_u32(0x007fffffu)), vdupq_n_u32(0x3f000000u)));
    const uint32x4_t low = vcltq_f32(half_to_one, vdupq_n_f32(0.707106781186547524f));
    const float32x4_t one = vdupq_n_f32(1.0f);
    const float32x4_t m = vsubq_f32(vbslq_f32(low, vaddq_f32(half_to_one, half_to_one), half_to_one), one);
    /* `low` is -1 where it holds. */
    const int32x4_t exponent = vaddq_s32(vsubq_s32(vreinterpretq_s32_u32(vshrq_n_u32(bits, 23)), vdupq_n_s32(126)),
                                         vreinterpretq_s32_u32(low));
    const float32x4_t k = vcvtq_f32_s32(exponent);
    const float32x4_t z = vmulq_f32(m, m);
    float32x4_t y = vfmaq_f32(vdupq_n_f32(-1.1514610310e-1f), m, vdupq_n_f32(7.0376836292e-2f));
    y = vfmaq_f32(vdupq_n_f32(1.1676998740e-1f), y, m);
    y = vfmaq_f32(vdupq_n_f32(-1.2420140846e-1f), y, m);
    y = vfmaq_f32(vdupq_n_f32(1.4249322787e-1f), y, m);
    y = vfmaq_f32(vdupq_n_f32(-1.6668057665e-1f), y, m);
    y = vfmaq_f32(vdupq_n_f32(2.0000714765e-1f), y, m);
    y = vfmaq_f32(vdupq_n_f32(-2.4999993993e-1f), y, m);
    y = vfmaq_f32(vdupq_n_f32(3.3333331174e-1f), y, m);
    y = vmulq_f32(vmulq_f32(y, m), z);
    y = vfmaq_f32(y, k, vdupq_n_f32(-2.12194440e-4f));
    y = vfmaq_f32(y, z, vdupq_n_f32(-0.5f));
    return flush4(vfmaq_f32(vaddq_f32(m, y), k, vdupq_n_f32(0.693359375f)));
}

/* ---- softmax: four examples in the lanes ---------------------------------------------------------------------------
 */

/* v[j] lane i <-> v[i] lane j. */
EDGEFL_INLINE void transpose4(float32x4_t v[4]) {
    const float32x4x2_t a = vtrnq_f32(v[0], v[1]);
    const float32x4x2_t b = vtrnq_f32(v[2], v[3]);
    v[0] = vcombine_f32(vget_low_f32(a.val[0]), vget_low_f32(b.val[0]));
    v[1] = vcombine_f32(vget_low_f32(a.val[1]), vget_low_f32(b.val[1]));
    v[2] = vcombine_f32(vget_high_f32(a.val[0]), vget_high_f32(b.val[0]));
    v[3] = vcombine_f32(vget_high_f32(a.val[1]), vget_high_f32(b.val[1]));
}

EDGEFL_INLINE float32x4_t gather4(const float *z, size_t step) {
    float32x4_t v = vdupq_n_f32(z[0]);
    v = vld1q_lane_f32(z + step, v, 1);
    v = vld1q_lane_f32(z + 2 * step, v, 2);
    return vld1q_lane_f32(z + 3 * step, v, 3);
}

EDGEFL_INLINE void gather_block(const float *z, size_t step, float32x4_t v[4]) {
    for (size_t i = 0; i < 4; i++) {
        v[i] = vld1q_f32(z + i * step);
    }
    transpose4(v);
}

EDGEFL_INLINE void scatter_block(float *z, size_t step, float32x4_t v[4]) {
    transpose4(v);
    for (size_t i = 0; i < 4; i++) {
        vst1q_f32(z + i * step, v[i]);
    }
}

struct largest {
    float32x4_t value;
    uint32x4_t class;
    uint32x4_t next;    /* the class that comes */
    float32x4_t poison; /* a NaN once a value was not finite */
};

EDGEFL_INLINE void largest_step(struct largest *l, float32x4_t z) {
    const uint32x4_t above = vcgtq_f32(z, l->value);
    l->value = vbslq_f32(above, z, l->value);
    l->class = vbslq_u32(above, l->next, l->class);
    l->next = vaddq_u32(l->next, vdupq_n_u32(1));
    l->poison = vfmaq_f32(l->poison, z, vdupq_n_f32(0.0f));
}

EDGEFL_INLINE struct largest find_largest(const float *z, size_t num_classes) {
    const uint32x4_t none = vdupq_n_u32(0);
    struct largest l = {gather4(z, num_classes), none, none, vdupq_n_f32(0.0f)};
    size_t c = 0;
    for (; c + 4 <= num_classes; c += 4) {
        float32x4_t v[4];
        gather_block(z + c, num_classes, v);
        for (size_t j = 0; j < 4; j++) {
            largest_step(&l, v[j]);
        }
    }
    for (; c < num_classes; c++) {
        largest_step(&l, gather4(z + c, num_classes));
    }
    return l;
}

/* z becomes exp(z - max); returns the sums, class by class. */
EDGEFL_INLINE float32x4_t exponentials(float *z, size_t num_classes, float32x4_t max) {
    float32x4_t sum = vdupq_n_f32(0.0f);
    size_t c = 0;
    for (; c + 4 <= num_classes; c += 4) {
        float32x4_t v[4];
        gather_block(z + c, num_classes, v);
        for (size_t j = 0; j < 4; j++) {
            v[j] = exp4(vsubq_f32(v[j], max));
            sum = vaddq_f32(sum, v[j]);
        }
        scatter_block(z + c, num_classes, v);
    }
    for (; c < num_classes; c++) {
        const float32x4_t e = exp4(vsubq_f32(gather4(z + c, num_classes), max));
        sum = vaddq_f32(sum, e);
        scatter4(z + c, num_classes, e);
    }
    return sum;
}

EDGEFL_INLINE void divide_row(float *z, size_t num_classes, float sum) {
    size_t c = 0;
#if defined(__aarch64__)
    for (; c + VECTOR <= num_classes; c += VECTOR) {
        vst1q_f32(z + c, vdivq_f32(vld1q_f32(z + c), vdupq_n_f32(sum)));
    }
#endif
    for (; c < num_classes; c++) {
        z[c] = z[c] / sum;
    }
}

/* False, with nothing changed, when a logit is not finite. */
static bool softmax_of_four(float *z, size_t num_classes, const int32_t *labels, float *loss, uint32_t *predicted) {
    const struct largest l = find_largest(z, num_classes);
    float poison[4];
    vst1q_f32(poison, l.poison);
    if (!is_finite(poison[0]) || !is_finite(poison[1]) || !is_finite(poison[2]) || !is_finite(poison[3])) {
        return false;
    }
    float of_label[4] = {0.0f};
    for (size_t i = 0; labels && i < 4; i++) {
        of_label[i] = z[i * num_classes + (size_t)labels[i]];
    }
    const float32x4_t sum = exponentials(z, num_classes, l.value);
    float sums[4];
    vst1q_f32(sums, sum);
    for (size_t i = 0; i < 4; i++) {
        divide_row(z + i * num_classes, num_classes, sums[i]);
    }
    if (labels) {
        vst1q_f32(loss, vsubq_f32(log4(sum), vsubq_f32(vld1q_f32(of_label), l.value)));
    }
    vst1q_u32(predicted, l.class);
    return true;
}

static size_t neon_softmax(float *values, size_t num_rows, size_t num_classes, const int32_t *labels, float *loss,
                           uint32_t *predicted) {
    for (size_t i = 0; i < num_rows;) {
        float *z = values + i * num_classes;
        const int32_t *row_labels = labels ? labels + i : NULL;
        float *row_loss = labels ? loss + i : NULL;
        if (num_rows - i >= 4 && softmax_of_four(z, num_classes, row_labels, row_loss, predicted + i)) {
            i += 4;
            continue;
        }
        /* The last rows, or rows of which one is bad, which this names. */
        const size_t rows = num_rows - i < 4 ? num_rows - i : 4;
        const size_t bad = scalar_variant.softmax(z, rows, num_classes, row_labels, row_loss, predicted + i);
        if (bad < rows) {
            return i + bad;
        }
        i += rows;
    }
    return num_rows;
}

#endif
