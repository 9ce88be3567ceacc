"""The child process that runs a TFLite model: ``python -m edgefl.models.tflite_child``.

The only module that loads NumPy and a runtime. It reads one ``Request`` from standard input, writes one ``Reply`` to
standard output and ends. A model file is data for native code that trusts it: a damaged one can end this process,
and only this process. The parent (``tflite_runner``) turns such an end into an error.

Descriptor 1 is handed over to standard error first, because the runtimes print.
"""

from __future__ import annotations

import os
import resource
import sys
import time
from typing import Any, BinaryIO

from edgefl.errors import DataError, EdgeFLError, VerificationError
from edgefl.models import tflite_channel
from edgefl.models.tflite_channel import Reply, Request
from edgefl.models.tflite_runtime_choice import load_interpreter

BASE_DATA_BYTES = 1 << 30
"""Room for Python, NumPy and a runtime (60 MB were seen), their threads' stacks and a model's activations; a tensor
with an absurd shape fails to allocate instead of pushing the machine into swap."""

COPIES_OF_THE_REQUEST = 4
"""The request, its parts, a runtime's repacked weights and the outputs."""


def main() -> int:
    """Serve one request. The exit status is 0 whenever a reply was written, an error reply too."""
    replies = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    try:
        request, model, features = _read_request(sys.stdin.buffer)
        _limit_memory(len(model) + len(features))
        reply, body = _run(request, model, features)
    except EdgeFLError as error:
        reply, body = Reply(error=type(error).__name__, message=str(error)), b""
    replies.write(tflite_channel.pack(reply, body))
    replies.close()
    return 0


def _read_request(stream: BinaryIO) -> tuple[Request, bytes, bytes]:
    try:
        header_bytes, body_bytes = tflite_channel.split_prefix(stream.read(tflite_channel.PREFIX_BYTES))
        request = tflite_channel.parse_header(stream.read(header_bytes), Request)
        model = stream.read(request.model_bytes)
        features = stream.read(body_bytes - request.model_bytes)
    except ValueError as error:
        raise DataError(f"{error}; this program is started by edgefl.models.tflite_runner") from error
    if len(features) != 4 * request.num_rows * request.num_features:
        raise DataError(f"{len(features)} bytes of features; expected {4 * request.num_rows * request.num_features}")
    return request, model, features


def _limit_memory(request_bytes: int) -> None:
    wanted = BASE_DATA_BYTES + COPIES_OF_THE_REQUEST * request_bytes
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    resource.setrlimit(resource.RLIMIT_DATA, (wanted if hard == resource.RLIM_INFINITY else min(wanted, hard), hard))


def _run(request: Request, model: bytes, features: bytes) -> tuple[Reply, bytes]:
    """Run row by row (the file's batch is 1) and gather the outputs, float32, one row after the other."""
    interpreter_class = load_interpreter(request.runtime)
    import numpy as np

    try:
        # One thread: the rows are small, and a device has other work to do.
        interpreter = interpreter_class(model_content=model, num_threads=1)
        interpreter.allocate_tensors()
        inputs, outputs = interpreter.get_input_details(), interpreter.get_output_details()
    except (ValueError, RuntimeError, MemoryError) as error:
        raise VerificationError(f"{request.runtime} refuses the model: {error!r}") from error
    _check_ends(inputs, outputs, request.num_features, np)
    shape, input_index, output_index = inputs[0]["shape"], inputs[0]["index"], outputs[0]["index"]
    rows = np.frombuffer(features, np.float32).reshape(request.num_rows, *shape)
    results = []
    start = time.perf_counter()
    try:
        for row in rows:
            interpreter.set_tensor(input_index, row)
            interpreter.invoke()
            results.append(interpreter.get_tensor(output_index).tobytes())
    except (ValueError, RuntimeError, MemoryError) as error:
        raise VerificationError(f"{request.runtime} fails on row {len(results)}: {error!r}") from error
    seconds = time.perf_counter() - start
    return Reply(num_classes=len(results[0]) // 4, seconds=seconds), b"".join(results)


def _check_ends(inputs: Any, outputs: Any, num_features: int, np: Any) -> None:
    """One float32 input of ``num_features`` values in any shape, one float32 output."""
    if len(inputs) != 1 or len(outputs) != 1:
        raise DataError(f"the model has {len(inputs)} inputs and {len(outputs)} outputs; expected one of each")
    for name, end in (("input", inputs[0]), ("output", outputs[0])):
        if end["dtype"] != np.float32:
            raise DataError(f"the model's {name} is {np.dtype(end['dtype']).name}; expected float32")
    size = int(np.prod(inputs[0]["shape"], dtype=np.int64))
    if size != num_features:
        raise DataError(
            f"the model's input has {size} values (shape {inputs[0]['shape'].tolist()}); {num_features} features given"
        )


if __name__ == "__main__":
    sys.exit(main())
