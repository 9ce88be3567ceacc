/* `scalar` with the CPU's fused multiply-add. */
#include "fma_target.h"
#include "variant.h"

#if EDGEFL_CAN_FMA
#define EDGEFL_FMA_HARDWARE 1
#include "scalar_body.h"

const edgefl_variant *edgefl_scalar_hardware(void) {
#if defined(__x86_64__) || defined(__i386__)
    __builtin_cpu_init();
    if (!__builtin_cpu_supports("fma")) {
        return NULL;
    }
#endif
    return &scalar_variant;
}
#else
const edgefl_variant *edgefl_scalar_hardware(void) { return NULL; }
#endif
