"""Writes a model as a ``.tflite`` file, without TensorFlow.

The graph takes ``features`` (1, F) float32 and gives ``probabilities`` (1, C) float32::

    features [-> SUB mean -> MUL inverse_spread] -> FULLY_CONNECTED kernel, bias -> SOFTMAX -> probabilities

A hidden layer is one FULLY_CONNECTED more, with a fused RELU, before the last one.

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
from typing import Literal

from edgefl.classes import check_classes
from edgefl.errors import ConfigError, DataError
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
    if weight_type == "int8" and len(weights.shapes) > 2:
        raise ConfigError(
            "weight_type is 'int8', which a model with a hidden layer does not have; release it as float32"
        )
    for name, _shape in weights.shapes:
        for index, value in enumerate(weights.array(name)):
            if not math.isfinite(value):
                raise DataError(f"{name} value {index} is {value}; expected finite weights")
    if standardization is not None and standardization.num_features != weights.num_features:
        raise ConfigError(
            f"a standardization of {standardization.num_features} features; expected {weights.num_features}"
        )
    # Most of a second to import: a command that writes no file does not pay for it, nor does completion in a shell.
    from edgefl.models.tflite_graph import layer_file

    return layer_file(weights, standardization, classes, int8=weight_type == "int8")
