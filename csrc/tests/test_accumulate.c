/* edgefl_accumulate over several blocks of its loop, against the rule written out: sums, refusals, and
 * sums that a refusal leaves as they were. */
#define _DEFAULT_SOURCE
#include <math.h>

#include "check.h"
#include "edgefl.h"

#define ACCUMULATE_TARGET
#include "accumulate_body.h"

#define MOST 3100u /* three blocks and a part */

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
    CHECK(edgefl_accumulate(found, from, n, weight, shift, factor, &place) == status);
    CHECK(status == EDGEFL_OK || place.row == index);
    CHECK(memcmp(found, expected, n * sizeof *found) == 0);
}

/* A loop of wider vectors gives the bits of this build's own, and takes back whatever it added. */
static void compare_loop(accumulate_loop *loop) {
    static const size_t sizes[] = {1, 3, 8, 21, 100};
    int64_t sums[100], own[100], before[100];
    float delta[100];
    uint64_t state = 9;
    for (int round = 0; loop != NULL && round < 200; round++) {
        const size_t n = sizes[round % 5];
        for (size_t j = 0; j < n; j++) {
            const float rare = round % 3 == 0 ? of_bits(draw(&state)) : 0.25f; /* any float, a NaN too */
            delta[j] = draw(&state) % 8 == 0 ? rare : draw_unit(&state);
            before[j] = (int64_t)(((uint64_t)draw(&state) << 32) | draw(&state)) >> (round % 2 == 0 ? 0 : 3);
        }
        memcpy(sums, before, sizeof sums);
        memcpy(own, before, sizeof own);
        const int64_t weight = (int64_t)draw(&state) + 1;
        const bool ok = loop(sums, delta, n, weight, 0x1p20, 0.7);
        CHECK(ok == accumulate(own, delta, n, weight, 0x1p20, 0.7));
        CHECK(!ok || memcmp(sums, own, n * sizeof *sums) == 0);
        loop(sums, delta, n, -weight, 0x1p20, 0.7);
        CHECK(memcmp(sums, before, n * sizeof *sums) == 0);
    }
}

static void all_loops_agree(void) {
    compare_loop(accumulate);
    compare_loop(edgefl_accumulate_loop());
#if defined(__x86_64__)
    compare_loop(edgefl_accumulate_avx2());
    compare_loop(edgefl_accumulate_avx512());
#endif
}

int main(void) {
    all_loops_agree();
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
            compare(sums, delta, n, weights[w], 29, 0x1p-1074); /* a subnormal factor */
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
            sums[at] = INT64_MAX - (int64_t)weights[w];
            compare(sums, delta, n, weights[w], 0, 1.0);
            compare(sums, delta, n, weights[w], 1, 1.0);
            sums[at] = INT64_MIN + (int64_t)weights[w];
            delta[at] = -1.0f;
            compare(sums, delta, n, weights[w], 0, 1.0);
            compare(sums, delta, n, weights[w], 1, 1.0);
            delta[at] = kept;
            sums[at] = kept_sum;
        }
    }
    return failures != 0;
}
