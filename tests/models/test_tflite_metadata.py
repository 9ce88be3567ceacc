"""Class names inside a ``.tflite`` file: both runtimes pass over them, and the reader trusts no byte."""

from __future__ import annotations

from array import array

import numpy as np
import pytest
import tflite
from tflite_kit import RUNTIMES

from edgefl.errors import ConfigError, VerificationError
from edgefl.models.tflite_metadata import read_classes
from edgefl.models.tflite_verifier import verify_tflite
from edgefl.models.tflite_writer import WeightType, write_tflite
from edgefl.types import Weights

NAMES = ("rest", "sit-ups", "Übung 3")
WEIGHTS = Weights(3, 2, array("f", [1, 0, 0, 1, -1, 2]).tobytes(), array("f", [0, 0.5, 0]).tobytes())


def named(weight_type: WeightType = "float32", names: tuple[str, ...] = NAMES) -> bytes:
    return write_tflite(WEIGHTS, weight_type=weight_type, classes=names)


@pytest.mark.parametrize("weight_type", ["float32", "int8"])
def test_names_are_read_back_and_stand_in_the_format_that_is_documented(weight_type: WeightType) -> None:
    model = named(weight_type)
    assert read_classes(model) == NAMES
    assert read_classes(write_tflite(WEIGHTS, weight_type=weight_type)) == ()
    parsed = tflite.Model.GetRootAs(model, 0)
    assert (parsed.MetadataLength(), parsed.Metadata(0).Name()) == (1, b"edgefl.classes")
    assert parsed.Metadata(0).Buffer() == parsed.BuffersLength() - 1
    data = parsed.Buffers(parsed.Metadata(0).Buffer()).DataAsNumpy()
    assert data.tobytes() == "rest\nsit-ups\nÜbung 3\n".encode()
    offset = data.__array_interface__["data"][0] - np.frombuffer(model, np.uint8).ctypes.data
    assert offset % 16 == 0


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_both_runtimes_compute_what_the_kernel_does(runtime: str) -> None:
    assert verify_tflite(named(), WEIGHTS, None, classes=NAMES, runtime=runtime).max_abs_diff < 1e-6


def test_a_file_with_other_names_is_not_published() -> None:
    with pytest.raises(VerificationError, match=r"the classes 'rest', .*; expected 'rest', 'up', 'down'"):
        verify_tflite(named(), WEIGHTS, None, classes=("rest", "up", "down"))
    with pytest.raises(VerificationError, match="the file names the classes by numbers; expected 'rest'"):
        verify_tflite(write_tflite(WEIGHTS), WEIGHTS, None, classes=NAMES)
    with pytest.raises(ConfigError, match="classes has 2 names and num_classes is 3"):
        named(names=("up", "down"))


def test_what_is_not_a_tflite_file() -> None:
    for raw in (b"", b"\0" * 8, b"PK\3\4 a zip file"):
        with pytest.raises(VerificationError, match="not a TFLite file"):
            read_classes(raw)


def test_a_damaged_file_gives_names_or_an_error() -> None:
    """Whatever byte is lost or changed: no other exception, no endless loop, no names beyond the file's end."""
    model = named()
    text = "rest\nsit-ups\nÜbung 3\n".encode()
    end = model.index(text) + len(text)
    assert {outcome(model[:size]) for size in range(end)} == {"VerificationError"}  # never a name that is cut off
    found = {outcome(model[:size]) for size in range(end, len(model) + 1)}
    for place in range(len(model)):
        for value in (0, 0x7F, 0xFF, model[place] ^ 1):
            found.add(outcome(model[:place] + bytes([value]) + model[place + 1 :]))
    assert {"VerificationError", "3 names", "0 names"} <= found


def outcome(model: bytes) -> str:
    try:
        return f"{len(read_classes(model))} names"
    except VerificationError as error:
        assert "\n" not in str(error)  # noqa: PT017 - of each that is raised
        return "VerificationError"


def test_many_long_names() -> None:
    names = tuple(f"{index:04d} " + "x" * 120 for index in range(4096))
    weights = Weights.zeros(4096, 1)
    assert read_classes(write_tflite(weights, classes=names)) == names
