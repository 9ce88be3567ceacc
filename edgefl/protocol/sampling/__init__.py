"""The draw of a round's cohort: pure functions of (task seed, round, recorded candidates and their sizes).

Whoever knows them can repeat the draw on any machine. Each way of drawing is one file of this package that defines
``SAMPLING``; the name of the file is the name in task definitions, and a file whose name starts with ``_`` is a part of
others. Source: design §4.5 (randomness), §5 (the round).
"""

from __future__ import annotations

import functools
import importlib
import pkgutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from edgefl.errors import ConfigError, LocalProtocolError


@dataclass(frozen=True)
class Sampling:
    """A way to draw.

    ``draw(task_seed, round_num, candidates, num_examples, size)`` gives ``size`` of the candidates, each at most once,
    or all when there are fewer. The order in which candidates come does not matter. ``reads_sizes``: whether it reads
    ``num_examples``, the training examples of each, all above 0; they are recorded then, and else empty.
    """

    draw: Callable[[int, int, Sequence[str], Sequence[int], int], tuple[str, ...]]
    reads_sizes: bool = False


@functools.cache
def names() -> tuple[str, ...]:
    """The names of all, sorted."""
    found = (module.name for module in pkgutil.iter_modules(__path__))
    return tuple(sorted(name for name in found if not name.startswith("_")))


def sampling(name: str) -> Sampling:
    """Raises ``ConfigError`` when there is none of that name."""
    if name not in names():
        raise ConfigError(f"sampling is {name!r}; expected one of {', '.join(names())}")
    return cast(Sampling, importlib.import_module(f"{__name__}.{name}").SAMPLING)


def draw_cohort(
    task_seed: int,
    round_num: int,
    candidates: Sequence[str],
    size: int,
    name: str = "uniform",
    num_examples: Sequence[int] = (),
) -> tuple[str, ...]:
    """The cohort that the sampling ``name`` draws. Raises ``LocalProtocolError`` unless it has the sizes it reads."""
    kind = sampling(name)
    wanted = len(candidates) if kind.reads_sizes else 0
    if len(num_examples) != wanted:
        raise LocalProtocolError(
            f"{len(num_examples)} sizes of {len(candidates)} candidates; sampling {name!r} expects {wanted}"
        )
    return kind.draw(task_seed, round_num, candidates, num_examples, size)
