/* Trains one softmax layer on made-up examples, for run.py, which counts the instructions.
 *
 * train VARIANT FEATURES CLASSES BATCH EXAMPLES EPOCHS SHUFFLED: with SHUFFLED 1 the rows come in a new order each
 * epoch. Prints a digest of the weights, equal for all variants. */
#include <stdio.h>
#include <stdlib.h>

#include "edgefl.h"

static uint32_t draw(uint32_t *state) {
    *state = *state * 1664525u + 1013904223u;
    return *state >> 8;
}

static void *room(size_t size) {
    void *memory = calloc(size, 1);
    if (memory == NULL) {
        perror("train");
        exit(2);
    }
    return memory;
}

int main(int argc, char **argv) {
    if (argc != 8) {
        fprintf(stderr, "usage: train VARIANT FEATURES CLASSES BATCH EXAMPLES EPOCHS SHUFFLED\n");
        return 2;
    }
    const edgefl_variant *variant = edgefl_variant_find(argv[1]);
    if (variant == NULL) {
        fprintf(stderr, "train: no variant %s on this CPU\n", argv[1]);
        return 2;
    }
    const size_t f = strtoul(argv[2], NULL, 10), c = strtoul(argv[3], NULL, 10), n = strtoul(argv[5], NULL, 10);
    static const uint8_t key[16] = {5};
    const edgefl_train_options options = {.learning_rate = 0.1f,
                                          .batch_size = strtoul(argv[4], NULL, 10),
                                          .num_epochs = strtoul(argv[6], NULL, 10),
                                          .shuffle_key = argv[7][0] == '1' ? key : NULL};
    float *data = room(n * f * sizeof *data);
    int32_t *labels = room(n * sizeof *labels);
    float *kernel = room(c * f * sizeof *kernel);
    float *bias = room(c * sizeof *bias);
    uint32_t state = 1;
    for (size_t j = 0; j < n * f; j++) {
        data[j] = (float)(draw(&state) % 256) * (1.0f / 256.0f);
    }
    for (size_t i = 0; i < n; i++) {
        labels[i] = (int32_t)(draw(&state) % (uint32_t)c);
    }
    const edgefl_features features = {.data = data, .num_rows = n, .num_features = f};
    const edgefl_model start = {c, kernel, bias};
    const size_t size = edgefl_softmax_train_scratch_bytes(&features, c, &options);
    edgefl_train_stats stats;
    edgefl_place place;
    const edgefl_status status = edgefl_softmax_train(variant, &features, labels, NULL, &start, &options, NULL,
                                                      room(size), size, kernel, bias, &stats, &place);
    if (status != EDGEFL_OK) {
        fprintf(stderr, "train: status %d\n", (int)status);
        return 1;
    }
    uint64_t hash = UINT64_C(14695981039346656037);
    for (size_t j = 0; j < c * f * sizeof *kernel; j++) {
        hash = (hash ^ ((const unsigned char *)kernel)[j]) * UINT64_C(1099511628211);
    }
    printf("digest %016llx\n", (unsigned long long)hash);
    return 0;
}
