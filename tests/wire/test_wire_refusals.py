"""Everything that the other side may not send is refused by type, and nothing of it crashes."""

from __future__ import annotations

import contextlib
import math
from dataclasses import replace

import pytest
from google.protobuf.message import DecodeError
from hypothesis import given
from hypothesis import strategies as st
from wire_kit import PROPERTY, float32, response

from edgefl import wire
from edgefl.errors import InvalidUpdateError, RemoteProtocolError, UpdateRefusal
from edgefl.proto.v1 import fleet_pb2, plan_pb2
from edgefl.protocol import messages as m
from edgefl.wire.limits import MAX_COUNT, MAX_EXAMPLES, MAX_NAMES, MAX_REPORT_BYTES, MAX_TEXT

# ------------------------------------------------------------------------------------------------ refusals: devices


def refused(message: fleet_pb2.CheckInResponse, match: str) -> None:
    with pytest.raises(RemoteProtocolError, match=match):
        wire.answer_from_proto(fleet_pb2.CheckInResponse.FromString(message.SerializeToString()))


def test_the_answer_that_the_following_tests_spoil_is_a_good_one() -> None:
    wire.answer_from_proto(response())


def test_an_answer_without_an_outcome_is_refused() -> None:
    refused(fleet_pb2.CheckInResponse(), "without an outcome")


@pytest.mark.parametrize("part", ["model", "work"])
def test_a_plan_of_an_unknown_kind_is_refused(part: str) -> None:
    message = response()
    message.assignment.plan.ClearField({"model": "softmax", "work": "training"}[part])
    refused(message, "does not know; update the agent")


@pytest.mark.parametrize(
    ("kind", "version", "options", "match"),
    [
        ("transformer", 1, {}, "does not know; update the agent: model kind is 'transformer'"),
        ("softmax", 2, {}, "does not know; update the agent: model kind 'softmax' of version 2; expected version 1"),
        ("softmax", 1, {"depth": 3}, "does not know; update the agent: model kind 'softmax' has no 'depth'"),
    ],
)
def test_a_model_of_an_unknown_kind_version_or_option_is_refused(
    kind: str, version: int, options: dict[str, int], match: str
) -> None:
    message = response()
    plan = message.assignment.plan
    shape = plan_pb2.SoftmaxModel()
    shape.CopyFrom(plan.softmax)
    plan.named.shape.CopyFrom(shape)
    plan.named.kind, plan.named.version = kind, version
    for name, value in options.items():
        plan.named.options.add(name=name, value=value)
    refused(message, match)


@pytest.mark.parametrize("number", [0, 4, 99])
def test_an_unknown_feature_type_is_refused(number: int) -> None:
    message = response()
    message.assignment.plan.softmax.feature_type = number
    refused(message, f"feature type {number} is unknown")


@pytest.mark.parametrize("size", [0, 31, 33])
def test_a_digest_of_another_size_is_refused(size: int) -> None:
    message = response()
    message.assignment.model.sha256 = bytes(size)
    refused(message, f"model: a digest of {size} bytes; expected 32")
    message = response()
    message.releases[0].content.sha256 = bytes(size)
    refused(message, f"release: a digest of {size} bytes; expected 32")


@pytest.mark.parametrize(
    ("field", "value"),
    [("learning_rate", 0.0), ("local_epochs", 0), ("momentum", 0.5), ("proximal", 0.5), ("clip_norm", 1.0)],
)
def test_a_scaffold_whose_variates_mean_nothing_is_refused(field: str, value: float) -> None:
    """Without a step, or at rate 0, its variate would be a division by zero."""
    message = response()
    training = plan_pb2.TrainingWork(learning_rate=0.1, batch_size=8, local_epochs=1, max_weight=100)
    message.assignment.plan.scaffold.training.CopyFrom(training)
    wire.answer_from_proto(message)
    setattr(message.assignment.plan.scaffold.training, field, value)
    refused(message, "expected the first two above 0, and the others 0")


