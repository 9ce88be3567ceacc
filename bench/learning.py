"""What is learned: algorithms on Fashion-MNIST dealt unevenly to clients, and people of the watch data left out.

Run by ``make bench-learning``; docs/benchmarks.md says what the figures mean. Accuracies, not times: the same bits on
every machine, but for the extraction of the watch data's features. ``--tune`` chooses the algorithms' options instead
(``bench/algorithms.py``). The last line of the output is one JSON object; a plot is written to ``build/bench``.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from statistics import mean
from typing import Any

import people as left_out
from algorithms import (
    ALGORITHMS,
    COHORT_SIZE,
    MLP_ALGORITHMS,
    SEEDS,
    TARGET,
    TUNING_EXAMPLES,
    TUNING_SEEDS,
    Algorithm,
    Options,
    federation,
    first_examples,
    last,
    rounds_to_target,
    run,
)
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from edgefl import datasets
from edgefl.datasets import CentralDataset

BUILD = Path(__file__).resolve().parent.parent / "build" / "bench"
PERSON_FIGURES = ("federated", "alone", "pooled", "before", "personalized")

Curves = Mapping[str, list[list[float]]]
"""By algorithm: for each seed the test accuracy by round."""


def new_progress(console: Console) -> Progress:
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=console, transient=True)


def run_all(
    algorithms: Sequence[Algorithm], data: CentralDataset, seeds: Sequence[int], rounds: int, console: Console
) -> Curves:
    curves: dict[str, list[list[float]]] = {algorithm.name: [] for algorithm in algorithms}
    with new_progress(console) as progress:
        bar = progress.add_task("", total=len(seeds) * len(algorithms) * rounds)
        for seed in seeds:
            where = federation(data, seed)
            for algorithm in algorithms:
                progress.update(bar, description=f"seed {seed}, {algorithm.name}")
                found = run(algorithm, algorithm.chosen, where, rounds, partial(progress.advance, bar))
                curves[algorithm.name].append(found)
    return curves


def tune(algorithms: Sequence[Algorithm], data: CentralDataset, rounds: int, console: Console) -> dict[str, Options]:
    """The options of each algorithm with the best last accuracies, on examples that no figure is trained on."""
    kept = min(TUNING_EXAMPLES, len(data.train) // 6)
    validated = first_examples(data, len(data.train) - kept, kept)
    places = [federation(validated, seed) for seed in TUNING_SEEDS]
    chosen = {}
    for algorithm in algorithms:
        table = Table(*algorithm.grid, "last accuracy", "rounds to target", title=algorithm.name)
        scores: list[tuple[float, Options]] = []
        with new_progress(console) as progress:
            candidates = list(algorithm.candidates())
            bar = progress.add_task(algorithm.name, total=len(candidates) * len(places) * rounds)
            tick = partial(progress.advance, bar)
            for options in candidates:
                curves = [run(algorithm, options, place, rounds, tick) for place in places]
                scores.append((mean(map(last, curves)), options))
                reached = ", ".join(str(rounds_to_target(curve) or "never") for curve in curves)
                table.add_row(*map(str, options.values()), f"{scores[-1][0]:.4f}", reached)
        chosen[algorithm.name] = max(scores, key=lambda score: score[0])[1]
        console.print(table)
        console.print(f"{algorithm.name}: {chosen[algorithm.name]}", highlight=False)
    return chosen


def algorithm_row(algorithm: Algorithm, curves: list[list[float]]) -> dict[str, Any]:
    lasts = [round(last(curve), 4) for curve in curves]
    return {
        "algorithm": algorithm.name,
        "options": dict(algorithm.chosen),
        "rounds_to_target": [rounds_to_target(curve) for curve in curves],
        "last_accuracies": lasts,
        "last_accuracy": round(mean(lasts), 4),
    }


def person_rows(found: Sequence[left_out.Fold]) -> dict[str, Any]:
    figures = {name: [getattr(fold, name) for fold in found] for name in PERSON_FIGURES}
    rows = {
        name: {"mean": round(mean(values), 4), "min": round(min(values), 4), "max": round(max(values), 4)}
        for name, values in figures.items()
    }
    return {**rows, "folds": [asdict(fold) for fold in found]}


def print_algorithms(rows: Sequence[Mapping[str, Any]], title: str, console: Console) -> None:
    table = Table(
        "algorithm", "options", f"rounds to {TARGET:.2f}, by seed", "last accuracy", "lowest to highest", title=title
    )
    for row in rows:
        options = ", ".join(f"{name} {value:g}" for name, value in row["options"].items())
        reached = ", ".join(str(rounds or "never") for rounds in row["rounds_to_target"])
        spread = f"{min(row['last_accuracies']):.3f} to {max(row['last_accuracies']):.3f}"
        table.add_row(row["algorithm"], options, reached, f"{row['last_accuracy']:.3f}", spread)
    console.print(table)


def print_people(watch: Mapping[str, Any], rounds: int, console: Console) -> None:
    count = len(watch["folds"])
    table = Table(
        "", "accuracy", "lowest", "highest", title=f"watch, one person left out: {count} folds, {rounds} rounds"
    )
    for name in PERSON_FIGURES:
        row = watch[name]
        table.add_row(name, f"{row['mean']:.3f}", f"{row['min']:.3f}", f"{row['max']:.3f}")
    console.print(table)


def plot(curves: Curves, path: Path) -> None:
    """Accuracy by round: a line for each algorithm, the mean over its seeds, and a band from lowest to highest."""
    import matplotlib as mpl

    mpl.use("svg")
    mpl.rcParams["svg.hashsalt"] = "edgefl"  # the same figures give the same file
    import matplotlib.pyplot as plt

    figure, axes = plt.subplots(figsize=(7, 4))
    for name, by_seed in curves.items():
        columns = list(zip(*by_seed, strict=True))
        rounds = range(1, len(columns) + 1)
        [line] = axes.plot(rounds, list(map(mean, columns)), linewidth=1.5, label=name)
        axes.fill_between(rounds, list(map(min, columns)), list(map(max, columns)), alpha=0.12, color=line.get_color())
    axes.axhline(TARGET, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("round")
    axes.set_ylabel("test accuracy")
    axes.set_ylim(0.5, 0.9)
    axes.grid(alpha=0.3)
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, format="svg", metadata={"Date": None})
    figure.savefig(path.with_suffix(".png"), format="png", dpi=120)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(description="What federated algorithms reach on real data.")
    parser.add_argument("--examples", type=int, default=60_000, help="training examples of all clients (default 60000)")
    parser.add_argument("--rounds", type=int, default=150, help="of each algorithm (default 150)")
    parser.add_argument("--people-rounds", type=int, default=50, help="of each fold of the watch data (default 50)")
    parser.add_argument("--tune", action="store_true", help="choose the algorithms' options, and do nothing else")
    parser.add_argument("--mlp", action="store_true", help="compare a softmax layer with an mlp, and do nothing else")
    parser.add_argument("--quick", action="store_true", help="does it run, in seconds: its figures mean little")
    arguments = parser.parse_args()
    examples, rounds, people_rounds, num_folds = arguments.examples, arguments.rounds, arguments.people_rounds, None
    if arguments.quick:
        examples, rounds, people_rounds, num_folds = 2000, 12, 2, 2
    algorithms = MLP_ALGORITHMS if arguments.mlp else ALGORITHMS
    seeds = SEEDS[:2] if arguments.quick else SEEDS
    BUILD.mkdir(parents=True, exist_ok=True)
    console = Console(width=120)
    data = first_examples(datasets.load("fashion_mnist"), examples)
    if arguments.tune:
        print(json.dumps({"rounds": rounds, "seeds": TUNING_SEEDS, "chosen": tune(algorithms, data, rounds, console)}))
        return
    curves = run_all(algorithms, data, seeds, rounds, console)
    rows = [algorithm_row(algorithm, curves[algorithm.name]) for algorithm in algorithms]
    each = f"{examples:,} examples, {COHORT_SIZE} clients a round, {rounds} rounds, {len(seeds)} seeds"
    print_algorithms(rows, f"fashion_mnist: {each}", console)
    if arguments.mlp:
        print(json.dumps({"examples": examples, "rounds": rounds, "seeds": seeds, "algorithms": rows}))
        return
    plot(curves, BUILD / ("learning-quick.svg" if arguments.quick else "learning.svg"))
    people = datasets.load("watch")
    with new_progress(console) as progress:
        count = num_folds or len(people.clients)
        bar = progress.add_task("one person left out", total=count)
        found = left_out.folds(people, left_out.Settings(people_rounds), count, partial(progress.advance, bar))
    watch = person_rows(found)
    print_people(watch, people_rounds, console)
    settings = {"examples": examples, "rounds": rounds, "people_rounds": people_rounds, "seeds": seeds}
    print(json.dumps({**settings, "target": TARGET, "algorithms": rows, "watch": watch}))


if __name__ == "__main__":
    main()
