"""One setting of the C library's allocator: large buffers go back to the system when they are freed.

glibc maps a large buffer by itself, until one is freed: then it raises the size from which it does so to that buffer's
(up to 32 MiB), and takes the next ones from its heaps, which several threads have each and which keep most of what is
freed. The peak of a server that refused 10,000 reports, 70 of them above 1 MiB, grew by 15 to 20 MB, and by 7 to 8 with
this setting.

Source: mallopt(3), M_MMAP_THRESHOLD.
"""

from __future__ import annotations

import ctypes

LARGE_BYTES = 128 << 10
"""glibc's own starting value; setting it is what keeps it there. A report of 31 kB is not touched."""

_M_MMAP_THRESHOLD = -3
"""From glibc's malloc.h."""


def give_back_large_buffers() -> None:
    """For this process, from now on. Another C library than glibc may have no such setting, and needs none."""
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt is not None:
        mallopt(_M_MMAP_THRESHOLD, LARGE_BYTES)
