/* accumulate.h's loop with AVX2. */
#if defined(__x86_64__)
#define ACCUMULATE_TARGET __attribute__((target("avx2")))
#include "../accumulate_body.h"

accumulate_loop *edgefl_accumulate_avx2(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx2") ? accumulate : NULL;
}
#else
typedef int edgefl_no_accumulate_avx2; /* C wants a declaration in a file */
#endif
