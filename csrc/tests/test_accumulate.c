/* edgefl_accumulate over several blocks of its loop, against the rule written out, with every variant: sums, refusals,
 * and sums that a refusal leaves as they were. */
#define _DEFAULT_SOURCE
#include <float.h>
#include <math.h>

#include "check.h"
#include "edgefl.h"
#include "variant.h"

#define MOST 3100u /* three blocks and a part */

static const edgefl_variant *variant;

/* The guard pages behind 100 sums and 100 deltas. */
static int64_t *ends_of_sums;
static float *ends_of_deltas;

static edgefl_status expected_status(int64_t *sums, const float *delta, size_t n, uint64_t weight, int shift,
                                     double factor, size_t *index) {
    for (size_t j = 0; j < n; j++) {
        const double q = nearbyint(ldexp((double)delta[j], shift) * factor);
        *index = j;
        if (!(fabs(q) <= 0x1p30)) {
            return EDGEFL_OUT_OF_RANGE;
        }
        int64_t sum;
        if (__builtin_add_overflow(sums[j], (int64_t)q * (int64_t)weight, &sum)) { /* a product of at most 2^62 */
            return EDGEFL_OVERFLOW;
        }
    }
    for (size_t j = 0; j < n; j++) {
        sums[j] += (int64_t)nearbyint(ldexp((double)delta[j], shift) * factor) * (int64_t)weight;
    }
    return EDGEFL_OK;
}

static void compare(const int64_t *sums, const float *delta, size_t n, uint64_t weight, int shift, double factor) {
    int64_t expected[MOST];
    int64_t *found = guarded_copy(sums, n * sizeof *sums);
    const float *from = guarded_copy(delta, n * sizeof *delta);
    size_t index = 0;
    edgefl_place place = {0, 0};
    memcpy(expected, sums, n * sizeof *sums);
    const edgefl_status status = expected_status(expected, delta, n, weight, shift, factor, &index);
    CHECK(edgefl_accumulate(variant, found, from, n, weight, shift, factor, &place) == status);
    CHECK(status == EDGEFL_OK || place.row == index);
    CHECK(memcmp(found, expected, n * sizeof *found) == 0);
}

/* The loop of a variant gives the bits of the reference, and takes back whatever it added. */
static void loop_equals_the_reference(void) {
    static const size_t sizes[] = {1, 3, 8, 21, 100};
    static const int64_t weights[] = {INT32_MAX, INT64_C(1) << 31, UINT32_MAX, INT64_C(1) << 32};
    const edgefl_variant *reference = edgefl_scalar_software();
    int64_t expected[100], before[100];
    uint64_t state = 9;
    for (int round = 0; round < 300; round++) {
        const size_t n = sizes[round % 5];
        int64_t *sums = ends_of_sums - n;
        float *delta = ends_of_deltas - n;
        for (size_t j = 0; j < n; j++) {
            const float rare = round % 3 == 0 ? of_bits(draw(&state)) : 0.25f; /* any float, a NaN too */
            delta[j] = draw(&state) % 8 == 0 ? rare : draw_unit(&state);
            before[j] = (int64_t)(((uint64_t)draw(&state) << 32) | draw(&state)) >> (round % 2 == 0 ? 0 : 3);
        }
        memcpy(sums, before, n * sizeof *sums);
        memcpy(expected, before, sizeof expected);
        const int64_t weight = round % 4 == 0 ? weights[round / 4 % 4] : (int64_t)draw(&state) + 1;
        const bool ok = variant->accumulate(sums, delta, n, weight, 0x1p20 * 0.7);
        CHECK(ok == reference->accumulate(expected, delta, n, weight, 0x1p20 * 0.7));
        CHECK(!ok || memcmp(sums, expected, n * sizeof *sums) == 0);
        variant->accumulate(sums, delta, n, -weight, 0x1p20 * 0.7);
        CHECK(memcmp(sums, before, n * sizeof *sums) == 0);
    }
}

static size_t coordinates_counted = 0;

static bool counting_loop(int64_t *sums, const float *delta, size_t n, int64_t weight, double scale) {
    coordinates_counted += n;
    return edgefl_scalar_software()->accumulate(sums, delta, n, weight, scale);
}