def test_a_description_larger_than_an_update_may_be_is_refused() -> None:
    """It would be the device's memory."""
    message = response()
    softmax = plan_pb2.SoftmaxModel(num_features=8192, num_classes=2, feature_type=plan_pb2.FEATURE_TYPE_FLOAT32)
    message.assignment.plan.softmax.CopyFrom(softmax)
    description = message.assignment.plan.description
    description.statistics.CopyFrom(plan_pb2.StatisticsWork(feature_bound=1.0, grid_shift=20, max_weight=100))
    description.num_bins = 1023
    wire.answer_from_proto(message)
    description.num_bins = 1024
    refused(message, "num_bins 1024 of 8192 features make an update of 67174400 bytes; expected at most 67108864")


@pytest.mark.parametrize("field", ["learning_rate", "l2", "momentum", "proximal", "clip_norm"])
@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, -0.1, 1e-20])
def test_a_rate_that_the_kernel_would_not_take_is_refused(field: str, value: float) -> None:
    refused(response(plan_pb2.TrainingWork(**{field: value})), f"the assignment: {field} is ")


@pytest.mark.parametrize(
    ("field", "value"), [("batch_size", 2**20 + 1), ("local_epochs", 10_001), ("momentum", 1.0), ("max_weight", 2**33)]
)
def test_a_training_beyond_its_bounds_is_refused(field: str, value: float) -> None:
    refused(response(plan_pb2.TrainingWork(**{field: value})), f"{field} is {value}")


@pytest.mark.parametrize("field", ["batch_size", "max_weight"])
def test_a_training_without_its_counts_is_refused(field: str) -> None:
    message = response()
    message.assignment.plan.training.ClearField(field)
    refused(message, f"{field} is 0; expected 1 to")


@pytest.mark.parametrize(("field", "value"), [("num_features", 0), ("num_classes", 0), ("num_classes", 4097)])
def test_a_model_of_an_impossible_shape_is_refused(field: str, value: int) -> None:
    message = response()
    setattr(message.assignment.plan.softmax, field, value)
    refused(message, f"the assignment: {field} is {value}")


@pytest.mark.parametrize("scale", [math.nan, math.inf, 0.0, -1.0])
def test_a_scale_that_is_none_is_refused(scale: float) -> None:
    message = response()
    message.assignment.plan.softmax.feature_type = plan_pb2.FEATURE_TYPE_INT8
    message.assignment.plan.softmax.scale = scale
    refused(message, "the assignment: scale is ")


@pytest.mark.parametrize(
    ("mean", "spread", "match"),
    [
        (b"", b"", "standardization of 0"),
        (bytes(8), bytes(12), "standardization of 8 and 12"),
        (bytes(8), bytes(8), "a standardization of 2 features; expected the model's 3"),
        (float32(math.nan) * 3, bytes(12), r"mean\[0\] is nan"),
    ],
)
def test_a_standardization_that_does_not_fit_is_refused(mean: bytes, spread: bytes, match: str) -> None:
    message = response()
    message.assignment.plan.softmax.standardization.mean = mean
    message.assignment.plan.softmax.standardization.inverse_spread = spread
    refused(message, match)


@pytest.mark.parametrize("size", [0, 1, 8, 13, 16])
def test_a_center_of_another_size_is_refused(size: int) -> None:
    message = response()
    message.assignment.plan.statistics.feature_bound = 1.0
    message.assignment.plan.statistics.max_weight = 10
    message.assignment.plan.statistics.center = bytes(size)
    refused(message, f"a center of {size} bytes; expected 12")


@pytest.mark.parametrize("bound", [math.nan, math.inf, 0.0, -1.0])
def test_a_feature_bound_that_is_none_is_refused(bound: float) -> None:
    message = response()
    message.assignment.plan.statistics.feature_bound = bound
    message.assignment.plan.statistics.max_weight = 10
    refused(message, "feature_bound is ")


