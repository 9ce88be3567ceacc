"""``edgefl models`` and ``edgefl release``: what the server learned, as files and on the devices."""

from __future__ import annotations

import argparse
from pathlib import Path

from edgefl.cli.target import target
from edgefl.console.output import print_json, print_table
from edgefl.files import write_file
from edgefl.operator.connection import RELEASE_TIMEOUT_S, Connection
from edgefl.operator.models import FORMATS, download_model
from edgefl.proto.v1 import control_pb2


def list_models(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        answer = server.call(server.control.ListModels, control_pb2.TaskRequest(name=args.task))
    rows = [(m.version, m.content.size_bytes, m.content.sha256.hex()) for m in answer.models]
    if args.json:
        for version, size, digest in rows:
            print_json({"task": args.task, "version": version, "size_bytes": size, "sha256": digest})
        return
    print_table(("VERSION", "BYTES", "SHA-256"), rows, f"{args.task} has no models")


def export(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        data = download_model(server, args.task, args.model_version, args.format)
    write_file(Path(args.file), data)
    print(f"wrote {args.file} ({len(data)} bytes)")


def create_release(args: argparse.Namespace) -> None:
    request = control_pb2.CreateReleaseRequest(
        name=args.name, task=args.task, model_version=args.model_version, format=FORMATS[args.format]
    )
    with Connection(target(args)) as server:
        info = server.call(server.control.CreateRelease, request, timeout_s=RELEASE_TIMEOUT_S)
    if args.json:
        print_json(release_dict(info) | {"max_abs_diff": info.max_abs_diff})
        return
    print(
        f"released {info.release.name} version {info.release.version} (model {info.task} version {info.model_version}, "
        f"{info.release.content.size_bytes} bytes, largest difference from the kernel {info.max_abs_diff:.1e})"
    )


def list_releases(args: argparse.Namespace) -> None:
    with Connection(target(args)) as server:
        answer = server.call(server.control.ListReleases, control_pb2.ListReleasesRequest())
    if args.json:
        for info in answer.releases:
            print_json(release_dict(info))
        return
    rows = [
        (r.release.name, r.release.version, r.population, f"{r.task} {r.model_version}", r.release.content.sha256.hex())
        for r in answer.releases
    ]
    print_table(("RELEASE", "VERSION", "POPULATION", "MODEL", "SHA-256"), rows, "no releases")


def release_dict(info: control_pb2.ReleaseInfo) -> dict[str, object]:
    """A release for programs."""
    return {
        "name": info.release.name,
        "version": info.release.version,
        "population": info.population,
        "task": info.task,
        "model_version": info.model_version,
        "size_bytes": info.release.content.size_bytes,
        "sha256": info.release.content.sha256.hex(),
    }
