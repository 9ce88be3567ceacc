"""docs/from-tff.md: EdgeFL's side is run as it stands there, and says what the page says that it says."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from array import array
from pathlib import Path

import numpy as np
import pytest
from document_kit import DOCS, blocks_of, files_of, write_files

from edgefl import learning, optimizers
from edgefl.aggregators.unweighted_mean import UnweightedMean
from edgefl.cli.main import main
from edgefl.protocol.messages import TrainingWork
from edgefl.protocol.task import parse_task
from edgefl.types import Weights

DOCUMENT = "from-tff.md"
PAGE = (DOCS / DOCUMENT).read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["tutorial.py", "variants.py"])
def test_a_program_of_the_page_prints_what_stands_below_it(name: str, tmp_path: Path) -> None:
    write_files(DOCUMENT, tmp_path)
    done = subprocess.run([sys.executable, name], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    after = PAGE.partition(files_of(DOCUMENT)[name])[2]
    shown = re.search(r"^```text\n(.*?)^```$", after, flags=re.DOTALL | re.MULTILINE)
    assert shown is not None
    assert done.stdout == shown[1]


def test_the_task_of_the_page_makes_the_model_that_it_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_files(DOCUMENT, tmp_path)
    monkeypatch.chdir(tmp_path)
    (command,) = blocks_of(DOCUMENT, "sh")
    assert main([*command.split()[1:], "--json"]) == 0
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert f"accuracy {last['accuracy']:.4f} on" in PAGE
    assert f"`{last['model_sha256']}`" in PAGE


def test_every_block_of_edgefl_is_a_file_that_is_run() -> None:
    assert sorted(files_of(DOCUMENT)) == ["clothes.toml", "tutorial.py", "variants.py"]
    shown = [text for language in ("python", "toml") for text in blocks_of(DOCUMENT, language)]
    assert sorted(shown) == sorted(files_of(DOCUMENT).values())


def test_every_name_of_the_table_is_there() -> None:
    table = PAGE.partition("## Names")[2].partition("`variants.py`")[0]
    built = set(re.findall(r"`learning\.(build_\w+)", table))
    assert built
    assert all(callable(getattr(learning, name)) for name in built)
    of_optimizers = re.findall(r"`(?:optimizers)?\.(\w+)`", table)
    assert set(of_optimizers) == set(optimizers.OPTIMIZERS.names())


def test_unweighted_fed_prox_is_the_task_file_that_the_table_says() -> None:
    text = files_of(DOCUMENT)["clothes.toml"].replace('"weighted_fed_avg"', '"unweighted_fed_avg"')
    process = learning.build_process(parse_task(f"{text}proximal = 0.1\n", "task.toml"), None, None)
    assert isinstance(process, learning.TrainingProcess)
    assert isinstance(process.aggregator, UnweightedMean)
    work = process.plan(process.initialize()).work
    assert isinstance(work, TrainingWork)
    assert work.sgd.proximal == 0.1


def test_the_weights_are_turned_into_keras_layout_as_the_page_says() -> None:
    weights = Weights(2, 3, array("f", range(6)).tobytes(), bytes(8))
    (expression,) = re.findall(r"`(np\.frombuffer\(.*?)`", PAGE)
    assert eval(expression, {"np": np, "weights": weights}).tolist() == [[0, 3], [1, 4], [2, 5]]
