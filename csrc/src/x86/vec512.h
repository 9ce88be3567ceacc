/* 16 lanes of binary32 in one AVX-512 register, under the names that the kernels of this folder are written in.
 * vec256.h gives the same names for AVX2; what each one means is said here. */
#ifndef EDGEFL_X86_VEC512_H
#define EDGEFL_X86_VEC512_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "../numeric.h"

/* A function asks for its instructions itself, so that no flag is needed for a file or for the build. */
#define X86_TARGET __attribute__((target("avx512f,avx512dq,avx512bw,avx512vl,avx2,fma")))
#define X86_INLINE X86_TARGET static inline __attribute__((always_inline))

typedef __m512 vec;
#define VEC_LANES 16u
/* How many vectors hold the arithmetic's 16 lanes. */
#define VEC_PARTS 1u
/* Registers allow 5 classes x 4 vectors of sums: 20 of 32, besides what is being multiplied. */
#define OUTER_VECTORS 4u

X86_INLINE vec vec_zero(void) { return _mm512_setzero_ps(); }
X86_INLINE vec vec_all(float v) { return _mm512_set1_ps(v); }
X86_INLINE vec vec_load(const float *p) { return _mm512_loadu_ps(p); }
X86_INLINE void vec_store(float *p, vec v) { _mm512_storeu_ps(p, v); }

/* The first `count` lanes, 0 to VEC_LANES; the others read as +0 and are not written. */
X86_INLINE __mmask16 vec_first(size_t count) { return (__mmask16)_cvtu32_mask16((1u << count) - 1u); }
X86_INLINE vec vec_load_first(const float *p, size_t count) { return _mm512_maskz_loadu_ps(vec_first(count), p); }
X86_INLINE void vec_store_first(float *p, size_t count, vec v) { _mm512_mask_storeu_ps(p, vec_first(count), v); }

/* VEC_LANES bytes at p, minus zero_point: exact. */
X86_INLINE vec vec_load_uint8(const void *p, int32_t zero_point) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(wide, _mm512_set1_epi32(zero_point)));
}
X86_INLINE vec vec_load_int8(const void *p, int32_t zero_point) {
    const __m512i wide = _mm512_cvtepi8_epi32(_mm_loadu_si128((const __m128i *)p));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(wide, _mm512_set1_epi32(zero_point)));
}

X86_INLINE vec vec_add(vec a, vec b) { return _mm512_add_ps(a, b); }
X86_INLINE vec vec_sub(vec a, vec b) { return _mm512_sub_ps(a, b); }
X86_INLINE vec vec_mul(vec a, vec b) { return _mm512_mul_ps(a, b); }
X86_INLINE vec vec_div(vec a, vec b) { return _mm512_div_ps(a, b); }
/* a * b + c */
X86_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm512_fmadd_ps(a, b, c); }

/* Keeps v in a register: else the compiler repeats its load, or broadcast, inside each multiply-add that uses it, and
 * the loads, not the multiply-adds, become the bound. */
#define VEC_PIN(v) __asm__("" : "+v"(v))

/* a > b ? yes : no; false for a NaN. */
X86_INLINE vec vec_if_greater(vec a, vec b, vec yes, vec no) {
    return _mm512_mask_mov_ps(no, _mm512_cmp_ps_mask(a, b, _CMP_GT_OQ), yes);
}
/* x >= bound ? v : +0; +0 for a NaN. */
X86_INLINE vec vec_zero_unless_at_least(vec v, vec x, float bound) {
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(x, _mm512_set1_ps(bound), _CMP_GE_OQ), v);
}
/* numeric.h's flush. */
X86_INLINE vec vec_flush(vec v) {
    const __m512 least = _mm512_set1_ps(EDGEFL_STORED_MIN_MAGNITUDE);
    return _mm512_maskz_mov_ps(_mm512_cmp_ps_mask(_mm512_abs_ps(v), least, _CMP_NLT_UQ), v);
}
/* A bit for each lane that is infinite or a NaN. */
X86_INLINE uint32_t vec_non_finite(vec v) {
    return _cvtmask16_u32(_mm512_cmp_ps_mask(_mm512_abs_ps(v), _mm512_set1_ps(FLT_MAX), _CMP_NLE_UQ));
}

