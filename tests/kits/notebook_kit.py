"""Runs the notebooks of docs/notebooks/ without Jupyter, and writes their outputs.

    python tests/notebook_kit.py docs/notebooks/tutorial.ipynb     # run it, and write the outputs of today into it

A notebook's code cells run in order in one Python process of their own; what a cell prints is its output. A cell ends
with a statement, not with an expression for Jupyter to show, so both show the same.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

TIME_LIMIT_S = 120

_RUNNER = """
import contextlib, io, json, sys
cells, names, outputs = json.load(sys.stdin), {"__name__": "__main__"}, []
for number, cell in enumerate(cells):
    with contextlib.redirect_stdout(io.StringIO()) as out:
        exec(compile(cell, f"cell {number}", "exec"), names)
    outputs.append(out.getvalue())
json.dump(outputs, sys.stdout)
"""


def read(notebook: Path) -> dict[str, Any]:
    return dict(json.loads(notebook.read_text(encoding="utf-8")))


def code_cells(content: dict[str, Any]) -> list[dict[str, Any]]:
    return [cell for cell in content["cells"] if cell["cell_type"] == "code"]


def source(cell: dict[str, Any]) -> str:
    return "".join(cell["source"])


def shown(cell: dict[str, Any]) -> str:
    """What the committed cell shows; it must be printed text alone."""
    if any((output["output_type"], output.get("name")) != ("stream", "stdout") for output in cell["outputs"]):
        raise ValueError(f"{source(cell)[:40]!r} has an output that is not printed text")
    return "".join("".join(output["text"]) for output in cell["outputs"])


def run(content: dict[str, Any], folder: Path) -> list[str]:
    """What each code cell prints, run in ``folder``."""
    done = subprocess.run(
        [sys.executable, "-c", _RUNNER],
        input=json.dumps([source(cell) for cell in code_cells(content)]),
        cwd=folder,
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    if done.returncode:
        raise RuntimeError(done.stderr)
    return list(json.loads(done.stdout))


def write_outputs(notebook: Path) -> None:
    content = read(notebook)
    with tempfile.TemporaryDirectory() as folder:
        outputs = run(content, Path(folder))
    for number, (cell, text) in enumerate(zip(code_cells(content), outputs, strict=True), start=1):
        cell["execution_count"] = number
        stream = {"name": "stdout", "output_type": "stream", "text": text.splitlines(keepends=True)}
        cell["outputs"] = [stream] if text else []
    notebook.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        write_outputs(Path(name))
