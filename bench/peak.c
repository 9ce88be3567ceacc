/* The FMA peak of one core: for each line on standard input, GFLOP/s of 10 ms (CPU time) of independent fused
 * multiply-adds in the widest vectors that the compiler was allowed (-march=native), on standard output. An FMA counts
 * as two. */
#include <stdio.h>
#include <time.h>

#if defined(__AVX512F__)
#include <immintrin.h>
typedef __m512 vec;
#define ALL(x) _mm512_set1_ps(x)
#define FMA(a, b, c) _mm512_fmadd_ps(a, b, c)
#elif defined(__AVX2__) && defined(__FMA__)
#include <immintrin.h>
typedef __m256 vec;
#define ALL(x) _mm256_set1_ps(x)
#define FMA(a, b, c) _mm256_fmadd_ps(a, b, c)
#elif defined(__ARM_NEON) && defined(__ARM_FEATURE_FMA)
#include <arm_neon.h>
typedef float32x4_t vec;
#define ALL(x) vdupq_n_f32(x)
#define FMA(a, b, c) vfmaq_f32(c, a, b)
#else
#error "no vector FMA: this machine has no peak to compare with"
#endif

/* Latency (4 or 5) times throughput (2 in a cycle) at most; with two operands they fit 16 registers. */
#define CHAINS 12
#define LANES (sizeof(vec) / sizeof(float))
#define STEPS 20000
#define MIN_SECONDS 0.01

static double now(void) {
    struct timespec t;
    clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static void run(vec chains[CHAINS]) {
    const vec factor = ALL(0.999f), term = ALL(0.001f); /* towards 1: never subnormal, never infinite */
    vec c[CHAINS];
    for (int j = 0; j < CHAINS; j++) {
        c[j] = chains[j];
    }
    for (int step = 0; step < STEPS; step++) {
#pragma GCC unroll 12
        for (int j = 0; j < CHAINS; j++) {
            c[j] = FMA(c[j], factor, term);
        }
    }
    for (int j = 0; j < CHAINS; j++) {
        chains[j] = c[j];
    }
}

int main(void) {
    char line[64];
    static vec chains[CHAINS];
    while (fgets(line, sizeof line, stdin) != NULL) {
        const double start = now();
        double seconds, flops = 0.0;
        do {
            run(chains);
            flops += 2.0 * CHAINS * LANES * STEPS;
            seconds = now() - start;
        } while (seconds < MIN_SECONDS);
        printf("%.3f\n", flops / seconds * 1e-9);
        fflush(stdout);
    }
    volatile float sink = 0.0f; /* the results are used */
    for (unsigned j = 0; j < sizeof chains / sizeof(float); j++) {
        sink = sink + ((const float *)chains)[j];
    }
    return 0;
}
