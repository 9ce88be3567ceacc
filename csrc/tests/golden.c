/* Golden vectors: what every variant, compiler and architecture must compute, as one line a case.
 *
 *   golden [VARIANT]              print the lines; without a name of all variants that this CPU supports, which must
 *                                 agree: exit status 1 and the first differences when they do not
 *   golden --check FILE [VARIANT] the same, and compare with FILE instead of printing
 *   golden --list                 the names of the variants that this CPU supports
 *
 * A line is "CASE DIGEST" or "CASE STATUS ROW COLUMN". The digest is the SHA-256 of the trained kernel and bias, the
 * counts of the training, the confusion matrix and loss of an evaluation, and the probabilities of a prediction.
 * Inputs come from edgefl_random_words alone.
 *
 * tests/golden/kernel.txt holds the committed lines; `make golden` writes it anew with the scalar variant. A change of
 * a line there is a change of the arithmetic: models trained before cannot be replayed after it. */
#include "golden.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "edgefl.h"
#include "sha256.h"

#define MAX_NAME 96
#define MAX_LINE 256
#define MAX_TEXT (1u << 18)
#define MAX_DIFFERENCES 5
#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char *const status_names[EDGEFL_NUM_STATUSES] = {
    [EDGEFL_OK] = "OK",
    [EDGEFL_BAD_ARGUMENT] = "BAD_ARGUMENT",
    [EDGEFL_SCRATCH_TOO_SMALL] = "SCRATCH_TOO_SMALL",
    [EDGEFL_BAD_FEATURE] = "BAD_FEATURE",
    [EDGEFL_BAD_STANDARDIZED] = "BAD_STANDARDIZED",
    [EDGEFL_BAD_LABEL] = "BAD_LABEL",
    [EDGEFL_BAD_EXAMPLE_WEIGHT] = "BAD_EXAMPLE_WEIGHT",
    [EDGEFL_BAD_START_WEIGHT] = "BAD_START_WEIGHT",
    [EDGEFL_NON_FINITE_LOGIT] = "NON_FINITE_LOGIT",
    [EDGEFL_NON_FINITE_WEIGHT] = "NON_FINITE_WEIGHT",
    [EDGEFL_GRADIENT_EXPLODED] = "GRADIENT_EXPLODED",
    [EDGEFL_OUT_OF_RANGE] = "OUT_OF_RANGE",
    [EDGEFL_OVERFLOW] = "OVERFLOW",
    [EDGEFL_NON_FINITE_RESULT] = "NON_FINITE_RESULT",
    [EDGEFL_FEATURE_OUT_OF_BOUNDS] = "FEATURE_OUT_OF_BOUNDS",
    [EDGEFL_BAD_CORRECTION] = "BAD_CORRECTION",
    [EDGEFL_BAD_EDGE] = "BAD_EDGE",
};

static void add_line(struct text *text, const char *name, const char *rest) {
    const size_t room = MAX_TEXT - text->size;
    const int size = snprintf(text->bytes + text->size, room, "%s %s\n", name, rest);
    if (size < 0 || (size_t)size >= room) {
        fputs("golden: MAX_TEXT is too small\n", stderr);
        exit(2);
    }
    text->size += (size_t)size;
}

void golden_add_result(struct text *text, const char *name, edgefl_status status, struct sha256 *hash,
                       const edgefl_place *place) {
    char hex[SHA256_HEX_SIZE], rest[MAX_LINE];
    sha256_close(hash, hex);
    snprintf(rest, sizeof rest, "%s %zu %zu", status_names[status], place->row, place->column);
    add_line(text, name, status == EDGEFL_OK ? hex : rest);
}

/* Numbers enter the digest as they lie in memory: every supported machine is little-endian. */
static void hash_u64(struct sha256 *hash, uint64_t value) { sha256_add(hash, &value, sizeof value); }

/* ---- softmax ---- */

static edgefl_status train(const edgefl_variant *variant, const struct inputs *in, float *kernel, float *bias,
                           edgefl_train_stats *stats, edgefl_place *place) {
    const edgefl_model start = {in->shape.num_classes, in->kernel, in->bias};
    edgefl_stop_flag stop;
    edgefl_stop_flag_init(&stop);
    if (in->shape.how & STOPPED) {
        edgefl_stop_flag_set(&stop);
    }
    size_t size = edgefl_softmax_train_scratch_bytes(&in->features, start.num_classes, &in->options);
    size = in->shape.how & SHORT_SCRATCH ? size - 1 : size;
    return edgefl_softmax_train(variant, &in->features, in->labels,
                                in->shape.how & WEIGHTED ? in->example_weights : NULL, &start, &in->options, &stop,
                                golden_take(size + 1, 1), size, kernel, bias, stats, place);
}

