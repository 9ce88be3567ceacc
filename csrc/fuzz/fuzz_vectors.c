/* edgefl_squared_norm, edgefl_first_non_finite, edgefl_subtract, edgefl_apply_update and edgefl_adaptive_step against
 * plain loops. */
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

/* In [-1/8, 1/8); up to three of them replaced by any bits. */
static double *take_doubles(struct input *in, size_t n) {
    double *values = room(in, n, sizeof(double));
    uint64_t state = take_word(in);
    for (size_t j = 0; j < n; j++) {
        values[j] = (double)(int32_t)mixed(&state) * 0x1p-34;
    }
    for (size_t left = take_below(in, 4); n > 0 && left > 0; left--) {
        values[take_below(in, n)] = take_double(in);
    }
    return values;
}

static bool same_or_nan(double a, double b) { return same_bytes(&a, &b, sizeof a) || (isnan(a) && isnan(b)); }

static double kept(double value, double smallest) { return fabs(value) < smallest ? 0.0 : value; }

static double moved(const edgefl_adaptive_options *options, double v, double s) {
    const double share = 1.0 - options->beta_2;
    const double decayed = options->beta_2 * v + share * s, up = v + share * s, down = v - share * s;
    const double results[] = {decayed, v > s ? down : v < s ? up : v, v + s};
    return results[options->rule];
}

static void fuzz_adaptive(struct input *in, size_t n) {
    const edgefl_adaptive_options options = {(edgefl_adaptive_rule)take_below(in, 3), 0.5,
                                             (double)take_below(in, 8) * 0.125, (double)take_below(in, 256) * 0x1p-8,
                                             take_rarely(in, 2) ? 0.001 : 0x1p-30};
    const double *delta = take_doubles(in, n);
    double *first = take_doubles(in, n), *second = take_doubles(in, n);
    float *model = take_floats(in, n, 0x1p-50f);
    for (size_t j = 0; j < n; j++) {
        second[j] = kept(fabs(second[j]), 0x1p-100);
    }
    const double *m = copied(in, first, n * sizeof(double)), *v = copied(in, second, n * sizeof(double));
    const float *before = copied(in, model, n * sizeof(float));
    const bool with_first = take_rarely(in, 2);
    edgefl_place place = nowhere;
    const edgefl_status status =
        edgefl_adaptive_step(&options, delta, n, with_first ? first : NULL, second, model, &place);
    REQUIRE(status == EDGEFL_OK || (status == EDGEFL_NON_FINITE_RESULT && place.row < n));
    for (size_t j = 0; j < n; j++) {
        const double average = options.beta_1 * m[j] + (1.0 - options.beta_1) * delta[j];
        const double direction = with_first ? kept(average, 0x1p-50) : delta[j];
        const double square = kept(moved(&options, v[j], delta[j] * delta[j]), 0x1p-100);
        const double step = options.learning_rate * (direction / (sqrt(square) + options.epsilon));
        const float sum = (float)((double)before[j] + step);
        const float expected = fabsf(sum) < EDGEFL_STORED_MIN_MAGNITUDE ? 0.0f : sum;
        REQUIRE(same_or_nan(first[j], with_first ? direction : m[j]));
        REQUIRE(same_or_nan(second[j], square) && same_or_nan((double)model[j], (double)expected));
        REQUIRE(status != EDGEFL_OK || (isfinite(expected) && isfinite(square)));
        REQUIRE(status == EDGEFL_OK || j >= place.row || (isfinite(expected) && isfinite(square)));
    }
}

static void fuzz_apply(struct input *in, size_t n) {
    float *model = take_floats(in, n, 0x1p-50f);
    double *update = take_doubles(in, n);
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
    fuzz_adaptive(&in, n);
    input_close(&in);
    return 0;
}
