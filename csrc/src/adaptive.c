/* A server's adaptive steps: binary64 additions, multiplications, divisions and square roots, each rounded, value by
 * value, so that any machine and any language that keeps to IEEE 754 gives the same bits.
 *
 * Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2. */
#include "numeric.h"

/* A second moment below this becomes +0, as its root would: one that decays for ever would become subnormal. */
#define MIN_SECOND_MOMENT ((double)EDGEFL_STORED_MIN_MAGNITUDE * (double)EDGEFL_STORED_MIN_MAGNITUDE)

static double moved(const edgefl_adaptive_options *options, double v, double square) {
    const double fresh = 1.0 - options->beta_2;
    switch (options->rule) {
        case EDGEFL_ADAM:
            return options->beta_2 * v + fresh * square;
        case EDGEFL_YOGI:
            return v > square ? v - fresh * square : v < square ? v + fresh * square : v;
        default:
            return v + square;
    }
}

edgefl_status edgefl_adaptive_step(const edgefl_adaptive_options *options, const double *delta, size_t n, double *first,
                                   double *second, float *model, edgefl_place *place) {
    if ((unsigned)options->rule > (unsigned)EDGEFL_ADAGRAD) {
        return EDGEFL_BAD_ARGUMENT;
    }
    const double keep = options->beta_1;
    const double fresh = 1.0 - keep;
    for (size_t j = 0; j < n; j++) {
        double m = delta[j];
        if (first != NULL) {
            const double moment = keep * first[j] + fresh * m;
            m = first[j] = __builtin_fabs(moment) >= (double)EDGEFL_STORED_MIN_MAGNITUDE ? moment : 0.0;
        }
        const double v = moved(options, second[j], delta[j] * delta[j]);
        second[j] = v >= MIN_SECOND_MOMENT ? v : 0.0;
        const double scaled = m / (__builtin_sqrt(second[j]) + options->epsilon);
        const double change = options->learning_rate * scaled;
        model[j] = flush((float)((double)model[j] + change));
    }
    const size_t bad = edgefl_first_non_finite(model, n);
    if (bad < n) {
        place->row = bad;
        place->column = 0;
        return EDGEFL_NON_FINITE_RESULT;
    }
    return EDGEFL_OK;
}
