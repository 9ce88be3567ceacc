"""Task definitions: what each kind needs, the bounds of every key, and the page that documents them."""

from __future__ import annotations

import dataclasses
import re
import typing
from typing import Any

import pytest
from places import ROOT

from edgefl import optimizers
from edgefl.errors import ConfigError
from edgefl.protocol.messages import MAX_UPLOAD_BYTES
from edgefl.protocol.schedule import Schedule, ScheduleKind
from edgefl.protocol.task import (
    AggregatorSpec,
    ClientSpec,
    ModelSpec,
    RoundSpec,
    ServerOptimizerSpec,
    StatisticsSpec,
    TaskKind,
    TaskSpec,
    parse_task,
)
from edgefl.types import DType

DEMO = ROOT / "edgefl" / "demo" / "tasks"
PAGE = ROOT / "docs" / "reference" / "task.md"

ROUND = {"goal": 10, "minimum": 8}
MODEL = {"num_features": 3, "num_classes": 2}
KINDS: dict[str, dict[str, Any]] = {
    "training": {"kind": "training", "model": MODEL, "client": {"learning_rate": 0.1}},
    "evaluation": {"kind": "evaluation", "evaluates": "other"},
    "personalization": {"kind": "personalization", "evaluates": "other", "client": {"learning_rate": 0.1}},
    "statistics": {"kind": "statistics", "rounds": 2, "model": MODEL, "statistics": {"feature_bound": 8.0}},
}


def toml(table: dict[str, Any]) -> str:
    """TOML text of a table of numbers, texts and tables; None leaves a key out."""

    def line(key: str, value: Any) -> str:
        return f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}\n"

    top = "".join(line(k, v) for k, v in table.items() if v is not None and not isinstance(v, dict))
    inner = ((k, v) for k, v in table.items() if isinstance(v, dict))
    return top + "".join(f"[{name}]\n" + "".join(line(k, v) for k, v in body.items()) for name, body in inner)


def task(base: str = "training", **changes: Any) -> TaskSpec:
    table = {"name": "task", "population": "watch", "round": ROUND} | KINDS[base] | changes
    return parse_task(toml(table), "t.toml")


def refused(base: str = "training", **changes: Any) -> str:
    with pytest.raises(ConfigError) as caught:
        task(base, **changes)
    message = str(caught.value)
    assert message.startswith("t.toml: ")
    return message.removeprefix("t.toml: ")


# ------------------------------------------------------------------------------------------------ kinds


@pytest.mark.parametrize("kind", KINDS)
def test_a_definition_of_each_kind_is_taken(kind: str) -> None:
    assert task(kind).kind.value == kind
    assert set(KINDS) == {member.value for member in TaskKind}


