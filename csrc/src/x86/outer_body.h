/* The product of a step's backward pass, in blocks that stay in registers. A file that includes this has included
 * logits_body.h before.
 *
 * outer_KxN        K classes x N vectors of features: K * N vectors of sums go once through the rows */
#include "../variant.h"

/* Where an outer block is: a strip of features of all rows, and of K classes. */
struct outer_place {
    const float *const *rows;
    size_t num_rows;
    size_t f;
    size_t valid; /* how many features of a single vector exist; the padding behind them is not written */
    bool last;    /* flush the sums as well */
    /* What to fetch while it goes through the rows, a few lines for each: all at once would stop the CPU until the
     * memory has answered. */
    const void *const *next_rows;
    size_t next_from; /* bytes into each of next_rows */
    size_t next_lines;
};

X86_INLINE void outer_block(const struct outer_place *place, const float *coefficients, size_t num_classes, float *sums,
                            size_t stride, const unsigned k_count, const unsigned n_count) {
    const float *const *rows = place->rows;
    const size_t num_rows = place->num_rows;
    const size_t f = place->f;
    const size_t valid = place->valid;
    const void *const *next_rows = place->next_rows;
    const size_t next_from = place->next_from;
    const size_t next_bytes = place->next_lines * EDGEFL_CACHE_LINE;
    float *to[MAX_BLOCK_CLASSES];
    vec s[MAX_BLOCK_CLASSES][OUTER_VECTORS];
#pragma GCC unroll 5
    for (unsigned k = 0; k < k_count; k++) {
        to[k] = sums + k * stride + f;
#pragma GCC unroll 4
        for (unsigned j = 0; j < n_count; j++) {
            s[k][j] = vec_load(to[k] + j * VEC_LANES);
            _mm_prefetch((const char *)(to[k] + (n_count + j) * VEC_LANES), _MM_HINT_T0);
        }
    }
    for (size_t i = 0; i < num_rows; i++) {
        const float *row = rows[i] + f;
        vec x[OUTER_VECTORS];
#pragma GCC unroll 4
        for (unsigned j = 0; j < n_count; j++) {
            x[j] = n_count > 1 ? vec_load(row + j * VEC_LANES) : vec_load_first(row, valid);
        }
        for (size_t b = 0; b < next_bytes; b += EDGEFL_CACHE_LINE) {
            _mm_prefetch((const char *)next_rows[i] + next_from + b, _MM_HINT_T1);
        }
#pragma GCC unroll 5
        for (unsigned k = 0; k < k_count; k++) {
            vec coefficient = vec_all(coefficients[k]);
            VEC_PIN(coefficient);
#pragma GCC unroll 4
            for (unsigned j = 0; j < n_count; j++) {
                s[k][j] = vec_fma(coefficient, x[j], s[k][j]);
            }
        }
        coefficients += num_classes;
    }
    if (place->last) { /* one test for all of them: it costs time between two blocks, when no multiply-add can start */
#pragma GCC unroll 5
        for (unsigned k = 0; k < k_count; k++) {
#pragma GCC unroll 4
            for (unsigned j = 0; j < n_count; j++) {
                s[k][j] = vec_flush(s[k][j]);
            }
        }
    }
#pragma GCC unroll 5
    for (unsigned k = 0; k < k_count; k++) {
#pragma GCC unroll 4
        for (unsigned j = 0; j < n_count; j++) {
            if (n_count > 1) {
                vec_store(to[k] + j * VEC_LANES, s[k][j]);
            } else {
                vec_store_first(to[k], valid, s[k][j]);
            }
        }
    }
}

typedef void outer_function(const struct outer_place *place, const float *coefficients, size_t num_classes, float *sums,
                            size_t stride);

#define OUTER(K, N, VECTORS)                                                                           \
    X86_TARGET static void outer_##K##x##N(const struct outer_place *place, const float *coefficients, \
                                           size_t num_classes, float *sums, size_t stride) {           \
        outer_block(place, coefficients, num_classes, sums, stride, K, VECTORS);                       \
    }
