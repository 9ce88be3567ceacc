"""What must hold after every step, from what is stored and from what was said: I1, I2, I3, I4; and the receipts.

``Promises`` remembers every receipt that left a server, whether or not it arrived. ``check_ledger`` reads the database
as it now is, ``check_all`` everything that a restart would find.
"""

from __future__ import annotations

import hashlib
import sqlite3
import zlib
from dataclasses import dataclass, field
from typing import Any

from protocol_kit import ENCODING, Adding, pack

from edgefl.protocol.messages import Accepted, AlreadyAccepted, Assignment, ClientUpdate, Late, Receipt
from edgefl.protocol.process import ProcessState
from edgefl.protocol.task import TaskSpec
from faults.scenario import parse

Key = tuple[str, int, str]
Row = tuple[Any, ...]


class Violation(AssertionError):
    """An invariant is broken."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Violation(message)


def work(assignment: Assignment, device: str, copy: int) -> ClientUpdate:
    """What ``copy`` of ``device`` computes, at every try the same.

    A multiple of 7: no sum is ``protocol_kit.POISON``.
    """
    text = f"{device} {copy} {assignment.task} {assignment.round_num} {assignment.model_digest}"
    value = zlib.crc32(text.encode())
    return ClientUpdate(
        task=assignment.task,
        round_num=assignment.round_num,
        base_model_digest=assignment.model_digest,
        encoding=ENCODING,
        payload=pack(7 * (value % 140)),
        weight=1 + value % 50,
        num_examples=1 + value % 50,
        num_correct=value % 2,
        loss_grid=value % 1000,
    )


def _as_row(update: ClientUpdate) -> Row:
    return (
        update.base_model_digest,
        update.encoding,
        update.weight,
        update.num_examples,
        update.num_correct,
        update.loss_grid,
        update.payload_digest,
    )


@dataclass
class Promises:
    """Receipts that left. ``made``: every update that a device computed, as a row."""

    sequences: dict[Key, int] = field(default_factory=dict)
    rows: dict[Key, Row] = field(default_factory=dict)
    late: set[Key] = field(default_factory=set)
    made: set[tuple[Key, Row]] = field(default_factory=set)

    def computed(self, device: str, update: ClientUpdate) -> None:
        self.made.add(((update.task, update.round_num, device), _as_row(update)))

    def leaves(self, device: str, update: ClientUpdate, receipt: Receipt) -> None:
        key = (update.task, update.round_num, device)
        if isinstance(receipt, Accepted):
            require(key not in self.sequences, f"I2: {key} is accepted as {receipt.sequence}, and was before")
            self.sequences[key] = receipt.sequence
            self.rows[key] = (receipt.sequence, *_as_row(update))
        elif isinstance(receipt, AlreadyAccepted):
            known = self.sequences.setdefault(key, receipt.sequence)
            require(known == receipt.sequence, f"I2: {key} was accepted as {known}, now as {receipt.sequence}")
        elif isinstance(receipt, Late):
            require(key not in self.sequences, f"I1: {key} is late, and was accepted")
            self.late.add(key)


_REPORTS = (
    "SELECT task, round, device, sequence, base_model, encoding, weight, num_examples, num_correct, loss_grid,"
    " payload_sha256, data, counted FROM reports LEFT JOIN payloads USING (sequence) ORDER BY sequence"
)


def check_ledger(db: sqlite3.Connection, promises: Promises) -> list[Row]:
    """I1: what was acknowledged is there, unaltered. I2: what is there was computed by its device, once."""
    rows = db.execute(_REPORTS).fetchall()
    found = {row[:3]: row[3:11] for row in rows}
    require(len(found) == len(rows), "I2: a key stands in the ledger twice")
    if not promises.rows.items() <= found.items():
        for key, row in promises.rows.items():
            require(found.get(key) == row, f"I1: {key} was accepted as {row}; the ledger has {found.get(key)}")
    for key, sequence in promises.sequences.items():
        require(key in found and found[key][0] == sequence, f"I1: {key} was accepted as {sequence}; it is gone")
    for key in promises.late & found.keys():
        raise Violation(f"I2: {key} was late, and is in the ledger")
    for key, row in found.items():
        require((key, row[1:]) in promises.made, f"I2: {key} is in the ledger, and its device never computed {row}")
    return rows


def check_all(db: sqlite3.Connection, promises: Promises, retention: int) -> None:
    """The ledger, then each task: its rounds, its versions and its models."""
    rows = check_ledger(db, promises)
    tasks = db.execute("SELECT name, definition, next_round, version, pruned FROM tasks").fetchall()
    for name, definition, next_round, version, pruned in tasks:
        own: dict[int, list[Row]] = {}
        for row in rows:
            if row[0] == name:
                own.setdefault(row[1], []).append(row)
        _check_task(db, parse(definition), next_round, version, own)
        require(pruned <= max(0, next_round - 1 - retention), f"I1: {name}: payloads are gone up to round {pruned}")
        for round_num, reports in own.items():
            lost = [row[2] for row in reports if row[11] is None and round_num > pruned]
            require(not lost, f"I1: {name} round {round_num}: the payloads of {lost} are gone")
            for row in reports:
                whole = row[11] is None or hashlib.sha256(row[11]).hexdigest() == row[10]
                require(whole, f"I1: {row[:3]}: the payload is not what its digest says")


def _check_task(
    db: sqlite3.Connection, spec: TaskSpec, next_round: int, version: int, reports: dict[int, list[Row]]
) -> None:
    name = spec.name
    states = {
        row[0]: row[1:]
        for row in db.execute(
            "SELECT version, round, coalesce(data, x''), extra, sha256 FROM states LEFT JOIN content USING (sha256)"
            " WHERE task = ? ORDER BY version",
            (name,),
        )
    }
    rounds = db.execute("SELECT round, phase, version, base_version FROM rounds WHERE task = ?", (name,)).fetchall()
    made = {made: number for number, phase, made, _ in rounds if phase == "committed"}
    require(sorted(states) == list(range(version + 1)), f"I4: {name}: versions {sorted(states)}, at {version}")
    wanted = {v: row[0] for v, row in states.items() if v > 0}
    require(made == wanted, f"I4: {name}: rounds that made versions {made}; versions were made by {wanted}")
    for number, phase, new, base in rounds:
        accepted = reports.get(number, [])
        counted = [row for row in accepted if row[12]]
        where = f"{name} round {number} ({phase})"
        require((number < next_round) == (phase in ("committed", "abandoned")), f"{where}: the next is {next_round}")
        if phase != "committed":
            require(not counted, f"I2: {where}: {len(counted)} reports are counted")
            continue
        require(counted == accepted, f"I2: {where}: {len(counted)} of {len(accepted)} accepted are counted")
        require(spec.round.minimum <= len(counted) <= spec.round.goal, f"I2: {where}: {len(counted)} are counted")
        # An evaluation's round v is of the trained version v.
        require(new == (base if spec.evaluates else base + 1), f"I4: {where}: version {new} from {base}")
        _check_model(spec, where, states[new - 1], states[new], counted, new)


def _check_model(spec: TaskSpec, where: str, before: Row, after: Row, counted: list[Row], version: int) -> None:
    if before[2] is None or any(row[11] is None for row in counted):
        return  # beyond retention
    process = Adding(spec, None, None)
    sums = process.new_accumulator()
    for row in counted:
        update = ClientUpdate(spec.name, row[1], row[4], row[5], row[11], row[6], row[7], row[8], row[9])
        process.fold(sums, update, row[11])
        require(row[4] == before[3] or not before[1], f"I3: {where}: {row[2]} trained another model")
    state, _ = process.finalize(ProcessState(version - 1, bytes(before[1]), before[2]), sums)
    require((state.model, state.model_digest) == (bytes(after[1]), after[3]), f"I3: {where}: the model is another one")
    require(after[2] is None or state.extra == after[2], f"I3: {where}: the state is another one")
