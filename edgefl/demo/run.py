"""The demo from beginning to end.

    data -> folders -> server + ten agents -> statistics, training, evaluation -> release -> a prediction on a device

The script starts, kills and stops processes, and reads figures. It learns nothing itself but what the federation is
held against (``baselines``): the federated accuracies come from federated evaluation on the agents.
"""

from __future__ import annotations

import argparse
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edgefl.console.installed import typed
from edgefl.console.output import print_json
from edgefl.datasets import FederatedDataset, load
from edgefl.demo import fleet_view, prepare
from edgefl.demo.baselines import Baselines, Model, accuracy, on_others, train_baselines, undisturbed
from edgefl.demo.device_side import predict_on_device, traffic_of, wait_for_release
from edgefl.demo.display import Display, draw, plot_accuracy
from edgefl.demo.ending import nothing_lost, tell
from edgefl.demo.kills import DEVICE_SHARE, SERVER_SHARE, Kill, Watch, round_of
from edgefl.demo.report import Accuracies, Killed, Person, Report
from edgefl.demo.view import Row, View
from edgefl.errors import ConfigError, VerificationError
from edgefl.files import write_file
from edgefl.launcher import folders
from edgefl.launcher.following import Follower
from edgefl.launcher.processes import Child, Launcher, interrupt_when_terminated
from edgefl.operator.connection import RELEASE_TIMEOUT_S, Connection, Target
from edgefl.operator.models import FORMATS, download_model
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.task import TaskSpec
from edgefl.types import ClientDataset

RELEASE = "shoulder"
TITLE = "EdgeFL: ten people train one model; no data moves"
POLL_S = 0.1
ROUND_LIMIT = 1000
VICTIM = 4
"""The device whose agent is killed: one in the middle."""

ACKNOWLEDGED = 3
"""The server is killed when it has acknowledged so many updates of the round: there is something to lose."""


@dataclass
class Demo:
    """What the steps share: data, processes, and what is held against them."""

    out: Path
    rounds: int
    data: FederatedDataset
    tasks: dict[str, tuple[TaskSpec, Path]]
    configs: dict[str, Path]
    server_config: Path
    target: Target
    fleet: Launcher
    display: Display
    view: View
    baselines: Baselines
    undisturbed: Future[str]


def run_demo(args: argparse.Namespace) -> int:
    """The command. Returns 0, or raises ``EdgeFLError``; whatever happens, nothing is left running."""
    started = time.monotonic()
    kills = _kills(args)
    out = Path(args.out)
    display = Display(to_stderr=args.json)
    view = View(TITLE, args.rounds, kills=kills, started=started)
    with prepare.take_folder(out):
        interrupt_when_terminated()
        tasks = prepare.write_tasks(out, args.rounds, args.seed)
        try:
            with display.live(view), Launcher(out) as fleet:
                demo = _start(out, tasks, fleet, display, view)
                report = _finish(demo, _train(demo, kills), kills, started)
        except KeyboardInterrupt:
            raise KeyboardInterrupt("no process is left running") from None
        report.write(out / "report.json")
        nothing_lost(report)
        end = say(args, report, display)
        # Nobody has to wait for the pictures.
        draw(out / "summary.svg", "make demo", view, end)
        plot_accuracy(out / "accuracy.svg", report.accuracies)
    return 0


def _kills(args: argparse.Namespace) -> tuple[Kill, ...]:
    if not 1 <= args.rounds <= ROUND_LIMIT:
        raise ConfigError(f"--rounds {args.rounds}; expected 1 to {ROUND_LIMIT}")
    if args.no_kill and (args.kill_server or args.kill_device) is not None:
        raise ConfigError("--no-kill excludes --kill-server and --kill-device; leave one of them out")
    server = round_of("--kill-server", args.kill_server, SERVER_SHARE, args.rounds)
    device = round_of("--kill-device", args.kill_device, DEVICE_SHARE, args.rounds)
    if args.no_kill:
        return ()
    return (
        Kill("the server", server, after=ACKNOWLEDGED, rounds=args.rounds, is_server=True),
        Kill(f"person-{VICTIM}'s agent", device, after=0, rounds=args.rounds, is_server=False),
    )


