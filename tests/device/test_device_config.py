"""The device's configuration file, and the unit and example that are delivered with it."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest
from device_fleet import write_config
from places import ROOT

from edgefl.errors import ConfigError
from edgefl_device.config import load_config
from edgefl_device.main import main


def test_paths_are_relative_to_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_config(tmp_path / "d", examples='inbox = "in"')
    monkeypatch.chdir(tmp_path)
    config = load_config(Path("d/device.toml"))
    assert config.device.state_dir == tmp_path / "d" / "state"
    assert config.examples.inbox == tmp_path / "d" / "in"
    assert config.eligibility.min_examples == 1


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('name = "pi-01"', 'name = "Pi 01"', "name is 'Pi 01'; expected 1 to 64 of"),
        ('population = "watch"', 'popluation = "watch"', "unknown key 'popluation'; did you mean 'population'"),
        (
            "num_features = 4",
            "num_features = 0",
            "num_features is missing or 0; expected 1 or more, or the names: features",
        ),
        ("num_features = 4", 'num_features = "4"', "num_features is '4'; expected a whole number"),
        ("num_features = 4", "", "num_features is missing or 0"),
        ("num_classes = 3", "num_classes = 3\nscale = 0.5", "scale or zero_point with dtype 'float32'"),
        ("num_classes = 3", 'num_classes = 3\ndtype = "float64"', "expected one of float32, uint8, int8"),
        ("num_classes = 3", "num_classes = 3\nquota_bytes = 10", "quota_bytes is 10; expected 80"),
        ("num_classes = 3", "num_classes = 3\nmax_age_days = -1", "max_age_days is -1"),
        ("num_classes = 3", 'classes = ["a", "b", "a"]', "classes has 'a' twice"),
        ("num_classes = 3", 'num_classes = 3\nclasses = ["a", "b"]', "classes has 2 names and num_classes is 3"),
        ("num_features = 4", 'features = ["x", " y"]', "features[1] is ' y'; expected a name"),
        ("num_features = 4", 'features = ["x", "split"]', "features[1] is 'split'; expected a name, and not 'label'"),
        ("num_features = 4", 'features = ["x", "x"]', "features has 'x' twice"),
        ("num_features = 4", 'num_features = 4\nfeatures = ["x"]', "features has 1 names and num_features is 4"),
        ("[server]", "[eligibility]\nmin_examples = -1\n[server]", "min_examples is -1"),
        ("[server]", "[extra]\na = 1\n[server]", "unknown key 'extra'"),
        ("127.0.0.1:1", "127.0.0.1", "expected HOST:PORT"),
        ("127.0.0.1:1", "127.0.0.1:0", "expected the server's port"),
        ("[device]", "[device", "not valid TOML"),
    ],
)
def test_wrong_values_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    path = write_config(tmp_path)
    text = path.read_text()
    assert old in text
    path.write_text(text.replace(old, new))
    with pytest.raises(ConfigError, match=re.escape(message)) as caught:
        load_config(path)
    assert str(path) in str(caught.value)


def test_names_say_how_many_there_are(tmp_path: Path) -> None:
    path = write_config(tmp_path)
    text = path.read_text().replace("num_features = 4", 'features = ["x", "y"]')
    path.write_text(text.replace("num_classes = 3", 'classes = ["sit", "walk", "run"]'))
    spec = load_config(path).examples
    assert (spec.num_features, spec.num_classes, spec.max_examples > 0) == (2, 3, True)


@pytest.mark.parametrize("address", ["192.168.1.5:7443", "example.org:7443", "0.0.0.0:7443", "[2001:db8::1]:7443"])
def test_plaintext_stays_on_loopback(tmp_path: Path, address: str, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path, address)
    assert main(["run", "--config", str(path)]) == 78
    assert "is not loopback" in capsys.readouterr().err


def test_plaintext_must_be_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = write_config(tmp_path)
    path.write_text(path.read_text().replace("insecure = true", ""))
    assert main(["run", "--config", str(path)]) == 78
    assert "insecure = true" in capsys.readouterr().err
    load_config(path, insecure=True).server.check_transport()


@pytest.mark.parametrize("address", ["127.0.0.1:7443", "localhost:7443", "[::1]:7443"])
def test_loopback_is_loopback(tmp_path: Path, address: str) -> None:
    load_config(write_config(tmp_path, address)).server.check_transport()


def test_the_example_configuration_is_valid(tmp_path: Path) -> None:
    path = tmp_path / "device.toml"
    shutil.copy(ROOT / "device" / "device.example.toml", path)
    config = load_config(path)
    config.server.check_transport()
    assert config.device.state_dir == tmp_path / "state"


def test_the_unit_is_hardened() -> None:
    unit = ROOT / "device" / "edgefl-device.service"
    lines = unit.read_text().splitlines()
    for directive in ("NoNewPrivileges=yes", "ProtectSystem=strict", "CapabilityBoundingSet=", "WatchdogSec="):
        assert any(line.startswith(directive) for line in lines), directive
    if shutil.which("systemd-analyze") is None:  # a container without systemd: the lines above are all that can be held
        return
    command = ["systemd-analyze", "security", "--offline=true", "--threshold=20", str(unit)]
    result = subprocess.run(command, capture_output=True, text=True)
    assert result.returncode == 0, result.stdout[-200:]  # 20 means an exposure of 2.0


@pytest.mark.parametrize("arguments", [["--help"], ["run", "--help"], ["add", "--help"], ["predict", "--help"]])
def test_help_is_there(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 0
    assert "usage: edgefl-device" in capsys.readouterr().out


def test_the_version_is_told(capsys: pytest.CaptureFixture[str]) -> None:
    from edgefl import __version__

    with pytest.raises(SystemExit):
        main(["--version"])
    assert capsys.readouterr().out == f"edgefl-device {__version__}\n"
