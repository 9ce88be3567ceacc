/* The public functions that train: a softmax layer, or one behind a hidden layer. */
#include "train.h"

static bool correction_fits(const edgefl_train_options *options, size_t num_classes) {
    return options->correction == NULL || options->correction->num_classes == num_classes;
}

size_t edgefl_softmax_train_scratch_bytes(const edgefl_features *features, size_t num_classes,
                                          const edgefl_train_options *options) {
    const struct train_problem problem = {.features = features,
                                          .options = options,
                                          .shape = softmax_shape(features->num_features, num_classes),
                                          .has_correction = options->correction != NULL};
    return correction_fits(options, num_classes) ? train_scratch_bytes(&problem) : 0;
}

edgefl_status edgefl_softmax_train(const edgefl_variant *variant, const edgefl_features *features,
                                   const int32_t *labels, const float *example_weights, const edgefl_model *start,
                                   const edgefl_train_options *options, const edgefl_stop_flag *stop, void *scratch,
                                   size_t scratch_bytes, float *kernel, float *bias, edgefl_train_stats *stats,
                                   edgefl_place *place) {
    struct train_problem problem = {variant,
                                    features,
                                    labels,
                                    example_weights,
                                    options,
                                    stop,
                                    softmax_shape(features->num_features, start->num_classes),
                                    {{*start}},
                                    {{{0}}},
                                    false};
    if (!correction_fits(options, start->num_classes)) {
        return EDGEFL_BAD_ARGUMENT;
    }
    if (options->correction != NULL) {
        problem.correction.layers[0] = *options->correction;
        problem.has_correction = true;
    }
    struct network trained;
    const edgefl_status status = train(&problem, scratch, scratch_bytes, &trained, stats, place);
    if (status == EDGEFL_OK) {
        layer_store(&trained.layers[0], kernel, bias);
    }
    return status;
}

size_t edgefl_mlp_train_scratch_bytes(const edgefl_features *features, size_t num_hidden, size_t num_classes,
                                      const float *correction, const edgefl_train_options *options) {
    const struct train_problem problem = {.features = features,
                                          .options = options,
                                          .shape = mlp_shape(features->num_features, num_hidden, num_classes),
                                          .has_correction = correction != NULL};
    return options->correction == NULL ? train_scratch_bytes(&problem) : 0;
}

edgefl_status edgefl_mlp_train(const edgefl_variant *variant, const edgefl_features *features, const int32_t *labels,
                               const float *example_weights, const edgefl_mlp *start, const float *correction,
                               const edgefl_train_options *options, const edgefl_stop_flag *stop, void *scratch,
                               size_t scratch_bytes, float *parameters, edgefl_train_stats *stats,
                               edgefl_place *place) {
    struct train_problem problem = {variant,
                                    features,
                                    labels,
                                    example_weights,
                                    options,
                                    stop,
                                    mlp_shape(features->num_features, start->num_hidden, start->num_classes),
                                    {{{0}}},
                                    {{{0}}},
                                    correction != NULL};
    if (options->correction != NULL || !train_arguments_ok(&problem)) {
        return EDGEFL_BAD_ARGUMENT; /* before sizes that overflow make addresses */
    }
    problem.start = mlp_values(&problem.shape, start->parameters);
    if (correction != NULL) {
        problem.correction = mlp_values(&problem.shape, correction);
    }
    struct network trained;
    const edgefl_status status = train(&problem, scratch, scratch_bytes, &trained, stats, place);
    if (status == EDGEFL_OK) {
        float *hidden_bias = parameters + start->num_hidden * features->num_features;
        float *kernel = hidden_bias + start->num_hidden;
        layer_store(&trained.layers[0], parameters, hidden_bias);
        layer_store(&trained.layers[1], kernel, kernel + start->num_classes * start->num_hidden);
    }
    return status;
}
