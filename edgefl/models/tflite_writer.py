"""Writes a softmax layer as a ``.tflite`` file, without TensorFlow.

The graph takes ``features`` (1, F) float32 and gives ``probabilities`` (1, C) float32::

    features [-> SUB mean -> MUL inverse_spread] -> FULLY_CONNECTED kernel, bias -> SOFTMAX -> probabilities

With int8 weights (``tflite_int8``) the MUL also carries the columns' scales, and is there without a standardization
too. DEQUANTIZE turns the stored kernel into float32 once, when the runtime first runs the file; residual columns read
their features by a GATHER whose result is joined to the row::

    features [-> SUB mean] [-> GATHER, CONCATENATION] -> MUL factors -> FULLY_CONNECTED DEQUANTIZE(kernel), bias -> ...

Invariants:

- The same arguments give the same bytes on every machine: fixed order, no time stamp, no NumPy reduction.
- Every constant starts at a multiple of 16 bytes (the schema's ``force_align``; the runtimes map constants in place).
- Buffer 0 is empty, as the schema demands; each tensor has a buffer of its own, and an activation's is empty.
- Operator versions are those of TensorFlow's ``tools/versioning/op_version.cc``. A version that is too low is not
  refused by tflite-runtime 2.14, which then computes nonsense.
- Int8 weights have one scale for the tensor; all arithmetic is float32 (docs/adr/0001-int8-weights.md).

Source: ``tensorflow/compiler/mlir/lite/schema/schema.fbs``, version 3; the builders are those of PyPI's ``tflite``.
"""

from __future__ import annotations

import math
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from edgefl.errors import ConfigError, DataError
from edgefl.models.tflite_int8 import Int8Kernel, quantize_kernel
from edgefl.types import Standardization, Weights

try:
    import flatbuffers
    import tflite
except ImportError as error:
    raise ConfigError(
        f"writing a .tflite file needs the packages flatbuffers and tflite ({error}); install edgefl-fleet[server]"
    ) from error

INPUT_NAME = "features"
OUTPUT_NAME = "probabilities"
SIGNATURE_KEY = "serving_default"
DESCRIPTION = "EdgeFL softmax"

WeightType = Literal["float32", "int8"]

_SCHEMA_VERSION = 3
_FILE_IDENTIFIER = b"TFL3"
_CONSTANT_ALIGNMENT = 16


@dataclass(frozen=True)
class _Tensor:
    """One tensor; ``data`` is empty for an activation, ``scale`` is set for int8 alone."""

    name: str
    shape: tuple[int, ...]
    data: bytes = b""
    type: int = tflite.TensorType.FLOAT32
    scale: float | None = None
    zero_point: int = 0


@dataclass(frozen=True)
class _Kind:
    """A kind of operator. ``options`` writes its option table and returns the table's offset."""

    code: int
    version: int
    options_type: int
    options: Callable[[Any], int]


@dataclass(frozen=True)
class _Operator:
    kind: _Kind
    inputs: tuple[int, ...]
    output: int


def _options(start: Any, end: Any, add: Any = None, value: float | None = None) -> Callable[[Any], int]:
    """A writer of an option table whose fields have the schema's defaults, but for the one that ``add`` sets."""

    def write(builder: Any) -> int:
        _start(builder, start)
        if add is not None:
            add(builder, value)
        return int(end(builder))

    return write


