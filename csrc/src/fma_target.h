/* Whether this build can contain hardware FMA at all, and how one function asks for it. */
#ifndef EDGEFL_FMA_TARGET_H
#define EDGEFL_FMA_TARGET_H

#if defined(EDGEFL_SOFTWARE_FMA)
#define EDGEFL_CAN_FMA 0
#define EDGEFL_HARDWARE_TARGET
#elif defined(__x86_64__) || defined(__i386__)
#define EDGEFL_CAN_FMA 1
#define EDGEFL_HARDWARE_TARGET __attribute__((target("fma")))
#elif defined(__aarch64__) || defined(__ARM_FEATURE_FMA)
#define EDGEFL_CAN_FMA 1
#define EDGEFL_HARDWARE_TARGET
#else
#define EDGEFL_CAN_FMA 0
#define EDGEFL_HARDWARE_TARGET
#endif

#endif
