"""``uniform``: every candidate is as likely as any other. Those with the smallest keys, in the order of their keys."""

from __future__ import annotations

from collections.abc import Sequence

from edgefl.protocol.sampling import Sampling
from edgefl.protocol.sampling._keys import by_key


def draw(task_seed: int, round_num: int, candidates: Sequence[str], _: Sequence[int], size: int) -> tuple[str, ...]:
    return tuple(by_key(task_seed, round_num, candidates)[:size])


SAMPLING = Sampling(draw)
