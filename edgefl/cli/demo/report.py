"""The figures of a demo: what ``report.json`` holds (docs/reference/report.md describes each)."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

from edgefl.files import write_file


@dataclass(frozen=True)
class Report:
    """Accuracies are shares of held-out windows. ``federated`` and ``by_round`` come from federated evaluation."""

    devices: int
    rounds: int
    accuracy_alone: float
    accuracy_alone_own: float
    accuracy_federated: float
    accuracy_pooled: float
    accuracy_by_round: Sequence[float]
    bytes_up_per_report: float
    bytes_down_per_round: float
    agent_peak_rss_bytes: int
    server_peak_rss_bytes: int
    model_path: str
    model_sha256: str
    tflite_max_abs_diff: float
    seconds: float

    def write(self, path: Path) -> None:
        write_file(path, (json.dumps(asdict(self), indent=2) + "\n").encode())
