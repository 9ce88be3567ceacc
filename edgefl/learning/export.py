"""A trained model as a ``.tflite`` file, from Python.

    learning.export_tflite("shoulder.tflite", train.model, train.get_model(state))

The file is the one that a server would release: the standardization and the names of the classes are part of it, and it
was compared with the kernel before it is there.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from edgefl.errors import ConfigError
from edgefl.files import write_file
from edgefl.learning.in_process import check_weights
from edgefl.learning.shapes import check_model
from edgefl.models.model import Model
from edgefl.types import Weights

if TYPE_CHECKING:
    from edgefl.models.tflite_verifier import Verification
    from edgefl.models.tflite_writer import WeightType


def export_tflite(
    path: str | Path, model: Model, weights: Weights, *, weight_type: WeightType = "float32"
) -> Verification:
    """Replace the file ``path`` by ``weights`` of ``model``, in one step; returns how far it is from the kernel.

    ``weight_type`` "int8" stores the kernel in about a quarter of the size. The file takes features as numbers:
    ``scale * (stored - zero_point)`` of 8-bit ones.

    Raises ``ConfigError`` for arguments that do not fit and for a missing package, ``VerificationError`` when the file
    does not compute what the kernel computes, and then writes nothing; ``StorageError`` when it cannot be written.
    """
    if not isinstance(path, (str, Path)):
        raise ConfigError(f"path is {path!r:.80}; expected text or a pathlib.Path")
    check_model(model)
    check_weights(weights)
    from edgefl.models.tflite_release import verified_tflite  # flatbuffers: of those who export alone

    content, verification = verified_tflite(weights, model, weight_type)
    write_file(Path(path), content)
    return verification
