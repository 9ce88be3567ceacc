/* The forward pass over rows that are stored in 8 bits. The first block of classes makes them float32, multiplies them
 * at once and leaves them behind for the other classes and for the backward pass. Loading alone waits for its stores, 2
 * cycles for a vector on Zen 4, while nothing is multiplied; here the multiply-adds run meanwhile. With the 8 lanes of
 * AVX2 that gained nothing. Included after vec512.h and logits_body.h. */
#include "../variant.h"

/* How bytes become whole numbers. Flipping the highest bit of an int8 adds 128, so one code does for both kinds. */
struct byte_format {
    __m128i flip;
    __m512i zero_point;
};

X86_INLINE vec vec_from_bytes(__m128i bytes, struct byte_format format) {
    const __m512i wide = _mm512_cvtepu8_epi32(_mm_xor_si128(bytes, format.flip));
    return _mm512_cvtepi32_ps(_mm512_sub_epi32(wide, format.zero_point));
}

/* The examples of a block. */
struct stored_place {
    const uint8_t *const *rows;
    float *loaded; /* (e_count, num_features) */
    struct byte_format format;
    float scale;
};

X86_INLINE void sum_stored_products(const struct logits_place *place, const struct stored_place *from,
                                    vec sums[MAX_BLOCK_CLASSES][QUADS][VEC_PARTS], const unsigned num_rows,
                                    const unsigned num_classes) {
    const float *kernel = place->kernel;
    const size_t num_features = place->num_features;
    const size_t stride = place->stride;
    const uintptr_t ahead = place->ahead;
    const struct byte_format format = from->format;
    const vec scale = vec_all(from->scale);
    float *loaded = from->loaded;
    const uint8_t *rows[QUADS];
    vec s[MAX_BLOCK_CLASSES][QUADS];
#pragma GCC unroll 4
    for (unsigned e = 0; e < QUADS; e++) {
        rows[e] = e < num_rows ? from->rows[e] : NULL;
#pragma GCC unroll 5
        for (unsigned k = 0; k < MAX_BLOCK_CLASSES; k++) {
            s[k][e] = vec_zero();
        }
    }
    size_t f = 0;
    for (; f + VEC_LANES <= num_features; f += VEC_LANES) {
        vec w[MAX_BLOCK_CLASSES]; /* in registers, so that each example can be multiplied as soon as it is converted */
#pragma GCC unroll 5
        for (unsigned k = 0; k < num_classes; k++) {
            w[k] = vec_load(kernel + k * stride + f);
            VEC_PIN(w[k]);
        }
        _mm_prefetch((const char *)(ahead + f * sizeof(float)), _MM_HINT_T1);
#pragma GCC unroll 4
        for (unsigned e = 0; e < num_rows; e++) {
            const __m128i bytes = _mm_loadu_si128((const __m128i *)(const void *)(rows[e] + f));
            vec x = vec_mul(scale, vec_from_bytes(bytes, format));
            VEC_PIN(x);
            vec_store(loaded + e * num_features + f, x);
#pragma GCC unroll 5
            for (unsigned k = 0; k < num_classes; k++) {
                s[k][e] = vec_fma(w[k], x, s[k][e]);
            }
        }
    }
    const size_t left = num_features - f;
#pragma GCC unroll 4
    for (unsigned e = 0; left > 0 && e < num_rows; e++) {
        /* The lanes past the end are finite, times the padding's 0: what they add to a sum, which is never -0, is 0. */
        const __m128i bytes = _mm_maskz_loadu_epi8(vec_first(left), rows[e] + f);
        const vec x = vec_mul(scale, vec_from_bytes(bytes, format));
        vec_store_first(loaded + e * num_features + f, left, x);
#pragma GCC unroll 5
        for (unsigned k = 0; k < num_classes; k++) {
            s[k][e] = vec_fma(vec_load(kernel + k * stride + f), x, s[k][e]);
        }
    }
#pragma GCC unroll 4
    for (unsigned e = 0; e < QUADS; e++) {
#pragma GCC unroll 5
        for (unsigned k = 0; k < num_classes; k++) {
            sums[k][e][0] = s[k][e];
        }
    }
}

typedef void stored_logits_function(const struct logits_place *place, const struct stored_place *from, float *logits);

#define STORED_LOGITS(E, K)                                                                                           \
    X86_TARGET static void stored_logits_##E##x##K(const struct logits_place *place, const struct stored_place *from, \
                                                   float *logits) {                                                   \
        vec sums[MAX_BLOCK_CLASSES][QUADS][VEC_PARTS];                                                                \
        sum_stored_products(place, from, sums, E, K);                                                                 \
        store_logits(place, sums, logits, E, K);                                                                      \
    }
#define STORED_LOGITS_OF(E) \
    STORED_LOGITS(E, 1) STORED_LOGITS(E, 2) STORED_LOGITS(E, 3) STORED_LOGITS(E, 4) STORED_LOGITS(E, 5)
#define STORED_LOGITS_ROW(E) \
    {stored_logits_##E##x1, stored_logits_##E##x2, stored_logits_##E##x3, stored_logits_##E##x4, stored_logits_##E##x5}
STORED_LOGITS_OF(1)
STORED_LOGITS_OF(2)
STORED_LOGITS_OF(3)
STORED_LOGITS_OF(4)
static stored_logits_function *const stored_logits_blocks[QUADS][MAX_BLOCK_CLASSES] = {
    STORED_LOGITS_ROW(1), STORED_LOGITS_ROW(2), STORED_LOGITS_ROW(3), STORED_LOGITS_ROW(4)};

X86_TARGET static void x86_load_and_logits(const edgefl_stored_rows *stored, size_t num_rows, size_t num_features,
                                           float *loaded, const float *kernel, size_t stride, const float *bias,
                                           size_t num_classes, float *logits) {
    const float *rows[EDGEFL_TILE_ROWS];
    struct logits_place place = place_of_classes(num_features, kernel, stride, bias, num_classes, 0);
    const int32_t added = stored->is_signed ? 128 : 0;
    struct stored_place from = {.format = {.flip = _mm_set1_epi8(stored->is_signed ? -128 : 0),
                                           .zero_point = _mm512_set1_epi32(stored->zero_point + added)},
                                .scale = stored->scale};
    const size_t k_count = at_most(num_classes, MAX_BLOCK_CLASSES);
    const size_t step = ahead_step(stride, num_rows);
    for (size_t i = 0; i < num_rows; i += QUADS) {
        const size_t e_count = at_most(num_rows - i, QUADS);
        from.rows = stored->rows + i;
        from.loaded = loaded + i * num_features;
        stored_logits_blocks[e_count - 1][k_count - 1](&place, &from, logits + i * num_classes);
        place.ahead += step;
    }
    for (size_t i = 0; i < num_rows; i++) { /* what is left behind */
        rows[i] = loaded + i * num_features;
    }
    logits_from(MAX_BLOCK_CLASSES, rows, num_rows, num_features, kernel, stride, bias, num_classes, logits);
}
