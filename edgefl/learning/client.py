"""The client's work: one assignment in, one update or failure out. The agent and the simulation run this same code.

A pure function of assignment, model and examples: running it twice gives the same bytes, so a device that was killed
may simply do it again. It imports no NumPy and does no I/O. ``delta = client_model - server_model``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, replace

from edgefl import codecs, kernels
from edgefl.errors import ConfigError, DataError, EdgeFLError
from edgefl.learning import variates as variates_of
from edgefl.learning.description import describe
from edgefl.learning.loss_grid import loss_to_grid
from edgefl.models.model import Model
from edgefl.protocol.messages import (
    Assignment,
    ClientUpdate,
    DescriptionWork,
    EvaluationWork,
    LocalWork,
    PersonalizationWork,
    Plan,
    ScaffoldWork,
    Split,
    StatisticsWork,
    TrainingWork,
    WorkFailure,
)
from edgefl.randomness import SHUFFLE, derive_key
from edgefl.types import Examples, RoundKey, TrainStats, Weights

INTEGER_ENCODING = "int64"
"""How counts and sums travel: exactly."""

_WORDS = {Split.TRAIN: "training", Split.HELD_OUT: "held-out"}


@dataclass(frozen=True)
class _Result:
    """What a kind of work computed; ``values`` is still to be encoded."""

    values: bytes
    weight: int
    num_examples: int
    num_correct: int = 0
    loss_grid: int = 0
    memory: bytes = b""


def run_plan(
    assignment: Assignment,
    model: bytes,
    train: Examples,
    held_out: Examples,
    device: str,
    *,
    memory: bytes = b"",
    stop: kernels.StopFlag | None = None,
) -> ClientUpdate | WorkFailure | None:
    """Execute the plan of ``assignment`` on this device's examples.

    ``model`` is what the device downloaded, whose digest the caller has verified; b"" for statistics. ``memory`` is
    what the device remembers of this task; b"" while it has nothing.
    ``device`` is the device's id: it enters the seed of its work. Returns None when ``stop`` ended the work early, and
    a ``WorkFailure`` for whatever the data, the model or the plan make impossible; it raises nothing of ours.
    """
    try:
        result = _run(assignment, model, train, held_out, device, memory, stop)
        if result is None:
            return None
        return update_of(assignment, result)
    except EdgeFLError as error:
        return failure_of(assignment, error)


@dataclass(frozen=True)
class Start:
    """What every client of a training starts from. ``server``: what SCAFFOLD's server sends with the model, or None."""

    model: Model
    training: TrainingWork
    weights: Weights
    server: bytes | None

    @classmethod
    def of(cls, model: Model, work: TrainingWork | ScaffoldWork, content: bytes) -> Start:
        if isinstance(work, ScaffoldWork):
            return cls(model, work.training, *variates_of.split_content(model, content))
        return cls(model, work, model.weights(content), None)

    def correction(self, own: bytes) -> Weights | None:
        """What joins every gradient of the client that remembers ``own``."""
        if self.server is None:
            return None
        return variates_of.correction(self.model, self.server, variates_of.own_variate(self.model, own))

    def result(self, delta: bytes, stats: TrainStats, weight: int, own: bytes) -> _Result:
        result = _trained(delta, stats, weight)
        if self.server is None:
            return result
        own = variates_of.own_variate(self.model, own)
        after = variates_of.next_variate(self.server, own, delta, stats.num_steps, self.training.sgd.learning_rate)
        return replace(result, memory=after)


def failure_of(assignment: Assignment, error: EdgeFLError) -> WorkFailure:
    message = " ".join(str(error).split())
    return WorkFailure(assignment.task, assignment.round_num, type(error).__name__, message)


def update_of(assignment: Assignment, result: _Result) -> ClientUpdate:
    key = RoundKey(assignment.task_seed, assignment.round_num)
    payload, _ = codecs.encode(assignment.plan.encoding, result.values, key)
    return ClientUpdate(
        task=assignment.task,
        round_num=assignment.round_num,
        base_model_digest=assignment.model_digest,
        encoding=assignment.plan.encoding,
        payload=payload,
        weight=result.weight,
        num_examples=result.num_examples,
        num_correct=result.num_correct,
        loss_grid=result.loss_grid,
        memory=result.memory,
    )


