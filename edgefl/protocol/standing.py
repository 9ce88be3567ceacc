"""Why nothing happens: what each task waits for, what went wrong on it, and where each device is. For people.

A task that waits for devices says how many are missing of how many, and what keeps the others: "waiting for 1 of 2
devices; 3 known: 1 waits, 1 not seen for 3 min, 1 with 5 features (expected 75)". Operators read it in ``task list``,
``rounds`` and the log, and a device that was told to come back reads it in its status.

Invariants: texts change no decision. A log line comes once when a wait begins, and seldom after; the text of a task is
computed seldom, because it looks at every device of the population.
"""

from __future__ import annotations

import enum
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, replace

from edgefl.protocol.devices import Known, KnownDevices
from edgefl.protocol.events import FINAL, DeviceRecord, Effect, Notice, Phase, PublishRound, RoundSummary, TaskStatus
from edgefl.protocol.failures import told
from edgefl.protocol.fitness import agent_lack, lack
from edgefl.protocol.messages import RoundKey
from edgefl.protocol.taskboard import TaskBoard, TaskRun
from edgefl.protocol.waiting import WaitingRoom
from edgefl.wording import near_name, span

NOTICE_S = 5.0
"""A wait that is shorter is the normal one between two rounds, and is not told."""

SHOW_S = 10.0
"""A text is computed anew so often at most, when who waits has changed."""

LOG_S = 600.0
"""The least time between two log lines of one task."""

REPEAT_S = 3600.0
"""A wait that does not change is logged so often, so that a log of one day shows it."""

COMING = "about to come back"

MAX_REASONS = 5
"""Kinds of reasons in a text; the frequent ones come first."""

MAX_SILENT = 3
"""Devices that a text names when a round waits for their reports."""

TEXT_LENGTH = 400
"""Characters of a text: with what stands around it, it stays within what travels (``edgefl.wire.limits``)."""


class DeviceState(enum.Enum):
    """WAITING: its check-in waits. WORKING: for a round. IDLE: it may still come back in time. AWAY: it did not."""

    WAITING = "waiting"
    WORKING = "working"
    IDLE = "idle"
    AWAY = "away"


@dataclass(frozen=True)
class DeviceView:
    """A device as people watch it. ``works_for`` is None unless it is WORKING; ``twins``: two agents use its name."""

    record: DeviceRecord
    state: DeviceState
    works_for: RoundKey | None = None
    twins: bool = False


