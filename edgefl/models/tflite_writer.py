"""Writes a softmax layer as a ``.tflite`` file, without TensorFlow.

The graph takes ``features`` (1, F) float32 and gives ``probabilities`` (1, C) float32::

    features [-> SUB mean -> MUL inverse_spread] -> FULLY_CONNECTED kernel, bias -> SOFTMAX -> probabilities

With int8 weights (``tflite_int8``) the MUL also carries the columns' scales, and is there without a standardization
too. DEQUANTIZE turns the stored kernel into float32 once, when the runtime first runs the file; residual columns read
their features by a GATHER whose result is joined to the row::

    features [-> SUB mean] [-> GATHER, CONCATENATION] -> MUL factors -> FULLY_CONNECTED DEQUANTIZE(kernel), bias -> ...

Invariants:

- The same arguments give the same bytes on every machine (``tflite_file``): no NumPy reduction.
- Int8 weights have one scale for the tensor; all arithmetic is float32 (docs/adr/0001-int8-weights.md).
"""

from __future__ import annotations

import math
from array import array
from typing import Literal

from edgefl.classes import check_classes
from edgefl.errors import ConfigError, DataError
from edgefl.models.tflite_file import (
    CONCATENATION,
    DEQUANTIZE_INT8,
    FULLY_CONNECTED,
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

WeightType = Literal["float32", "int8"]


def write_tflite(
    weights: Weights,
    standardization: Standardization | None = None,
    *,
    weight_type: WeightType = "float32",
    classes: tuple[str, ...] = (),
) -> bytes:
    """The file's bytes. ``standardization`` becomes the first two operators; without one they are left out.

    ``weight_type`` "int8" stores the kernel in about a quarter of the size, rounded so that a probability moves by at
    most 5e-3 or so; the bias, and all arithmetic, stay float32.

    ``classes`` are the names of the classes, one for each row of the kernel; with () the file names none.

    Raises ``ConfigError`` for an unknown ``weight_type``, a standardization of another width or names that cannot be,
    and ``DataError`` for a non-finite weight.
    """
    check_classes(classes, weights.num_classes)
    if weight_type not in ("float32", "int8"):
        raise ConfigError(f"weight_type is {weight_type!r}; expected 'float32' or 'int8'")
    for name, view in (("kernel", memoryview(weights.kernel).cast("f")), ("bias", weights.bias_view)):
        for index, value in enumerate(view):
            if not math.isfinite(value):
                raise DataError(f"{name} value {index} is {value}; expected finite weights")
    if standardization is not None and standardization.num_features != weights.num_features:
        raise ConfigError(
            f"a standardization of {standardization.num_features} features; expected {weights.num_features}"
        )
    graph = _Graph()
    row = graph.add(Tensor(INPUT_NAME, (1, weights.num_features)))
    if weight_type == "int8":
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
    kernel = graph.add(Tensor("kernel", (weights.num_classes, weights.num_features), weights.kernel))
    _softmax(graph, row, kernel, weights)


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
    bias = graph.add(Tensor("bias", (weights.num_classes,), weights.bias))
    logits = graph.apply(FULLY_CONNECTED, (row, kernel, bias), "logits", scores)
    graph.apply(SOFTMAX, (logits,), OUTPUT_NAME, scores)
