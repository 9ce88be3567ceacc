"""The example store: order, checks, quota, retention, two processes at once, damage."""

from __future__ import annotations

import subprocess
from array import array
from pathlib import Path

import numpy as np
import pytest
from device_fleet import environment
from script_kit import SCRIPT

from edgefl.errors import ConfigError, ConflictError, DataError, StorageError
from edgefl.protocol.messages import Split
from edgefl.types import DType
from edgefl_device.aging import CLOCK_WAS_SET
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import Batch, ExampleStore, Row

SPEC = ExampleSpec(num_features=2, num_classes=3)
DAY = 86400
T0 = CLOCK_WAS_SET + 1000 * DAY


def row(value: float, label: int = 0, split: Split = Split.TRAIN) -> Row:
    return Row(array("f", [value, value]), label, split)


def values(store: ExampleStore, split: Split = Split.TRAIN) -> list[float]:
    examples = store.load(split)
    return list(memoryview(examples.features).cast("f"))[::2]


def test_what_was_appended_is_loaded_in_order_and_split(tmp_path: Path) -> None:
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        store.append(array("f", [1.0, 2.0]), 2)
        store.append(np.array([3.0, 4.0], np.float32), 1, Split.HELD_OUT)
        assert store.append_many([row(5, 0), row(6, 1, Split.HELD_OUT), row(7, 2)]) == 3
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        train, held_out = store.load(Split.TRAIN), store.load(Split.HELD_OUT)
        assert (store.count(Split.TRAIN), store.count(Split.HELD_OUT)) == (3, 2)
    assert train.features == array("f", [1, 2, 5, 5, 7, 7]).tobytes()
    assert train.labels == array("i", [2, 0, 2]).tobytes()
    assert held_out.features == array("f", [3, 4, 6, 6]).tobytes()


def test_an_empty_store_loads_no_example(tmp_path: Path) -> None:
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        assert len(store.load(Split.TRAIN)) == 0


def test_eight_bit_features_are_kept_as_they_are(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=3, num_classes=2, dtype=DType.INT8, scale=0.5, zero_point=-3)
    with ExampleStore.open(tmp_path / "e.db", spec) as store:
        store.append(array("b", [-128, 0, 127]), 1)
        store.append(bytes([1, 2, 255]), 0)
        with pytest.raises(DataError, match="format 'B'; expected int8"):
            store.append(array("B", [1, 2, 3]), 0)
        examples = store.load(Split.TRAIN)
    assert examples.features == bytes([128, 0, 127, 1, 2, 255])
    assert examples.quantization.zero_point == -3


def test_values_below_the_smallest_magnitude_are_stored_as_zero(tmp_path: Path) -> None:
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        store.append(array("f", [2.0**-30, -(2.0**-30)]), 0)
        store.append(array("f", [2.0**-31, -(2.0**-31)]), 0)
        store.append(array("f", [1e-45, -0.0]), 0)
        assert store.load(Split.TRAIN).features == array("f", [2.0**-30, -(2.0**-30), 0, 0, 0, 0]).tobytes()


@pytest.mark.parametrize(
    ("features", "label", "message"),
    [
        (array("f", [1.0, float("nan")]), 0, r"features\[1\] is nan; expected a finite number"),
        (array("f", [float("-inf"), 1.0]), 0, r"features\[0\] is -inf"),
        (array("f", [1.0]), 0, "1 features; expected 2"),
        (array("f", [1.0, 2.0, 3.0]), 0, "3 features; expected 2"),
        (array("d", [1.0, 2.0]), 0, "format 'd'; expected float32"),
        (b"1234567", 0, "features; expected 2"),
        (np.zeros((2, 2), np.float32)[:, 0], 0, "contiguous"),
        (array("f", [1.0, 2.0]), 3, "label is 3; expected a whole number from 0 to 2"),
        (array("f", [1.0, 2.0]), -1, "label is -1"),
        (array("f", [1.0, 2.0]), True, "label is True"),
        (array("f", [1.0, 2.0]), 1.0, "label is 1.0"),
    ],
)
def test_a_wrong_example_is_refused_and_a_batch_with_it_as_a_whole(
    tmp_path: Path, features: object, label: object, message: str
) -> None:
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:
        with pytest.raises(DataError, match=message):
            store.append(features, label)  # type: ignore[arg-type]
        with pytest.raises(DataError, match=f"row 1: .*{message}"):
            store.append_many([row(1), Row(features, label), row(2)])  # type: ignore[arg-type]
        assert store.count(Split.TRAIN) == 0
        assert store.append_many([row(3)]) == 1  # the store still works after the refusal


def test_the_oldest_go_beyond_the_quota(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=2, num_classes=3, quota_bytes=5 * SPEC.example_cost_bytes)
    with ExampleStore.open(tmp_path / "e.db", spec) as store:
        store.append_many([row(n, split=Split.HELD_OUT if n == 1 else Split.TRAIN) for n in range(4)])
        for n in range(4, 7):
            store.append(array("f", [n, n]), 0)
        assert values(store) == [2, 3, 4, 5, 6]
        assert store.count(Split.HELD_OUT) == 0
        store.append_many([row(n) for n in range(10, 20)])
        assert values(store) == [15, 16, 17, 18, 19]