#define OUTER_OF(N, VECTORS) \
    OUTER(1, N, VECTORS) OUTER(2, N, VECTORS) OUTER(3, N, VECTORS) OUTER(4, N, VECTORS) OUTER(5, N, VECTORS)
OUTER_OF(1, 1)
OUTER_OF(N, OUTER_VECTORS)
static outer_function *const outer_narrow[MAX_BLOCK_CLASSES] = {outer_1x1, outer_2x1, outer_3x1, outer_4x1, outer_5x1};
static outer_function *const outer_wide[MAX_BLOCK_CLASSES] = {outer_1xN, outer_2xN, outer_3xN, outer_4xN, outer_5xN};

#define STRIP (OUTER_VECTORS * VEC_LANES)
/* Classes that share a strip of features while it is in the first-level cache. */
#ifndef STRIP_CLASSES
#define STRIP_CLASSES 20u
#endif

/* The lines of the next rows that fall to one class block, of those that belong to this strip. */
X86_TARGET static void share_upcoming(struct outer_place *place, const edgefl_upcoming *next, size_t num_features,
                                      size_t block, size_t num_blocks) {
    place->next_lines = 0;
    if (next == NULL || next->num_rows < place->num_rows) {
        return;
    }
    const size_t row_lines = next->row_bytes / EDGEFL_CACHE_LINE + 1;
    const size_t blocks_of_row = (num_features + STRIP - 1) / STRIP * num_blocks;
    const size_t index = place->f / STRIP * num_blocks + block;
    const size_t from = index * row_lines / blocks_of_row;
    const size_t to = (index + 1) * row_lines / blocks_of_row;
    place->next_rows = next->rows;
    place->next_from = from * EDGEFL_CACHE_LINE;
    place->next_lines = to - from;
}

X86_TARGET static void outer_classes(struct outer_place place, size_t num_features, const float *coefficients,
                                     size_t num_classes, float *sums, size_t stride, size_t first, size_t end,
                                     const edgefl_upcoming *next) {
    const size_t num_blocks = (end - first + MAX_BLOCK_CLASSES - 1) / MAX_BLOCK_CLASSES;
    for (place.f = 0; place.f < num_features;) {
        const bool wide = num_features - place.f >= STRIP;
        const size_t width = wide ? STRIP : VEC_LANES;
        outer_function *const *blocks = wide ? outer_wide : outer_narrow;
        place.valid = at_most(num_features - place.f, VEC_LANES);
        for (size_t block = 0; block < num_blocks; block++) {
            const size_t c = first + block * MAX_BLOCK_CLASSES;
            share_upcoming(&place, next, num_features, block, num_blocks);
            blocks[at_most(end - c, MAX_BLOCK_CLASSES) - 1](&place, coefficients + c, num_classes, sums + c * stride,
                                                            stride);
        }
        place.f += width;
    }
}

X86_INLINE void outer_all(const float *const *rows, size_t num_rows, size_t num_features, const float *coefficients,
                          size_t num_classes, float *sums, size_t stride, bool last, const edgefl_upcoming *next) {
    const struct outer_place place = {.rows = rows, .num_rows = num_rows, .last = last};
    for (size_t first = 0; first < num_classes; first += STRIP_CLASSES) {
        const size_t end = first + at_most(num_classes - first, STRIP_CLASSES);
        /* With the last classes: what is fetched before would leave the cache again, if the kernel is large. */
        outer_classes(place, num_features, coefficients, num_classes, sums, stride, first, end,
                      end == num_classes ? next : NULL);
    }
}

X86_TARGET static void x86_add_outer(const float *const *rows, size_t num_rows, size_t num_features,
                                     const float *coefficients, size_t num_classes, float *sums, size_t stride) {
    outer_all(rows, num_rows, num_features, coefficients, num_classes, sums, stride, false, NULL);
}

X86_TARGET static void x86_add_outer_and_flush(const float *const *rows, size_t num_rows, size_t num_features,
                                               const float *coefficients, size_t num_classes, float *sums,
                                               size_t stride, const edgefl_upcoming *next) {
    outer_all(rows, num_rows, num_features, coefficients, num_classes, sums, stride, true, next);
}
