"""The shape of a device's examples as the text of a column: JSON, a list in a fixed order."""

from __future__ import annotations

import json

from edgefl.protocol.shape import ExampleShape
from edgefl.types import DType, Quantization


def write_shape(shape: ExampleShape) -> str:
    meaning = shape.quantization
    return json.dumps([shape.num_features, shape.num_classes, shape.dtype.value, meaning.scale, meaning.zero_point])


def read_shape(text: str) -> ExampleShape:
    num_features, num_classes, dtype, scale, zero_point = json.loads(text)
    return ExampleShape(num_features, num_classes, DType(dtype), Quantization(scale, zero_point))
