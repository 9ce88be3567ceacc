/* edgefl_random_words and edgefl_permutation: a stream's beginning does not depend on its length, and an order holds
 * every index once. */
#include "input.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    struct input in;
    input_open(&in, data, size);
    uint8_t *key = block(&in, 16, take_below(&in, 16));
    for (int j = 0; j < 16; j++) {
        key[j] = take_byte(&in);
    }
    const uint32_t epoch = take_word(&in);
    const size_t n = take_rarely(&in, 8) ? take_below(&in, 5000) : take_below(&in, 100);
    uint32_t *order = room(&in, n, sizeof(uint32_t));
    edgefl_permutation(key, epoch, order, n);
    bool *seen = block(&in, n, 0);
    for (size_t j = 0; j < n; j++) {
        seen[j] = false;
    }
    for (size_t j = 0; j < n; j++) {
        REQUIRE(order[j] < n && !seen[order[j]]);
        seen[order[j]] = true;
    }
    const size_t fewer = n > 0 ? take_below(&in, n) : 0;
    uint32_t *all = room(&in, n, sizeof(uint32_t));
    uint32_t *some = room(&in, fewer, sizeof(uint32_t));
    edgefl_random_words(key, epoch, all, n);
    edgefl_random_words(key, epoch, some, fewer);
    REQUIRE(same_bytes(all, some, fewer * sizeof(uint32_t)));
    input_close(&in);
    return 0;
}
