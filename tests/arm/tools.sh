# What the ARM scripts share; sourced, from the root of the repository.
# Cross compilers and QEMU's user mode: no ARM machine is needed. Debian's names.

FLAGS="-std=c11 -O3 -g $(grep '^-' csrc/flags.txt | tr '\n' ' ') -Wall -Wextra -Wpedantic -Wconversion -Wshadow -Werror -Icsrc/include -Icsrc/src"
ARMV7_FLAGS="-march=armv7-a -mfloat-abi=hard"
AARCH64_GCC=aarch64-linux-gnu-gcc
ARMV7_GCC=arm-linux-gnueabihf-gcc

# need COMMAND PACKAGES: says what to install when the command is missing.
missing=""
need() {
    command -v "$1" >/dev/null || missing="$missing ${*:2}"
}
need_all() {
    need gcc gcc libc6-dev
    need $AARCH64_GCC gcc-aarch64-linux-gnu libc6-dev-arm64-cross
    need $ARMV7_GCC gcc-arm-linux-gnueabihf libc6-dev-armhf-cross
    need qemu-aarch64 qemu-user
    need qemu-arm qemu-user
    need qemu-aarch64-static qemu-user-static
    need qemu-arm-static qemu-user-static
    if [ -n "$missing" ]; then
        echo "ARM code is built by cross compilers and run by QEMU; some are missing. Install them:" >&2
        echo "    apt install $(printf '%s\n' $missing | sort -u | tr "\n" " ")" >&2
        exit 2
    fi
}
