"""``learning.export_tflite``: a trained state becomes the file that a server would release."""

from __future__ import annotations

from array import array
from pathlib import Path
from typing import Any

import pytest
from small_fleet import fleet, pooled

import edgefl
from edgefl import kernels, learning, optimizers
from edgefl.errors import ConfigError, EdgeFLError, StorageError, VerificationError
from edgefl.models import predict_tflite, read_classes, tflite_release, write_tflite
from edgefl.types import Weights

NAMES = ("rest", "wave", "clap")
CLIENTS = fleet(3)


def trained() -> tuple[learning.TrainingProcess, Weights]:
    standardization = learning.build_fed_statistics(5, 8.0)(CLIENTS)
    model = edgefl.SoftmaxModel(5, 3, standardization=standardization, classes=NAMES)
    train = learning.build_weighted_fed_avg(model, optimizers.sgd(0.1))
    state = train.initialize()
    for _ in range(3):
        state, _ = train.next(state, CLIENTS)
    return train, train.get_model(state)


def test_the_file_computes_what_the_kernel_does(tmp_path: Path) -> None:
    train, weights = trained()
    file = tmp_path / "new" / "model.tflite"
    verification = learning.export_tflite(file, train.model, weights)
    assert verification.max_abs_diff <= 1e-5
    content = file.read_bytes()
    assert content == write_tflite(weights, train.model.standardization, classes=NAMES)
    assert read_classes(content) == NAMES
    rows = pooled(CLIENTS).examples
    found = predict_tflite(content, rows.features, 5).probabilities
    expected = kernels.predict_softmax(weights, rows.features_view, standardization=train.model.standardization)
    assert array("f", found).tolist() == pytest.approx(memoryview(expected).cast("f").tolist(), abs=1e-5)


def test_int8_weights_replace_a_file(tmp_path: Path) -> None:
    train, weights = trained()
    file = tmp_path / "model.tflite"
    file.write_bytes(b"old")
    assert learning.export_tflite(str(file), train.model, weights, weight_type="int8").max_abs_diff <= 5e-3
    assert file.read_bytes() == write_tflite(weights, train.model.standardization, weight_type="int8", classes=NAMES)


def test_nothing_is_written_where_the_file_is_wrong(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    train, weights = trained()
    other = Weights(3, 5, weights.kernel[:-4] + array("f", [9.0]).tobytes(), weights.bias)
    monkeypatch.setattr(tflite_release, "write_tflite", lambda _, *given, **named: write_tflite(other, *given, **named))
    file = tmp_path / "model.tflite"
    file.write_bytes(b"old")
    with pytest.raises(VerificationError, match="differs from the kernel"):
        learning.export_tflite(file, train.model, weights)
    assert file.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("change", "kind", "message"),
    [
        ({"path": 7}, ConfigError, "path is 7; expected text or a pathlib.Path"),
        ({"path": "/dev/null"}, StorageError, "/dev/null is a device"),
        ({"model": "watch"}, ConfigError, "model is 'watch'; expected a model, as edgefl.SoftmaxModel"),
        ({"weights": b"123"}, ConfigError, "weights is b'123'; expected an edgefl.types.Weights"),
        ({"weights": Weights.zeros(2, 5)}, ConfigError, "weights of 2 classes and 5 features; expected the model's 3"),
        ({"weight_type": "int4"}, ConfigError, "weight_type is 'int4'"),
    ],
)
def test_wrong_arguments_are_refused(
    change: dict[str, Any], kind: type[EdgeFLError], message: str, tmp_path: Path
) -> None:
    given = {"path": tmp_path / "a.tflite", "model": edgefl.SoftmaxModel(5, 3), "weights": Weights.zeros(3, 5)}
    with pytest.raises(kind, match=message):
        learning.export_tflite(**given | change)  # type: ignore[arg-type]


def test_it_is_a_name_of_the_package() -> None:
    assert "export_tflite" in dir(learning)
