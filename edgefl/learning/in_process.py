"""One round in this process: what the server and its devices do, without a network between them.

    plan -> run_plan on each client -> take -> fold -> finalize

An update is folded as soon as it is made, so memory does not grow with the number of clients. The sums are integers:
the order of the clients changes nothing. A process whose deltas need no conversion may fold them where they arise.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace

from edgefl import errors
from edgefl.errors import ConfigError, DataError, EdgeFLError
from edgefl.learning.cohort import run_cohort
from edgefl.protocol.messages import Assignment, ClientUpdate, WorkFailure, learning_rate
from edgefl.protocol.process import Accumulator, Process, ProcessState, RoundConditions, RoundMetrics, fold_recorded
from edgefl.protocol.task import TaskSpec
from edgefl.types import ClientDataset, Weights, check_kind

CLIENTS_AT_ONCE = 64
"""Updates held at a time: enough to keep some cores busy, few enough that those of a model of 7,850 parameters (31 kB
each) are still in a core's caches when they are folded. 256 made a round of 1,000 clients a quarter slower."""


FoldAtOnce = Callable[[Assignment, bytes, Sequence[ClientDataset]], Accumulator | None]
"""A short cut of a process: the clients' work, folded to the same sums; None for whatever it cannot vouch for. What is
wrong is found, and said, on the ordinary way."""


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
    check_state(state)
    taking_part, kept = _pairs(_all("clients", clients), None if held_out is None else _all("held_out", held_out))
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
    conditions = RoundConditions(population or len(taking_part), learning_rate(assignment.plan))
    folded = None if fold_at_once is None else fold_at_once(assignment, content, taking_part)
    if folded is not None:
        return process.finalize(state, folded, conditions)
    if content:
        assignment = replace(assignment, model_digest=hashlib.sha256(content).hexdigest())
    accumulator, memories = _fold_each(process, _reports(assignment, content, taking_part, kept, state.clients))
    after, metrics = process.finalize(state, accumulator, conditions)
    return replace(after, clients={**state.clients, **memories}) if memories else after, metrics


def _fold_each(
    process: Process, reports: Iterable[tuple[ClientDataset, ClientUpdate | WorkFailure]]
) -> tuple[Accumulator, dict[str, bytes]]:
    """The sums, and what the clients remember from now on."""
    accumulator = process.new_accumulator()
    memories: dict[str, bytes] = {}
    for client, report in reports:
        if isinstance(report, WorkFailure):
            raise _as_error(client.client_id, report)
        fold_recorded(process, accumulator, [(client.client_id, report)])
        if report.memory:
            memories[client.client_id] = report.memory
    return accumulator, memories


def check_state(state: object) -> None:
    """Raises ``ConfigError`` for anything that is not a state, a pair of ``next`` above all."""
    check_kind("state", state, ProcessState, "a ProcessState: of initialize(), or the first of the pair of next()")


def check_weights(weights: object) -> None:
    """Raises ``ConfigError`` for anything that is not a model's weights."""
    check_kind("weights", weights, Weights, "an edgefl.types.Weights, as process.get_model(state) returns")


def _all(what: str, clients: Iterable[ClientDataset]) -> Sequence[ClientDataset]:
    if not isinstance(clients, Iterable):
        raise ConfigError(f"{what} is {clients!r:.80}; expected a sequence of edgefl.ClientDataset")
    found = list(clients)
    for one in found:
        check_kind(f"one of {what}", one, ClientDataset, "an edgefl.ClientDataset")
    return found


def _pairs(
    clients: Sequence[ClientDataset], held_out: Sequence[ClientDataset] | None
) -> tuple[list[ClientDataset], list[ClientDataset]]:
    """Those that have what the work reads, and the held-out part of each."""
    taking_part = [client for client in clients if len(client)]
    if held_out is None:
        return taking_part, taking_part
    kept = {part.client_id: part for part in held_out if len(part)}
    if len(kept) != sum(len(part) > 0 for part in held_out):
        raise DataError("two held-out parts have the same id; expected each id once")
    taking_part = [client for client in taking_part if client.client_id in kept]
    return taking_part, [kept[client.client_id] for client in taking_part]


def _reports(
    assignment: Assignment,
    content: bytes,
    clients: Sequence[ClientDataset],
    held_out: Sequence[ClientDataset],
    memories: Mapping[str, bytes],
) -> Iterator[tuple[ClientDataset, ClientUpdate | WorkFailure]]:
    for first in range(0, len(clients), CLIENTS_AT_ONCE):
        part = slice(first, first + CLIENTS_AT_ONCE)
        reports = run_cohort(assignment, content, clients[part], held_out[part], memories)
        yield from zip(clients[part], reports, strict=True)


def _as_error(client_id: str, failure: WorkFailure) -> EdgeFLError:
    kind = getattr(errors, failure.kind, EdgeFLError)
    error: EdgeFLError = kind(f"client {client_id!r}: {failure.message}")
    return error