static edgefl_status hash_inference(const edgefl_variant *variant, const struct inputs *in, const edgefl_model *model,
                                    struct sha256 *hash, edgefl_place *place) {
    const size_t n = in->shape.num_rows, c = in->shape.num_classes;
    uint64_t *confusion = golden_take(c * c, sizeof *confusion);
    float *probabilities = golden_take(n * c, sizeof *probabilities);
    double loss_sum = 0.0;
    const size_t size = edgefl_softmax_infer_scratch_bytes(&in->features, c);
    void *scratch = golden_take(size, 1);
    edgefl_status status =
        edgefl_softmax_evaluate(variant, &in->features, in->labels, model, scratch, size, confusion, &loss_sum, place);
    if (status == EDGEFL_OK) {
        status = edgefl_softmax_predict(variant, &in->features, model, scratch, size, probabilities, place);
    }
    sha256_add(hash, confusion, c * c * sizeof *confusion);
    sha256_add(hash, &loss_sum, sizeof loss_sum);
    sha256_add(hash, probabilities, n * c * sizeof *probabilities);
    return status;
}

static void run_case(struct text *text, const edgefl_variant *variant, const char *name, const struct inputs *in) {
    const size_t f = in->shape.num_features, c = in->shape.num_classes;
    float *kernel = golden_take(c * f, sizeof *kernel);
    float *bias = golden_take(c, sizeof *bias);
    edgefl_train_stats stats = {0};
    edgefl_place place = {0};
    struct sha256 hash;
    sha256_open(&hash);
    edgefl_status status = train(variant, in, kernel, bias, &stats, &place);
    if (status == EDGEFL_OK) {
        sha256_add(&hash, kernel, c * f * sizeof *kernel);
        sha256_add(&hash, bias, c * sizeof *bias);
        hash_u64(&hash, stats.examples_seen);
        hash_u64(&hash, stats.num_steps);
        sha256_add(&hash, &stats.loss_sum, sizeof stats.loss_sum);
        hash_u64(&hash, stats.num_correct);
        hash_u64(&hash, stats.stopped);
        const edgefl_model model = {c, kernel, bias};
        status = hash_inference(variant, in, &model, &hash, &place);
    }
    golden_add_result(text, name, status, &hash, &place);
    golden_release_all();
}

static void run_shape(struct text *text, const edgefl_variant *variant, const struct shape *shape, const char *how,
                      uint32_t seed) {
    static const char *const dtypes[] = {"float32", "uint8", "int8"};
    char name[MAX_NAME];
    snprintf(name, sizeof name, "train/%zux%zu/b%zu/%s/%s", shape->num_features, shape->num_classes, shape->batch_size,
             dtypes[shape->dtype], how);
    struct inputs inputs;
    golden_draw(&inputs, shape, seed);
    run_case(text, variant, name, &inputs);
}

struct way {
    const char *name;
    unsigned how;
    size_t num_epochs;
};

static const struct way ways[] = {
    {"plain", 0, 1},
    {"momentum", MOMENTUM, 2},
    {"proximal", PROXIMAL, 2},
    {"clipped", CLIPPED, 2},
    {"weighted", WEIGHTED, 2},
    {"l2", L2, 2},
    {"shuffled", SHUFFLED, 3},
    {"standardized", STANDARDIZED, 2},
    {"stopped", STOPPED, 2},
    {"everything", MOMENTUM | PROXIMAL | CLIPPED | WEIGHTED | L2 | SHUFFLED | STANDARDIZED, 2},
};

/* A list of their own: run_shapes deals the ways above by their number. */
static const struct way corrected_ways[] = {
    {"corrected", CORRECTED, 2},
    {"corrected+everything", CORRECTED | MOMENTUM | PROXIMAL | CLIPPED | WEIGHTED | L2 | SHUFFLED | STANDARDIZED, 2},
};

static const size_t all_features[] = {1, 13, 16, 75, 784, 1000};
static const size_t all_classes[] = {1, 2, 7, 10, 33};
static const size_t all_batches[] = {1, 10, 32, 100, 1000}; /* the last is more than there are rows */
#define NUM_DTYPES 3

/* Every shape with every dtype; batches and ways take turns, so that each shape meets several of them. */
static void run_shapes(struct text *text, const edgefl_variant *variant) {
    uint32_t seed = 0;
    for (size_t f = 0; f < COUNT(all_features); f++) {
        for (size_t c = 0; c < COUNT(all_classes); c++) {
            for (size_t dtype = 0; dtype < NUM_DTYPES; dtype++, seed++) {
                const size_t batch = all_batches[(f + c + 2 * dtype) % COUNT(all_batches)];
                const size_t way = dtype == 0 ? 0 : (f + 3 * c + 5 * dtype) % COUNT(ways);
                const struct shape shape = {GOLDEN_NUM_ROWS,      all_features[f],     all_classes[c], batch,
                                            ways[way].num_epochs, (edgefl_dtype)dtype, ways[way].how};
                run_shape(text, variant, &shape, ways[way].name, seed);
            }
        }
    }
}

