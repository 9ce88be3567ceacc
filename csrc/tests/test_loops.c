/* Each function of each variant's table against the software scalar one: every small shape, so that each remainder of
 * rows, classes and features is met; each input and output ends at a guard page, aligned to a float only. */
#define _DEFAULT_SOURCE
#include <math.h>

#include "check.h"
#include "edgefl.h"
#include "numeric.h"
#include "variant.h"

#define MOST_ROWS 9u
#define MOST_FEATURES 50u
#define MOST_CLASSES 13u
#define MOST_STRIDE 64u
#define MOST (MOST_CLASSES * MOST_STRIDE)

static const edgefl_variant *reference;
static const edgefl_variant *variant;
static uint64_t state = 11;

/* The last n floats before a guard page, for any n up to MOST. */
static float *ends[8];
static float *room(size_t which, size_t n) { return ends[which] - n; }

static void fill(float *values, size_t n, float smallest) {
    for (size_t j = 0; j < n; j++) {
        values[j] = draw_value(&state, smallest);
    }
}

/* (classes, stride) with its padding at +0. */
static void fill_matrix(float *matrix, size_t num_classes, size_t stride, size_t num_features) {
    for (size_t c = 0; c < num_classes; c++) {
        memset(matrix + c * stride, 0, stride * sizeof(float));
        for (size_t f = 0; f < num_features; f++) {
            const float v = draw_value(&state, 0x1p-50f);
            matrix[c * stride + f] = v == 0.0f ? 0.0f : v; /* a stored value is no -0 */
        }
    }
}

static void expect_equal(const char *what, const float *a, const float *b, size_t n, size_t num_rows,
                         size_t num_features, size_t num_classes) {
    if (memcmp(a, b, n * sizeof(float)) != 0) {
        fprintf(stderr, "%s.%s differs: %zu rows, %zu features, %zu classes\n", edgefl_variant_name_of(variant), what,
                num_rows, num_features, num_classes);
        failures++;
    }
}

/* Leaves NaNs where a callee's locals will lie: one that reads what it did not write shows. */
__attribute__((noinline)) static void dirty_stack(void) {
    volatile unsigned char bytes[32768];
    for (size_t j = 0; j < sizeof bytes; j++) {
        bytes[j] = 0xff;
    }
}

/* An overflowed coefficient must not turn the padding into NaNs. */
static void check_padding(const float *const *rows, size_t num_rows, size_t num_features, float *coefficients,
                          size_t num_classes, float *sums, size_t stride) {
    coefficients[0] = INFINITY;
    variant->add_outer(rows, num_rows, num_features, coefficients, num_classes, sums, stride);
    for (size_t f = num_features; f < stride; f++) {
        CHECK(same(sums[f], 0.0f));
    }
}

static void check_products(size_t num_rows, size_t num_features, size_t num_classes) {
    static float *row_ends[MOST_ROWS];
    const float *rows[MOST_ROWS];
    const size_t stride = (num_features + 15) / 16 * 16;
    for (size_t i = 0; i < num_rows; i++) {
        if (row_ends[i] == NULL) {
            row_ends[i] = (float *)guarded(MOST_FEATURES * sizeof(float)) + MOST_FEATURES;
        }
        rows[i] = row_ends[i] - num_features;
        fill(row_ends[i] - num_features, num_features, 0x1p-30f);
    }
    const size_t n = num_rows * num_classes, size = num_classes * stride;
    float *kernel = room(0, size), *expected = room(1, size), *bias = room(2, num_classes), *coefficients = room(3, n);
    fill_matrix(kernel, num_classes, stride, num_features);
    fill(bias, num_classes, 0x1p-50f);
    fill(coefficients, n, 0x1p-50f);
    reference->logits(rows, num_rows, num_features, kernel, stride, bias, num_classes, room(4, n));
    dirty_stack();
    variant->logits(rows, num_rows, num_features, kernel, stride, bias, num_classes, room(5, n));
    expect_equal("logits", room(4, n), room(5, n), n, num_rows, num_features, num_classes);
    memcpy(expected, kernel, size * sizeof(float));
    reference->add_outer(rows, num_rows, num_features, coefficients, num_classes, expected, stride);
    dirty_stack();
    variant->add_outer(rows, num_rows, num_features, coefficients, num_classes, kernel, stride);
    expect_equal("add_outer", expected, kernel, size, num_rows, num_features, num_classes);
    if (variant->add_outer_and_flush != NULL) {
        reference->add_outer(rows, num_rows, num_features, coefficients, num_classes, expected, stride);
        reference->flush(expected, size);
        dirty_stack();
        variant->add_outer_and_flush(rows, num_rows, num_features, coefficients, num_classes, kernel, stride, NULL);
        expect_equal("add_outer_and_flush", expected, kernel, size, num_rows, num_features, num_classes);
    }
    check_padding(rows, num_rows, num_features, coefficients, num_classes, kernel, stride);
}

