/* The GRADIENT path's step: from the gradient of a batch's examples to new weights, in the order that edgefl.h states
 * at edgefl_softmax_train. */
#ifndef EDGEFL_DESCENT_H
#define EDGEFL_DESCENT_H

#include "network.h"

struct descent {
    const edgefl_variant *variant;
    const edgefl_train_options *options;
    struct network_values start;
    struct network_values correction; /* with has_correction */
    bool has_correction;
    struct network gradient; /* of the batch */
    struct network velocity; /* with momentum */
};

/* Whether anything is added to the gradient of the examples. */
bool descent_has_terms(const struct descent *descent);

/* Whether every step is DIRECT: gradient is then not used. */
bool descent_is_direct(const struct descent *descent);

/* The step. The gradient has been flushed, unless something is added to it. False, and no step, when clipping would
 * scale by less than 2^-30. */
bool descent_step(struct descent *descent, struct network *network);

#endif
