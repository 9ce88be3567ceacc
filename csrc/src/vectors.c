/* Reductions in the library's fixed order, and the steps of a server that round once. */
#include "numeric.h"

double edgefl_tree_double(double lanes[EDGEFL_LANES]) {
    for (size_t width = EDGEFL_LANES / 2; width > 0; width /= 2) {
        for (size_t l = 0; l < width; l++) {
            lanes[l] += lanes[l + width];
        }
    }
    return lanes[0];
}

static inline double square(float v) { return (double)v * (double)v; }

void edgefl_add_squares(double lanes[EDGEFL_LANES], size_t first, const float *values, size_t n) {
    size_t j = 0;
    for (; j < n && (first + j) % EDGEFL_LANES != 0; j++) {
        lanes[(first + j) % EDGEFL_LANES] += square(values[j]);
    }
    for (; n - j >= EDGEFL_LANES; j += EDGEFL_LANES) {
        for (size_t l = 0; l < EDGEFL_LANES; l++) {
            lanes[l] += square(values[j + l]);
        }
    }
    for (size_t l = 0; j + l < n; l++) {
        lanes[l] += square(values[j + l]);
    }
}

double edgefl_squared_norm(const float *values, size_t n) {
    double lanes[EDGEFL_LANES] = {0.0};
    edgefl_add_squares(lanes, 0, values, n);
    return edgefl_tree_double(lanes);
}

size_t edgefl_first_non_finite(const float *values, size_t n) {
    /* Blocks without an exit inside, so that the common case runs in vectors. */
    const size_t block = 256;
    for (size_t start = 0; start < n; start += block) {
        const size_t end = n - start < block ? n : start + block;
        uint32_t bad = 0;
        for (size_t j = start; j < end; j++) {
            bad |= (uint32_t)!is_finite(values[j]);
        }
        for (size_t j = start; bad && j < end; j++) {
            if (!is_finite(values[j])) {
                return j;
            }
        }
    }
    return n;
}

void edgefl_subtract(const float *a, const float *b, size_t n, float *out) {
    for (size_t j = 0; j < n; j++) {
        out[j] = a[j] - b[j];
    }
}

edgefl_status edgefl_apply_update(const float *model, const double *update, size_t n, double rate, float *out,
                                  edgefl_place *place) {
    for (size_t j = 0; j < n; j++) {
        const double change = rate * update[j];
        out[j] = flush((float)((double)model[j] + change));
    }
    const size_t bad = edgefl_first_non_finite(out, n);
    if (bad < n) {
        place->row = bad;
        place->column = 0;
        return EDGEFL_NON_FINITE_RESULT;
    }
    return EDGEFL_OK;
}
