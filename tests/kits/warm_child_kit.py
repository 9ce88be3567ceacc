"""The child that runs a TFLite file, started from a process that has NumPy and the runtime loaded already.

Each call still has a process of its own, with the same code, limits and end: a file that crashes the interpreter ends
that process alone. Only the seconds that the imports take are saved. For tests that judge files; those of the child's
start (``test_tflite_runner``) use the real one.
"""

from __future__ import annotations

import contextlib
import struct
import subprocess
import sys
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch

from edgefl.models import tflite_channel, tflite_runner
from edgefl.models.tflite_channel import Request

LENGTH = struct.Struct("<iQ")
"""Of a message: the child's exit status (0 for a request), and how many bytes follow."""

PARENT = """
import io, os, struct, sys
import numpy
from edgefl.models import tflite_child
from edgefl.models.tflite_runtime_choice import load_interpreter
load_interpreter(sys.argv[1])
length = struct.Struct("<iQ")
while prefix := sys.stdin.buffer.read(length.size):
    request, reply = os.memfd_create("request"), os.memfd_create("reply")
    with os.fdopen(os.dup(request), "wb") as file:
        file.write(sys.stdin.buffer.read(length.unpack(prefix)[1]))
    os.lseek(request, 0, os.SEEK_SET)
    child = os.fork()
    if child == 0:
        os.dup2(request, 0)
        os.dup2(reply, 1)
        sys.stdin = io.TextIOWrapper(open(0, "rb"))
        os._exit(tflite_child.main())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    size = os.lseek(reply, 0, os.SEEK_END)
    sys.stdout.buffer.write(length.pack(status, size) + os.pread(reply, size, 0))
    sys.stdout.buffer.flush()
    os.close(request)
    os.close(reply)
"""
"""It starts no thread, so a fork is safe here. A call's child is what ``tflite_child.main`` makes of it."""


@contextlib.contextmanager
def warm_children() -> Iterator[None]:
    """``tflite_runner`` starts its children from warm processes, one for each runtime."""
    with contextlib.ExitStack() as stack:
        parents: dict[str, subprocess.Popen[bytes]] = {}

        def parent(runtime: str, options: dict[str, Any]) -> subprocess.Popen[bytes]:
            if runtime not in parents:
                command = [sys.executable, "-P", "-c", PARENT, runtime]
                pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.DEVNULL}
                parents[runtime] = stack.enter_context(subprocess.Popen(command, env=options["env"], **pipes))
            return parents[runtime]

        def run(command: list[str], *, input: bytes, **options: Any) -> subprocess.CompletedProcess[bytes]:
            header_bytes, _ = tflite_channel.split_prefix(input[: tflite_channel.PREFIX_BYTES])
            header = input[tflite_channel.PREFIX_BYTES :][:header_bytes]
            process = parent(tflite_channel.parse_header(header, Request).runtime, options)
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(LENGTH.pack(0, len(input)) + input)
            process.stdin.flush()
            status, size = LENGTH.unpack(process.stdout.read(LENGTH.size))
            return subprocess.CompletedProcess(command, status, process.stdout.read(size), b"")

        own = SimpleNamespace(run=run, TimeoutExpired=subprocess.TimeoutExpired)
        with patch.object(tflite_runner, "subprocess", own):
            yield
