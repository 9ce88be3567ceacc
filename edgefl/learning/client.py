"""The client's work: one assignment in, one update or failure out. The agent and the simulation run this same code.

A pure function of assignment, model and examples: running it twice gives the same bytes, so a device that was killed
may simply do it again. It imports no NumPy and does no I/O. ``delta = client_model - server_model``.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass

from edgefl import codecs, kernels
from edgefl.errors import ConfigError, DataError, EdgeFLError
from edgefl.learning.loss_grid import loss_to_grid
from edgefl.models.softmax import SoftmaxModel
from edgefl.protocol.messages import (
    Assignment,
    ClientUpdate,
    EvaluationWork,
    StatisticsWork,
    TrainingWork,
    WorkFailure,
)
from edgefl.randomness import SHUFFLE, derive_key
from edgefl.types import DType, Examples, Quantization, TrainConfig, Weights

INTEGER_ENCODING = "int64"
"""How counts and sums travel: exactly."""


@dataclass(frozen=True)
class _Result:
    """What a kind of work computed; ``values`` is still to be encoded."""

    values: bytes
    weight: int
    num_examples: int
    num_correct: int = 0
    loss_grid: int = 0


def run_plan(
    assignment: Assignment,
    model: bytes,
    train: Examples,
    held_out: Examples,
    device: str,
    *,
    stop: kernels.StopFlag | None = None,
) -> ClientUpdate | WorkFailure | None:
    """Execute the plan of ``assignment`` on this device's examples.

    ``model`` is the canonical bytes of the model, whose digest the caller has verified; b"" for statistics.
    ``device`` is the device's id: it enters the seed of its work. Returns None when ``stop`` ended the work early, and
    a ``WorkFailure`` for whatever the data, the model or the plan make impossible; it raises nothing of ours.
    """
    try:
        result = _run(assignment, model, train, held_out, device, stop)
        if result is None:
            return None
        payload = codecs.codec(assignment.plan.encoding).encode(result.values)
    except EdgeFLError as error:
        message = " ".join(str(error).split())
        return WorkFailure(assignment.task, assignment.round_num, type(error).__name__, message)
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
    )


def _run(
    assignment: Assignment,
    model: bytes,
    train: Examples,
    held_out: Examples,
    device: str,
    stop: kernels.StopFlag | None,
) -> _Result | None:
    plan = assignment.plan
    work = plan.work
    wanted = "q" if isinstance(work, EvaluationWork | StatisticsWork) else "f"
    if codecs.codec(plan.encoding).value_format != wanted:
        raise ConfigError(f"encoding is {plan.encoding!r}, which does not fit {type(work).__name__}")
    if stop is not None and stop.is_set():
        return None
    if isinstance(work, TrainingWork):
        _check_examples(plan.model, train, "training", work.max_weight)
        key = derive_key(assignment.task_seed, assignment.round_num, device, SHUFFLE) if work.shuffle else None
        return _train(work, plan.model, model, train, key, stop)
    if isinstance(work, EvaluationWork):
        _check_examples(plan.model, held_out, "held-out", work.max_weight)
        return _evaluate(plan.model, _weights(plan.model, model), held_out)
    _check_examples(plan.model, train, "training", work.max_weight)
    return _sum_features(work, train)


def _train(
    work: TrainingWork,
    model: SoftmaxModel,
    raw_model: bytes,
    examples: Examples,
    shuffle_key: bytes | None,
    stop: kernels.StopFlag | None,
) -> _Result | None:
    config = TrainConfig(
        learning_rate=work.learning_rate,
        batch_size=work.batch_size,
        num_epochs=work.local_epochs,
        l2=work.l2,
        momentum=work.momentum,
        proximal=work.proximal,
        clip_norm=work.clip_norm,
        shuffle_key=shuffle_key,
    )
    end, stats = kernels.train_softmax(
        _weights(model, raw_model),
        examples.features_view,
        examples.labels_view,
        config,
        standardization=model.standardization,
        quantization=_meaning(examples),
        stop=stop,
    )
    if stats.stopped:
        return None
    delta = kernels.subtract(end.to_bytes(), raw_model)
    return _Result(delta, len(examples), stats.examples_seen, stats.num_correct, loss_to_grid(stats.loss_sum))


def _evaluate(model: SoftmaxModel, weights: Weights, examples: Examples) -> _Result:
    stats = kernels.evaluate_softmax(
        weights,
        examples.features_view,
        examples.labels_view,
        standardization=model.standardization,
        quantization=_meaning(examples),
    )
    counts = array("q", stats.confusion).tobytes()
    return _Result(counts, len(examples), stats.num_examples, stats.num_correct, loss_to_grid(stats.loss_sum))


def _sum_features(work: StatisticsWork, examples: Examples) -> _Result:
    center = None if work.center is None else memoryview(work.center).cast("f")
    sums = kernels.feature_sums(
        examples.features_view,
        grid_shift=work.grid_shift,
        bound=work.feature_bound,
        center=center,
        quantization=_meaning(examples),
    )
    return _Result(sums, len(examples), len(examples))


def _weights(model: SoftmaxModel, raw: bytes) -> Weights:
    return Weights.from_bytes(raw, model.num_classes, model.num_features)


def _meaning(examples: Examples) -> Quantization | None:
    return None if examples.dtype is DType.FLOAT32 else examples.quantization


def _check_examples(model: SoftmaxModel, examples: Examples, which: str, max_weight: int) -> None:
    """Raises ``DataError`` when the device's examples are not what the plan's model reads."""
    if not len(examples):
        raise DataError(f"this device has no {which} examples; expected at least one")
    if len(examples) > max_weight:
        raise DataError(
            f"this device has {len(examples)} {which} examples; the task's max_weight is {max_weight}: raise it"
        )
    found = (examples.num_features, examples.dtype)
    expected = (model.num_features, model.dtype)
    if found != expected:
        raise DataError(
            f"the examples have {found[0]} {found[1].value} features; the model reads {expected[0]} {expected[1].value}"
        )
    if _meaning(examples) is not None and examples.quantization != model.quantization:
        raise DataError(f"the examples are {examples.quantization}; the model reads {model.quantization}")
