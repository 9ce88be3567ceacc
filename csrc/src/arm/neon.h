/* What neon64 and neon32 share, with neon_softmax.h: everything but the two products with the kernel. The arithmetic is
 * that of scalar_body.h, four examples or four neighbours in the lanes; remainders of fewer than four go through
 * scalar_body.h itself, with the CPU's fused multiply-add.
 *
 * NEON of ARMv7 flushes subnormals and has no correctly rounded division. The first cannot show, because no value here
 * is subnormal (numeric.h's limits); the second is why divide_row differs by architecture. */
#ifndef EDGEFL_ARM_NEON_H
#define EDGEFL_ARM_NEON_H

#include <arm_neon.h>

#define EDGEFL_FMA_HARDWARE 1
#include "../scalar_body.h"

#define EDGEFL_INLINE static inline __attribute__((always_inline))
/* EDGEFL_UNROLL unrolls a loop with a constant count wholly, so that arrays of vectors become registers. */
#define EDGEFL_PRAGMA(text) _Pragma(#text)
#if defined(__clang__)
#define EDGEFL_UNROLL EDGEFL_PRAGMA(clang loop unroll(full))
#define EDGEFL_UNROLL_BY(times) EDGEFL_PRAGMA(clang loop unroll_count(times))
#else
#define EDGEFL_UNROLL EDGEFL_PRAGMA(GCC unroll 20)
#define EDGEFL_UNROLL_BY(times) EDGEFL_PRAGMA(GCC unroll times)
#endif

/* Floats of one vector. */
#define VECTOR 4u

/* As many neighbours as one instruction loads. */
#if defined(__aarch64__)
#define BLOCK 16u
typedef float32x4x4_t block;
EDGEFL_INLINE block load_block(const float *from) { return vld1q_f32_x4(from); }
EDGEFL_INLINE void store_block(float *to, block v) { vst1q_f32_x4(to, v); }
#else
#define BLOCK 8u
typedef float32x4x2_t block;
#if defined(__clang__)
/* clang 14's vld1q_f32_x2 asks for an alignment of 32 bytes. */
EDGEFL_INLINE block load_block(const float *from) {
    const block v = {{vld1q_f32(from), vld1q_f32(from + VECTOR)}};
    return v;
}
EDGEFL_INLINE void store_block(float *to, block v) {
    vst1q_f32(to, v.val[0]);
    vst1q_f32(to + VECTOR, v.val[1]);
}
#else
/* gcc 12 lacks vld1q_f32_x2 for ARMv7. */
EDGEFL_INLINE block load_block(const float *from) {
    block v;
    __asm__("vld1.32 %h0, [%1]" : "=w"(v) : "r"(from), "m"(*(const float (*)[BLOCK])from));
    return v;
}
EDGEFL_INLINE void store_block(float *to, block v) {
    __asm__("vst1.32 %h1, [%2]" : "=m"(*(float (*)[BLOCK])to) : "w"(v), "r"(to));
}
#endif
#endif

/* |a| < |b| */
EDGEFL_INLINE uint32x4_t smaller_magnitude(float32x4_t a, float32x4_t b) {
#if defined(__aarch64__)
    /* vcaltq_f32 is this one instruction, but gcc 12 makes two of it when b is a constant. */
    uint32x4_t smaller;
    __asm__("facgt %0.4s, %1.4s, %2.4s" : "=w"(smaller) : "w"(b), "w"(a));
    return smaller;
#else
    return vcaltq_f32(a, b);
#endif
}

EDGEFL_INLINE float32x4_t flush4(float32x4_t v) {
    /* Not "at least": a NaN stays. */
    const uint32x4_t small = smaller_magnitude(v, vdupq_n_f32(EDGEFL_STORED_MIN_MAGNITUDE));
    return vreinterpretq_f32_u32(vbicq_u32(vreinterpretq_u32_f32(v), small));
}

EDGEFL_INLINE void scatter4(float *z, size_t step, float32x4_t v) {
    vst1q_lane_f32(z, v, 0);
    vst1q_lane_f32(z + step, v, 1);
    vst1q_lane_f32(z + 2 * step, v, 2);
    vst1q_lane_f32(z + 3 * step, v, 3);
}

