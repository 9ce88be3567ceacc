"""Reads the layers of a ``.tflite`` file that EdgeFL wrote, bit for bit as it was.

The file is read as a table, never run: nothing of it reaches an interpreter here. What is refused: a file of another
shape, and int8 weights, which are not the ones that were trained.
"""

from __future__ import annotations

import struct
from typing import Any

from edgefl.errors import ConfigError, DataError
from edgefl.types import Weights, hidden_layer_shapes, layer_shapes

_UNREADABLE = (struct.error, IndexError, TypeError, AttributeError, ValueError, UnicodeDecodeError)
"""What the generated accessors raise for bytes that are no such table."""


def read_tflite_weights(data: bytes, source: str) -> Weights:
    """The float32 weights of one or two fully connected layers. Raises ``DataError``, which names ``source``."""
    try:
        import tflite
    except ImportError as error:
        raise ConfigError(
            f"reading {source} needs the packages flatbuffers and tflite ({error}); install edgefl-fleet[server]"
        ) from error
    if data[4:8] != b"TFL3":
        raise DataError(f"{source} is not a .tflite file; expected one that EdgeFL wrote")
    try:
        found = _layers(tflite, tflite.Model.GetRootAs(data, 0))
    except _UNREADABLE:
        raise DataError(f"{source} cannot be read as a .tflite file; expected one that EdgeFL wrote") from None
    if len(found) not in (1, 2):
        raise DataError(f"{source} has {len(found)} fully connected layers; expected one or two")
    for (shape, kernel), (bias_shape, bias) in found:
        if len(shape) != 2 or bias_shape != shape[:1] or not kernel or not bias:
            raise DataError(
                f"{source} has a layer of shape {shape} and {bias_shape} in other than float32 constants; expected "
                "float32 weights: export the version as tflite or weights"
            )
    shapes = [layer[0][0] for layer in found]
    raw = b"".join(part for (_, kernel), (_, bias) in found for part in (kernel, bias))
    if len(found) == 1:
        return Weights.of(layer_shapes(*shapes[0]), raw)
    if shapes[1][1] != shapes[0][0]:
        raise DataError(f"{source} has layers of shapes {shapes[0]} and {shapes[1]}, which do not follow each other")
    return Weights.of(hidden_layer_shapes(shapes[1][0], *shapes[0]), raw)


def _layers(tflite: Any, model: Any) -> list[tuple[tuple[tuple[int, ...], bytes], ...]]:
    """Of each fully connected layer, the kernel and the bias as (shape, float32 bytes); no bytes for other tensors."""
    graph = model.Subgraphs(0)
    layers = []
    for index in range(graph.OperatorsLength()):
        operator = graph.Operators(index)
        if model.OperatorCodes(operator.OpcodeIndex()).BuiltinCode() == tflite.BuiltinOperator.FULLY_CONNECTED:
            layers.append(tuple(_tensor(tflite, model, graph.Tensors(operator.Inputs(at))) for at in (1, 2)))
    return layers


def _tensor(tflite: Any, model: Any, tensor: Any) -> tuple[tuple[int, ...], bytes]:
    shape = tuple(tensor.Shape(i) for i in range(tensor.ShapeLength()))
    if tensor.Type() != tflite.TensorType.FLOAT32:
        return shape, b""
    buffer = model.Buffers(tensor.Buffer())
    return shape, buffer.DataAsNumpy().tobytes() if buffer.DataLength() else b""
