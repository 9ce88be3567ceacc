# cython: language_level=3, boundscheck=True, wraparound=False, initializedcheck=True, embedsignature=False
"""libedgefl for Python: pointers, scratch and the GIL. The modules next to this one check what callers give.

Each function takes buffers of the declared type (any object with the buffer protocol; read-only where it is const),
allocates scratch and outputs, calls C without the GIL, and raises ``StatusError`` for any status but OK.
"""

from libc.stddef cimport size_t
from libc.stdint cimport int8_t, int32_t, int64_t, uint8_t, uint32_t, uint64_t, uintptr_t
from libc.string cimport memcpy
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.mem cimport PyMem_RawFree, PyMem_RawMalloc
from edgefl.kernels.libedgefl cimport *

import os

from edgefl.errors import ConfigError, DataError, LocalProtocolError
from edgefl.kernels._status import StatusError

NUM_STATUSES = <int>EDGEFL_NUM_STATUSES
MAX_BINS = EDGEFL_MAX_BINS
MAX_HIDDEN = EDGEFL_MAX_HIDDEN

VARIABLE = "EDGEFL_KERNEL"

# The variant in use; chosen at the first call, from the environment, and kept. Guarded by the GIL.
cdef const edgefl_variant *chosen = NULL


def available_variants():
    """The names of the variants that this CPU supports, slowest first."""
    names = []
    for index in range(edgefl_variant_count()):
        if edgefl_variant_find(edgefl_variant_name(index)) != NULL:
            names.append(edgefl_variant_name(index).decode())
    return tuple(names)


def select_variant(name):
    """Use this variant from now on; None asks for the fastest. Raises ``ConfigError`` for one that cannot run here."""
    global chosen
    cdef const edgefl_variant *found
    cdef bytes raw
    if name is None:
        found = edgefl_variant_find(NULL)
    else:
        # A NUL byte would hide what follows it.
        raw = name.encode("utf-8", "surrogateescape")
        found = edgefl_variant_find(raw) if b"\0" not in raw else NULL
    if found == NULL:
        raise ConfigError(
            f"kernel variant {name!r} is unknown, or this CPU does not support it; expected one of "
            f"{', '.join(available_variants())} (set by {VARIABLE}; unset it for the fastest)"
        )
    chosen = found


def active_variant():
    """The name of the variant in use."""
    return edgefl_variant_name_of(variant()).decode()


cdef const edgefl_variant *variant() except NULL:
    if chosen == NULL:
        select_variant(os.environ.get(VARIABLE) or None)
    return chosen


cdef class StopFlag:
    """Asks a training to stop between two batches; may be set from any thread while the training runs."""

    cdef edgefl_stop_flag flag

    def __cinit__(self):
        edgefl_stop_flag_init(&self.flag)

    def set(self):
        """Stop every training that was given this flag; it stays set."""
        edgefl_stop_flag_set(&self.flag)

    def is_set(self):
        return bool(edgefl_stop_flag_is_set(&self.flag))


# ---- pointers --------------------------------------------------------------------------------------------------------

cdef int check_aligned(const void *data, size_t size) except -1:
    """A slice of bytes may lie anywhere; C reads a number only from a multiple of its size."""
    if <uintptr_t>data % size != 0:
        raise DataError(
            f"a buffer of {size}-byte numbers starts at an address that is not a multiple of {size}; copy it first"
        )
    return 0


cdef int check_apart(const void *a, size_t a_size, const void *b, size_t b_size) except -1:
    """What C changes in place must not be what it reads besides: the result would depend on the variant."""
    if <uintptr_t>a < <uintptr_t>b + b_size and <uintptr_t>b < <uintptr_t>a + a_size:
        raise DataError("sums share memory with what is added to them; copy one of the two first")
    return 0


cdef const float *float_pointer(const float[::1] values) except? NULL:
    if values is None or values.shape[0] == 0:
        return NULL
    check_aligned(&values[0], sizeof(float))
    return &values[0]


cdef const double *double_pointer(const double[::1] values) except? NULL:
    if values.shape[0] == 0:
        return NULL
    check_aligned(&values[0], sizeof(double))
    return &values[0]


