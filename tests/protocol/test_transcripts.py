"""Whole rounds as readable text: each file of ``tests/transcripts`` is replayed and compared, line by line.

A line ``> time command`` goes in, the indented lines below it are the effects that come out, in their order; ``#`` is a
comment. ``EDGEFL_UPDATE_TRANSCRIPTS=1 pytest tests/protocol/test_transcripts.py`` writes the effects anew: read the
difference.

Commands of the server: ``task KIND NAME [option=value ...]``, ``checkin DEVICE [field=value ...]``, ``gone DEVICE``,
``report DEVICE TASK ROUND VALUE [field=value ...]``, ``fail DEVICE TASK ROUND``, ``pause|resume|end TASK``,
``release NAME VERSION``, ``tick``, ``drain``, ``restart`` (killed, and restored from what was persisted).
A file whose first command is ``device`` drives the device's machine: see ``_device_event``.
"""

from __future__ import annotations

import ast
import os
from collections.abc import Sequence
from dataclasses import fields, is_dataclass
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from places import TESTS
from protocol_kit import ENCODING, MODEL, Server, check_in, evaluation, failure, statistics, training, unpack, update

from edgefl.errors import EdgeFLError, UpdateRefusal
from edgefl.protocol import session_events as on
from edgefl.protocol.events import (
    DeviceCheckedIn,
    DeviceGone,
    DeviceRecord,
    Draining,
    ReleaseCreated,
    ReleaseRecord,
    ReportReceived,
    RoundSummary,
    TaskCreated,
    TaskEnded,
    TaskPaused,
    TaskRecord,
    TaskResumed,
    Ticked,
)
from edgefl.protocol.messages import (
    Accepted,
    Assignment,
    CheckInAnswer,
    ClientUpdate,
    Fate,
    Late,
    Noted,
    Plan,
    Refused,
    Rejection,
    ReleaseInfo,
    RetryWindow,
    TrainingWork,
)
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.process import ProcessState
from edgefl.protocol.session import SessionConfig, SessionMachine
from edgefl.types import SgdOptions

FOLDER = TESTS / "transcripts"
UPDATE = "EDGEFL_UPDATE_TRANSCRIPTS"
SHORT_DIGEST = 6


def show(value: object) -> str:
    """A value in one line: what a reader of a transcript wants to see."""
    match value:
        case RetryWindow(low, high):
            return f"[{low:g}, {high:g}]"
        case ProcessState(version, model, _):
            return f"version {version}" + (f" model {unpack(model)}" if model else "")
        case ClientUpdate(task, round_num, _, _, payload) if len(payload) == 8:
            again = f" attempt {value.attempt}" if value.attempt > 1 else ""
            return f"({task} {round_num}: {unpack(payload)}{again})"
        case Assignment(task, round_num, _, _, digest, _, deadline_s):
            return f"Assignment({task} {round_num} on {digest[:SHORT_DIGEST] or 'nothing'}, {deadline_s:g} s)"
        case TaskRecord():
            return f"{value.spec.name} {value.status.value} {show(value.state)}"
        case DeviceRecord():
            flag = " suspect" if value.suspect else ""
            return f"{value.device} of {value.population}, session {value.session}{flag}"
        case RoundSummary():
            made = f" -> version {value.version}" if value.version else ""
            note = value.reason or value.waiting
            why = f" ({note})" if note else ""
            counts = f"{value.accepted} accepted, {value.failed} failed of {value.cohort}, goal {value.goal}"
            return f"{value.task} {value.round_num} {value.phase.name}: {counts}{made}{why}"
        case Enum():
            return value.name
        case float():
            return f"{value:g}"
        case str() if len(value) == 64:
            return value[:SHORT_DIGEST]
        case str():
            return value if value.replace("-", "").replace(".", "").isalnum() else repr(value)
        case tuple():
            return "(" + " ".join(show(item) for item in value) + ")"
    if not is_dataclass(value):
        return str(value)
    parts = [
        f"{field.name}={show(item)}"
        for field in fields(value)
        if field.name != "metrics" and (item := getattr(value, field.name)) not in ("", (), None, Fate.OPEN)
    ]
    return f"{type(value).__name__}({', '.join(parts)})"


def options(words: Sequence[str]) -> dict[str, Any]:
    found: dict[str, Any] = {}
    for word in words:
        name, _, text = word.partition("=")
        try:
            found[name] = ast.literal_eval(text)
        except (ValueError, SyntaxError):
            found[name] = text
    return found


