"""A distribution of a user's own, as an installer would leave it: a package, and the metadata with its entry points."""

from __future__ import annotations

from pathlib import Path


def install(site: Path, package: str, files: dict[str, str], entry_points: dict[str, dict[str, str]]) -> None:
    """Put ``package`` with ``files`` (by module name) into the folder ``site``; ``entry_points`` by group and name."""
    (site / package).mkdir(parents=True)
    (site / package / "__init__.py").write_text("")
    for name, text in files.items():
        (site / package / f"{name}.py").write_text(text)
    metadata = site / f"{package}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0\n")
    lines = []
    for group, points in entry_points.items():
        lines += [f"[{group}]", *(f"{name} = {value}" for name, value in points.items())]
    (metadata / "entry_points.txt").write_text("\n".join(lines) + "\n")
