/* The check of features, and the loading of 8-bit ones: the compiler widens bytes in two steps, through 16 bits.
 * Included after vec512.h or vec256.h and elementwise_body.h. */
#include "../variant.h"

X86_TARGET static size_t x86_first_bad_feature(const float *values, size_t n) {
    const uint32_t least = float_bits(EDGEFL_MIN_MAGNITUDE);
    const uint32_t most = float_bits(FLT_MAX);
    vec_range even = vec_range_empty();
    vec_range odd = vec_range_empty();
    size_t j = 0;
    for (; j + 2 * VEC_LANES <= n; j += 2 * VEC_LANES) {
        vec_range_add(&even, vec_load(values + j));
        vec_range_add(&odd, vec_load(values + j + VEC_LANES));
    }
    for (; j < n; j += VEC_LANES) {
        vec_range_add(&even, vec_load_first(values + j, n - j < VEC_LANES ? n - j : VEC_LANES));
    }
    const bool good = vec_range_within(even, least, most) && vec_range_within(odd, least, most);
    return good ? n : scalar_first_bad_feature(values, n);
}

X86_TARGET static void x86_load_uint8(float *values, const uint8_t *stored, size_t n, float scale, int32_t zero_point) {
    const vec factor = vec_all(scale);
    size_t j = 0;
    for (; j + VEC_LANES <= n; j += VEC_LANES) {
        vec_store(values + j, vec_mul(factor, vec_load_uint8(stored + j, zero_point)));
    }
    scalar_load_uint8(values + j, stored + j, n - j, scale, zero_point);
}

X86_TARGET static void x86_load_int8(float *values, const int8_t *stored, size_t n, float scale, int32_t zero_point) {
    const vec factor = vec_all(scale);
    size_t j = 0;
    for (; j + VEC_LANES <= n; j += VEC_LANES) {
        vec_store(values + j, vec_mul(factor, vec_load_int8(stored + j, zero_point)));
    }
    scalar_load_int8(values + j, stored + j, n - j, scale, zero_point);
}
