/* Features, labels, a model and options, drawn from the fuzzer's bytes: mostly legal, now and then not. */
#ifndef EDGEFL_FUZZ_PROBLEM_H
#define EDGEFL_FUZZ_PROBLEM_H

#include "input.h"

struct problem {
    /* What the buffers hold. The features and the model may claim more or less: that must be refused unread. */
    size_t num_rows, num_features, num_classes;
    edgefl_features features;
    edgefl_model model;
    int32_t *labels;
    float *example_weights;
    edgefl_train_options options;
    bool bad_shape;   /* every function must refuse it as EDGEFL_BAD_ARGUMENT, without reading anything */
    bool bad_options; /* training must, likewise */
};

/* Around the widths of the vectors and of the tile, and so small that an input takes microseconds. */
static inline size_t take_size(struct input *in) {
    static const uint8_t sizes[] = {1, 2, 3, 5, 7, 8, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 79, 80, 127, 130};
    return sizes[take_below(in, sizeof sizes)];
}

static inline size_t take_classes(struct input *in) {
    return take_rarely(in, 16) ? 1 + take_below(in, 70) : 1 + take_below(in, 17);
}

static inline void take_data(struct input *in, struct problem *problem) {
    edgefl_features *features = &problem->features;
    const size_t count = problem->num_rows * problem->num_features;
    features->dtype = (edgefl_dtype)take_below(in, 3);
    if (features->dtype == EDGEFL_FLOAT32) {
        features->data = take_floats(in, count, EDGEFL_MIN_MAGNITUDE);
        return;
    }
    uint8_t *stored = room(in, count, 1);
    uint64_t state = take_word(in);
    for (size_t j = 0; j < count; j++) {
        stored[j] = (uint8_t)mixed(&state);
    }
    features->data = stored;
    features->scale = take_rarely(in, 8) ? take_float(in) : (float)(1 + take_below(in, 255)) * 0x1p-13f;
    features->zero_point = (int32_t)take_below(in, 384) - 128;
}

/* Of this many classes; in a block, since the options point to it. */
static inline edgefl_model *correction_room(struct input *in, size_t num_classes) {
    edgefl_model *correction = block(in, sizeof *correction, 0);
    *correction = (edgefl_model){.num_classes = num_classes};
    return correction;
}

/* One field that is outside its range; nothing behind a pointer may be read then. */
static inline void spoil(struct input *in, struct problem *problem) {
    edgefl_features *features = &problem->features;
    const size_t which = take_below(in, 13);
    problem->bad_options = which >= 8 && which <= 11;
    problem->bad_shape = which <= 7; /* a zero point is looked at last, after the values of the model and the labels */
    switch (which) {
        case 0:
            features->num_rows = 0;
            break;
        case 1:
            features->num_rows = (size_t)EDGEFL_MAX_ROWS + 1 + take_below(in, 3);
            break;
        case 2:
            features->num_features = 0;
            break;
        case 3:
            features->num_features = EDGEFL_MAX_FEATURES + 1u;
            break;
        case 4:
            features->num_features = SIZE_MAX - take_below(in, 64);
            break;
        case 5:
            features->dtype = (edgefl_dtype)(3 + take_below(in, 200));
            break;
        case 6:
            problem->model.num_classes = 0;
            break;
        case 7:
            problem->model.num_classes = take_rarely(in, 2) ? SIZE_MAX : EDGEFL_MAX_CLASSES + 1u;
            break;
        case 8:
            problem->options.batch_size = take_rarely(in, 2) ? 0 : EDGEFL_MAX_BATCH + 1u;
            break;
        case 9:
            problem->options.momentum = 1.0f + 0x1p-23f;
            break;
        case 10:
            problem->options.learning_rate = take_rarely(in, 2) ? -0.5f : __builtin_nanf("");
            break;
        case 11:
            problem->options.correction = correction_room(in, problem->num_classes + 1 - 2 * take_below(in, 2));
            break;
        default:
            features->dtype = EDGEFL_INT8;
            features->scale = 1.0f;
            features->data = block(in, problem->num_rows * problem->num_features, 0);
            features->zero_point = take_rarely(in, 2) ? -129 : 256;
            break;
    }
}

