"""``by_size``: a candidate is as likely as it has examples, each at most once; so the mean must count each once.

Systematic sampling: the candidates, in the order of their keys, lie on a line, each as long as it has examples, and
``size`` marks at equal distances, from a start that is drawn, choose those whom they fall on. A candidate that is as
long as the distance or longer is taken for certain, and the others share the rest: nobody is drawn twice. In integers.

Source: Madow, "On the theory of systematic sampling, II", 1949; for the mean: Li et al., "Federated Optimization in
Heterogeneous Networks", 2020, algorithm 1, which samples by size and averages without weights.
"""

from __future__ import annotations

from collections.abc import Sequence

from edgefl.protocol.sampling import Sampling
from edgefl.protocol.sampling._keys import by_key
from edgefl.randomness import COHORT, derive_key

_NO_DEVICE = ""
"""The name of the start's key: no device has it."""

_KEY_VALUES = 1 << 128
"""A start is a key scaled to the line: no point of it is likelier than another by more than 2**-64 of it."""


def draw(
    task_seed: int, round_num: int, candidates: Sequence[str], num_examples: Sequence[int], size: int
) -> tuple[str, ...]:
    length = dict(zip(candidates, num_examples, strict=True))
    in_order = by_key(task_seed, round_num, candidates)
    if len(in_order) <= size:
        return tuple(in_order)
    certain = _certain(length, size)
    others = [device for device in in_order if device not in certain]
    total = sum(length[device] for device in others)
    key = int.from_bytes(derive_key(task_seed, round_num, _NO_DEVICE, COHORT), "little")
    chosen = marked([length[device] for device in others], size - len(certain), key * total // _KEY_VALUES)
    drawn = certain | {others[index] for index in chosen}
    return tuple(device for device in in_order if device in drawn)


def _certain(length: dict[str, int], size: int) -> set[str]:
    """Those at least as long as the marks are apart; with each of them the distance for the others changes."""
    certain: set[str] = set()
    total = sum(length.values())
    for device in sorted(length, key=lambda name: (-length[name], name)):
        if (size - len(certain)) * length[device] < total:
            break
        certain.add(device)
        total -= length[device]
    return certain


def marked(lengths: Sequence[int], num_marks: int, start: int) -> list[int]:
    """The indices of the pieces of a line on which ``num_marks`` marks fall, the first of them at ``start``.

    The line is measured in units of ``1 / num_marks``, so the marks are ``sum(lengths)`` apart, and ``start`` is below
    that. No piece is longer than the marks are apart.
    """
    chosen: list[int] = []
    end, mark, total = 0, start, sum(lengths)
    for index, length in enumerate(lengths):
        end += num_marks * length
        if mark < end:
            chosen.append(index)
            mark += total
    return chosen


SAMPLING = Sampling(draw, reads_sizes=True)
