"""The stubs are those of the ``.proto`` files, and the check that says so finds an edit on either side."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from places import ROOT

from edgefl.proto.v1 import control_pb2, fleet_pb2, plan_pb2

FOLDERS = ("protos/edgefl/proto/v1", "edgefl/proto/v1")


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """Only what the check reads, so that a test may edit it."""
    for folder in FOLDERS:
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "protos" / "generate.py", tmp_path / "protos")
    return tmp_path


def check(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", root / "protos" / "generate.py", "--check"]
    return subprocess.run(command, capture_output=True, text=True, check=False)


def test_the_stubs_are_up_to_date() -> None:
    done = check(ROOT)
    assert (done.returncode, done.stderr) == (0, "")


def test_the_check_needs_only_the_files(copy: Path) -> None:
    assert check(copy).returncode == 0


@pytest.mark.parametrize(
    "name", [f"{FOLDERS[0]}/fleet.proto", f"{FOLDERS[1]}/plan_pb2.py", f"{FOLDERS[1]}/control_pb2_grpc.pyi"]
)
def test_an_edit_on_either_side_is_found(copy: Path, name: str) -> None:
    with (copy / name).open("a") as file:
        file.write("\n")
    done = check(copy)
    assert done.returncode == 1
    assert done.stderr == "error: the stubs in edgefl/proto/v1 are not those of protos/; run 'make proto'\n"


@pytest.mark.parametrize("name", [f"{FOLDERS[0]}/new.proto", f"{FOLDERS[1]}/new_pb2.py"])
def test_a_new_file_on_either_side_is_found(copy: Path, name: str) -> None:
    (copy / name).touch()
    assert check(copy).returncode == 1


@pytest.mark.parametrize("name", [f"{FOLDERS[1]}/fleet_pb2_grpc.py", f"{FOLDERS[1]}/STUBS.sha256"])
def test_a_missing_file_is_found(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert check(copy).returncode == 1


def test_the_record_names_no_place_of_a_machine() -> None:
    lines = (ROOT / FOLDERS[1] / "STUBS.sha256").read_text().splitlines()
    names = [line.split("  ")[1] for line in lines]
    assert all(name.startswith(("protos/", "edgefl/")) for name in names)
    assert len(names) == len(set(names))


def test_no_message_carries_the_identity_of_its_sender() -> None:
    requests = [
        *(method.input_type for method in fleet_pb2.DESCRIPTOR.services_by_name["Fleet"].methods),
        fleet_pb2.ClientUpdate.DESCRIPTOR,
        fleet_pb2.WorkFailure.DESCRIPTOR,
    ]
    for message in requests:
        assert not {"device", "name", "client", "device_id", "identity"} & {field.name for field in message.fields}


def test_every_enum_begins_with_unspecified() -> None:
    for module in (plan_pb2, fleet_pb2, control_pb2):
        for enum in module.DESCRIPTOR.enum_types_by_name.values():
            assert enum.values_by_number[0].name.endswith("_UNSPECIFIED")