/* bad: the row that gets a logit that is not finite; num_rows for none. */
static void check_softmax(size_t num_rows, size_t num_classes, size_t bad, bool labelled) {
    const size_t n = num_rows * num_classes;
    float *expected = room(0, n), *found = room(1, n);
    int32_t *labels = guarded(num_rows * sizeof *labels);
    uint32_t *classes[2] = {guarded(num_rows * sizeof(uint32_t)), guarded(num_rows * sizeof(uint32_t))};
    for (size_t j = 0; j < n; j++) {
        /* Ties, both zeros, and differences on both sides of the exponential's cut-off. */
        expected[j] = draw(&state) % 8 == 0 ? 0.5f : draw_value(&state, 0x1p-30f) * (float)(1u << draw(&state) % 7);
    }
    for (size_t i = 0; i < num_rows; i++) {
        labels[i] = (int32_t)(draw(&state) % num_classes);
    }
    if (bad < num_rows) {
        const float bads[] = {NAN, INFINITY, -INFINITY};
        expected[bad * num_classes + draw(&state) % num_classes] = bads[draw(&state) % 3];
    }
    memcpy(found, expected, n * sizeof(float));
    const int32_t *given = labelled ? labels : NULL;
    float *losses[2] = {labelled ? room(4, num_rows) : NULL, labelled ? room(5, num_rows) : NULL};
    CHECK(reference->softmax(expected, num_rows, num_classes, given, losses[0], classes[0]) == bad);
    CHECK(variant->softmax(found, num_rows, num_classes, given, losses[1], classes[1]) == bad);
    const size_t good = bad * num_classes;
    expect_equal("softmax", expected, found, good, num_rows, 0, num_classes);
    CHECK(memcmp(classes[0], classes[1], bad * sizeof(uint32_t)) == 0);
    if (labelled) {
        expect_equal("softmax's loss", losses[0], losses[1], bad, num_rows, 0, num_classes);
    }
    if (bad == num_rows) {
        float *weights = room(6, num_rows);
        for (size_t i = 0; i < num_rows; i++) {
            weights[i] = (float)(draw(&state) % 3);
        }
        reference->output_gradient(expected, num_rows, num_classes, labels, -0x1p-9f, labelled ? weights : NULL);
        variant->output_gradient(found, num_rows, num_classes, labels, -0x1p-9f, labelled ? weights : NULL);
        expect_equal("output_gradient", expected, found, n, num_rows, 0, num_classes);
    }
}

static void check_elements(size_t n) {
    float *a[2] = {room(0, n), room(1, n)}, *b = room(2, n), *c = room(3, n);
    const float edges[] = {0x1p-50f, 0x1.fffffep-51f, -0x1p-50f, -0x1.fffffep-51f, -0.0f, INFINITY, NAN};
    fill(b, n, 0x1p-50f);
    fill(c, n, 0x1p-51f);
#define BOTH(name, call)                                   \
    fill(a[0], n, 0x1p-50f);                               \
    memcpy(a[1], a[0], n * sizeof(float));                 \
    for (size_t k = 0; k < 2; k++) {                       \
        const edgefl_variant *v = k ? variant : reference; \
        float *x = a[k];                                   \
        call;                                              \
    }                                                      \
    expect_equal(name, a[0], a[1], n, 0, n, 0)
    BOTH("add_scaled", v->add_scaled(x, 0.01f, b, n));
    BOTH("add_stored", v->add_stored(x, b, n));
    BOTH("add_stored of what is flushed", v->add_stored(x, c, n));
    BOTH("add_scaled_difference", v->add_scaled_difference(x, 0.3f, b, c, n));
    BOTH("add_momentum", v->add_momentum(x, 0.9f, b, n));
    BOTH("descend", v->descend(x, 0x1p-29f, b, n));
    for (size_t j = 0; j < n; j++) {
        c[j] = edges[draw(&state) % (sizeof edges / sizeof edges[0])];
    }
    BOTH("flush", memcpy(x, c, n * sizeof(float)); v->flush(x, n));
#undef BOTH
}

static void check_loads(size_t n) {
    uint8_t *stored = guarded(n);
    for (size_t j = 0; j < n; j++) {
        stored[j] = (uint8_t)draw(&state);
    }
    const int32_t zero_points[] = {-128, -3, 0, 117, 255};
    for (size_t k = 0; variant->load_uint8 != NULL && k < sizeof zero_points / sizeof zero_points[0]; k++) {
        const edgefl_variant *both[] = {reference, variant};
        for (size_t v = 0; v < 2; v++) {
            both[v]->load_uint8(room(v, n), stored, n, 0x1.23456p-9f, zero_points[k]);
            both[v]->load_int8(room(2 + v, n), (const int8_t *)stored, n, 0x1.23456p-9f, zero_points[k]);
        }
        expect_equal("load_uint8", room(0, n), room(1, n), n, 0, n, 0);
        expect_equal("load_int8", room(2, n), room(3, n), n, 0, n, 0);
    }
}