/* 2^n for whole n in [-126, 127]. */
X86_INLINE vec vec_power_of_two(vec n) {
    const __m512i biased = _mm512_add_epi32(_mm512_cvtps_epi32(n), _mm512_set1_epi32(127));
    return _mm512_castsi512_ps(_mm512_slli_epi32(biased, 23));
}
/* v = mantissa * 2^exponent with the mantissa in [0.5, 1), for positive normal v. */
X86_INLINE vec vec_exponent(vec v) {
    const __m512i biased = _mm512_srli_epi32(_mm512_castps_si512(v), 23);
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(biased, _mm512_set1_epi32(126)));
}
X86_INLINE vec vec_mantissa(vec v) {
    const __m512i bits = _mm512_and_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x007fffff));
    return _mm512_castsi512_ps(_mm512_or_epi32(bits, _mm512_set1_epi32(0x3f000000)));
}
/* Whole numbers as uint32. */
X86_INLINE void vec_store_whole(uint32_t *p, vec v) { _mm512_storeu_si512(p, _mm512_cvtps_epi32(v)); }

/* The range of magnitudes so far, 0 left out. As integers the magnitudes are in the order of the numbers, NaNs above
 * all; one less than 0 is the largest of all. */
typedef struct vec_range {
    __m512i least_less_one;
    __m512i most;
} vec_range;
X86_INLINE vec_range vec_range_empty(void) {
    const vec_range empty = {_mm512_set1_epi32(-1), _mm512_setzero_si512()};
    return empty;
}
X86_INLINE void vec_range_add(vec_range *range, vec v) {
    const __m512i magnitude = _mm512_and_epi32(_mm512_castps_si512(v), _mm512_set1_epi32(0x7fffffff));
    const __m512i less_one = _mm512_add_epi32(magnitude, _mm512_set1_epi32(-1));
    range->least_less_one = _mm512_min_epu32(range->least_less_one, less_one);
    range->most = _mm512_max_epu32(range->most, magnitude);
}
/* Whether all magnitudes are in [least, most]. */
X86_INLINE bool vec_range_within(vec_range range, uint32_t least, uint32_t most) {
    return _mm512_reduce_min_epu32(range.least_less_one) >= least - 1 && _mm512_reduce_max_epu32(range.most) <= most;
}

/* Two of the tree's steps for VEC_LANES / 4 examples at once. parts[e] are the 16 lanes of example e; the 128-bit
 * block e of the result holds lanes 0 to 3 of its sum, after (l, l + 8) and (l, l + 4). */
X86_INLINE vec vec_quads(vec parts[4][VEC_PARTS]) {
    /* Blocks: 0, 1 of one example, then of the next; plus 2, 3 of the same. */
    const __m512 a = _mm512_add_ps(_mm512_shuffle_f32x4(parts[0][0], parts[1][0], 0x44),
                                   _mm512_shuffle_f32x4(parts[0][0], parts[1][0], 0xee));
    const __m512 b = _mm512_add_ps(_mm512_shuffle_f32x4(parts[2][0], parts[3][0], 0x44),
                                   _mm512_shuffle_f32x4(parts[2][0], parts[3][0], 0xee));
    /* The even blocks plus the odd ones. */
    return _mm512_add_ps(_mm512_shuffle_f32x4(a, b, 0x88), _mm512_shuffle_f32x4(a, b, 0xdd));
}
/* In each 128-bit block: a0 + a2, a1 + a3, b0 + b2, b1 + b3. */
X86_INLINE vec vec_add_halves(vec a, vec b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x44), _mm512_shuffle_ps(a, b, 0xee));
}
/* In each 128-bit block: a0 + a1, a2 + a3, b0 + b1, b2 + b3. */
X86_INLINE vec vec_add_neighbours(vec a, vec b) {
    return _mm512_add_ps(_mm512_shuffle_ps(a, b, 0x88), _mm512_shuffle_ps(a, b, 0xdd));
}
X86_INLINE vec vec_all_quads(__m128 v) { return _mm512_broadcast_f32x4(v); }
X86_INLINE __m128 vec_quad(vec v, const unsigned e) {
    return e == 0   ? _mm512_castps512_ps128(v)
           : e == 1 ? _mm512_extractf32x4_ps(v, 1)
           : e == 2 ? _mm512_extractf32x4_ps(v, 2)
                    : _mm512_extractf32x4_ps(v, 3);
}