NEEDS = {
    "training": {"model"},
    "evaluation": {"evaluates"},
    "personalization": {"evaluates", "client"},
    "statistics": {"model", "statistics"},
}
GIVEN: dict[str, Any] = {
    "model": MODEL,
    "client": {"learning_rate": 0.1},
    "statistics": {"feature_bound": 1.0},
    "evaluates": "other",
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("key", GIVEN)
def test_each_kind_needs_its_tables_and_takes_no_other(kind: str, key: str) -> None:
    if (kind, key) == ("training", "client"):
        assert task(kind, client=None).client is None  # its process may do without
    elif key in NEEDS[kind]:
        assert refused(kind, **{key: None}) == f"a task of kind {kind!r} needs {key!r}"
    else:
        assert refused(kind, **{key: GIVEN[key]}) == f"a task of kind {kind!r} takes no {key!r}"


def test_statistics_are_two_rounds_over_raw_features() -> None:
    assert refused("statistics", rounds=1).startswith("rounds is 1; expected 2 for statistics")
    assert refused("statistics", rounds=3).startswith("rounds is 3; expected 2 for statistics")
    assert refused("statistics", model=MODEL | {"standardize_by": "other"}).startswith("standardize_by")


@pytest.mark.parametrize("key", ["name", "kind", "population", "round"])
def test_what_every_task_needs_is_missed(key: str) -> None:
    assert refused(**{key: None}) == f"missing key {key!r}"


def test_an_unknown_kind_and_an_unknown_key_are_refused() -> None:
    assert refused(kind="trianing") == (
        "kind is 'trianing'; expected one of training, evaluation, personalization, statistics"
    )
    assert refused(sede=1) == "unknown key 'sede'; did you mean 'seed'?"
    assert refused(client={"learning_rate": 0.1, "epochs": 2}).startswith("client: unknown key 'epochs'")


# ------------------------------------------------------------------------------------------------ bounds

NAMES = ["", "A", "-a", ".a", "_a", "a b", "a/b", "..", "ü", "a\\n", "a" * 65]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_that_is_no_file_name_is_refused(name: str) -> None:
    assert refused(name=name).startswith("name is ")
    assert refused(population=name).startswith("population is ")
    if name:
        assert refused("evaluation", evaluates=name).startswith("evaluates is ")
        assert refused(model=MODEL | {"standardize_by": name}).startswith("model: standardize_by is ")


@pytest.mark.parametrize("name", ["a", "0", "a.b-c_d", "a" * 64])
def test_a_name_may_be(name: str) -> None:
    assert task(name=name, population=name, model=MODEL | {"standardize_by": name}).name == name


BOUNDS: list[tuple[str, str, list[Any], list[Any]]] = [
    ("", "seed", [0, 2**63 - 1], [-1, 2**63]),
    ("", "rounds", [1, 1_000_000], [0, -1, 1_000_001]),
    ("round", "over_selection", [1, 1.0, 10], [0.99, 10.01, float("nan"), float("inf")]),
    ("round", "selection_s", [0.1, 604800], [0, -1, 0.09, 604801, float("nan")]),
    ("round", "deadline_s", [0.1, 604800], [0, -1, 0.09, 604801, float("nan")]),
    ("model", "num_features", [1, 65536], [0, -1, 65537]),
    ("model", "num_classes", [1, 4096], [0, -1, 4097]),
    ("model", "kind", ["softmax"], ["", "linear"]),
    ("client", "learning_rate", [0, 2.0**-30, 1e38], [-1, 2.0**-31, 1e39, float("nan"), float("inf")]),
    ("client", "l2", [0, 1.0], [-1, 1e-20, 1e39, float("nan")]),
    ("client", "proximal", [0, 1.0], [-1, 1e-20, 1e39, float("nan")]),
    ("client", "clip_norm", [0, 1.0], [-1, 1e-20, 1e39, float("nan")]),
    ("client", "momentum", [0, 0.99], [-1, 1.0, 0.9999999999, float("nan")]),
    ("client", "batch_size", [1, 2**20], [0, -1, 2**20 + 1]),
    ("client", "local_epochs", [0, 10_000], [-1, 10_001]),
    ("aggregator", "norm_bound", [2.0**-20, 2.0**30], [0, -1, 2.0**-21, 2.0**31, float("nan"), float("inf")]),
    ("aggregator", "clip_norm", [0, 64.0], [-1, 64.5, float("nan")]),
    ("aggregator", "max_weight", [1, 2**32 // 10], [0, -1, 2**32 // 10 + 1, 2**32, 2**32 + 1, 2**64]),
    ("server_optimizer", "learning_rate", [2.0**-30, 10.0], [0, -1, 1e-20, float("nan"), float("inf")]),
    ("server_optimizer", "momentum", [0, 0.99], [-0.1, 1.0, 1e-20, float("nan")]),
    ("server_optimizer", "beta_1", [0, 0.99], [-0.1, 1.0, 1e-20, float("nan")]),
    ("server_optimizer", "beta_2", [0, 0.99], [-0.1, 1.0, 1e-20, float("nan")]),
    ("server_optimizer", "epsilon", [2.0**-30, 10.0], [0, -1, 1e-20, float("nan"), float("inf")]),
    ("statistics", "feature_bound", [2.0**-20, 2.0**20], [0, -1, 2.0**-21, 2.0**21, float("nan"), float("inf")]),
]


def changed(table: str, key: str, value: Any) -> tuple[str, dict[str, Any]]:
    kind = "statistics" if table == "statistics" else "training"
    if not table:
        return kind, {key: value}
    body = {"round": ROUND, **KINDS[kind]}.get(table, {}) | {key: value}
    if key in ("beta_1", "beta_2", "epsilon"):
        body |= {"name": "adam", "learning_rate": 0.1}
    if (table, key) == ("model", "num_classes"):
        body["num_features"] = 3
    if (table, key, value) == ("model", "num_features", 65536):
        body["num_classes"] = 3  # the largest update that goes inline
    return kind, {table: body}


@pytest.mark.parametrize(("table", "key", "good", "bad"), BOUNDS, ids=[f"{t}.{k}" for t, k, _, _ in BOUNDS])
def test_every_key_is_taken_at_its_bounds_and_refused_beyond(
    table: str, key: str, good: list[Any], bad: list[Any]
) -> None:
    for value in good:
        kind, changes = changed(table, key, value)
        spec = task(kind, **changes)
        assert getattr(getattr(spec, table) if table else spec, key) == value
    for value in bad:
        kind, changes = changed(table, key, value)
        assert key in refused(kind, **changes), value


@pytest.mark.parametrize(("minimum", "goal"), [(0, 1), (-1, 1), (2, 1), (0, 0), (1, 1_000_001)])
def test_a_round_of_impossible_counts_is_refused(minimum: int, goal: int) -> None:
    assert refused(round={"minimum": minimum, "goal": goal}).startswith(f"round: minimum {minimum} and goal {goal};")


def test_the_sum_of_all_weights_must_fit_the_grid() -> None:
    exactly = {"aggregator": {"max_weight": 2**22}, "round": {"goal": 1024, "minimum": 1}}
    assert task(**exactly).aggregator.max_weight == 2**22
    assert refused(**(exactly | {"round": {"goal": 1025, "minimum": 1}})) == (
        "goal 1025 x max_weight 4194304 exceeds 2**32; lower max_weight"
    )
    assert "exceeds 2**32" in refused("statistics", aggregator={"max_weight": 2**32})
    assert "exceeds 2**32" in refused("evaluation", aggregator={"max_weight": 2**32})


def test_an_update_that_is_too_large_to_upload_is_refused_when_the_task_is_written() -> None:
    most = MAX_UPLOAD_BYTES // 4 // 4096 - 1
    assert task(model={"num_features": most, "num_classes": 4096}).model is not None
    assert refused(model={"num_features": most + 1, "num_classes": 4096}) == (
        f"an update of 4096 x {most + 1} weights has {MAX_UPLOAD_BYTES + 4 * 4096} bytes; "
        f"expected at most {MAX_UPLOAD_BYTES}"
    )


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"dtype": "float16"}, "dtype is 'float16'; expected one of float32, uint8, int8"),
        ({"scale": 0.5}, "with float32 features; expected none"),
        ({"zero_point": 1}, "with float32 features; expected none"),
        ({"dtype": "uint8", "scale": 0.0}, "scale is 0.0"),
        ({"dtype": "uint8", "scale": 1e38}, "scale is 1e+38"),
        ({"dtype": "int8", "zero_point": 256}, "zero_point is 256"),
    ],
)
def test_a_meaning_of_features_that_devices_would_refuse_is_refused(changes: dict[str, Any], message: str) -> None:
    assert message in refused(model=MODEL | changes)


