"""The models that devices train, and their ``.tflite`` form. Each name is imported when it is first asked for."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from edgefl.models.kinds.softmax import SoftmaxModel
    from edgefl.models.tflite_metadata import read_classes
    from edgefl.models.tflite_runner import TflitePrediction, predict_tflite
    from edgefl.models.tflite_runtime_choice import choose_runtime
    from edgefl.models.tflite_verifier import Verification, verify_tflite
    from edgefl.models.tflite_writer import write_tflite

__all__ = [
    "SoftmaxModel",
    "TflitePrediction",
    "Verification",
    "choose_runtime",
    "predict_tflite",
    "read_classes",
    "verify_tflite",
    "write_tflite",
]

_MODULES = {
    "SoftmaxModel": "kinds.softmax",
    "TflitePrediction": "tflite_runner",
    "Verification": "tflite_verifier",
    "choose_runtime": "tflite_runtime_choice",
    "predict_tflite": "tflite_runner",
    "read_classes": "tflite_metadata",
    "verify_tflite": "tflite_verifier",
    "write_tflite": "tflite_writer",
}


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{module}"), name)


def __dir__() -> list[str]:
    return [*__all__]  # what is not imported yet too
