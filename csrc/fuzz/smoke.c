/* A fuzz target without a fuzzer: over fixed pseudo-random inputs, or over files, which replays a finding.
 *
 *   smoke_NAME COUNT        that many inputs; the same ones on every machine
 *   smoke_NAME FILE ...     each file once */
#include <errno.h>

#include "input.h"

#define MAX_INPUT 512u

static int replay(const char *path) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return 2;
    }
    static uint8_t raw[1u << 20];
    const size_t size = fread(raw, 1, sizeof raw, file);
    fclose(file);
    uint8_t *data = malloc(size > 0 ? size : 1);
    REQUIRE(data != NULL);
    memcpy(data, raw, size);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    return 0;
}

static void generate(unsigned long count) {
    uint64_t state = 1;
    for (unsigned long round = 0; round < count; round++) {
        const size_t size = mixed(&state) % MAX_INPUT;
        uint8_t *data = malloc(size + 1); /* one more: malloc(0) may give NULL */
        REQUIRE(data != NULL);
        for (size_t j = 0; j < size; j++) {
            data[j] = (uint8_t)mixed(&state);
        }
        LLVMFuzzerTestOneInput(data, size);
        free(data);
    }
}

int main(int argc, char **argv) {
    char *end = NULL;
    const unsigned long count = argc == 2 ? strtoul(argv[1], &end, 10) : 0;
    if (argc < 2) {
        fprintf(stderr, "usage: %s COUNT | FILE ...\n", argv[0]);
        return 2;
    }
    if (end != NULL && *end == '\0') {
        generate(count);
        return 0;
    }
    int failed = 0;
    for (int j = 1; j < argc; j++) {
        failed |= replay(argv[j]);
    }
    return failed;
}
