"""The draw of a round's cohort: pure functions of (task seed, round, recorded candidates and their sizes).

Whoever knows them can repeat the draw on any machine. Each way of drawing is one file of this package that defines
``SAMPLING``; the name of the file is the name in task definitions (``edgefl.registry``).

Source: design §4.5 (randomness), §5 (the round).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import cast

from edgefl.errors import LocalProtocolError
from edgefl.registry import Registry

SAMPLINGS = Registry("sampling", __name__, "SAMPLING")


@dataclass(frozen=True)
class Sampling:
    """A way to draw.

    ``draw(task_seed, round_num, candidates, num_examples, size)`` gives ``size`` of the candidates, each at most once,
    or all when there are fewer. The order in which candidates come does not matter. ``reads_sizes``: whether it reads
    ``num_examples``, the training examples of each, all above 0; they are recorded then, and else empty.
    """

    draw: Callable[[int, int, Sequence[str], Sequence[int], int], tuple[str, ...]]
    reads_sizes: bool = False


def sampling(name: str) -> Sampling:
    """Raises ``ConfigError`` when there is none of that name."""
    return cast(Sampling, SAMPLINGS.load(name))


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
