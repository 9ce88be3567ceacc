/* The reference of every variant, written over fma32: scalar_hardware.c and scalar_software.c include it once each, and
 * fma.h decides what fma32 is. The loops keep the 16 lanes side by side, so that a compiler may use vectors where that
 * changes no bit. exp32 and log32 have the coefficients of Cephes' expf and logf (S. L. Moshier, 1992). */
#include "elementwise_body.h"

/* Features of one class that add_outer keeps in registers while it goes through the rows. */
#define OUTER_BLOCK 32u

EDGEFL_FMA_TARGET static float exp32(float x) {
    /* exp(-40) is 2^-57.7: a smaller share of the sum could not survive as a stored gradient. */
    if (!(x >= -40.0f)) {
        return 0.0f;
    }
    /* Adding 1.5 * 2^23 rounds to an integer. */
    const float n = fma32(x, 1.44269504f, 12582912.0f) - 12582912.0f;
    float r = fma32(n, -0.693359375f, x);
    r = fma32(n, 2.12194440e-4f, r);
    float p = 1.9875691500e-4f;
    p = fma32(p, r, 1.3981999507e-3f);
    p = fma32(p, r, 8.3334519073e-3f);
    p = fma32(p, r, 4.1665795894e-2f);
    p = fma32(p, r, 1.6666665459e-1f);
    p = fma32(p, r, 5.0000001201e-1f);
    return (fma32(p, r * r, r) + 1.0f) * float_from_bits((uint32_t)((int32_t)n + 127) << 23);
}

/* The natural logarithm of a sum of exponentials: s in [1, EDGEFL_MAX_CLASSES]. */
EDGEFL_FMA_TARGET static float log32(float s) {
    const uint32_t bits = float_bits(s);
    int32_t exponent = (int32_t)(bits >> 23) - 126;
    float mantissa = float_from_bits((bits & 0x007fffffu) | 0x3f000000u);
    if (mantissa < 0.707106781186547524f) {
        exponent -= 1;
        mantissa = mantissa + mantissa - 1.0f;
    } else {
        mantissa = mantissa - 1.0f;
    }
    const float k = (float)exponent;
    const float z = mantissa * mantissa;
    float y = 7.0376836292e-2f;
    y = fma32(y, mantissa, -1.1514610310e-1f);
    y = fma32(y, mantissa, 1.1676998740e-1f);
    y = fma32(y, mantissa, -1.2420140846e-1f);
    y = fma32(y, mantissa, 1.4249322787e-1f);
    y = fma32(y, mantissa, -1.6668057665e-1f);
    y = fma32(y, mantissa, 2.0000714765e-1f);
    y = fma32(y, mantissa, -2.4999993993e-1f);
    y = fma32(y, mantissa, 3.3333331174e-1f);
    y = (y * mantissa) * z;
    y = fma32(k, -2.12194440e-4f, y);
    y = fma32(-0.5f, z, y);
    return flush(fma32(k, 0.693359375f, mantissa + y));
}

EDGEFL_FMA_TARGET static float tree_float(float t[EDGEFL_LANES]) {
    for (size_t width = EDGEFL_LANES / 2; width > 0; width /= 2) {
        for (size_t l = 0; l < width; l++) {
            t[l] += t[l + width];
        }
    }
    return t[0];
}

EDGEFL_FMA_TARGET static float dot(const float *w, const float *x, size_t n) {
    float lanes[EDGEFL_LANES] = {0.0f};
    size_t f = 0;
    for (; f + EDGEFL_LANES <= n; f += EDGEFL_LANES) {
        for (size_t l = 0; l < EDGEFL_LANES; l++) {
            lanes[l] = fma32(w[f + l], x[f + l], lanes[l]);
        }
    }
    for (size_t l = 0; f + l < n; l++) {
        lanes[l] = fma32(w[f + l], x[f + l], lanes[l]);
    }
    return tree_float(lanes);
}

EDGEFL_FMA_TARGET static void scalar_logits(const float *const *rows, size_t num_rows, size_t num_features,
                                            const float *kernel, size_t stride, const float *bias, size_t num_classes,
                                            float *logits) {
    for (size_t i = 0; i < num_rows; i++) {
        for (size_t c = 0; c < num_classes; c++) {
            logits[i * num_classes + c] = dot(kernel + c * stride, rows[i], num_features) + bias[c];
        }
    }
}

EDGEFL_FMA_TARGET static size_t scalar_softmax(float *values, size_t num_rows, size_t num_classes,
                                               const int32_t *labels, float *loss, uint32_t *predicted) {
    for (size_t i = 0; i < num_rows; i++) {
        float *z = values + i * num_classes;
        float max = z[0];
        uint32_t best = 0;
        for (size_t c = 0; c < num_classes; c++) {
            if (!is_finite(z[c])) {
                return i;
            }
            if (z[c] > max) {
                max = z[c];
                best = (uint32_t)c;
            }
        }
        const float shifted = labels ? z[labels[i]] - max : 0.0f;
        float sum = 0.0f;
        for (size_t c = 0; c < num_classes; c++) {
            z[c] = exp32(z[c] - max);
            sum += z[c];
        }
        for (size_t c = 0; c < num_classes; c++) {
            z[c] = z[c] / sum;
        }
        if (labels) {
            loss[i] = log32(sum) - shifted;
        }
        predicted[i] = best;
    }
    return num_rows;
}

EDGEFL_FMA_TARGET static void scalar_add_outer(const float *const *rows, size_t num_rows, size_t num_features,
                                               const float *coefficients, size_t num_classes, float *sums,
                                               size_t stride) {
    for (size_t c = 0; c < num_classes; c++) {
        float *row_sums = sums + c * stride;
        size_t f = 0;
        for (; f + OUTER_BLOCK <= num_features; f += OUTER_BLOCK) {
            float block[OUTER_BLOCK];
            memcpy(block, row_sums + f, sizeof block);
            for (size_t i = 0; i < num_rows; i++) {
                const float coefficient = coefficients[i * num_classes + c];
                const float *x = rows[i] + f;
                for (size_t l = 0; l < OUTER_BLOCK; l++) {
                    block[l] = fma32(coefficient, x[l], block[l]);
                }
            }
            memcpy(row_sums + f, block, sizeof block);
        }
        for (size_t i = 0; i < num_rows && f < num_features; i++) {
            const float coefficient = coefficients[i * num_classes + c];
            for (size_t j = f; j < num_features; j++) {
                row_sums[j] = fma32(coefficient, rows[i][j], row_sums[j]);
            }
        }
    }
}

static const edgefl_variant scalar_variant = {
    .name = "scalar",
    .first_bad_feature = scalar_first_bad_feature,
    .logits = scalar_logits,
    .softmax = scalar_softmax,
    .add_outer = scalar_add_outer,
    .accumulate = scalar_accumulate,
    .load_uint8 = scalar_load_uint8,
    .load_int8 = scalar_load_int8,
    EDGEFL_ELEMENTWISE,
};
