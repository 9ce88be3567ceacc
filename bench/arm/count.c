/* A QEMU plugin (API version 1, QEMU 4.2 to 9) that counts the guest's instructions, all of them or those of one range
 * of addresses, and prints the count at exit. QEMU 7's package has no header for plugins: what is used of the interface
 * is declared here, after QEMU's documentation "TCG plugins".
 *
 * Arguments, for a static program: from=HEX,to=HEX counts only blocks whose first address is in [from, to). */
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))

typedef uint64_t plugin_id;
struct qemu_plugin_tb;
struct qemu_info_t;
enum inline_op { ADD_U64 };

extern void qemu_plugin_register_vcpu_tb_trans_cb(plugin_id id, void (*callback)(plugin_id, struct qemu_plugin_tb *));
extern void qemu_plugin_register_vcpu_tb_exec_inline(struct qemu_plugin_tb *block, enum inline_op op, void *counter,
                                                     uint64_t amount);
extern size_t qemu_plugin_tb_n_insns(const struct qemu_plugin_tb *block);
extern uint64_t qemu_plugin_tb_vaddr(const struct qemu_plugin_tb *block);
extern void qemu_plugin_register_atexit_cb(plugin_id id, void (*callback)(plugin_id, void *), void *data);

EXPORT int qemu_plugin_version = 1;

static uint64_t count;
static uint64_t from;
static uint64_t to = UINT64_MAX;

static void on_translation(plugin_id id, struct qemu_plugin_tb *block) {
    (void)id;
    const uint64_t address = qemu_plugin_tb_vaddr(block);
    if (address >= from && address < to) {
        qemu_plugin_register_vcpu_tb_exec_inline(block, ADD_U64, &count, qemu_plugin_tb_n_insns(block));
    }
}

static void on_exit_of_guest(plugin_id id, void *data) {
    (void)id;
    (void)data;
    fprintf(stderr, "instructions %llu\n", (unsigned long long)count);
}

EXPORT int qemu_plugin_install(plugin_id id, const struct qemu_info_t *info, int argc, char **argv) {
    (void)info;
    for (int j = 0; j < argc; j++) {
        if (strncmp(argv[j], "from=", 5) == 0) {
            from = strtoull(argv[j] + 5, NULL, 16);
        } else if (strncmp(argv[j], "to=", 3) == 0) {
            to = strtoull(argv[j] + 3, NULL, 16);
        } else {
            fprintf(stderr, "count: unknown argument %s\n", argv[j]);
            return 1;
        }
    }
    qemu_plugin_register_vcpu_tb_trans_cb(id, on_translation);
    qemu_plugin_register_atexit_cb(id, on_exit_of_guest, NULL);
    return 0;
}
