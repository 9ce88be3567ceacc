/* The software FMA, against values worked out by hand and against the correctly rounded fmaf of libm. */
#define _DEFAULT_SOURCE
#define EDGEFL_FMA_HARDWARE 0
#include <math.h>

#include "check.h"
#include "fma.h"

struct hard_case {
    float a, b, c, expected;
};

#define U 0x1p-23f /* one unit in the last place of 1 */

static const struct hard_case hard_cases[] = {
    /* The exact product keeps its low half: (1 + U)^2 - (1 + 2U) = U^2. */
    {1 + U, 1 + U, -(1 + 2 * U), 0x1p-46f},
    /* Ties go to even. */
    {0x1p-24f, 1, 1, 1},
    {0x1p-24f, 1, 1 + U, 1 + 2 * U},
    /* 2^-24 (1 - 2^-46) added to an odd number is just below the tie. Rounding to binary64 first makes it a tie,
     * and the tie goes up: a plain double computation fails here. */
    {0x1p-24f * (1 + U), 1 - U, 1 + U, 1 + U},
    {-0x1p-24f * (1 + U), 1 - U, 1 + U, 1 + U},
    {0x1p-24f * (1 + U), -(1 - U), -(1 + U), -(1 + U)},
    /* Just above the tie, by the addend: 1 + 2^-23 (product, odd) and 2^-24 + tiny. */
    {1 + U, 1, 0x1p-24f * (1 + U), 1 + 2 * U},
    /* A tiny addend decides a tie of the product: (1 + 2^-12)^2 = 1 + 2^-11 + 2^-24 lies between two floats. */
    {1 + 0x1p-12f, 1 + 0x1p-12f, 0x1p-100f, 1 + 0x1p-11f + U},
    {1 + 0x1p-12f, 1 + 0x1p-12f, -0x1p-100f, 1 + 0x1p-11f},
    {1 + 0x1p-12f, 1 + 0x1p-12f, 0, 1 + 0x1p-11f},
    /* Below a power of two the spacing halves: 1 - 2^-25 + 2^-125 (tie between 1 - 2^-24 and 1, then above it). */
    {-0x1p-25f, 1, 1, 1},
    {-0x1p-25f * (1 + U), 1, 1, 1 - 0x1p-24f},
    /* Signed zeros and infinities. */
    {0, -1, 0, 0},
    {-0.0f, 1, -0.0f, -0.0f},
    {1, 1, -1, 0},
    {INFINITY, 1, 1, INFINITY},
    {INFINITY, -1, 1, -INFINITY},
    {0x1p127f, 2, 0, INFINITY},
    {0x1p127f, 2, -0x1p127f, 0x1p127f},
    /* Exact cancellation of the leading half. */
    {0x1.fffffep0f, 0x1.fffffep0f, -0x1.fffffcp1f, 0x1p-46f},
};

static void hard_cases_are_exact(void) {
    for (size_t j = 0; j < sizeof hard_cases / sizeof hard_cases[0]; j++) {
        const struct hard_case h = hard_cases[j];
        const float result = edgefl_software_fma(h.a, h.b, h.c);
        if (!same(result, h.expected)) {
            fprintf(stderr, "case %zu: fma(%a, %a, %a) = %a, expected %a\n", j, (double)h.a, (double)h.b, (double)h.c,
                    (double)result, (double)h.expected);
            failures++;
        }
    }
    CHECK(isnan(edgefl_software_fma(NAN, 1, 1)));
    CHECK(isnan(edgefl_software_fma(INFINITY, 0, 1)));
    CHECK(isnan(edgefl_software_fma(INFINITY, 1, -INFINITY)));
}

static void equals_fmaf_near_ties_and_cancellations(void) {
    uint64_t state = 1;
    int differing = 0;
    for (int j = 0; j < 300000; j++) {
        const float a = of_bits((draw(&state) & 0x807fffffu) | (100 + draw(&state) % 50) << 23);
        const float b = of_bits((draw(&state) & 0x807fffffu) | (100 + draw(&state) % 50) << 23);
        float c = of_bits((draw(&state) & 0x807fffffu) | (100 + draw(&state) % 50) << 23);
        switch (draw(&state) % 4) {
            case 0: /* the sum cancels to the product's rounding error, or nearly */
                c = of_bits(bits_of(-(a * b)) + draw(&state) % 3);
                break;
            case 1: /* the product is near half a unit of the addend */
                c = a * b * 0x1p24f;
                c = of_bits(bits_of(c) & ~(draw(&state) % 4));
                break;
            default:
                break;
        }
        differing += !same(edgefl_software_fma(a, b, c), fmaf(a, b, c));
    }
    CHECK(differing == 0);
}

int main(void) {
    hard_cases_are_exact();
    equals_fmaf_near_ties_and_cancellations();
    return failures != 0;
}
