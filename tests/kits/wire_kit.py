"""Every message of the wire at random within what it may be, and good ones for tests to spoil."""

from __future__ import annotations

import struct
from array import array

from hypothesis import settings
from hypothesis import strategies as st

from edgefl import wire
from edgefl.errors import UpdateRefusal
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.proto.v1 import fleet_pb2, plan_pb2
from edgefl.protocol import messages as m
from edgefl.protocol.events import Phase, RoundSummary
from edgefl.protocol.failures import FailureCount
from edgefl.protocol.process import ClientAccuracies, Gains, RoundConditions, RoundMetrics
from edgefl.protocol.shape import ExampleShape
from edgefl.types import MAX_CLASSES, MAX_FEATURES, DType, Quantization, SgdOptions, Standardization
from edgefl.wire.limits import MAX_COUNT, MAX_EXAMPLES, MAX_NAMES, MAX_TEXT

PROPERTY = settings(deadline=None, derandomize=True)

NAMES = st.from_regex(r"[a-z0-9][a-z0-9._-]{0,63}", fullmatch=True)
TEXTS = st.text(st.characters(exclude_categories=("Cs",)), max_size=MAX_TEXT)
SHORT = st.text(st.characters(exclude_categories=("Cs",)), max_size=20)
U32 = st.integers(0, 2**32 - 1)
U64 = st.integers(0, 2**64 - 1)
COUNTS = st.integers(0, MAX_COUNT)
DIGESTS = st.binary(min_size=32, max_size=32).map(bytes.hex)
WEIGHT_BOUNDS = st.integers(1, m.MAX_WEIGHT)
RATES = st.one_of(st.just(0.0), st.floats(2.0**-30, 1e6, width=32))


@st.composite
def retry_windows(draw: st.DrawFn) -> m.RetryWindow:
    low, high = sorted((draw(st.floats(0, 1e8)), draw(st.floats(0, 1e8))))
    return m.RetryWindow(low, high)


@st.composite
def models(draw: st.DrawFn) -> SoftmaxModel:
    dtype = draw(st.sampled_from(DType))
    num_features = draw(st.integers(1, 5))
    meaning = Quantization()
    if dtype is not DType.FLOAT32:
        meaning = Quantization(draw(st.floats(2.0**-30, 1e30)), draw(st.integers(-128, 255)))
    standardization = None
    if draw(st.booleans()):
        vectors = st.lists(RATES, min_size=num_features, max_size=num_features)
        standardization = Standardization(
            array("f", draw(vectors)).tobytes(),
            array("f", draw(vectors)).tobytes(),
        )
    return SoftmaxModel(num_features, draw(st.integers(1, 4096)), dtype, meaning, standardization)


TRAINING = st.builds(
    m.TrainingWork,
    sgd=st.builds(
        SgdOptions,
        learning_rate=RATES,
        batch_size=st.integers(1, 2**20),
        local_epochs=st.integers(0, 10_000),
        l2=RATES,
        momentum=st.sampled_from([0.0, 0.5, 1 - 2.0**-24]),
        proximal=RATES,
        clip_norm=RATES,
    ),
    shuffle=st.booleans(),
    max_weight=WEIGHT_BOUNDS,
)


PERSONALIZATION = st.builds(m.PersonalizationWork, training=TRAINING)
GAINS = st.builds(Gains, U64, U32, U32, st.floats(-1e6, 1e6))
ACCURACIES = st.builds(ClientAccuracies, *[st.floats(0, 1)] * 5)


@st.composite
def plans(draw: st.DrawFn) -> m.Plan:
    model = draw(models())
    size = 4 * model.num_features
    statistics = st.builds(
        m.StatisticsWork,
        feature_bound=st.floats(2.0**-20, 2.0**20),
        grid_shift=st.integers(-128, 128),
        max_weight=WEIGHT_BOUNDS,
        center=st.none() | st.binary(min_size=size, max_size=size),
    )
    description = st.builds(m.DescriptionWork, statistics, st.integers(0, m.MAX_BINS), st.booleans())
    work = draw(
        st.one_of(
            description, TRAINING, st.builds(m.EvaluationWork, max_weight=WEIGHT_BOUNDS), PERSONALIZATION, statistics
        )
    )
    return m.Plan(model, work, draw(SHORT))


@st.composite
def assignments(draw: st.DrawFn) -> m.Assignment:
    with_model = draw(st.booleans())
    return m.Assignment(
        task=draw(NAMES),
        round_num=draw(U32),
        task_seed=draw(U64),
        plan=draw(plans()),
        model_digest=draw(DIGESTS) if with_model else "",
        model_size_bytes=draw(COUNTS) if with_model else 0,
        deadline_s=draw(st.floats(0, 1e8)),
    )