/* One pass over stored rows against the reference's loading and logits. */
static void check_load_and_logits(size_t num_rows, size_t num_features, size_t num_classes) {
    static uint8_t *row_ends[MOST_ROWS];
    static const int32_t zero_points[] = {-128, -3, 0, 117, 255};
    const uint8_t *rows[MOST_ROWS];
    const float *expected_rows[MOST_ROWS];
    const size_t stride = (num_features + 15) / 16 * 16, count = num_rows * num_features, n = num_rows * num_classes;
    edgefl_stored_rows stored = {.rows = rows, .scale = 0x1.23456p-9f};
    float *kernel = room(0, num_classes * stride), *bias = room(1, num_classes), *expected = room(2, count);
    fill_matrix(kernel, num_classes, stride, num_features);
    fill(bias, num_classes, 0x1p-50f);
    for (size_t i = 0; i < num_rows; i++) {
        if (row_ends[i] == NULL) {
            row_ends[i] = (uint8_t *)guarded(MOST_FEATURES) + MOST_FEATURES;
        }
        rows[i] = row_ends[i] - num_features;
        for (size_t f = 0; f < num_features; f++) {
            row_ends[i][(ptrdiff_t)f - (ptrdiff_t)num_features] = (uint8_t)draw(&state);
        }
        expected_rows[i] = expected + i * num_features;
    }
    for (size_t k = 0; k < 2 * sizeof zero_points / sizeof zero_points[0]; k++) {
        stored.is_signed = k % 2 == 1;
        stored.zero_point = zero_points[k / 2];
        for (size_t i = 0; i < num_rows; i++) {
            float *to = expected + i * num_features;
            if (stored.is_signed) {
                reference->load_int8(to, (const int8_t *)rows[i], num_features, stored.scale, stored.zero_point);
            } else {
                reference->load_uint8(to, rows[i], num_features, stored.scale, stored.zero_point);
            }
        }
        reference->logits(expected_rows, num_rows, num_features, kernel, stride, bias, num_classes, room(3, n));
        memset(room(4, count), 0xff, count * sizeof(float));
        dirty_stack();
        variant->load_and_logits(&stored, num_rows, num_features, room(4, count), kernel, stride, bias, num_classes,
                                 room(5, n));
        expect_equal("load_and_logits' rows", expected, room(4, count), count, num_rows, num_features, num_classes);
        expect_equal("load_and_logits", room(3, n), room(5, n), n, num_rows, num_features, num_classes);
    }
}

static void check_bad_features(size_t n) {
    const float bads[] = {0x1.fffffep-31f, -0x1p-149f, INFINITY, -INFINITY, NAN};
    const float goods[] = {0x1p-30f, -0x1p-30f, 0.0f, -0.0f, 0x1.fffffep127f, -0x1.fffffep127f};
    float *values = room(0, n);
    for (size_t j = 0; j < n; j++) {
        values[j] = goods[draw(&state) % (sizeof goods / sizeof goods[0])];
    }
    CHECK(variant->first_bad_feature(values, n) == n);
    for (size_t j = n; j-- > 0;) {
        values[j] = bads[draw(&state) % (sizeof bads / sizeof bads[0])];
        CHECK(variant->first_bad_feature(values, n) == j);
        values[j] = 1.0f;
    }
}

static void check_variant(void) {
    for (size_t num_features = 1; num_features <= MOST_FEATURES; num_features++) {
        for (size_t num_classes = 1; num_classes <= MOST_CLASSES; num_classes++) {
            const size_t num_rows = 1 + (num_features * 7 + num_classes) % MOST_ROWS;
            check_products(num_rows, num_features, num_classes);
            if (variant->load_and_logits != NULL) {
                check_load_and_logits(num_rows, num_features, num_classes);
            }
        }
    }
    for (size_t num_rows = 1; num_rows <= MOST_ROWS; num_rows++) {
        for (size_t num_classes = 1; num_classes <= MOST_CLASSES; num_classes++) {
            check_products(num_rows, 17, num_classes);
            check_softmax(num_rows, num_classes, num_rows, true);
            check_softmax(num_rows, num_classes, num_rows, false);
            check_softmax(num_rows, num_classes, draw(&state) % num_rows, true);
        }
    }
    for (size_t n = 0; n <= 67; n++) {
        check_elements(n);
        check_bad_features(n);
        check_loads(n);
    }
}

int main(void) {
    for (size_t j = 0; j < sizeof ends / sizeof ends[0]; j++) {
        ends[j] = (float *)guarded(MOST * sizeof(float)) + MOST;
    }
    reference = edgefl_scalar_software();
    for (size_t j = 0; j < edgefl_variant_count(); j++) {
        variant = edgefl_variant_find(edgefl_variant_name(j));
        if (variant == NULL) {
            printf("%s: not supported by this CPU\n", edgefl_variant_name(j));
        } else {
            check_variant();
        }
    }
    return failures != 0;
}
