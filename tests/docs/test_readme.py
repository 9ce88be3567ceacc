"""The README's way to try one's own data, as it stands there."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from document_kit import DOCS

from edgefl.cli.main import main

TEXT = (DOCS.parent / "README.md").read_text(encoding="utf-8")


def test_the_commands_make_a_model_of_a_csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [
        f"{client},{label},{split},{label}.5,-{label}.25"
        for client in ("ann", "bob")
        for label in (0, 1, 2)
        for split in ("train", "held_out")
    ]
    (tmp_path / "mine.csv").write_text("\n".join(["client,label,split,a,b", *rows, ""]), encoding="utf-8")
    block = re.search(r"^```sh\n(source .*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    assert block is not None
    for command in block[1].splitlines()[1:]:
        assert main(shlex.split(command)[1:]) == 0
    model = re.search(r"That trained `(.*?)`", TEXT)
    assert model is not None
    assert (tmp_path / model[1]).stat().st_size > 500
    faults = re.search(r"^edgefl (simulate .*) --runs 100$", TEXT, flags=re.MULTILINE)
    assert faults is not None
    (tmp_path / "faults.toml").touch()
    assert main([*shlex.split(faults[1]), "--runs", "2"]) == 0


def test_the_python_program_makes_a_model(capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = re.findall(r"^```python\n(.*?)^```$", TEXT, flags=re.DOTALL | re.MULTILINE)
    exec(program, {})
    found = re.search(r"accuracy (\d\.\d+)", capsys.readouterr().out)
    assert found is not None
    assert float(found[1]) > 0.9
