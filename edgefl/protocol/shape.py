"""What a device's examples look like, and why they do not fit a model.

A device says it at each check-in, from its configuration, so that a task which it cannot do never draws it. What is
compared is what the device's own check compares (``edgefl.learning.client.check_examples``), and the classes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from edgefl.models.model import Model
from edgefl.types import DType, Quantization


@dataclass(frozen=True)
class ExampleShape:
    """``quantization``: what 8-bit features mean; it says nothing of float32 ones."""

    num_features: int
    num_classes: int
    dtype: DType = DType.FLOAT32
    quantization: Quantization = field(default_factory=Quantization)

    def __str__(self) -> str:
        return f"{self.num_features} {self.dtype.value} features and {self.num_classes} classes"


def shape_of(model: Model) -> ExampleShape:
    """The examples that ``model`` reads."""
    return ExampleShape(model.num_features, model.num_classes, model.dtype, model.quantization)


def misfit(found: ExampleShape, wanted: ExampleShape) -> str:
    """What of ``found`` a model of ``wanted`` cannot read; '' when it reads them. For people, after "has" or "with".

    Fewer classes than the model has are not an obstacle: a device may know some of them only.
    """
    if found.num_features != wanted.num_features:
        return f"{found.num_features} features (expected {wanted.num_features})"
    if found.dtype is not wanted.dtype:
        return f"{found.dtype.value} features (expected {wanted.dtype.value})"
    if found.dtype is not DType.FLOAT32 and found.quantization != wanted.quantization:
        return f"features of {_meaning(found)} (expected {_meaning(wanted)})"
    if found.num_classes > wanted.num_classes:
        return f"{found.num_classes} classes (expected at most {wanted.num_classes})"
    return ""


def _meaning(shape: ExampleShape) -> str:
    return f"scale {shape.quantization.scale:.9g} and zero point {shape.quantization.zero_point}"