/* ---- element by element: four neighbours in the lanes --------------------------------------------------------------
 */

static void scale_and_flush(float *values, float factor, size_t n) {
    const float32x4_t factors = vdupq_n_f32(factor);
    size_t j = 0;
    for (; j + VECTOR <= n; j += VECTOR) {
        vst1q_f32(values + j, flush4(vmulq_f32(vld1q_f32(values + j), factors)));
    }
    for (; j < n; j++) {
        values[j] = flush(values[j] * factor);
    }
}

static void neon_output_gradient(float *values, size_t num_rows, size_t num_classes, const int32_t *labels,
                                 float factor, const float *weights) {
    for (size_t i = 0; i < num_rows; i++) {
        values[i * num_classes + (size_t)labels[i]] -= 1.0f;
    }
    scale_and_flush(values, factor, num_rows * num_classes);
    for (size_t i = 0; weights && i < num_rows; i++) {
        scale_and_flush(values + i * num_classes, weights[i], num_classes);
    }
}

static size_t neon_first_bad_feature(const float *values, size_t n) {
    /* Twice the bits drops the sign. Minus 1, zero becomes the largest number, so that one minimum finds what is below
     * 2^-30 and not 0, and one maximum what is not finite. */
    const uint32x4_t one = vdupq_n_u32(1);
    uint32x4_t smallest = vdupq_n_u32(UINT32_MAX);
    uint32x4_t largest = vdupq_n_u32(0);
    size_t j = 0;
    for (; j + BLOCK <= n; j += BLOCK) {
        const block v = load_block(values + j);
        EDGEFL_UNROLL for (size_t k = 0; k < BLOCK / VECTOR; k++) {
            const uint32x4_t magnitude = vshlq_n_u32(vreinterpretq_u32_f32(v.val[k]), 1);
            smallest = vminq_u32(smallest, vsubq_u32(magnitude, one));
            largest = vmaxq_u32(largest, magnitude);
        }
    }
    const uint32x4_t bad = vorrq_u32(vcltq_u32(smallest, vdupq_n_u32(2 * 0x30800000u - 1)),
                                     vcgeq_u32(largest, vdupq_n_u32(2 * 0x7f800000u)));
    uint32_t lanes[VECTOR];
    vst1q_u32(lanes, bad);
    const size_t from = (lanes[0] | lanes[1] | lanes[2] | lanes[3]) != 0 ? 0 : j;
    return from + scalar_variant.first_bad_feature(values + from, n - from);
}

static void neon_flush(float *values, size_t n) {
    _Pragma("GCC unroll 2") for (size_t left = n / BLOCK; left > 0; left--) {
        block v = load_block(values);
        EDGEFL_UNROLL for (size_t k = 0; k < BLOCK / VECTOR; k++) { v.val[k] = flush4(v.val[k]); }
        store_block(values, v);
        values += BLOCK;
    }
    scalar_variant.flush(values, n % BLOCK);
}

static void neon_add_scaled(float *sums, float factor, const float *values, size_t n) {
    const float32x4_t factors = vdupq_n_f32(factor);
    size_t j = 0;
    for (; j + VECTOR <= n; j += VECTOR) {
        vst1q_f32(sums + j, vfmaq_f32(vld1q_f32(sums + j), factors, vld1q_f32(values + j)));
    }
    scalar_variant.add_scaled(sums + j, factor, values + j, n - j);
}

static void neon_add_stored(float *sums, const float *values, size_t n) {
    size_t j = 0;
    for (; j + VECTOR <= n; j += VECTOR) {
        vst1q_f32(sums + j, vaddq_f32(vld1q_f32(sums + j), flush4(vld1q_f32(values + j))));
    }
    scalar_variant.add_stored(sums + j, values + j, n - j);
}

static void neon_add_scaled_difference(float *sums, float factor, const float *values, const float *origin, size_t n) {
    const float32x4_t factors = vdupq_n_f32(factor);
    size_t j = 0;
    for (; j + VECTOR <= n; j += VECTOR) {
        const float32x4_t difference = vsubq_f32(vld1q_f32(values + j), flush4(vld1q_f32(origin + j)));
        vst1q_f32(sums + j, vfmaq_f32(vld1q_f32(sums + j), factors, difference));
    }
    scalar_variant.add_scaled_difference(sums + j, factor, values + j, origin + j, n - j);
}

