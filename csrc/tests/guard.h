/* Buffers between two unreadable pages. A buffer cannot touch both, unless it fills whole pages, so a test runs once
 * for each placement; what lies between a buffer and the page that it does not touch is filled, and looked at in the
 * end. */
#ifndef EDGEFL_TESTS_GUARD_H
#define EDGEFL_TESTS_GUARD_H

#include "check.h"

enum placement {
    AT_END,      /* the byte after the buffer faults */
    AT_START,    /* the byte before the buffer faults */
    AFTER_START, /* one element behind the start: aligned to an element and no more */
    NUM_PLACEMENTS
};

#define GUARD_FILL 0xa5u

struct guard {
    unsigned char *base; /* of the first unreadable page */
    size_t page;
    size_t middle; /* readable bytes, whole pages */
    unsigned char *data;
    size_t size;
};

/* size bytes of elements of `element` bytes, filled. */
static inline struct guard guard_open(size_t size, size_t element, enum placement placement) {
    struct guard guard = {.page = (size_t)sysconf(_SC_PAGESIZE), .size = size};
    guard.middle = (size + element + guard.page - 1) / guard.page * guard.page;
    guard.base = mmap(NULL, guard.middle + 2 * guard.page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (guard.base == MAP_FAILED) {
        perror("mmap");
        exit(2);
    }
    unsigned char *start = guard.base + guard.page;
    memset(start, GUARD_FILL, guard.middle);
    if (mprotect(guard.base, guard.page, PROT_NONE) != 0 ||
        mprotect(start + guard.middle, guard.page, PROT_NONE) != 0) {
        perror("mprotect");
        exit(2);
    }
    guard.data = placement == AT_END ? start + guard.middle - size : placement == AT_START ? start : start + element;
    return guard;
}

/* Whether nothing was written beside the buffer. */
static inline bool guard_is_whole(const struct guard *guard) {
    const unsigned char *start = guard->base + guard->page;
    for (size_t j = 0; j < guard->middle; j++) {
        const bool inside = start + j >= guard->data && start + j < guard->data + guard->size;
        if (!inside && start[j] != GUARD_FILL) {
            return false;
        }
    }
    return true;
}

static inline void guard_close(struct guard *guard) {
    CHECK(guard_is_whole(guard));
    munmap(guard->base, guard->middle + 2 * guard->page);
}

#endif
