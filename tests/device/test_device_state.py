"""The device's state over crashes, power cuts and damage: session counter, outbox, notes, cache, releases."""

from __future__ import annotations

import errno
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from edgefl.errors import ConfigError, FencedError, NotFoundError, StorageError, VerificationError
from edgefl.protocol.messages import ClientUpdate, ReleaseInfo
from edgefl_device.content import ModelCache, ReleaseStore
from edgefl_device.files import FileOps
from edgefl_device.state import Notes, StateDir, agent_is_running, pack_outbox, unpack_outbox
from edgefl_device.status import REFRESH_S, Status, StatusFile, read_status

UPDATE = ClientUpdate("shoulder", 3, "ab" * 32, "float32", bytes(range(256)) * 4, 17, 34, 20, -5)


class Died(Exception):
    """The process ended here."""


class MortalOps(FileOps):
    """Real files, a process that dies before step ``lives``, and a power cut that takes what was not synced.

    What a power cut may take: the content of files that were not synced, and renames in folders that were not synced.
    """

    def __init__(self, lives: int = 1000) -> None:
        self.lives = lives
        self.steps: list[str] = []
        self._unsynced: set[Path] = set()
        self._renames: list[tuple[Path, Path, bytes | None]] = []

    def write(self, path: Path, data: bytes) -> None:
        self._step("write", path)
        super().write(path, data)
        self._unsynced.add(path)

    def sync_file(self, path: Path) -> None:
        self._step("sync_file", path)
        self._unsynced.discard(path)

    def replace(self, source: Path, target: Path) -> None:
        self._step("replace", target)
        self._renames.append((source, target, target.read_bytes() if target.exists() else None))
        super().replace(source, target)
        if source in self._unsynced:
            self._unsynced.discard(source)
            self._unsynced.add(target)
        else:
            self._unsynced.discard(target)

    def sync_dir(self, path: Path) -> None:
        self._step("sync_dir", path)
        self._renames = [rename for rename in self._renames if rename[1].parent != path]

    def unlink(self, path: Path) -> None:
        self._step("unlink", path)
        super().unlink(path)

    def power_cut(self) -> None:
        for path in self._unsynced:
            path.write_bytes(b"")
        for source, target, old in reversed(self._renames):
            target.rename(source)
            if old is not None:
                target.write_bytes(old)

    def _step(self, name: str, path: Path) -> None:
        if len(self.steps) == self.lives:
            raise Died
        self.steps.append(f"{name} {path.name}")


def reopen(folder: Path) -> StateDir:
    return StateDir.open(folder, "pi-01")


def closed(state: StateDir) -> StateDir:
    state.close()
    return state


# session


def test_the_session_counter_grows_at_each_start(tmp_path: Path) -> None:
    assert [closed(reopen(tmp_path)).session for _ in range(3)] == [1, 2, 3]


@pytest.mark.parametrize("lives", range(5))
@pytest.mark.parametrize("cut", [False, True])
def test_no_crash_at_the_start_makes_the_counter_fall(tmp_path: Path, lives: int, cut: bool) -> None:
    closed(reopen(tmp_path))
    ops = MortalOps(lives)
    died = False
    try:
        closed(StateDir.open(tmp_path, "pi-01", ops))
    except Died:
        died = True
    assert died == (lives < 4)
    if cut:
        ops.power_cut()
    assert closed(reopen(tmp_path)).session in ((2, 3) if died else (3,))


