"""The watched folder: files are taken in, or set aside with a reason, once each."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from edgefl.protocol.messages import Split
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import ExampleStore
from edgefl_device.inbox import SETTLE_S, take_inbox


def inbox_spec(tmp_path: Path, **options: float) -> ExampleSpec:
    return ExampleSpec(num_features=2, num_classes=3, inbox=tmp_path / "inbox", **options)  # type: ignore[arg-type]


def drop(tmp_path: Path, name: str, text: str) -> float:
    """Write a file into the inbox; returns a time at which it has been left alone for long enough."""
    path = tmp_path / "inbox" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(text)
    return path.stat().st_mtime + SETTLE_S


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_in_the_inbox_are_taken_in_or_refused(tmp_path: Path) -> None:
    spec = inbox_spec(tmp_path)
    drop(tmp_path, "b.csv", "a,b,label\n1,2,0\n")
    drop(tmp_path, "a.csv", "a,b,label\n1,2,9\n")
    now = drop(tmp_path, "c.txt", "left alone")
    with ExampleStore.open(tmp_path / "e.db", spec) as store:
        taken = take_inbox(store, spec, wall_now=now)
        assert [(t.name, t.count, bool(t.error)) for t in taken] == [("a.csv", 0, True), ("b.csv", 1, False)]
        now = drop(tmp_path, "b.csv", "a,b,label\n1,2,0\n3,4,0\n")  # another file of the same name
        assert [t.count for t in take_inbox(store, spec, wall_now=now)] == [2]
        assert store.count(Split.TRAIN) == 3
    inbox = tmp_path / "inbox"
    assert names(inbox) == ["c.txt", "done", "refused"]
    assert names(inbox / "done") == ["b-1.csv", "b.csv"]
    assert names(inbox / "refused") == ["a.csv", "a.csv.error"]
    assert "column 'label' is '9'" in (inbox / "refused" / "a.csv.error").read_text()


def test_a_copy_in_the_inbox_is_set_aside_with_a_reason(tmp_path: Path) -> None:
    spec = inbox_spec(tmp_path)
    drop(tmp_path, "a.csv", "a,b,label\n1,2,0\n")
    drop(tmp_path, "b.csv", "b,label,a\n2,0,1\n")
    now = drop(tmp_path, "c.csv", "b,label,c\n2,0,1\n")
    with ExampleStore.open(tmp_path / "e.db", spec) as store:
        taken = take_inbox(store, spec, wall_now=now)
        assert [(t.name, t.count) for t in taken] == [("a.csv", 1), ("b.csv", 0), ("c.csv", 0)]
        assert store.count(Split.TRAIN) == 1
    refused = tmp_path / "inbox" / "refused"
    assert names(refused) == ["b.csv", "b.csv.error", "c.csv", "c.csv.error"]
    assert "the same 1 examples were added on" in (refused / "b.csv.error").read_text()
    assert "the unknown features 'c' and no 'a'" in (refused / "c.csv.error").read_text()


def test_a_file_that_may_still_be_written_waits(tmp_path: Path) -> None:
    spec = inbox_spec(tmp_path)
    now = drop(tmp_path, "a.csv", "a,b,label\n1,2,0\n")
    with ExampleStore.open(tmp_path / "e.db", spec) as store:
        assert take_inbox(store, spec, wall_now=now - 0.1) == ()
        assert len(take_inbox(store, spec, wall_now=now)) == 1


def test_a_crash_between_storing_and_moving_stores_nothing_twice(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = inbox_spec(tmp_path)
    now = drop(tmp_path, "a.csv", "a,b,label\n1,2,0\n")
    with ExampleStore.open(tmp_path / "e.db", spec) as store:

        def die(*_: object) -> None:
            raise KeyboardInterrupt

        with monkeypatch.context() as patch:
            patch.setattr("edgefl_device.inbox._move", die)
            with pytest.raises(KeyboardInterrupt):
                take_inbox(store, spec, wall_now=now)
        assert take_inbox(store, spec, wall_now=now)[0].error == ""
        assert store.count(Split.TRAIN) == 1
    assert names(tmp_path / "inbox" / "done") == ["a.csv"]


def test_retention_reaches_the_files_that_were_taken(tmp_path: Path) -> None:
    spec = inbox_spec(tmp_path, max_age_days=1)
    now = drop(tmp_path, "a.csv", "a,b,label\n1,2,0\n")
    with ExampleStore.open(tmp_path / "e.db", spec) as store:
        take_inbox(store, spec, wall_now=now)
        done = tmp_path / "inbox" / "done"
        os.utime(done / "a.csv", (now, now))
        take_inbox(store, spec, wall_now=now + 86400)
        assert names(done) == ["a.csv"]
        take_inbox(store, spec, wall_now=now + 86401)
        assert names(done) == []
