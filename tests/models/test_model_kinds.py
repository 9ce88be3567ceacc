"""Kinds of model: what a name in a task file builds, and a kind that an installed package adds."""

from __future__ import annotations

from pathlib import Path

import pytest
from entry_point_kit import install

from edgefl import SoftmaxModel
from edgefl.errors import ConfigError, DataError
from edgefl.learning.shapes import model_spec
from edgefl.models.kinds import MODELS, build_model
from edgefl.protocol import messages as m
from edgefl.protocol.task import ModelSpec, parse_task
from edgefl.settings import to_toml
from edgefl.types import Weights
from edgefl.wire.plan import plan_from_proto, plan_to_proto

OWN = """
from dataclasses import dataclass

from edgefl.models.kinds.softmax import SoftmaxModel


@dataclass(frozen=True)
class Repeated(SoftmaxModel):
    kind = "repeated"
    version = 3
    times: int = 2


MODEL = Repeated
"""

TASK = """
name = "training"
kind = "training"
population = "all"
[round]
goal = 2
minimum = 1
[client]
learning_rate = 0.1
[model]
num_features = 3
num_classes = 2
"""


@pytest.fixture
def own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    install(tmp_path, "own_models", {"repeated": OWN}, {MODELS.group: {"repeated": "own_models.repeated"}})
    monkeypatch.syspath_prepend(tmp_path)


def test_softmax_is_the_kind_of_a_definition_that_names_none() -> None:
    spec = parse_task(TASK, "a.toml")
    assert spec.model is not None
    assert spec.model.build() == SoftmaxModel(3, 2)
    assert model_spec(SoftmaxModel(3, 2)) == spec.model
    assert "version" not in to_toml(spec)


@pytest.mark.parametrize(
    ("line", "match"),
    [
        ('kind = "sofmax"', "model kind is 'sofmax'; expected one of .*softmax"),
        ("version = 2", "model kind 'softmax' of version 2; expected version 1"),
        ("options = { depth = 3 }", "model kind 'softmax' has no 'depth'; it has no options: leave it out"),
    ],
)
def test_a_kind_a_version_or_an_option_that_is_not_there_is_refused(line: str, match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        parse_task(TASK + line, "a.toml")


@pytest.mark.usefixtures("own")
def test_a_kind_of_an_installed_package_goes_through_definition_and_plan() -> None:
    text = TASK + 'kind = "repeated"\nversion = 3\noptions = { times = 5 }\n'
    spec = parse_task(text, "a.toml")
    assert spec.model is not None
    model = spec.model.build()
    assert (model.kind, model.version, model.options) == ("repeated", 3, {"times": 5})
    assert parse_task(to_toml(spec), "again") == spec
    assert model_spec(model) == spec.model
    plan = m.Plan(model, m.EvaluationWork(10), "int64")
    sent = plan_to_proto(plan)
    assert (sent.WhichOneof("model"), sent.named.kind, sent.named.version) == ("named", "repeated", 3)
    assert plan_from_proto(type(sent).FromString(sent.SerializeToString())) == plan


def test_a_plan_of_a_softmax_layer_is_the_one_that_the_first_agents_know() -> None:
    sent = plan_to_proto(
        m.Plan(build_model("softmax", 1, {}, num_features=3, num_classes=2), m.EvaluationWork(9), "int64")
    )
    assert sent.WhichOneof("model") == "softmax"


def test_weights_of_other_arrays_are_refused_by_name() -> None:
    two = Weights.of((("first", (1, 2)), ("second", (1,))), bytes(12))
    assert two.array("second").nbytes == 4
    with pytest.raises(DataError, match="these weights have no 'kernel'; they have first, second"):
        two.kernel  # noqa: B018
    with pytest.raises(DataError, match="a model of 8 bytes; expected 12"):
        Weights.of(two.shapes, bytes(8))


def test_a_definition_takes_no_kind_that_its_files_lack() -> None:
    assert "softmax" in MODELS.names()
    with pytest.raises(ConfigError, match="num_features is 0"):
        ModelSpec(0, 2)
