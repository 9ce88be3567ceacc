"""Device memory: what the session decides, what the folder keeps over crashes, and a real agent."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import random
import struct
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from device_fleet import ScriptedFleet
from session_kit import CONFIG, JOB, WINDOW, answer, upper
from session_kit import UPDATE as REPORT
from test_device_agent import DIGEST, MODEL, NOW, answers, assignment, fill, run_device, stored, write_config
from test_device_state import UPDATE, Died, MortalOps, closed, reopen

from edgefl.errors import StorageError
from edgefl.faults.card import Card
from edgefl.learning.client import run_plan
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    CheckInAnswer,
    ClientUpdate,
    Fate,
    Late,
    Rejection,
    RoundKey,
    ScaffoldWork,
    TrainingWork,
)
from edgefl.protocol.session import SessionMachine
from edgefl.protocol.session_events import (
    AdoptMemory,
    CheckInAnswered,
    ClearOutbox,
    DropMemory,
    ModelReady,
    ReceiptReceived,
    RpcFailed,
    SaveAssignment,
    SendCheckIn,
    SendReport,
    SessionEffect,
    Started,
    TimerFired,
    UpdateSaved,
    WorkDone,
)
from edgefl.types import Examples
from edgefl_device.files import FileOps
from edgefl_device.state import StateDir, pack_outbox, unpack_outbox

KEY = RoundKey("train", 3)
OTHER = RoundKey("other", 8)
PROPOSING = replace(REPORT, memory=b"\0\0\x80\x3f" * 3)
assert isinstance(JOB.plan.work, TrainingWork)
SCAFFOLD = replace(JOB, round_num=4, plan=replace(JOB.plan, work=ScaffoldWork(JOB.plan.work)))


# ------------------------------------------------------------------------------------------------ the session


def proposed(*proposals: RoundKey) -> SessionMachine:
    """A session that has checked in with these proposals."""
    made = SessionMachine(CONFIG, upper)
    made.handle(Started(proposals=proposals), 0.0)
    made.handle(TimerFired(), 0.0)
    return made


def told(made: SessionMachine, fate: Fate, outcome: object = None) -> tuple[SessionEffect, ...]:
    outcome = Rejection("nothing") if outcome is None else outcome
    return made.handle(CheckInAnswered(CheckInAnswer(outcome, WINDOW, last_fate=fate)), 1.0)  # type: ignore[arg-type]


def test_an_accepted_update_proposes_its_memory_and_a_counted_one_is_adopted() -> None:
    made = SessionMachine(CONFIG, upper)
    job = replace(SCAFFOLD, round_num=3)
    for event in (Started(), TimerFired(), answer(job), ModelReady(), WorkDone(PROPOSING), UpdateSaved()):
        effects = made.handle(event, 1.0)
    assert effects[-1] == SendReport(PROPOSING, CONFIG.report_timeout_s)
    effects = made.handle(ReceiptReceived(Accepted(5), WINDOW), 2.0)
    assert effects[0] == ClearOutbox(Accepted(5), "train", 3, WINDOW, KEY)
    assert made.handle(TimerFired(), 3.0) == (SendCheckIn("train", 3, CONFIG.check_in_timeout_s),)
    assert told(made, Fate.COUNTED)[0] == AdoptMemory(KEY)
    assert made.state.proposals == ()
    assert (made.state.last_task, made.state.last_fate) == ("", Fate.COUNTED)


def test_what_was_not_accepted_proposes_nothing() -> None:
    made = SessionMachine(CONFIG, upper)
    made.handle(Started(outbox=PROPOSING), 0.0)
    assert made.handle(ReceiptReceived(Late(), WINDOW), 1.0)[0] == ClearOutbox(Late(), "", 0, WINDOW)
    assert made.state.proposals == ()


def test_what_may_have_been_accepted_is_asked_for() -> None:
    """The first try arrived, and its answer got lost; the second is refused for good, because the device is."""
    made = SessionMachine(CONFIG, upper)
    made.handle(Started(outbox=PROPOSING), 0.0)
    made.handle(RpcFailed("the link broke", transient=True), 1.0)
    made.handle(TimerFired(), 2.0)
    effects = made.handle(RpcFailed("no such device", transient=False), 3.0)
    assert effects[0] == ClearOutbox(None, "", 0, None, KEY)
    assert made.handle(TimerFired(), 4.0) == (SendCheckIn("train", 3, CONFIG.check_in_timeout_s),)
    assert told(made, Fate.COUNTED)[0] == AdoptMemory(KEY)


def test_an_update_found_after_a_crash_proposes_its_memory_too() -> None:
    made = SessionMachine(CONFIG, upper)
    made.handle(Started(outbox=PROPOSING), 0.0)
    receipt = AlreadyAccepted(5)
    assert made.handle(ReceiptReceived(receipt, WINDOW), 1.0)[0] == ClearOutbox(receipt, "train", 3, WINDOW, KEY)


def test_a_round_that_did_not_count_the_device_drops_the_proposal() -> None:
    made = proposed(KEY)
    assert told(made, Fate.NOT_COUNTED)[0] == DropMemory(KEY)
    assert made.state.proposals == ()


def test_open_proposals_are_asked_for_in_turn() -> None:
    made = proposed(KEY, OTHER)
    asked = []
    for fate in (Fate.OPEN, Fate.OPEN, Fate.COUNTED, Fate.OPEN):
        told(made, fate)
        (effect,) = made.handle(TimerFired(), 2.0)
        assert isinstance(effect, SendCheckIn)
        asked.append(effect.last_task)
    assert asked == ["other", "train", "other", "other"]


def test_the_fate_comes_before_the_work_that_needs_it() -> None:
    made = proposed(KEY)
    effects = told(made, Fate.COUNTED, SCAFFOLD)
    assert effects[0] == AdoptMemory(KEY)
    assert isinstance(effects[1], SaveAssignment)


def test_no_work_on_a_task_whose_proposal_was_not_asked_for() -> None:
    made = proposed(OTHER, KEY)
    (effect,) = told(made, Fate.OPEN, SCAFFOLD)
    assert isinstance(effect, SendReport)
    assert "what became of round 3 is not known yet" in str(effect.report)
    assert made.state.proposals == (KEY, OTHER)


def test_a_round_that_the_server_has_forgotten_is_dropped_when_a_later_one_begins() -> None:
    made = proposed(KEY)
    effects = told(made, Fate.OPEN, SCAFFOLD)
    assert effects[0] == DropMemory(KEY)
    assert isinstance(effects[1], SaveAssignment)
    assert made.state.proposals == ()


def test_other_work_does_not_wait_for_a_proposal() -> None:
    made = proposed(KEY)
    effects = told(made, Fate.OPEN, replace(JOB, round_num=4))
    assert isinstance(effects[0], SaveAssignment)
    assert made.state.proposals == (KEY,)


# ------------------------------------------------------------------------------------------------ the folder

WITH_MEMORY = replace(UPDATE, memory=struct.pack("<3f", 1.5, -2.0, 0.25))
NEXT = replace(WITH_MEMORY, round_num=4, memory=bytes(12))
SHOULDER = RoundKey("shoulder", 3)


def own(state: StateDir, round_num: int = 9) -> bytes:
    """What the device works with in ``round_num``."""
    return state.memory.load("shoulder", round_num, 12)


def test_memory_is_in_the_outbox_and_then_proposed_and_then_the_devices_own(tmp_path: Path) -> None:
    state = reopen(tmp_path)
    assert own(state) == b""
    state.save_update(WITH_MEMORY)
    assert closed(state).memory.proposals() == ()
    state = reopen(tmp_path)
    assert state.found_outbox == WITH_MEMORY
    state.clear_outbox(SHOULDER)
    assert own(closed(state)) == b""
    state = reopen(tmp_path)
    assert (state.found_outbox, state.memory.proposals()) == (None, (SHOULDER,))
    state.memory.adopt("shoulder")
    assert closed(state).memory.proposals() == ()
    assert own(closed(reopen(tmp_path))) == WITH_MEMORY.memory


def test_a_dropped_proposal_leaves_the_devices_own(tmp_path: Path) -> None:
    state = reopen(tmp_path)
    state.save_update(WITH_MEMORY)
    state.clear_outbox(SHOULDER)
    state.memory.adopt("shoulder")
    state.save_update(NEXT)
    state.clear_outbox(RoundKey("shoulder", 4))
    state.memory.drop("shoulder")
    assert closed(state).memory.proposals() == ()
    assert own(state) == WITH_MEMORY.memory


@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("lives", range(8))
def test_no_crash_loses_memory_or_adopts_it_twice(tmp_path: Path, lives: int, cut: bool) -> None:
    """Whatever step the device dies at, asking again leads to the memory of the round that counted."""
    closed(reopen(tmp_path))
    ops = MortalOps()
    state = StateDir.open(tmp_path, "pi-01", ops)
    ops.lives = len(ops.steps) + lives
    with contextlib.suppress(Died):
        state.save_update(WITH_MEMORY)
        state.clear_outbox(SHOULDER)
        state.memory.adopt("shoulder")
    closed(state)
    if cut:
        ops.power_cut()
    state = reopen(tmp_path)
    if state.found_outbox is not None:  # reported again, and ALREADY_ACCEPTED
        assert state.found_outbox == WITH_MEMORY
        state.clear_outbox(SHOULDER)
    if state.memory.proposals():
        state.memory.adopt("shoulder")
    durable = lives >= 4  # write, sync, rename, sync of the folder
    assert own(state) in ((WITH_MEMORY.memory,) if durable else (WITH_MEMORY.memory, b""))
    closed(state)


class ForgetfulCard(Card):
    """A power cut takes every change of names whose folder was not synced."""

    def __init__(self) -> None:
        super().__init__(lambda _: None, KeepsNothing())


class KeepsNothing(random.Random):
    def randrange(self, *_: int) -> int:  # type: ignore[override]
        return 0


def counted(state: StateDir, update: ClientUpdate) -> None:
    """A whole round that counts the device."""
    state.save_update(update)
    state.clear_outbox(RoundKey(update.task, update.round_num))
    state.memory.adopt(update.task)


def test_no_power_cut_takes_memory_that_the_next_outbox_followed(tmp_path: Path) -> None:
    """The folders are synced apart: an outbox that is durable does not make what came before it so."""
    card = ForgetfulCard()
    state = StateDir.open(tmp_path, "pi-01", card)
    counted(state, WITH_MEMORY)
    state.save_update(NEXT)
    closed(state)
    card.power_cut()
    state = StateDir.open(tmp_path, "pi-01", card)
    assert (state.found_outbox, own(closed(state))) == (NEXT, WITH_MEMORY.memory)


def test_no_restart_and_power_cut_take_a_proposal(tmp_path: Path) -> None:
    """The session counter is synced at a start, and with it that the outbox is gone."""
    card = ForgetfulCard()
    state = StateDir.open(tmp_path, "pi-01", card)
    state.save_update(WITH_MEMORY)
    state.clear_outbox(SHOULDER)
    closed(state)
    closed(StateDir.open(tmp_path, "pi-01", card))
    card.power_cut()
    assert closed(StateDir.open(tmp_path, "pi-01", card)).memory.proposals() == (SHOULDER,)


class FullCard(FileOps):
    """No rename into ``variates`` succeeds while ``full``."""

    full = True

    def replace(self, source: Path, target: Path) -> None:
        if self.full and target.parent.name == "variates":
            raise OSError(errno.ENOSPC, "No space left on device")
        super().replace(source, target)


def test_a_step_that_failed_comes_before_all_that_would_overtake_it(tmp_path: Path) -> None:
    ops = FullCard()
    state = StateDir.open(tmp_path, "pi-01", ops)
    state.save_update(WITH_MEMORY)
    for step in (
        lambda: state.clear_outbox(SHOULDER),
        lambda: state.memory.adopt("shoulder"),
        lambda: own(state),
        lambda: state.save_update(NEXT),
        lambda: state.clear_outbox(),
    ):
        with pytest.raises(StorageError, match="No space left"):
            step()
    assert unpack_outbox((tmp_path / "outbox").read_bytes())[0] == WITH_MEMORY
    ops.full = False
    assert own(state) == WITH_MEMORY.memory
    state.save_update(NEXT)
    assert closed(state).memory.proposals() == ()


def test_a_step_whose_file_somebody_removed_is_given_up(tmp_path: Path) -> None:
    state = reopen(tmp_path)
    state.save_update(WITH_MEMORY)
    (tmp_path / "outbox").unlink()
    with pytest.raises(StorageError, match="No such file"):
        state.clear_outbox(SHOULDER)
    assert own(closed(state)) == b""


@pytest.mark.parametrize(("round_num", "size"), [(3, 12), (2, 12), (4, 16)])
def test_memory_of_another_servers_task_is_none(
    tmp_path: Path, round_num: int, size: int, caplog: pytest.LogCaptureFixture
) -> None:
    """A new server counts its rounds from 1 again, and may know another task by the same name."""
    state = reopen(tmp_path)
    counted(state, WITH_MEMORY)
    assert own(state, 4) == WITH_MEMORY.memory
    assert closed(state).memory.load("shoulder", round_num, size) == b""
    assert "another task of that name" in caplog.text


def test_a_file_that_cannot_be_used_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "variates"
    folder.mkdir()
    (folder / "shoulder.adopted").write_bytes(pack_outbox(WITH_MEMORY, 1)[:-1] + b"x")
    (folder / "shoulder.proposed").write_bytes(b"")
    state = closed(reopen(tmp_path))
    assert own(state) == b""
    assert state.memory.proposals() == ()
    assert sorted(file.name for file in folder.iterdir()) == ["shoulder.adopted.corrupt", "shoulder.proposed.corrupt"]
    assert caplog.text.count("the agent goes on without it") == 2


def test_an_outbox_of_the_version_before_is_read(tmp_path: Path) -> None:
    """It has no memory; one of a version to come is refused."""
    raw = pack_outbox(UPDATE, 7)
    old = raw[:4] + b"\1" + raw[5 : -32 - 4]
    old += hashlib.sha256(old).digest()
    assert unpack_outbox(old) == (UPDATE, 7)
    for index in range(0, len(raw), 7):
        with pytest.raises(StorageError):
            unpack_outbox(raw[:index] + bytes([raw[index] ^ 0x40]) + raw[index + 1 :])
    newer = raw[:4] + b"\3" + raw[5:]
    with pytest.raises(StorageError, match="version 3; expected"):
        unpack_outbox(newer)
    (tmp_path / "outbox").write_bytes(old)
    assert closed(reopen(tmp_path)).found_outbox == UPDATE


# ------------------------------------------------------------------------------------------------ a real agent


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    server = ScriptedFleet()
    yield server
    server.stop()


def test_an_agent_corrects_by_the_memory_that_counted(tmp_path: Path, fleet: ScriptedFleet) -> None:
    """Two rounds by real gRPC and a restart between: the second starts from what the first left on the card."""
    config = write_config(tmp_path, fleet.address)
    fill(config)
    plain = assignment(MODEL, DIGEST, epochs=3)
    assert isinstance(plain.plan.work, TrainingWork)
    content = MODEL + struct.pack("<f", 0.01) * (len(MODEL) // 4)
    digest = hashlib.sha256(content).hexdigest()
    fleet.content[bytes.fromhex(digest)] = content
    plan = replace(plain.plan, work=ScaffoldWork(plain.plan.work))
    first = replace(plain, plan=plan, model_digest=digest, model_size_bytes=len(content))
    second = replace(first, round_num=2)
    answers(fleet, CheckInAnswer(first, NOW), CheckInAnswer(second, NOW, last_fate=Fate.COUNTED))
    none = Examples(4, b"", b"")
    for _ in range(2):
        assert run_device("run", "--config", str(config), "--once") == 0
    one = run_plan(first, content, stored(config), none, "pi-01")
    assert isinstance(one, ClientUpdate)
    two = run_plan(second, content, stored(config), none, "pi-01", memory=one.memory)
    assert isinstance(two, ClientUpdate)
    assert fleet.reports == [replace(one, memory=b""), replace(two, memory=b"")]
    without = run_plan(second, content, stored(config), none, "pi-01")
    assert isinstance(without, ClientUpdate)
    assert without.payload != two.payload
    assert (fleet.check_ins[1].last_task, fleet.check_ins[1].last_round) == ("shoulder", 1)
    assert "scaffold" in fleet.check_ins[0].kinds
