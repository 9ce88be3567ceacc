# The cohort: an array of jobs for libedgefl, which the threads of the caller share. Included by _kernels.pyx.
#
# A simulation has tens of microseconds for a client, so a client in the usual form (native float32 or 8-bit features,
# int32 labels) is read here straight from its buffers. ``add_plain`` only looks: whatever is not in that form it leaves
# to the checks of ``softmax.py``, which take or refuse it, and to ``add_checked``.

cdef extern from "Python.h":
    Py_buffer *PyMemoryView_GET_BUFFER(object view)
    int PyBuffer_IsContiguous(const Py_buffer *view, char order)


cdef bint is_plain(const Py_buffer *view, int ndim, char kind, Py_ssize_t size):
    """C-contiguous and aligned, with this many dimensions of this native format."""
    return (view.ndim == ndim and view.itemsize == size and view.format != NULL and view.format[0] == kind
            and view.format[1] == 0 and PyBuffer_IsContiguous(view, b"C") and <uintptr_t>view.buf % <size_t>size == 0)


cdef class Cohort:
    """The trainings of one cohort, all from ``start``; filled by one thread, then run by many, then read by one.

    Raises ``MemoryError`` from the constructor, from adding and from ``new_scratch``; C itself allocates nothing.
    """

    cdef edgefl_cohort_job *jobs
    cdef size_t capacity
    cdef size_t count
    cdef edgefl_cohort_cursor cursor
    cdef const edgefl_variant *used
    cdef Model start
    cdef size_t num_features
    cdef bint as_delta
    cdef bint folds  # deltas go into sums, and jobs have no outputs
    cdef StopFlag stop
    cdef list outputs  # for each job (kernel, bias), which C writes
    cdef list kept  # whatever else the jobs point into
    cdef edgefl_train_options options  # of `config`: clients share theirs, as a rule
    cdef object config
    cdef Features standardized  # the meaning of `standardization`, likewise
    cdef object standardization

    def __cinit__(self, Model start not None, size_t num_features, size_t capacity, bint as_delta, StopFlag stop,
                  bint folds=False):
        self.jobs = <edgefl_cohort_job *>PyMem_RawMalloc((capacity + 1) * sizeof(edgefl_cohort_job))
        if self.jobs == NULL:
            raise MemoryError(f"no memory for {capacity} clients")
        edgefl_cohort_cursor_init(&self.cursor)
        self.used = variant()
        self.start = start
        self.num_features = num_features
        self.capacity = capacity
        self.count = 0
        self.as_delta = as_delta
        self.folds = folds
        self.stop = stop
        self.outputs = []
        self.kept = []

    def __dealloc__(self):
        PyMem_RawFree(self.jobs)

    cdef edgefl_cohort_job *next_job(self, config, shuffle_key, Model correction) except NULL:
        """A job with its options, start and outputs; it counts once its owner has filled it."""
        cdef edgefl_cohort_job *job
        cdef bytes key = shuffle_key if shuffle_key is not None else config.shuffle_key
        cdef bytes kernel, bias
        if self.count >= self.capacity:
            raise IndexError(f"a cohort of {self.capacity} clients is full")
        if key is not None and len(key) != 16:
            raise ValueError(f"a key of {len(key)} bytes; expected 16")
        if config is not self.config:
            set_options(&self.options, config, None)
            self.config = config
        job = &self.jobs[self.count]
        job.options = self.options
        if key is not None:
            job.options.shuffle_key = <const uint8_t *>PyBytes_AS_STRING(key)
            self.kept.append(key)
        if correction is not None:
            job.options.correction = &correction.c
            self.kept.append(correction)
        # What its training will write; no status of libedgefl has this number.
        job.status = EDGEFL_NUM_STATUSES
        job.stats = edgefl_train_stats(0, 0, 0.0, 0, False)
        job.place = edgefl_place(0, 0)
        job.start = &self.start.c
        job.as_delta = self.as_delta
        job.example_weights = NULL
        job.kernel = NULL
        job.bias = NULL
        if self.folds:
            return job
        kernel = new_bytes(self.start.c.num_classes * self.num_features, sizeof(float))
        bias = new_bytes(self.start.c.num_classes, sizeof(float))
        # An addition that fails below leaves these two behind, and its job uncounted.
        del self.outputs[self.count:]
        self.outputs.append((kernel, bias))
        job.kernel = <float *>PyBytes_AS_STRING(kernel)
        job.bias = <float *>PyBytes_AS_STRING(bias)
        return job

    def add_plain(self, features, labels, example_weights, config, shuffle_key, Model correction, standardization,
                  quantization):
        """Adds a client in the usual form; False, and nothing changed, for any other.

        ``correction``: None, or of start's shape, which the caller has checked; so in ``add_checked``.
        """
        cdef edgefl_cohort_job *job
        cdef edgefl_features found
        cdef Py_buffer *view
        cdef Py_buffer *label_view
        cdef Py_buffer *weight_view = NULL
        if standardization is not None and standardization is not self.standardization:
            return False
        try:
            features = memoryview(features)
            labels = memoryview(labels)
            if example_weights is not None:
                example_weights = memoryview(example_weights)
        except Exception:
            return False
        view = PyMemoryView_GET_BUFFER(features)
        label_view = PyMemoryView_GET_BUFFER(labels)
        if is_plain(view, 2, b"f", sizeof(float)) and quantization is None:
            found.dtype = EDGEFL_FLOAT32
        elif is_plain(view, 2, b"B", 1):
            found.dtype = EDGEFL_UINT8
        elif is_plain(view, 2, b"b", 1):
            found.dtype = EDGEFL_INT8
        else:
            return False
        if (view.shape[0] < 1 or view.shape[0] > EDGEFL_MAX_ROWS or <size_t>view.shape[1] != self.num_features
                or not is_plain(label_view, 1, b"i", sizeof(int32_t)) or label_view.shape[0] != view.shape[0]):
            return False
        if example_weights is not None:
            weight_view = PyMemoryView_GET_BUFFER(example_weights)
            if not is_plain(weight_view, 1, b"f", sizeof(float)) or weight_view.shape[0] != view.shape[0]:
                return False
        found.data = view.buf
        found.num_rows = <size_t>view.shape[0]
        found.num_features = self.num_features
        found.scale = quantization.scale if quantization is not None else 1.0
        found.zero_point = quantization.zero_point if quantization is not None else 0
        found.mean = self.standardized.c.mean if standardization is not None else NULL
        found.inverse_spread = self.standardized.c.inverse_spread if standardization is not None else NULL
        job = self.next_job(config, shuffle_key, correction)
        job.features = found
        job.labels = <const int32_t *>label_view.buf
        if weight_view != NULL:
            job.example_weights = <const float *>weight_view.buf
        self.kept.append((features, labels, example_weights, self.standardized))
        self.count += 1
        return True

    def add_checked(self, Features features not None, const int32_t[::1] labels not None, example_weights, config,
                    shuffle_key, Model correction, standardization):
        """Adds a client whose buffers ``softmax.py`` has checked against each other and against the model."""
        cdef const float[::1] weight_view
        cdef edgefl_cohort_job *job = self.next_job(config, shuffle_key, correction)
        if features.c.num_features != self.num_features or <size_t>labels.shape[0] != features.c.num_rows:
            raise ValueError("features, labels and model do not fit each other")
        job.features = features.c
        job.labels = int32_pointer(labels)
        if example_weights is not None:
            weight_view = example_weights
            if <size_t>weight_view.shape[0] != features.c.num_rows:
                raise ValueError("features and example weights do not fit each other")
            job.example_weights = float_pointer(weight_view)
        if standardization is not None:
            self.standardization = standardization
            self.standardized = features
        self.kept.append((features, labels, example_weights))
        self.count += 1

    def new_scratch(self):
        """Memory for one thread, once all clients are added."""
        return Scratch(edgefl_cohort_scratch_bytes(self.jobs, self.count))

    def run(self, Scratch scratch not None):
        """Trains until no client is left; called by each thread, with scratch of its own."""
        cdef const edgefl_stop_flag *flag = NULL
        if self.folds:
            raise ValueError("this cohort folds: run_and_fold")
        if self.stop is not None:
            flag = &self.stop.flag
        with nogil:
            edgefl_cohort_run(self.used, self.jobs, self.count, &self.cursor, flag, scratch.data, scratch.size)

    def run_and_fold(self, Scratch scratch not None, int64_t[::1] sums not None, int grid_shift,
                     double max_squared_norm):
        """As ``run``, adding each delta to ``sums``, which are this thread's own; of a cohort that ``folds``."""
        cdef edgefl_cohort_fold fold
        cdef const edgefl_stop_flag *flag = NULL
        cdef size_t n = self.start.c.num_classes * (self.num_features + 1)
        cdef bytes delta = new_bytes(n, sizeof(float))
        if not self.folds or <size_t>sums.shape[0] != n:
            raise ValueError(f"{sums.shape[0]} sums of a cohort that folds {n if self.folds else 0}")
        if self.stop is not None:
            flag = &self.stop.flag
        fold.sums = <int64_t *>int64_pointer(sums)
        fold.delta = <float *>PyBytes_AS_STRING(delta)
        fold.grid_shift = grid_shift
        fold.max_squared_norm = max_squared_norm
        with nogil:
            edgefl_cohort_run_and_fold(self.used, self.jobs, self.count, &self.cursor, flag, scratch.data,
                                       scratch.size, &fold)

    cdef edgefl_cohort_job *finished(self, size_t index) except NULL:
        """A job whose results may be read: nobody trains one before ``run``, or after ``close``."""
        if self.jobs[index].status == EDGEFL_NUM_STATUSES:
            raise LocalProtocolError(f"client {index} of the cohort was not trained; call run first, on every thread")
        return &self.jobs[index]

    def totals(self):
        """What all clients counted: examples, right answers, and a list of their losses. None if one was not folded.

        After every ``run_and_fold`` has returned, and of a cohort that ``folds``.
        """
        cdef size_t examples = 0
        cdef size_t correct = 0
        cdef size_t index
        cdef edgefl_cohort_job *job
        losses = []
        for index in range(self.count):
            job = self.finished(index)
            if job.status != EDGEFL_OK or job.stats.stopped:
                return None
            examples += job.stats.examples_seen
            correct += job.stats.num_correct
            losses.append(job.stats.loss_sum)
        return examples, correct, losses

    def close(self):
        """Makes every ``run`` return after the client that it trains now."""
        edgefl_cohort_cursor_close(&self.cursor, self.count)

    def outcome(self, size_t index):
        """Kernel, bias and the five counts of a client, after every ``run`` has returned; its status is raised."""
        if index >= self.count:
            raise IndexError(f"client {index} of {self.count}")
        if self.folds:
            raise ValueError("this cohort folds: totals")
        cdef edgefl_cohort_job *job = self.finished(index)
        check(job.status, &job.place)
        kernel, bias = self.outputs[index]
        return kernel, bias, (job.stats.examples_seen, job.stats.num_steps, job.stats.loss_sum, job.stats.num_correct,
                              bool(job.stats.stopped))
