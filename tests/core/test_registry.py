"""One registry: a file's name is the name in a task file, other packages add names, and nothing loads unasked.

The entry points are read from the metadata of distributions in a folder on ``sys.path``, as an installer leaves them.
"""

from __future__ import annotations

import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from entry_point_kit import install
from places import ROOT
from script_kit import SCRIPT

from edgefl import learning, optimizers
from edgefl.aggregators import AGGREGATORS
from edgefl.codecs import CODECS
from edgefl.datasets.named import DATASETS
from edgefl.datasets.partitioners import PARTITIONERS
from edgefl.errors import ConfigError
from edgefl.learning.processes import PROCESSES
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.optimizers import OPTIMIZERS
from edgefl.protocol.sampling import SAMPLINGS
from edgefl.protocol.task import ServerOptimizerSpec, parse_task
from edgefl.registry import Registry
from edgefl.settings import to_toml

ALL = [AGGREGATORS, CODECS, DATASETS, OPTIMIZERS, PARTITIONERS, PROCESSES, SAMPLINGS]
EVERY_NAME = [(registry, name) for registry in ALL for name in registry.names()]
MINE = "AGGREGATOR = 'mine'\n"


@dataclass(frozen=True)
class Site:
    """A folder of installed packages. ``label``: no module of one test is another's."""

    path: Path
    label: str

    def add(self, package: str, text: str, *points: str, group: str = AGGREGATORS.group) -> None:
        """A package whose module ``mine`` holds ``text``, under the names ``points``."""
        package = f"{self.label}_{package}"
        install(self.path, package, {"mine": text}, {group: dict.fromkeys(points, f"{package}.mine")})


@pytest.fixture
def site(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Site:
    monkeypatch.syspath_prepend(str(tmp_path))
    return Site(tmp_path, f"pkg{abs(hash(request.node.name))}")


@pytest.mark.parametrize(("registry", "name"), EVERY_NAME, ids=lambda value: value if isinstance(value, str) else "")
def test_every_file_defines_what_its_registry_promises(registry: Registry, name: str) -> None:
    assert registry.load(name) is getattr(sys.modules[f"{registry.package}.{name}"], registry.attribute)


@pytest.mark.parametrize("registry", ALL, ids=lambda registry: registry.what)
def test_the_names_are_those_of_the_files_that_do_not_start_with_an_underscore(registry: Registry) -> None:
    folder = ROOT.joinpath(*registry.package.split("."))
    assert list(registry.names()) == sorted(f.stem for f in folder.glob("*.py") if not f.name.startswith("_"))
    assert registry.names()


def test_an_unknown_name_lists_what_there_is_and_suggests_a_near_one() -> None:
    with pytest.raises(ConfigError) as caught:
        AGGREGATORS.load("weihgted_mean")
    assert str(caught.value) == (
        f"aggregator is 'weihgted_mean'; expected one of {', '.join(AGGREGATORS.names())}; "
        "did you mean 'weighted_mean'?"
    )
    with pytest.raises(ConfigError, match=r"^process is 'xyz'; expected one of fed_eval, [a-z_, ]*$"):
        PROCESSES.load("xyz")


@pytest.mark.parametrize(
    "name", ["", "__init__", "_averaging", "processes.fed_sgd", "../registry", "FED_SGD", "fed_sgd "]
)
def test_a_name_that_is_no_registered_file_leads_to_no_import(name: str) -> None:
    with pytest.raises(ConfigError, match="expected one of"):
        PROCESSES.load(name)


def test_an_installed_package_adds_a_name_and_appears_among_the_suggestions(site: Site) -> None:
    site.add("one", MINE, "trimmed")
    assert AGGREGATORS.installed() == ("trimmed",)
    assert "trimmed" not in AGGREGATORS.names()
    assert AGGREGATORS.load("trimmed") == "mine"
    with pytest.raises(ConfigError, match=r"trimmed, .*did you mean 'trimmed'"):
        AGGREGATORS.load("trimed")
    with pytest.raises(ConfigError):  # in its own group alone
        OPTIMIZERS.load("trimmed")


def test_a_package_cannot_replace_a_file(site: Site) -> None:
    site.add("one", MINE, "weighted_mean")
    assert AGGREGATORS.load("weighted_mean").__module__ == "edgefl.aggregators.weighted_mean"
    assert AGGREGATORS.installed() == ()


def test_two_packages_of_one_name_are_an_error_that_names_both(site: Site) -> None:
    site.add("one", MINE, "trimmed")
    site.add("two", MINE, "trimmed")
    with pytest.raises(ConfigError, match=r"several installed packages \(\w+_one.mine, \w+_two.mine\); expected it in"):
        AGGREGATORS.load("trimmed")


def test_one_distribution_that_is_found_twice_counts_once(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    site.add("one", MINE, "trimmed")
    again = site.path / "again"
    again.mkdir()
    (again / "copy-1.0.dist-info").symlink_to(next(site.path.glob("*.dist-info")))
    monkeypatch.syspath_prepend(str(again))
    assert AGGREGATORS.load("trimmed") == "mine"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("import a_module_that_nobody_has\n", "does not load: No module named 'a_module_that_nobody_has'"),
        ("1 +\n", "does not load: invalid syntax"),
        ("1 / 0\n", "does not load: division by zero"),
        ("AGGREGATE = 1\n", "expected a module that defines AGGREGATOR"),
    ],
)
def test_a_package_that_is_broken_is_named(site: Site, text: str, said: str) -> None:
    site.add("one", text, "trimmed")
    with pytest.raises(ConfigError, match=f"aggregator 'trimmed' is '{site.label}_one.mine'.*{said}"):
        AGGREGATORS.load("trimmed")


