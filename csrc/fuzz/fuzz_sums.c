/* edgefl_accumulate with every variant, edgefl_add_sums and edgefl_finalize_mean: what is refused changes nothing, and
 * what is taken can be taken back. */
#include <math.h>

#include "input.h"

static void fuzz_accumulate(struct input *in, size_t n) {
    const int64_t *before = take_integers(in, n);
    const float *delta = take_floats(in, n, 0x1p-149f);
    /* Of every magnitude: from 2^31 a variant may have another way, and from 2^32 + 1 it is refused. */
    const uint64_t weight = take_rarely(in, 2) ? take_long(in) >> take_below(in, 64) : 1 + take_below(in, 1000);
    const int grid_shift = take_rarely(in, 8) ? (int)(take_word(in) % 600) - 300 : (int)take_below(in, 36);
    const double factor = take_rarely(in, 4) ? take_double(in) : 1.0;
    int64_t *sums = copied(in, before, n * sizeof(int64_t));
    edgefl_place place = nowhere;
    const edgefl_status status =
        edgefl_accumulate(edgefl_scalar_software(), sums, delta, n, weight, grid_shift, factor, &place);
    EACH_VARIANT(variant) {
        int64_t *found = room(in, n, sizeof(int64_t));
        edgefl_place found_place = nowhere;
        memmove(found, before, n * sizeof(int64_t));
        REQUIRE(edgefl_accumulate(variant, found, delta, n, weight, grid_shift, factor, &found_place) == status);
        REQUIRE(same_place(&found_place, &place) && same_bytes(found, sums, n * sizeof(int64_t)));
    }
    if (status != EDGEFL_OK) {
        REQUIRE(same_bytes(sums, before, n * sizeof(int64_t)));
        REQUIRE(status == EDGEFL_BAD_ARGUMENT || place.row < n);
        return;
    }
    for (size_t j = 0; j < n; j++) {
        /* Another rounding function than the library's, in the mode that C starts in. */
        const double q = nearbyint(ldexp((double)delta[j], grid_shift) * factor);
        REQUIRE(fabs(q) <= (double)EDGEFL_MAX_GRID_VALUE);
        REQUIRE((uint64_t)sums[j] == (uint64_t)before[j] + (uint64_t)(int64_t)q * weight);
    }
}

static void fuzz_add(struct input *in, size_t n) {
    int64_t *sums = take_integers(in, n);
    const bool doubled = take_rarely(in, 8);
    const int64_t *other = doubled ? sums : take_integers(in, n);
    const int64_t *before = copied(in, sums, n * sizeof(int64_t));
    const int64_t *added = copied(in, other, n * sizeof(int64_t));
    edgefl_place place = nowhere;
    const edgefl_status status = edgefl_add_sums(sums, other, n, &place);
    REQUIRE(status == EDGEFL_OK || (status == EDGEFL_OVERFLOW && place.row < n));
    for (size_t j = 0; j < n; j++) {
        const uint64_t added_here = status == EDGEFL_OK ? (uint64_t)added[j] : 0;
        REQUIRE((uint64_t)sums[j] == (uint64_t)before[j] + added_here);
    }
}

static void fuzz_mean(struct input *in, size_t n) {
    const int64_t *sums = take_integers(in, n);
    const uint64_t total = take_rarely(in, 4) ? take_long(in) : 1 + take_below(in, 1000);
    const int grid_shift = take_rarely(in, 8) ? (int)(take_word(in) % 600) - 300 : (int)take_below(in, 36);
    double *mean = room(in, n, sizeof(double));
    const edgefl_status status = edgefl_finalize_mean(sums, n, total, grid_shift, mean);
    REQUIRE(status == EDGEFL_OK || status == EDGEFL_BAD_ARGUMENT);
    for (size_t j = 0; status == EDGEFL_OK && j < n; j++) {
        REQUIRE(isfinite(mean[j]) && (mean[j] < 0.0) == (sums[j] < 0));
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    const size_t n = take_below(&in, 200);
    fuzz_accumulate(&in, n);
    fuzz_add(&in, n);
    fuzz_mean(&in, n);
    input_close(&in);
    return 0;
}
