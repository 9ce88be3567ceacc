"""Who does the devices' work: given a round's assignment and its members, what each of them reports.

``OwnWorkers`` does it in this process, ``edgefl.simulation.processes`` in several. A report is a pure function of
assignment, model and the device's examples, so it does not matter who makes it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from edgefl.learning.cohort import run_cohort
from edgefl.learning.in_process import CLIENTS_AT_ONCE
from edgefl.protocol.messages import Assignment, Report
from edgefl.simulation.holdings import Holdings
from edgefl.types import ClientDataset


class Workers(Protocol):
    """Does the work of many devices."""

    def work(
        self, assignment: Assignment, model: bytes, devices: Sequence[str], memories: Mapping[str, bytes]
    ) -> list[Report]:
        """What each of ``devices`` reports, in their order. Each holds examples here.

        ``memories``: what the devices remember, of those that remember something.
        """
        ...


class OwnWorkers:
    """Works in this process; a training takes ``threads`` cores, None for every one."""

    def __init__(self, holdings: Sequence[Holdings], threads: int | None = None) -> None:
        self._train = {one.device: ClientDataset(one.device, one.train) for one in holdings}
        self._held_out = {one.device: ClientDataset(one.device, one.held_out) for one in holdings}
        self._threads = threads

    def work(
        self, assignment: Assignment, model: bytes, devices: Sequence[str], memories: Mapping[str, bytes]
    ) -> list[Report]:
        reports: list[Report] = []
        for first in range(0, len(devices), CLIENTS_AT_ONCE):
            part = devices[first : first + CLIENTS_AT_ONCE]
            train, held_out = [self._train[name] for name in part], [self._held_out[name] for name in part]
            reports += run_cohort(assignment, model, train, held_out, memories, threads=self._threads)
        return reports
