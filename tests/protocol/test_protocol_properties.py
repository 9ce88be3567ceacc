"""Both machines under any order of events, restarts and a bad link: the invariants I1 to I4 and I9 of design §5."""

from __future__ import annotations

import heapq
import itertools
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from protocol_kit import (
    ENCODING,
    MAX_VALUE,
    MemoryStore,
    Server,
    check_in,
    evaluation,
    failure,
    training,
    unpack,
    update,
)

from edgefl.protocol import session_events as on
from edgefl.protocol.events import (
    AnswerCheckIn,
    DeviceCheckedIn,
    DeviceGone,
    Effect,
    ReportReceived,
    SaveCommit,
    SaveReport,
    SendReceipt,
    TaskCreated,
    TaskPaused,
    TaskResumed,
    TaskStatus,
    Ticked,
)
from edgefl.protocol.messages import Accepted, AlreadyAccepted, ClientUpdate, Late, ReleaseInfo, Report, RetryWindow
from edgefl.protocol.pace import CoordinatorConfig
from edgefl.protocol.session import SessionConfig, SessionMachine

DEVICES = tuple("abcde")

# ------------------------------------------------------------------------------------------------ any order of events


Move = tuple[str, str, int]
MOVES = st.lists(
    st.tuples(
        st.sampled_from(["checkin", "report", "report", "report", "stale", "fail", "gone", "tick", "pause", "restart"]),
        st.sampled_from(DEVICES),
        st.integers(-MAX_VALUE - 1, MAX_VALUE),
    ),
    max_size=80,
)


class Walk:
    """Plays moves against a server, and checks each receipt against the store."""

    def __init__(self, restarts: bool, clock: bool = True) -> None:
        self.server = Server(CoordinatorConfig(max_waiting=4))
        self.server.handle(TaskCreated(training(goal=3, minimum=2, over_selection=1.5, rounds=4), ""))
        self.now, self.token, self.restarts, self.clock = 0.0, 0, restarts, clock
        self.first: dict[tuple[str, int, str], int] = {}

    def play(self, moves: list[Move]) -> None:
        for kind, device, value in moves:
            self.token += 1
            getattr(self, f"_{kind}")(device, value)

    @property
    def run(self) -> Any:
        return self.server.coordinator._board.find("train")

    def _checkin(self, device: str, _: int) -> None:
        self.server.handle(DeviceCheckedIn(self.token, device, check_in()), self.now)

    def _report(self, device: str, value: int) -> None:
        self._send(device, value, self.run.round.round_num)

    def _stale(self, device: str, value: int) -> None:
        self._send(device, value, max(1, self.run.round.round_num - 1 - value % 3))

    def _send(self, device: str, value: int, round_num: int) -> None:
        base = self.run.ready.base.digest if self.run.ready is not None else ""
        effects = self.server.handle(
            ReportReceived(self.token, device, update(base, value, round_num=round_num)), self.now
        )
        (sent,) = [effect for effect in effects if isinstance(effect, SendReceipt)]
        key, saved = ("train", round_num, device), [e for e in effects if isinstance(e, SaveReport)]
        if isinstance(sent.receipt, Accepted):
            assert key not in self.first
            assert [e.sequence for e in saved] == [sent.receipt.sequence]
            self.first[key] = sent.receipt.sequence
        else:
            assert not saved
        if isinstance(sent.receipt, AlreadyAccepted):
            assert sent.receipt.sequence == self.first[key]
        if isinstance(sent.receipt, Late):
            assert key not in self.first

    def _fail(self, device: str, _: int) -> None:
        report = failure(round_num=self.run.round.round_num)
        self.server.handle(ReportReceived(self.token, device, report), self.now)

    def _gone(self, _: str, value: int) -> None:
        self.server.handle(DeviceGone(abs(value) % (self.token + 1)), self.now)

    def _tick(self, _: str, value: int) -> None:
        if self.clock:
            self.now += abs(value) / 20
            self.server.handle(Ticked(), self.now)
            deadline = self.server.coordinator.next_deadline()
            assert deadline is None or deadline > self.now, "a tick that is due again at once never ends"

    def _pause(self, _: str, __: int) -> None:
        if self.run.status is TaskStatus.RUNNING:
            self.server.handle(TaskPaused("train"), self.now)
        elif self.run.status is TaskStatus.PAUSED:
            self.server.handle(TaskResumed("train"), self.now)

    def _restart(self, _: str, __: int) -> None:
        """A restart loses who waits, and nothing else: they check in again (with or without one, to be comparable)."""
        waiting = [entry.device for entry in self.server.coordinator._room]
        if self.restarts:
            self.server.restart(self.now)
        self.play([("checkin", device, 0) for device in waiting])


