/* 8 lanes of binary32 in one AVX register: the names of vec512.h, where they are explained, for AVX2 and FMA. */
#ifndef EDGEFL_X86_VEC256_H
#define EDGEFL_X86_VEC256_H

#include <immintrin.h>
#include <stddef.h>
#include <stdint.h>

#include "../numeric.h"

#define X86_TARGET __attribute__((target("avx2,fma")))
#define X86_INLINE X86_TARGET static inline __attribute__((always_inline))

typedef __m256 vec;
#define VEC_LANES 8u
#define VEC_PARTS 2u
/* 5 classes x 2 vectors of sums: 10 of 16 registers. */
#define OUTER_VECTORS 2u

X86_INLINE vec vec_zero(void) { return _mm256_setzero_ps(); }
X86_INLINE vec vec_all(float v) { return _mm256_set1_ps(v); }
X86_INLINE vec vec_load(const float *p) { return _mm256_loadu_ps(p); }
X86_INLINE void vec_store(float *p, vec v) { _mm256_storeu_ps(p, v); }

X86_INLINE __m256i vec_first(size_t count) {
    static const int32_t ones_then_zeros[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
    return _mm256_loadu_si256((const __m256i *)(const void *)(ones_then_zeros + 8 - count));
}
X86_INLINE vec vec_load_first(const float *p, size_t count) { return _mm256_maskload_ps(p, vec_first(count)); }
X86_INLINE void vec_store_first(float *p, size_t count, vec v) { _mm256_maskstore_ps(p, vec_first(count), v); }

X86_INLINE vec vec_load_uint8(const void *p, int32_t zero_point) {
    const __m256i wide = _mm256_cvtepu8_epi32(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, _mm256_set1_epi32(zero_point)));
}
X86_INLINE vec vec_load_int8(const void *p, int32_t zero_point) {
    const __m256i wide = _mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)p));
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(wide, _mm256_set1_epi32(zero_point)));
}

X86_INLINE vec vec_add(vec a, vec b) { return _mm256_add_ps(a, b); }
X86_INLINE vec vec_sub(vec a, vec b) { return _mm256_sub_ps(a, b); }
X86_INLINE vec vec_mul(vec a, vec b) { return _mm256_mul_ps(a, b); }
X86_INLINE vec vec_div(vec a, vec b) { return _mm256_div_ps(a, b); }
X86_INLINE vec vec_fma(vec a, vec b, vec c) { return _mm256_fmadd_ps(a, b, c); }
#define VEC_PIN(v) __asm__("" : "+x"(v))

X86_INLINE vec vec_magnitude(vec v) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), v); }
X86_INLINE vec vec_if_greater(vec a, vec b, vec yes, vec no) {
    return _mm256_blendv_ps(no, yes, _mm256_cmp_ps(a, b, _CMP_GT_OQ));
}
X86_INLINE vec vec_zero_unless_at_least(vec v, vec x, float bound) {
    return _mm256_and_ps(_mm256_cmp_ps(x, _mm256_set1_ps(bound), _CMP_GE_OQ), v);
}
X86_INLINE vec vec_flush(vec v) {
    const __m256 least = _mm256_set1_ps(EDGEFL_STORED_MIN_MAGNITUDE);
    return _mm256_and_ps(_mm256_cmp_ps(vec_magnitude(v), least, _CMP_NLT_UQ), v);
}
X86_INLINE uint32_t vec_non_finite(vec v) {
    return (uint32_t)_mm256_movemask_ps(_mm256_cmp_ps(vec_magnitude(v), _mm256_set1_ps(FLT_MAX), _CMP_NLE_UQ));
}

X86_INLINE vec vec_power_of_two(vec n) {
    const __m256i biased = _mm256_add_epi32(_mm256_cvtps_epi32(n), _mm256_set1_epi32(127));
    return _mm256_castsi256_ps(_mm256_slli_epi32(biased, 23));
}
X86_INLINE vec vec_exponent(vec v) {
    const __m256i biased = _mm256_srli_epi32(_mm256_castps_si256(v), 23);
    return _mm256_cvtepi32_ps(_mm256_sub_epi32(biased, _mm256_set1_epi32(126)));
}
X86_INLINE vec vec_mantissa(vec v) {
    const __m256i bits = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x007fffff));
    return _mm256_castsi256_ps(_mm256_or_si256(bits, _mm256_set1_epi32(0x3f000000)));
}
X86_INLINE void vec_store_whole(uint32_t *p, vec v) {
    _mm256_storeu_si256((__m256i *)(void *)p, _mm256_cvtps_epi32(v));
}

