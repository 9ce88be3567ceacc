"""docs/notebooks/: every notebook runs, and shows what it shows today (tests/notebook_kit.py)."""

from __future__ import annotations

import re
from pathlib import Path

import notebook_kit
import pytest
from document_kit import DOCS

NOTEBOOKS = sorted((DOCS / "notebooks").glob("*.ipynb"))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_shows_what_it_prints_today(notebook: Path, tmp_path: Path) -> None:
    content = notebook_kit.read(notebook)
    cells = notebook_kit.code_cells(content)
    hint = f"python tests/notebook_kit.py {notebook.relative_to(DOCS.parent)} writes the outputs of today"
    for cell, printed in zip(cells, notebook_kit.run(content, tmp_path), strict=True):
        assert notebook_kit.shown(cell) == printed, hint
    assert [cell["execution_count"] for cell in cells] == list(range(1, len(cells) + 1))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda notebook: notebook.stem)
def test_a_notebook_is_of_a_form_that_jupyter_opens(notebook: Path) -> None:
    content = notebook_kit.read(notebook)
    assert (content["nbformat"], content["nbformat_minor"]) == (4, 5)
    assert len({cell["id"] for cell in content["cells"]}) == len(content["cells"])
    for cell in content["cells"]:
        needed = {"code": {"execution_count", "outputs"}, "markdown": set()}[cell["cell_type"]]
        assert cell.keys() == {"cell_type", "id", "metadata", "source"} | needed
        for target in re.findall(r"\]\((\.\./[\w.-]+)\)", notebook_kit.source(cell)):
            assert (notebook.parent / target).exists()


def test_a_cell_that_fails_is_told(tmp_path: Path) -> None:
    cells = [{"cell_type": "code", "source": ["x = 1\n", "print(x)"]}, {"cell_type": "code", "source": ["x / 0"]}]
    assert notebook_kit.run({"cells": cells[:1]}, tmp_path) == ["1\n"]
    with pytest.raises(RuntimeError, match=r"cell 1[\s\S]*ZeroDivisionError"):
        notebook_kit.run({"cells": cells}, tmp_path)


def test_the_tutorial_is_that_of_the_page() -> None:
    """The page and the notebook train the same model; their digests are one."""
    page = (DOCS / "from-tff.md").read_text(encoding="utf-8")
    (tutorial,) = (notebook for notebook in NOTEBOOKS if notebook.stem == "tutorial")
    shown = "".join(map(notebook_kit.shown, notebook_kit.code_cells(notebook_kit.read(tutorial))))
    digests = re.findall(r"\b[0-9a-f]{64}\b", shown)
    assert digests
    assert all(digest in page for digest in digests)