def test_what_is_too_old_goes(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=2, num_classes=3, max_age_days=2)
    time = [T0]
    with ExampleStore.open(tmp_path / "e.db", spec, clock=lambda: time[0]) as store:
        store.append(array("f", [1, 1]), 0)
        time[0] += DAY
        store.append(array("f", [2, 2]), 0, Split.HELD_OUT)
        time[0] += DAY
        assert store.enforce_retention() == 0  # exactly two days: not older
        time[0] += 1
        assert store.enforce_retention() == 1
        assert (values(store), values(store, Split.HELD_OUT)) == ([], [2])
        time[0] += DAY
        store.append(array("f", [3, 3]), 0)  # an append keeps the rule by itself
        assert (values(store), values(store, Split.HELD_OUT)) == ([3], [])


def test_an_unset_clock_drops_nothing_and_ages_from_when_it_is_right(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=2, num_classes=3, max_age_days=2)
    time = [1000.0]
    with ExampleStore.open(tmp_path / "e.db", spec, clock=lambda: time[0]) as store:
        store.append(array("f", [1, 1]), 0)
        time[0] = T0
        assert store.enforce_retention() == 0
        time[0] += 2 * DAY
        assert store.enforce_retention() == 0
        time[0] += 1
        assert store.enforce_retention() == 1


YEAR = 365 * DAY


@pytest.mark.parametrize("leap", [10 * YEAR, -2.5 * YEAR])
def test_a_clock_that_leaps_takes_no_example_with_it(tmp_path: Path, leap: float) -> None:
    spec = ExampleSpec(num_features=2, num_classes=3, max_age_days=2)
    time = [T0 + 3 * YEAR]
    with ExampleStore.open(tmp_path / "e.db", spec, clock=lambda: time[0]) as store:
        store.append(array("f", [1, 1]), 0)
        time[0] += leap
        assert store.enforce_retention() == 0
        assert not store.trusts_clock()
        store.append(array("f", [2, 2]), 0)  # stamped by the wrong clock
        time[0] += DAY / 2
        assert store.enforce_retention() == 0
        time[0] -= leap
        assert store.enforce_retention() == 0
        assert values(store) == [1, 2]
    with ExampleStore.open(tmp_path / "e.db", spec, clock=lambda: time[0]) as store:  # what is known outlives a restart
        for _ in range(8):
            time[0] += DAY / 4
            store.enforce_retention()
        assert store.trusts_clock()
        assert 1 not in values(store), "two and a half days old by a clock that went on steadily"
        time[0] += 2.5 * DAY
        store.enforce_retention()
        assert values(store) == []


def test_a_leap_that_stays_is_believed_after_a_day(tmp_path: Path) -> None:
    """The device was off for two months; its examples are too old, and it finds out a day later."""
    spec = ExampleSpec(num_features=2, num_classes=3, max_age_days=30)
    time = [T0]
    with ExampleStore.open(tmp_path / "e.db", spec, clock=lambda: time[0]) as store:
        store.append(array("f", [1, 1]), 0)
        time[0] += 60 * DAY
        assert store.enforce_retention() == 0
        time[0] += DAY - 1
        assert store.enforce_retention() == 0
        time[0] += 1
        assert store.enforce_retention() == 1


def test_without_an_age_the_clock_is_not_asked(tmp_path: Path) -> None:
    time = [T0]
    with ExampleStore.open(tmp_path / "e.db", SPEC, clock=lambda: time[0]) as store:
        store.append(array("f", [1, 1]), 0)
        time[0] += 10 * YEAR
        assert store.enforce_retention() == 0
        assert not store.trusts_clock()
        assert values(store) == [1]


def test_two_processes_append_at_once(tmp_path: Path) -> None:
    script = """
import sys
from array import array
from pathlib import Path
from edgefl_device.config import ExampleSpec
from edgefl_device.example_store import ExampleStore, Row
base = int(sys.argv[2])
with ExampleStore.open(Path(sys.argv[1]), ExampleSpec(num_features=2, num_classes=3)) as store:
    for n in range(0, 150, 3):
        store.append(array("f", [base + n, 0.0]), 0)
        store.append_many([Row(array("f", [base + m, 0.0]), 1) for m in (n + 1, n + 2)])
"""
    path = tmp_path / "e.db"
    command = [*SCRIPT, script, str(path)]
    processes = [subprocess.Popen([*command, str(base)], env=environment()) for base in (0, 1000)]
    assert [process.wait(timeout=60) for process in processes] == [0, 0]
    with ExampleStore.open(path, SPEC) as store:
        found = values(store)
    for base in (0, 1000):
        assert [v for v in found if base <= v < base + 1000] == [base + n for n in range(150)]


