"""What the server frees goes back to the system (a process of its own: the setting and its heap are the process's)."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import os

from edgefl_server.allocator import give_back_large_buffers


def resident_bytes():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


give_back_large_buffers()
b"x" * (8 << 20)  # freed at once: from here on glibc alone would take 1 MiB from its heap
before = resident_bytes()
buffers = [b"x" * (1 << 20) for _ in range(40)]
pin = [bytearray(1000) for _ in range(1000)]  # smaller ones that stay, above them in the heap
del buffers
print(resident_bytes() - before)
"""


def test_large_buffers_go_back_to_the_system_when_they_are_freed() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True)
    assert int(done.stdout) < 4 << 20
