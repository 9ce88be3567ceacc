/* Softmax with VEC_LANES examples side by side, so that each example's sum goes class by class as in the reference.
 * Included after vec512.h or vec256.h. Values lie by example; blocks of VEC_LANES examples x VEC_LANES classes are
 * transposed in registers. Up to KEPT_BLOCKS blocks are kept from logit to probability; more classes take a pass for
 * the maximum, one for the exponentials and their sum, and one to divide. */
#include "../variant.h"

#define KEPT_BLOCKS 2u /* on the stack; with AVX2, most models of 9 to 16 classes were read and transposed twice */

/* scalar_body.h's exp32. */
X86_INLINE vec vec_exp32(vec x) {
    const vec magic = vec_all(12582912.0f);
    const vec n = vec_sub(vec_fma(x, vec_all(1.44269504f), magic), magic);
    vec r = vec_fma(n, vec_all(-0.693359375f), x);
    r = vec_fma(n, vec_all(2.12194440e-4f), r);
    vec p = vec_all(1.9875691500e-4f);
    p = vec_fma(p, r, vec_all(1.3981999507e-3f));
    p = vec_fma(p, r, vec_all(8.3334519073e-3f));
    p = vec_fma(p, r, vec_all(4.1665795894e-2f));
    p = vec_fma(p, r, vec_all(1.6666665459e-1f));
    p = vec_fma(p, r, vec_all(5.0000001201e-1f));
    p = vec_add(vec_fma(p, vec_mul(r, r), r), vec_all(1.0f));
    return vec_zero_unless_at_least(vec_mul(p, vec_power_of_two(n)), x, -40.0f);
}

/* scalar_body.h's log32. */
X86_INLINE vec vec_log32(vec s) {
    const vec half = vec_all(0.707106781186547524f);
    const vec one = vec_all(1.0f);
    const vec raw = vec_mantissa(s);
    const vec exponent = vec_exponent(s);
    const vec m = vec_if_greater(half, raw, vec_sub(vec_add(raw, raw), one), vec_sub(raw, one));
    const vec k = vec_if_greater(half, raw, vec_sub(exponent, one), exponent);
    const vec z = vec_mul(m, m);
    vec y = vec_all(7.0376836292e-2f);
    y = vec_fma(y, m, vec_all(-1.1514610310e-1f));
    y = vec_fma(y, m, vec_all(1.1676998740e-1f));
    y = vec_fma(y, m, vec_all(-1.2420140846e-1f));
    y = vec_fma(y, m, vec_all(1.4249322787e-1f));
    y = vec_fma(y, m, vec_all(-1.6668057665e-1f));
    y = vec_fma(y, m, vec_all(2.0000714765e-1f));
    y = vec_fma(y, m, vec_all(-2.4999993993e-1f));
    y = vec_fma(y, m, vec_all(3.3333331174e-1f));
    y = vec_mul(vec_mul(y, m), z);
    y = vec_fma(k, vec_all(-2.12194440e-4f), y);
    y = vec_fma(vec_all(-0.5f), z, y);
    return vec_flush(vec_fma(k, vec_all(0.693359375f), vec_add(m, y)));
}

/* Examples that are not there read as 0. */
X86_TARGET static void load_block(vec block[VEC_LANES], const float *z, size_t num_rows, size_t num_classes,
                                  size_t count) {
    for (size_t i = 0; i < VEC_LANES; i++) {
        block[i] = i < num_rows ? vec_load_first(z + i * num_classes, count) : vec_zero();
    }
    vec_transpose(block);
}

X86_TARGET static void store_block(vec block[VEC_LANES], float *z, size_t num_rows, size_t num_classes, size_t count) {
    vec_transpose(block);
    for (size_t i = 0; i < num_rows; i++) {
        vec_store_first(z + i * num_classes, count, block[i]);
    }
}