_CODE, _TYPE = tflite.BuiltinOperator, tflite.BuiltinOptions
_SUB = _Kind(_CODE.SUB, 1, _TYPE.SubOptions, _options(tflite.SubOptionsStart, tflite.SubOptionsEnd))
_MUL = _Kind(_CODE.MUL, 1, _TYPE.MulOptions, _options(tflite.MulOptionsStart, tflite.MulOptionsEnd))
_GATHER = _Kind(
    _CODE.GATHER,
    1,
    _TYPE.GatherOptions,
    _options(tflite.GatherOptionsStart, tflite.GatherOptionsEnd, tflite.GatherOptionsAddAxis, 1),
)
_CONCATENATION = _Kind(
    _CODE.CONCATENATION,
    1,
    _TYPE.ConcatenationOptions,
    _options(tflite.ConcatenationOptionsStart, tflite.ConcatenationOptionsEnd, tflite.ConcatenationOptionsAddAxis, 1),
)
_DEQUANTIZE_INT8 = _Kind(
    _CODE.DEQUANTIZE, 2, _TYPE.DequantizeOptions, _options(tflite.DequantizeOptionsStart, tflite.DequantizeOptionsEnd)
)
_FULLY_CONNECTED = _Kind(
    _CODE.FULLY_CONNECTED,
    1,
    _TYPE.FullyConnectedOptions,
    _options(tflite.FullyConnectedOptionsStart, tflite.FullyConnectedOptionsEnd),
)
# The schema's default of beta is 0, which flattens every output to 1/C.
_SOFTMAX = _Kind(
    _CODE.SOFTMAX,
    1,
    _TYPE.SoftmaxOptions,
    _options(tflite.SoftmaxOptionsStart, tflite.SoftmaxOptionsEnd, tflite.SoftmaxOptionsAddBeta, 1.0),
)


def write_tflite(
    weights: Weights, standardization: Standardization | None = None, *, weight_type: WeightType = "float32"
) -> bytes:
    """The file's bytes. ``standardization`` becomes the first two operators; without one they are left out.

    ``weight_type`` "int8" stores the kernel in about a quarter of the size, rounded so that a probability moves by at
    most 5e-3 or so; the bias, and all arithmetic, stay float32.

    Raises ``ConfigError`` for an unknown ``weight_type`` or a standardization of another width, and ``DataError`` for
    a non-finite weight.
    """
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
    row = graph.add(_Tensor(INPUT_NAME, (1, weights.num_features)))
    if weight_type == "int8":
        _int8_layer(graph, row, weights, standardization)
    else:
        _float32_layer(graph, row, weights, standardization)
    return _serialize(graph.tensors, graph.operators)


class _Graph:
    """Tensors and operators in execution order. Tensor 0 is the graph's input, the last one its output."""

    def __init__(self) -> None:
        self.tensors: list[_Tensor] = []
        self.operators: list[_Operator] = []

    def add(self, tensor: _Tensor) -> int:
        self.tensors.append(tensor)
        return len(self.tensors) - 1

    def apply(self, kind: _Kind, inputs: tuple[int, ...], name: str, shape: tuple[int, ...]) -> int:
        """Add an operator and the tensor that it gives; returns the tensor."""
        output = self.add(_Tensor(name, shape))
        self.operators.append(_Operator(kind, inputs, output))
        return output


def _float32_layer(graph: _Graph, row: int, weights: Weights, standardization: Standardization | None) -> None:
    shape = (1, weights.num_features)
    if standardization is not None:
        mean = graph.add(_Tensor("mean", shape, standardization.mean))
        row = graph.apply(_SUB, (row, mean), "shifted", shape)
        factors = graph.add(_Tensor("inverse_spread", shape, standardization.inverse_spread))
        row = graph.apply(_MUL, (row, factors), "standardized", shape)
    kernel = graph.add(_Tensor("kernel", (weights.num_classes, weights.num_features), weights.kernel))
    _softmax(graph, row, kernel, weights)


def _int8_layer(graph: _Graph, row: int, weights: Weights, standardization: Standardization | None) -> None:
    quantized = quantize_kernel(weights, standardization)
    if standardization is not None:
        shape = (1, weights.num_features)
        mean = graph.add(_Tensor("mean", shape, standardization.mean))
        row = graph.apply(_SUB, (row, mean), "shifted", shape)
    columns = (1, quantized.num_columns)
    if quantized.residual_features:
        count = len(quantized.residual_features)
        read = array("i", quantized.residual_features).tobytes()
        indices = graph.add(_Tensor("residual_features", (count,), read, tflite.TensorType.INT32))
        again = graph.apply(_GATHER, (row, indices), "residual", (1, count))
        row = graph.apply(_CONCATENATION, (row, again), "columns", columns)
    factors = _column_factors(graph, quantized, standardization)
    row = graph.apply(_MUL, (row, factors), "scaled", columns)
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
    return graph.add(_Tensor("factors", shape, factors.tobytes()))