/* No other loop than the one that the caller named, whatever this CPU has. */
static void the_variants_loop_is_used(void) {
    const edgefl_variant counting = {.name = "counting", .accumulate = counting_loop};
    int64_t *sums = guarded(MOST * sizeof *sums);
    float *delta = guarded(MOST * sizeof *delta);
    edgefl_place place;
    memset(sums, 0, MOST * sizeof *sums);
    memset(delta, 0, MOST * sizeof *delta);
    CHECK(edgefl_accumulate(&counting, sums, delta, MOST, 1, 0, 1.0, &place) == EDGEFL_OK);
    CHECK(coordinates_counted == MOST);
}

static void all_sizes_and_edges(void) {
    static const size_t sizes[] = {1, 7, 1023, 1024, 1025, MOST};
    static const uint64_t weights[] = {1, 3, (UINT64_C(1) << 31) + 1, EDGEFL_MAX_WEIGHT};
    static const float bad_deltas[] = {NAN, INFINITY, -INFINITY, 0x1p31f};
    static int64_t sums[MOST];
    static float delta[MOST];
    uint64_t state = 3;
    for (size_t s = 0; s < sizeof sizes / sizeof sizes[0]; s++) {
        const size_t n = sizes[s];
        for (size_t w = 0; w < sizeof weights / sizeof weights[0]; w++) {
            for (size_t j = 0; j < n; j++) {
                delta[j] = draw_unit(&state);
                sums[j] = (int64_t)(int32_t)draw(&state) * (INT64_C(1) << (draw(&state) % 30));
            }
            compare(sums, delta, n, weights[w], 30, 1.0);
            compare(sums, delta, n, weights[w], 5, 0.3);
            /* Scales that are subnormal, with bits lost, and beyond binary64. */
            compare(sums, delta, n, weights[w], 29, 0x1p-1074);
            compare(sums, delta, n, weights[w], -128, 0x1.8p-1022);
            compare(sums, delta, n, weights[w], 128, DBL_MAX);
            const size_t at = draw(&state) % n;
            const float kept = delta[at];
            const int64_t kept_sum = sums[at];
            for (size_t b = 0; b < sizeof bad_deltas / sizeof bad_deltas[0]; b++) {
                delta[at] = bad_deltas[b];
                compare(sums, delta, n, weights[w], 0, 1.0);
            }
            /* Half a step past the limit is a tie, to the limit; then, sums near the ends, with room and without. */
            delta[at] = 1.0f;
            compare(sums, delta, n, weights[w], 0, 0x1p30 + 0.5);
            compare(sums, delta, n, weights[w], 0, 0x1p30 + 0.625);
            delta[at] = -1.0f;
            compare(sums, delta, n, weights[w], 0, 0x1p30 + 0.5);
            compare(sums, delta, n, weights[w], 0, 0x1p30 + 0.625);
            delta[at] = 1.0f;
            sums[at] = INT64_MAX - (int64_t)weights[w];
            compare(sums, delta, n, weights[w], 0, 1.0);
            compare(sums, delta, n, weights[w], 1, 1.0);
            sums[at] = INT64_MIN + (int64_t)weights[w];
            delta[at] = -1.0f;
            compare(sums, delta, n, weights[w], 0, 1.0);
            compare(sums, delta, n, weights[w], 1, 1.0);
            delta[at] = kept;
            sums[at] = kept_sum;
            memset(delta, 0, n * sizeof *delta);
            compare(sums, delta, n, weights[w], 128, DBL_MAX);
        }
    }
}

int main(void) {
    the_variants_loop_is_used();
    ends_of_sums = (int64_t *)guarded(100 * sizeof *ends_of_sums) + 100;
    ends_of_deltas = (float *)guarded(100 * sizeof *ends_of_deltas) + 100;
    for (size_t j = 0; j < edgefl_variant_count(); j++) {
        variant = edgefl_variant_find(edgefl_variant_name(j));
        if (variant == NULL) {
            printf("%s: not supported by this CPU\n", edgefl_variant_name(j));
            continue;
        }
        loop_equals_the_reference();
        all_sizes_and_edges();
    }
    return failures != 0;
}