def check_invariants(store: MemoryStore, task: str = "train") -> None:
    """I1, I2, I3 and I4, from what was persisted alone."""
    model, version = 0, 0
    for (name, round_num), commit in sorted(store.commits.items(), key=lambda item: item[0][1]):
        if name != task:
            continue
        accepted = sorted((seq, key[2]) for key, (seq, _) in store.ledger.items() if key[:2] == (task, round_num))
        assert commit.counted == tuple(device for _, device in accepted), "I2: each once, in ledger order"
        assert len(commit.counted) <= store.tasks[task].spec.round.goal
        model += sum(unpack(store.ledger[task, round_num, device][1].payload) for device in commit.counted)
        version += 1
        assert commit.state.version == version, "I4"
        assert unpack(commit.state.model) == model, "I3: what was abandoned is not in it"
    assert not store.commits.keys() & store.abandons.keys()


@given(MOVES)
@settings(max_examples=100, deadline=None)
def test_any_order_and_duplication_of_events_keeps_the_invariants(moves: list[Move]) -> None:
    walk = Walk(restarts=True)
    walk.play(moves)
    check_invariants(walk.server.store)
    assert {key: sequence for key, (sequence, _) in walk.server.store.ledger.items()} == walk.first, "I1"


@given(MOVES)
@settings(max_examples=60, deadline=None)
def test_a_restart_at_any_point_gives_the_same_bytes(moves: list[Move]) -> None:
    stores = []
    for restarts in (False, True):
        walk = Walk(restarts, clock=False)
        walk.play(moves)
        for _ in range(6):
            walk.play([("checkin", device, 0) for device in DEVICES])
            walk.play([("restart", "a", 0)])
            walk.play([("report", device, ord(device)) for device in DEVICES])
        stores.append(walk.server.store)
    plain, restarted = stores
    assert plain.ledger == restarted.ledger
    assert _without_times(plain.commits) == _without_times(restarted.commits)
    assert plain.tasks == restarted.tasks


def _without_times(commits: dict[Any, SaveCommit]) -> dict[Any, SaveCommit]:
    """How fast devices are is learned anew after a restart."""
    return {key: replace(commit, latency_shares=()) for key, commit in commits.items()}


# ------------------------------------------------------------------------------------------------ both ends, joined


@dataclass
class Device:
    """The agent's shell, in a few lines: a machine, a disk, and the calls that it has in flight."""

    name: str
    machine: SessionMachine
    life: int = 0
    timer: int = 0
    waits_for: int = 0
    outbox: Report | None = None
    last: tuple[str, int] = ("", 0)
    window: RetryWindow | None = None
    releases: dict[str, ReleaseInfo] = field(default_factory=dict)
    trained: int = 0


