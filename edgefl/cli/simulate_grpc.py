"""``edgefl simulate --grpc``: the same tasks on a real server and real agents, as processes on loopback.

Each client becomes a device with a folder, an example store and an agent of its own; the rounds are those that the
server's watch stream tells, the models those that it exports. Everything is below one folder, whose logs errors name.

Invariants: what a round counts is what the simulation in one process counts, so the bits are the same; where that
would depend on which process is fastest, the run is refused. No process is left, however it ends.
"""

from __future__ import annotations

import shutil
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from edgefl.datasets import FederatedDataset
from edgefl.errors import ConfigError, ConflictError, EdgeFLError, StorageError
from edgefl.inputs.initial import check_no_start, create_request
from edgefl.launcher.folders import fill_stores, write_device, write_server
from edgefl.launcher.following import Follower
from edgefl.launcher.processes import Launcher, interrupt_when_terminated
from edgefl.operator.connection import Connection, Target
from edgefl.operator.models import download_model
from edgefl.operator.rounds import summaries
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.protocol.task import TaskKind, TaskSpec, check_name
from edgefl.settings import to_toml
from edgefl.simulation.fleet import hopeless, in_order, of_whole_fleet
from edgefl.simulation.holdings import deal, num_able
from edgefl.types import Weights
from edgefl.wire.control import task_status

MAX_DEVICES = 64
"""Each agent is a process of 48 MB, and half of the server's 128 places for check-ins must stay free (``pace``)."""

PATIENCE_S = 86_400.0
"""In place of the definition's ``selection_s`` and ``deadline_s``: a slow machine must not change who is counted."""

NO_BACKOFF = "backoff_max_s = 0\n"
"""A run here ends at once when a task cannot be finished, as it does in one process."""

POLL_S = 0.05

OnRound = Callable[[RoundSummary], None]


@dataclass(frozen=True)
class LiveTask:
    """A finished task: its ended rounds, and of a training the last model's digest and its ``.tflite`` file."""

    spec: TaskSpec
    rounds: tuple[RoundSummary, ...]
    version: int
    model_sha256: str = ""
    tflite: bytes = b""


def simulate_grpc(
    tasks: Sequence[tuple[TaskSpec, str]],
    data: FederatedDataset,
    out: Path | None,
    on_round: OnRound,
    initial: Mapping[str, Weights],
) -> list[LiveTask]:
    """Run ``tasks`` to their end on processes of their own; the results are in the order of ``tasks``.

    The fleet's folder is a new one in ``out``, or a temporary one, which is kept when the run fails. Raises
    ``ConfigError`` for what cannot run so, ``ConflictError`` for a task that cannot be finished, and
    ``UnavailableError`` when the server or an agent dies.
    """
    live = _live_tasks(tasks, data)
    folder = _new_folder(out)
    interrupt_when_terminated()
    try:
        with Launcher(folder) as fleet:
            target = _start(fleet, folder, live, data, initial)
            followers = _follow(fleet, folder, target, tasks, on_round)
            ended = [_result(spec, followers[spec.name], target) for spec, _ in tasks]
    except EdgeFLError:
        raise  # it names a log in the folder
    except BaseException:
        _forget(folder, out)
        raise
    _forget(folder, out)
    return ended


def _live_tasks(tasks: Sequence[tuple[TaskSpec, str]], data: FederatedDataset) -> list[TaskSpec]:
    """What the server gets. Raises ``ConfigError``."""
    for spec, _ in tasks:
        check_no_start(spec, "--grpc")
    if len(data.clients) > MAX_DEVICES:
        raise ConfigError(
            f"--grpc with {len(data.clients)} clients: each is a process of 48 MB; expected at most {MAX_DEVICES}. "
            "Take fewer (--clients), or --processes, which gives the same bits"
        )
    for client in data.clients:
        try:
            check_name("a client's id", client.client_id)
        except ConfigError as error:
            raise ConfigError(
                f"--grpc makes each client a device of its name: {error}; rename it in the data"
            ) from None
    holdings = deal(tasks, data.clients, data.held_out)
    return [_live(spec, num_able(spec.kind, holdings)) for spec, _ in in_order(tasks)]


