"""The README's way to try one's own data, as it stands there."""

from __future__ import annotations

import re
import shlex
import shutil
from pathlib import Path

import pytest
from document_kit import DOCS

from edgefl.cli.main import main

ROOT = DOCS.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
HERE = {"num_features": 2, "num_classes": 3, "goal": 2, "minimum": 2, "rounds": 2}


def test_the_copied_tasks_run_over_a_csv_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for linked in re.findall(r"\((edgefl/cli/tasks/\w+\.toml)\)", TEXT):
        file = Path(shutil.copy(ROOT / linked, tmp_path))
        text = file.read_text(encoding="utf-8")
        for key, value in HERE.items():
            text = re.sub(rf"^{key} = .*$", f"{key} = {value}", text, flags=re.MULTILINE)
        file.write_text(text, encoding="utf-8")
    rows = [f"{client},{label},{label}.5,-{label}.25" for client in ("ann", "bob") for label in (0, 1, 2)]
    (tmp_path / "mine.csv").write_text("\n".join(["client,label,a,b", *rows, ""]), encoding="utf-8")
    command = re.search(r"^edgefl (simulate .* --out models/)$", TEXT, flags=re.MULTILINE)
    assert command is not None
    assert main(shlex.split(command[1])) == 0
    assert [file.name for file in (tmp_path / "models").iterdir()] == ["shoulder.tflite"]