@pytest.mark.parametrize(
    ("spec", "message"),
    [
        (ExampleSpec(num_features=3, num_classes=3), "num_features 2; the configuration says 3"),
        (ExampleSpec(num_features=2, num_classes=4), "num_classes 3; the configuration says 4"),
        (ExampleSpec(num_features=2, num_classes=3, dtype=DType.UINT8), "dtype float32; the configuration says uint8"),
    ],
)
def test_a_store_of_another_kind_is_refused(tmp_path: Path, spec: ExampleSpec, message: str) -> None:
    ExampleStore.open(tmp_path / "e.db", SPEC).close()
    with pytest.raises(ConfigError, match=message):
        ExampleStore.open(tmp_path / "e.db", spec)


def test_a_corrupt_store_says_what_to_do(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    path.write_bytes(b"this is no database" * 400)
    with pytest.raises(StorageError, match=r"is corrupt .*move it away"):
        ExampleStore.open(path, SPEC)


def test_a_store_damaged_later_is_found_when_it_is_read(tmp_path: Path) -> None:
    path = tmp_path / "e.db"
    spec = ExampleSpec(num_features=500, num_classes=3)
    with ExampleStore.open(path, spec) as store:
        store.append_many([Row(bytes(2000), 0) for _ in range(50)])
    raw = bytearray(path.read_bytes())
    raw[3 * 4096 :] = b"\xff" * (len(raw) - 3 * 4096)
    path.write_bytes(raw)
    with pytest.raises(StorageError, match="is corrupt"), ExampleStore.open(path, spec) as store:
        store.load(Split.TRAIN)


def test_a_store_of_a_newer_version_is_refused(tmp_path: Path) -> None:
    import sqlite3

    ExampleStore.open(tmp_path / "e.db", SPEC).close()
    db = sqlite3.connect(tmp_path / "e.db")
    db.execute("PRAGMA user_version = 9")
    db.close()
    with pytest.raises(StorageError, match="version 9; this program knows 2"):
        ExampleStore.open(tmp_path / "e.db", SPEC)


def test_a_batch_is_known_again_while_some_of_it_is_there(tmp_path: Path) -> None:
    spec = ExampleSpec(num_features=2, num_classes=3, quota_bytes=5 * SPEC.example_cost_bytes)
    rows = [row(1), row(2, 1, Split.HELD_OUT)]
    with ExampleStore.open(tmp_path / "e.db", spec, clock=lambda: T0) as store:
        store.append_many(rows, Batch("a.csv", "stamp of a"))
        with pytest.raises(DataError):
            store.append_many([row(3), row(float("nan"))], Batch("b.csv", "stamp of b"))
        assert (store.has_stamp("stamp of a"), store.has_stamp("stamp of b")) == (True, False)
    with ExampleStore.open(tmp_path / "e.db", spec) as store:
        with pytest.raises(
            ConflictError, match=r"the same 2 examples were added on 2026-09-27 from 'a\.csv'; .*--again"
        ):
            store.append_many(rows, Batch("c.csv"))
        for other in ([row(1), row(2, 1)], [row(1), row(2, 2, Split.HELD_OUT)], list(reversed(rows)), [row(1)]):
            store.append_many(other, Batch("c.csv"))  # another split, class, order, number
        assert store.count(Split.TRAIN) + store.count(Split.HELD_OUT) == 5  # the quota took those of a.csv
        assert not store.has_stamp("stamp of a")
        store.append_many(rows, Batch("c.csv"))
        store.append_many(rows, Batch("c.csv", again=True))
        store.append_many(rows)  # an application that names no source answers for itself
        store.append_many(rows)


def test_names_of_features_and_classes_cannot_change_under_stored_examples(tmp_path: Path) -> None:
    named = ExampleSpec(num_features=2, num_classes=3, features=("x", "y"), classes=("sit", "walk", "run"))
    with ExampleStore.open(tmp_path / "e.db", named) as store:
        assert store.feature_names == ("x", "y")
        with pytest.raises(ConflictError, match="changed the feature names"):
            store.append_many([row(1)], Batch("a", feature_names=("y", "x")))
        assert store.count(Split.TRAIN) == 0
        store.append(array("f", [1.0, 2.0]), 0)
    with ExampleStore.open(tmp_path / "e.db", SPEC) as store:  # a configuration without names takes those of the store
        assert store.feature_names == ("x", "y")
    swapped = ExampleSpec(num_features=2, num_classes=3, features=("y", "x"))
    with pytest.raises(ConfigError, match=r"feature names are 'x', 'y'; the configuration says 'y', 'x' .number 0"):
        ExampleStore.open(tmp_path / "e.db", swapped)
    swapped = ExampleSpec(num_features=2, num_classes=3, classes=("sit", "run", "walk"))
    with pytest.raises(ConfigError, match=r"class names are 'sit', .*; the configuration says .*number 1 differs"):
        ExampleStore.open(tmp_path / "e.db", swapped)