class Link:
    """Server and devices on one clock, with a link that loses what ``loss`` says, until ``faults_end``."""

    def __init__(self, seed: int, loss: float = 0.0, faults_end: float = 0.0, devices: int = 5) -> None:
        self.chance = random.Random(seed)
        self.loss, self.faults_end, self.now, self.count = loss, faults_end, 0.0, 0
        self.queue: list[tuple[float, int, Callable[[], None]]] = []
        self.server = Server()
        self.callers: dict[int, Device] = {}
        self.commit_times: list[float] = []
        config = SessionConfig(encodings=(ENCODING,), check_in_timeout_s=30.0, report_timeout_s=5.0, backoff_cap_s=10.0)
        self.devices = [Device(f"d{n}", SessionMachine(config, self.chance.uniform)) for n in range(devices)]
        self.config = config

    # The world -----------------------------------------------------------------------------------

    def later(self, delay_s: float, action: Callable[[], None]) -> None:
        self.count += 1
        heapq.heappush(self.queue, (self.now + delay_s, self.count, action))

    def lost(self) -> bool:
        return self.now < self.faults_end and self.chance.random() < self.loss

    def run(self, until: float, done: Callable[[], bool]) -> None:
        for device in self.devices:
            self.boot(device)
        if self.loss:
            self.later(5.0, self.trouble)
        while self.queue and self.now < until and not done():
            self.now, _, action = heapq.heappop(self.queue)
            action()

    def trouble(self) -> None:
        """kill -9 of somebody, every few seconds."""
        if self.now >= self.faults_end:
            return
        victim = self.chance.choice([None, *self.devices])
        if victim is None:
            # No call in flight is answered; the devices learn it by their timeouts.
            self.server_did(self.server.restart(self.now))
        else:
            self.boot(victim)
        self.later(self.chance.uniform(1.0, 8.0), self.trouble)

    # The server ----------------------------------------------------------------------------------

    def to_server(self, event: Any) -> None:
        self.server_did(self.server.handle(event, self.now))

    def server_did(self, effects: list[Effect]) -> None:
        commits = len(self.server.store.commits)
        while len(self.commit_times) < commits:
            self.commit_times.append(self.now)
        for effect in effects:
            if isinstance(effect, AnswerCheckIn):
                self.back(effect.token, on.CheckInAnswered(effect.answer))
            elif isinstance(effect, SendReceipt):
                self.back(effect.token, on.ReceiptReceived(effect.receipt, effect.retry))
        deadline = self.server.coordinator.next_deadline()
        if deadline is not None:
            assert deadline >= self.now
            self.later(deadline - self.now, self.tick)

    def tick(self) -> None:
        deadline = self.server.coordinator.next_deadline()
        if deadline is not None and deadline <= self.now:
            self.to_server(Ticked())

    # The link ------------------------------------------------------------------------------------

    def call(self, device: Device, timeout_s: float, make: Callable[[int], Any]) -> None:
        self.count += 1
        token = self.count
        self.callers[token] = device
        device.waits_for = token

        def timed_out() -> None:
            self.to_server(DeviceGone(token))
            self.answer(token, on.RpcFailed("no answer", transient=True))

        if not self.lost():
            self.later(self.chance.uniform(0.01, 0.1), lambda: self.to_server(make(token)))
        self.later(timeout_s, timed_out)

    def back(self, token: int, event: Any) -> None:
        if not self.lost():
            self.later(0.05, lambda: self.answer(token, event))

    def answer(self, token: int, event: Any) -> None:
        """Hand the outcome of a call to its device, if that still waits for it."""
        device = self.callers[token]
        if device.waits_for == token:
            device.waits_for = 0
            self.to_device(device, device.life, event)

    # The devices ---------------------------------------------------------------------------------

    def boot(self, device: Device) -> None:
        device.life += 1
        device.waits_for = 0
        device.machine = SessionMachine(self.config, self.chance.uniform)
        started = on.Started(device.outbox, *device.last, window=device.window)
        self.to_device(device, device.life, started)

    def to_device(self, device: Device, life: int, event: Any) -> None:
        if life == device.life:
            for effect in device.machine.handle(event, self.now):
                self.device_does(device, effect)

    def device_does(self, device: Device, effect: Any) -> None:
        life = device.life

        def soon(delay_s: float, event: Any) -> None:
            self.later(delay_s, lambda: self.to_device(device, life, event))

        match effect:
            case on.StartTimer(delay_s):
                device.timer += 1
                mine = device.timer
                self.later(delay_s, lambda: self.ring(device, life, mine))
            case on.StopTimer():
                device.timer += 1
            case on.SendCheckIn(last_task, last_round, timeout_s):
                hello = check_in(last_task=last_task, last_round=last_round, session=device.life)
                self.call(device, timeout_s, lambda token: DeviceCheckedIn(token, device.name, hello))
            case on.SendReport(report, timeout_s):
                self.call(device, timeout_s, lambda token: ReportReceived(token, device.name, report))
            case on.FetchModel():
                failed = on.RpcFailed("cut off", transient=True)
                soon(0.1, failed if self.lost() else on.ModelReady())
            case on.StartWork(job):
                value = sum(map(ord, device.name)) * 7 + job.round_num  # The same at every try, as training is.
                made = update(job.model_digest, value % MAX_VALUE, job.task, job.round_num)
                device.trained += 1
                soon(self.chance.uniform(0.5, 2.0), on.WorkDone(made))
            case on.SaveUpdate(made):
                device.outbox = made
                soon(0.02, on.UpdateSaved())
            case on.ClearOutbox(_, last_task, last_round, retry):
                device.outbox, device.last, device.window = None, (last_task, last_round), retry

    def ring(self, device: Device, life: int, timer: int) -> None:
        if timer == device.timer:
            self.to_device(device, life, on.TimerFired())


def completed(link: Link, *tasks: str) -> Callable[[], bool]:
    store = link.server.store
    return lambda: all(store.tasks[name].status is TaskStatus.COMPLETED for name in tasks)


def test_two_ends_on_a_good_link_finish_their_rounds() -> None:
    link = Link(seed=1)
    link.to_server(TaskCreated(training(goal=5, minimum=5, rounds=20), ""))
    link.to_server(TaskCreated(evaluation(goal=5, minimum=5, rounds=20), ""))
    link.run(until=300.0, done=completed(link, "train", "eval"))
    store = link.server.store
    assert len(store.commits) == 40
    assert not store.abandons
    assert all(len(commit.counted) == 5 for commit in store.commits.values())
    assert [device.trained for device in link.devices] == [40] * 5, "nothing was done twice"
    assert link.now < 150.0, "no round waited for a deadline"
    check_invariants(store)


@pytest.mark.parametrize("seed", range(12))
def test_two_ends_finish_in_spite_of_losses_and_kills(seed: int) -> None:
    """I1 to I4 throughout; I9: once the faults stop, a round commits within two deadlines."""
    link = Link(seed, loss=0.25, faults_end=200.0)
    spec = training(goal=4, minimum=2, over_selection=1.25, rounds=60, deadline_s=40.0)
    link.to_server(TaskCreated(spec, ""))
    link.run(until=2000.0, done=completed(link, "train"))
    store = link.server.store
    assert completed(link, "train")()
    check_invariants(store)
    quiet = [200.0, *(time for time in link.commit_times if time > 200.0)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(quiet)]
    assert max(gaps, default=0.0) < 2 * spec.round.deadline_s
    for (task, number, name), (_, made) in store.ledger.items():
        value = (sum(map(ord, name)) * 7 + number) % MAX_VALUE
        assert isinstance(made, ClientUpdate)
        assert replace(made, attempt=1) == update(made.base_model_digest, value, task, number), "I1: unaltered"
