#!/usr/bin/env bash
# Runs the C tests on emulated ARM: `make test-arm`. Writes below build/arm alone.
#
# aarch64 and ARMv7, each with hardware FMA, without it, and under AddressSanitizer and UndefinedBehaviorSanitizer; and
# ARMv7 as plain armhf, where the CPU decides while the program runs; and both by clang (CLANG names it) with gcc's
# libraries, since the NEON files hold other code for each compiler. On the first CPU of a build every test runs, on
# the others test_loops and the golden program. Each must use the variant that it is meant to: a silent fallback would
# test nothing. The golden program, which digests a matrix of trainings, must give tests/golden/kernel.txt.
set -euo pipefail
cd "$(dirname "$0")/../.."
source tests/arm/tools.sh
CLANG=${CLANG:-clang}
need "$CLANG" clang
need_all
OUT=build/arm
mkdir -p $OUT
mapfile -t sources <csrc/sources.txt
failed=0

fail() {
    echo "FAILED: $*" >&2
    failed=1
}

# build NAME GCC FLAGS...: the library, each test, and the golden program, as static programs in $OUT/NAME.
build() {
    local name=$1 gcc=$2 dir=$OUT/$1 program
    shift 2
    mkdir -p "$dir"
    rm -f "$dir"/*.o "$dir"/lib*.a "$dir"/test_* "$dir"/golden
    (cd "$dir" && "$gcc" ${FLAGS//-Icsrc/-I../../../csrc} "$@" -c "${sources[@]/#/../../../}" && ar rcs libedgefl.a ./*.o)
    for program in csrc/tests/test_*.c; do
        "$gcc" $FLAGS "$@" "$program" "$dir/libedgefl.a" -o "$dir/$(basename "$program" .c)" -lm
    done
    "$gcc" $FLAGS "$@" csrc/tests/golden*.c "$dir/libedgefl.a" -o "$dir/golden" -lm || fail "golden $name does not build"
}

# run_on CPU NAME QEMU VARIANT PATTERN: runs the tests of that name; VARIANT is supported on this CPU, or "no-VARIANT" is not.
run_on() {
    local cpu=$1 name=$2 qemu=$3 variant=$4 pattern=$5 program log=$OUT/$2/$1.log started=$SECONDS
    : >"$log"
    for program in "$OUT/$name"/$pattern; do
        timeout 600 $qemu -cpu "$cpu" "$program" >>"$log" 2>&1 || fail "$(basename "$program") $name on $cpu: $log"
    done
    local answer
    answer=$(grep "^${variant#no-}: not supported by this CPU" "$log" | sort -u | wc -l || true)
    case "$variant" in
        no-*) [ "$answer" = 1 ] || fail "$name on $cpu: ${variant#no-} is offered where it cannot run" ;;
        *) [ "$answer" = 0 ] || fail "$name on $cpu: $variant is not supported" ;;
    esac
    if [ -x "$OUT/$name/golden" ]; then
        timeout 600 $qemu -cpu "$cpu" "$OUT/$name/golden" --check tests/golden/kernel.txt >>"$log" 2>&1 ||
            fail "golden $name on $cpu: $log"
    fi
    echo "$name on $cpu ($variant): $((SECONDS - started)) s"
}

ALL='test_*'
LOOPS='test_loops'
NEON="-mfpu=neon-vfpv4"

build aarch64 $AARCH64_GCC -static
build aarch64-software $AARCH64_GCC -static -DEDGEFL_SOFTWARE_FMA=1
build armv7 $ARMV7_GCC $ARMV7_FLAGS $NEON -static
build armv7-software $ARMV7_GCC $ARMV7_FLAGS $NEON -static -DEDGEFL_SOFTWARE_FMA=1
build armhf $ARMV7_GCC $ARMV7_FLAGS -mfpu=vfpv3-d16 -static

run_on cortex-a53 aarch64 qemu-aarch64-static neon64 "$ALL"
run_on cortex-a72 aarch64 qemu-aarch64-static neon64 "$LOOPS"
run_on cortex-a76 aarch64 qemu-aarch64-static neon64 "$LOOPS"
run_on cortex-a53 aarch64-software qemu-aarch64-static no-neon64 "$ALL"
run_on cortex-a7 armv7 qemu-arm-static neon32 "$ALL"
run_on cortex-a7 armv7-software qemu-arm-static no-neon32 "$ALL"
run_on cortex-a7 armhf qemu-arm-static neon32 "$LOOPS"
run_on cortex-a9 armhf qemu-arm-static no-neon32 "$LOOPS"

# clang compiles with flags that it only needs to link, and the other way round.
CLANG_FLAGS="-static -Wno-unused-command-line-argument"
build aarch64-clang "$CLANG" --target=aarch64-linux-gnu $CLANG_FLAGS
build armv7-clang "$CLANG" --target=arm-linux-gnueabihf $ARMV7_FLAGS $NEON $CLANG_FLAGS
run_on cortex-a53 aarch64-clang qemu-aarch64-static neon64 "$ALL"
run_on cortex-a7 armv7-clang qemu-arm-static neon32 "$ALL"

# LeakSanitizer needs ptrace, which QEMU does not emulate. -O1: the tests stay short, the instructions are other ones.
export ASAN_OPTIONS=detect_leaks=0
SANITIZE="-O1 -fsanitize=address,undefined -fno-sanitize-recover=all -static-libasan"
build aarch64-sanitized $AARCH64_GCC $SANITIZE
build armv7-sanitized $ARMV7_GCC $ARMV7_FLAGS $NEON $SANITIZE
run_on cortex-a53 aarch64-sanitized "qemu-aarch64-static -L /usr/aarch64-linux-gnu" neon64 "$ALL"
run_on cortex-a7 armv7-sanitized "qemu-arm-static -L /usr/arm-linux-gnueabihf" neon32 "$ALL"

[ $failed = 0 ] && echo "test-arm: all passed"
exit $failed
