"""The order in which a round's draw takes devices: by keys that nobody can choose."""

from __future__ import annotations

from collections.abc import Iterable

from edgefl.randomness import COHORT, derive_key


def by_key(task_seed: int, round_num: int, devices: Iterable[str]) -> list[str]:
    """``devices`` by their keys in this round, the smallest first."""
    keyed = sorted((derive_key(task_seed, round_num, device, COHORT), device) for device in devices)
    return [device for _, device in keyed]
