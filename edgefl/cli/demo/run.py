"""The demo from beginning to end.

    data -> folders -> server + ten agents -> statistics, training, evaluation -> release -> a prediction on a device

The script starts and stops processes, and reads figures. It never learns anything itself but the two baselines: the
federated accuracies come from federated evaluation on the agents.
"""

from __future__ import annotations

import argparse
import time
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console

from edgefl.cli.connection import RELEASE_TIMEOUT_S, Connection, Target
from edgefl.cli.demo import prepare
from edgefl.cli.demo.baselines import Model, accuracy, train_centrally
from edgefl.cli.demo.device_side import DeviceTraffic, predict_on_device, traffic_of, wait_for_release
from edgefl.cli.demo.display import Display, Row, plot_accuracy, print_accuracies, print_costs
from edgefl.cli.demo.report import Report
from edgefl.cli.fleet import folders
from edgefl.cli.fleet.following import Follower
from edgefl.cli.fleet.processes import Fleet, interrupt_when_terminated
from edgefl.cli.models import FORMATS, download_model
from edgefl.datasets import FederatedDataset, load, pool
from edgefl.errors import ConfigError, VerificationError
from edgefl.files import write_file
from edgefl.learning import StatisticsProcess, build_process
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.task import TaskSpec
from edgefl.types import Standardization, Weights

RELEASE = "shoulder"
SHOWS = {"statistics": "", "training": "training", "evaluation": "held-out"}
POLL_S = 0.1
ROUND_LIMIT = 1000


@dataclass
class Demo:
    """What the steps share: options, data, processes."""

    out: Path
    rounds: int
    kill_server: int | None
    kill_device: int | None
    data: FederatedDataset
    tasks: dict[str, tuple[TaskSpec, Path]]
    configs: dict[str, Path]
    server_config: Path
    target: Target
    fleet: Fleet
    display: Display


@dataclass(frozen=True)
class Baselines:
    """The models of people alone (with their rows of the table) and of the pooled data."""

    standardization: Standardization
    people: tuple[Row, ...]
    pooled: Model


def run_demo(args: argparse.Namespace) -> int:
    """The command. Returns 0, or raises ``EdgeFLError``; whatever happens, nothing is left running."""
    for name in ("kill_server", "kill_device"):
        value = getattr(args, name)
        if value is not None and not 1 <= value < args.rounds:
            raise ConfigError(f"--{name.replace('_', '-')} {value}; expected 1 to {args.rounds - 1}")
    if not 1 <= args.rounds <= ROUND_LIMIT:
        raise ConfigError(f"--rounds {args.rounds}; expected 1 to {ROUND_LIMIT}")
    started = time.monotonic()
    interrupt_when_terminated()
    out = Path(args.out)
    display = Display()
    prepare.fresh_folder(out)
    display.step("data: ten people with a smartwatch, seven shoulder exercises")
    data = load("watch")
    tasks = prepare.write_tasks(out, args.rounds, args.seed)
    with Fleet(out) as fleet:
        demo = _start(args, out, data, tasks, fleet, display)
        followers, baselines = _train(demo)
        report = _finish(demo, followers, baselines, started)
    report.write(out / "report.json")
    display.step(
        f"wrote report.json, accuracy.svg, summary.svg and {RELEASE}.tflite in {out}; took {report.seconds:.0f} s"
    )
    return 0


def _start(
    args: argparse.Namespace,
    out: Path,
    data: FederatedDataset,
    tasks: dict[str, tuple[TaskSpec, Path]],
    fleet: Fleet,
    display: Display,
) -> Demo:
    server_config = folders.write_server(out)
    address = fleet.start_server(server_config, "127.0.0.1:0")
    population = tasks["training"][0].population
    configs = {
        client.client_id: folders.write_device(out, client, population, address, data) for client in data.clients
    }
    folders.fill_stores(configs, data)
    target = Target(address, "demo", insecure=True)
    with Connection(target) as server:
        for _, path in tasks.values():
            server.call(server.control.CreateTask, control_pb2.CreateTaskRequest(definition=path.read_text()))
    for name, config in configs.items():
        fleet.start_device(name, config)
    display.step(
        f"running: edgefl-server on {address} and {len(configs)} edgefl-device agents (logs in {out / 'logs'})"
    )
    return Demo(
        out=out,
        rounds=args.rounds,
        kill_server=args.kill_server,
        kill_device=args.kill_device,
        data=data,
        tasks=tasks,
        configs=configs,
        server_config=server_config,
        target=target,
        fleet=fleet,
        display=display,
    )


def _train(demo: Demo) -> tuple[dict[str, Follower], Baselines]:
    """Follow the three tasks to their end; train the baselines meanwhile; kill what was asked to be killed."""
    followers = {
        kind: Follower(demo.target, spec.name, spec.rounds, SHOWS[kind]) for kind, (spec, _) in demo.tasks.items()
    }
    baselines = _baselines(demo)
    kills = {"server": demo.kill_server, "device": demo.kill_device}
    try:
        with demo.display.rounds(tuple(followers.values())) as bars:
            while not all(f.done for f in followers.values()):
                for follower in followers.values():
                    bars.update(follower)
                    if follower.error is not None:
                        raise follower.error
                for victim, after in kills.items():
                    if after is not None and len(followers["training"].committed) >= after:
                        kills[victim] = None
                        bars.say(_kill(demo, victim))
                demo.fleet.check()
                demo.fleet.measure()
                time.sleep(POLL_S)
            for follower in followers.values():
                bars.update(follower)
    finally:
        for follower in followers.values():
            follower.stop()
    return followers, baselines


