"""``cyclic``: the candidates in turn, by name; a round goes on behind the one before it, and begins again at the end.

While the candidates stay the same, ``ceil(candidates / size)`` rounds have asked each of them. Which devices come
follows from the number of the round alone: one that was abandoned is a turn too, and so the seed does not matter.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefl.protocol.sampling import Sampling


def draw(_: int, round_num: int, candidates: Sequence[str], __: Sequence[int], size: int) -> tuple[str, ...]:
    in_order = sorted(candidates)
    first = (round_num - 1) * size
    return tuple(in_order[(first + k) % len(in_order)] for k in range(min(size, len(in_order))))


SAMPLING = Sampling(draw)
