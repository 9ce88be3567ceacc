/* `scalar` with fma32 in binary64: for CPUs without the instruction, and the reference of the tests. */
#define EDGEFL_FMA_HARDWARE 0
#include "scalar_body.h"

const edgefl_variant *edgefl_scalar_software(void) { return &scalar_variant; }
