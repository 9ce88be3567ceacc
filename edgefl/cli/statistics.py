"""``edgefl statistics``: what a statistics task found of every feature, a line each."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from edgefl.cli.target import target
from edgefl.console.output import print_json, print_table
from edgefl.operator.connection import Connection
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.process import FeatureStatistics
from edgefl.wire.control import feature_from_proto

COLUMNS = ("FEATURE", "COUNT", "MEAN", "SPREAD", "MINIMUM", "MAXIMUM", "HISTOGRAM")


def show(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        messages = server.stream(server.control.DescribeFeatures, control_pb2.TaskRequest(name=args.task))
        features = tuple(map(feature_from_proto, messages))
    print_features(args.task, features, as_json=args.json)


def print_features(task: str, features: Iterable[FeatureStatistics], *, as_json: bool) -> None:
    """A JSON line for each feature, its numbers as they are; or a table, rounded for people."""
    if as_json:
        for number, feature in enumerate(features):
            print_json({"task": task, "feature": number, **vars(feature)})
        return
    print_table(COLUMNS, [(number, *_cells(feature)) for number, feature in enumerate(features)], "no features")


def _cells(feature: FeatureStatistics) -> tuple[object, ...]:
    extremes = ["" if value is None else f"{value:.6g}" for value in (feature.minimum, feature.maximum)]
    histogram = " ".join(map(str, feature.histogram))
    return (feature.count, f"{feature.mean:.6g}", f"{feature.spread:.6g}", *extremes, histogram)
