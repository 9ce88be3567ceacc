/* The adaptive steps of a server, by hand-computed values that binary64 holds exactly, and in buffers that end at guard
 * pages. */
#define _DEFAULT_SOURCE
#include <math.h>

#include "check.h"
#include "edgefl.h"

struct step {
    double first, second;
    float model;
    edgefl_status status;
    edgefl_place place;
};

/* One value; without first moments for EDGEFL_ADAGRAD. */
static struct step step1(edgefl_adaptive_options options, double first, double second, float model, double delta) {
    struct step step = {.first = first, .second = second, .model = model, .place = {9, 9}};
    double *m = guarded_copy(&first, sizeof first), *v = guarded_copy(&second, sizeof second);
    float *w = guarded_copy(&model, sizeof model);
    step.status = edgefl_adaptive_step(&options, guarded_copy(&delta, sizeof delta), 1,
                                       options.rule == EDGEFL_ADAGRAD ? NULL : m, v, w, &step.place);
    step.first = *m;
    step.second = *v;
    step.model = *w;
    return step;
}

/* m = 1/2 * 1 + 1/2 * 3 = 2; with v = 4 the step is 2 * 2 / (2 + 2) = 1, with v = 9 adagrad's is 2 * 4 / (3 + 1). */
static void by_hand(void) {
    edgefl_adaptive_options options = {EDGEFL_ADAM, 2.0, 0.5, 0.75, 2.0};
    struct step step = step1(options, 1.0, 2.3125, 0.5f, 3.0); /* 0.75 * 2.3125 + 0.25 * 9 = 3.984375 */
    CHECK(step.first == 2.0 && step.second == 3.984375);
    step = step1(options, 1.0, 7.0 / 3.0, 0.5f, 3.0); /* 4 */
    CHECK(step.status == EDGEFL_OK && step.second == 4.0 && step.model == 1.5f);
    options.rule = EDGEFL_YOGI;
    step = step1(options, 1.0, 6.25, 0.5f, 3.0); /* 6.25 + 0.25 * 9 */
    CHECK(step.first == 2.0 && step.second == 8.5);
    CHECK(step1(options, 1.0, 10.0, 0.5f, 3.0).second == 7.75 && step1(options, 1.0, 9.0, 0.5f, 3.0).second == 9.0);
    options.rule = EDGEFL_ADAGRAD;
    options.epsilon = 1.0;
    step = step1(options, 7.0, 0.0, 0.5f, 3.0);
    CHECK(step.first == 7.0 && step.second == 9.0 && step.model == 2.0f);
}

static void small_values_become_zero(void) {
    edgefl_adaptive_options options = {EDGEFL_ADAM, 1.0, 0.5, 0.5, 1.0};
    struct step step = step1(options, 0x1p-49, 0x1p-99, 0.0f, 0.0);
    CHECK(step.first == 0x1p-50 && step.second == 0x1p-100 && step.model == 0x1p-50f);
    step = step1(options, 0x1.fffffffffffffp-50, 0x1.fffffffffffffp-100, 0x1p-50f, -0.0);
    CHECK(step.first == 0.0 && step.second == 0.0 && step.model == 0x1p-50f);
    step = step1(options, -0x1p-50, 0.0, -0x1.fffffep-51f, 0.0);
    CHECK(!signbit(step.first) && same(step.model, 0.0f));
}

static void a_result_that_is_not_finite_is_named(void) {
    const edgefl_adaptive_options options = {EDGEFL_ADAGRAD, 0x1p100, 0.0, 0.0, 1.0};
    const double delta[] = {0.0, 1.0, 0x1p80};
    double second[] = {1.0, 1.0, 1.0};
    float model[] = {1.0f, 0x1p127f, 0x1p127f};
    edgefl_place place;
    CHECK(edgefl_adaptive_step(&options, delta, 2, NULL, second, model, &place) == EDGEFL_OK);
    model[1] = INFINITY;
    CHECK(edgefl_adaptive_step(&options, delta, 3, NULL, second, model, &place) == EDGEFL_NON_FINITE_RESULT);
    CHECK(place.row == 1 && place.column == 0);
}

/* A NaN is not taken for a small value, and a square beyond binary64 not for a large one. */
static void what_is_not_finite_does_not_vanish(void) {
    for (int rule = EDGEFL_ADAM; rule <= EDGEFL_ADAGRAD; rule++) {
        const edgefl_adaptive_options options = {(edgefl_adaptive_rule)rule, 1.0, 0.5, 0.5, 1.0};
        const double bads[] = {NAN, INFINITY, -INFINITY, 0x1p600};
        for (size_t j = 0; j < sizeof bads / sizeof bads[0]; j++) {
            const struct step step = step1(options, 0.0, 1.0, 0.0f, bads[j]);
            CHECK(step.status == EDGEFL_NON_FINITE_RESULT && step.place.row == 0 && step.place.column == 0);
        }
        CHECK(step1(options, 0.0, NAN, 0.0f, 1.0).status == EDGEFL_NON_FINITE_RESULT);
        CHECK(step1(options, 0.0, 1.0, NAN, 1.0).status == EDGEFL_NON_FINITE_RESULT);
        CHECK(rule == EDGEFL_ADAGRAD || step1(options, NAN, 1.0, 0.0f, 1.0).status == EDGEFL_NON_FINITE_RESULT);
    }
}

static void a_rule_that_does_not_exist_is_refused(void) {
    const edgefl_adaptive_options options = {(edgefl_adaptive_rule)3, 1.0, 0.5, 0.5, 1.0};
    const struct step step = step1(options, 1.0, 2.0, 3.0f, 4.0);
    CHECK(step.status == EDGEFL_BAD_ARGUMENT && step.second == 2.0 && step.model == 3.0f);
    CHECK(edgefl_adaptive_step(&(edgefl_adaptive_options){.rule = EDGEFL_YOGI}, NULL, 0, NULL, NULL, NULL, NULL) ==
          EDGEFL_OK);
}

int main(void) {
    by_hand();
    small_values_become_zero();
    a_result_that_is_not_finite_is_named();
    what_is_not_finite_does_not_vanish();
    a_rule_that_does_not_exist_is_refused();
    return failures != 0;
}