RELEASES = st.builds(m.ReleaseInfo, name=NAMES, version=COUNTS, sha256=DIGESTS, size_bytes=COUNTS)
ANSWERS = st.builds(
    m.CheckInAnswer,
    outcome=assignments() | st.builds(m.Rejection, reason=TEXTS),
    retry=retry_windows(),
    releases=st.lists(RELEASES, max_size=3).map(tuple),
    last_fate=st.sampled_from(m.Fate),
)


SHAPES = st.builds(
    ExampleShape, st.integers(1, MAX_FEATURES), st.integers(1, MAX_CLASSES), st.just(DType.FLOAT32)
) | st.builds(
    ExampleShape,
    st.integers(1, MAX_FEATURES),
    st.integers(1, MAX_CLASSES),
    st.sampled_from([DType.UINT8, DType.INT8]),
    st.builds(Quantization, st.floats(2.0**-30, 2.0**100, width=32), st.integers(-128, 255)),
)


@st.composite
def check_ins(draw: st.DrawFn) -> m.CheckIn:
    last = draw(st.none() | st.tuples(NAMES, U32))
    names = st.lists(SHORT, max_size=MAX_NAMES).map(tuple)
    examples = st.integers(0, MAX_EXAMPLES)
    return m.CheckIn(
        population=draw(NAMES),
        agent_version=draw(TEXTS),
        session=draw(COUNTS),
        num_train=draw(examples),
        num_held_out=draw(examples),
        kinds=draw(names),
        encodings=draw(names),
        last_task=last[0] if last else "",
        last_round=last[1] if last else 0,
        shape=draw(st.none() | SHAPES),
        running=draw(st.lists(st.tuples(NAMES, COUNTS), max_size=MAX_NAMES).map(tuple)),
        instance=draw(U64),
    )


@st.composite
def updates(draw: st.DrawFn) -> m.ClientUpdate:
    num_examples = draw(st.integers(0, MAX_EXAMPLES))
    return m.ClientUpdate(
        task=draw(TEXTS),
        round_num=draw(U32),
        base_model_digest=draw(st.just("") | DIGESTS),
        encoding=draw(TEXTS),
        payload=draw(st.binary(max_size=64)),
        weight=draw(U64),
        num_examples=num_examples,
        num_correct=draw(st.integers(0, num_examples)),
        loss_grid=draw(st.integers(-(2**63), 2**63 - 1)),
        attempt=draw(U32),
    )


REPORTS = updates() | st.builds(m.WorkFailure, task=TEXTS, round_num=U32, kind=TEXTS, message=TEXTS)
RECEIPTS = st.one_of(
    st.builds(m.Accepted, sequence=U64),
    st.builds(m.AlreadyAccepted, sequence=U64),
    st.just(m.Late()),
    st.just(m.Noted()),
    st.builds(m.Refused, reason=st.sampled_from(UpdateRefusal), message=TEXTS),
)


FAILURES = st.builds(FailureCount, kind=TEXTS, count=U32, device=NAMES, message=TEXTS)


@st.composite
def summaries(draw: st.DrawFn) -> RoundSummary:
    metrics = st.builds(
        RoundMetrics,
        num_reports=U32,
        total_weight=U64,
        num_examples=U64,
        num_correct=U64,
        loss_sum=st.floats(allow_nan=False),
        confusion=st.lists(U64, max_size=9).map(tuple),
        gains=st.none() | GAINS,
        accuracies=st.none() | ACCURACIES,
    )
    numbers = {
        name: draw(U32) for name in ("round_num", "goal", "cohort", "accepted", "failed", "version", "base_version")
    }
    phase = draw(st.sampled_from(Phase))
    shares = draw(st.lists(st.floats(0, 1), max_size=4).map(tuple))
    made = draw(st.none() | metrics)
    conditions = RoundConditions(draw(U64), draw(st.floats(allow_nan=False, width=32)))
    return RoundSummary(
        task=draw(NAMES),
        phase=phase,
        metrics=made,
        reason=draw(TEXTS),
        latency_shares=shares,
        conditions=conditions,
        failures=draw(st.lists(FAILURES, max_size=3).map(tuple)),
        waiting=draw(TEXTS),
        **numbers,
    )


# ------------------------------------------------------------------------------------------------ good ones


def float32(value: float) -> bytes:
    return struct.pack("<f", value)


def response(work: plan_pb2.TrainingWork | None = None) -> fleet_pb2.CheckInResponse:
    """A good answer with a training plan, to be spoiled in one place."""
    training = m.TrainingWork(SgdOptions(0.1, 32, 1, 0.0, 0.0, 0.0, 0.0), True, 10)
    plan = m.Plan(SoftmaxModel(3, 2), training, "float32")
    assignment = m.Assignment("task", 1, 0, plan, "ab" * 32, 32, 60.0)
    info = m.ReleaseInfo("shoulder", 1, "cd" * 32, 2048)
    message = wire.answer_to_proto(m.CheckInAnswer(assignment, m.RetryWindow(1, 2), (info,)))
    if work is not None:
        message.assignment.plan.training.MergeFrom(work)
    return message
