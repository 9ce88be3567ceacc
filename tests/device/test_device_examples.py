"""``edgefl-device examples``: what the store holds, and erasure, with an agent that runs."""

from __future__ import annotations

import json
import os
import pty
import sqlite3
import subprocess
import sys
import threading
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from device_fleet import NO_WORK, NOW, ScriptedFleet, environment, start_device, write_config

from edgefl.errors import StorageError
from edgefl.protocol.messages import CheckIn, CheckInAnswer, Rejection, Split
from edgefl_device import example_store
from edgefl_device.aging import CLOCK_WAS_SET
from edgefl_device.config import ExampleSpec, load_config
from edgefl_device.example_store import Batch, ExampleStore, Row
from edgefl_device.inbox import SETTLE_S, take_inbox
from edgefl_device.inventory import Selection
from edgefl_device.main import main

DAY = 86_400
NUM_FEATURES = 1500
"""More than a page of SQLite: an example has pages of its own, and a part in a page that it shares."""

SPEC = ExampleSpec(num_features=NUM_FEATURES, num_classes=3)
MARK = b"MARK"
"""Four bytes that are a finite float32."""


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    server = ScriptedFleet()
    yield server
    server.stop()


def marked(number: int, mark: bytes = MARK) -> bytes:
    """An example all over whose bytes is ``mark``, except in one value, by which it is unique."""
    return array("f", [number]).tobytes() + mark * (NUM_FEATURES - 1)


def files_with(mark: bytes, folder: Path) -> list[str]:
    """The files below ``folder`` in which ``mark`` is."""
    return sorted(path.name for path in folder.rglob("*") if path.is_file() and mark in path.read_bytes())


def rows(count: int, mark: bytes = MARK, label: int = 0) -> list[Row]:
    return [Row(marked(number, mark), label) for number in range(count)]


def wide_config(folder: Path, address: str = "127.0.0.1:1", **options: str) -> Path:
    config = write_config(folder, address, **options)
    config.write_text(config.read_text().replace("num_features = 4", f"num_features = {NUM_FEATURES}"))
    return config


# erasure


def test_removed_bytes_are_gone_while_an_agent_runs(tmp_path: Path, fleet: ScriptedFleet) -> None:
    config = wide_config(tmp_path, fleet.address, examples='inbox = "inbox"')
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    for name, mark in (("a.npz", MARK), ("b.npz", b"KEEP")):
        features = np.frombuffer(b"".join(marked(n, mark) for n in range(30)), np.float32).reshape(30, NUM_FEATURES)
        np.savez(inbox / name, features=features, labels=np.zeros(30, np.int64))
        os.utime(inbox / name, (0, 0))
    waits, answered = threading.Event(), threading.Event()

    def wait(_: CheckIn) -> CheckInAnswer:
        if len(fleet.check_ins) > 1:
            return NO_WORK
        waits.set()
        answered.wait(30)
        return CheckInAnswer(Rejection("no work"), NOW)

    fleet.on_check_in = wait
    with start_device("run", "--config", str(config)) as agent:
        try:
            assert waits.wait(20)  # both files are taken in, and the agent has the store open
            assert files_with(MARK, tmp_path)
            command = [sys.executable, "-m", "edgefl_device.main", "examples", "remove", "--config", str(config)]
            done = subprocess.run(
                [*command, "--source", "a.npz"], env=environment(), capture_output=True, text=True, check=True
            )
            assert done.stdout == "30 examples removed, and 1 files of the inbox\n"
            assert agent.poll() is None
            assert files_with(MARK, tmp_path) == []
            assert files_with(b"KEEP", tmp_path) == ["b.npz", "examples.db"]
            answered.set()
            while len(fleet.check_ins) < 2:
                assert agent.poll() is None
        finally:
            answered.set()
            agent.terminate()
            agent.communicate(timeout=20)
    assert [check_in.num_train for check_in in fleet.check_ins[:2]] == [60, 30]
    loaded = load_config(config)
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        assert store.load(Split.TRAIN).features == b"".join(marked(n, b"KEEP") for n in range(30))