static inline float take_rate(struct input *in, bool often) {
    static const float rates[] = {0.5f, 0.25f, 0.1f, 1.0f, 0x1p-30f, 0x1p-20f, 3.0f, 1e10f, 1e30f, 0x1.fffffep127f};
    if (!often && !take_rarely(in, 3)) {
        return 0.0f;
    }
    return take_rarely(in, 32) ? take_float(in) : rates[take_below(in, sizeof rates / sizeof rates[0])];
}

static inline void take_options(struct input *in, struct problem *problem) {
    edgefl_train_options *options = &problem->options;
    options->learning_rate = take_rate(in, true);
    if (take_rarely(in, 2)) {
        options->l2 = take_rate(in, false);
        options->momentum = take_rarely(in, 2) ? (float)take_below(in, 17) * 0.0625f : 0.0f;
        options->proximal = take_rate(in, false);
        options->clip_norm = take_rate(in, false);
    }
    options->batch_size = take_size(in);
    options->num_epochs = take_below(in, 4);
    if (take_rarely(in, 2)) {
        uint8_t *key = block(in, 16, 0);
        for (int j = 0; j < 16; j++) {
            key[j] = take_byte(in);
        }
        options->shuffle_key = key;
    }
}

static inline void take_correction(struct input *in, struct problem *problem) {
    if (take_rarely(in, 3)) {
        edgefl_model *correction = correction_room(in, problem->num_classes);
        correction->kernel = take_floats(in, problem->num_classes * problem->num_features, 0x1p-50f);
        correction->bias = take_floats(in, problem->num_classes, 0x1p-51f);
        problem->options.correction = correction;
    }
}

static inline void take_labels(struct input *in, struct problem *problem) {
    problem->labels = room(in, problem->num_rows, sizeof(int32_t));
    uint64_t state = take_word(in);
    for (size_t i = 0; i < problem->num_rows; i++) {
        problem->labels[i] = (int32_t)(mixed(&state) % problem->num_classes);
    }
    if (take_rarely(in, 16)) {
        problem->labels[take_below(in, problem->num_rows)] = (int32_t)take_word(in);
    }
    if (take_rarely(in, 3)) {
        problem->example_weights = take_floats(in, problem->num_rows, EDGEFL_MIN_MAGNITUDE);
        for (size_t i = 0; i < problem->num_rows && !take_rarely(in, 200); i++) {
            problem->example_weights[i] = __builtin_fabsf(problem->example_weights[i]);
        }
    }
}

static inline struct problem take_problem(struct input *in) {
    struct problem problem = {
        .num_rows = take_size(in), .num_features = take_size(in), .num_classes = take_classes(in)};
    const bool spoilt = take_rarely(in, 24);
    problem.features.num_rows = problem.num_rows;
    problem.features.num_features = problem.num_features;
    take_data(in, &problem);
    if (take_rarely(in, 3)) {
        problem.features.mean = take_floats(in, problem.num_features, EDGEFL_MIN_MAGNITUDE);
        problem.features.inverse_spread = take_floats(in, problem.num_features, EDGEFL_MIN_MAGNITUDE);
    }
    problem.model = (edgefl_model){.num_classes = problem.num_classes,
                                   .kernel = take_floats(in, problem.num_classes * problem.num_features, 0x1p-50f),
                                   .bias = take_floats(in, problem.num_classes, 0x1p-51f)};
    take_labels(in, &problem);
    take_options(in, &problem);
    take_correction(in, &problem);
    if (spoilt) {
        spoil(in, &problem);
    }
    return problem;
}

#endif