/* Every way with every dtype and every batch, on one shape with remainders. */
static void run_ways(struct text *text, const edgefl_variant *variant, const struct way *some, size_t count,
                     uint32_t seed) {
    for (size_t way = 0; way < count; way++) {
        for (size_t dtype = 0; dtype < NUM_DTYPES; dtype++) {
            for (size_t batch = 0; batch < COUNT(all_batches); batch++, seed++) {
                const struct shape shape = {
                    GOLDEN_NUM_ROWS,     45,           11, all_batches[batch], some[way].num_epochs,
                    (edgefl_dtype)dtype, some[way].how};
                run_shape(text, variant, &shape, some[way].name, seed);
            }
        }
    }
}

static void run_edges(struct text *text, const edgefl_variant *variant) {
    for (size_t j = 0; j < golden_num_edges; j++) {
        struct inputs inputs;
        golden_draw(&inputs, &golden_edges[j].shape, 2000 + (uint32_t)j);
        golden_edges[j].edit(&inputs);
        run_case(text, variant, golden_edges[j].name, &inputs);
    }
}

/* ---- comparison ---- */

static struct text new_text(void) {
    const struct text text = {malloc(MAX_TEXT), 0};
    if (text.bytes == NULL) {
        fputs("golden: out of memory\n", stderr);
        exit(2);
    }
    return text;
}

static struct text run_all(const edgefl_variant *variant) {
    struct text text = new_text();
    run_shapes(&text, variant);
    run_ways(&text, variant, ways, COUNT(ways), 1000);
    run_edges(&text, variant);
    golden_run_statistics(&text, variant);
    golden_run_aggregation(&text, variant);
    run_ways(&text, variant, corrected_ways, COUNT(corrected_ways), 5000);
    golden_run_adaptive(&text);
    golden_run_distributions(&text, variant);
    golden_run_mlp(&text, variant);
    return text;
}

/* The line that starts at *at, without its end; moves *at behind it. */
static size_t next_line(const struct text *text, size_t *at, const char **line) {
    *line = text->bytes + *at;
    size_t size = 0;
    while (*at + size < text->size && (*line)[size] != '\n') {
        size++;
    }
    *at += size + (*at + size < text->size);
    return size;
}

/* True when equal; else the first differences go to stderr. */
static bool compare(const char *name, const struct text *found, const char *other, const struct text *expected) {
    size_t differences = 0, a = 0, b = 0;
    while (a < found->size || b < expected->size) {
        const char *x, *y;
        const size_t m = next_line(found, &a, &x), n = next_line(expected, &b, &y);
        if (m == n && memcmp(x, y, n) == 0) {
            continue;
        }
        if (++differences <= MAX_DIFFERENCES) {
            fprintf(stderr, "%s: %.*s\n%s: %.*s\n", name, (int)m, x, other, (int)n, y);
        }
    }
    if (differences > 0) {
        fprintf(stderr, "%s: %zu lines differ from %s\n", name, differences, other);
    }
    return differences == 0;
}

static struct text read_file(const char *path) {
    struct text text = new_text();
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    text.size = fread(text.bytes, 1, MAX_TEXT, file);
    fclose(file);
    return text;
}

/* Runs the variants (one when only is given), all against the first, or against the file. */
static bool run_variants(const char *only, const char *path) {
    struct text expected = path != NULL ? read_file(path) : (struct text){0};
    const char *other = path;
    bool equal = true;
    size_t num_run = 0;
    for (size_t j = 0; j < edgefl_variant_count(); j++) {
        const char *name = edgefl_variant_name(j);
        const edgefl_variant *variant = edgefl_variant_find(name);
        if (variant == NULL || (only != NULL && strcmp(only, name) != 0)) {
            continue;
        }
        num_run++;
        struct text found = run_all(variant);
        if (other == NULL) {
            expected = found;
            other = name;
            fwrite(found.bytes, 1, found.size, stdout);
            continue;
        }
        const bool same = compare(name, &found, other, &expected);
        if (same && path != NULL) {
            printf("%s: equal\n", name);
        }
        equal = equal && same;
        free(found.bytes);
    }
    free(expected.bytes);
    if (num_run == 0) {
        fprintf(stderr, "golden: no variant %s on this CPU; see --list\n", only);
    }
    return equal && num_run > 0;
}

int main(int argc, char **argv) {
    if (argc == 2 && strcmp(argv[1], "--list") == 0) {
        for (size_t j = 0; j < edgefl_variant_count(); j++) {
            if (edgefl_variant_find(edgefl_variant_name(j)) != NULL) {
                puts(edgefl_variant_name(j));
            }
        }
        return 0;
    }
    const bool checks = argc >= 3 && strcmp(argv[1], "--check") == 0;
    const int used = checks ? 3 : 1;
    if (argc > used + 1) {
        fputs("usage: golden [--list | [--check FILE] [VARIANT]]\n", stderr);
        return 2;
    }
    return !run_variants(argc > used ? argv[used] : NULL, checks ? argv[2] : NULL);
}
