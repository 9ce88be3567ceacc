/* Hands out pieces of the caller's scratch. The same layout function runs twice: once on an arena without memory, to
 * learn the size that it asks the caller for, and once to take the pieces. */
#ifndef EDGEFL_ARENA_H
#define EDGEFL_ARENA_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A cache line, and the widest vector. */
#define EDGEFL_ALIGNMENT 64u

struct arena {
    unsigned char *base; /* aligned, or NULL when only measuring */
    size_t used;
    bool overflow;
};

static inline struct arena arena_open(void *scratch) {
    struct arena arena = {NULL, 0, false};
    if (scratch != NULL) {
        const size_t past = (size_t)((uintptr_t)scratch % EDGEFL_ALIGNMENT);
        arena.base = (unsigned char *)scratch + (past ? EDGEFL_ALIGNMENT - past : 0);
    }
    return arena;
}

/* count elements of size bytes, aligned to 64 bytes; NULL while measuring, or for none. */
static inline void *arena_take(struct arena *arena, size_t count, size_t size) {
    size_t bytes;
    if (__builtin_mul_overflow(count, size, &bytes) || bytes > SIZE_MAX - (EDGEFL_ALIGNMENT - 1u)) {
        arena->overflow = true;
        return NULL;
    }
    bytes = (bytes + EDGEFL_ALIGNMENT - 1u) / EDGEFL_ALIGNMENT * EDGEFL_ALIGNMENT;
    void *piece = arena->base != NULL && bytes != 0 ? arena->base + arena->used : NULL;
    if (__builtin_add_overflow(arena->used, bytes, &arena->used)) {
        arena->overflow = true;
        return NULL;
    }
    return piece;
}

/* What a measuring arena asks for: its pieces, and room to align the first. */
static inline size_t arena_bytes(const struct arena *arena) {
    const size_t slack = EDGEFL_ALIGNMENT - 1u;
    return arena->overflow || arena->used > SIZE_MAX - slack ? SIZE_MAX : arena->used + slack;
}

#endif