def _run(
    assignment: Assignment,
    model: bytes,
    train: Examples,
    held_out: Examples,
    device: str,
    memory: bytes,
    stop: kernels.StopFlag | None,
) -> _Result | None:
    plan = assignment.plan
    work = plan.work
    check_encoding(plan)
    if stop is not None and stop.is_set():
        return None
    examples = {Split.TRAIN: train, Split.HELD_OUT: held_out}
    for split in work.reads:
        check_examples(plan.model, examples[split], _WORDS[split], work.max_weight)
    if isinstance(work, (TrainingWork, ScaffoldWork)):
        key = shuffle_key_of(assignment, work.training, device)
        return _train(Start.of(plan.model, work, model), train, key, memory, stop)
    if isinstance(work, EvaluationWork):
        return _evaluate(plan.model, plan.model.weights(model), held_out)
    if isinstance(work, PersonalizationWork):
        key = shuffle_key_of(assignment, work.training, device)
        return _personalize(work.training, plan.model, plan.model.weights(model), train, held_out, key, stop)
    if isinstance(work, LocalWork):
        return _run_local(work, plan.model, model, train, _key(assignment, device))
    if isinstance(work, DescriptionWork):
        return _describe_features(work, train)
    return _sum_features(work, train)


def _train(
    start: Start,
    examples: Examples,
    shuffle_key: bytes | None,
    memory: bytes,
    stop: kernels.StopFlag | None,
) -> _Result | None:
    correction = start.correction(memory)
    end, stats = _descend(start.training, start.model, start.weights, examples, shuffle_key, stop, correction)
    if stats.stopped:
        return None
    delta = kernels.subtract(end.to_bytes(), start.weights.to_bytes())
    return start.result(delta, stats, len(examples), memory)


def _run_local(work: LocalWork, model: Model, content: bytes, examples: Examples, key: bytes) -> _Result:
    start = model.weights(content)
    end, stats = work.run(model, start, examples, key)
    return _trained(kernels.subtract(end.to_bytes(), start.to_bytes()), stats, len(examples))


def _descend(
    work: TrainingWork,
    model: Model,
    start: Weights,
    examples: Examples,
    shuffle_key: bytes | None,
    stop: kernels.StopFlag | None,
    correction: Weights | None = None,
) -> tuple[Weights, TrainStats]:
    return model.train(start, examples, work.sgd.keyed(shuffle_key), correction=correction, stop=stop)


def _personalize(
    work: TrainingWork,
    model: Model,
    start: Weights,
    train: Examples,
    held_out: Examples,
    shuffle_key: bytes | None,
    stop: kernels.StopFlag | None,
) -> _Result | None:
    before = _evaluate(model, start, held_out)
    end, stats = _descend(work, model, start, train, shuffle_key, stop)
    if stats.stopped:
        return None
    after = _evaluate(model, end, held_out)
    return replace(after, values=after.values + array("q", [before.num_correct]).tobytes())


def _trained(delta: bytes, stats: TrainStats, weight: int) -> _Result:
    return _Result(delta, weight, stats.examples_seen, stats.num_correct, loss_to_grid(stats.loss_sum))


def shuffle_key_of(assignment: Assignment, work: TrainingWork, device: str) -> bytes | None:
    return _key(assignment, device) if work.shuffle else None


def _key(assignment: Assignment, device: str) -> bytes:
    return derive_key(assignment.task_seed, assignment.round_num, device, SHUFFLE)


def _evaluate(model: Model, weights: Weights, examples: Examples) -> _Result:
    stats = model.evaluate(weights, examples)
    counts = stats.confusion.tobytes()
    return _Result(counts, len(examples), stats.num_examples, stats.num_correct, loss_to_grid(stats.loss_sum))


def _sum_features(work: StatisticsWork, examples: Examples) -> _Result:
    center = None if work.center is None else memoryview(work.center).cast("f")
    sums = kernels.feature_sums(
        examples.features_view,
        grid_shift=work.grid_shift,
        bound=work.feature_bound,
        center=center,
        quantization=examples.meaning,
    )
    return _Result(sums, len(examples), len(examples))


def _describe_features(work: DescriptionWork, examples: Examples) -> _Result:
    result = _sum_features(work.statistics, examples)  # which checks the features
    told = describe(examples, work.statistics.feature_bound, work.num_bins, extremes=work.extremes)
    return replace(result, values=result.values + told)


def check_encoding(plan: Plan) -> None:
    if codecs.codec(plan.encoding).value_format != plan.work.value_format:
        raise ConfigError(f"encoding is {plan.encoding!r}, which does not fit {type(plan.work).__name__}")


def check_examples(model: Model, examples: Examples, which: str, max_weight: int) -> None:
    """Raises ``DataError`` when the device's examples are not what the plan's model reads."""
    count = len(examples)
    if not count:
        raise DataError(f"this device has no {which} examples; expected at least one")
    if count > max_weight:
        raise DataError(f"this device has {count} {which} examples; the task's max_weight is {max_weight}: raise it")
    found = (examples.num_features, examples.dtype)
    expected = (model.num_features, model.dtype)
    if found != expected:
        raise DataError(
            f"the examples have {found[0]} {found[1].value} features; the model reads {expected[0]} {expected[1].value}"
        )
    if examples.meaning is not None and examples.quantization != model.quantization:
        raise DataError(f"the examples are {examples.quantization}; the model reads {model.quantization}")
