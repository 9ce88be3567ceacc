# The mlp: one hidden layer before the softmax layer. Included by _kernels.pyx; mlp.py checks what callers give.

cdef class Mlp:
    """A view of an mlp's parameters, whose number the caller has checked."""

    cdef edgefl_mlp c
    cdef const float[::1] parameters

    def __init__(self, const float[::1] parameters not None, size_t num_hidden, size_t num_classes):
        self.parameters = parameters
        self.c.num_hidden = num_hidden
        self.c.num_classes = num_classes
        self.c.parameters = float_pointer(self.parameters)


def train_mlp(Features features not None, const int32_t[::1] labels not None, example_weights, Mlp start not None,
              config, correction, StopFlag stop):
    """As ``train``; ``correction`` is None or as many float32 as start has. Returns parameters and the five counts."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_train_options options
    cdef edgefl_train_stats stats
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef const float[::1] weights_view
    cdef const float[::1] correction_view
    cdef const float *weights = NULL
    cdef const float *added = NULL
    cdef const int32_t *label_data = int32_pointer(labels)
    cdef const edgefl_stop_flag *flag = NULL
    cdef bytes key = config.shuffle_key
    set_options(&options, config, key)
    if example_weights is not None:
        weights_view = example_weights
        weights = float_pointer(weights_view)
    if correction is not None:
        correction_view = correction
        added = float_pointer(correction_view)
    if stop is not None:
        flag = &stop.flag
    cdef bytes parameters = new_bytes(<size_t>start.parameters.shape[0], sizeof(float))
    cdef float *data = <float *>PyBytes_AS_STRING(parameters)
    cdef Scratch scratch = Scratch(
        edgefl_mlp_train_scratch_bytes(&features.c, start.c.num_hidden, start.c.num_classes, added, &options))
    with nogil:
        status = edgefl_mlp_train(used, &features.c, label_data, weights, &start.c, added, &options, flag,
                                  scratch.data, scratch.size, data, &stats, &place)
    check(status, &place)
    return parameters, (stats.examples_seen, stats.num_steps, stats.loss_sum, stats.num_correct, bool(stats.stopped))


def evaluate_mlp(Features features not None, const int32_t[::1] labels not None, Mlp model not None):
    """As ``evaluate``."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef double loss_sum = 0.0
    cdef const int32_t *label_data = int32_pointer(labels)
    cdef bytes confusion = bytes(model.c.num_classes * model.c.num_classes * sizeof(uint64_t))  # pages of zeros
    cdef uint64_t *confusion_data = <uint64_t *>PyBytes_AS_STRING(confusion)
    cdef Scratch scratch = Scratch(
        edgefl_mlp_infer_scratch_bytes(&features.c, model.c.num_hidden, model.c.num_classes))
    with nogil:
        status = edgefl_mlp_evaluate(used, &features.c, label_data, &model.c, scratch.data, scratch.size,
                                     confusion_data, &loss_sum, &place)
    check(status, &place)
    return confusion, loss_sum


def predict_mlp(Features features not None, Mlp model not None):
    """As ``predict``."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef bytes out = new_bytes(features.c.num_rows * model.c.num_classes, sizeof(float))
    cdef float *data = <float *>PyBytes_AS_STRING(out)
    cdef Scratch scratch = Scratch(
        edgefl_mlp_infer_scratch_bytes(&features.c, model.c.num_hidden, model.c.num_classes))
    with nogil:
        status = edgefl_mlp_predict(used, &features.c, &model.c, scratch.data, scratch.size, data, &place)
    check(status, &place)
    return out
