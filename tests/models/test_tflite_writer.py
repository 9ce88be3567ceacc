"""The .tflite writer: what both runtimes compute from its files, and the layout that they rely on."""

from __future__ import annotations

import hashlib
import importlib
import math
from array import array

import numpy as np
import pytest
import tflite
from tflite_kit import RUNTIMES

from edgefl.errors import ConfigError, DataError
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.models.tflite_int8 import quantize_kernel
from edgefl.models.tflite_writer import WeightType, write_tflite
from edgefl.types import DType, Quantization, Standardization, Weights

SHAPES = [(1, 1), (2, 3), (7, 75), (10, 784), (129, 17)]


def floats(*values: float) -> bytes:
    return array("f", values).tobytes()


def random_model(num_classes: int, num_features: int) -> tuple[Weights, Standardization]:
    random = np.random.default_rng(num_classes * 1000 + num_features)
    draw = lambda *shape: random.normal(size=shape).astype(np.float32)  # noqa: E731
    kernel = draw(num_classes, num_features) / np.float32(math.sqrt(num_features))
    spread = random.uniform(0.5, 2.0, num_features).astype(np.float32)
    standardization = Standardization(draw(num_features).tobytes(), spread.tobytes())
    return Weights(num_classes, num_features, kernel.tobytes(), draw(num_classes).tobytes()), standardization


def softmax(weights: Weights, standardization: Standardization | None, rows: np.ndarray) -> np.ndarray:
    """The reference in binary64."""
    values = rows.astype(np.float64)
    if standardization is not None:
        values = values - np.frombuffer(standardization.mean, np.float32)
        values = values * np.frombuffer(standardization.inverse_spread, np.float32)
    logits = values @ np.asarray(weights.kernel_view).T.astype(np.float64) + np.asarray(weights.bias_view)
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


def interpret(runtime: str, model: bytes, rows: np.ndarray) -> np.ndarray:
    interpreter = importlib.import_module(f"{runtime}.interpreter").Interpreter(model_content=model, num_threads=1)
    interpreter.allocate_tensors()
    (given,), (result,) = interpreter.get_input_details(), interpreter.get_output_details()
    assert given["name"] == "features"
    assert result["name"] == "probabilities"
    assert given["dtype"] is np.float32
    assert result["dtype"] is np.float32
    outputs = []
    for row in rows:
        interpreter.set_tensor(given["index"], row[None])
        interpreter.invoke()
        outputs.append(interpreter.get_tensor(result["index"])[0])
    return np.array(outputs)


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("standardized", [False, True])
@pytest.mark.parametrize(("weight_type", "tolerance"), [("float32", 2e-6), ("int8", 5e-3)])
@pytest.mark.parametrize(("num_classes", "num_features"), SHAPES)
def test_both_runtimes_compute_the_softmax(
    num_classes: int, num_features: int, weight_type: str, tolerance: float, standardized: bool, runtime: str
) -> None:
    weights, standardization = random_model(num_classes, num_features)
    used = standardization if standardized else None
    model = write_tflite(weights, used, weight_type=weight_type)  # type: ignore[arg-type]
    rows = np.random.default_rng(7).normal(size=(20, num_features)).astype(np.float32)
    found = interpret(runtime, model, rows)
    assert found.shape == (20, num_classes)
    assert np.abs(found - softmax(weights, used, rows)).max() <= tolerance


@pytest.mark.parametrize("runtime", RUNTIMES)
@pytest.mark.parametrize("standardized", [False, True])
def test_both_runtimes_compute_exactly_what_the_int8_values_say(standardized: bool, runtime: str) -> None:
    small, standardization = random_model(7, 75)
    used = standardization if standardized else None
    rows = np.random.default_rng(8).normal(size=(50, 75)).astype(np.float32)
    for size in (1, 8):
        weights = Weights(7, 75, (np.asarray(small.kernel_view) * np.float32(size)).tobytes(), small.bias)
        quantized = quantize_kernel(weights, used)
        assert bool(quantized.residual_features) == (size == 8)
        found = interpret(runtime, write_tflite(weights, used, weight_type="int8"), rows)
        assert np.abs(found - softmax(quantized.dequantized(weights.bias), used, rows)).max() < 5e-6


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_a_row_by_hand(runtime: str) -> None:
    # Standardized: (3 - 1) * 0.5 = 1 and (2 - 2) * 4 = 0; logits 1 * ln 3 + 0 and 0: odds of 3 to 1.
    weights = Weights(2, 2, floats(math.log(3.0), 5.0, 0.0, -5.0), floats(0.0, 0.0))
    model = write_tflite(weights, Standardization(floats(1.0, 2.0), floats(0.5, 4.0)))
    found = interpret(runtime, model, np.array([[3.0, 2.0]], np.float32))
    assert found[0] == pytest.approx([0.75, 0.25], abs=1e-6)


