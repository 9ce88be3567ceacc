/* The choice of a variant. */
#include <string.h>

#include "variant.h"

struct entry {
    const char *name;
    const edgefl_variant *(*get)(void);
};

#define EDGEFL_ENTRY(name) {#name, edgefl_variant_##name},
static const struct entry entries[] = {EDGEFL_VARIANTS(EDGEFL_ENTRY)};
#define NUM_ENTRIES (sizeof entries / sizeof entries[0])

size_t edgefl_variant_count(void) { return NUM_ENTRIES; }

const char *edgefl_variant_name(size_t index) { return entries[index].name; }

const edgefl_variant *edgefl_variant_find(const char *name) {
    for (size_t left = NUM_ENTRIES; left > 0; left--) {
        const struct entry *entry = &entries[left - 1];
        if (name == NULL || strcmp(name, entry->name) == 0) {
            const edgefl_variant *variant = entry->get();
            if (variant != NULL || name != NULL) {
                return variant;
            }
        }
    }
    return NULL;
}

const char *edgefl_variant_name_of(const edgefl_variant *variant) { return variant->name; }

const edgefl_variant *edgefl_variant_scalar(void) {
    const edgefl_variant *hardware = edgefl_scalar_hardware();
    return hardware != NULL ? hardware : edgefl_scalar_software();
}
