/* `avx2`: AVX2 and FMA; Haswell, Zen and later. */
#if defined(__x86_64__) && !defined(EDGEFL_SOFTWARE_FMA)
#include "vec256.h"

#define EDGEFL_FMA_HARDWARE 1
#define EDGEFL_FMA_TARGET X86_TARGET
#include "../elementwise_body.h"
#include "accumulate_body.h"
#include "features_body.h"
#include "logits_body.h"
#include "outer_body.h"
#include "softmax_body.h"

static const edgefl_variant avx2_variant = {
    .name = "avx2",
    .first_bad_feature = x86_first_bad_feature,
    .logits = x86_logits,
    .softmax = x86_softmax,
    .add_outer = x86_add_outer,
    .add_outer_and_flush = x86_add_outer_and_flush,
    .load_uint8 = x86_load_uint8,
    .load_int8 = x86_load_int8,
    .accumulate = x86_accumulate,
    EDGEFL_ELEMENTWISE,
};

const edgefl_variant *edgefl_variant_avx2(void) {
    __builtin_cpu_init();
    /* These builtins also ask whether the operating system keeps the registers. */
    return __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") ? &avx2_variant : NULL;
}
#else
typedef int edgefl_no_avx2; /* C wants a declaration in a file */
#endif
