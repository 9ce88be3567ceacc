"""EdgeFL: federated learning for small devices.

``import edgefl`` loads nothing: each name below is imported when it is first asked for, so that a device pays only for
what it runs. The command ``edgefl`` and ``edgefl.learning`` are the ways in.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from edgefl._version import __version__

# Only the lowest layers: what stands above them may be asked for here too, but must not be an import of this module.
if TYPE_CHECKING:
    from edgefl.errors import (
        ConfigError,
        ConflictError,
        DataError,
        EdgeFLError,
        InvalidUpdateError,
        KernelError,
        NotFoundError,
        StorageError,
        UnavailableError,
        UpdateRefusal,
        VerificationError,
    )
    from edgefl.models.kinds.softmax import SoftmaxModel
    from edgefl.types import (
        ClientDataset,
        DType,
        EvalStats,
        Examples,
        Quantization,
        Standardization,
        TrainConfig,
        TrainStats,
        Weights,
    )

__all__ = [
    "ClientDataset",
    "ConfigError",
    "ConflictError",
    "DType",
    "DataError",
    "EdgeFLError",
    "EvalStats",
    "Examples",
    "InvalidUpdateError",
    "KernelError",
    "NotFoundError",
    "Quantization",
    "SoftmaxModel",
    "Standardization",
    "StorageError",
    "TrainConfig",
    "TrainStats",
    "UnavailableError",
    "UpdateRefusal",
    "VerificationError",
    "Weights",
    "__version__",
    "aggregators",
    "codecs",
    "datasets",
    "errors",
    "kernels",
    "learning",
    "models",
    "optimizers",
    "protocol",
    "simulation",
    "types",
]

_PACKAGES = frozenset(name for name in __all__ if name.islower() and not name.startswith("_"))

_MODULES = {
    "SoftmaxModel": "edgefl.models.kinds.softmax",
    "UpdateRefusal": "edgefl.errors",
    **{name: "edgefl.errors" for name in __all__ if name.endswith("Error")},
    **dict.fromkeys(
        (
            "ClientDataset",
            "DType",
            "EvalStats",
            "Examples",
            "Quantization",
            "Standardization",
            "TrainConfig",
            "TrainStats",
            "Weights",
        ),
        "edgefl.types",
    ),
}


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return importlib.import_module(f"{__name__}.{name}")
    if name in _MODULES:
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return [*__all__]  # what is not imported yet too