def _start(out: Path, tasks: dict[str, tuple[TaskSpec, Path]], fleet: Launcher, display: Display, view: View) -> Demo:
    """Data, folders, server and agents; the server has the three tasks."""
    display.line("data: ten people with a smartwatch, seven shoulder exercises")
    view.server = "not yet: the data come first"
    data = load("watch")
    view.rows[:] = [Row(client.client_id, len(client), "stores data") for client in data.clients]
    view.server = "starting"
    server_config = folders.write_server(out)
    address = fleet.start_server(server_config, "127.0.0.1:0")
    view.server = f"listens on {address}"
    spec = tasks["training"][0]
    configs = {
        client.client_id: folders.write_device(out, client, spec.population, address, data) for client in data.clients
    }
    rows = {row.name: row for row in view.rows}
    folders.fill_stores(configs, data, lambda name: setattr(rows[name], "now", "has its data"))
    target = Target(address, "demo", insecure=True)
    with Connection(target) as server:
        for _, path in tasks.values():
            server.call(server.control.CreateTask, control_pb2.CreateTaskRequest(definition=path.read_text()))
    for name, config in configs.items():
        fleet.start_device(name, config)
        rows[name].now = "starting"
    display.line(f"running: edgefl-server on {address} and {len(configs)} edgefl-device agents, logs in {out / 'logs'}")
    baselines = train_baselines(spec, tasks["statistics"][0], data)
    view.alone = _mean(on_others(baselines.alone, data.held_out))
    view.pooled = accuracy(baselines.pooled, data.held_out)
    return Demo(
        out=out,
        rounds=spec.rounds,
        data=data,
        tasks=tasks,
        configs=configs,
        server_config=server_config,
        target=target,
        fleet=fleet,
        display=display,
        view=view,
        baselines=baselines,
        undisturbed=undisturbed(tasks, data),
    )


def _train(demo: Demo, kills: tuple[Kill, ...]) -> list[float]:
    """Follow the three tasks to their end, and kill whom it is time for; the accuracies by round."""
    wake = threading.Event()
    watch = Watch(kills, wake, lambda kill: _victim(demo, kill).hold())
    followers = {
        kind: Follower(demo.target, spec.name, spec.rounds, *([watch.saw] * (kind == "training")))
        for kind, (spec, _) in demo.tasks.items()
    }
    told: set[int] = set()
    try:
        over = False
        while not over:
            wake.wait(POLL_S)
            wake.clear()
            for kill in kills:
                if kill.due and kill.killed_at is None:
                    _strike(demo, kill, watch)
            over = all(follower.done for follower in followers.values()) and all(k.back_s is not None for k in kills)
            _look(demo, followers, kills)
            for number, kill in enumerate(kills):
                if number not in told and (kill.told or over):
                    told.add(number)
                    demo.display.line(kill.sentence())
            demo.display.rounds(demo.view)
    finally:
        for follower in followers.values():
            follower.stop()
    return demo.view.curve


def _look(demo: Demo, followers: dict[str, Follower], kills: tuple[Kill, ...]) -> None:
    """What the server and the devices do now, into the view. Raises when one of them is gone without being killed."""
    for follower in followers.values():
        if follower.error is not None:
            raise follower.error
    demo.fleet.check()
    demo.fleet.measure()
    kind = fleet_view.show_rounds(demo.view, followers)
    struck = [kill for kill in kills if kill.killed_at is not None and kill.back_s is None]
    for row, config, child in zip(demo.view.rows, demo.configs.values(), demo.fleet.devices, strict=True):
        status = fleet_view.read_status(config)
        if status.get("pid") != child.pid or status.get("phase") == "new":
            continue  # a process that is starting; the row says so
        for kill in struck:
            if child is demo.fleet.devices[VICTIM] and kill.killed_at is not None:
                kill.back_s = time.monotonic() - kill.killed_at
        fleet_view.show_device(row, status, kind, demo.view.round_num, demo.tasks["training"][0].name)


def _victim(demo: Demo, kill: Kill) -> Child:
    server = demo.fleet.server
    assert server is not None
    return server if kill.is_server else demo.fleet.devices[VICTIM]


def _strike(demo: Demo, kill: Kill, watch: Watch) -> None:
    """SIGKILL, and start it again: the server at once, as its service manager would; an agent likewise."""
    fleet, view = demo.fleet, demo.view
    _victim(demo, kill).kill()
    if not kill.is_server:
        watch.struck(kill, time.monotonic())
        view.rows[VICTIM].now = "killed"
        fleet.devices[VICTIM].start()
        return
    watch.struck(kill, killed_at := time.monotonic())
    view.server = "killed; it starts again"
    for row in view.rows:
        row.now = fleet_view.AWAY
    fleet.start_server(demo.server_config, demo.target.address)
    kill.back_s = time.monotonic() - killed_at


@dataclass(frozen=True)
class Released:
    """The federated model as it was released; ``max_abs_diff``: of its probabilities, as the server measured."""

    model: Model
    path: Path
    sha256: str
    version: int
    max_abs_diff: float