def _int8_constant(
    graph: _Graph, name: str, shape: tuple[int, ...], data: bytes, scale: float, zero_point: int = 0
) -> int:
    """A constant that is stored as int8 and read as float32."""
    stored = graph.add(_Tensor(name, shape, data, tflite.TensorType.INT8, scale, zero_point))
    return graph.apply(_DEQUANTIZE_INT8, (stored,), f"{name}_float32", shape)


def _softmax(graph: _Graph, row: int, kernel: int, weights: Weights) -> None:
    scores = (1, weights.num_classes)
    bias = graph.add(_Tensor("bias", (weights.num_classes,), weights.bias))
    logits = graph.apply(_FULLY_CONNECTED, (row, kernel, bias), "logits", scores)
    graph.apply(_SOFTMAX, (logits,), OUTPUT_NAME, scores)


def _serialize(tensors: list[_Tensor], operators: list[_Operator]) -> bytes:
    """The graph as a FlatBuffer. A FlatBuffer is built from its end: children come before what points to them."""
    builder = flatbuffers.Builder(1024 + sum(len(tensor.data) + 256 for tensor in tensors))
    description = builder.CreateString(DESCRIPTION)
    buffers = _offsets(builder, [_buffer(builder, data) for data in (b"", *(tensor.data for tensor in tensors))])
    codes = _offsets(builder, [_operator_code(builder, operator) for operator in operators])
    output = len(tensors) - 1
    subgraphs = _offsets(builder, [_subgraph(builder, tensors, operators, output)])
    signatures = _offsets(builder, [_signature(builder, output)])
    _start(builder, tflite.ModelStart)
    tflite.ModelAddVersion(builder, _SCHEMA_VERSION)
    tflite.ModelAddOperatorCodes(builder, codes)
    tflite.ModelAddSubgraphs(builder, subgraphs)
    tflite.ModelAddDescription(builder, description)
    tflite.ModelAddBuffers(builder, buffers)
    tflite.ModelAddSignatureDefs(builder, signatures)
    builder.Finish(tflite.ModelEnd(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def _subgraph(builder: Any, tensors: list[_Tensor], operators: list[_Operator], output: int) -> int:
    # Buffer 0 is the empty one of the schema, so tensor i owns buffer i + 1.
    tensor_list = _offsets(builder, [_tensor(builder, tensor, i + 1) for i, tensor in enumerate(tensors)])
    operator_list = _offsets(builder, [_operator(builder, operator, i) for i, operator in enumerate(operators)])
    inputs, outputs = _int32s(builder, [0]), _int32s(builder, [output])
    name = builder.CreateString("main")
    _start(builder, tflite.SubGraphStart)
    tflite.SubGraphAddTensors(builder, tensor_list)
    tflite.SubGraphAddInputs(builder, inputs)
    tflite.SubGraphAddOutputs(builder, outputs)
    tflite.SubGraphAddOperators(builder, operator_list)
    tflite.SubGraphAddName(builder, name)
    return int(tflite.SubGraphEnd(builder))


def _buffer(builder: Any, data: bytes) -> int:
    vector = None
    if data:
        # Reserves the padding that puts the first byte on the boundary; CreateByteVector alone aligns to 4.
        builder.Prep(_CONSTANT_ALIGNMENT, len(data))
        vector = builder.CreateByteVector(data)
    _start(builder, tflite.BufferStart)
    if vector is not None:
        tflite.BufferAddData(builder, vector)
    return int(tflite.BufferEnd(builder))


def _tensor(builder: Any, tensor: _Tensor, buffer: int) -> int:
    shape = _int32s(builder, tensor.shape)
    name = builder.CreateString(tensor.name)
    quantization = None if tensor.scale is None else _quantization(builder, tensor.scale, tensor.zero_point)
    _start(builder, tflite.TensorStart)
    tflite.TensorAddShape(builder, shape)
    tflite.TensorAddType(builder, tensor.type)
    tflite.TensorAddBuffer(builder, buffer)
    tflite.TensorAddName(builder, name)
    if quantization is not None:
        tflite.TensorAddQuantization(builder, quantization)
    return int(tflite.TensorEnd(builder))


def _quantization(builder: Any, scale: float, zero_point: int) -> int:
    tflite.QuantizationParametersStartScaleVector(builder, 1)
    builder.PrependFloat32(scale)
    scales = builder.EndVector()
    tflite.QuantizationParametersStartZeroPointVector(builder, 1)
    builder.PrependInt64(zero_point)
    zero_points = builder.EndVector()
    _start(builder, tflite.QuantizationParametersStart)
    tflite.QuantizationParametersAddScale(builder, scales)
    tflite.QuantizationParametersAddZeroPoint(builder, zero_points)
    return int(tflite.QuantizationParametersEnd(builder))


def _operator_code(builder: Any, operator: _Operator) -> int:
    _start(builder, tflite.OperatorCodeStart)
    # Old readers know the 8-bit field alone; all codes used here fit it.
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, operator.kind.code)
    tflite.OperatorCodeAddVersion(builder, operator.kind.version)
    tflite.OperatorCodeAddBuiltinCode(builder, operator.kind.code)
    return int(tflite.OperatorCodeEnd(builder))


def _operator(builder: Any, operator: _Operator, code_index: int) -> int:
    inputs, outputs = _int32s(builder, operator.inputs), _int32s(builder, [operator.output])
    options = operator.kind.options(builder)
    _start(builder, tflite.OperatorStart)
    tflite.OperatorAddOpcodeIndex(builder, code_index)
    tflite.OperatorAddInputs(builder, inputs)
    tflite.OperatorAddOutputs(builder, outputs)
    tflite.OperatorAddBuiltinOptionsType(builder, operator.kind.options_type)
    tflite.OperatorAddBuiltinOptions(builder, options)
    return int(tflite.OperatorEnd(builder))


def _signature(builder: Any, output: int) -> int:
    """The named entry point that ``get_signature_runner`` and the mobile APIs look for."""
    ends = []
    for name, tensor in ((INPUT_NAME, 0), (OUTPUT_NAME, output)):
        text = builder.CreateString(name)
        _start(builder, tflite.TensorMapStart)
        tflite.TensorMapAddName(builder, text)
        tflite.TensorMapAddTensorIndex(builder, tensor)
        ends.append(_offsets(builder, [tflite.TensorMapEnd(builder)]))
    key = builder.CreateString(SIGNATURE_KEY)
    _start(builder, tflite.SignatureDefStart)
    tflite.SignatureDefAddInputs(builder, ends[0])
    tflite.SignatureDefAddOutputs(builder, ends[1])
    tflite.SignatureDefAddSignatureKey(builder, key)
    tflite.SignatureDefAddSubgraphIndex(builder, 0)
    return int(tflite.SignatureDefEnd(builder))


def _start(builder: Any, start: Callable[[Any], None]) -> None:
    """Begin a table at a multiple of 4 bytes.

    Else its size depends on what stands before it, and versions of flatbuffers differ in whether two tables of unlike
    size may share a vtable: the same file would then have another digest.
    """
    builder.Prep(4, 0)
    start(builder)


def _offsets(builder: Any, offsets: Sequence[int]) -> int:
    builder.StartVector(4, len(offsets), 4)
    for offset in reversed(offsets):
        builder.PrependUOffsetTRelative(offset)
    return int(builder.EndVector())


def _int32s(builder: Any, values: Sequence[int]) -> int:
    builder.StartVector(4, len(values), 4)
    for value in reversed(values):
        builder.PrependInt32(value)
    return int(builder.EndVector())
