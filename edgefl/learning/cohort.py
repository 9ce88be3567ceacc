"""The work of many clients at once, for simulations: what ``run_plan`` gives for each, trained on every core.

The examples, the checks and the encoding are those of ``edgefl.learning.client``; a training is one call of the kernel
for all clients where the model has such a kernel. An agent loads nothing of this.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from edgefl import kernels
from edgefl.errors import EdgeFLError
from edgefl.learning.client import (
    Start,
    check_encoding,
    check_examples,
    failure_of,
    run_plan,
    shuffle_key_of,
    update_of,
)
from edgefl.protocol.messages import Assignment, ClientUpdate, ScaffoldWork, TrainingWork, WorkFailure
from edgefl.types import ClientDataset, TrainConfig, Weights

NO_MEMORIES: Mapping[str, bytes] = {}


def run_cohort(
    assignment: Assignment,
    model: bytes,
    clients: Sequence[ClientDataset],
    held_out: Sequence[ClientDataset],
    memories: Mapping[str, bytes] = NO_MEMORIES,
    *,
    threads: int | None = None,
) -> list[ClientUpdate | WorkFailure]:
    """What ``run_plan`` returns for each client, in order; a training runs on ``threads`` cores, None for every one.

    ``held_out`` is in the order of ``clients``; ``memories``: what each client remembers, by id. All updates are
    held at once.
    """
    work = assignment.plan.work
    if assignment.plan.model.trains_cohorts and isinstance(work, (TrainingWork, ScaffoldWork)):
        try:
            check_encoding(assignment.plan)
            start, config = Start.of(assignment.plan.model, work, model), work.training.sgd.keyed(None)
        except EdgeFLError:
            pass  # of the plan or the model, and so of every client: each says it below, in its own order of checks
        else:
            return _train_cohort(assignment, start, config, clients, memories, threads)
    own = (memories.get(client.client_id, b"") for client in clients)
    reports = [
        run_plan(assignment, model, one.examples, kept.examples, one.client_id, memory=memory)
        for one, kept, memory in zip(clients, held_out, own, strict=True)
    ]
    return [report for report in reports if report is not None]  # None is for a stop flag


def _train_cohort(
    assignment: Assignment,
    start: Start,
    config: TrainConfig,
    clients: Sequence[ClientDataset],
    memories: Mapping[str, bytes],
    threads: int | None,
) -> list[ClientUpdate | WorkFailure]:
    """Raises nothing of ours: what is wrong with a client becomes its failure."""
    model, work = assignment.plan.model, start.training
    reports: dict[int, ClientUpdate | WorkFailure] = {}
    cohort: dict[int, kernels.CohortClient] = {}
    for index, client in enumerate(clients):
        try:
            check_examples(model, client.examples, "training", work.max_weight)
            correction = start.correction(memories.get(client.client_id, b""))
        except EdgeFLError as error:
            reports[index] = failure_of(assignment, error)
            continue
        cohort[index] = _cohort_client(assignment, work, config, client, correction)
    trained = kernels.train_cohort(start.weights, tuple(cohort.values()), deltas=True, threads=threads)
    for index, result in zip(cohort, trained, strict=True):
        client = clients[index]
        try:
            delta, stats = result.get()
            own = memories.get(client.client_id, b"")
            reports[index] = update_of(assignment, start.result(delta.to_bytes(), stats, len(client), own))
        except EdgeFLError as error:
            reports[index] = failure_of(assignment, error)
    return [reports[index] for index in range(len(clients))]


def fold_cohort(
    assignment: Assignment, model: bytes, clients: Sequence[ClientDataset], *, grid_shift: int, norm_bound: float
) -> kernels.FoldedCohort | None:
    """What all updates of ``run_cohort`` add up to, each weighted by its examples, without making them.

    For a training whose deltas travel as they are and alone, of a model that ``kernels.train_cohort`` takes. None when
    any client would fail, or its update be refused.
    """
    work, wanted = assignment.plan.work, assignment.plan.model
    if not wanted.trains_cohorts or not isinstance(work, TrainingWork) or assignment.plan.encoding != "float32":
        return None
    try:
        start, config = wanted.weights(model), work.sgd.keyed(None)
        for client in clients:
            check_examples(wanted, client.examples, "training", work.max_weight)
    except EdgeFLError:
        return None
    cohort = [_cohort_client(assignment, work, config, client, None) for client in clients]
    return kernels.fold_cohort(start, cohort, grid_shift=grid_shift, norm_bound=norm_bound)


def _cohort_client(
    assignment: Assignment, work: TrainingWork, config: TrainConfig, client: ClientDataset, correction: Weights | None
) -> kernels.CohortClient:
    examples = client.examples
    return kernels.CohortClient(
        examples.features_view,
        examples.labels_view,
        config,
        standardization=assignment.plan.model.standardization,
        quantization=examples.meaning,
        shuffle_key=shuffle_key_of(assignment, work, client.client_id),
        correction=correction,
    )