def test_what_an_older_version_left_in_free_pages_goes_too(tmp_path: Path) -> None:
    path = tmp_path / "examples.db"
    with ExampleStore.open(path, SPEC) as store:
        store.append_many(rows(20), Batch("a"))
        store.append_many(rows(20, b"KEEP", 1), Batch("b"))
    db = sqlite3.connect(path, isolation_level=None)
    db.execute("PRAGMA secure_delete = OFF")
    db.execute("DELETE FROM examples WHERE label = 0 AND id > 1")
    db.close()
    assert files_with(MARK, tmp_path) == ["examples.db"]
    with ExampleStore.open(path, SPEC) as store:
        assert store.remove(Selection(label=0)) == 1
        assert files_with(MARK, tmp_path) == []
        assert store.count(Split.TRAIN) == 20


def test_examples_that_expire_are_overwritten(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=NUM_FEATURES, num_classes=3, quota_bytes=10 * SPEC.example_cost_bytes)
    with ExampleStore.open(tmp_path / "examples.db", spec) as store:
        store.append_many(rows(10))
        store.append_many(rows(10, b"KEEP"))
    assert files_with(MARK, tmp_path) == []


def test_an_erasure_that_was_killed_is_brought_to_its_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Killed(BaseException):
        pass

    class Dies(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql.startswith("PRAGMA wal_checkpoint"):
                raise Killed
            return super().execute(sql, *parameters)

    real = sqlite3.connect
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", lambda path, **options: real(path, factory=Dies, **options))
        dying = ExampleStore.open(tmp_path / "examples.db", SPEC)
    dying.append_many([*rows(5), *rows(5, b"KEEP", 1)])
    with pytest.raises(Killed):
        dying.remove(Selection(label=0))
    assert files_with(MARK, tmp_path)
    with ExampleStore.open(tmp_path / "examples.db", SPEC) as store:
        store.enforce_retention()  # as the agent does at its next check-in
        assert files_with(MARK, tmp_path) == []
        assert store.count(Split.TRAIN) == 5
    dying.close()


def test_a_reader_that_stays_is_told_and_the_rest_is_done_later(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(example_store, "BUSY_TIMEOUT_S", 0.01)
    path = tmp_path / "examples.db"
    with ExampleStore.open(path, SPEC) as store:
        store.append_many(rows(5))
        reader = sqlite3.connect(path, isolation_level=None)
        reader.execute("BEGIN")
        reader.execute("SELECT count(*) FROM examples").fetchone()
        with pytest.raises(StorageError, match="are removed, but another process reads"):
            store.clear()
        assert store.count(Split.TRAIN) == 0
        assert files_with(MARK, tmp_path)
        reader.close()
        assert store.clear() == 0
        assert files_with(MARK, tmp_path) == []


def test_a_card_that_is_nearly_full_can_be_cleared(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The log never holds much of what goes, and a file that cannot be written anew is told and tried again."""
    path = tmp_path / "examples.db"
    log_sizes, full = [0], [True]

    class Watched(sqlite3.Connection):
        def execute(self, sql: str, *parameters: Any) -> sqlite3.Cursor:
            if sql == "VACUUM" and full[0]:
                raise sqlite3.OperationalError("database or disk is full")
            found = super().execute(sql, *parameters)
            if sql == "COMMIT":
                log_sizes.append(path.with_name("examples.db-wal").stat().st_size)
            return found

    with ExampleStore.open(path, SPEC) as store:
        store.append_many(rows(500))  # 3 MB
    real = sqlite3.connect
    monkeypatch.setattr(sqlite3, "connect", lambda path, **options: real(path, factory=Watched, **options))
    with ExampleStore.open(path, SPEC) as store:
        with pytest.raises(
            StorageError, match=r"removed and overwritten, but .* cannot be written anew .*disk is full"
        ):
            store.clear()
        assert store.count(Split.TRAIN) == 0
        assert max(log_sizes) < 1 << 20
        full[0] = False
        store.enforce_retention()
    assert path.stat().st_size < 100_000


# the commands


def run(config: Path, capsys: pytest.CaptureFixture[str], *arguments: str, status: int = 0) -> str:
    """``edgefl-device examples ARGUMENTS``; returns what it printed."""
    verb, *options = arguments
    assert main(["examples", verb, "--config", str(config), *options]) == status
    captured = capsys.readouterr()
    return captured.out + captured.err


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """A device with examples of two days, three sources and an unset clock."""
    path = write_config(tmp_path, examples='classes = ["sit", "walk", "run"]')
    loaded = load_config(path)
    time = [0.0]
    with ExampleStore.open(loaded.store_path, loaded.examples, clock=lambda: time[0]) as store:

        def add(added: float, name: str, labels: list[int], split: Split = Split.TRAIN) -> None:
            time[0] = added
            store.append_many(
                [Row(array("f", [added % 97, n, 0, 0]), k, split) for n, k in enumerate(labels)], Batch(name)
            )

        add(CLOCK_WAS_SET + 10 * DAY, "monday.csv", [0, 0, 1])
        add(CLOCK_WAS_SET + 11 * DAY, "tuesday.csv", [2, 1])
        add(CLOCK_WAS_SET + 11 * DAY, "tuesday.csv", [2], Split.HELD_OUT)
        add(1000, "", [0])
    return path


def test_the_list_counts_by_source_class_and_split(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(config, capsys, "list").splitlines() == [
        "SOURCE       LABEL  SPLIT     EXAMPLES  FIRST       LAST",
        "monday.csv   sit    train            2  2024-01-11  2024-01-11",
        "monday.csv   walk   train            1  2024-01-11  2024-01-11",
        "tuesday.csv  walk   train            1  2024-01-12  2024-01-12",
        "tuesday.csv  run    train            1  2024-01-12  2024-01-12",
        "tuesday.csv  run    held_out         1  2024-01-12  2024-01-12",
        "unnamed      sit    train            1  unknown     unknown",
        "total                                7  unknown     2024-01-12",
    ]
    assert [line.split()[:3] for line in run(config, capsys, "list", "--by", "split").splitlines()] == [
        ["SPLIT", "EXAMPLES", "FIRST"],
        ["train", "6", "unknown"],
        ["held_out", "1", "2024-01-12"],
        ["total", "7", "unknown"],
    ]
    found = json.loads(run(config, capsys, "list", "--json", "--by", "age,label"))
    assert found["count"] == 7
    assert found["groups"][0] == {
        "label": 0, "class": "sit", "age": "older", "count": 2,
        "first_added": CLOCK_WAS_SET + 10 * DAY, "last_added": CLOCK_WAS_SET + 10 * DAY,
    }  # fmt: skip
    assert [group["age"] for group in found["groups"]] == ["older", "unknown", "older", "older"]
    assert "--by has 'day'; expected some of source, label, split, age" in run(
        config, capsys, "list", "--by", "day", status=78
    )


def test_ages_are_grouped_by_the_clock(tmp_path: Path) -> None:
    now = CLOCK_WAS_SET + 1000 * DAY
    time = [0]
    with ExampleStore.open(
        tmp_path / "e.db", ExampleSpec(num_features=1, num_classes=2), clock=lambda: time[0]
    ) as store:
        for days in (0, 1, 7, 8, 30, 300, 366):
            time[0] = now - days * DAY
            store.append(array("f", [days]), 0)
        time[0] = now
        found = [(group.age, group.count) for group in store.groups(("age",))]
    assert found == [("up to a day", 2), ("up to a week", 1), ("up to a month", 2), ("up to a year", 1), ("older", 1)]


@pytest.mark.parametrize(
    ("conditions", "count", "left"),
    [
        (["--source", "monday.csv"], 3, 4),
        (["--source", "unnamed"], 1, 6),
        (["--label", "walk"], 2, 5),
        (["--label", "1"], 2, 5),
        (["--source", "tuesday.csv", "--label", "run"], 2, 5),
        (["--older-than", "1"], 6, 1),
        (["--older-than", "36500"], 0, 7),
        (["--source", "monday.csv", "--label", "run"], 0, 7),
    ],
)
def test_what_meets_all_conditions_is_removed(
    config: Path, capsys: pytest.CaptureFixture[str], conditions: list[str], count: int, left: int
) -> None:
    assert f"{count} examples would be removed\n" == run(config, capsys, "remove", "--dry-run", *conditions)
    assert json.loads(run(config, capsys, "list", "--json"))["count"] == 7
    text = run(config, capsys, "remove", *conditions)
    assert f"{count} examples removed\n" in text
    assert ("1 examples stay whose age is unknown" in text) == ("--older-than" in conditions)
    assert json.loads(run(config, capsys, "list", "--json"))["count"] == left


@pytest.mark.parametrize(
    ("conditions", "status", "message"),
    [
        ([], 78, "nothing says which examples; give --source, --label or --older-than"),
        (["--source", "mondy.csv"], 72, "no examples came from 'mondy.csv'; did you mean 'monday.csv'?"),
        (["--label", "wlak"], 65, "--label is 'wlak'; did you mean 'walk'? The classes are 'sit', 'walk', 'run'"),
        (["--label", "3"], 65, "--label is '3'; expected an index from 0 to 2, or 'sit', 'walk', 'run'"),
    ],
)
def test_wrong_conditions_remove_nothing(
    config: Path, capsys: pytest.CaptureFixture[str], conditions: list[str], status: int, message: str
) -> None:
    text = run(config, capsys, "remove", *conditions, status=status)
    assert message in text
    assert text.count("\n") == 1
    assert json.loads(run(config, capsys, "list", "--json"))["count"] == 7


@pytest.mark.parametrize("days", ["-1", "x", "nan", "1e9"])
def test_a_wrong_age_is_named(config: Path, capsys: pytest.CaptureFixture[str], days: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["examples", "remove", "--config", str(config), f"--older-than={days}"])
    assert ended.value.code == 64
    assert f"{days!r} is not a number of days from 0 to 36500" in capsys.readouterr().err


def test_a_removed_file_can_be_added_again(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path)
    path = tmp_path / "a.csv"
    path.write_text("a,b,c,d,label\n1,2,3,4,0\n")
    assert main(["add", "--config", str(config), str(path)]) == 0
    assert main(["add", "--config", str(config), str(path)]) == 80
    run(config, capsys, "remove", "--source", str(path))
    assert main(["add", "--config", str(config), str(path)]) == 0


def test_the_inbox_keeps_no_file_whose_examples_are_gone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = write_config(tmp_path, examples='inbox = "inbox"')
    loaded = load_config(config)
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    with ExampleStore.open(loaded.store_path, loaded.examples) as store:
        for name, labels in (("a.csv", "00"), ("b.csv", "01")):
            (inbox / name).write_text("a,b,c,d,label\n" + "".join(f"1,2,{name == 'a.csv':d},4,{k}\n" for k in labels))
            take_inbox(store, loaded.examples, wall_now=(inbox / name).stat().st_mtime + SETTLE_S)
    text = run(config, capsys, "remove", "--label", "0")
    assert "3 examples removed, and 1 files of the inbox\n" in text
    assert f"{inbox / 'done' / 'b.csv'} holds removed examples; delete it if they must go" in text
    assert [path.name for path in (inbox / "done").iterdir()] == ["b.csv"]
    assert "1 examples removed, and 1 files of the inbox" in run(config, capsys, "clear", "--yes")
    assert list((inbox / "done").iterdir()) == []


def test_clear_asks_and_frees_the_names(config: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = config.parent / "a.csv"
    path.write_text("a,b,c,d,label\n1,2,3,4,sit\n")
    assert main(["add", "--config", str(config), str(path)]) == 0
    command = [sys.executable, "-m", "edgefl_device.main", "examples", "clear", "--config", str(config)]
    refused = subprocess.run(command, env=environment(), stdin=subprocess.DEVNULL, capture_output=True, text=True)
    assert (refused.returncode, refused.stdout) == (78, "")
    assert "'clear' removes all 8 examples of pi-01; pass --yes to do so" in refused.stderr
    for answer, expected in ((b"n\n", "nothing was removed"), (b"y\n", "8 examples removed")):
        ours, terminal = pty.openpty()
        os.write(ours, answer)
        asked = subprocess.run(command, env=environment(), stdin=terminal, capture_output=True, text=True, check=True)
        assert asked.stdout.startswith("Remove all 8 examples of pi-01? They cannot be brought back. [y/N] ")
        assert expected in asked.stdout
        os.close(ours)
        os.close(terminal)
    assert "has no examples" in run(config, capsys, "list")
    path.write_text("p,q,r,s,label\n1,2,3,4,sit\n")  # other names, and the next configuration may name other classes
    config.write_text(config.read_text().replace('"sit", "walk"', '"walk", "sit"'))
    assert main(["add", "--config", str(config), str(path)]) == 0
    assert "'p', 'q', 'r', 's'" in capsys.readouterr().out
