/* accumulate.h's loop with AVX-512. */
#if defined(__x86_64__)
#define ACCUMULATE_TARGET __attribute__((target("avx512f,avx512dq,avx512vl,avx2")))
#include "../accumulate_body.h"

accumulate_loop *edgefl_accumulate_avx512(void) {
    __builtin_cpu_init();
    return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")
               ? accumulate
               : NULL;
}
#else
typedef int edgefl_no_accumulate_avx512; /* C wants a declaration in a file */
#endif
