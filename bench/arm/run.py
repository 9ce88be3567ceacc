"""Instructions per example of one training step on ARM: ``make bench-arm``.

Each variant trains a softmax layer under QEMU with a plugin that counts the guest's instructions (``count.c``), once
with few epochs and once with more: the difference, divided by the examples between, is free of start and end. Counts
repeat exactly; they are not times: emulation says nothing of caches and pipelines.

Prints a table and, as its last line, JSON ``{"aarch64": {...}, "armv7": {...}}``. Everything is built below build/arm.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
OUT = ROOT / "build" / "arm" / "bench"

EXAMPLES = 64
FEW_EPOCHS = 1
MORE_EPOCHS = 3


@dataclass(frozen=True)
class Architecture:
    name: str
    gcc: str
    gcc_flags: tuple[str, ...]
    qemu: str
    cpu: str
    variants: tuple[str, ...]


@dataclass(frozen=True)
class Case:
    """One training: a shape, a batch size, and whether the rows are shuffled each epoch."""

    features: int
    classes: int
    batch: int
    shuffled: bool = False

    @property
    def name(self) -> str:
        return f"{self.features}x{self.classes} batch {self.batch}{' shuffled' if self.shuffled else ''}"


ARCHITECTURES = (
    Architecture("aarch64", "aarch64-linux-gnu-gcc", (), "qemu-aarch64", "cortex-a53", ("scalar", "neon64")),
    Architecture(
        "armv7",
        "arm-linux-gnueabihf-gcc",
        ("-march=armv7-a", "-mfpu=neon-vfpv4", "-mfloat-abi=hard"),
        "qemu-arm",
        "cortex-a7",
        ("scalar", "neon32"),
    ),
)
CASES = (Case(784, 10, 32), Case(784, 10, 32, shuffled=True), Case(784, 10, 10), Case(50, 6, 16), Case(1280, 100, 32))


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    done = subprocess.run([str(part) for part in command], cwd=ROOT, check=False, text=True, capture_output=True)
    if done.returncode != 0:
        raise SystemExit(f"{' '.join(done.args)} ended with status {done.returncode}:\n{done.stderr}")
    return done


def build() -> None:
    """The plugin for this machine, and one static program for each architecture, with the flags of setup.py."""
    OUT.mkdir(parents=True, exist_ok=True)
    run("gcc", "-O2", "-shared", "-fPIC", "-fvisibility=hidden", "bench/arm/count.c", "-o", OUT / "count.so")
    sources = (ROOT / "csrc" / "sources.txt").read_text().split()
    arithmetic = [line for line in (ROOT / "csrc" / "flags.txt").read_text().splitlines() if line.startswith("-")]
    flags = ("-std=c11", "-O3", *arithmetic, "-static", "-Icsrc/include")
    for arch in ARCHITECTURES:
        run(arch.gcc, *flags, *arch.gcc_flags, *sources, "bench/arm/train.c", "-o", OUT / arch.name, "-lm")


def count(arch: Architecture, variant: str, case: Case, epochs: int) -> tuple[int, str]:
    """The instructions of a whole run, and the digest of the weights that it trained."""
    done = run(
        *(arch.qemu, "-cpu", arch.cpu, "-plugin", OUT / "count.so", OUT / arch.name, variant),
        *(str(n) for n in (case.features, case.classes, case.batch, EXAMPLES, epochs, int(case.shuffled))),
    )
    instructions = re.search(r"^instructions (\d+)$", done.stderr, re.MULTILINE)
    if instructions is None:
        raise SystemExit(f"{arch.qemu} did not load the plugin:\n{done.stderr}")
    return int(instructions[1]), done.stdout.strip()


def measure(arch: Architecture, variant: str, case: Case) -> tuple[int, str]:
    few, _ = count(arch, variant, case, FEW_EPOCHS)
    more, digest = count(arch, variant, case, MORE_EPOCHS)
    return round((more - few) / (EXAMPLES * (MORE_EPOCHS - FEW_EPOCHS))), digest


def main() -> int:
    build()
    results: dict[str, dict[str, dict[str, int]]] = {}
    digests: dict[str, set[str]] = {}
    print(f"instructions per example{'':17}" + "".join(f"{a.name} {v:<10}" for a in ARCHITECTURES for v in a.variants))
    for case in CASES:
        line = f"{case.name:<40}"
        for arch in ARCHITECTURES:
            for variant in arch.variants:
                instructions, digest = measure(arch, variant, case)
                results.setdefault(arch.name, {}).setdefault(variant, {})[case.name] = instructions
                digests.setdefault(case.name, set()).add(digest)
                line += f"{instructions:>{len(arch.name) + 11},}"
        print(line, flush=True)
    differing = [name for name, found in digests.items() if len(found) != 1]
    if differing:
        print(f"the weights differ between variants or architectures: {', '.join(differing)}", file=sys.stderr)
    print(json.dumps(results))
    return 1 if differing else 0


if __name__ == "__main__":
    sys.exit(main())
