"""What must hold after every step, from what is stored and from what was said: I1, I2, I3, I4; and the receipts.

``Promises`` remembers every receipt that left a server, whether or not it arrived. ``Checks`` holds a database against
them: ``ledger`` as it now is, ``everything`` that a restart would find.
"""

from __future__ import annotations

import hashlib
import sqlite3
from dataclasses import dataclass, field
from typing import Any

from edgefl.protocol.dependencies import results_for
from edgefl.protocol.messages import Accepted, AlreadyAccepted, ClientUpdate, Fate, Late, Receipt
from edgefl.protocol.process import Process, ProcessFactory, ProcessState, RoundConditions, fold_recorded
from edgefl.protocol.task import TaskSpec, parse_task

Key = tuple[str, int, str]
Row = tuple[Any, ...]


class Violation(AssertionError):
    """An invariant is broken."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Violation(message)


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
    """Receipts that left. ``made``: every update that a device computed, as a row.

    ``lost``: what was acknowledged and was not there, or not counted by its committed round, at the last look.
    ``fates``: whether an update counted, as its device was told.
    """

    sequences: dict[Key, int] = field(default_factory=dict)
    rows: dict[Key, Row] = field(default_factory=dict)
    late: set[Key] = field(default_factory=set)
    made: set[tuple[Key, Row]] = field(default_factory=set)
    lost: set[Key] = field(default_factory=set)
    fates: dict[Key, Fate] = field(default_factory=dict)

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

    def told(self, key: Key, fate: Fate) -> None:
        """A server answers a device that asks what became of its update. An open one may still become either."""
        if fate is not Fate.OPEN:
            known = self.fates.setdefault(key, fate)
            require(known is fate, f"I2: {key} is told to be {fate.name}, and was {known.name} before")

    def check_fates(self, db: sqlite3.Connection) -> None:
        """Of rounds that are over: what devices were told is what the ledger says."""
        counted = {
            row[:3] for row in db.execute("SELECT task, round, device FROM reports WHERE counted = 1").fetchall()
        }
        for key, fate in self.fates.items():
            require((fate is Fate.COUNTED) == (key in counted), f"I2: {key} was told to be {fate.name}, and is not")


_REPORTS = (
    "SELECT task, round, device, sequence, base_model, encoding, weight, num_examples, num_correct, loss_grid,"
    " payload_sha256, counted FROM reports ORDER BY sequence"
)

_STATES = (
    "SELECT version, round, coalesce(data, x''), extra, sha256 FROM states LEFT JOIN content USING (sha256)"
    " WHERE task = ? ORDER BY version"
)


@dataclass(frozen=True)
class _State:
    """A stored version of a task."""

    round_num: int
    model: bytes
    extra: bytes | None
    digest: str


class Checks:
    """The checks of one run. ``factory`` builds the processes that models are computed again with (I3)."""

    def __init__(self, factory: ProcessFactory, promises: Promises, retention: int) -> None:
        self._factory = factory
        self._promises = promises
        self._retention = retention
        self._specs: dict[str, TaskSpec] = {}
        self._equal: set[bytes] = set()

    def ledger(self, db: sqlite3.Connection) -> list[Row]:
        """I1: what was acknowledged is there, unaltered. I2: what is there was computed by its device, once."""
        promises = self._promises
        rows = db.execute(_REPORTS).fetchall()
        found = {row[:3]: row[3:11] for row in rows}
        require(len(found) == len(rows), "I2: a key stands in the ledger twice")
        promises.lost = {
            key for key, sequence in promises.sequences.items() if key not in found or found[key][0] != sequence
        }
        for key in sorted(promises.lost):
            raise Violation(f"I1: {key} was accepted as {promises.sequences[key]}; it is gone")
        if not promises.rows.items() <= found.items():
            for key, row in promises.rows.items():
                require(found[key] == row, f"I1: {key} was accepted as {row}; the ledger has {found[key]}")
        for key in sorted(promises.late & found.keys()):
            raise Violation(f"I2: {key} was late, and is in the ledger")
        for key, row in found.items():
            require((key, row[1:]) in promises.made, f"I2: {key} is in the ledger, and its device never computed {row}")
        return rows

    def everything(self, db: sqlite3.Connection) -> None:
        """The ledger, then each task: its rounds, its versions and its models."""
        rows = self.ledger(db)
        tasks = db.execute("SELECT name, definition, next_round, version, pruned FROM tasks").fetchall()
        found = _Tasks(db, self._factory, {task[0]: self._spec(task[1]) for task in tasks})
        for name, _, next_round, version, pruned in tasks:
            own: dict[int, list[Row]] = {}
            for row in rows:
                if row[0] == name:
                    own.setdefault(row[1], []).append(row)
            payloads = _payloads(db, name)
            lowest = max(0, next_round - 1 - self._retention)
            require(pruned <= lowest, f"I1: {name}: payloads are gone up to round {pruned}")
            for round_num, reports in own.items():
                lost = [row[2] for row in reports if row[:3] not in payloads and round_num > pruned]
                require(not lost, f"I1: {name} round {round_num}: the payloads of {lost} are gone")
                for row in reports:
                    raw = payloads.get(row[:3])
                    whole = raw is None or hashlib.sha256(raw).hexdigest() == row[10]
                    require(whole, f"I1: {row[:3]}: the payload is not what its digest says")
            self._check_task(found, name, next_round, version, own, payloads)

    def _spec(self, definition: str) -> TaskSpec:
        if definition not in self._specs:
            self._specs[definition] = parse_task(definition, "a stored definition")
        return self._specs[definition]

    def _check_task(
        self,
        found: _Tasks,
        name: str,
        next_round: int,
        version: int,
        reports: dict[int, list[Row]],
        payloads: dict[Key, bytes],
    ) -> None:
        spec, states = found.specs[name], found.states(name)
        query = "SELECT round, phase, version, base_version FROM rounds WHERE task = ?"
        rounds = found.db.execute(query, (name,)).fetchall()
        made = {made: number for number, phase, made, _ in rounds if phase == "committed"}
        require(sorted(states) == list(range(version + 1)), f"I4: {name}: versions {sorted(states)}, at {version}")
        wanted = {v: state.round_num for v, state in states.items() if v > 0}
        require(made == wanted, f"I4: {name}: rounds that made versions {made}; versions were made by {wanted}")
        for number, phase, new, base in rounds:
            accepted = reports.get(number, [])
            counted = [row for row in accepted if row[11]]
            where = f"{name} round {number} ({phase})"
            require((number < next_round) == (phase in ("committed", "abandoned")), f"{where}: next is {next_round}")
            if phase != "committed":
                require(not counted, f"I2: {where}: {len(counted)} reports are counted")
                continue
            if counted != accepted:
                self._promises.lost |= {row[:3] for row in accepted if not row[11]} & self._promises.sequences.keys()
                raise Violation(f"I2: {where}: {len(counted)} of {len(accepted)} accepted are counted")
            enough = spec.round.minimum <= len(counted) <= spec.round.goal
            require(enough, f"I2: {where}: {len(counted)} are counted")
            versions = found.specs[spec.evaluates].rounds if spec.evaluates else 0
            wanted_base = spec.reads(new - 1, versions) if spec.evaluates else new - 1
            require(base == wanted_base, f"I4: {where}: version {new} from {base}")
            self._check_model(found, name, where, new, counted, payloads)

    def _check_model(
        self, found: _Tasks, name: str, where: str, version: int, counted: list[Row], payloads: dict[Key, bytes]
    ) -> None:
        before, after = found.states(name)[version - 1], found.states(name)[version]
        if before.extra is None or any(row[:3] not in payloads for row in counted):
            return  # beyond retention
        digest = hashlib.sha256(repr((name, version, before.digest, after.digest, counted)).encode())
        for raw in (before.model, before.extra, after.model, after.extra or b""):
            digest.update(hashlib.sha256(raw).digest())
        key = digest.digest()
        if key in self._equal:
            return  # the same bytes gave the same bytes before
        process = found.process(name)
        sums = process.new_accumulator()
        state = ProcessState(version - 1, before.model, before.extra)
        content = process.content(state)
        base = hashlib.sha256(content).hexdigest()
        for row in counted:
            require(not content or row[4] == base, f"I3: {where}: {row[2]} trained another model")
        fold_recorded(process, sums, ((row[2], _update(row, payloads[row[:3]])) for row in counted))
        state, _ = process.finalize(state, sums, found.conditions(name, version))
        equal = (state.model, state.model_digest) == (after.model, after.digest)
        require(equal, f"I3: {where}: the model is another one")
        require(after.extra is None or state.extra == after.extra, f"I3: {where}: the state is another one")
        self._equal.add(key)


def _update(row: Row, payload: bytes) -> ClientUpdate:
    """The update of a row of the ledger."""
    return ClientUpdate(row[0], row[1], row[4], row[5], payload, row[6], row[7], row[8], row[9])


class _Tasks:
    """The tasks of a database: their stored versions, and their processes with the results that they depend on."""

    def __init__(self, db: sqlite3.Connection, factory: ProcessFactory, specs: dict[str, TaskSpec]) -> None:
        self.db = db
        self.specs = specs
        self._factory = factory
        self._states: dict[str, dict[int, _State]] = {}
        self._processes: dict[str, Process] = {}

    def states(self, name: str) -> dict[int, _State]:
        if name not in self._states:
            rows = self.db.execute(_STATES, (name,)).fetchall()
            self._states[name] = {row[0]: _State(row[1], bytes(row[2]), row[3], row[4]) for row in rows}
        return self._states[name]

    def conditions(self, name: str, version: int) -> RoundConditions:
        row = self.db.execute(
            "SELECT population, learning_rate FROM rounds WHERE task = ? AND version = ?", (name, version)
        ).fetchone()
        return RoundConditions(*row)

    def process(self, name: str) -> Process:
        if name not in self._processes:
            spec = self.specs[name]
            results = results_for(spec, lambda other: (self.process(other), self._latest(other)))
            self._processes[name] = self._factory(spec, *results)
        return self._processes[name]

    def _latest(self, name: str) -> ProcessState:
        version = max(self.states(name))
        state = self.states(name)[version]
        return ProcessState(version, state.model, state.extra or b"")


def _payloads(db: sqlite3.Connection, task: str) -> dict[Key, bytes]:
    rows = db.execute(
        "SELECT round, device, data FROM reports JOIN payloads USING (sequence) WHERE task = ?", (task,)
    ).fetchall()
    return {(task, round_num, device): payload for round_num, device, payload in rows}
