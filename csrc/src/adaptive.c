/* A server's adaptive steps: binary64 additions, multiplications, divisions and square roots, each rounded, value by
 * value, so that any machine and any language that keeps to IEEE 754 gives the same bits.
 *
 * Source: Reddi et al., "Adaptive Federated Optimization", ICLR 2021, algorithm 2. */
#include "numeric.h"

/* A second moment below this becomes +0, as its root would: one that decays for ever would become subnormal. Here and
 * for a first moment the comparison is one that a NaN fails, so that it stays and is named. */
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

/* An infinite second moment makes steps of 0 for ever, and no weight would tell. */
static edgefl_status check_finite(const double *second, const float *model, size_t n, edgefl_place *place) {
    for (size_t j = 0; j < n; j++) {
        if (!(second[j] <= DBL_MAX && is_finite(model[j]))) {
            *place = (edgefl_place){j, 0};
            return EDGEFL_NON_FINITE_RESULT;
        }
    }
    return EDGEFL_OK;
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
            m = first[j] = __builtin_fabs(moment) < (double)EDGEFL_STORED_MIN_MAGNITUDE ? 0.0 : moment;
        }
        const double v = moved(options, second[j], delta[j] * delta[j]);
        second[j] = v < MIN_SECOND_MOMENT ? 0.0 : v;
        const double scaled = m / (__builtin_sqrt(second[j]) + options->epsilon);
        const double change = options->learning_rate * scaled;
        model[j] = flush((float)((double)model[j] + change));
    }
    return check_finite(second, model, n, place);
}
