"""How long devices take from their cohort's selection to their report, and what that does to who is counted.

A round that assigns more devices than it counts takes the fastest: each committed round records how its counted
reports spread over the quartiles of its cohort, by the time that each device took before. Without over-selection and
dropouts each quartile has a quarter. Kept in memory alone: a restarted server learns it anew.

Source: design §5 (over-selection favours fast devices).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence

QUARTILES = 4


class Latencies:
    """The last time of each device, in seconds."""

    def __init__(self) -> None:
        self._last: dict[str, float] = {}

    def shares(self, cohort: Sequence[str], counted: Collection[str]) -> tuple[float, ...]:
        """Of the counted reports of devices whose time is known, the share of each quartile, the fastest first.

        Empty when fewer than four devices of ``cohort`` are known, or none of them was counted.
        """
        known = sorted((self._last[device], device) for device in cohort if device in self._last)
        counts = [0] * QUARTILES
        for rank, (_, device) in enumerate(known):
            counts[QUARTILES * rank // len(known)] += device in counted
        total = sum(counts)
        return tuple(count / total for count in counts) if len(known) >= QUARTILES and total else ()

    def note(self, device: str, seconds: float) -> None:
        """``device`` has reported so long after the selection."""
        self._last[device] = seconds

    def note_round(self, cohort: Sequence[str], arrived: Mapping[str, float], elapsed_s: float) -> None:
        """A round has ended: who has not reported takes at least as long as it lasted."""
        for device in cohort:
            self._last[device] = arrived.get(device, max(elapsed_s, self._last.get(device, 0.0)))