def _kill(demo: Demo, victim: str) -> str:
    fleet = demo.fleet
    if victim == "server":
        assert fleet.server is not None
        fleet.server.kill()
        fleet.start_server(demo.server_config, demo.target.address)
        return "killed edgefl-server (SIGKILL) and started it again"
    fleet.devices[0].kill()
    fleet.devices[0].start()
    return f"killed {fleet.devices[0].name} (SIGKILL) and started it again"


def _baselines(demo: Demo) -> Baselines:
    data, spec = demo.data, demo.tasks["training"][0]
    statistics = build_process(demo.tasks["statistics"][0], None, None)
    assert isinstance(statistics, StatisticsProcess)
    standardization = statistics(data.clients)
    people = []
    for client, own in zip(data.clients, data.held_out, strict=True):
        model = train_centrally(spec, client.examples, client.client_id, standardization)
        people.append(Row(client.client_id, accuracy(model, [own]), accuracy(model, data.held_out)))
    pooled = train_centrally(spec, pool(data.clients), "pooled", standardization)
    return Baselines(standardization, tuple(people), pooled)


def _finish(demo: Demo, followers: dict[str, Follower], baselines: Baselines, started: float) -> Report:
    """Release the model, predict with it on a device, and gather every figure."""
    spec = demo.tasks["training"][0]
    assert spec.model is not None
    with Connection(demo.target) as server:
        request = control_pb2.CreateReleaseRequest(name=RELEASE, task=spec.name, format=FORMATS["tflite"])
        release = server.call(server.control.CreateRelease, request, timeout_s=RELEASE_TIMEOUT_S)
        tflite = download_model(server, spec.name, release.model_version, "tflite")
        raw = download_model(server, spec.name, release.model_version, "weights")
    sha256 = release.release.content.sha256.hex()
    model_path = demo.out / f"{RELEASE}.tflite"
    write_file(model_path, tflite)
    federated = Model(
        Weights.from_bytes(raw, spec.model.num_classes, spec.model.num_features), baselines.standardization
    )
    by_round = _accuracies(followers["evaluation"])
    mine = accuracy(federated, demo.data.held_out)
    if mine != by_round[-1]:
        raise VerificationError(
            f"federated evaluation says {by_round[-1]}, the exported model {mine}; expected the same"
        )
    first = demo.data.held_out[0]
    config = demo.configs[first.client_id]
    wait_for_release(config, RELEASE, release.release.version, demo.fleet.check)
    told = predict_on_device(config, first, federated, demo.data.classes)
    demo.fleet.measure()
    demo.fleet.close()  # an agent writes its last counts when it stops
    costs = traffic_of(demo.configs[demo.data.held_out[-1].client_id])
    report = Report(
        devices=len(demo.configs),
        rounds=demo.rounds,
        accuracy_alone=sum(p.everyone for p in baselines.people) / len(baselines.people),
        accuracy_alone_own=sum(p.own for p in baselines.people) / len(baselines.people),
        accuracy_federated=by_round[-1],
        accuracy_pooled=accuracy(baselines.pooled, demo.data.held_out),
        accuracy_by_round=by_round,
        bytes_up_per_report=costs.bytes_up_per_report,
        bytes_down_per_round=costs.bytes_down_per_round,
        agent_peak_rss_bytes=max(d.peak_rss for d in demo.fleet.devices),
        server_peak_rss_bytes=demo.fleet.server.peak_rss if demo.fleet.server else 0,
        model_path=str(model_path),
        model_sha256=sha256,
        tflite_max_abs_diff=max(release.max_abs_diff, told.max_abs_diff),
        seconds=time.monotonic() - started,
    )
    _show(demo, report, federated, baselines, told.sentence, costs)
    return report


def _accuracies(evaluation: Follower) -> list[float]:
    return [summary.metrics.accuracy for summary in evaluation.in_order() if summary.metrics is not None]


def _show(
    demo: Demo, report: Report, federated: Model, baselines: Baselines, sentence: str, costs: DeviceTraffic
) -> None:
    def means(name: str, model: Model, everyone: float) -> Row:
        own = [accuracy(model, [client]) for client in demo.data.held_out]
        return Row(name, sum(own) / len(own), everyone)

    rows = [
        Row("one person alone, mean", report.accuracy_alone_own, report.accuracy_alone),
        means("federated", federated, report.accuracy_federated),
        means("all data pooled", baselines.pooled, report.accuracy_pooled),
    ]
    up, down = report.bytes_up_per_report, report.bytes_down_per_round
    agent, server = report.agent_peak_rss_bytes / 1e6, report.server_peak_rss_bytes / 1e6
    lines = [
        ("up", f"{up:,.0f} bytes a training report; {costs.total_up:,} in all from one device"),
        ("down", f"{down:,.0f} bytes a round with its evaluation; {costs.total_down:,} in all to one device"),
        ("peak memory", f"agent {agent:.1f} MB, server {server:.1f} MB"),
        ("model", f"SHA-256 {report.model_sha256}"),
        ("TFLite", f"within {report.tflite_max_abs_diff:.1e} of the kernel's probabilities"),
        ("prediction", sentence),
    ]

    def show(console: Console) -> None:
        print_accuracies(console, baselines.people, rows)
        print_costs(console, lines)

    demo.display.finish(demo.out / "summary.svg", show)
    plot_accuracy(demo.out / "accuracy.svg", report.accuracy_by_round, report.accuracy_alone, report.accuracy_pooled)
