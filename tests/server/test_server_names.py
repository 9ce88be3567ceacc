"""Every name of a registry can stand in a task file, and a real server runs a round of it over gRPC.

The lists are the registries' own, so a new file is covered by being there.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from server_kit import Caller, run
from small_fleet import fleet

from edgefl import learning
from edgefl.aggregators import AGGREGATORS
from edgefl.codecs import CODECS
from edgefl.learning.processes import PROCESSES
from edgefl.optimizers import OPTIMIZERS
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.messages import Accepted, Assignment
from edgefl.protocol.session_state import SessionConfig
from edgefl.protocol.task import TaskKind

DEVICES = ("a", "b")
PEOPLE = dict(zip(DEVICES, fleet(2), strict=True))
HELD_OUT = dict(zip(DEVICES, fleet(2, seed=8), strict=True))
KNOWN = SessionConfig(encodings=CODECS.names())

COMMON = """
name = "{name}"
population = "lab"
round = { goal = 2, minimum = 2, selection_s = 30.0 }
"""
MODEL = "model = { num_features = 5, num_classes = 3 }\n"
TABLES = {
    TaskKind.TRAINING: MODEL,
    TaskKind.EVALUATION: 'evaluates = "train"\n',
    TaskKind.PERSONALIZATION: 'evaluates = "train"\n',
    TaskKind.STATISTICS: MODEL + "statistics = { feature_bound = 64.0 }\nrounds = 2\n",
}
CLIENT = "client = { learning_rate = 0.1 }\n"
CLIENTS = {
    "fed_eval": "",
    "fed_sgd": "",
    "fed_statistics": "",
    "weighted_fed_prox": "client = { learning_rate = 0.1, proximal = 0.1 }\n",
}
"""Of processes that take no usual table [client]."""


def definition(process: str, more: str = "", *, name: str = "train") -> str:
    kind: TaskKind = PROCESSES.load(process).kind
    head = COMMON.replace("{name}", name) + f'kind = "{kind.value}"\nprocess = "{process}"\n'
    return head + TABLES[kind] + CLIENTS.get(process, CLIENT) + more


async def work(caller: Caller, device: str) -> None:
    """Check in until there is work, do it as a device does, and report it."""
    while True:
        outcome = (await caller.check_in(device, kinds=KNOWN.kinds, encodings=KNOWN.encodings)).outcome
        if isinstance(outcome, Assignment):
            break
    model = await caller.download(outcome.model_digest) if outcome.model_digest else b""
    update = learning.run_plan(outcome, model, PEOPLE[device].examples, HELD_OUT[device].examples, device)
    assert isinstance(await caller.report(device, update), Accepted)  # type: ignore[arg-type]


def run_rounds(folder: Path, *definitions: str) -> None:
    """A round of each task on one server, one task after the other."""

    async def body(caller: Caller) -> None:
        for text in definitions:
            task = await caller.create(text)
            await asyncio.gather(*(work(caller, device) for device in DEVICES))
            ended = await caller.ended(1, task.name)
            assert (ended.phase, ended.accepted, ended.version) == (control_pb2.ROUND_PHASE_COMMITTED, 2, 1)

    run(folder, body)


@pytest.mark.parametrize("process", PROCESSES.names())
def test_every_process(process: str, tmp_path: Path) -> None:
    if PROCESSES.load(process).kind in (TaskKind.EVALUATION, TaskKind.PERSONALIZATION):
        run_rounds(tmp_path, definition("weighted_fed_avg"), definition(process, name="other"))
    else:
        run_rounds(tmp_path, definition(process))


@pytest.mark.parametrize("name", AGGREGATORS.names())
def test_every_aggregator(name: str, tmp_path: Path) -> None:
    run_rounds(tmp_path, definition("weighted_fed_avg", f'aggregator = {{ name = "{name}" }}\n'))


@pytest.mark.parametrize("name", OPTIMIZERS.names())
def test_every_server_optimizer(name: str, tmp_path: Path) -> None:
    table = f'server_optimizer = {{ name = "{name}", learning_rate = 0.5 }}\n'
    run_rounds(tmp_path, definition("weighted_fed_avg", table))


@pytest.mark.parametrize("name", [name for name in CODECS.names() if CODECS.load(name).value_format == "f"])
def test_every_codec_of_deltas(name: str, tmp_path: Path) -> None:
    run_rounds(tmp_path, definition("weighted_fed_avg", f'encoding = "{name}"\n'))
