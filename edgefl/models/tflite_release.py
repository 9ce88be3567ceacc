"""A model as the bytes of a ``.tflite`` file that was compared with the kernel: what a server releases."""

from __future__ import annotations

from edgefl.errors import ConfigError
from edgefl.models.softmax import SoftmaxModel
from edgefl.models.tflite_verifier import Verification, verify_tflite
from edgefl.models.tflite_writer import WeightType, write_tflite
from edgefl.types import Weights


def verified_tflite(weights: Weights, model: SoftmaxModel, weight_type: WeightType) -> tuple[bytes, Verification]:
    """The file of ``weights``, with the standardization and the class names of ``model``.

    Raises ``ConfigError`` for weights of another shape, and what ``write_tflite`` and ``verify_tflite`` raise.
    """
    found, expected = (weights.num_classes, weights.num_features), (model.num_classes, model.num_features)
    if found != expected:
        raise ConfigError(
            f"weights of {found[0]} classes and {found[1]} features; expected the model's {expected[0]} and "
            f"{expected[1]}"
        )
    data = write_tflite(weights, model.standardization, weight_type=weight_type, classes=model.classes)
    return data, verify_tflite(data, weights, model.standardization, weight_type=weight_type, classes=model.classes)