def test_a_meaning_of_8_bit_features_is_taken() -> None:
    spec = task(model=MODEL | {"dtype": "int8", "scale": 0.5, "zero_point": -128})
    assert spec.model == ModelSpec(3, 2, dtype=DType.INT8, scale=0.5, zero_point=-128)


@pytest.mark.parametrize(
    ("goal", "over_selection", "cohort"),
    [
        (10, 1.0, 10),
        (10, 1.1, 11),
        (10, 1.3, 13),
        (10, 1.25, 13),
        (3, 1.5, 5),
        (100, 1.1, 110),
        (7, 1.2857142857, 9),
        (1, 10, 10),
    ],
)
def test_a_cohort_is_the_goal_times_what_was_written_rounded_up(goal: int, over_selection: float, cohort: int) -> None:
    assert RoundSpec(goal, 1, over_selection).cohort_size == cohort


# ------------------------------------------------------------------------------------------------ the demo's tasks


def test_there_is_a_definition_of_each_kind_to_start_from() -> None:
    assert {path.stem: parse_task(path.read_text(), path.name).kind.value for path in DEMO.glob("*.toml")} == {
        kind: kind for kind in KINDS
    }


def test_the_demo_evaluates_and_standardizes_what_it_trains() -> None:
    specs = {path.stem: parse_task(path.read_text(), path.name) for path in DEMO.glob("*.toml")}
    training, statistics = specs["training"], specs["statistics"]
    assert training.model is not None
    assert statistics.model is not None
    assert training.model.standardize_by == statistics.name
    assert dataclasses.replace(training.model, standardize_by="") == statistics.model
    for kind in ("evaluation", "personalization"):
        assert specs[kind].evaluates == training.name
        assert specs[kind].rounds == training.rounds
    assert len({spec.population for spec in specs.values()}) == 1