OWN_OPTIMIZER = """
from dataclasses import dataclass
from edgefl.optimizers import Sgd
@dataclass(frozen=True)
class Mine(Sgd):
    name = "mine"
    strength: float = 3.0
OPTIMIZER = Mine
"""
DEFINITION = """
name = "t"
kind = "training"
population = "p"
round = { goal = 1, minimum = 1 }
model = { num_features = 2, num_classes = 2 }
client = { learning_rate = 0.1 }
"""


def test_options_of_ones_own_are_read_and_written_again(site: Site) -> None:
    site.add("one", OWN_OPTIMIZER, "mine", group=OPTIMIZERS.group)
    table = 'name = "mine"\nlearning_rate = 0.5\noptions = { strength = 4 }'
    text = f"{DEFINITION}[server_optimizer]\n{table}\n"
    spec = parse_task(text, "t.toml").server_optimizer
    built = spec.build()
    assert (built.name, built.strength, built.learning_rate) == ("mine", 4.0, 0.5)  # type: ignore[attr-defined]
    assert ServerOptimizerSpec.of(built).build() == built
    assert parse_task(to_toml(parse_task(text, "t.toml")), "t.toml").server_optimizer == spec
    trained = learning.build_weighted_fed_avg(SoftmaxModel(2, 2), optimizers.sgd(0.1), server_optimizer=built)
    assert trained.spec.server_optimizer.options == {"strength": 4.0}


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ("strenght = 1", "server optimizer 'sgd' has no 'strenght'; expected of learning_rate, momentum"),
        ("momentum = 0.5", "options has 'momentum', which is a key of .* itself; write it there"),
    ],
)
def test_options_that_are_not_the_optimizers_are_refused(options: str, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        parse_task(f"{DEFINITION}[server_optimizer.options]\n{options}\n", "t.toml")


def test_an_aggregator_gets_its_options_and_no_other() -> None:
    spec = parse_task(f"{DEFINITION}[aggregator.options]\ntrim = 0.1\n", "t.toml")
    with pytest.raises(ConfigError, match="aggregator 'weighted_mean' has no 'trim'; it has no options: leave it out"):
        learning.build_process(spec, None, None)


def test_codecs_come_from_no_package_for_devices_have_them_too(site: Site) -> None:
    site.add("one", "CODEC = 1\n", "mine", group="edgefl.codecs")
    with pytest.raises(ConfigError, match=r"^encoding is 'mine'; expected one of float32"):
        CODECS.load("mine")


def test_nothing_is_loaded_but_what_is_asked_for_and_metadata_for_unknown_names_alone() -> None:
    code = """
import sys
from edgefl.aggregators import AGGREGATORS
from edgefl.codecs import codec, names
from edgefl.datasets.named import DATASETS
from edgefl.learning.processes import PROCESSES
from edgefl.errors import ConfigError
def found():
    return sorted(m for m in sys.modules if m.startswith(
        ("edgefl.codecs.", "edgefl.aggregators.", "edgefl.datasets.named.", "edgefl.learning.processes.")))
AGGREGATORS.names(), DATASETS.names(), PROCESSES.names(), names()
assert found() == [], found()
codec("float32")
AGGREGATORS.load("weighted_mean")
assert found() == ["edgefl.aggregators.weighted_mean", "edgefl.codecs.float32"], found()
assert not {"importlib.metadata", "difflib", "numpy"} & set(sys.modules)
for registry in (codec, AGGREGATORS.load):
    try:
        registry("none")
    except ConfigError:
        print("importlib.metadata" in sys.modules)
"""
    done = subprocess.run([*SCRIPT, code], capture_output=True, text=True, check=False)
    assert (done.stdout, done.stderr) == ("False\nTrue\n", "")
