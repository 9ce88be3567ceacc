"""One example on its way into the store: what is checked, and the form in which it is kept.

Invariant: what passes can be trained on: shape, dtype and label range as declared, finite, 0 or at least 2**-30 in
magnitude (what is smaller is kept as 0). Source: design §4.2.
"""

from __future__ import annotations

import math
from array import array
from dataclasses import dataclass
from typing import TYPE_CHECKING

from edgefl.errors import DataError
from edgefl.protocol.messages import Split
from edgefl.types import MIN_MAGNITUDE, DType
from edgefl_device.config import ExampleSpec

if TYPE_CHECKING:
    from typing_extensions import Buffer

_FORMATS = {DType.FLOAT32: "f", DType.UINT8: "B", DType.INT8: "b"}


@dataclass(frozen=True)
class Row:
    """One example to append. ``features``: ``num_features`` values of the store's dtype, or their bytes.

    ``where`` stands before an error's text, so that it names the place the row came from.
    """

    features: Buffer
    label: int
    split: Split = Split.TRAIN
    where: str = ""


def pack_features(spec: ExampleSpec, features: Buffer) -> bytes:
    """The stored form of one example's features. Raises ``DataError`` that names the first wrong value."""
    view = memoryview(features)
    raw_bytes = isinstance(features, (bytes, bytearray)) or (view.format == "B" and spec.dtype is DType.FLOAT32)
    kind = (view.format or "B").removeprefix("<")
    if not raw_bytes and kind != _FORMATS[spec.dtype]:
        raise DataError(f"features of buffer format {view.format!r}; expected {spec.dtype.value}")
    if not view.c_contiguous or view.nbytes != spec.row_bytes:
        found = view.nbytes / spec.dtype.size_bytes
        raise DataError(f"{found:.12g} features; expected {spec.num_features} ({spec.dtype.value}), contiguous")
    raw = bytes(view)
    if spec.dtype is not DType.FLOAT32:
        return raw
    values = memoryview(raw).cast("f")
    small = False
    for index, value in enumerate(values):
        if not MIN_MAGNITUDE <= abs(value) < math.inf:
            if value != value or abs(value) == math.inf:
                raise DataError(f"features[{index}] is {value!r}; expected a finite number")
            small = True
    if not small:
        return raw
    return array("f", [value if abs(value) >= MIN_MAGNITUDE else 0.0 for value in values]).tobytes()


def check_label(spec: ExampleSpec, label: int) -> None:
    """Raises ``DataError`` for a label that is not a class of the store."""
    if isinstance(label, bool) or not isinstance(label, int) or not 0 <= label < spec.num_classes:
        raise DataError(f"label is {label!r}; expected a whole number from 0 to {spec.num_classes - 1}")
