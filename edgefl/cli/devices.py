"""``edgefl devices``: who checked in, where each is, and what went wrong on it."""

from __future__ import annotations

import argparse
from typing import Any

from edgefl.cli.target import target
from edgefl.console.output import print_json, print_table
from edgefl.operator.connection import Connection
from edgefl.proto.v1 import control_pb2
from edgefl.protocol.standing import DeviceState
from edgefl.wire.control import device_state
from edgefl.wire.shape import shape_from_proto
from edgefl.wording import span

COLUMNS = ("DEVICE", "POPULATION", "STATE", "SEEN", "TRAIN", "HELD OUT", "RELEASES", "AGENT", "")


def list_devices(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        answer = server.call(server.control.ListDevices, control_pb2.ListDevicesRequest(population=args.population))
    if args.json:
        for device in answer.devices:
            print_json(_as_dict(device))
        return
    rows = [
        (
            d.name,
            d.population,
            _state(d),
            f"{span(d.seen_ago_s)} ago" if d.HasField("seen_ago_s") else "?",
            d.num_train,
            d.num_held_out,
            ", ".join(f"{release.name} {release.version}" for release in d.running) or "-",
            d.agent_version,
            _note(d),
        )
        for d in answer.devices
    ]
    print_table(COLUMNS, rows, "no device has checked in yet")


def _state(device: control_pb2.Device) -> str:
    state = device_state(device)
    if state is None:
        return "?"
    if state is DeviceState.WORKING:
        return f"working: {device.works_for.task} round {device.works_for.round}"
    return str(state.value)


def _note(device: control_pb2.Device) -> str:
    """What a person should look at."""
    notes = ["two agents use this name"] if device.twins else []
    if device.suspect:
        notes.append("cloned card?")
    if device.HasField("error"):
        error = device.error
        notes.append(f"{error.kind}: {error.message} ({span(error.ago_s)} ago)")
    return "; ".join(notes)


def _as_dict(device: control_pb2.Device) -> dict[str, Any]:
    """Names and numbers for programs; what the server does not say is left out."""
    found: dict[str, Any] = {
        "name": device.name,
        "population": device.population,
        "agent_version": device.agent_version,
        "session": device.session,
        "num_train": device.num_train,
        "num_held_out": device.num_held_out,
        "suspect": device.suspect,
        "twins": device.twins,
        "releases": {release.name: release.version for release in device.running},
    }
    state = device_state(device)
    if state is not None:
        found["state"] = state.value
    if device.HasField("works_for"):
        found |= {"task": device.works_for.task, "round": device.works_for.round}
    if device.HasField("seen_ago_s"):
        found["seen_ago_s"] = device.seen_ago_s
    shape = shape_from_proto(device.shape) if device.HasField("shape") else None
    if shape is not None:
        found |= {"num_features": shape.num_features, "num_classes": shape.num_classes, "dtype": shape.dtype.value}
    if device.HasField("error"):
        error = device.error
        found["error"] = {"kind": error.kind, "message": error.message, "ago_s": error.ago_s}
    return found
