"""``edgefl-device examples``: list what the store holds, remove some of it, or clear it. An agent may run.

Files that came through the inbox are kept in its folder ``done``: those whose examples all go are deleted with them.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from edgefl.classes import class_name
from edgefl.command import one_line
from edgefl.errors import ConfigError, NotFoundError
from edgefl.wording import name_hint
from edgefl_device.aging import CLOCK_WAS_SET
from edgefl_device.config import DeviceConfig, ExampleSpec, load_config
from edgefl_device.example_store import ExampleStore
from edgefl_device.files import storage_errors
from edgefl_device.inbox import done_files, file_stamp
from edgefl_device.inventory import KEYS, UNKNOWN_AGE, Group, Selection
from edgefl_device.labels import Labels

HEADERS = {"source": "SOURCE", "label": "LABEL", "split": "SPLIT", "age": "AGE"}


def list_examples(args: argparse.Namespace) -> int:
    """``examples list``."""
    config = load_config(args.config)
    by = _keys(args.by)
    with ExampleStore.open(config.store_path, config.examples) as store:
        groups = store.groups(by)
    if args.json:
        rows = [_as_json(group, by, config.examples) for group in groups]
        print(json.dumps({"count": sum(group.count for group in groups), "groups": rows}))
    elif not groups:
        print("the device has no examples; add some with 'edgefl-device add'")
    else:
        _print_table(groups, by, config.examples)
    return 0


def remove_examples(args: argparse.Namespace) -> int:
    """``examples remove``."""
    config = load_config(args.config)
    if args.source is None and args.label is None and args.older_than is None:
        raise ConfigError("nothing says which examples; give --source, --label or --older-than, or use 'clear'")
    with ExampleStore.open(config.store_path, config.examples) as store:
        selection = Selection(
            _source(store, args.source),
            None if args.label is None else Labels(config.examples).index(args.label, "--label"),
            _horizon(args.older_than),
        )
        count = store.count_selected(selection)
        if args.dry_run:
            print(f"{count} examples would be removed")
            return 0
        whole, partial = _inbox_files(store, config.examples, selection)
        _unlink(whole)
        count = store.remove(selection)
        if args.older_than is not None:
            _warn_of_ageless(store)
    for path in partial:
        print(f"edgefl-device: warning: {path} holds removed examples; delete it if they must go", file=sys.stderr)
    _tell(count, whole)
    return 0


def clear_examples(args: argparse.Namespace) -> int:
    """``examples clear``."""
    config = load_config(args.config)
    everything = Selection()
    with ExampleStore.open(config.store_path, config.examples) as store:
        count = store.count_selected(everything)
        if not args.yes and not _confirmed(config, count):
            print("nothing was removed")
            return 0
        files = done_files(config.examples)
        _unlink(files)
        _tell(store.clear(), files)
    return 0


def _confirmed(config: DeviceConfig, count: int) -> bool:
    if not sys.stdin.isatty():
        raise ConfigError(f"'clear' removes all {count} examples of {config.device.name}; pass --yes to do so")
    print(
        f"Remove all {count} examples of {config.device.name}? They cannot be brought back. [y/N] ", end="", flush=True
    )
    return sys.stdin.readline().strip().lower() in ("y", "yes")


def _keys(text: str) -> tuple[str, ...]:
    chosen = [key.strip() for key in text.split(",")]
    for key in chosen:
        if key not in KEYS:
            raise ConfigError(f"--by has {key!r}; expected some of {', '.join(KEYS)}")
    return tuple(key for key in KEYS if key in chosen)


def _source(store: ExampleStore, name: str | None) -> str | None:
    names = () if name is None else store.source_names()
    if name is not None and name not in names:
        raise NotFoundError(f"no examples came from {name!r}{name_hint(name, names)}")
    return name


def _horizon(days: float | None) -> int | None:
    if days is None:
        return None
    now = time.time()
    if now < CLOCK_WAS_SET:
        raise ConfigError("--older-than needs the time, and this device's clock is not set; set it first")
    return int(now - days * 86_400)


def _inbox_files(store: ExampleStore, spec: ExampleSpec, selection: Selection) -> tuple[list[Path], list[Path]]:
    """The files in ``done`` all of whose examples are selected, and those some of whose are."""
    touched = [source for source in store.touched(selection) if source.stamp]
    whole, partial = list[Path](), list[Path]()
    for path in done_files(spec) if touched else ():
        with storage_errors(path, "read"):
            stat = path.stat()
        source = next((source for source in touched if file_stamp(source.name, stat) == source.stamp), None)
        if source is not None:
            (whole if source.whole else partial).append(path)
    return whole, partial


def _unlink(paths: Sequence[Path]) -> None:
    for path in paths:
        with storage_errors(path, "delete"):
            path.unlink(missing_ok=True)


def _warn_of_ageless(store: ExampleStore) -> None:
    count = sum(group.count for group in store.groups(("age",)) if group.age == UNKNOWN_AGE)
    if count:
        print(
            f"edgefl-device: warning: {count} examples stay whose age is unknown (the clock was not set when they were "
            "added); remove them by --source or --label",
            file=sys.stderr,
        )


def _tell(count: int, files: Sequence[Path]) -> None:
    also = f", and {len(files)} files of the inbox" if files else ""
    print(f"{count} examples removed{also}")


def _print_table(groups: Sequence[Group], by: tuple[str, ...], spec: ExampleSpec) -> None:
    rows = [[*(HEADERS[key] for key in by), "EXAMPLES", "FIRST", "LAST"]]
    for group in groups:
        rows.append([*_cells(group, by, spec), str(group.count), _day(group.first_added), _day(group.last_added)])
    total = str(sum(group.count for group in groups))
    first, last = min(group.first_added for group in groups), max(group.last_added for group in groups)
    rows.append(["total", *("" for _ in by[1:]), total, _day(first), _day(last)])
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]
    for row in rows:
        cells = [
            cell.rjust(width) if place == len(by) else cell.ljust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        print("  ".join(cells).rstrip())


def _cells(group: Group, by: tuple[str, ...], spec: ExampleSpec) -> list[str]:
    label = "" if group.label is None else class_name(spec.classes, group.label)
    values = {"source": group.source, "label": label, "split": group.split, "age": group.age}
    return [one_line(str(values[key])) for key in by]


def _day(seconds: int) -> str:
    return time.strftime("%Y-%m-%d", time.gmtime(seconds)) if seconds >= CLOCK_WAS_SET else "unknown"


def _as_json(group: Group, by: tuple[str, ...], spec: ExampleSpec) -> dict[str, object]:
    found = asdict(group)
    row = {key: found[key] for key in by} | {key: found[key] for key in ("count", "first_added", "last_added")}
    if group.label is not None and spec.classes:
        row["class"] = class_name(spec.classes, group.label)
    return row
