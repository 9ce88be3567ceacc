"""The round machine alone: processor time per report, by the number of reports that a round waits for.

Run by ``make bench-rounds``. A report is one ``step`` with ``UpdateAccepted``; every tenth member fails first. What a
report costs must not grow with the round (docs/benchmarks.md). The last line of the output is one JSON object.
"""

from __future__ import annotations

import argparse
import json
from statistics import median
from time import process_time

from edgefl.protocol.messages import ClientUpdate, WorkFailure
from edgefl.protocol.round import BaseModel, CandidatesWaiting, MemberFailed, RoundState, UpdateAccepted, step
from edgefl.protocol.task import RoundSpec

GOALS = (1_000, 4_000, 16_000)
DIGEST = "d" * 64
UPDATE = ClientUpdate("train", 1, DIGEST, "float32", b"", 1, 1, 1, 0)
FAILURE = WorkFailure("train", 1, "DataError", "no examples")


def seconds_of_a_round(goal: int) -> float:
    """From the first report of a full cohort to the last."""
    devices = tuple(f"device-{number:06}" for number in range(goal))
    state = RoundState("train", 7, RoundSpec(goal=goal, minimum=1), 1)
    state, _ = step(state, CandidatesWaiting(devices, BaseModel(0, DIGEST, 8)), 0.0)
    start = process_time()
    for number, device in enumerate(devices, start=1):
        if number % 10 == 5:
            state, _ = step(state, MemberFailed(device, FAILURE), 0.0)
        state, _ = step(state, UpdateAccepted(number, device, UPDATE), 0.0)
    return process_time() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--goals", type=int, nargs="+", default=GOALS)
    parser.add_argument("--turns", type=int, default=5)
    args = parser.parse_args()
    found: dict[int, list[float]] = {goal: [] for goal in args.goals}
    for _ in range(args.turns):
        for goal in args.goals:
            found[goal].append(seconds_of_a_round(goal) / goal * 1e6)
    for goal, figures in found.items():
        print(f"{goal:6} reports: {median(figures):6.2f} us per report ({min(figures):.2f} to {max(figures):.2f})")
    print(json.dumps({"us_per_report": {str(goal): median(figures) for goal, figures in found.items()}}))


if __name__ == "__main__":
    main()