@pytest.mark.parametrize("deadline", [math.nan, math.inf, -1.0, 1e9])
def test_a_deadline_that_a_clock_cannot_be_added_to_is_refused(deadline: float) -> None:
    message = response()
    message.assignment.deadline_s = deadline
    refused(message, "deadline_s is ")


@pytest.mark.parametrize("name", ["", "../../etc/passwd", "A", "a\n", "a" * 65, "a" * 1_000_000])
def test_a_name_that_is_no_name_is_refused(name: str) -> None:
    message = response()
    message.assignment.key.task = name
    refused(message, "task is ")
    message = response()
    message.releases[0].name = name
    refused(message, "release is ")
    with pytest.raises(RemoteProtocolError, match="population is ") as caught:
        wire.check_in_from_proto(fleet_pb2.CheckInRequest(population=name))
    assert len(str(caught.value)) < 2 * MAX_TEXT


WINDOWS = [(math.nan, 1.0), (0.0, math.nan), (-1.0, 1.0), (2.0, 1.0), (0.0, math.inf), (0.0, 1e9)]


@pytest.mark.parametrize(("low", "high"), WINDOWS)
def test_a_retry_window_that_is_none_is_refused(low: float, high: float) -> None:
    message = response()
    message.retry.min_s, message.retry.max_s = low, high
    refused(message, "retry window")
    with pytest.raises(RemoteProtocolError, match="retry window"):
        wire.receipt_from_proto(fleet_pb2.ReportResponse(noted=fleet_pb2.Noted(), retry=message.retry))


def test_an_absent_retry_window_is_at_once() -> None:
    message = response()
    message.ClearField("retry")
    assert wire.answer_from_proto(message).retry == m.RetryWindow(0, 0)


@pytest.mark.parametrize("field", ["version", "size_bytes"])
def test_a_release_of_numbers_that_no_store_holds_is_refused(field: str) -> None:
    message = response()
    setattr(message.releases[0] if field == "version" else message.releases[0].content, field, 2**63)
    refused(message, f"release {field} is {2**63}; expected at most")


# ------------------------------------------------------------------------------------------------ refusals: the server


def update(**changes: object) -> m.ClientUpdate:
    good = m.ClientUpdate("task", 1, "ab" * 32, "float32", bytes(12), 5, 5, 3, 1000)
    return replace(good, **changes)  # type: ignore[arg-type]


def refusal(message: fleet_pb2.ReportRequest) -> InvalidUpdateError:
    with pytest.raises(InvalidUpdateError) as caught:
        wire.report_from_proto(message)
    return caught.value


def test_a_report_is_refused_by_its_size_before_anything_else() -> None:
    message = fleet_pb2.ReportRequest(update=fleet_pb2.ClientUpdate(payload=bytes(m.INLINE_UPDATE_MAX_BYTES + 4096)))
    message.update.base_model_sha256 = b"short"
    failure = fleet_pb2.ReportRequest(failure=fleet_pb2.WorkFailure(message="x" * (m.INLINE_UPDATE_MAX_BYTES + 4096)))
    for raw in (message.SerializeToString(), failure.SerializeToString(), b"\xff" * (MAX_REPORT_BYTES + 1)):
        with pytest.raises(InvalidUpdateError, match=f"a report of {len(raw)} bytes") as caught:
            wire.parse_report(raw)
        assert caught.value.reason is UpdateRefusal.TOO_LARGE


def test_bytes_that_are_no_report_are_malformed() -> None:
    whole = wire.report_to_proto(update()).SerializeToString()
    for raw in (b"\xff", b"\xff" * MAX_REPORT_BYTES, whole[:-1]):
        with pytest.raises(InvalidUpdateError, match=f"{len(raw)} bytes that are not a valid report") as caught:
            wire.parse_report(raw)
        assert caught.value.reason is UpdateRefusal.MALFORMED


