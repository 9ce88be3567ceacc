/* The product of a step's backward pass, in blocks that stay in registers. A file that includes this has included
 * logits_body.h before.
 *
 * outer_KxN        K classes x N vectors of features: K * N vectors of sums go once through the rows */
#include "../variant.h"

/* Where an outer block is: a strip of features of all rows, and of K classes. */
struct outer_place {
    const float *const *rows;
    size_t num_rows;
    size_t from;     /* the strip's first feature in each of rows */
    size_t valid;    /* how many features of a single vector exist; the padding behind them is not written */
    bool last;       /* flush the sums as well */
    uintptr_t ahead; /* where the sums of a block soon to come begin */
    /* What to fetch while it goes through the rows, a few lines for each: all at once would stop the CPU until the
     * memory has answered. */
    const void *const *next_rows;
    size_t next_from; /* bytes into each of next_rows */
    size_t next_end;
};

X86_INLINE void outer_block(const struct outer_place *place, const float *coefficients, size_t num_classes, float *sums,
                            size_t stride, const unsigned k_count, const unsigned n_count, const bool fetch) {
    const float *const *rows = place->rows;
    const size_t num_rows = place->num_rows;
    const size_t from = place->from;
    const size_t valid = place->valid;
    const void *const *next_rows = place->next_rows;
    const size_t next_from = place->next_from;
    const size_t next_end = place->next_end;
    vec s[MAX_BLOCK_CLASSES][OUTER_VECTORS];
#pragma GCC unroll 5
    for (unsigned k = 0; k < k_count; k++) {
#pragma GCC unroll 4
        for (unsigned j = 0; j < n_count; j++) {
            s[k][j] = vec_load(sums + k * stride + j * VEC_LANES);
            if (j * VEC_LANES % EDGEFL_LANES == 0) { /* a line */
                _mm_prefetch((const char *)(place->ahead + (k * stride + j * VEC_LANES) * sizeof(float)), _MM_HINT_T0);
            }
        }
    }
    for (size_t i = 0; i < num_rows; i++) {
        const float *row = rows[i] + from;
        vec x[OUTER_VECTORS];
#pragma GCC unroll 4
        for (unsigned j = 0; j < n_count; j++) {
            x[j] = n_count > 1 ? vec_load(row + j * VEC_LANES) : vec_load_first(row, valid);
        }
        for (size_t b = next_from; fetch && b < next_end; b += EDGEFL_CACHE_LINE) {
            _mm_prefetch((const char *)next_rows[i] + b, _MM_HINT_T1);
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
                vec_store(sums + k * stride + j * VEC_LANES, s[k][j]);
            } else {
                vec_store_first(sums + k * stride, valid, s[k][j]);
            }
        }
    }
}

typedef void outer_function(const struct outer_place *place, const float *coefficients, size_t num_classes, float *sums,
                            size_t stride);

#define OUTER(K, N, VECTORS)                                                                           \
    X86_TARGET static void outer_##K##x##N(const struct outer_place *place, const float *coefficients, \
                                           size_t num_classes, float *sums, size_t stride) {           \
        outer_block(place, coefficients, num_classes, sums, stride, K, VECTORS, true);                 \
    }
#define OUTER_BELOW_5(N, VECTORS) OUTER(1, N, VECTORS) OUTER(2, N, VECTORS) OUTER(3, N, VECTORS) OUTER(4, N, VECTORS)
OUTER_BELOW_5(1, 1)
OUTER(5, 1, 1)
OUTER_BELOW_5(N, OUTER_VECTORS)
static outer_function *const outer_narrow[MAX_BLOCK_CLASSES] = {outer_1x1, outer_2x1, outer_3x1, outer_4x1, outer_5x1};
static outer_function *const outer_wide[MAX_BLOCK_CLASSES - 1] = {outer_1xN, outer_2xN, outer_3xN, outer_4xN};

#define STRIP (OUTER_VECTORS * VEC_LANES)
/* Classes that share a strip of features while it is in the first-level cache: a multiple of MAX_BLOCK_CLASSES. With
 * the narrow strips of AVX2 more, but no more than the 64 pages that the first TLB holds: of a large model, each class
 * lies in another. */
#define STRIP_CLASSES (VEC_LANES == 8 ? 60u : 20u)
/* Blocks from one to the one whose sums it fetches. */
#define BLOCKS_AHEAD 2u