typedef struct vec_range {
    __m256i least_less_one;
    __m256i most;
} vec_range;
X86_INLINE vec_range vec_range_empty(void) {
    const vec_range empty = {_mm256_set1_epi32(-1), _mm256_setzero_si256()};
    return empty;
}
X86_INLINE void vec_range_add(vec_range *range, vec v) {
    const __m256i magnitude = _mm256_and_si256(_mm256_castps_si256(v), _mm256_set1_epi32(0x7fffffff));
    const __m256i less_one = _mm256_add_epi32(magnitude, _mm256_set1_epi32(-1));
    range->least_less_one = _mm256_min_epu32(range->least_less_one, less_one);
    range->most = _mm256_max_epu32(range->most, magnitude);
}
X86_INLINE bool vec_range_within(vec_range range, uint32_t least, uint32_t most) {
    uint32_t small[8];
    uint32_t large[8];
    _mm256_storeu_si256((__m256i *)(void *)small, range.least_less_one);
    _mm256_storeu_si256((__m256i *)(void *)large, range.most);
    bool within = true;
    for (size_t l = 0; l < 8; l++) {
        within = within && small[l] >= least - 1 && large[l] <= most;
    }
    return within;
}

X86_INLINE vec vec_quads(vec parts[2][VEC_PARTS]) {
    const __m256 a = _mm256_add_ps(parts[0][0], parts[0][1]);
    const __m256 b = _mm256_add_ps(parts[1][0], parts[1][1]);
    return _mm256_add_ps(_mm256_permute2f128_ps(a, b, 0x20), _mm256_permute2f128_ps(a, b, 0x31));
}
X86_INLINE vec vec_add_halves(vec a, vec b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x44), _mm256_shuffle_ps(a, b, 0xee));
}
X86_INLINE vec vec_add_neighbours(vec a, vec b) {
    return _mm256_add_ps(_mm256_shuffle_ps(a, b, 0x88), _mm256_shuffle_ps(a, b, 0xdd));
}
X86_INLINE vec vec_all_quads(__m128 v) { return _mm256_broadcast_ps(&v); }
X86_INLINE __m128 vec_quad(vec v, const unsigned e) {
    return e == 0 ? _mm256_castps256_ps128(v) : _mm256_extractf128_ps(v, 1);
}

X86_INLINE void vec_transpose(vec m[VEC_LANES]) {
    __m256 t[8];
#pragma GCC unroll 2
    for (unsigned g = 0; g < 2; g++) {
        const __m256d a = _mm256_castps_pd(_mm256_unpacklo_ps(m[4 * g], m[4 * g + 1]));
        const __m256d b = _mm256_castps_pd(_mm256_unpackhi_ps(m[4 * g], m[4 * g + 1]));
        const __m256d c = _mm256_castps_pd(_mm256_unpacklo_ps(m[4 * g + 2], m[4 * g + 3]));
        const __m256d d = _mm256_castps_pd(_mm256_unpackhi_ps(m[4 * g + 2], m[4 * g + 3]));
        t[4 * g] = _mm256_castpd_ps(_mm256_unpacklo_pd(a, c));
        t[4 * g + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(a, c));
        t[4 * g + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(b, d));
        t[4 * g + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(b, d));
    }
#pragma GCC unroll 4
    for (unsigned c = 0; c < 4; c++) {
        m[c] = _mm256_permute2f128_ps(t[c], t[4 + c], 0x20);
        m[4 + c] = _mm256_permute2f128_ps(t[c], t[4 + c], 0x31);
    }
}

typedef __m256i longs;
#define LONGS_LANES 4u
X86_INLINE longs longs_all(uint64_t v) { return _mm256_set1_epi64x((int64_t)v); }
X86_INLINE longs longs_load(const int64_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }
X86_INLINE void longs_store(int64_t *p, longs v) { _mm256_storeu_si256((__m256i *)(void *)p, v); }
X86_INLINE longs longs_add(longs a, longs b) { return _mm256_add_epi64(a, b); }
X86_INLINE longs longs_or(longs a, longs b) { return _mm256_or_si256(a, b); }
X86_INLINE longs longs_mul_low(longs a, longs b) { return _mm256_mul_epi32(a, b); }
X86_INLINE longs longs_scale_and_shift(const float *p, double scale) {
    const __m256d exact = _mm256_mul_pd(_mm256_cvtps_pd(_mm_loadu_ps(p)), _mm256_set1_pd(scale));
    return _mm256_castpd_si256(_mm256_add_pd(exact, _mm256_set1_pd(EDGEFL_ROUNDING_SHIFT)));
}
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
