"""The operators and tensors of a model's ``.tflite`` file: what ``tflite_writer`` writes.

It loads flatbuffers and tflite, which take most of a second: import it where a file is written.
"""

from __future__ import annotations

from array import array

from edgefl.models.tflite_file import (
    CONCATENATION,
    DEQUANTIZE_INT8,
    FULLY_CONNECTED,
    FULLY_CONNECTED_RELU,
    GATHER,
    INPUT_NAME,
    INT8,
    INT32,
    MUL,
    OUTPUT_NAME,
    SOFTMAX,
    SUB,
    Kind,
    Operator,
    Tensor,
    serialize,
)
from edgefl.models.tflite_int8 import Int8Kernel, quantize_kernel
from edgefl.models.tflite_metadata import classes_metadata
from edgefl.types import Standardization, Weights


def layer_file(
    weights: Weights, standardization: Standardization | None, classes: tuple[str, ...], *, int8: bool
) -> bytes:
    """The bytes of a file whose arguments ``write_tflite`` has checked."""
    graph = _Graph()
    row = graph.add(Tensor(INPUT_NAME, (1, weights.num_features)))
    if int8:
        _int8_layer(graph, row, weights, standardization)
    else:
        _float32_layer(graph, row, weights, standardization)
    return serialize(graph.tensors, graph.operators, classes_metadata(classes))


class _Graph:
    """Tensors and operators in execution order. Tensor 0 is the graph's input, the last one its output."""

    def __init__(self) -> None:
        self.tensors: list[Tensor] = []
        self.operators: list[Operator] = []

    def add(self, tensor: Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def apply(self, kind: Kind, inputs: tuple[int, ...], name: str, shape: tuple[int, ...]) -> int:
        """Add an operator and the tensor that it gives; returns the tensor."""
        output = self.add(Tensor(name, shape))
        self.operators.append(Operator(kind, inputs, output))
        return output


def _float32_layer(graph: _Graph, row: int, weights: Weights, standardization: Standardization | None) -> None:
    shape = (1, weights.num_features)
    if standardization is not None:
        mean = graph.add(Tensor("mean", shape, standardization.mean))
        row = graph.apply(SUB, (row, mean), "shifted", shape)
        factors = graph.add(Tensor("inverse_spread", shape, standardization.inverse_spread))
        row = graph.apply(MUL, (row, factors), "standardized", shape)
    *hidden, kernel, _bias = weights.shapes
    for (name, kernel_shape), (bias_name, bias_shape) in zip(hidden[::2], hidden[1::2], strict=True):
        inputs = graph.add(Tensor(name, kernel_shape, weights.array(name).tobytes()))
        bias = graph.add(Tensor(bias_name, bias_shape, weights.array(bias_name).tobytes()))
        outputs = name.replace("kernel", "layer")
        row = graph.apply(FULLY_CONNECTED_RELU, (row, inputs, bias), outputs, (1, kernel_shape[0]))
    name, kernel_shape = kernel
    _softmax(graph, row, graph.add(Tensor(name, kernel_shape, weights.array(name).tobytes())), weights)


def _int8_layer(graph: _Graph, row: int, weights: Weights, standardization: Standardization | None) -> None:
    quantized = quantize_kernel(weights, standardization)
    if standardization is not None:
        shape = (1, weights.num_features)
        mean = graph.add(Tensor("mean", shape, standardization.mean))
        row = graph.apply(SUB, (row, mean), "shifted", shape)
    columns = (1, quantized.num_columns)
    if quantized.residual_features:
        count = len(quantized.residual_features)
        read = array("i", quantized.residual_features).tobytes()
        indices = graph.add(Tensor("residual_features", (count,), read, INT32))
        again = graph.apply(GATHER, (row, indices), "residual", (1, count))
        row = graph.apply(CONCATENATION, (row, again), "columns", columns)
    factors = _column_factors(graph, quantized, standardization)
    row = graph.apply(MUL, (row, factors), "scaled", columns)
    kernel_shape = (weights.num_classes, quantized.num_columns)
    kernel = _int8_constant(graph, "kernel", kernel_shape, quantized.values, quantized.scale)
    _softmax(graph, row, kernel, weights)


def _column_factors(graph: _Graph, quantized: Int8Kernel, standardization: Standardization | None) -> int:
    """What MUL multiplies by: multiple / limit, times the inverse spread of the feature that the column reads."""
    shape, limit = (1, quantized.num_columns), quantized.limit
    if standardization is None:
        # A byte from 0 to 255 is an int8 whose zero point is -128.
        stored = array("b", (multiple - 128 for multiple in quantized.multiples)).tobytes()
        return _int8_constant(graph, "factors", shape, stored, 1 / limit, -128)
    inverse_spread = memoryview(standardization.inverse_spread).cast("f")
    columns = zip(quantized.multiples, quantized.features, strict=True)
    factors = array("f", (multiple / limit * inverse_spread[feature] for multiple, feature in columns))
    return graph.add(Tensor("factors", shape, factors.tobytes()))


def _int8_constant(
    graph: _Graph, name: str, shape: tuple[int, ...], data: bytes, scale: float, zero_point: int = 0
) -> int:
    """A constant that is stored as int8 and read as float32."""
    stored = graph.add(Tensor(name, shape, data, INT8, scale, zero_point))
    return graph.apply(DEQUANTIZE_INT8, (stored,), f"{name}_float32", shape)


def _softmax(graph: _Graph, row: int, kernel: int, weights: Weights) -> None:
    scores = (1, weights.num_classes)
    name, shape = weights.shapes[-1]
    bias = graph.add(Tensor(name, shape, weights.array(name).tobytes()))
    logits = graph.apply(FULLY_CONNECTED, (row, kernel, bias), "logits", scores)
    graph.apply(SOFTMAX, (logits,), OUTPUT_NAME, scores)
