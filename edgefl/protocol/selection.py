"""The draw of a round's cohort: a pure function of (task seed, round, recorded candidates).

Whoever knows the three can repeat the draw on any machine. Source: design §4.5 (randomness), §5 (the round).
"""

from __future__ import annotations

from collections.abc import Iterable

from edgefl.randomness import COHORT, derive_key


def draw_cohort(task_seed: int, round_num: int, candidates: Iterable[str], size: int) -> tuple[str, ...]:
    """The ``size`` candidates with the smallest keys, in the order of their keys; all of them when there are fewer.

    The order in which ``candidates`` come does not matter; each may come once.
    """
    keyed = sorted((derive_key(task_seed, round_num, device, COHORT), device) for device in candidates)
    return tuple(device for _, device in keyed[:size])
