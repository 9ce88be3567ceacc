"""Makes the stubs in ``edgefl/proto/v1`` from the ``.proto`` files, or checks that they are up to date.

    python protos/generate.py            # needs Python 3.11: the pinned tools have wheels for no newer one
    python protos/generate.py --check    # any Python, no tools: compares the digests of both sides

The stubs are made by the oldest supported tools, in an environment of their own under ``build/``: those stubs work with
every runtime from grpcio 1.51 / protobuf 4.21 on, while newer stubs do not import on older runtimes. ``--check``
compares the digests recorded by the last generation, so it finds an edited ``.proto`` and an edited stub alike.
"""

from __future__ import annotations

import argparse
import hashlib
import shutil
import subprocess
import sys
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "protos" / "edgefl" / "proto" / "v1"
STUBS = ROOT / "edgefl" / "proto" / "v1"
RECORD = STUBS / "STUBS.sha256"
TOOLS = ROOT / "build" / "proto-tools"
PACKAGES = ["grpcio-tools==1.51.1", "setuptools<81", "mypy-protobuf<3.7"]
WITH_SERVICES = {"fleet", "control"}


def digests() -> str:
    """One line a file, sources and stubs, in a fixed order."""
    files = sorted(SOURCES.glob("*.proto")) + sorted(STUBS.glob("*_pb2*.py")) + sorted(STUBS.glob("*_pb2*.pyi"))
    lines = (f"{hashlib.sha256(f.read_bytes()).hexdigest()}  {f.relative_to(ROOT).as_posix()}" for f in files)
    return "\n".join(lines) + "\n"


def tools() -> Path:
    """The interpreter of the tools' environment, made when it is missing."""
    python = TOOLS / "bin" / "python"
    if (TOOLS / "ready").exists():
        return python
    if sys.version_info[:2] != (3, 11):
        version = sys.version.split()[0]
        sys.exit(
            f"error: stubs are generated with Python 3.11, and this is {version}; run: make proto PYTHON=python3.11"
        )
    shutil.rmtree(TOOLS, ignore_errors=True)
    venv.create(TOOLS, with_pip=True)
    subprocess.run([python, "-m", "pip", "install", "-q", *PACKAGES], check=True)
    (TOOLS / "ready").touch()
    return python


def generate() -> None:
    python = tools()
    for old in STUBS.glob("*_pb2*"):
        old.unlink()
    for source in sorted(SOURCES.glob("*.proto")):
        outputs = [f"--python_out={ROOT}", f"--mypy_out=quiet:{ROOT}"]
        if source.stem in WITH_SERVICES:
            outputs += [f"--grpc_python_out={ROOT}", f"--mypy_grpc_out=quiet:{ROOT}"]
        command = [python, "-m", "grpc_tools.protoc", f"-I{ROOT / 'protos'}", *outputs, source]
        subprocess.run(command, check=True, env={"PATH": f"{TOOLS / 'bin'}:/usr/bin:/bin"})
    RECORD.write_text(digests())


def main() -> None:
    parser = argparse.ArgumentParser(description="Generate, or check, the protobuf stubs.")
    parser.add_argument("--check", action="store_true", help="only say whether the stubs are up to date")
    if not parser.parse_args().check:
        generate()
        return
    recorded = RECORD.read_text() if RECORD.exists() else ""
    if recorded != digests():
        sys.exit("error: the stubs in edgefl/proto/v1 are not those of protos/; run 'make proto'")


if __name__ == "__main__":
    main()
