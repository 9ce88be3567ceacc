"""A round's metrics as the database holds them: JSON. A version computed again is compared with this very text."""

from __future__ import annotations

import dataclasses
import json

from edgefl.protocol.process import ClientAccuracies, Gains, RoundMetrics


def write_metrics(metrics: RoundMetrics) -> str:
    """Without ``gains`` and ``accuracies`` where there are none: the text of rounds written before there were any."""
    fields = dataclasses.asdict(metrics)
    for optional in ("gains", "accuracies"):
        if fields[optional] is None:
            del fields[optional]
    return json.dumps(fields)


def is_text_of(text: str, metrics: RoundMetrics) -> bool:
    """Whether ``text`` is what was, or is, written of ``metrics``: older servers did not count ``accuracies``."""
    return text in (write_metrics(metrics), write_metrics(dataclasses.replace(metrics, accuracies=None)))


def read_metrics(text: str) -> RoundMetrics:
    fields = json.loads(text)
    gains = Gains(**fields["gains"]) if "gains" in fields else None
    accuracies = ClientAccuracies(**fields["accuracies"]) if "accuracies" in fields else None
    structured = {"confusion": tuple(fields["confusion"]), "gains": gains, "accuracies": accuracies}
    return RoundMetrics(**{**fields, **structured})
