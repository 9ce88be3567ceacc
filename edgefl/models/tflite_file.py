"""A TFLite graph as the bytes of a FlatBuffer: tensors, operators and their option tables.

Invariants:

- The same arguments give the same bytes on every machine: fixed order, no time stamp.
- Every constant starts at a multiple of 16 bytes (the schema's ``force_align``; the runtimes map constants in place).
- Buffer 0 is empty, as the schema demands; each tensor has a buffer of its own, and an activation's is empty. What is
  no tensor's, metadata, comes after them.
- Operator versions are those of TensorFlow's ``tools/versioning/op_version.cc``. A version that is too low is not
  refused by tflite-runtime 2.14, which then computes nonsense.

Source: ``tensorflow/compiler/mlir/lite/schema/schema.fbs``, version 3; the builders are those of PyPI's ``tflite``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from edgefl.errors import ConfigError

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

FLOAT32, INT8, INT32 = tflite.TensorType.FLOAT32, tflite.TensorType.INT8, tflite.TensorType.INT32

_SCHEMA_VERSION = 3
_FILE_IDENTIFIER = b"TFL3"
_CONSTANT_ALIGNMENT = 16


@dataclass(frozen=True)
class Tensor:
    """One tensor; ``data`` is empty for an activation, ``scale`` is set for int8 alone."""

    name: str
    shape: tuple[int, ...]
    data: bytes = b""
    type: int = FLOAT32
    scale: float | None = None
    zero_point: int = 0


@dataclass(frozen=True)
class Kind:
    """A kind of operator. ``options`` writes its option table and returns the table's offset."""

    code: int
    version: int
    options_type: int
    options: Callable[[Any], int]


@dataclass(frozen=True)
class Operator:
    kind: Kind
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
SUB = Kind(_CODE.SUB, 1, _TYPE.SubOptions, _options(tflite.SubOptionsStart, tflite.SubOptionsEnd))
MUL = Kind(_CODE.MUL, 1, _TYPE.MulOptions, _options(tflite.MulOptionsStart, tflite.MulOptionsEnd))
GATHER = Kind(
    _CODE.GATHER,
    1,
    _TYPE.GatherOptions,
    _options(tflite.GatherOptionsStart, tflite.GatherOptionsEnd, tflite.GatherOptionsAddAxis, 1),
)
CONCATENATION = Kind(
    _CODE.CONCATENATION,
    1,
    _TYPE.ConcatenationOptions,
    _options(tflite.ConcatenationOptionsStart, tflite.ConcatenationOptionsEnd, tflite.ConcatenationOptionsAddAxis, 1),
)
DEQUANTIZE_INT8 = Kind(
    _CODE.DEQUANTIZE, 2, _TYPE.DequantizeOptions, _options(tflite.DequantizeOptionsStart, tflite.DequantizeOptionsEnd)
)
FULLY_CONNECTED = Kind(
    _CODE.FULLY_CONNECTED,
    1,
    _TYPE.FullyConnectedOptions,
    _options(tflite.FullyConnectedOptionsStart, tflite.FullyConnectedOptionsEnd),
)
FULLY_CONNECTED_RELU = Kind(
    _CODE.FULLY_CONNECTED,
    1,
    _TYPE.FullyConnectedOptions,
    _options(
        tflite.FullyConnectedOptionsStart,
        tflite.FullyConnectedOptionsEnd,
        tflite.FullyConnectedOptionsAddFusedActivationFunction,
        tflite.ActivationFunctionType.RELU,
    ),
)
# The schema's default of beta is 0, which flattens every output to 1/C.
SOFTMAX = Kind(
    _CODE.SOFTMAX,
    1,
    _TYPE.SoftmaxOptions,
    _options(tflite.SoftmaxOptionsStart, tflite.SoftmaxOptionsEnd, tflite.SoftmaxOptionsAddBeta, 1.0),
)


def serialize(tensors: list[Tensor], operators: list[Operator], metadata: Mapping[str, bytes]) -> bytes:
    """The graph as a FlatBuffer, with entries of ``Model.metadata`` by their names; none where there are none.

    A FlatBuffer is built from its end: children come before what points to them.
    """
    contents = [b"", *(tensor.data for tensor in tensors), *metadata.values()]
    builder = flatbuffers.Builder(1024 + sum(len(content) + 256 for content in contents))
    description = builder.CreateString(DESCRIPTION)
    entries = None
    if metadata:
        made = [_metadata(builder, name, 1 + len(tensors) + index) for index, name in enumerate(metadata)]
        entries = _offsets(builder, made)
    buffers = _offsets(builder, [_buffer(builder, content) for content in contents])
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
    if entries is not None:
        tflite.ModelAddMetadata(builder, entries)
    tflite.ModelAddSignatureDefs(builder, signatures)
    builder.Finish(tflite.ModelEnd(builder), _FILE_IDENTIFIER)
    return bytes(builder.Output())


def _subgraph(builder: Any, tensors: list[Tensor], operators: list[Operator], output: int) -> int:
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


def _metadata(builder: Any, name: str, buffer: int) -> int:
    text = builder.CreateString(name)
    _start(builder, tflite.MetadataStart)
    tflite.MetadataAddName(builder, text)
    tflite.MetadataAddBuffer(builder, buffer)
    return int(tflite.MetadataEnd(builder))


def _tensor(builder: Any, tensor: Tensor, buffer: int) -> int:
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


def _operator_code(builder: Any, operator: Operator) -> int:
    _start(builder, tflite.OperatorCodeStart)
    # Old readers know the 8-bit field alone; all codes used here fit it.
    tflite.OperatorCodeAddDeprecatedBuiltinCode(builder, operator.kind.code)
    tflite.OperatorCodeAddVersion(builder, operator.kind.version)
    tflite.OperatorCodeAddBuiltinCode(builder, operator.kind.code)
    return int(tflite.OperatorCodeEnd(builder))


def _operator(builder: Any, operator: Operator, code_index: int) -> int:
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