cdef const int32_t *int32_pointer(const int32_t[::1] values) except? NULL:
    if values.shape[0] == 0:
        return NULL
    check_aligned(&values[0], sizeof(int32_t))
    return &values[0]


cdef const int64_t *int64_pointer(const int64_t[::1] values) except? NULL:
    if values.shape[0] == 0:
        return NULL
    check_aligned(&values[0], sizeof(int64_t))
    return &values[0]


cdef class Features:
    """A view of features, and what they mean: shape (n, F), float32 (``kind`` "f"), uint8 ("B") or int8 ("b")."""

    cdef edgefl_features c
    cdef const float[:, ::1] f32
    cdef const uint8_t[:, ::1] u8
    cdef const int8_t[:, ::1] i8
    cdef const float[::1] mean
    cdef const float[::1] inverse_spread

    def __init__(self, data not None, str kind not None, float scale, int zero_point, mean, inverse_spread):
        if kind == "f":
            self.f32 = data
            self.c.dtype = EDGEFL_FLOAT32
            self.c.data = &self.f32[0, 0]
            self.c.num_rows = <size_t>self.f32.shape[0]
            self.c.num_features = <size_t>self.f32.shape[1]
            check_aligned(self.c.data, sizeof(float))
        elif kind == "B":
            self.u8 = data
            self.c.dtype = EDGEFL_UINT8
            self.c.data = &self.u8[0, 0]
            self.c.num_rows = <size_t>self.u8.shape[0]
            self.c.num_features = <size_t>self.u8.shape[1]
        else:
            self.i8 = data
            self.c.dtype = EDGEFL_INT8
            self.c.data = &self.i8[0, 0]
            self.c.num_rows = <size_t>self.i8.shape[0]
            self.c.num_features = <size_t>self.i8.shape[1]
        self.c.scale = scale
        self.c.zero_point = zero_point
        self.c.mean = NULL
        self.c.inverse_spread = NULL
        if mean is not None:
            self.mean = mean
            self.inverse_spread = inverse_spread
            self.c.mean = float_pointer(self.mean)
            self.c.inverse_spread = float_pointer(self.inverse_spread)


cdef class Model:
    """A view of weights: kernel (num_classes * num_features,) and bias (num_classes,), float32."""

    cdef edgefl_model c
    cdef const float[::1] kernel
    cdef const float[::1] bias

    def __init__(self, const float[::1] kernel not None, const float[::1] bias not None):
        self.kernel = kernel
        self.bias = bias
        self.c.num_classes = <size_t>self.bias.shape[0]
        self.c.kernel = float_pointer(self.kernel)
        self.c.bias = float_pointer(self.bias)


cdef class Scratch:
    """Memory for one call; freed with the object."""

    cdef void *data
    cdef size_t size

    def __cinit__(self, size_t size):
        # More than the address space comes as SIZE_MAX, and is refused here.
        self.data = PyMem_RawMalloc(size)
        self.size = size
        if self.data == NULL:
            raise MemoryError(f"no memory for {size} bytes of scratch")

    def __dealloc__(self):
        PyMem_RawFree(self.data)


cdef bytes new_bytes(size_t count, size_t size):
    """Uninitialized bytes, to be filled before anything else sees them."""
    return PyBytes_FromStringAndSize(NULL, <Py_ssize_t>(count * size))


cdef int check(edgefl_status status, const edgefl_place *place) except -1:
    if status != EDGEFL_OK:
        raise StatusError(<int>status, place.row, place.column)
    return 0


# ---- softmax ---------------------------------------------------------------------------------------------------------

cdef int set_options(edgefl_train_options *options, config, bytes key) except -1:
    """``config``: an ``edgefl.types.SgdOptions``. The key must outlive the options."""
    options.learning_rate = config.learning_rate
    options.l2 = config.l2
    options.momentum = config.momentum
    options.proximal = config.proximal
    options.clip_norm = config.clip_norm
    options.batch_size = config.batch_size
    options.num_epochs = config.local_epochs
    options.shuffle_key = NULL if key is None else <const uint8_t *>PyBytes_AS_STRING(key)
    options.correction = NULL
    return 0


