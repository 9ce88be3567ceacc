"""A server without a network or a disk, and devices that speak to it: what the tests of the coordinator share."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

from protocol_kit import (
    Server,
    check_in,
    update,
)

from edgefl.protocol.events import (
    AnswerCheckIn,
    DeviceCheckedIn,
    Effect,
    ReportReceived,
    SendReceipt,
    TaskCreated,
)
from edgefl.protocol.messages import (
    Assignment,
    Receipt,
    Rejection,
    RetryWindow,
)
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.task import TaskSpec

E = TypeVar("E")


class Fleet:
    """A server, and devices that speak to it in one line each. Time is ``now``; tokens count up."""

    def __init__(self, *specs: TaskSpec, config: CoordinatorConfig | None = None) -> None:
        self.server = Server(config)
        self.now = 0.0
        self.token = 0
        for spec in specs:
            self.server.handle(TaskCreated(spec, "text"), 0.0)

    def handle(self, event: Any) -> list[Effect]:
        return self.server.handle(event, self.now)

    def arrive(self, device: str, **changes: Any) -> list[Effect]:
        self.token += 1
        return self.handle(DeviceCheckedIn(self.token, device, check_in(**changes)))

    def arrive_all(self, devices: Sequence[str]) -> dict[str, Assignment]:
        """Check in all; the assignments that were given meanwhile, by device."""
        return {d: a for device in devices for d, a in assignments(self.arrive(device)).items()}

    def answer(self, device: str, job: Assignment, value: int = 1, **changes: Any) -> list[Effect]:
        made = update(job.model_digest, value, job.task, job.round_num, **changes)
        return self.report(device, made)

    def report(self, device: str, report: Any) -> list[Effect]:
        self.token += 1
        return self.handle(ReportReceived(self.token, device, report))

    def run_round(self, devices: Sequence[str], value: int = 1) -> str:
        """All check in, and those that get an assignment report. Returns the task that was served."""
        jobs = self.arrive_all(devices)
        for device, job in jobs.items():
            self.answer(device, job, value)
        (task,) = {job.task for job in jobs.values()}
        return task

    def task(self, name: str = "train") -> Any:
        return next(task for task in self.server.coordinator.tasks() if task.spec.name == name)


def of(kind: type[E], effects: Sequence[Effect]) -> list[E]:
    return [effect for effect in effects if isinstance(effect, kind)]


def assignments(effects: Sequence[Effect]) -> dict[str, Assignment]:
    answers = of(AnswerCheckIn, effects)
    return {a.device: a.answer.outcome for a in answers if isinstance(a.answer.outcome, Assignment)}


def rejection(effects: Sequence[Effect], device: str = "a") -> tuple[str, RetryWindow]:
    (answer,) = [a.answer for a in of(AnswerCheckIn, effects) if a.device == device]
    assert isinstance(answer.outcome, Rejection)
    return answer.outcome.reason, answer.retry


def receipt(effects: Sequence[Effect]) -> Receipt:
    (sent,) = of(SendReceipt, effects)
    return sent.receipt
