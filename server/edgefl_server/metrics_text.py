"""A round's metrics as the database holds them: JSON. A version computed again is compared with this very text."""

from __future__ import annotations

import dataclasses
import json

from edgefl.protocol.process import Gains, RoundMetrics


def write_metrics(metrics: RoundMetrics) -> str:
    """Without ``gains`` where there are none: the text of rounds that were written before there were any."""
    fields = dataclasses.asdict(metrics)
    if metrics.gains is None:
        del fields["gains"]
    return json.dumps(fields)


def read_metrics(text: str) -> RoundMetrics:
    fields = json.loads(text)
    gains = Gains(**fields["gains"]) if "gains" in fields else None
    return RoundMetrics(**{**fields, "confusion": tuple(fields["confusion"]), "gains": gains})