def test_the_largest_update_is_taken() -> None:
    largest = update(payload=bytes(m.INLINE_UPDATE_MAX_BYTES), task="t" * 64)
    raw = wire.report_to_proto(largest).SerializeToString()
    assert wire.report_from_proto(wire.parse_report(raw)) == largest
    assert wire.report_to_proto(largest).ByteSize() < wire.MAX_MESSAGE_BYTES


def test_a_report_without_a_result_is_malformed() -> None:
    assert refusal(fleet_pb2.ReportRequest()).reason is UpdateRefusal.MALFORMED


@pytest.mark.parametrize("size", [1, 31, 33])
def test_a_base_model_digest_of_another_size_is_malformed(size: int) -> None:
    message = wire.report_to_proto(update())
    message.update.base_model_sha256 = bytes(size)
    assert refusal(message).reason is UpdateRefusal.MALFORMED
    assert f"{size} bytes" in str(refusal(message))


def test_more_right_answers_than_examples_are_malformed() -> None:
    assert refusal(wire.report_to_proto(update(num_examples=5, num_correct=6))).reason is UpdateRefusal.MALFORMED


def test_counts_that_no_database_holds_are_refused() -> None:
    assert refusal(wire.report_to_proto(update(num_examples=MAX_EXAMPLES + 1))).reason is UpdateRefusal.MALFORMED
    for field, highest in (("session", MAX_COUNT), ("num_train", MAX_EXAMPLES), ("num_held_out", MAX_EXAMPLES)):
        wire.check_in_from_proto(fleet_pb2.CheckInRequest(population="p", **{field: highest}))
        with pytest.raises(RemoteProtocolError, match=f"{field} is {highest + 1}; expected at most {highest}"):
            wire.check_in_from_proto(fleet_pb2.CheckInRequest(population="p", **{field: highest + 1}))


def test_huge_texts_are_cut() -> None:
    huge = "ü" * 100_000
    failure = wire.report_from_proto(
        fleet_pb2.ReportRequest(
            failure=fleet_pb2.WorkFailure(key=fleet_pb2.RoundKey(task=huge), kind=huge, message=huge)
        )
    )
    assert isinstance(failure, m.WorkFailure)
    assert (failure.task, failure.kind, failure.message) == (huge[:MAX_TEXT],) * 3
    check_in = wire.check_in_from_proto(
        fleet_pb2.CheckInRequest(
            population="p",
            agent_version=huge,
            kinds=[huge] * 50,
            encodings=[huge] * 50,
            last=fleet_pb2.RoundKey(task=huge),
        )
    )
    assert check_in.agent_version == check_in.last_task == huge[:MAX_TEXT]
    assert check_in.kinds == check_in.encodings == (huge[:MAX_TEXT],) * MAX_NAMES
    rejection = fleet_pb2.CheckInResponse(rejection=fleet_pb2.Rejection(reason=huge))
    assert wire.answer_from_proto(rejection).outcome == m.Rejection(huge[:MAX_TEXT])
    sent = fleet_pb2.ReportResponse(refused=fleet_pb2.Refused(reason=1, message=huge))
    assert wire.receipt_from_proto(sent)[0] == m.Refused(UpdateRefusal.TOO_LARGE, huge[:MAX_TEXT])


def test_a_device_cuts_what_it_sends_too() -> None:
    assert wire.report_to_proto(m.WorkFailure("t", 1, "DataError", "x" * 10_000)).failure.message == "x" * MAX_TEXT


@PROPERTY
@given(st.binary(max_size=200))
def test_any_bytes_that_parse_give_a_value_or_a_typed_refusal(raw: bytes) -> None:

    for message, read in (
        (fleet_pb2.CheckInRequest, wire.check_in_from_proto),
        (fleet_pb2.CheckInResponse, wire.answer_from_proto),
        (fleet_pb2.ReportRequest, wire.report_from_proto),
        (fleet_pb2.ReportResponse, wire.receipt_from_proto),
    ):
        with contextlib.suppress(DecodeError, RemoteProtocolError, InvalidUpdateError):
            read(message.FromString(raw))  # type: ignore[operator]