def _live(spec: TaskSpec, able: int) -> TaskSpec:
    made, where = spec.round, f"--grpc with task {spec.name!r}"
    if made.goal < min(made.cohort_size, able):
        raise ConfigError(
            f"{where}: over_selection is {made.over_selection}, so the fastest devices would be counted, and the bits "
            "would depend on this machine; leave it out"
        )
    if made.goal > able:
        raise ConfigError(f"{where}: goal is {made.goal}, and {able} devices can take part; lower it")
    if 0 < made.candidates != able:
        raise ConfigError(
            f"{where}: candidates is {made.candidates}, and {able} devices can take part; leave it out: which of them "
            "wait when a round begins would depend on this machine"
        )
    made = replace(made, over_selection=1.0, selection_s=PATIENCE_S, deadline_s=PATIENCE_S)
    return of_whole_fleet(replace(spec, round=made), able)


def _new_folder(out: Path | None) -> Path:
    try:
        if out is not None:
            out.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(prefix="edgefl-grpc-", dir=out)).absolute()
    except OSError as error:
        raise StorageError(f"{out}: a folder cannot be made there: {error.strerror}") from None


def _forget(folder: Path, out: Path | None) -> None:
    if out is None:
        shutil.rmtree(folder, ignore_errors=True)


def _start(
    fleet: Launcher, folder: Path, tasks: Sequence[TaskSpec], data: FederatedDataset, initial: Mapping[str, Weights]
) -> Target:
    address = fleet.start_server(write_server(folder, NO_BACKOFF), "127.0.0.1:0")
    population = tasks[0].population
    configs = {one.client_id: write_device(folder, one, population, address, data) for one in data.clients}
    fill_stores(configs, data)
    target = Target(address, "simulate", insecure=True)
    with Connection(target) as server:
        for spec in tasks:
            server.call(server.control.CreateTask, create_request(spec.name, to_toml(spec), initial))
    for name, config in configs.items():
        fleet.start_device(name, config)
    return target


def _follow(
    fleet: Launcher, folder: Path, target: Target, tasks: Sequence[tuple[TaskSpec, str]], on_round: OnRound
) -> dict[str, Follower]:
    """Hand every round on as it ends, until all tasks are finished."""
    followers = {spec.name: Follower(target, spec.name, spec.rounds) for spec, _ in tasks}
    seen = dict.fromkeys(followers, 0)
    try:
        while True:
            over = all(follower.done for follower in followers.values())
            for name, follower in followers.items():
                rounds = list(follower.ended.values())
                new = rounds[seen[name] :]
                for summary in new:
                    on_round(summary)
                seen[name] = len(rounds)
                if new and new[-1].phase is Phase.ABANDONED:
                    _check_hope(rounds, folder, target, on_round)
                if follower.error is not None:
                    raise follower.error
            if over:
                return followers
            fleet.check()
            time.sleep(POLL_S)
    finally:
        for follower in followers.values():
            follower.stop()


def _check_hope(rounds: Sequence[RoundSummary], folder: Path, target: Target, on_round: OnRound) -> None:
    """Raises ``ConflictError`` for a task that will not be finished, after its last round was handed on."""
    name = rounds[-1].task
    with Connection(target) as server:
        answer = server.call(server.control.ListTasks, control_pb2.ListTasksRequest())
        if not hopeless(rounds, next(task_status(task) for task in answer.tasks if task.name == name)):
            return
        # The status is newer than the rounds: a later round may have suspended the task, and its word is still to come.
        late = list(summaries(server, name, follow=False, from_round=rounds[-1].round_num + 1))
    for summary in late:
        on_round(summary)
    reason = [*rounds, *late][-1].reason
    raise ConflictError(f"task {name!r} cannot be finished: {reason} (log: {folder / 'logs' / 'server.log'})")


def _result(spec: TaskSpec, follower: Follower, target: Target) -> LiveTask:
    rounds = tuple(follower.ended.values())
    version = max(follower.committed)
    if spec.kind is not TaskKind.TRAINING:
        return LiveTask(spec, rounds, version)
    with Connection(target) as server:
        models = server.call(server.control.ListModels, control_pb2.TaskRequest(name=spec.name)).models
        digest = next(model.content.sha256.hex() for model in models if model.version == version)
        return LiveTask(spec, rounds, version, digest, download_model(server, spec.name, version, "tflite"))