/* A strip of the classes from `first` to `end`, width features from f on. next_lines: most that a block fetches. */
X86_INLINE void outer_strip(struct outer_place *place, const float *coefficients, size_t num_classes, float *sums,
                            size_t stride, size_t first, size_t end, size_t next_end, size_t next_lines,
                            const bool wide) {
    for (size_t c = first; c < end; c += MAX_BLOCK_CLASSES) {
        const size_t to_come = c + BLOCKS_AHEAD * MAX_BLOCK_CLASSES;
        place->ahead =
            (uintptr_t)sums +
            (to_come < end ? to_come * stride : at_most(to_come - end + first, c) * stride + STRIP) * sizeof(float);
        place->next_from = place->next_end;
        place->next_end = at_most(place->next_from + next_lines * EDGEFL_CACHE_LINE, next_end);
        const size_t k_count = at_most(end - c, MAX_BLOCK_CLASSES);
        /* A full block is compiled in: between two blocks no multiply-add runs, so a call by pointer is felt. */
        if (!wide) {
            outer_narrow[k_count - 1](place, coefficients + c, num_classes, sums + c * stride, stride);
        } else if (k_count == MAX_BLOCK_CLASSES && place->next_from == place->next_end) {
            outer_block(place, coefficients + c, num_classes, sums + c * stride, stride, MAX_BLOCK_CLASSES,
                        OUTER_VECTORS, false);
        } else if (k_count == MAX_BLOCK_CLASSES) {
            outer_block(place, coefficients + c, num_classes, sums + c * stride, stride, MAX_BLOCK_CLASSES,
                        OUTER_VECTORS, true);
        } else {
            outer_wide[k_count - 1](place, coefficients + c, num_classes, sums + c * stride, stride);
        }
    }
}

X86_TARGET static void outer_classes(struct outer_place place, size_t num_features, const float *coefficients,
                                     size_t num_classes, float *sums, size_t stride, size_t first, size_t end,
                                     const edgefl_upcoming *next) {
    const size_t num_blocks = (end - first + MAX_BLOCK_CLASSES - 1) / MAX_BLOCK_CLASSES;
    const bool fetch = next != NULL && next->num_rows >= place.num_rows;
    const size_t item = fetch ? next->row_bytes / num_features : 0;
    const size_t shared = num_blocks * EDGEFL_CACHE_LINE;
    const size_t next_lines = (STRIP * item + shared - 1) / shared;
    place.next_rows = fetch ? next->rows : NULL;
    /* For more than two blocks, the strip of all rows is copied to one place: rows whose distance is a multiple of a
     * large power of two share few sets of the first-level cache. AVX-512, with strips of 4 lines, gains nothing. */
    float packed[EDGEFL_TILE_ROWS * STRIP] __attribute__((aligned(EDGEFL_CACHE_LINE)));
    const float *packed_rows[EDGEFL_TILE_ROWS];
    const float *const *rows = place.rows;
    const bool pack = VEC_LANES == 8 && num_blocks > 2;
    for (size_t i = 0; pack && i < place.num_rows; i++) {
        packed_rows[i] = packed + i * STRIP;
    }
    for (size_t f = 0; f < num_features;) {
        const bool wide = num_features - f >= STRIP;
        const size_t width = wide ? STRIP : at_most(num_features - f, VEC_LANES);
        /* A row may begin anywhere in a line: one more than it would fill. */
        const size_t next_end = (f + width) * item / EDGEFL_CACHE_LINE * EDGEFL_CACHE_LINE + EDGEFL_CACHE_LINE;
        place.rows = pack && wide ? packed_rows : rows;
        place.from = pack && wide ? 0 : f;
        place.valid = width;
        if (wide) {
            for (size_t i = 0; pack && i < place.num_rows; i++) {
#pragma GCC unroll 4
                for (unsigned j = 0; j < OUTER_VECTORS; j++) {
                    vec_store(packed + i * STRIP + j * VEC_LANES, vec_load(rows[i] + f + j * VEC_LANES));
                }
            }
            outer_strip(&place, coefficients, num_classes, sums + f, stride, first, end, next_end, next_lines, true);
        } else {
            outer_strip(&place, coefficients, num_classes, sums + f, stride, first, end, next_end, next_lines, false);
        }
        f += width;
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