def test_a_damaged_counter_is_put_aside_and_still_grows(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for _ in range(4):
        closed(reopen(tmp_path))
    state = reopen(tmp_path)
    state.save_update(UPDATE)  # the outbox remembers the session too
    state.close()
    (tmp_path / "session").write_bytes(b"\0" * 80)
    assert closed(reopen(tmp_path)).session == 6
    assert "session cannot be used" in caplog.text
    assert (tmp_path / "session.corrupt").exists()


def test_a_folder_belongs_to_one_device_and_one_agent(tmp_path: Path) -> None:
    state = reopen(tmp_path)
    assert agent_is_running(tmp_path)
    with pytest.raises(FencedError, match="in use by another agent"):
        reopen(tmp_path)
    state.close()
    assert not agent_is_running(tmp_path)
    with pytest.raises(ConfigError, match="belongs to device 'pi-01'; the configuration says 'pi-02'"):
        StateDir.open(tmp_path, "pi-02")
    closed(reopen(tmp_path))  # the refusal gave the lock back


# outbox


def test_a_saved_update_comes_back_whole(tmp_path: Path) -> None:
    state = reopen(tmp_path)
    assert state.found_outbox is None
    state.save_update(UPDATE)
    state.close()
    state = reopen(tmp_path)
    assert state.found_outbox == UPDATE
    state.clear_outbox()
    state.close()
    assert closed(reopen(tmp_path)).found_outbox is None


@pytest.mark.parametrize("lives", range(5))
@pytest.mark.parametrize("cut", [False, True])
@pytest.mark.parametrize("before", [False, True])
def test_the_outbox_survives_the_end_of_the_process_between_every_two_steps(
    tmp_path: Path, lives: int, cut: bool, before: bool, caplog: pytest.LogCaptureFixture
) -> None:
    earlier = ClientUpdate("shoulder", 2, "cd" * 32, "float32", b"\1" * 99, 1, 1, 1, 1)
    state = reopen(tmp_path)
    if before:
        state.save_update(earlier)
    state.close()
    ops = MortalOps()
    state = StateDir.open(tmp_path, "pi-01", ops)
    ops.lives = len(ops.steps) + lives
    died = False
    try:
        state.save_update(UPDATE)
    except Died:
        died = True
    state.close()
    assert died == (lives < 4)
    assert (
        ops.steps[4:]
        == ["write outbox.tmp", "sync_file outbox.tmp", "replace outbox", f"sync_dir {tmp_path.name}"][:lives]
    )
    if cut:
        ops.power_cut()
    found = closed(reopen(tmp_path)).found_outbox
    assert found in ((earlier if before else None, UPDATE) if died else (UPDATE,))
    assert "cannot be used" not in caplog.text


@pytest.mark.parametrize(
    "damage",
    [
        lambda _raw: b"",
        lambda raw: raw[:-1],
        lambda raw: raw + b"\0",
        lambda raw: raw[:100] + bytes([raw[100] ^ 1]) + raw[101:],
        lambda raw: b"EFLX" + raw[4:],
        lambda raw: b"\0" * len(raw),
        lambda _raw: b"x" * 20 + hashlib.sha256(b"x" * 20).digest(),
    ],
)
def test_a_damaged_outbox_is_put_aside(
    tmp_path: Path, damage: Callable[[bytes], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    state = reopen(tmp_path)
    state.save_update(UPDATE)
    state.close()
    path = tmp_path / "outbox"
    path.write_bytes(damage(path.read_bytes()))
    assert closed(reopen(tmp_path)).found_outbox is None
    assert caplog.text.count("outbox cannot be used") == 1
    assert (tmp_path / "outbox.corrupt").exists()
    assert closed(reopen(tmp_path)).found_outbox is None
    assert caplog.text.count("cannot be used") == 1  # told once, not at each start


def test_every_bit_of_the_outbox_is_under_its_checksum() -> None:
    raw = pack_outbox(UPDATE, 7)
    assert unpack_outbox(raw) == (UPDATE, 7)
    for index in range(len(raw)):
        with pytest.raises(StorageError):
            unpack_outbox(raw[:index] + bytes([raw[index] ^ 0x40]) + raw[index + 1 :])


# notes


def test_notes_come_back_and_are_not_written_again_unchanged(tmp_path: Path) -> None:
    ops = MortalOps()
    state = StateDir.open(tmp_path, "pi-01", ops)
    notes = Notes(session=1, task="t", round_num=4, starts=1, last_task="s", last_round=2, window_max_s=3.5)
    state.note(notes)
    count = len(ops.steps)
    state.note(notes)
    assert ops.steps[count:] == []
    assert [step for step in ops.steps[4:] if step.startswith("sync")] == []  # unsynced
    state.close()
    assert closed(reopen(tmp_path)).notes == notes


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'{"version": 1, "sha256": "", "body": {}}'])
def test_damaged_notes_are_put_aside(tmp_path: Path, content: bytes, caplog: pytest.LogCaptureFixture) -> None:
    tmp_path.joinpath("notes.json").write_bytes(content)
    assert closed(reopen(tmp_path)).notes == Notes()
    assert "notes.json cannot be used" in caplog.text


# models and releases


def serve(content: bytes) -> Callable[[str, int, Path], None]:
    return lambda _digest, _size, part: part.write_bytes(content) and None


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def never(_digest: str, _size: int, _part: Path) -> None:
    raise AssertionError("fetched although it is there")


def test_a_cached_model_is_verified_before_use(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models")
    cache.ensure(digest(b"one"), 3, serve(b"one"))
    cache.ensure(digest(b"one"), 3, never)
    assert cache.read(digest(b"one")) == b"one"
    (tmp_path / "models" / digest(b"one")).write_bytes(b"two")
    assert cache.read(digest(b"one")) is None
    cache.ensure(digest(b"one"), 3, serve(b"one"))
    assert cache.read(digest(b"one")) == b"one"
    with pytest.raises(VerificationError, match="expected at most"):
        cache.ensure(digest(b"big"), 1 << 40, never)


def test_the_cache_keeps_two_models_and_no_foreign_part(tmp_path: Path) -> None:
    cache = ModelCache(tmp_path / "models")
    (tmp_path / "models" / "old.part").write_bytes(b"x")
    for content in (b"1", b"2", b"3"):
        cache.ensure(digest(content), 1, serve(content))
    assert {p.name for p in (tmp_path / "models").iterdir()} == {digest(b"2"), digest(b"3")}


def info(version: int, content: bytes, name: str = "watch") -> ReleaseInfo:
    return ReleaseInfo(name, version, digest(content), len(content))


def test_a_release_is_swapped_in_and_its_version_never_falls(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    store.install(info(1, b"first"), serve(b"first"))
    store.install(info(5, b"fifth"), serve(b"fifth"))
    assert store.read(store.get("watch")) == b"fifth"
    for version in (5, 4, 1):
        with pytest.raises(ConfigError, match=f"version {version} is not above 5"):
            store.install(info(version, b"other"), never)
    assert [r.info.version for r in store.installed()] == [5]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["watch-5.tflite", "watch.json"]


@pytest.mark.parametrize("lives", range(7))
@pytest.mark.parametrize("cut", [False, True])
def test_no_crash_leaves_a_release_that_cannot_run(tmp_path: Path, lives: int, cut: bool) -> None:
    ReleaseStore(tmp_path).install(info(1, b"first"), serve(b"first"))
    ops = MortalOps(lives)

    def fetch(_digest: str, _size: int, part: Path) -> None:
        part.write_bytes(b"second")
        ops._unsynced.add(part)

    try:
        ReleaseStore(tmp_path, ops).install(info(2, b"second"), fetch)
    except Died:
        pass
    else:
        assert lives == 7
    if cut:
        ops.power_cut()
    store = ReleaseStore(tmp_path)
    release = store.get()
    assert store.read(release) == {1: b"first", 2: b"second"}[release.info.version]


class FailingSync(FileOps):
    """Folders cannot be synced after the first time."""

    def __init__(self) -> None:
        self._left = 1

    def sync_dir(self, path: Path) -> None:
        self._left -= 1
        if self._left < 0:
            raise OSError(errno.EIO, os.strerror(errno.EIO), str(path))
        super().sync_dir(path)


def test_i7_a_release_whose_swap_is_not_durable_is_not_run(tmp_path: Path) -> None:
    """The error comes after the rename: the manifest is there, and a power cut could take it back."""
    ReleaseStore(tmp_path).install(info(1, b"first"), serve(b"first"))
    broken = ReleaseStore(tmp_path, FailingSync())
    with pytest.raises(StorageError, match="cannot write"):
        broken.install(info(2, b"second"), serve(b"second"))
    assert [r.info.version for r in broken.installed()] == [2]
    with pytest.raises(StorageError, match="cannot sync"):
        broken.get()
    store = ReleaseStore(tmp_path)
    assert store.read(store.get()) == b"second"  # once it can be synced


@pytest.mark.parametrize("name", ["../evil", "a/b", "", "A", "x" * 65])
def test_a_release_name_cannot_leave_the_folder(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="release is"):
        ReleaseStore(tmp_path / "releases").install(info(1, b"x", name), never)


def test_a_tampered_release_is_not_read_and_a_missing_one_is_named(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    with pytest.raises(NotFoundError, match="there is none yet"):
        store.get("watch")
    store.install(info(1, b"first"), serve(b"first"))
    (tmp_path / "watch-1.tflite").write_bytes(b"other")
    with pytest.raises(VerificationError, match="do not run it"):
        store.read(store.get("watch"))
    store.install(info(1, b"first", "gait"), serve(b"first"))
    with pytest.raises(NotFoundError, match="several releases: gait, watch"):
        store.get()


def test_a_damaged_manifest_is_put_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = ReleaseStore(tmp_path)
    store.install(info(1, b"first"), serve(b"first"))
    (tmp_path / "watch.json").write_text(json.dumps({"format": 1, "name": "../x"}))
    assert store.installed() == ()
    assert "watch.json cannot be used" in caplog.text
    assert (tmp_path / "watch.json.corrupt").exists()


# status


def test_the_status_is_written_when_it_says_something_new(tmp_path: Path) -> None:
    file = StatusFile(tmp_path / "status.json")
    status = Status("pi-01", "watch", "0", 1, 1, phase="idle")
    assert file.show(status, 0.0, wall_now=5.0)
    assert not file.show(status, 1.0, wall_now=6.0)
    assert not file.show(Status("pi-01", "watch", "0", 1, 1, phase="checked_in"), 2.0, wall_now=7.0)
    assert file.show(Status("pi-01", "watch", "0", 1, 1, phase="training"), 3.0, wall_now=8.0)
    assert file.show(Status("pi-01", "watch", "0", 1, 1, last_error="x"), 4.0, wall_now=9.0)
    assert file.show(Status("pi-01", "watch", "0", 1, 1, last_error="x"), 4.0 + REFRESH_S, wall_now=10.0)
    found = read_status(tmp_path / "status.json")
    assert found is not None
    assert (found.last_error, found.updated_at) == ("x", 10.0)


def test_a_damaged_status_is_a_typed_error(tmp_path: Path) -> None:
    assert read_status(tmp_path / "status.json") is None
    (tmp_path / "status.json").write_text('{"format": 1}')
    with pytest.raises(StorageError, match="cannot be read"):
        read_status(tmp_path / "status.json")
