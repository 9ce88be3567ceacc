"""The verifier: right files pass on both runtimes, and each kind of wrong file is refused."""

from __future__ import annotations

import math
import struct
import subprocess
from array import array
from collections.abc import Iterator

import numpy as np
import pytest
from script_kit import SCRIPT
from tflite_kit import RUNTIMES
from warm_child_kit import warm_children

from edgefl import datasets, kernels, learning, optimizers
from edgefl.datasets import FederatedDataset
from edgefl.errors import ConfigError, VerificationError
from edgefl.models import SoftmaxModel, predict_tflite, tflite_int8
from edgefl.models.tflite_int8 import quantize_kernel
from edgefl.models.tflite_verifier import (
    FLOAT32_MAX_DIFF,
    INT8_MAX_DIFF,
    MAX_DATA_LIKE_INPUTS,
    NUM_RANDOM_INPUTS,
    Verification,
    data_like_inputs,
    verification_inputs,
    verify_tflite,
)
from edgefl.models.tflite_writer import WeightType, write_tflite
from edgefl.types import MIN_MAGNITUDE, Standardization, TrainConfig, Weights


@pytest.fixture(scope="module", autouse=True)
def _warm() -> Iterator[None]:
    with warm_children():
        yield


LIMITS: dict[WeightType, float] = {"float32": FLOAT32_MAX_DIFF, "int8": INT8_MAX_DIFF}


def trained(num_classes: int, num_features: int, epochs: int = 1) -> tuple[Weights, Standardization]:
    """A model trained by the kernel on clusters that overlap, and the standardization that it was trained with."""
    random = np.random.default_rng(num_features)
    centers = random.normal(size=(num_classes, num_features)) * 2.0 / math.sqrt(num_features)
    labels = random.integers(num_classes, size=600).astype(np.int32)
    spread = random.uniform(0.1, 10.0, num_features)
    mean = random.normal(size=num_features) * 5.0
    features = ((centers[labels] + random.normal(size=(600, num_features))) * spread + mean).astype(np.float32)
    standardization = Standardization(mean.astype(np.float32).tobytes(), (1 / spread).astype(np.float32).tobytes())
    weights, _ = kernels.train_softmax(
        Weights.zeros(num_classes, num_features),
        features,
        labels,
        TrainConfig(0.05, local_epochs=epochs, shuffle_key=bytes(16)),
        standardization=standardization,
    )
    return weights, standardization


