/* The choice of edgefl_accumulate's loop: this build's own instructions, or what the CPU has besides. */
#define ACCUMULATE_TARGET
#include "accumulate_body.h"

#if defined(__x86_64__)
accumulate_loop *edgefl_accumulate_loop(void) {
    accumulate_loop *found = edgefl_accumulate_avx512();
    if (found == NULL) {
        found = edgefl_accumulate_avx2();
    }
    return found != NULL ? found : accumulate;
}
#else
accumulate_loop *edgefl_accumulate_loop(void) { return accumulate; }
#endif
