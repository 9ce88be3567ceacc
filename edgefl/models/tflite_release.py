"""A model as the bytes of a ``.tflite`` file that was compared with the kernel: what a server releases."""

from __future__ import annotations

from edgefl.errors import ConfigError
from edgefl.models.model import Model
from edgefl.models.tflite_verifier import Verification, verify_tflite
from edgefl.models.tflite_writer import WeightType, write_tflite
from edgefl.types import Shapes, Weights


def _told(shapes: Shapes) -> str:
    size = f"{shapes[-1][1][0]} classes and {shapes[0][1][1]} features"
    return size if len(shapes) == 2 else f"{size} in {', '.join(name for name, _ in shapes)}"


def verified_tflite(weights: Weights, model: Model, weight_type: WeightType) -> tuple[bytes, Verification]:
    """The file of ``weights``, with the standardization and the class names of ``model``.

    Raises ``ConfigError`` for weights of another shape, and what ``write_tflite`` and ``verify_tflite`` raise.
    """
    if weights.shapes != model.shapes:
        raise ConfigError(f"weights of {_told(weights.shapes)}; expected the model's {_told(model.shapes)}")
    data = write_tflite(weights, model.standardization, weight_type=weight_type, classes=model.classes)
    return data, verify_tflite(
        data,
        weights,
        model.standardization,
        weight_type=weight_type,
        classes=model.classes,
        predict=model.predict,
    )
