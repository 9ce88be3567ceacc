"""Runs a TFLite model in a child process. This side loads neither NumPy nor a runtime.

Invariants:

- If a digest is given, it is checked before the child sees a byte: an untrusted file can crash the interpreter.
- Whatever the child does (a crash, a hang, garbage), the caller gets a typed error, and no child is left behind.
- The child is started by exec, never by fork alone: gRPC's threads do not survive a fork.

Source: design §8 (traps) and §6 (exec).
"""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import edgefl
from edgefl.errors import ConfigError, DataError, UnavailableError, VerificationError
from edgefl.models import tflite_channel
from edgefl.models.tflite_channel import Reply, Request
from edgefl.models.tflite_runtime_choice import choose_runtime
from edgefl.types import DType, Examples

if TYPE_CHECKING:
    from typing_extensions import Buffer

CHILD_MODULE = "edgefl.models.tflite_child"

_CHILD_ERRORS = {kind.__name__: kind for kind in (ConfigError, DataError, VerificationError)}
_STDERR_SHOWN = 500
"""Characters of the child's last words in an error message."""


@dataclass(frozen=True)
class TflitePrediction:
    """``probabilities`` (n, num_classes) float32 as bytes; ``seconds`` is all rows' inference, without start-up."""

    probabilities: bytes
    num_classes: int
    runtime: str
    seconds: float

    @property
    def num_rows(self) -> int:
        return len(self.probabilities) // (4 * self.num_classes)

    @property
    def probabilities_view(self) -> memoryview[float]:
        """A float32 buffer of shape (n, num_classes)."""
        return memoryview(self.probabilities).cast("f", shape=[self.num_rows, self.num_classes])


def predict_tflite(
    model: bytes,
    features: Buffer,
    num_features: int,
    *,
    sha256: str | None = None,
    runtime: str | None = None,
    timeout_s: float = 60.0,
) -> TflitePrediction:
    """Run the model file ``model`` on ``features`` (n, num_features) float32, n at least 1, row by row.

    ``sha256`` is the file's expected digest in hexadecimal. ``runtime`` forces one (``tflite_runtime_choice``).
    ``timeout_s`` bounds the child's whole life.

    Raises ``VerificationError`` when the digest differs, the runtime refuses the file or the child crashes;
    ``UnavailableError`` when the child does not end in time, is killed or cannot be started; ``DataError`` when
    features and model do not fit; ``ConfigError`` when no runtime fits.
    """
    if sha256 is not None:
        found = hashlib.sha256(model).hexdigest()
        if found != sha256.lower():
            raise VerificationError(f"the model's SHA-256 is {found}; expected {sha256}; fetch the file again")
    rows = bytes(features)
    if num_features < 1 or not rows or len(rows) % (4 * num_features):
        raise DataError(f"{len(rows)} bytes of features; expected whole rows of {num_features} float32 values")
    name = choose_runtime(runtime)
    request = Request(name, len(model), len(rows) // (4 * num_features), num_features)
    reply, body = _ask_child(tflite_channel.pack(request, model + rows), timeout_s)
    if reply.error:
        raise _CHILD_ERRORS.get(reply.error, VerificationError)(reply.message)
    if reply.num_classes < 1 or len(body) != 4 * reply.num_classes * request.num_rows:
        raise VerificationError(
            f"the model gave {len(body)} bytes for {request.num_rows} rows of {reply.num_classes} classes"
        )
    return TflitePrediction(body, reply.num_classes, name, reply.seconds)


def float32_rows(examples: Examples, first: int, last: int) -> bytes:
    """Rows [first, last) as the float32 values that they mean: what a file takes, which knows nothing of 8 bits."""
    size = examples.num_features * examples.dtype.size_bytes
    raw = examples.features[first * size : last * size]
    if examples.dtype is DType.FLOAT32:
        return raw
    scale, zero = examples.quantization.scale, examples.quantization.zero_point
    stored = array("B" if examples.dtype is DType.UINT8 else "b", raw)
    return array("f", [scale * (value - zero) for value in stored]).tobytes()


def _ask_child(message: bytes, timeout_s: float) -> tuple[Reply, bytes]:
    command = [sys.executable, "-P", "-m", CHILD_MODULE]
    try:
        child = subprocess.run(command, input=message, capture_output=True, timeout=timeout_s, env=_child_environment())
    except subprocess.TimeoutExpired as error:
        raise UnavailableError(f"the model did not finish within {timeout_s:g} s; its process was ended") from error
    except OSError as error:
        raise UnavailableError(f"the process that runs the model cannot be started: {error}") from error
    last_words = child.stderr.decode(errors="replace").strip()[-_STDERR_SHOWN:]
    if child.returncode == -signal.SIGKILL:
        raise UnavailableError("the process that runs the model was killed; is the machine out of memory?")
    if child.returncode:
        raise VerificationError(f"the model crashed its interpreter ({_describe(child.returncode)}): {last_words}")
    try:
        return tflite_channel.unpack(child.stdout, Reply)
    except ValueError as error:
        raise VerificationError(f"the process that runs the model answered {error}: {last_words}") from error


def _describe(returncode: int) -> str:
    if returncode >= 0:
        return f"status {returncode}"
    try:
        return signal.Signals(-returncode).name
    except ValueError:
        return f"signal {-returncode}"


def _child_environment() -> dict[str, str]:
    """This process's import path and environment, with the numeric libraries held to one thread."""
    root = str(Path(edgefl.__file__).resolve().parent.parent)
    path = [entry for entry in sys.path if entry]
    if root not in path:
        path.append(root)
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join(path), OPENBLAS_NUM_THREADS="1", OMP_NUM_THREADS="1")
    # Warnings turned into errors are meant for the parent, not for the runtimes' own imports.
    environment.pop("PYTHONWARNINGS", None)
    return environment
