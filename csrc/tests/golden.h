/* The cases of the golden vectors and their inputs; golden.c runs them. */
#ifndef EDGEFL_TESTS_GOLDEN_H
#define EDGEFL_TESTS_GOLDEN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "edgefl.h"

#define GOLDEN_NUM_ROWS 137 /* two full tiles and a rest; no batch divides it */

enum how {
    MOMENTUM = 1u << 0,
    PROXIMAL = 1u << 1,
    CLIPPED = 1u << 2,
    WEIGHTED = 1u << 3,
    L2 = 1u << 4,
    SHUFFLED = 1u << 5,
    STANDARDIZED = 1u << 6,
    STOPPED = 1u << 7, /* the stop flag is set before the start: nothing is learned, all is counted */
    SHORT_SCRATCH = 1u << 8,
    CORRECTED = 1u << 9,
};

struct shape {
    size_t num_rows, num_features, num_classes, batch_size, num_epochs;
    edgefl_dtype dtype;
    unsigned how;
};

/* What a case trains on. Every array is owned by the case and freed after it. */
struct inputs {
    struct shape shape;
    float *data; /* float32 features, or NULL */
    uint8_t *stored;
    int32_t *labels;
    float *example_weights;
    float *kernel;
    float *bias;
    float *mean;
    float *inverse_spread;
    float *kernel_correction;
    float *bias_correction;
    edgefl_model correction; /* of these two; with CORRECTED the options point to it */
    edgefl_features features;
    edgefl_train_options options;
};

/* A case that sets an edge of the arithmetic, or makes an error. */
struct edge {
    const char *name;
    struct shape shape;
    void (*edit)(struct inputs *inputs);
};

extern const struct edge golden_edges[];
extern const size_t golden_num_edges;

struct sha256;

/* The lines so far. */
struct text {
    char *bytes;
    size_t size;
};

/* Adds the digest, which it closes, or for a status other than EDGEFL_OK that and its place. */
void golden_add_result(struct text *text, const char *name, edgefl_status status, struct sha256 *hash,
                       const edgefl_place *place);

/* golden_server.c */
void golden_run_statistics(struct text *text, const edgefl_variant *variant);
void golden_run_aggregation(struct text *text, const edgefl_variant *variant);
void golden_run_distributions(struct text *text, const edgefl_variant *variant);
void golden_run_adaptive(struct text *text); /* no variant has a loop of its own for it */

/* golden_mlp.c */
void golden_run_mlp(struct text *text, const edgefl_variant *variant);

/* size bytes of zeros, until release_all. */
void *golden_take(size_t count, size_t size);
void golden_release_all(void);

/* Multiples of 2^-23 in [-1, 1); one in 16 is an edge: 0, -0, and the smallest magnitude that counts. */
float *golden_floats(uint32_t seed, uint8_t purpose, size_t count, float smallest);

/* Inputs drawn by edgefl_random_words; the same seed gives the same inputs. */
void golden_draw(struct inputs *inputs, const struct shape *shape, uint32_t seed);

#endif
