/* edgefl_squared_norm, edgefl_first_non_finite, edgefl_subtract and edgefl_apply_update against plain loops. */
#include <math.h>

#include "input.h"

static void fuzz_reductions(struct input *in, size_t n) {
    const float *values = take_floats(in, n, 0x1p-149f);
    double lanes[16] = {0.0};
    size_t bad = n;
    for (size_t j = 0; j < n; j++) {
        lanes[j % 16] += (double)values[j] * (double)values[j];
        bad = bad == n && !isfinite(values[j]) ? j : bad;
    }
    for (size_t half = 8; half > 0; half /= 2) {
        for (size_t l = 0; l < half; l++) {
            lanes[l] += lanes[l + half];
        }
    }
    REQUIRE(edgefl_first_non_finite(values, n) == bad);
    const double found = edgefl_squared_norm(values, n);
    REQUIRE(same_bytes(&found, &lanes[0], sizeof found) || (isnan(found) && isnan(lanes[0])));
}

static void fuzz_subtract(struct input *in, size_t n) {
    float *a = take_floats(in, n, 0x1p-149f);
    float *b = take_floats(in, n, 0x1p-149f);
    const float *left = copied(in, a, n * sizeof(float));
    const float *right = copied(in, b, n * sizeof(float));
    float *const outs[] = {room(in, n, sizeof(float)), a, b};
    float *out = outs[take_below(in, 3)];
    edgefl_subtract(a, b, n, out);
    for (size_t j = 0; j < n; j++) {
        const float expected = left[j] - right[j];
        REQUIRE(same_bytes(&out[j], &expected, sizeof expected) || (isnan(out[j]) && isnan(expected)));
    }
}

static void fuzz_apply(struct input *in, size_t n) {
    float *model = take_floats(in, n, 0x1p-50f);
    double *update = room(in, n, sizeof(double));
    uint64_t state = take_word(in);
    for (size_t j = 0; j < n; j++) {
        update[j] = (double)(int32_t)mixed(&state) * 0x1p-34;
    }
    for (size_t left = take_below(in, 4); n > 0 && left > 0; left--) {
        update[take_below(in, n)] = take_double(in);
    }
    const double rate = take_rarely(in, 8) ? take_double(in) : 0.5;
    const float *before = copied(in, model, n * sizeof(float));
    edgefl_place place = nowhere;
    float *out = take_rarely(in, 2) ? model : room(in, n, sizeof(float));
    const edgefl_status status = edgefl_apply_update(model, update, n, rate, out, &place);
    REQUIRE(status != EDGEFL_NON_FINITE_RESULT || place.row < n);
    for (size_t j = 0; status == EDGEFL_OK && j < n; j++) {
        const float sum = (float)((double)before[j] + rate * update[j]);
        const float expected = fabsf(sum) < EDGEFL_STORED_MIN_MAGNITUDE ? 0.0f : sum;
        REQUIRE(isfinite(expected) && same_bytes(&out[j], &expected, sizeof expected));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    const size_t n = take_below(&in, 200);
    fuzz_reductions(&in, n);
    fuzz_subtract(&in, n);
    fuzz_apply(&in, n);
    input_close(&in);
    return 0;
}
