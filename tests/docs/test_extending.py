"""docs/extending.md is what it says: its package is installed by pip, its task names every part of it and is run.

A codec must be a file of EdgeFL itself. Here it stands in a second folder of the package ``edgefl.codecs``, which a
``sitecustomize`` module adds, so that the installation under test is left as it is.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from document_kit import blocks_of, files_of, write_files
from script_kit import SCRIPT
from server_kit import server_process

DOCUMENT = "extending.md"
CODEC = "edgefl/codecs/float16.py"
DEALT = " --partition in-runs:50 --clients 6"
ADD_FOLDER = "import edgefl.codecs\nedgefl.codecs.__path__.append({folder!r})\n"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every file of the page, and ``site``, into which its package is installed."""
    folder = tmp_path_factory.mktemp("extending")
    write_files(DOCUMENT, folder)
    (folder / "my_fleet/my_fleet/__init__.py").touch()
    (folder / "site").mkdir()
    options = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", "site")
    subprocess.run([sys.executable, "-m", "pip", "install", *options, "./my_fleet"], cwd=folder, check=True)
    codecs = (folder / CODEC).parent
    (folder / "site" / "sitecustomize.py").write_text(ADD_FOLDER.format(folder=str(codecs)))
    return folder


def execute(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """Run Python where the package is installed."""
    environment = {**os.environ, "PYTHONPATH": str(folder / "site")}
    return subprocess.run(
        [sys.executable, *command], cwd=folder, env=environment, capture_output=True, text=True, check=False
    )


def run(folder: Path, *command: str) -> str:
    done = execute(folder, *command)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def simulate(folder: Path, task: str, *more: str) -> list[dict[str, object]]:
    command = str(Path(sys.executable).with_name("edgefl"))
    answer = run(folder, command, "simulate", task, "--dataset", "corners", *more, "--json")
    return [json.loads(line) for line in answer.splitlines()]


def test_every_block_of_the_page_is_a_file_or_a_command() -> None:
    shown = [text for language in ("python", "toml") for text in blocks_of(DOCUMENT, language)]
    assert sorted(shown) == sorted(files_of(DOCUMENT).values())
    (commands,) = blocks_of(DOCUMENT, "sh")
    assert commands.splitlines() == [f"edgefl simulate training.toml --dataset corners{more}" for more in ("", DEALT)]


def test_the_tests_of_the_page_pass(folder: Path) -> None:
    assert "3 passed" in run(folder, "-m", "pytest", "-q", "-p", "no:cacheprovider", "my_fleet/tests")


def test_the_task_of_the_page_is_run_with_every_part_that_it_names(folder: Path) -> None:
    *rounds, last = simulate(folder, "training.toml")
    assert ([one["phase"] for one in rounds], last["version"]) == (["committed"] * 5, 5)
    code = """
from pathlib import Path
from edgefl import codecs, learning
from edgefl.protocol.task import parse_task
process = learning.build_process(parse_task(Path("training.toml").read_text(), "training.toml"), None, None)
print(*(type(part).__module__ for part in (process.aggregator, process.finalizer, process.finalizer.step.optimizer)))
print(process.aggregator.halvings, process.finalizer.step.optimizer.dead_zone, *codecs.names())
"""
    parts = "my_fleet.damped_mean my_fleet.cautious_fed_avg my_fleet.signum"
    assert run(folder, *SCRIPT[1:], code) == f"{parts}\n1.0 0.001 float16 float32 int64\n"


def test_the_task_of_the_page_keeps_every_promise_on_a_fleet_that_breaks(folder: Path) -> None:
    """Its server stores the text of a definition, options of a part from elsewhere among them, and reads it again."""
    (folder / "faults.toml").write_text("rounds = [3, 3]\nuntil_s = 5\n")
    command = str(Path(sys.executable).with_name("edgefl"))
    arguments = ("training.toml", "--dataset", "corners", "--faults", "faults.toml", "--runs", "2", "--json")
    found = json.loads(run(folder, command, "simulate", *arguments))
    assert (found["failure"], found["updates"]["lost"], found["rounds"]["committed"]) == (None, 0, 6)


PLAIN_SGD = (('name = "signum"', 'name = "sgd"'), ("dead_zone = 0.001\n", ""))
"""Steps of one size hide what the deltas' sizes were."""


MODELS_OF = """
import contextlib, io, json, sys
from edgefl.cli.main import main
for task in sys.argv[1:]:
    out = io.StringIO()
    with contextlib.redirect_stdout(out):
        assert main(["simulate", task, "--dataset", "corners", "--json"]) == 0
    print(json.loads(out.getvalue().splitlines()[-1])["model_sha256"])
"""
"""One process for all of them: to start it takes longer than a simulation."""


def test_each_part_of_the_task_changes_the_model(folder: Path) -> None:
    changes: list[tuple[tuple[str, str], ...]] = [
        (),
        (("halvings = 1", "halvings = 0"),),
        (("dead_zone = 0.001", "dead_zone = 0.1"),),
        PLAIN_SGD,
        (*PLAIN_SGD, ('encoding = "float16"\n', "")),
        (*PLAIN_SGD, ("goal = 6", "goal = 12")),
        (*PLAIN_SGD, ('name = "damped_mean"', 'name = "coordinate_median"'), ("halvings = 1\n", "")),
    ]
    names = []
    for change in changes:
        text = files_of(DOCUMENT)["training.toml"]
        for old, new in change:
            assert old in text
            text = text.replace(old, new)
        names.append(f"other-{len(names)}.toml")
        (folder / names[-1]).write_text(text)
    digests = run(folder, *SCRIPT[1:], MODELS_OF, *names).splitlines()
    assert len(digests) == len(changes)
    assert len(set(digests)) == len(changes)


def test_the_builder_of_the_page_trains(folder: Path) -> None:
    code = """
import edgefl
from edgefl import datasets, optimizers
from my_fleet.cautious_fed_avg import build_cautious_fed_avg
people = datasets.load("corners")
for goal in (6, 12):
    train = build_cautious_fed_avg(edgefl.SoftmaxModel(2, 3), optimizers.sgd(0.1), goal=goal)
    state, _ = train.next(train.initialize(), people.clients)
    print(sum(abs(v) for v in memoryview(state.model).cast("f")))
"""
    whole, half = map(float, run(folder, *SCRIPT[1:], code).split())
    assert half == pytest.approx(whole / 2, rel=1e-6)


def test_the_partitioner_of_the_page_deals_by_its_name_every_example_once(folder: Path) -> None:
    assert simulate(folder, "training.toml", *DEALT.split())[-1]["version"] == 5
    code = """
from edgefl import datasets
from edgefl.datasets.partition import parse
data = datasets.pooled(datasets.load("corners"))
people = datasets.partition(data, parse("in-runs:50", 6))
print(*(len(client) for client in people.clients))
"""
    sizes = [int(size) for size in run(folder, *SCRIPT[1:], code).split()]
    assert sum(sizes) == sum(4 * 3**n for n in range(6))
    assert [size % 50 for size in sizes[:-1]] == [0] * 5


@pytest.mark.parametrize("installed", [True, False])
def test_a_server_takes_the_task_where_the_package_is_installed(
    installed: bool, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(folder / "site") if installed else "")
    with server_process(tmp_path) as server:
        command = str(Path(sys.executable).with_name("edgefl"))
        address = server.wait_ready()
        done = execute(folder, command, "--insecure", "--server", address, "task", "create", "training.toml")
    if installed:
        assert done.returncode == 0, done.stderr
    else:
        assert "is 'signum'; expected one of adagrad, adam, sgd, yogi" in done.stderr