@pytest.mark.parametrize("runtime", RUNTIMES)
def test_the_signature_names_both_ends(runtime: str) -> None:
    weights, _ = random_model(3, 5)
    module = importlib.import_module(f"{runtime}.interpreter")
    runner = module.Interpreter(model_content=write_tflite(weights)).get_signature_runner("serving_default")
    result = runner(features=np.zeros((1, 5), np.float32))
    assert result["probabilities"].shape == (1, 3)


def test_the_same_arguments_give_the_same_bytes() -> None:
    weights, standardization = random_model(7, 75)
    for weight_type in ("float32", "int8"):
        first = write_tflite(weights, standardization, weight_type=weight_type)  # type: ignore[arg-type]
        again = write_tflite(weights, standardization, weight_type=weight_type)  # type: ignore[arg-type]
        assert first == again


def test_the_bytes_do_not_depend_on_the_versions_of_the_builders() -> None:
    weights = Weights(2, 3, floats(0.5, -1.0, 0.25, 1.0, 0.125, -0.75), floats(0.5, -0.5))
    with_residual = Weights(3, 2, floats(30.0, -7.0, 1.0, 3.0, -29.0, 19.0), floats(0.5, -0.5, 0.25))
    standardization = Standardization(floats(1.0, 2.0, 3.0), floats(0.5, 1.0, 2.0))
    other = Standardization(floats(1.0, 2.0), floats(0.3, 1.7))
    assert quantize_kernel(with_residual, other).residual_features
    assert digest(weights, None, "float32") == "9e511aa485b46a47"
    assert digest(weights, standardization, "float32") == "9e8c519562c70045"
    assert digest(weights, None, "int8") == "f34a8954eb2226a1"
    assert digest(weights, standardization, "int8") == "1eda4234ed017c76"
    assert digest(with_residual, None, "int8") == "1f3910882f4c48b0"
    assert digest(with_residual, other, "int8") == "2c9b57b9ef2d7e93"


def digest(weights: Weights, standardization: Standardization | None, weight_type: WeightType) -> str:
    return hashlib.sha256(write_tflite(weights, standardization, weight_type=weight_type)).hexdigest()[:16]


def tensors_of(model: tflite.Model) -> list[tflite.Tensor]:
    graph = model.Subgraphs(0)
    return [graph.Tensors(index) for index in range(graph.TensorsLength())]


def parsed(model: bytes) -> tflite.Model:
    return tflite.Model.GetRootAs(model, 0)


def test_the_layout_that_the_runtimes_rely_on() -> None:
    weights, standardization = random_model(7, 75)
    for weight_type in ("float32", "int8"):
        raw = write_tflite(weights, standardization, weight_type=weight_type)  # type: ignore[arg-type]
        model = parsed(raw)
        assert raw[4:8] == b"TFL3"
        assert model.Version() == 3
        assert model.Description() == b"EdgeFL softmax"
        assert model.Buffers(0).DataLength() == 0
        owned = [tensor.Buffer() for tensor in tensors_of(model)]
        assert sorted(owned) == list(range(1, model.BuffersLength()))
        for buffer in owned:
            if model.Buffers(buffer).DataLength():
                data = model.Buffers(buffer).DataAsNumpy()
                offset = data.__array_interface__["data"][0] - np.frombuffer(raw, np.uint8).ctypes.data
                assert offset % 16 == 0


def constants_of(model: tflite.Model) -> dict[bytes, bytes]:
    sized = [tensor for tensor in tensors_of(model) if model.Buffers(tensor.Buffer()).DataLength()]
    return {tensor.Name(): model.Buffers(tensor.Buffer()).DataAsNumpy().tobytes() for tensor in sized}


def operators_of(model: tflite.Model) -> list[tuple[int, int]]:
    """Builtin code and version, in execution order."""
    graph = model.Subgraphs(0)
    codes = [model.OperatorCodes(graph.Operators(i).OpcodeIndex()) for i in range(graph.OperatorsLength())]
    return [(code.BuiltinCode(), code.Version()) for code in codes]


CODE = tflite.BuiltinOperator


def test_what_a_float32_file_holds() -> None:
    weights, standardization = random_model(7, 75)
    model = parsed(write_tflite(weights, standardization))
    assert constants_of(model) == {
        b"mean": standardization.mean,
        b"inverse_spread": standardization.inverse_spread,
        b"kernel": weights.kernel,
        b"bias": weights.bias,
    }
    assert operators_of(model) == [(CODE.SUB, 1), (CODE.MUL, 1), (CODE.FULLY_CONNECTED, 1), (CODE.SOFTMAX, 1)]


