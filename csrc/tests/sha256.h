/* SHA-256 (FIPS 180-4), for the digests of the golden vectors; not for anything secret. */
#ifndef EDGEFL_TESTS_SHA256_H
#define EDGEFL_TESTS_SHA256_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#define SHA256_HEX_SIZE 65 /* 64 digits and the end */

struct sha256 {
    uint32_t state[8];
    uint64_t size_bytes;
    uint8_t block[64];
};

static inline uint32_t sha256_rotate(uint32_t v, int n) { return v >> n | v << (32 - n); }

static inline void sha256_open(struct sha256 *hash) {
    static const uint32_t start[8] = {0x6a09e667u, 0xbb67ae85u, 0x3c6ef372u, 0xa54ff53au,
                                      0x510e527fu, 0x9b05688cu, 0x1f83d9abu, 0x5be0cd19u};
    memcpy(hash->state, start, sizeof start);
    hash->size_bytes = 0;
}

static inline void sha256_fold_block(struct sha256 *hash) {
    static const uint32_t k[64] = {
        0x428a2f98u, 0x71374491u, 0xb5c0fbcfu, 0xe9b5dba5u, 0x3956c25bu, 0x59f111f1u, 0x923f82a4u, 0xab1c5ed5u,
        0xd807aa98u, 0x12835b01u, 0x243185beu, 0x550c7dc3u, 0x72be5d74u, 0x80deb1feu, 0x9bdc06a7u, 0xc19bf174u,
        0xe49b69c1u, 0xefbe4786u, 0x0fc19dc6u, 0x240ca1ccu, 0x2de92c6fu, 0x4a7484aau, 0x5cb0a9dcu, 0x76f988dau,
        0x983e5152u, 0xa831c66du, 0xb00327c8u, 0xbf597fc7u, 0xc6e00bf3u, 0xd5a79147u, 0x06ca6351u, 0x14292967u,
        0x27b70a85u, 0x2e1b2138u, 0x4d2c6dfcu, 0x53380d13u, 0x650a7354u, 0x766a0abbu, 0x81c2c92eu, 0x92722c85u,
        0xa2bfe8a1u, 0xa81a664bu, 0xc24b8b70u, 0xc76c51a3u, 0xd192e819u, 0xd6990624u, 0xf40e3585u, 0x106aa070u,
        0x19a4c116u, 0x1e376c08u, 0x2748774cu, 0x34b0bcb5u, 0x391c0cb3u, 0x4ed8aa4au, 0x5b9cca4fu, 0x682e6ff3u,
        0x748f82eeu, 0x78a5636fu, 0x84c87814u, 0x8cc70208u, 0x90befffau, 0xa4506cebu, 0xbef9a3f7u, 0xc67178f2u};
    uint32_t w[64];
    for (size_t t = 0; t < 16; t++) {
        const uint8_t *b = hash->block + 4 * t;
        w[t] = (uint32_t)b[0] << 24 | (uint32_t)b[1] << 16 | (uint32_t)b[2] << 8 | b[3];
    }
    for (size_t t = 16; t < 64; t++) {
        const uint32_t s0 = sha256_rotate(w[t - 15], 7) ^ sha256_rotate(w[t - 15], 18) ^ w[t - 15] >> 3;
        const uint32_t s1 = sha256_rotate(w[t - 2], 17) ^ sha256_rotate(w[t - 2], 19) ^ w[t - 2] >> 10;
        w[t] = w[t - 16] + s0 + w[t - 7] + s1;
    }
    uint32_t s[8]; /* a to h of the standard */
    memcpy(s, hash->state, sizeof s);
    for (size_t t = 0; t < 64; t++) {
        const uint32_t sum1 = sha256_rotate(s[4], 6) ^ sha256_rotate(s[4], 11) ^ sha256_rotate(s[4], 25);
        const uint32_t t1 = s[7] + sum1 + ((s[4] & s[5]) ^ (~s[4] & s[6])) + k[t] + w[t];
        const uint32_t sum0 = sha256_rotate(s[0], 2) ^ sha256_rotate(s[0], 13) ^ sha256_rotate(s[0], 22);
        const uint32_t t2 = sum0 + ((s[0] & s[1]) ^ (s[0] & s[2]) ^ (s[1] & s[2]));
        memmove(s + 1, s, 7 * sizeof *s);
        s[4] += t1;
        s[0] = t1 + t2;
    }
    for (size_t j = 0; j < 8; j++) {
        hash->state[j] += s[j];
    }
}

static inline void sha256_add(struct sha256 *hash, const void *data, size_t size_bytes) {
    const uint8_t *bytes = data;
    for (size_t j = 0; j < size_bytes; j++) {
        hash->block[hash->size_bytes++ % 64] = bytes[j];
        if (hash->size_bytes % 64 == 0) {
            sha256_fold_block(hash);
        }
    }
}

static inline void sha256_close(struct sha256 *hash, char hex[SHA256_HEX_SIZE]) {
    const uint64_t size_bits = hash->size_bytes * 8;
    const uint8_t mark = 0x80, zero = 0;
    sha256_add(hash, &mark, 1);
    while (hash->size_bytes % 64 != 56) {
        sha256_add(hash, &zero, 1);
    }
    for (int shift = 56; shift >= 0; shift -= 8) {
        const uint8_t byte = (uint8_t)(size_bits >> shift);
        sha256_add(hash, &byte, 1);
    }
    for (size_t j = 0; j < 8; j++) {
        snprintf(hex + 8 * j, 9, "%08x", (unsigned)hash->state[j]);
    }
}

#endif
