"""One round in this process: what the server and its devices do, without a network between them.

    plan -> run_plan on each client -> decode -> check -> fold -> finalize

An update is folded as soon as it is made, so memory does not grow with the number of clients. The sums are integers:
the order of the clients changes nothing. A process whose deltas need no conversion may fold them where they arise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace

from edgefl import errors
from edgefl.errors import DataError, EdgeFLError, InvalidUpdateError
from edgefl.learning.client import run_cohort
from edgefl.protocol.messages import Assignment, ClientUpdate, WorkFailure, learning_rate
from edgefl.protocol.process import Accumulator, Process, ProcessState, RoundConditions, RoundMetrics
from edgefl.protocol.task import TaskSpec
from edgefl.types import ClientDataset

CLIENTS_AT_ONCE = 64
"""Updates held at a time: enough to keep some cores busy, few enough that those of a model of 7,850 parameters (31 kB
each) are still in a core's caches when they are folded. 256 made a round of 1,000 clients a quarter slower."""


FoldAtOnce = Callable[[Assignment, bytes, Sequence[ClientDataset], Accumulator], bool]
"""A short cut of a process: folds the clients' work into the accumulator, to the same sums, and says True; or folds
nothing and says False, for whatever it cannot vouch for. What is wrong is found, and said, on the ordinary way."""


def run_round(
    process: Process,
    spec: TaskSpec,
    state: ProcessState,
    model: ProcessState,
    clients: Sequence[ClientDataset],
    held_out: Sequence[ClientDataset] | None = None,
    *,
    population: int = 0,
    fold_at_once: FoldAtOnce | None = None,
) -> tuple[ProcessState, RoundMetrics]:
    """The round that follows ``state``, with every client that has examples; ``model`` holds the model that they get.

    ``held_out`` is for work that reads both parts of a client: a client then needs examples in each. By default a
    client's examples are its held-out ones too. ``population``: 0 for the clients that take part.
    ``fold_at_once`` is tried before the way that the module's head shows.

    Raises the first client's failure as its own class, and a refusal as ``InvalidUpdateError``, both naming the client;
    ``DataError`` when no client has examples or two have the same id.
    """
    kept = {part.client_id: part for part in (clients if held_out is None else held_out) if len(part)}
    if held_out is not None and len(kept) != sum(len(part) > 0 for part in held_out):
        raise DataError("two held-out parts have the same id; expected each id once")
    taking_part = [client for client in clients if len(client) and client.client_id in kept]
    ids = {client.client_id for client in taking_part}
    if not taking_part or len(ids) != len(taking_part):
        raise DataError(f"{len(taking_part)} clients with examples, {len(ids)} ids; expected at least one, all unique")
    content = process.content(model)
    # The digest is for those who check it: a model is hashed in the time that half a small client is trained in.
    assignment = Assignment(
        task=spec.name,
        round_num=state.version + 1,
        task_seed=spec.seed,
        plan=process.plan(state),
        model_digest="",
        model_size_bytes=len(content),
        deadline_s=spec.round.deadline_s,
    )
    accumulator = process.new_accumulator()
    conditions = RoundConditions(population or len(taking_part), learning_rate(assignment.plan))
    if fold_at_once is not None and fold_at_once(assignment, content, taking_part, accumulator):
        return process.finalize(state, accumulator, conditions)
    if content:
        assignment = replace(assignment, model_digest=hashlib.sha256(content).hexdigest())
    variates: dict[str, bytes] = {}
    parts = [kept[client.client_id] for client in taking_part]
    for client, report in _reports(assignment, content, taking_part, parts, state.clients):
        if isinstance(report, WorkFailure):
            raise _as_error(client.client_id, report)
        try:
            decoded = process.decode(report)
            process.check(report, decoded)
        except InvalidUpdateError as error:
            raise InvalidUpdateError(error.reason, f"client {client.client_id!r}: {error}") from None
        process.fold(accumulator, report, decoded)
        if report.variate:
            variates[client.client_id] = report.variate
    after, metrics = process.finalize(state, accumulator, conditions)
    return replace(after, clients={**state.clients, **variates}) if variates else after, metrics


def _reports(
    assignment: Assignment,
    content: bytes,
    clients: Sequence[ClientDataset],
    held_out: Sequence[ClientDataset],
    variates: Mapping[str, bytes],
) -> Iterator[tuple[ClientDataset, ClientUpdate | WorkFailure]]:
    for first in range(0, len(clients), CLIENTS_AT_ONCE):
        part = slice(first, first + CLIENTS_AT_ONCE)
        reports = run_cohort(assignment, content, clients[part], held_out[part], variates)
        yield from zip(clients[part], reports, strict=True)


def _as_error(client_id: str, failure: WorkFailure) -> EdgeFLError:
    kind = getattr(errors, failure.kind, EdgeFLError)
    error: EdgeFLError = kind(f"client {client_id!r}: {failure.message}")
    return error