def changed(raw: bytes, index: int, value: float) -> bytes:
    values = array("f", raw)
    assert values[index] != value
    values[index] = value
    return values.tobytes()


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize(("num_classes", "num_features"), [(7, 75), (10, 784)])
def test_a_right_float32_file_passes(num_classes: int, num_features: int, standardized: bool, runtime: str) -> None:
    weights, standardization = trained(num_classes, num_features, epochs=5)
    used = standardization if standardized else None
    found = verify_tflite(write_tflite(weights, used), weights, used, runtime=runtime)
    assert found == Verification(found.max_abs_diff, NUM_RANDOM_INPUTS + 1, runtime)
    assert 0 < found.max_abs_diff < FLOAT32_MAX_DIFF / 2


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize(("num_classes", "num_features", "epochs"), [(7, 75, 1), (7, 75, 30), (10, 784, 20)])
def test_an_int8_file_of_a_trained_model_passes(
    num_classes: int, num_features: int, epochs: int, standardized: bool, runtime: str
) -> None:
    weights, standardization = trained(num_classes, num_features, epochs)
    used = standardization if standardized else None
    found = verify_tflite(
        write_tflite(weights, used, weight_type="int8"), weights, used, weight_type="int8", runtime=runtime
    )
    assert FLOAT32_MAX_DIFF < found.max_abs_diff <= INT8_MAX_DIFF
    assert found.num_inputs == min(2**18 // num_features, MAX_DATA_LIKE_INPUTS)


@pytest.fixture(scope="module")
def watch() -> FederatedDataset:
    return datasets.load("watch")


@pytest.mark.parametrize("rounds", [1, 10, 50])
def test_what_the_verifier_lets_pass_is_right_on_real_rows(watch: FederatedDataset, rounds: int) -> None:
    standardization = learning.build_fed_statistics(watch.num_features, 64.0)(watch.clients)
    model = SoftmaxModel(watch.num_features, watch.num_classes, standardization=standardization)
    process = learning.build_weighted_fed_avg(model, optimizers.sgd(0.1), batch_size=10, seed=1)
    state = process.initialize()
    for _ in range(rounds):
        state, _metrics = process.next(state, watch.clients)
    weights = process.get_model(state)
    rows = b"".join(client.examples.features for client in watch.held_out)
    view = memoryview(rows).cast("f", shape=[len(rows) // (4 * watch.num_features), watch.num_features])
    expected = np.frombuffer(kernels.predict_softmax(weights, view, standardization=standardization), np.float32)
    for weight_type, limit in LIMITS.items():
        file = write_tflite(weights, standardization, weight_type=weight_type)
        judged = verify_tflite(file, weights, standardization, weight_type=weight_type).max_abs_diff
        found = np.frombuffer(predict_tflite(file, rows, watch.num_features).probabilities, np.float32)
        real = float(np.abs(found - expected).max())
        assert real <= limit
        if weight_type == "int8":
            # The verifier's rows stand for real ones: neither far too kind nor far too hard.
            assert 0.5 * real <= judged <= 5 * real


def test_an_int8_file_that_loses_too_much_is_refused_with_the_amount(monkeypatch: pytest.MonkeyPatch) -> None:
    weights, standardization = trained(7, 75, epochs=100)
    message = r"int8 file differs from the kernel by 0\.0\d+ .* at most 0\.005; release this model as float32"
    with monkeypatch.context() as patch:
        patch.setattr(tflite_int8, "MAX_LOGIT_ERROR_RMS", math.inf)  # no residual columns
        model = write_tflite(weights, standardization, weight_type="int8")
        with pytest.raises(VerificationError, match=message):
            verify_tflite(model, weights, standardization, weight_type="int8")
    # Weights that 16 bits are too few for.
    kernel = np.asarray(weights.kernel_view) * np.float32(3000)
    large = Weights(7, 75, kernel.tobytes(), weights.bias)
    model = write_tflite(large, standardization, weight_type="int8")
    with pytest.raises(VerificationError, match=r"differs from the kernel by .* release this model as float32"):
        verify_tflite(model, large, standardization, weight_type="int8")


def test_extreme_models_pass() -> None:
    random = np.random.default_rng(1)
    for weights in (
        Weights.zeros(10, 784),
        Weights.zeros(1, 1),
        Weights(1, 3, array("f", [1.0, -2.0, 3.0]).tobytes(), array("f", [4.0]).tobytes()),
        # Logits in the thousands at a unit row: the rows must shrink, or rounding alone breaks the limit.
        Weights(4, 500, (random.normal(size=(4, 500)) * 100).astype(np.float32).tobytes(), bytes(16)),
    ):
        verify_tflite(write_tflite(weights), weights, None)


def wrong_files() -> dict[str, bytes]:
    weights, standard = trained(7, 75)
    kernel, bias = weights.kernel_view.tolist(), weights.bias_view.tolist()
    model = write_tflite(weights, standard)
    beta = struct.pack("<f", 1.0)
    assert model.count(beta) == 1, "the softmax's beta must be the only 1.0 in the file"
    swapped = weights.bias[4:8] + weights.bias[:4] + weights.bias[8:]
    return {
        "weight": write_tflite(
            Weights(7, 75, changed(weights.kernel, 80, kernel[1][5] + 0.001), weights.bias), standard
        ),
        "sign": write_tflite(Weights(7, 75, changed(weights.kernel, 524, -kernel[6][74]), weights.bias), standard),
        "bias": write_tflite(Weights(7, 75, weights.kernel, changed(weights.bias, 3, bias[3] + 1e-4)), standard),
        "swapped biases": write_tflite(Weights(7, 75, weights.kernel, swapped), standard),
        "no SUB and MUL": write_tflite(weights),
        "no SUB": write_tflite(weights, Standardization(bytes(300), standard.inverse_spread)),
        "mean": write_tflite(weights, Standardization(changed(standard.mean, 7, 0.0), standard.inverse_spread)),
        "spread": write_tflite(weights, Standardization(standard.mean, changed(standard.inverse_spread, 7, 1.0))),
        "beta": model.replace(beta, struct.pack("<f", 1.01)),
        "nothing learned": write_tflite(Weights.zeros(7, 75), standard),
        "int8 weights": write_tflite(weights, standard, weight_type="int8"),
    }


WRONG = ["weight", "sign", "bias", "swapped biases", "no SUB and MUL", "no SUB", "mean", "spread", "beta"]


@pytest.mark.parametrize("fault", [*WRONG, "nothing learned", "int8 weights"])
def test_a_wrong_file_is_refused(fault: str) -> None:
    weights, standardization = trained(7, 75)
    with pytest.raises(VerificationError, match="float32 file differs from the kernel by"):
        verify_tflite(wrong_files()[fault], weights, standardization)


def replaced(model: bytes, part: bytes, other: bytes) -> bytes:
    assert part != other
    assert model.count(part) == 1
    return model.replace(part, other)


def wrong_int8_files(standardized: bool) -> dict[str, bytes]:
    weights, standardization = trained(7, 75, epochs=30)
    used = standardization if standardized else None
    model = write_tflite(weights, used, weight_type="int8")
    quantized = quantize_kernel(weights, used)
    values = np.frombuffer(quantized.values, np.int8).reshape(7, -1)
    off_by_one, residual, swapped = values.copy(), values.copy(), values.copy()
    off_by_one[3, 20] += 1 if off_by_one[3, 20] < 0 else -1
    residual[:, 75:] = 0
    swapped[[2, 4]] = swapped[[4, 2]]
    read = array("i", quantized.residual_features)
    scale = struct.pack("<f", quantized.scale)
    stretched = Weights(7, 75, (np.asarray(weights.kernel_view) * np.float32(1.001)).tobytes(), weights.bias)
    files = {
        "a value off by one": replaced(model, quantized.values, off_by_one.tobytes()),
        "no residual values": replaced(model, quantized.values, residual.tobytes()),
        "classes swapped": replaced(model, quantized.values, swapped.tobytes()),
        "residual features": replaced(model, read.tobytes(), array("i", [read[0] + 1, *read[1:]]).tobytes()),
        "scale": replaced(model, scale, struct.pack("<f", quantized.scale * 1.0001)),
        "bias": replaced(model, weights.bias, changed(weights.bias, 3, weights.bias_view[3] + 1e-4)),
        "almost the same model": write_tflite(stretched, used, weight_type="int8"),
    }
    if standardized:
        files["mean"] = replaced(model, standardization.mean, changed(standardization.mean, 7, 0.0))
    else:
        stored = bytes((multiple - 128) % 256 for multiple in quantized.multiples)
        files["factor"] = replaced(model, stored, bytes([stored[0] ^ 1]) + stored[1:])
    return files


WRONG_INT8 = ["a value off by one", "no residual values", "classes swapped", "residual features", "scale", "bias"]


@pytest.mark.parametrize(
    ("fault", "standardized"),
    [
        *((fault, s) for fault in [*WRONG_INT8, "almost the same model"] for s in (False, True)),
        ("mean", True),
        ("factor", False),
    ],
)
def test_a_wrong_int8_file_is_refused(fault: str, standardized: bool) -> None:
    weights, standardization = trained(7, 75, epochs=30)
    used = standardization if standardized else None
    wrong = wrong_int8_files(standardized)[fault]
    with pytest.raises(VerificationError, match="int8 file differs from the kernel on its int8 weights by"):
        verify_tflite(wrong, weights, used, weight_type="int8")


def test_a_file_of_another_shape_or_with_nan_is_refused() -> None:
    weights, standardization = trained(7, 75)
    with pytest.raises(VerificationError, match="2 classes; expected 7"):
        verify_tflite(write_tflite(Weights.zeros(2, 75)), weights, standardization)
    mean = standardization.mean
    model = write_tflite(weights, standardization).replace(mean, struct.pack("<f", math.nan) + mean[4:])
    with pytest.raises(VerificationError, match="by inf"):
        verify_tflite(model, weights, standardization)
    with pytest.raises(ConfigError, match="weight_type"):
        verify_tflite(model, weights, standardization, weight_type="int4")  # type: ignore[arg-type]


def test_the_inputs_are_fixed_and_fit_the_kernel() -> None:
    weights, standardization = trained(7, 75)
    rows = verification_inputs(weights, standardization)
    assert rows == verification_inputs(weights, standardization)
    assert rows[:75].tobytes() == standardization.mean
    assert all(value == 0 or abs(value) >= MIN_MAGNITUDE for value in rows)
    rows = data_like_inputs(75, standardization)
    assert rows == data_like_inputs(75, standardization)
    z = (np.array(rows).reshape(-1, 75) - np.frombuffer(standardization.mean, np.float32)) * np.frombuffer(
        standardization.inverse_spread, np.float32
    )
    assert [math.sqrt((z[index::3] ** 2).mean()) for index in range(3)] == pytest.approx([0.5, 1.0, 2.0], rel=0.02)
    # A feature whose factor is 0 stays at its mean.
    off = Standardization(standardization.mean, changed(standardization.inverse_spread, 2, 0.0))
    assert set(data_like_inputs(75, off)[2::75]) == {standardization_value(standardization.mean, 2)}


def standardization_value(raw: bytes, index: int) -> float:
    return memoryview(raw).cast("f")[index]


def test_inputs_below_the_smallest_magnitude_become_0() -> None:
    weights, _ = trained(7, 75)
    narrow = Standardization(bytes(300), array("f", [2.0**35] * 75).tobytes())
    assert set(verification_inputs(weights, narrow)) == {0.0}
    verify_tflite(write_tflite(weights, narrow), weights, narrow)


def test_another_winner_is_refused_unless_the_two_best_are_close() -> None:
    def biased(half_gap: float) -> Weights:
        """Every row gives probabilities that are ``half_gap`` apart to first order."""
        return Weights(2, 3, bytes(24), array("f", [half_gap, -half_gap]).tobytes())

    # 8e-6 off in both cases, and the class changes; the kernel's two best are 1.2e-5 and 8e-6 apart.
    with pytest.raises(VerificationError, match="row 0: the file names class 1, the kernel 0"):
        verify_tflite(write_tflite(biased(-0.4e-5)), biased(1.2e-5), None)
    assert verify_tflite(write_tflite(biased(-0.8e-5)), biased(0.8e-5), None).max_abs_diff == pytest.approx(
        8e-6, abs=1e-7
    )


def test_the_condition_of_float32_inputs_is_bounded() -> None:
    kernel = (np.random.default_rng(2).normal(size=(4, 500)) * 100).astype(np.float32)
    weights = Weights(4, 500, kernel.tobytes(), bytes(16))
    rows = np.array(verification_inputs(weights, None)).reshape(-1, 500)
    assert (np.abs(rows) @ np.abs(kernel).T).max() <= 64 * (1 + 1e-5)


def test_the_verifier_loads_no_numpy() -> None:
    script = "import sys; from edgefl.models import verify_tflite; assert 'numpy' not in sys.modules"
    subprocess.run([*SCRIPT, script], check=True)