class ServerScript:
    """A server under a transcript: numbers the calls, and knows the last base of each task."""

    def __init__(self, words: Sequence[str]) -> None:
        self.server = Server(CoordinatorConfig(**options(words)))
        self.token = 0
        self.waiting: dict[str, int] = {}

    def run(self, now: float, words: Sequence[str]) -> Sequence[object]:
        if words[0] == "restart":
            return self.server.restart(now)
        return self.server.handle(self._event(words), now)

    def _event(self, words: Sequence[str]) -> Any:
        self.token += 1
        match words:
            case ["task", kind, name, *rest]:
                make: Any = {"training": training, "evaluation": evaluation, "statistics": statistics}[kind]
                return TaskCreated(make(name, **options(rest)), "")
            case ["checkin", device, *rest]:
                self.waiting[device] = self.token
                return DeviceCheckedIn(self.token, device, check_in(**options(rest)))
            case ["gone", device]:
                return DeviceGone(self.waiting[device])
            case ["report", device, task, number, value, *rest]:
                base = self._base(task)
                made = update(base, int(value), task, int(number), **options(rest))
                return ReportReceived(self.token, device, made)
            case ["fail", device, task, number]:
                return ReportReceived(self.token, device, failure(task, int(number)))
            case ["release", name, version]:
                return ReleaseCreated(ReleaseRecord(ReleaseInfo(name, int(version), "", 1), "p", "train", 1))
            case ["drain" | "tick" as verb]:
                return Draining() if verb == "drain" else Ticked()
            case ["pause" | "resume" | "end" as verb, task]:
                return {"pause": TaskPaused, "resume": TaskResumed, "end": TaskEnded}[verb](task)
        raise AssertionError(f"unknown command: {' '.join(words)}")

    def _base(self, task: str) -> str:
        run = self.server.coordinator._board.find(task)
        return run.ready.base.digest if run is not None and run.ready is not None else ""


class DeviceScript:
    """A device under a transcript: its chance always draws the top of a window."""

    def __init__(self, words: Sequence[str]) -> None:
        self.machine = SessionMachine(SessionConfig(encodings=(ENCODING,), **options(words)), lambda _, high: high)

    def run(self, now: float, words: Sequence[str]) -> Sequence[object]:
        effects = self.machine.handle(_device_event(words), now)
        return [*effects, f"= {self.machine.state.phase.value}"]


def _window(low: str, high: str) -> RetryWindow:
    return RetryWindow(float(low), float(high))


def _device_event(words: Sequence[str]) -> on.SessionEvent:
    work = TrainingWork(SgdOptions(0.1, 8, 1, 0.0, 0.0, 0.0, 0.0), True, 100)
    match words:
        case ["start"]:
            return on.Started()
        case ["start", "outbox", task, number, value]:
            return on.Started(outbox=update("d" * 64, int(value), task, int(number)))
        case ["assigned", task, number, deadline, low, high]:
            job = Assignment(task, int(number), 7, Plan(MODEL, work, ENCODING), "d" * 64, 8, float(deadline))
            return on.CheckInAnswered(CheckInAnswer(job, _window(low, high)))
        case ["rejected", reason, low, high]:
            return on.CheckInAnswered(CheckInAnswer(Rejection(reason), _window(low, high)))
        case ["done", task, number, value]:
            return on.WorkDone(update("d" * 64, int(value), task, int(number)))
        case ["accepted", sequence, low, high]:
            return on.ReceiptReceived(Accepted(int(sequence)), _window(low, high))
        case ["noted", low, high]:
            return on.ReceiptReceived(Noted(), _window(low, high))
        case ["late", low, high]:
            return on.ReceiptReceived(Late(), _window(low, high))
        case ["refused", reason, low, high]:
            return on.ReceiptReceived(Refused(UpdateRefusal[reason], "too large"), _window(low, high))
        case ["offline"]:
            return on.RpcFailed("no route", transient=True)
        case ["timer"]:
            return on.TimerFired()
        case ["model"]:
            return on.ModelReady()
        case ["stopped"]:
            return on.WorkStopped()
        case ["saved"]:
            return on.UpdateSaved()
        case ["stop"]:
            return on.StopRequested()
    raise AssertionError(f"unknown command: {' '.join(words)}")


def replay(text: str) -> str:
    """The transcript with its effects written anew."""
    script: ServerScript | DeviceScript = ServerScript(())
    lines = []
    for line in text.splitlines():
        if line.startswith(("#", ">")) or not line.strip():
            lines.append(line.rstrip())
        if not line.startswith(">"):
            continue
        now, *words = line[1:].split()
        if words[0] in ("server", "device"):
            script = ServerScript(words[1:]) if words[0] == "server" else DeviceScript(words[1:])
            continue
        try:
            effects = script.run(float(now), words)
        except EdgeFLError as error:
            effects = [f"! {type(error).__name__}: {error}"]
        lines.extend(f"    {effect if isinstance(effect, str) else show(effect)}" for effect in effects)
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    anew = replay(text)
    if os.environ.get(UPDATE) == "1":
        path.write_text(anew, encoding="utf-8")
        return
    assert anew == text, f"{path.name} differs; if that is meant, run with {UPDATE}=1 and read the difference"


def test_there_are_transcripts() -> None:
    assert len(list(FOLDER.glob("*.txt"))) >= 8
