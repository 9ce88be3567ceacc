"""The kinds of model, one file per kind; the file's name is ``kind`` in a task file and in a plan.

    [model]
    kind = "softmax"       # edgefl/models/kinds/softmax.py, its MODEL

A plan also names the version: an agent that has another one refuses the plan. docs/extending.md goes through a new
kind.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from edgefl.errors import ConfigError
from edgefl.models.model import Model
from edgefl.registry import Registry

MODELS = Registry("model kind", "edgefl.models.kinds", "MODEL", group="edgefl.models")


def build_model(kind: str, version: int, options: Mapping[str, int], **given: Any) -> Model:
    """The model of ``kind``: ``given`` are the fields that every model has, ``options`` those of the kind.

    Raises ``ConfigError`` for a kind or a version that is not installed, and for what the kind refuses.
    """
    known = MODELS.load(kind).version
    if version != known:
        raise ConfigError(
            f"model kind {kind!r} of version {version}; expected version {known}: update EdgeFL on this machine"
        )
    model: Model = MODELS.build(kind, options, **given)
    return model
