# Statistics of features: part of _kernels.pyx.

def feature_sums(Features features not None, center, double bound, int grid_shift):
    """Returns (F,) int64 as bytes."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef const float[::1] center_view
    cdef const float *center_data = NULL
    if center is not None:
        center_view = center
        center_data = float_pointer(center_view)
    cdef bytes out = new_bytes(features.c.num_features, sizeof(int64_t))
    cdef int64_t *data = <int64_t *>PyBytes_AS_STRING(out)
    cdef Scratch scratch = Scratch(edgefl_feature_sums_scratch_bytes(&features.c))
    with nogil:
        status = edgefl_feature_sums(used, &features.c, center_data, bound, grid_shift, scratch.data, scratch.size,
                                     data, &place)
    check(status, &place)
    return out


def feature_extremes(Features features not None):
    """Returns the smallest and the largest values, (F,) float32 as bytes each."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef bytes smallest = new_bytes(features.c.num_features, sizeof(float))
    cdef bytes largest = new_bytes(features.c.num_features, sizeof(float))
    cdef float *smallest_data = <float *>PyBytes_AS_STRING(smallest)
    cdef float *largest_data = <float *>PyBytes_AS_STRING(largest)
    cdef Scratch scratch = Scratch(edgefl_feature_extremes_scratch_bytes(&features.c))
    with nogil:
        status = edgefl_feature_extremes(used, &features.c, scratch.data, scratch.size, smallest_data, largest_data,
                                         &place)
    check(status, &place)
    return smallest, largest


def feature_counts(Features features not None, const double[::1] edges not None):
    """Returns (F, edges + 1) int64 as bytes."""
    cdef const edgefl_variant *used = variant()
    cdef edgefl_place place = edgefl_place(0, 0)
    cdef edgefl_status status
    cdef size_t num_bins = <size_t>edges.shape[0] + 1
    cdef const double *edge_data = double_pointer(edges)
    cdef bytes out = new_bytes(features.c.num_features * num_bins, sizeof(int64_t))
    cdef int64_t *data = <int64_t *>PyBytes_AS_STRING(out)
    cdef Scratch scratch = Scratch(edgefl_feature_counts_scratch_bytes(&features.c))
    with nogil:
        status = edgefl_feature_counts(used, &features.c, edge_data, num_bins, scratch.data, scratch.size, data,
                                       &place)
    check(status, &place)
    return out