def _release(demo: Demo, evaluated: float) -> Released:
    """Release the last model; it must be the one that the devices evaluated."""
    spec = demo.tasks["training"][0]
    assert spec.model is not None
    demo.view.server = "writes the model as .tflite and checks it"
    with Connection(demo.target) as server:
        request = control_pb2.CreateReleaseRequest(name=RELEASE, task=spec.name, format=FORMATS["tflite"])
        answer = server.call(server.control.CreateRelease, request, timeout_s=RELEASE_TIMEOUT_S)
        tflite = download_model(server, spec.name, answer.model_version, "tflite")
        raw = download_model(server, spec.name, answer.model_version, "weights")
    path = demo.out / f"{RELEASE}.tflite"
    write_file(path, tflite)
    weights = spec.model.build().weights(raw)
    model = Model(weights, demo.baselines.standardization)
    mine = accuracy(model, demo.data.held_out)
    if mine != evaluated:
        raise VerificationError(f"federated evaluation says {evaluated}, the exported model {mine}; expected the same")
    release = answer.release
    return Released(model, path, release.content.sha256.hex(), release.version, answer.max_abs_diff)


def _finish(demo: Demo, by_round: list[float], kills: tuple[Kill, ...], started: float) -> Report:
    """Release the model, predict with it on a device, stop everything, and gather every figure."""
    data, view, fleet = demo.data, demo.view, demo.fleet
    released = _release(demo, by_round[-1])
    first = data.held_out[0]
    view.server = f"released the model; {first.client_id}'s device predicts with it"
    config = demo.configs[first.client_id]
    wait_for_release(config, RELEASE, released.version, fleet.check)
    told = predict_on_device(config, first, released.model, data.classes)
    fleet.measure()
    view.server = "stopping"
    fleet.close()  # an agent writes its last counts when it stops
    for row, device in zip(view.rows, demo.configs.values(), strict=True):
        has_it = f"{RELEASE} {released.version}" in fleet_view.read_status(device).get("releases", ())
        row.now = "has the model" if has_it else "stopped"
    view.server = "every process has stopped"
    costs = traffic_of(demo.configs[data.held_out[-1].client_id])
    accuracies, people = _accuracies(demo, released.model, by_round)
    updates = demo.rounds * len(demo.configs)
    view.seconds = time.monotonic() - started
    return Report(
        devices=len(demo.configs),
        rounds=demo.rounds,
        accuracies=accuracies,
        people=people,
        killed=[Killed(kill.who, kill.killed_round, kill.seen, kill.back_s or 0.0) for kill in kills],
        updates=updates,
        update_bytes=round(updates * costs.bytes_up_per_report),
        example_bytes=sum(_size(client) for client in (*data.clients, *data.held_out)),
        bytes_up_per_report=costs.bytes_up_per_report,
        bytes_down_per_round=costs.bytes_down_per_round,
        agent_peak_rss_bytes=max(device.peak_rss for device in fleet.devices),
        server_peak_rss_bytes=fleet.server.peak_rss if fleet.server else 0,
        model_path=str(released.path),
        model_sha256=released.sha256,
        undisturbed_sha256=demo.undisturbed.result(),
        tflite_max_abs_diff=max(released.max_abs_diff, told.max_abs_diff),
        prediction=told.sentence,
        seconds=view.seconds,
    )


def _accuracies(demo: Demo, federated: Model, by_round: list[float]) -> tuple[Accuracies, list[Person]]:
    alone, pooled, held_out = demo.baselines.alone, demo.baselines.pooled, demo.data.held_out

    def on_own(models: Sequence[Model]) -> list[float]:
        return [accuracy(model, [own]) for model, own in zip(models, held_out, strict=True)]

    same, pools = [federated] * len(held_out), [pooled] * len(held_out)
    columns = (on_own(alone), on_others(alone, held_out), on_own(same), on_others(same, held_out))
    accuracies = Accuracies(
        alone=_mean([accuracy(model, held_out) for model in alone]),
        alone_own=_mean(columns[0]),
        alone_others=_mean(columns[1]),
        federated=by_round[-1],
        federated_own=_mean(columns[2]),
        federated_others=_mean(columns[3]),
        pooled=accuracy(pooled, held_out),
        pooled_others=_mean(on_others(pools, held_out)),
        by_round=by_round,
    )
    return accuracies, [Person(own.client_id, *row) for own, *row in zip(held_out, *columns, strict=True)]


def say(args: argparse.Namespace, report: Report, display: Display) -> Callable[[Console], None]:
    """The end, for a person or as JSON; returns what writes it to another console."""

    def end(console: Console) -> None:
        plain = display.plain and console is display.words
        tell(console, report, typed(), Path(args.out), plain=plain, verbose=args.verbose)

    if args.json:
        print_json(report.as_dict())
    else:
        end(display.words)
    return end


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)


def _size(client: ClientDataset) -> int:
    """Bytes of the features and labels of a device's examples."""
    return len(client.examples.features) + len(client.examples.labels)