class Standings:
    """Reads board, devices and waiting room; its own memory is ``TaskRun.wait`` and the names used twice."""

    def __init__(self, board: TaskBoard, devices: KnownDevices, room: WaitingRoom) -> None:
        self._board = board
        self._devices = devices
        self._room = room
        self._twins_told: dict[str, float] = {}

    # ------------------------------------------------------------------------------------------ what tasks wait for

    def waiting(self, run: TaskRun, now: float) -> str:
        """What ``run`` waits for; '' when it waits for nothing: a round began just now, or an operator holds it."""
        state = run.round
        if run.status is not TaskStatus.RUNNING:
            return ""
        if state.phase is Phase.COLLECTING:
            text = self._reports(run, now)
            return _cut(f"{text}; no answer yet from {self._silent(run, now)}") if text else ""
        if state.phase is not Phase.OPEN:
            return ""
        if run.ready is None:
            return self._dependency(run)
        if now < run.not_before:
            held = run.setbacks
            rounds = "1 round was" if held.abandoned == 1 else f"{held.abandoned} rounds in a row were"
            return _cut(f"waiting {span(run.not_before - now + 1)}: {rounds} abandoned; the last: {held.reason}")
        present, minimum, pool = len(run.candidates), state.spec.minimum, state.spec.pool_size
        if present >= pool:
            return "waiting for its turn: another task has its devices"
        if present < minimum:
            text = f"waiting for {minimum - present} of {_devices(minimum)}"
        else:
            began = now if state.waiting_since is None else state.waiting_since
            left = max(0.0, began + state.spec.selection_s - now)
            text = f"waiting for {pool - present} of {_devices(pool)}; in {span(left)} the round goes on without"
        return _cut(f"{text}; {self._known(run, now)}")

    def trouble(self, run: TaskRun, now: float) -> str:
        """What went wrong in the last round that ended, and which names two agents use; '' for nothing."""
        parts = [f"the name {name} is used by two agents" for name in self.twins(run.spec.population, now)]
        last = run.ended[-1] if run.ended else None
        if last is not None and last.failures:
            parts.append(f"round {last.round_num}: {told(last.failures)}")
        return _cut("; ".join(parts))

    def population(self, population: str, now: float) -> str:
        """What the tasks of a population wait for, for a device of it that no round took."""
        texts = [
            f"task {run.name} is {text}" if text.startswith("waiting") else f"task {run.name}: {text}"
            for run in self._board
            if run.spec.population == population and (text := self._shown(run, now))
        ]
        return _cut("; ".join(texts)) or "no round took this device; it may wait again"

    def summaries(self, now: float) -> Iterator[RoundSummary]:
        """The last rounds of each task, the present one last."""
        for run in self._board:
            yield from (state.summary for state in run.ended)
            if run.status in FINAL and run.round.phase is Phase.OPEN:
                continue
            yield replace(run.round.summary, waiting=self.waiting(run, now))

    # ------------------------------------------------------------------------------------------ what is told, and when

    def look(self, now: float) -> list[Effect]:
        """After each event: what a person who watches, or the log, is to be told of waiting tasks."""
        effects: list[Effect] = []
        for run in self._board:
            wait = run.wait
            if run.status is not TaskStatus.RUNNING or run.ready is None or run.round.phase is not Phase.OPEN:
                wait.since = None
                continue
            if wait.since is None:
                wait.since, wait.next_at, wait.text = now, now + NOTICE_S, ""
            changed = wait.text and len(run.candidates) != wait.present and now >= wait.told_at + SHOW_S
            if now >= wait.next_at or changed:
                effects.extend(self._tell(run, now))
        return effects

    def next_at(self) -> float | None:
        """When ``look`` has something to say at the latest."""
        times = [run.wait.next_at for run in self._board if run.wait.since is not None]
        return min(times, default=None)

    def note_twins(self, known: Known, now: float) -> list[Effect]:
        """``known`` has just checked in: say when its name is used twice."""
        device = known.record.device
        if known.twins_at != now or now < self._twins_told.get(device, -REPEAT_S) + REPEAT_S:
            return []
        self._twins_told[device] = now
        return [
            Notice(
                f"device {device}: two agents use this name, and each takes the other's place; stop one of them, or "
                "give it a name and a state_dir of its own"
            )
        ]

    def _tell(self, run: TaskRun, now: float) -> Iterator[Effect]:
        wait = run.wait
        wait.text, wait.told_at, wait.present = self.waiting(run, now), now, len(run.candidates)
        since = now if wait.since is None else wait.since
        wait.next_at = now + min(max(now - since, NOTICE_S), REPEAT_S)
        yield PublishRound(replace(run.round.summary, waiting=wait.text))
        form = _form(wait.text)
        due = LOG_S if form != wait.logged_form else REPEAT_S
        if wait.logged_at is None or now >= wait.logged_at + due:
            wait.logged_form, wait.logged_at = form, now
            yield Notice(f"task {run.name} round {run.round.round_num}: {wait.text}")

    def _shown(self, run: TaskRun, now: float) -> str:
        """The text that was computed last while it is fresh: a crowd that is sent away must not cost a text each."""
        if run.round.phase is Phase.COLLECTING:
            return self._reports(run, now)
        wait = run.wait
        fresh = wait.since is not None and wait.text and now < wait.told_at + SHOW_S
        return wait.text if fresh else self.waiting(run, now)

    # ------------------------------------------------------------------------------------------ devices

    def view(self, known: Known, now: float) -> DeviceView:
        key = self._works_for(known.record.device)
        state, record = self._state(known, key, now), known.described(now)
        if state is DeviceState.WAITING:
            record = replace(record, seen_ago_s=0.0)  # its call is open
        return DeviceView(record, state, key, known.twins(now))

    def twins(self, population: str, now: float) -> list[str]:
        return [name for name, known in self._devices.population(population).items() if known.twins(now)]

    def _works_for(self, device: str) -> RoundKey | None:
        for run in self._board:
            if run.round.awaits(device):
                return RoundKey(run.name, run.round.round_num)
        return None

    def _state(self, known: Known, works_for: RoundKey | None, now: float) -> DeviceState:
        if self._room.waits(known.record.device):
            return DeviceState.WAITING
        if works_for is not None:
            return DeviceState.WORKING
        return DeviceState.AWAY if now > known.expected_by else DeviceState.IDLE

    # -------------------------------------------------------------------------------------------- privately

    def _reports(self, run: TaskRun, now: float) -> str:
        """What a collecting round waits for; '' while it is young, as most rounds are that go well."""
        state = run.round
        if state.selected_at is not None and now < state.selected_at + NOTICE_S:
            return ""
        wanted = min(state.spec.goal, len(state.cohort))
        left = f"waiting for {wanted - len(state.accepted)} of {wanted} reports of round {state.round_num}"
        return f"{left}; its deadline is in {span(state.deadline_at - now)}"

    def _silent(self, run: TaskRun, now: float) -> str:
        """The members of a round that have not answered: some of their names, and when they were last seen."""
        state = run.round
        silent = [device for device in state.cohort if state.awaits(device)]
        parts = []
        for device in silent[:MAX_SILENT]:
            known = self._devices.find(device)
            seen_at = None if known is None else known.seen_at
            parts.append(device if seen_at is None else f"{device} (last seen {span(now - seen_at)} ago)")
        more = [f"{len(silent) - MAX_SILENT} others"] if len(silent) > MAX_SILENT else []
        return ", ".join(parts + more)

    def _dependency(self, run: TaskRun) -> str:
        other = self._board.find(run.depends_on)
        if other is None:
            return ""
        status = other.status.value
        if run.spec.evaluates:
            return f"waiting for version {self._board.reads(run)} of task {other.name}, which is {status}"
        return f"waiting for the result of task {other.name}, which is {status}"

    def _known(self, run: TaskRun, now: float) -> str:
        """Where the known devices of the population are, and what keeps those that do not wait from waiting."""
        devices = self._devices.population(run.spec.population)
        if not devices:
            hint = near_name(run.spec.population, self._devices.populations())
            return f"no device of population {run.spec.population} has checked in yet{hint}"
        reasons: Counter[str] = Counter()
        missing: list[float] = []
        for name, known in devices.items():
            if name in run.candidates:
                reasons["waiting"] += 1
            elif reason := self._obstacle(run, known):
                reasons[reason] += 1
            elif (key := self._works_for(name)) is not None:
                reasons[f"working for task {key.task}"] += 1
            elif now > known.expected_by:
                missing.append(0.0 if known.seen_at is None else now - known.seen_at)
            else:
                reasons[COMING] += 1
        present = reasons.pop("waiting", 0)
        parts = [f"{present} waiting"] if present else []
        if missing:
            least, most = span(min(missing)), span(max(missing))
            parts.append(f"{len(missing)} not seen for {least if least == most else f'{least} to {most}'}")
        parts += [f"{count} {reason}" for reason, count in reasons.most_common()]
        if len(parts) > MAX_REASONS:
            parts = [*parts[:MAX_REASONS], "..."]
        twins = [f"{name} runs twice" for name in self.twins(run.spec.population, now)]
        head = "1 known device" if len(devices) == 1 else f"{len(devices)} known devices"
        return f"{head}: {', '.join(parts + twins)}"

    def _obstacle(self, run: TaskRun, known: Known) -> str:
        reason = lack(run.needs, known.record)
        if not reason and known.abilities is not None:
            reason = agent_lack(run.needs, run.plan, *known.abilities)
        return f"with {reason}" if reason else ""


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _cut(text: str) -> str:
    return text if len(text) <= TEXT_LENGTH else f"{text[:TEXT_LENGTH]}..."


def _form(text: str) -> str:
    """What ``text`` says of obstacles, without numbers: two of one form say the same thing at two times."""
    parts = re.split(r"[,;:] ", re.sub(r"\d+( (s|min|h|days))?", "#", text))
    return ", ".join(sorted({*parts} - {"# waiting", f"# {COMING}"}))
