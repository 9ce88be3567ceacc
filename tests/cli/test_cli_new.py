"""``edgefl new``: what it writes fits the data and passes every parser; what it prints makes a model."""

from __future__ import annotations

import json
import os
import random
import re
import shlex
import signal
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from edgefl.cli import new_files
from edgefl.cli.main import main
from edgefl.launcher.processes import Launcher
from edgefl.protocol.task import TaskKind, TaskSpec, parse_task
from edgefl.types import DType
from edgefl_device.config import load_config as load_device
from edgefl_server.config import load_config as load_server

TASKS = ("statistics.toml", "training.toml", "evaluation.toml")
BIN = Path(sys.executable).parent


@pytest.fixture(autouse=True)
def _in_an_empty_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("EDGEFL_SERVER", raising=False)


def write_csv(
    path: str,
    clients: int = 3,
    examples: int = 20,
    *,
    client: bool = True,
    split: bool = True,
    names: tuple[str, ...] = ("0", "1", "2"),
) -> None:
    """Three classes that two of four features tell apart; the features differ in their units."""
    chance = random.Random(7)
    rows = [",".join(["client"] * client + ["label"] + ["split"] * split + ["a", "b", "c", "d"])]
    for number in range(clients * examples):
        label = number % 3
        units = ((label == 1) * 900.0, (label == 2) * 0.01, 0.5, 0.0)
        values = [
            f"{center + chance.gauss(0, 0.1) * unit:.6g}" for center, unit in zip(units, (900, 0.01, 1, 1), strict=True)
        ]
        part = ["held_out" if number // clients % 5 == 0 else "train"] * split
        rows.append(",".join([f"house-{number % clients}"] * client + [names[label]] + part + values))
    Path(path).write_text("\n".join(rows))


def tasks_in(folder: str) -> dict[TaskKind, TaskSpec]:
    specs = [parse_task(file.read_text(), file.name) for name in TASKS if (file := Path(folder) / name).exists()]
    return {spec.kind: spec for spec in specs}


def commands(output: str) -> list[list[str]]:
    return [shlex.split(line) for line in re.findall(r"^  (edgefl.*)$", output, flags=re.MULTILINE)]


def test_the_files_fit_the_data_and_pass_every_parser(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("My houses (2).csv", clients=30, examples=40)
    assert main(["new", "My houses (2).csv"]) == 0
    folder = "my-houses-2-tasks"
    assert sorted(os.listdir(folder)) == sorted([*TASKS, "server.toml", "device.toml"])
    specs = tasks_in(folder)
    statistics, training, evaluation = (
        specs[kind] for kind in (TaskKind.STATISTICS, TaskKind.TRAINING, TaskKind.EVALUATION)
    )
    assert training.name == training.population == "my-houses-2"
    assert {spec.population for spec in specs.values()} == {"my-houses-2"}
    assert statistics.name == "my-houses-2-statistics"
    assert evaluation.evaluates == training.name
    assert training.model is not None
    assert training.model.standardize_by == statistics.name
    assert (training.model.num_features, training.model.num_classes) == (4, 3)
    assert (training.round.goal, training.round.minimum) == (20, 14)
    assert (statistics.round.goal, evaluation.round.goal) == (30, 30)
    assert statistics.statistics is not None
    assert statistics.statistics.feature_bound == 8192.0  # the largest is about 1200, and other devices' may be more
    device = load_device(Path(folder, "device.toml"))
    assert device.device.population == "my-houses-2"
    assert (device.examples.num_features, device.examples.num_classes) == (4, 3)
    assert load_server(Path(folder, "server.toml")).insecure
    output = capsys.readouterr().out
    assert "30 clients with 32 examples each (median), 4 features (float32), 3 classes: 0, 1, 2" in output


def test_the_printed_simulation_makes_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("mine.csv")
    assert main(["new", "mine.csv", "--out", "a folder/tasks"]) == 0
    simulate = commands(capsys.readouterr().out)[0]
    assert main([*simulate[1:], "--json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert float(rows[-1]["accuracy"]) == 1.0
    assert os.listdir("a folder/tasks/models") == ["mine.tflite"]


def test_people_who_are_held_out_enter_the_goal_of_the_evaluation_alone(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("mine.csv")
    assert main(["new", "mine.csv", "--held-out-clients", "1"]) == 0
    specs = tasks_in("mine-tasks")
    assert (specs[TaskKind.TRAINING].round.goal, specs[TaskKind.EVALUATION].round.goal) == (2, 3)
    simulate = commands(capsys.readouterr().out)[0]
    assert main([*simulate[1:], "--set", "rounds=2", "--json"]) == 0
    assert json.loads(capsys.readouterr().out.splitlines()[-1])["version"] == 2


def test_the_printed_commands_of_a_fleet_make_the_same_model(capsys: pytest.CaptureFixture[str]) -> None:
    """Real processes. Only the port is another: the printed one may be in use here. Labels are names."""
    write_csv("mine.csv", clients=2, names=("sit", "walk", "a run"))
    assert main(["new", "mine.csv"]) == 0
    simulate, _, add, _, create, _ = commands(capsys.readouterr().out)
    training = Path("mine-tasks/training.toml")
    training.write_text(training.read_text().replace("rounds = 50", "rounds = 3"))
    Path("mine-tasks/evaluation.toml").unlink()
    simulate, create = ([word for word in command if "evaluation" not in word] for command in (simulate, create))
    assert main([*simulate[1:], "--json"]) == 0
    assert load_device(Path("mine-tasks/device.toml")).examples.classes == ("a run", "sit", "walk")
    digest = json.loads(capsys.readouterr().out.splitlines()[-1])["model_sha256"]
    header, *rows = [line.split(",", 1) for line in Path("mine.csv").read_text().splitlines()]
    template = Path(add[add.index("--config") + 1]).read_text()
    with Launcher(Path("fleet")) as fleet:
        address = fleet.start_server(Path("mine-tasks/server.toml"), "127.0.0.1:0")
        for house in ("house-0", "house-1"):
            folder = Path("fleet", house)
            folder.mkdir()
            text = template.replace("device-1", house).replace("127.0.0.1:7443", address)
            (folder / "device.toml").write_text(text)
            own = [rest for client, rest in rows if client == house]
            (folder / "EXAMPLES.csv").write_text("\n".join([header[1], *own]))
            subprocess.run([BIN / add[0], *add[1:3], "device.toml", add[-1]], cwd=folder, check=True)
            fleet.start_device(house, folder / "device.toml")
        assert main(["--server", address, *create[1:]]) == 0
        assert main(["--server", address, "--insecure", "rounds", "mine"]) == 0
        capsys.readouterr()
        assert main(["--server", address, "--insecure", "models", "list", "mine", "--json"]) == 0
    models = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert digest in [model["sha256"] for model in models if model["version"] == 3]


def test_data_that_names_no_client_gets_some_and_is_told_how(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("mine.csv", clients=1, examples=90, client=False, split=False)
    assert main(["new", "mine.csv"]) == 0
    output = capsys.readouterr().out
    assert "add a column client" in output
    assert "add a column split" in output
    assert "--partition iid --clients 4" in output
    simulate = commands(output)[0]
    assert simulate[-6:-2] == ["--partition", "iid", "--clients", "4"]
    assert TaskKind.EVALUATION not in tasks_in("mine-tasks")
    assert tasks_in("mine-tasks")[TaskKind.TRAINING].round.goal == 4
    assert main(simulate[1:]) == 0
    capsys.readouterr()
    options = ["--partition", "by-class:1", "--clients", "3", "--partition-seed", "2"]
    assert main(["new", "mine.csv", "--name", "other", *options]) == 0
    assert commands(capsys.readouterr().out)[0][-8:-2] == options


def test_pictures_and_bytes_keep_their_type_and_scale(tmp_path: Path) -> None:
    chance = np.random.default_rng(1)
    for label, name in enumerate(("hat", "shoe")):
        Path("clothes", "train", name).mkdir(parents=True)
        Path("clothes", "held_out", name).mkdir(parents=True)
        for number in range(30):
            part = "held_out" if number % 5 == 0 else "train"
            pixels = chance.integers(0, 99, (4, 4)).astype(np.uint8) + np.uint8(100 * label)
            Image.fromarray(pixels).save(f"clothes/{part}/{name}/{number}.png")
    rows = {"features": chance.integers(-9, 9, (40, 3)).astype(np.int8), "labels": np.arange(40) % 2}
    np.savez("bytes.npz", **rows, clients=np.arange(40) % 4, scale=0.5, zero_point=3)
    for data, name in (("clothes", "clothes"), (str(tmp_path / "bytes.npz"), "bytes")):
        assert main(["new", data]) == 0
        device = load_device(Path(f"{name}-tasks/device.toml")).examples
        model = tasks_in(f"{name}-tasks")[TaskKind.TRAINING].model
        assert model is not None
        kind = (model.num_features, model.num_classes, model.dtype, model.scale, model.zero_point)
        assert kind == (
            (16, 2, DType.UINT8, float(np.float32(1 / 255)), 0) if name == "clothes" else (3, 2, DType.INT8, 0.5, 3)
        )
        assert kind == (device.num_features, device.num_classes, device.dtype, device.scale, device.zero_point)


def test_nothing_is_overwritten(capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("mine.csv")
    Path("empty").mkdir()
    assert main(["new", "mine.csv", "--out", "empty"]) == 0
    before = Path("empty/training.toml").read_bytes()
    for taken in ("empty", "mine.csv", "dangling"):
        if taken == "dangling":
            Path(taken).symlink_to("nothing")
        assert main(["new", "mine.csv", "--name", "other", "--out", taken]) == 80
        assert f"error: {taken} exists; nothing is overwritten" in capsys.readouterr().err
    assert Path("empty/training.toml").read_bytes() == before
    assert main(["new", "mine.csv", "--out", "mine.csv/below"]) == 74
    assert sorted(os.listdir()) == ["dangling", "empty", "mine.csv"]


def test_of_two_at_once_one_writes_all(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    write_csv("mine.csv")
    both = threading.Barrier(2)
    real = new_files.server_config

    def meet() -> str:
        both.wait(60)
        return real()

    monkeypatch.setattr(new_files, "server_config", meet)
    ends: list[int] = []
    calls = [threading.Thread(target=lambda: ends.append(main(["new", "mine.csv"]))) for _ in range(2)]
    for call in calls:
        call.start()
    for call in calls:
        call.join()
    assert sorted(ends) == [0, 80]
    assert "exists; choose another folder" in capsys.readouterr().err
    assert sorted(os.listdir()) == ["mine-tasks", "mine.csv"]


def test_an_interrupted_command_leaves_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    write_csv("mine.csv")
    from edgefl.cli import new

    real = new.write_file

    def interrupted(path: Path, data: bytes) -> None:
        if path.name == "device.toml":
            os.kill(os.getpid(), signal.SIGINT)
        real(path, data)

    monkeypatch.setattr(new, "write_file", interrupted)
    assert main(["new", "mine.csv"]) == 130
    assert os.listdir() == ["mine.csv"]


@pytest.mark.parametrize(
    ("text", "status", "said"),
    [
        (None, 65, "mine.csv cannot be read: No such file or directory"),
        ("", 65, "mine.csv is empty; expected a header line"),
        ("client,a\nann,1\n", 65, "mine.csv has no column 'label'"),
        ("client,label,a\nann,0,1\nbob,0,2\n", 65, "mine.csv has one class, '0'; expected two or more"),
        (
            "client,label,a,time\nann,0,1,1700000000\nann,1,1,5\n",
            65,
            "feature 2 of 2 reaches 1.7e+09; expected at most",
        ),
        ("client,label,a\nann,0,x\n", 65, "line 2, column 'a' is 'x'"),
    ],
)
def test_bad_data_is_one_line(text: str | None, status: int, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    if text is not None:
        Path("mine.csv").write_text(text)
    assert main(["new", "mine.csv"]) == status
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1
    assert not Path("mine-tasks").exists()


def test_names_are_made_of_any_file_name(capsys: pytest.CaptureFixture[str]) -> None:
    assert new_files.name_of("Ünï_2024.final") == "n-_2024.final"
    assert new_files.name_of("x" * 99) == "x" * 53
    write_csv("数据.csv")
    assert main(["new", "数据.csv"]) == 78
    assert "no task name can be made of '数据'; give one (--name)" in capsys.readouterr().err
    assert main(["new", "数据.csv", "--name", "Data"]) == 78
    assert main(["new", "数据.csv", "--name", "x" * 54]) == 78
    assert main(["new", "数据.csv", "--name", "data"]) == 0
    assert main(["new", "数据.csv", "--name", "d", "--clients", "3"]) == 78
    assert "--clients belongs to --partition; add it" in capsys.readouterr().err


def test_the_numbers_follow_the_data() -> None:
    def facts(**changed: int | float) -> new_files.Facts:
        usual = {"num_clients": 10, "num_held_out": 0, "num_features": 8, "usual_client": 100, "largest_client": 120}
        text = ["classes", "a", "b"]
        given = usual | {"largest_value": 3.0} | changed
        return new_files.Facts(
            source="x", num_classes=2, classes=tuple(text[1:]), dtype=DType.FLOAT32, quantization=None, **given
        )  # type: ignore[arg-type]

    def training(update: float = 0.1, **changed: int | float) -> TaskSpec:
        return new_files.parse(new_files.training_task(facts(**changed), "x", update), "x")

    goals = {2: (2, 2), 3: (3, 2), 20: (20, 14), 21: (20, 14), 600: (60, 40), 5000: (100, 67)}
    assert {n: (training(num_clients=n).round.goal, training(num_clients=n).round.minimum) for n in goals} == goals
    assert [training(usual_client=n).client.batch_size for n in (319, 320)] == [10, 32]  # type: ignore[union-attr]
    assert [training(num_features=n).client.learning_rate for n in (1000, 1001)] == [0.1, 0.03]  # type: ignore[union-attr]
    assert [training(update=norm).aggregator.norm_bound for norm in (0.0, 2.0, 2.1)] == [8.0, 8.0, 16.0]
    weights = {120: 10_000, 1001: 100_000, 10**7: 2**32 // 100}
    assert {n: training(largest_client=n).aggregator.max_weight for n in weights} == weights
    # A part that the sums of so many devices cannot hold is refused by the task's own rule.
    with pytest.raises(new_files.DataError, match="no task fits this data: x: goal 100 x max_weight 50000000 exceeds"):
        training(num_clients=1000, largest_client=50_000_000)