/* m[i] lane j becomes m[j] lane i. */
X86_INLINE void vec_transpose(vec m[VEC_LANES]) {
    __m512 t[16];
#pragma GCC unroll 4
    for (unsigned g = 0; g < 4; g++) { /* 4 x 4 within the 128-bit blocks, of each 4 rows */
        const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(m[4 * g], m[4 * g + 1]));
        const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(m[4 * g], m[4 * g + 1]));
        const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(m[4 * g + 2], m[4 * g + 3]));
        const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(m[4 * g + 2], m[4 * g + 3]));
        t[4 * g] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
        t[4 * g + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
        t[4 * g + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
        t[4 * g + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
    }
#pragma GCC unroll 4
    for (unsigned c = 0; c < 4; c++) { /* 4 x 4 of the blocks */
        const __m512 a = _mm512_shuffle_f32x4(t[c], t[4 + c], 0x88);
        const __m512 b = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0x88);
        const __m512 d = _mm512_shuffle_f32x4(t[c], t[4 + c], 0xdd);
        const __m512 e = _mm512_shuffle_f32x4(t[8 + c], t[12 + c], 0xdd);
        m[c] = _mm512_shuffle_f32x4(a, b, 0x88);
        m[4 + c] = _mm512_shuffle_f32x4(d, e, 0x88);
        m[8 + c] = _mm512_shuffle_f32x4(a, b, 0xdd);
        m[12 + c] = _mm512_shuffle_f32x4(d, e, 0xdd);
    }
}

/* Integers of 64 bits, in as many lanes as binary64 has. */
typedef __m512i longs;
#define LONGS_LANES 8u
X86_INLINE longs longs_all(uint64_t v) { return _mm512_set1_epi64((int64_t)v); }
X86_INLINE longs longs_load(const int64_t *p) { return _mm512_loadu_si512(p); }
X86_INLINE void longs_store(int64_t *p, longs v) { _mm512_storeu_si512(p, v); }
X86_INLINE longs longs_add(longs a, longs b) { return _mm512_add_epi64(a, b); }
X86_INLINE longs longs_or(longs a, longs b) { return _mm512_or_si512(a, b); }
/* The lower halves, signed, multiplied. */
X86_INLINE longs longs_mul_low(longs a, longs b) { return _mm512_mul_epi32(a, b); }
/* The bits of p[l] * scale + EDGEFL_ROUNDING_SHIFT. */
X86_INLINE longs longs_scale_and_shift(const float *p, double scale) {
    const __m512d exact = _mm512_mul_pd(_mm512_cvtps_pd(_mm256_loadu_ps(p)), _mm512_set1_pd(scale));
    return _mm512_castpd_si512(_mm512_add_pd(exact, _mm512_set1_pd(EDGEFL_ROUNDING_SHIFT)));
}
/* All lanes or-ed. */
X86_INLINE uint64_t longs_or_all(longs v) {
    int64_t lanes[LONGS_LANES];
    longs_store(lanes, v);
    int64_t all = 0;
    for (size_t l = 0; l < LONGS_LANES; l++) {
        all |= lanes[l];
    }
    return (uint64_t)all;
}

#endif