static void neon_add_momentum(float *velocity, float momentum, const float *gradient, size_t n) {
    const float32x4_t factors = vdupq_n_f32(momentum);
    size_t j = 0;
    for (; j + VECTOR <= n; j += VECTOR) {
        const float32x4_t v = vfmaq_f32(vld1q_f32(gradient + j), factors, vld1q_f32(velocity + j));
        vst1q_f32(velocity + j, flush4(v));
    }
    scalar_variant.add_momentum(velocity + j, momentum, gradient + j, n - j);
}

static void neon_descend(float *weights, float rate, const float *direction, size_t n) {
    const float32x4_t factors = vdupq_n_f32(-rate);
    size_t j = 0;
    for (; j + VECTOR <= n; j += VECTOR) {
        const float32x4_t w = vfmaq_f32(vld1q_f32(weights + j), factors, vld1q_f32(direction + j));
        vst1q_f32(weights + j, flush4(w));
    }
    scalar_variant.descend(weights + j, rate, direction + j, n - j);
}

EDGEFL_INLINE void store_scaled(float *values, int16x8_t stored, float32x4_t scales, int16x8_t zero_points) {
    const int16x8_t shifted = vsubq_s16(stored, zero_points);
    const float32x4_t low = vcvtq_f32_s32(vmovl_s16(vget_low_s16(shifted)));
    const float32x4_t high = vcvtq_f32_s32(vmovl_s16(vget_high_s16(shifted)));
    vst1q_f32(values, vmulq_f32(scales, low));
    vst1q_f32(values + VECTOR, vmulq_f32(scales, high));
}

static void neon_load_uint8(float *values, const uint8_t *stored, size_t n, float scale, int32_t zero_point) {
    const int16x8_t zero_points = vdupq_n_s16((int16_t)zero_point); /* [-128, 255] */
    const float32x4_t scales = vdupq_n_f32(scale);
    size_t j = 0;
    for (; j + 8 <= n; j += 8) {
        store_scaled(values + j, vreinterpretq_s16_u16(vmovl_u8(vld1_u8(stored + j))), scales, zero_points);
    }
    scalar_variant.load_uint8(values + j, stored + j, n - j, scale, zero_point);
}

static void neon_load_int8(float *values, const int8_t *stored, size_t n, float scale, int32_t zero_point) {
    const int16x8_t zero_points = vdupq_n_s16((int16_t)zero_point);
    const float32x4_t scales = vdupq_n_f32(scale);
    size_t j = 0;
    for (; j + 8 <= n; j += 8) {
        store_scaled(values + j, vmovl_s8(vld1_s8(stored + j)), scales, zero_points);
    }
    scalar_variant.load_int8(values + j, stored + j, n - j, scale, zero_point);
}

/* ---- the last features of rows that are not padded -----------------------------------------------------------------
 */

/* The last num_features mod 16 features of each row, followed by +0. A product with the kernel's padding adds +0 to a
 * lane, and no lane is -0 (it starts at +0 and nothing underflows): the bits stay. */
struct tails {
    float values[EDGEFL_TILE_ROWS][EDGEFL_LANES];
    const float *rows[EDGEFL_TILE_ROWS];
};

static void tails_take(struct tails *tails, const float *const *rows, size_t num_rows, size_t num_features) {
    const size_t whole = num_features / EDGEFL_LANES * EDGEFL_LANES;
    for (size_t i = 0; i < num_rows; i++) {
        tails->rows[i] = tails->values[i];
        if (whole < num_features) {
            memset(tails->values[i], 0, sizeof tails->values[i]);
            memcpy(tails->values[i], rows[i] + whole, (num_features - whole) * sizeof(float));
        }
    }
}

/* An overflowed coefficient makes NaNs of the padding's zeros. */
static void clear_padding(float *sums, size_t stride, size_t num_features, size_t num_classes) {
    for (size_t c = 0; num_features < stride && c < num_classes; c++) {
        memset(sums + c * stride + num_features, 0, (stride - num_features) * sizeof(float));
    }
}

#endif