X86_TARGET static void divide_row(float *z, size_t num_classes, float sum) {
    const vec divisor = vec_all(sum);
    size_t c = 0;
    for (; c + VEC_LANES <= num_classes; c += VEC_LANES) {
        vec_store(z + c, vec_div(vec_load(z + c), divisor));
    }
    if (c < num_classes) {
        vec_store_first(z + c, num_classes - c, vec_div(vec_load_first(z + c, num_classes - c), divisor));
    }
}

/* Up to VEC_LANES examples. Returns the first that has a non-finite logit, or num_rows; those before it are done. */
X86_TARGET static size_t softmax_group(float *z, size_t num_rows, size_t num_classes, const int32_t *labels,
                                       float *loss, uint32_t *predicted) {
    vec blocks[KEPT_BLOCKS][VEC_LANES];
    float lanes[VEC_LANES] = {0.0f}; /* the label's logit, then the loss or the sum */
    uint32_t best_lanes[VEC_LANES];
    uint32_t bad = 0;
    vec max = vec_all(-__builtin_inff());
    vec best = vec_zero();
    const bool kept = num_classes <= KEPT_BLOCKS * VEC_LANES;
    for (size_t c = 0; c < num_classes; c += VEC_LANES) {
        vec *block = blocks[kept ? c / VEC_LANES : 0];
        const size_t count = num_classes - c < VEC_LANES ? num_classes - c : VEC_LANES;
        load_block(block, z + c, num_rows, num_classes, count);
        for (size_t j = 0; j < count; j++) {
            bad |= vec_non_finite(block[j]);
            best = vec_if_greater(block[j], max, vec_all((float)(c + j)), best);
            max = vec_if_greater(block[j], max, block[j], max);
        }
    }
    if (bad != 0) {
        num_rows = (size_t)__builtin_ctz(bad); /* smaller: the lanes of absent examples are 0 */
    }
    vec_store_whole(best_lanes, best);
    memcpy(predicted, best_lanes, num_rows * sizeof *predicted);
    for (size_t i = 0; labels != NULL && i < num_rows; i++) {
        lanes[i] = z[i * num_classes + (size_t)labels[i]];
    }
    const vec shifted = vec_sub(vec_load(lanes), max);
    vec sum = vec_zero();
    for (size_t c = 0; c < num_classes; c += VEC_LANES) {
        vec *block = blocks[kept ? c / VEC_LANES : 0];
        const size_t count = num_classes - c < VEC_LANES ? num_classes - c : VEC_LANES;
        if (!kept) {
            load_block(block, z + c, num_rows, num_classes, count);
        }
        for (size_t j = 0; j < count; j++) {
            block[j] = vec_exp32(vec_sub(block[j], max));
            sum = vec_add(sum, block[j]);
        }
        if (!kept) {
            store_block(block, z + c, num_rows, num_classes, count);
        }
    }
    for (size_t c = 0; kept && c < num_classes; c += VEC_LANES) {
        vec *block = blocks[c / VEC_LANES];
        const size_t count = num_classes - c < VEC_LANES ? num_classes - c : VEC_LANES;
        for (size_t j = 0; j < count; j++) {
            block[j] = vec_div(block[j], sum);
        }
        store_block(block, z + c, num_rows, num_classes, count);
    }
    if (labels != NULL) {
        vec_store(lanes, vec_sub(vec_log32(sum), shifted));
        memcpy(loss, lanes, num_rows * sizeof *loss);
    }
    vec_store(lanes, sum);
    for (size_t i = 0; !kept && i < num_rows; i++) {
        divide_row(z + i * num_classes, num_classes, lanes[i]);
    }
    return num_rows;
}

X86_TARGET static size_t x86_softmax(float *values, size_t num_rows, size_t num_classes, const int32_t *labels,
                                     float *loss, uint32_t *predicted) {
    for (size_t first = 0; first < num_rows; first += VEC_LANES) {
        const size_t rows = num_rows - first < VEC_LANES ? num_rows - first : VEC_LANES;
        const size_t bad = softmax_group(values + first * num_classes, rows, num_classes,
                                         labels ? labels + first : NULL, loss ? loss + first : NULL, predicted + first);
        if (bad < rows) {
            return first + bad;
        }
    }
    return num_rows;
}