def train(Features features not None, const int32_t[::1] labels not None, example_weights, Model start not None, config,
          Model correction, StopFlag stop):
    """``config``: an ``edgefl.types.TrainConfig``. Returns kernel, bias and the five counts.

    ``correction``: None, or of start's shape, which the caller has checked.
    """
    cdef const edgefl_variant *used = variant()
    cdef edgefl_train_options options
    cdef edgefl_train_stats stats
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef const float[::1] weights_view
    cdef const float *weights = NULL
    cdef const int32_t *label_data = int32_pointer(labels)
    cdef const edgefl_stop_flag *flag = NULL
    cdef bytes key = config.shuffle_key
    set_options(&options, config, key)
    if correction is not None:
        options.correction = &correction.c
    if example_weights is not None:
        weights_view = example_weights
        weights = float_pointer(weights_view)
    if stop is not None:
        flag = &stop.flag
    cdef bytes kernel = new_bytes(start.c.num_classes * features.c.num_features, sizeof(float))
    cdef bytes bias = new_bytes(start.c.num_classes, sizeof(float))
    cdef float *kernel_data = <float *>PyBytes_AS_STRING(kernel)
    cdef float *bias_data = <float *>PyBytes_AS_STRING(bias)
    cdef Scratch scratch = Scratch(
        edgefl_softmax_train_scratch_bytes(&features.c, start.c.num_classes, &options))
    with nogil:
        status = edgefl_softmax_train(used, &features.c, label_data, weights, &start.c, &options, flag, scratch.data,
                                      scratch.size, kernel_data, bias_data, &stats, &place)
    check(status, &place)
    return kernel, bias, (stats.examples_seen, stats.num_steps, stats.loss_sum, stats.num_correct,
                          bool(stats.stopped))


def evaluate(Features features not None, const int32_t[::1] labels not None, Model model not None):
    """Returns the confusion counts (num_classes * num_classes int64 as bytes) and the sum of losses."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef double loss_sum = 0.0
    cdef const int32_t *label_data = int32_pointer(labels)
    cdef bytes confusion = bytes(model.c.num_classes * model.c.num_classes * sizeof(uint64_t))  # pages of zeros
    cdef uint64_t *confusion_data = <uint64_t *>PyBytes_AS_STRING(confusion)
    cdef Scratch scratch = Scratch(edgefl_softmax_infer_scratch_bytes(&features.c, model.c.num_classes))
    with nogil:
        status = edgefl_softmax_evaluate(used, &features.c, label_data, &model.c, scratch.data, scratch.size,
                                         confusion_data, &loss_sum, &place)
    check(status, &place)
    return confusion, loss_sum


def predict(Features features not None, Model model not None):
    """Returns the probabilities, (n, num_classes) float32 as bytes."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef bytes out = new_bytes(features.c.num_rows * model.c.num_classes, sizeof(float))
    cdef float *data = <float *>PyBytes_AS_STRING(out)
    cdef Scratch scratch = Scratch(edgefl_softmax_infer_scratch_bytes(&features.c, model.c.num_classes))
    with nogil:
        status = edgefl_softmax_predict(used, &features.c, &model.c, scratch.data, scratch.size, data, &place)
    check(status, &place)
    return out


# ---- randomness ------------------------------------------------------------------------------------------------------

def random_words(bytes key not None, uint32_t epoch, size_t count):
    """``count`` uint32 of the stream, as bytes. ``key``: 16 bytes, checked by the caller."""
    cdef bytes out = new_bytes(count, sizeof(uint32_t))
    cdef uint32_t *data = <uint32_t *>PyBytes_AS_STRING(out)
    cdef const uint8_t *key_data = <const uint8_t *>PyBytes_AS_STRING(key)
    with nogil:
        edgefl_random_words(key_data, epoch, data, count)
    return out


def permutation(bytes key not None, uint32_t epoch, size_t n):
    """A permutation of ``n`` uint32, as bytes. ``key``: 16 bytes, checked by the caller."""
    cdef bytes out = new_bytes(n, sizeof(uint32_t))
    cdef uint32_t *data = <uint32_t *>PyBytes_AS_STRING(out)
    cdef const uint8_t *key_data = <const uint8_t *>PyBytes_AS_STRING(key)
    with nogil:
        edgefl_permutation(key_data, epoch, data, n)
    return out


include "_mlp.pxi"
include "_cohort.pxi"
include "_vectors.pxi"
include "_statistics.pxi"