# ------------------------------------------------------------------------------------------------ the page

TABLES = {
    "round": RoundSpec,
    "aggregator": AggregatorSpec,
    "model": ModelSpec,
    "client": ClientSpec,
    "server_optimizer": ServerOptimizerSpec,
    "statistics": StatisticsSpec,
}


def documented() -> tuple[dict[str, str], str]:
    """Dotted key -> its "type, default" cell, from the tables; and the whole page."""
    page = PAGE.read_text(encoding="utf-8")
    keys: dict[str, str] = {}
    table = ""
    for line in page.splitlines():
        if line.startswith("#"):
            found = re.fullmatch(r"### `\[(\w+)\]`", line)
            table = f"{found[1]}." if found else ""
        if not line.startswith("| `"):
            continue
        first, second = (cell.strip() for cell in line.strip("|").split("|")[:2])
        prefix = table
        for key in re.findall(r"`([^`]+)`", first):
            if key.startswith("."):
                key = prefix.rstrip(".") + key
            elif "." in key:
                prefix = key.rpartition(".")[0] + "."
            else:
                key = table + key
            assert key not in keys, f"{key} stands there twice"
            keys[key] = second
    return keys, page


def defined() -> dict[str, dataclasses.Field[Any]]:
    keys = {f.name: f for f in dataclasses.fields(TaskSpec) if f.name not in TABLES}
    for table, kind in TABLES.items():
        keys |= {f"{table}.{f.name}": f for f in dataclasses.fields(kind)}
    del keys["client.schedule"]  # a table in a table
    return keys | {f"client.schedule.{f.name}": f for f in dataclasses.fields(Schedule)}


def test_the_tables_of_the_test_are_those_of_the_code() -> None:
    hints = typing.get_type_hints(TaskSpec)
    nested = {
        name: kind
        for name, hint in hints.items()
        for kind in (typing.get_args(hint) or (hint,))
        if dataclasses.is_dataclass(kind)
    }
    assert nested == TABLES


def test_the_page_has_every_key_and_no_other() -> None:
    keys, page = documented()
    in_text = {key for key in ("evaluates", "statistics.feature_bound") if f"`{key}`" in page}
    assert set(keys) | in_text == set(defined())


def optimizer_default(key: str) -> float:
    """That of the optimizers which have this option; they agree on it."""
    kinds = (optimizers.Sgd, optimizers.Adam, optimizers.Yogi, optimizers.Adagrad)
    found = {f.default for kind in kinds for f in dataclasses.fields(kind) if f.name == key}
    (default,) = found - {dataclasses.MISSING}
    assert isinstance(default, float)
    return default


def test_the_page_names_the_defaults_of_the_code() -> None:
    keys, _ = documented()
    fields = defined()
    for key, cell in keys.items():
        default = fields[key].default
        if default is None and key.startswith("server_optimizer."):
            default = optimizer_default(key.rpartition(".")[2])
        if default in (dataclasses.MISSING, None, "", ()):
            continue
        if isinstance(default, DType | ScheduleKind):
            default = default.value
        numbers = [float(n) for n in re.findall(r"(?<![\w.])\d+(?:\.\d+)?", cell.replace("float32", ""))]
        if isinstance(default, bool):
            assert str(default).lower() in cell, key
        elif isinstance(default, int | float):
            assert float(default) in numbers, key
        else:
            assert str(default) in cell, key
