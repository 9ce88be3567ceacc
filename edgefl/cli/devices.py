"""``edgefl devices``: who checked in."""

from __future__ import annotations

import argparse

from edgefl.cli.connection import Connection
from edgefl.cli.output import print_json, print_table
from edgefl.cli.target import target
from edgefl.proto.v1 import control_pb2


def list_devices(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        answer = server.call(server.control.ListDevices, control_pb2.ListDevicesRequest(population=args.population))
    if args.json:
        for d in answer.devices:
            print_json(
                {
                    "name": d.name,
                    "population": d.population,
                    "agent_version": d.agent_version,
                    "session": d.session,
                    "num_train": d.num_train,
                    "num_held_out": d.num_held_out,
                    "suspect": d.suspect,
                }
            )
        return
    rows = [
        (d.name, d.population, d.agent_version, d.num_train, d.num_held_out, "cloned card?" if d.suspect else "")
        for d in answer.devices
    ]
    print_table(("DEVICE", "POPULATION", "AGENT", "TRAIN", "HELD OUT", ""), rows, "no device has checked in yet")
