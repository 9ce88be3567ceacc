"""``model.initial``: a training begins at another's version or at weights from a file, wherever it runs."""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
from array import array
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from server_kit import Caller, definition, run
from simulate_kit import argv, write_files
from small_fleet import fleet
from test_server_replay import replay_digest

import edgefl
from edgefl import learning, optimizers, simulation
from edgefl.cli.main import main
from edgefl.errors import ConfigError, ConflictError, DataError, NotFoundError
from edgefl.models.tflite_reader import read_tflite_weights
from edgefl.models.tflite_writer import write_tflite
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.task import InitialSpec, parse_task
from edgefl.settings import to_toml
from edgefl.types import Standardization, Weights
from edgefl_server.check import check

WEIGHTS = Weights(3, 3, array("f", [i / 8 - 0.5 for i in range(9)]).tobytes(), array("f", [0.5, 0.0, -1.0]).tobytes())
TRAIN = learning.build_weighted_fed_avg(edgefl.SoftmaxModel(num_features=5, num_classes=3), optimizers.sgd(0.3))


@pytest.fixture
def files(tmp_path: Path) -> Path:
    return write_files(tmp_path)


def simulate(files: Path, *options: str) -> list[str]:
    return [*argv(files, "plain")[: -len(["--faults", "file"])], "--set", "rounds=2", *options]


