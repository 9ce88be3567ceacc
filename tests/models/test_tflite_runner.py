"""The interpreter in a child process: results, and what becomes of a crash, a hang, garbage and a wrong digest."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from array import array
from pathlib import Path

import pytest
from script_kit import SCRIPT
from tflite_kit import RUNTIMES

from edgefl.errors import ConfigError, DataError, UnavailableError, VerificationError
from edgefl.models import tflite_channel, tflite_runner, tflite_runtime_choice
from edgefl.models.tflite_channel import Reply, Request
from edgefl.models.tflite_runner import predict_tflite
from edgefl.models.tflite_runtime_choice import check_numpy, choose_runtime
from edgefl.models.tflite_writer import write_tflite
from edgefl.types import Weights

# Logits are the two features: equal features give one half each.
IDENTITY = Weights(2, 2, array("f", [1.0, 0.0, 0.0, 1.0]).tobytes(), bytes(8))


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_rows_come_back_in_order(runtime: str) -> None:
    model = write_tflite(IDENTITY)
    rows = array("f", [1.0, 1.0, 50.0, 0.0, 0.0, 50.0])
    result = predict_tflite(model, rows, 2, sha256=hashlib.sha256(model).hexdigest(), runtime=runtime)
    assert result.probabilities_view.tolist() == [[0.5, 0.5], [1.0, pytest.approx(0)], [pytest.approx(0), 1.0]]
    assert (result.num_classes, result.num_rows, result.runtime) == (2, 3, runtime)
    assert 0 < result.seconds < 1


def test_a_wrong_digest_is_refused_before_a_child_starts(monkeypatch: pytest.MonkeyPatch) -> None:
    model = write_tflite(IDENTITY)
    # Any start of a child would now fail with another error.
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(VerificationError, match="SHA-256"):
        predict_tflite(model[:-1], bytes(8), 2, sha256=hashlib.sha256(model).hexdigest())
    with pytest.raises(UnavailableError, match="cannot be started"):
        predict_tflite(model, bytes(8), 2, sha256=hashlib.sha256(model).hexdigest().upper())


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("damage", ["empty", "truncated", "text", "wild offset", "huge shape"])
def test_a_damaged_file_is_an_error_and_not_the_end(damage: str, runtime: str) -> None:
    model = write_tflite(IDENTITY)
    broken = {
        "empty": b"",
        "truncated": model[: len(model) // 2],
        "text": b"<html>captive portal</html>",
        "wild offset": b"\xff\xff\xff\x7f" + model[4:],
        # The layer's output shape (1, 2) becomes (1, 2**30).
        "huge shape": model.replace(b"\2\0\0\0\1\0\0\0\2\0\0\0", b"\2\0\0\0\1\0\0\0\0\0\0\x40"),
    }[damage]
    assert broken != model
    with pytest.raises((VerificationError, DataError)):
        predict_tflite(broken, bytes(8), 2, runtime=runtime)


SAYS = {"tflite_runtime": r"crashed its interpreter \(SIGSEGV\)", "ai_edge_litert": "not a valid Flatbuffer"}


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_byte_that_crashes_an_interpreter_ends_the_child_alone(runtime: str) -> None:
    # Found by trying every byte: it breaks the model's table of fields. tflite-runtime 2.14 follows it, LiteRT looks.
    model = bytearray(write_tflite(IDENTITY))
    model[18] = 0xFF
    with pytest.raises(VerificationError, match=SAYS[runtime]):
        predict_tflite(bytes(model), bytes(8), 2, runtime=runtime)


def child_from(monkeypatch: pytest.MonkeyPatch, folder: Path, source: str) -> None:
    """Let the runner start a program of ours in place of its child."""
    (folder / "other_child.py").write_text(source)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setattr(tflite_runner, "CHILD_MODULE", "other_child")


@pytest.mark.parametrize(
    ("source", "kind", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGSEGV)", VerificationError, "SIGSEGV"),
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", UnavailableError, "out of memory"),
        ("import signal; signal.pause()", UnavailableError, "within 0.5 s"),
        ("print('INFO: chatter')", VerificationError, "answered a message of 14 bytes"),
        ("raise SystemExit('last words')", VerificationError, "status 1.*last words"),
    ],
)
def test_whatever_a_child_does_becomes_a_typed_error(
    source: str, kind: type[Exception], message: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    child_from(monkeypatch, tmp_path, source)
    with pytest.raises(kind, match=message):
        predict_tflite(write_tflite(IDENTITY), bytes(8), 2, timeout_s=0.5 if "pause" in source else 60)


def other_runtime(monkeypatch: pytest.MonkeyPatch, folder: Path, interpreter: str) -> None:
    """Put a package of ours in the place of tflite_runtime, in the child too."""
    package = folder / "tflite_runtime"
    package.mkdir()
    (package / "__init__.py").write_text("__version__ = '9.0'\n")
    (package / "interpreter.py").write_text(interpreter)
    monkeypatch.syspath_prepend(str(folder))


def test_what_a_runtime_prints_does_not_reach_the_reply(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    source = "import os\nos.write(1, b'INFO: created a delegate')\nprint('and by print')\n"
    other_runtime(monkeypatch, tmp_path, source + "from ai_edge_litert.interpreter import Interpreter\n")
    assert predict_tflite(write_tflite(IDENTITY), bytes(8), 2, runtime="tflite_runtime").num_rows == 1


def test_the_memory_of_the_child_is_bounded(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    # Untouched pages cost nothing: without the limit this allocation succeeds, and the next line fails otherwise.
    source = "class Interpreter:\n    def __init__(self, **_): bytearray(3 << 29); raise RuntimeError('not bounded')\n"
    other_runtime(monkeypatch, tmp_path, source)
    with pytest.raises(VerificationError, match=r"refuses the model: MemoryError"):
        predict_tflite(write_tflite(IDENTITY), bytes(8), 2, runtime="tflite_runtime")


def test_features_must_fit() -> None:
    model = write_tflite(IDENTITY)
    for features, width in ((b"", 2), (bytes(6), 2), (bytes(8), 0), (bytes(12), 2)):
        with pytest.raises(DataError, match="whole rows"):
            predict_tflite(model, features, width)
    with pytest.raises(DataError, match=r"2 values .* 3 features given"):
        predict_tflite(model, bytes(12), 3)


def test_the_runner_loads_neither_numpy_nor_a_runtime() -> None:
    script = (
        "import sys; import edgefl.models; from edgefl.models import predict_tflite, SoftmaxModel, choose_runtime\n"
        "choose_runtime()\n"
        "bad = {'numpy', 'flatbuffers', 'tflite', 'tflite_runtime', 'ai_edge_litert'} & set(sys.modules)\n"
        "assert not bad, bad\n"
    )
    subprocess.run([*SCRIPT, script], check=True)


def test_the_choice_of_a_runtime(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEFL_TFLITE", raising=False)
    assert choose_runtime() == RUNTIMES[0]
    assert choose_runtime("ai_edge_litert") == "ai_edge_litert"
    monkeypatch.setenv("EDGEFL_TFLITE", "ai_edge_litert")
    assert choose_runtime() == "ai_edge_litert"
    assert choose_runtime(RUNTIMES[0]) == RUNTIMES[0]
    assert predict_tflite(write_tflite(IDENTITY), bytes(8), 2).runtime == "ai_edge_litert"
    monkeypatch.setenv("EDGEFL_TFLITE", "tensorflow")
    with pytest.raises(ConfigError, match="EDGEFL_TFLITE is 'tensorflow'; expected tflite_runtime or ai_edge_litert"):
        choose_runtime()


def test_a_runtime_that_is_not_there_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("EDGEFL_TFLITE", raising=False)
    monkeypatch.setattr(tflite_runtime_choice, "installed_runtimes", lambda: ("ai_edge_litert",))
    assert choose_runtime() == "ai_edge_litert"
    with pytest.raises(ConfigError, match="not installed; install tflite-runtime"):
        choose_runtime("tflite_runtime")
    monkeypatch.setattr(tflite_runtime_choice, "installed_runtimes", lambda: ())
    with pytest.raises(ConfigError, match=r"install tflite-runtime.*install ai-edge-litert"):
        choose_runtime()


def test_a_runtime_that_does_not_import_says_what_to_install(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "tflite_runtime.py").write_text("raise ImportError('libfoo.so.1 is missing')")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(ConfigError, match=r"libfoo\.so\.1 is missing; install tflite-runtime"):
        predict_tflite(write_tflite(IDENTITY), bytes(8), 2, runtime="tflite_runtime")


def test_numpy_2_with_an_old_tflite_runtime_is_explained() -> None:
    with pytest.raises(ConfigError, match=r"2\.14\.0 does not work with numpy 2\.2\.6; install numpy before 2"):
        check_numpy("2.14.0", "2.2.6")
    check_numpy("2.14.0", "1.26.4")
    check_numpy("2.17.1", "2.2.6")


def test_the_frame_between_the_two_processes() -> None:
    request = Request("tflite_runtime", 3, 1, 2)
    message = tflite_channel.pack(request, b"body")
    assert tflite_channel.unpack(message, Request) == (request, b"body")
    reply = tflite_channel.pack(Reply("", "", 2, 0.5), b"")
    for broken in (message[:-1], message + b"x", b"", b"EFLX" + message[4:], message[:8]):
        with pytest.raises(ValueError, match="message"):
            tflite_channel.unpack(broken, Request)
    with pytest.raises(ValueError, match="header"):
        tflite_channel.unpack(reply, Request)
    with pytest.raises(ValueError, match="header"):
        tflite_channel.unpack(reply.replace(b"0.5", b'"5"'), Reply)
