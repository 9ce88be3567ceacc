"""The figures of a demo: what ``report.json`` holds (docs/reference/report.md describes each)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edgefl.files import write_file


@dataclass(frozen=True)
class Person:
    """Accuracies of one person: of their own model and of the federated one, on their windows and on the others'."""

    name: str
    alone_own: float
    alone_others: float
    federated_own: float
    federated_others: float


@dataclass(frozen=True)
class Killed:
    """A process that was killed in ``round``, when the server had acknowledged so many updates of this round."""

    process: str
    round: int
    acknowledged: int
    back_seconds: float


@dataclass(frozen=True)
class Accuracies:
    """Shares of held-out windows that were classified right; the keys of ``report.json`` begin with ``accuracy_``.

    Of one model per person (``alone``), of the federated one and of the one from pooled data: on everyone's windows, on
    a person's own, and on those of all other people. The last two are means over people. ``federated`` and ``by_round``
    come from federated evaluation.
    """

    alone: float
    alone_own: float
    alone_others: float
    federated: float
    federated_own: float
    federated_others: float
    pooled: float
    pooled_others: float
    by_round: Sequence[float]


@dataclass(frozen=True)
class Report:
    """All figures. ``undisturbed_sha256``: of the model that a run makes in which nothing dies."""

    devices: int
    rounds: int
    accuracies: Accuracies
    people: Sequence[Person]
    killed: Sequence[Killed]
    updates: int
    update_bytes: int
    example_bytes: int
    bytes_up_per_report: float
    bytes_down_per_round: float
    agent_peak_rss_bytes: int
    server_peak_rss_bytes: int
    model_path: str
    model_sha256: str
    undisturbed_sha256: str
    tflite_max_abs_diff: float
    prediction: str
    seconds: float

    def as_dict(self) -> dict[str, Any]:
        """As ``report.json`` has it."""
        rest = asdict(self)
        accuracies = {f"accuracy_{name}": value for name, value in rest.pop("accuracies").items()}
        return {"devices": rest.pop("devices"), "rounds": rest.pop("rounds"), **accuracies, **rest}

    def write(self, path: Path) -> None:
        write_file(path, (json.dumps(self.as_dict(), indent=2) + "\n").encode())