def test_what_an_int8_file_holds() -> None:
    weights, standardization = random_model(7, 75)
    quantized = quantize_kernel(weights, standardization)
    assert not quantized.residual_features
    model = parsed(write_tflite(weights, standardization, weight_type="int8"))
    inverse_spread = np.frombuffer(standardization.inverse_spread, np.float32)
    factors = np.array(quantized.multiples) / quantized.limit * inverse_spread
    assert constants_of(model) == {
        b"mean": standardization.mean,
        b"factors": factors.astype(np.float32).tobytes(),
        b"kernel": quantized.values,
        b"bias": weights.bias,
    }
    layer = [(CODE.DEQUANTIZE, 2), (CODE.FULLY_CONNECTED, 1), (CODE.SOFTMAX, 1)]
    assert operators_of(model) == [(CODE.SUB, 1), (CODE.MUL, 1), *layer]
    quantization = next(t for t in tensors_of(model) if t.Name() == b"kernel").Quantization()
    assert (quantization.Scale(0), quantization.ZeroPoint(0)) == (quantized.scale, 0)


def test_without_a_standardization_the_columns_factors_are_bytes() -> None:
    weights, _ = random_model(7, 75)
    quantized = quantize_kernel(weights)
    model = parsed(write_tflite(weights, weight_type="int8"))
    assert set(constants_of(model)) == {b"factors", b"kernel", b"bias"}
    stored = np.frombuffer(constants_of(model)[b"factors"], np.int8).astype(int)
    assert tuple(stored + 128) == quantized.multiples
    quantization = next(t for t in tensors_of(model) if t.Name() == b"factors").Quantization()
    assert (quantization.Scale(0), quantization.ZeroPoint(0)) == (1 / 256, -128)


def test_residual_columns_read_their_features_again() -> None:
    small, standardization = random_model(7, 75)
    weights = Weights(7, 75, (np.asarray(small.kernel_view) * np.float32(8)).tobytes(), small.bias)
    for used, before in ((standardization, [(CODE.SUB, 1)]), (None, [])):
        quantized = quantize_kernel(weights, used)
        assert 0 < len(quantized.residual_features) < 75
        model = parsed(write_tflite(weights, used, weight_type="int8"))
        read = np.frombuffer(constants_of(model)[b"residual_features"], np.int32)
        assert tuple(read) == quantized.residual_features
        assert constants_of(model)[b"kernel"] == quantized.values
        assert operators_of(model)[: len(before) + 2] == [*before, (CODE.GATHER, 1), (CODE.CONCATENATION, 1)]


@pytest.mark.parametrize("standardized", [False, True])
def test_int8_takes_a_quarter_of_float32_and_a_half_at_most(standardized: bool) -> None:
    drawn, standardization = random_model(10, 784)
    used = standardization if standardized else None
    # Beside the kernel: some operators more, and for a column a byte or, of a residual one, 8 with its feature.
    for size, share, per_column in ((0.5, 0.25, 1), (50.0, 0.5, 8)):
        kernel = np.asarray(drawn.kernel_view) * np.float32(size)
        weights = Weights(10, 784, kernel.tobytes(), drawn.bias)
        rest = len(write_tflite(weights, used)) - len(weights.kernel)
        most = rest + share * len(weights.kernel) + per_column * 784 + 1000
        assert len(write_tflite(weights, used, weight_type="int8")) <= most


def test_wrong_arguments_are_refused() -> None:
    weights, _ = random_model(2, 3)
    with pytest.raises(ConfigError, match="float16"):
        write_tflite(weights, weight_type="float16")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="standardization of 1 features; expected 3"):
        write_tflite(weights, Standardization(floats(0.0), floats(1.0)))
    with pytest.raises(DataError, match="kernel value 4 is nan"):
        write_tflite(Weights(2, 3, floats(0, 0, 0, 0, math.nan, 0), floats(0, 0)))
    with pytest.raises(DataError, match="bias value 1 is inf"):
        write_tflite(Weights(2, 3, bytes(24), floats(0, math.inf)))


def test_the_specification_of_a_model() -> None:
    model = SoftmaxModel(784, 10)
    assert (model.kind, model.version, model.num_parameters, model.update_bytes) == ("softmax", 1, 7850, 31400)
    assert model.initial_weights() == Weights.zeros(10, 784)
    assert SoftmaxModel(4, 2, DType.UINT8, Quantization(1 / 255)) == SoftmaxModel(
        4, 2, DType.UINT8, Quantization(1 / 255)
    )
    with pytest.raises(ConfigError, match="num_classes is 0"):
        SoftmaxModel(4, 0)
    with pytest.raises(ConfigError, match="standardization of 1 features; expected the model's 4"):
        SoftmaxModel(4, 2, standardization=Standardization(floats(0.0), floats(1.0)))
    with pytest.raises(ConfigError, match="float32 features"):
        SoftmaxModel(4, 2, quantization=Quantization(0.5))
