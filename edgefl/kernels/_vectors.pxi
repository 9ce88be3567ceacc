# Exact aggregation, vectors, and the steps of a server. Equal lengths are checked by the caller. Included by
# _kernels.pyx.

def accumulate(int64_t[::1] sums not None, const float[::1] delta not None, uint64_t weight, int grid_shift,
               double factor):
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef size_t n = <size_t>delta.shape[0]
    cdef const float *delta_data = float_pointer(delta)
    cdef int64_t *sums_data = <int64_t *>int64_pointer(sums)
    check_apart(sums_data, <size_t>sums.nbytes, delta_data, <size_t>delta.nbytes)
    with nogil:
        status = edgefl_accumulate(used, sums_data, delta_data, n, weight, grid_shift, factor, &place)
    check(status, &place)


def add_sums(int64_t[::1] sums not None, const int64_t[::1] other not None):
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef size_t n = <size_t>other.shape[0]
    cdef int64_t *sums_data = <int64_t *>int64_pointer(sums)
    cdef const int64_t *other_data = int64_pointer(other)
    if sums_data != other_data:
        check_apart(sums_data, <size_t>sums.nbytes, other_data, <size_t>other.nbytes)
    with nogil:
        status = edgefl_add_sums(sums_data, other_data, n, &place)
    check(status, &place)


def finalize_mean(const int64_t[::1] sums not None, uint64_t total_weight, int grid_shift):
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef size_t n = <size_t>sums.shape[0]
    cdef const int64_t *sums_data = int64_pointer(sums)
    cdef bytes out = new_bytes(n, sizeof(double))
    cdef double *data = <double *>PyBytes_AS_STRING(out)
    with nogil:
        status = edgefl_finalize_mean(sums_data, n, total_weight, grid_shift, data)
    check(status, &place)
    return out


def squared_norm(const float[::1] values not None):
    cdef const float *data = float_pointer(values)
    cdef size_t n = <size_t>values.shape[0]
    cdef double result
    with nogil:
        result = edgefl_squared_norm(data, n)
    return result


def first_non_finite(const float[::1] values not None):
    cdef const float *data = float_pointer(values)
    cdef size_t n = <size_t>values.shape[0]
    cdef size_t index
    with nogil:
        index = edgefl_first_non_finite(data, n)
    return index if index < n else -1


def subtract(const float[::1] a not None, const float[::1] b not None):
    cdef size_t n = <size_t>a.shape[0]
    cdef const float *a_data = float_pointer(a)
    cdef const float *b_data = float_pointer(b)
    cdef bytes out = new_bytes(n, sizeof(float))
    cdef float *data = <float *>PyBytes_AS_STRING(out)
    with nogil:
        edgefl_subtract(a_data, b_data, n, data)
    return out


def apply_update(const float[::1] model not None, const double[::1] update not None, double rate):
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef size_t n = <size_t>model.shape[0]
    cdef const float *model_data = float_pointer(model)
    cdef const double *update_data = double_pointer(update)
    cdef bytes out = new_bytes(n, sizeof(float))
    cdef float *data = <float *>PyBytes_AS_STRING(out)
    with nogil:
        status = edgefl_apply_update(model_data, update_data, n, rate, data, &place)
    check(status, &place)
    return out


ADAPTIVE_RULES = {"adam": <int>EDGEFL_ADAM, "yogi": <int>EDGEFL_YOGI, "adagrad": <int>EDGEFL_ADAGRAD}


def adaptive_step(int rule, bytes state not None, const float[::1] model not None, const double[::1] delta not None,
                  double learning_rate, double beta_1, double beta_2, double epsilon):
    """``state``: the second moments, or the first, then the second, checked by the caller. Returns state and model."""
    cdef edgefl_adaptive_options options
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef size_t n = <size_t>delta.shape[0]
    cdef bytes new_state = new_bytes(len(state), 1)
    cdef bytes out = new_bytes(n, sizeof(float))
    cdef double *moments = <double *>PyBytes_AS_STRING(new_state)
    cdef double *second = moments
    cdef double *first = NULL
    cdef float *new_model = <float *>PyBytes_AS_STRING(out)
    cdef const double *delta_data = double_pointer(delta)
    cdef const float *model_data = float_pointer(model)
    options.rule = <edgefl_adaptive_rule>rule
    options.learning_rate = learning_rate
    options.beta_1 = beta_1
    options.beta_2 = beta_2
    options.epsilon = epsilon
    if <size_t>len(state) > n * sizeof(double):
        first = moments
        second = moments + n
    memcpy(moments, PyBytes_AS_STRING(state), <size_t>len(state))
    if n > 0:
        memcpy(new_model, model_data, n * sizeof(float))
    with nogil:
        status = edgefl_adaptive_step(&options, delta_data, n, first, second, new_model, &place)
    check(status, &place)
    return new_state, out
