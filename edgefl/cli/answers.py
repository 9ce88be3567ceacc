"""``edgefl answers``: how the server answered reports and calls since its start."""

from __future__ import annotations

import argparse

from edgefl.cli.target import target
from edgefl.command import one_line
from edgefl.console.output import print_json
from edgefl.operator.connection import Connection
from edgefl.proto.v1 import control_pb2
from edgefl.wire.control import refusal_name


def count_answers(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        counts = server.call(server.control.CountAnswers, control_pb2.CountAnswersRequest())
    refused = {refusal_name(entry): entry.count for entry in counts.refused}
    errors = {one_line(entry.error): entry.count for entry in counts.errors}
    if args.json:
        print_json(
            {
                "accepted": counts.accepted,
                "already_accepted": counts.already_accepted,
                "late": counts.late,
                "noted": counts.noted,
                "refused": refused,
                "errors": errors,
            }
        )
        return
    print(
        f"{counts.accepted} accepted, {counts.already_accepted} already accepted, {counts.late} late, "
        f"{counts.noted} failures noted, {_listed('refused', refused)}, {_listed('calls with an error', errors)}"
    )


def _listed(what: str, counts: dict[str, int]) -> str:
    text = f"{sum(counts.values())} {what}"
    return f"{text} ({', '.join(f'{name} {count}' for name, count in counts.items())})" if counts else text