def ended(capsys: pytest.CaptureFixture[str], *command: str) -> dict[str, Any]:
    assert main([*command, "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out.splitlines()[-1]))


# ------------------------------------------------------------------------------------------------ from Python


def test_a_process_begins_at_weights_and_goes_on_as_if_it_had_made_them() -> None:
    first, _ = TRAIN.next(TRAIN.initialize(), fleet(3))
    weights = TRAIN.get_model(first)
    assert TRAIN.initialize(weights).model == first.model
    assert TRAIN.initialize(weights).version == 0
    assert TRAIN.initialize() == TRAIN.initialize(TRAIN.model.initial_weights())
    state, _ = TRAIN.next(TRAIN.initialize(weights), fleet(3))
    again, _ = TRAIN.next(replace(first, version=0), fleet(3))  # the round's number enters the shuffling
    assert state == again


def test_weights_are_stored_as_the_arithmetic_allows_and_others_are_refused() -> None:
    values = array("f", [2.0**-51, -0.0, 2.0**-50, *[0.25] * 12, 1.0, -1.0, 0.0])
    stored = memoryview(TRAIN.initialize(Weights.from_bytes(values, 3, 5)).model)
    assert stored.tobytes() == array("f", [0.0, 0.0, 2.0**-50, *values[3:]]).tobytes()
    with pytest.raises(ConfigError, match="weights has 3 classes of 3 features; task 'training' has 3 of 5"):
        TRAIN.initialize(WEIGHTS)
    with pytest.raises(ConfigError, match=r"weights is b''; expected an edgefl.types.Weights"):
        TRAIN.initialize(b"")  # type: ignore[arg-type]
    values[4] = float("inf")
    with pytest.raises(DataError, match="weight 4 of the initial model is not finite"):
        TRAIN.initialize(Weights.from_bytes(values, 3, 5))


SPEC_TEXT = """
name = "second"
kind = "training"
population = "p"
rounds = 2
round = { goal = 3, minimum = 3 }
model = { num_features = 5, num_classes = 3 }
client = { learning_rate = 0.3 }
"""


def test_a_simulation_begins_at_a_version_of_another_task_as_next_would() -> None:
    first = SPEC_TEXT.replace("second", "first").replace("rounds = 2", "rounds = 3")
    second = SPEC_TEXT.replace("num_classes = 3 ", 'num_classes = 3, initial = { task = "first", version = 2 } ')
    evaluation = (
        'name = "e"\nkind = "evaluation"\npopulation = "p"\nevaluates = "second"\nround = { goal = 3, minimum = 3 }'
    )
    texts = (evaluation, second, first)
    result = simulation.simulate([(parse_task(text, "t"), text) for text in texts], fleet(3), fleet(3))
    begun = Weights.from_bytes(result.task("first").models[1], 3, 5)
    train = learning.build_process(parse_task(second, "t"), None, None)
    assert isinstance(train, learning.TrainingProcess)
    state = train.initialize(begun)
    for _ in range(2):
        state, _ = train.next(state, fleet(3))
    assert result.task("second").state == state
    assert result.task("e").rounds[-1].metrics is not None
    handed = simulation.simulate([(parse_task(SPEC_TEXT, "t"), SPEC_TEXT)], fleet(3), initial={"second": begun})
    assert handed.task("second").state == state
    shape = handed.task("second").spec.model
    assert shape is not None
    assert shape.initial is not None
    assert shape.initial.sha256 == begun.digest


@pytest.mark.parametrize(
    ("initial", "message"),
    [
        ('task = "none", version = 1', "begins at version 1 of task 'none', which this run does not come to; add that"),
        ('task = "second", version = 1', "begins at version 1 of task 'second', which this run does not come to"),
        ('file = "w"', "task 'second' begins at weights of a file, and none came with it; create it by"),
        ('task = "a"', "initial has task 'a', version 0 and file ''; expected a task with a version from 1 on, or a"),
        ('task = "a", version = 1, file = "w"', "initial has task 'a', version 1 and file 'w'"),
        ("version = 3", "initial has version 3 and no task; expected a task and a version, or a file"),
        ("", "initial has version 0 and no task; expected a task and a version, or a file"),
        ('file = "w", sha256 = "abc"', "initial.sha256 is 'abc'; expected 64 digits of 0-9 a-f"),
    ],
)
def test_beginnings_that_cannot_be_are_refused(initial: str, message: str) -> None:
    text = SPEC_TEXT.replace("num_classes = 3 ", f"num_classes = 3, initial = {{ {initial} }} ")
    with pytest.raises(ConfigError, match=message):
        simulation.simulate([(parse_task(text, "t"), text)], fleet(3))
    with pytest.raises(ConfigError, match="initial has weights of task 'other'; the tasks are second"):
        simulation.simulate([(parse_task(SPEC_TEXT, "t"), SPEC_TEXT)], fleet(3), initial={"other": WEIGHTS})


# ------------------------------------------------------------------------------------------------ from files


def saved(path: Path) -> None:
    train = learning.build_weighted_fed_avg(edgefl.SoftmaxModel(3, 3), optimizers.sgd(0.2))
    learning.save(path, train, train.initialize(WEIGHTS))


def standardized(path: Path) -> None:
    one = array("f", [1.0, 2.0, 3.0]).tobytes()
    path.write_bytes(write_tflite(WEIGHTS, Standardization(one, one)))


@pytest.mark.parametrize(
    ("name", "write"),
    [
        ("w.bin", lambda path: path.write_bytes(WEIGHTS.to_bytes())),
        ("w.tflite", lambda path: path.write_bytes(write_tflite(WEIGHTS, None))),
        ("s.tflite", standardized),
        ("run.edgefl", saved),
    ],
)
def test_every_kind_of_file_begins_at_the_same_bits(
    name: str, write: Callable[[Path], Any], files: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (files / "sub").mkdir()
    write(files / name)
    spec = replace(parse_task((files / "plain.toml").read_text(), "t"), rounds=2)
    data = edgefl.datasets.load(str(files / "people.csv"))
    wanted = simulation.simulate([(spec, to_toml(spec))], data.clients, initial={"gestures": WEIGHTS})
    found = ended(capsys, *simulate(files, "--set", f"model.initial.file='{name}'"))
    assert found["model_sha256"] == wanted.task("gestures").state.model_digest
    assert found["model_sha256"] != ended(capsys, *simulate(files))["model_sha256"]


def test_files_that_cannot_be_a_beginning_are_one_clear_line(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    small = Weights(2, 3, bytes(24), bytes(8))
    (files / "short").write_bytes(b"123")
    (files / "small.tflite").write_bytes(write_tflite(small, None))
    (files / "int8.tflite").write_bytes(write_tflite(WEIGHTS, None, weight_type="int8"))
    (files / "text.tflite").write_text("no model")
    (files / "nan").write_bytes(array("f", [float("nan")] * 12).tobytes())
    statistics = learning.build_fed_statistics(3, 8.0)
    learning.save(files / "sums", statistics, statistics.initialize())
    for name, message in (
        ("none", "none cannot be read: No such file or directory"),
        (".", "cannot be read: Is a directory"),
        ("short", "short: a model of 3 bytes; expected 48, as `edgefl models export --format weights` writes"),
        ("small.tflite", "small.tflite has 2 classes of 3 features; task 'gestures' has 3 of 3"),
        ("int8.tflite", "in other than float32 constants; expected float32 weights: export the version as tflite or"),
        ("text.tflite", "text.tflite is not a .tflite file; expected one that EdgeFL wrote"),
        ("nan", "weight 0 of the initial model is not finite"),
        ("sums", "is a saved statistics, which has no model; expected a training"),
    ):
        assert main(simulate(files, "--set", f"model.initial.file='{name}'")) == ConfigError.exit_code
        error = capsys.readouterr().err
        assert error.startswith(f"edgefl: error: {files}/plain.toml: model: initial: ")
        assert message in error
        assert error.count("\n") == 1
    (files / "w.bin").write_bytes(WEIGHTS.to_bytes())
    pinned = ("--set", "model.initial.file='w.bin'", "--set", f"model.initial.sha256='{'0' * 64}'")
    assert main(simulate(files, *pinned)) == ConfigError.exit_code
    assert f"the initial model has the SHA-256 {WEIGHTS.digest}; model.initial.sha256 is 000" in capsys.readouterr().err


@pytest.mark.parametrize("cut", [9, 40, 200, 700])
def test_a_tflite_file_that_is_cut_is_refused(cut: int) -> None:
    with pytest.raises(DataError, match=r"^x\.tflite "):
        read_tflite_weights(write_tflite(WEIGHTS, None)[:cut], "x.tflite")


def test_a_checkpoint_knows_the_weights_of_the_file(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "w.bin").write_bytes(WEIGHTS.to_bytes())
    command = simulate(files, "--set", "model.initial.file='w.bin'", "--checkpoint", str(files / "run.ck"))
    first = ended(capsys, *command)
    assert ended(capsys, *command, "--resume") == first
    (files / "w.bin").write_bytes(bytes(48))
    assert main([*command, "--resume"]) == ConflictError.exit_code
    assert f"task 'gestures' had sha256 = \"{WEIGHTS.digest}\", and has" in capsys.readouterr().err


def test_processes_and_a_fleet_that_breaks_begin_there_too(files: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (files / "w.bin").write_bytes(WEIGHTS.to_bytes())
    begin = ("--set", "model.initial.file='w.bin'")
    assert ended(capsys, *simulate(files, *begin, "--processes", "2")) == ended(capsys, *simulate(files, *begin))
    assert main([*argv(files, "plain"), *begin, "--set", "rounds=3", "--runs", "3", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["updates"]["lost"] == 0
    at = ("--set", "model.initial={task='other', version=1}")
    for option in (["--grpc"], ["--faults", str(files / "faults.toml")]):
        assert main([*simulate(files, *at), *option]) == ConfigError.exit_code
        assert f"{option[0]} with task 'gestures': it begins at version 1 of task 'other'" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------ on a server


def begun(name: str, initial: str) -> str:
    return definition(name, goal=1, rounds=2).replace("[model]", f"[model]\ninitial = {{ {initial} }}")


def test_a_server_begins_at_a_version_or_a_file_and_computes_it_again(tmp_path: Path) -> None:
    weights = Weights(2, 3, array("f", [0.5, 0, 0, 1, 0, -1]).tobytes(), bytes(8))
    digests: dict[str, list[str]] = {}

    async def before(caller: Caller) -> None:
        await caller.create(definition("train", goal=1, rounds=2))
        await caller.run_round(("a",))
        await caller.run_round(("a",))
        with pytest.raises(ConflictError, match="version 3 of task 'train' is not there; create the task when it is"):
            await caller.create(begun("more", 'task = "train", version = 3'))
        with pytest.raises(NotFoundError, match="no task 'trian'"):
            await caller.create(begun("more", 'task = "trian", version = 1'))
        with pytest.raises(ConfigError, match="'file' begins at weights of a file, and none came with it"):
            await caller.create(begun("file", 'file = "w"'))
        await caller.create(begun("more", 'task = "train", version = 1'))
        digests["train"] = await caller.models("train")
        request = control_pb2.CreateTaskRequest(definition=begun("file", 'file = "w"'))
        for wrong, message in ((bytes(4), "a model of 4 bytes; expected 32"), (b"\1" * 32, "below 2")):
            request.initial_model = wrong
            with pytest.raises(ConfigError, match=message):
                await caller.operate("CreateTask", request)
        request.initial_model = weights.to_bytes()
        request.definition = begun("file", f'file = "w", sha256 = "{"0" * 64}"')
        with pytest.raises(ConfigError, match=f"the initial model has the SHA-256 {weights.digest}; model.initial"):
            await caller.operate("CreateTask", request)
        request.definition = begun("file", f'file = "w", sha256 = "{weights.digest}"')
        await caller.operate("CreateTask", request)

    async def after(caller: Caller) -> None:
        bases = {}
        for _ in range(2):
            job = await caller.run_round(("a",))
            bases[job.task] = job.model_digest
        assert bases == {"more": digests["train"][1], "file": weights.digest}
        digests["file"] = await caller.models("file")

    run(tmp_path, before)
    run(tmp_path, after)
    verdict = check(tmp_path / "data")
    assert (verdict.findings, verdict.recomputed) == ((), 4)
    assert replay_digest(tmp_path, 1, "file") == digests["file"][-1]
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db:
        db.execute("UPDATE states SET sha256 = ? WHERE version = 0", (digests["train"][2],))
        db.commit()
    found = [str(finding) for finding in check(tmp_path / "data").findings]
    for task, digest in (("more", digests["train"][1]), ("file", weights.digest)):
        assert any(
            f"task {task}: it begins at the model" in one and f"its definition at {digest}" in one for one in found
        )
    assert any("task train: it begins at the model" in one for one in found), "at zero"


def test_the_command_reads_the_file_and_sends_the_weights(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    weights = Weights(2, 3, array("f", [0.5, 0, 0, 1, 0, -1]).tobytes(), bytes(8))
    (tmp_path / "start.bin").write_bytes(weights.to_bytes())
    (tmp_path / "task.toml").write_text("# a comment\n" + begun("file", 'file = "start.bin"'))

    async def body(caller: Caller) -> None:
        command = ["--insecure", "--server", caller.address, "task", "create", str(tmp_path / "task.toml")]
        assert await asyncio.to_thread(main, command) == 0
        assert await caller.models("file") == [weights.digest]
        (task,) = (await caller.operate("ListTasks", control_pb2.ListTasksRequest())).tasks
        shape = parse_task(task.definition, "t").model
        assert shape is not None
        assert shape.initial == InitialSpec(file="start.bin", sha256=weights.digest)

    run(tmp_path, body)
    created, waiting = capsys.readouterr().out.splitlines()
    assert created == "created file (training, 2 rounds, population lab)"
    assert waiting == "  waiting for 1 of 1 device; no device of population lab has checked in yet"
    wide = begun("file", 'file = "start.bin"').replace("num_features = 3", "num_features = 65536")
    wide = wide.replace("num_classes = 2", "num_classes = 13")
    (tmp_path / "task.toml").write_text(wide)
    (tmp_path / "start.bin").write_bytes(bytes(4 * 13 * 65_537))
    assert main(["--insecure", "task", "create", str(tmp_path / "task.toml")]) == ConfigError.exit_code
    assert "begins at weights of 3407924 bytes; at most 3145728 can be sent with" in capsys.readouterr().err
