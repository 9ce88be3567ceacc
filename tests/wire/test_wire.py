"""The wire: every message through its bytes and back, and between versions."""

from __future__ import annotations

import subprocess

import pytest
from hypothesis import given
from hypothesis import strategies as st
from places import ROOT
from script_kit import SCRIPT
from wire_kit import ANSWERS, PROPERTY, RECEIPTS, REPORTS, check_ins, float32, response, retry_windows, summaries

from edgefl import wire
from edgefl.errors import RemoteProtocolError, UpdateRefusal
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.proto.v1 import control_pb2, fleet_pb2, plan_pb2
from edgefl.protocol import messages as m
from edgefl.protocol.events import DeviceError, DeviceRecord, Phase, ReleaseRecord, RoundSummary, TaskRecord, TaskStatus
from edgefl.protocol.process import ProcessState
from edgefl.protocol.shape import ExampleShape
from edgefl.protocol.standing import DeviceState, DeviceView
from edgefl.protocol.task import ClientSpec, parse_task
from edgefl.types import DType, Quantization, SgdOptions
from edgefl.wire import control

# ------------------------------------------------------------------------------------------------ round trips


@PROPERTY
@given(check_ins())
def test_a_check_in_comes_back_from_its_bytes(check_in: m.CheckIn) -> None:
    raw = wire.check_in_to_proto(check_in).SerializeToString()
    assert wire.check_in_from_proto(fleet_pb2.CheckInRequest.FromString(raw)) == check_in


@PROPERTY
@given(ANSWERS)
def test_an_answer_comes_back_from_its_bytes(answer: m.CheckInAnswer) -> None:
    raw = wire.answer_to_proto(answer).SerializeToString()
    assert wire.answer_from_proto(fleet_pb2.CheckInResponse.FromString(raw)) == answer


@PROPERTY
@given(REPORTS)
def test_a_report_comes_back_from_its_bytes(report: m.Report) -> None:
    raw = wire.report_to_proto(report).SerializeToString()
    assert wire.report_from_proto(fleet_pb2.ReportRequest.FromString(raw)) == report


@PROPERTY
@given(RECEIPTS, retry_windows())
def test_a_receipt_comes_back_from_its_bytes(receipt: m.Receipt, retry: m.RetryWindow) -> None:
    raw = wire.receipt_to_proto(receipt, retry).SerializeToString()
    assert wire.receipt_from_proto(fleet_pb2.ReportResponse.FromString(raw)) == (receipt, retry)


@PROPERTY
@given(summaries())
def test_a_round_comes_back_from_its_bytes(summary: RoundSummary) -> None:
    raw = control.round_to_proto(summary).SerializeToString()
    assert control.round_from_proto(control_pb2.Round.FromString(raw)) == summary


@pytest.mark.parametrize("status", TaskStatus)
def test_a_task_says_what_operators_ask(status: TaskStatus) -> None:
    text = (ROOT / "edgefl/demo/tasks/training.toml").read_text()
    spec = parse_task(text, "training.toml")
    record = TaskRecord(spec, text, status, ProcessState(version=7, model=b"x"), next_round=9)
    message = control_pb2.Task.FromString(control.task_to_proto(record).SerializeToString())
    assert control.task_status(message) is status
    old = {TaskStatus.SUSPENDED: TaskStatus.PAUSED}.get(status, status)  # to a command that knows no "suspended"
    assert control_pb2.TaskStatus.Name(message.status) == f"TASK_STATUS_{old.name}"
    assert (message.name, message.kind, message.population) == ("shoulder", "training", "watch")
    assert (message.committed_rounds, message.wanted_rounds, message.next_round) == (7, 50, 9)
    assert parse_task(message.definition, "the server's") == spec


def test_releases_and_devices_say_what_operators_ask() -> None:
    info = m.ReleaseInfo("shoulder", 3, "ab" * 32, 2048)
    release = control.release_to_proto(ReleaseRecord(info, "watch", "training", 50), 1e-7)
    assert (release.population, release.task, release.model_version) == ("watch", "training", 50)
    assert release.max_abs_diff == 1e-7
    assert (release.release.name, release.release.version) == ("shoulder", 3)
    assert (release.release.content.sha256, release.release.content.size_bytes) == (b"\xab" * 32, 2048)
    record = DeviceRecord(
        *("pi-1", "watch", "1.0", 4, 100, 20, True, ExampleShape(75, 7), (("shoulder", 3),)),
        seen_ago_s=4.0,
        error=DeviceError("DataError", "no", 9.0),
    )
    view = DeviceView(record, DeviceState.WORKING, m.RoundKey("train", 7), twins=True)
    device = control_pb2.Device.FromString(control.device_to_proto(view).SerializeToString())
    assert (device.name, device.population, device.agent_version) == ("pi-1", "watch", "1.0")
    assert (device.session, device.num_train, device.num_held_out, device.suspect) == (4, 100, 20, True)
    assert control.device_state(device) is DeviceState.WORKING
    assert (device.works_for.task, device.works_for.round, device.twins, device.seen_ago_s) == ("train", 7, True, 4.0)
    assert (device.shape.num_features, device.running[0].name, device.running[0].version) == (75, "shoulder", 3)
    assert (device.error.kind, device.error.message, device.error.ago_s) == ("DataError", "no", 9.0)
    unheard = control.device_to_proto(DeviceView(DeviceRecord("pi-2", "watch", "0.1", 1, 0, 0), DeviceState.AWAY))
    assert not unheard.HasField("seen_ago_s")
    assert control.device_state(control_pb2.Device()) is None, "an older server says no state"


POSITIVE = st.floats(2.0**-30, 3.4e38)


@PROPERTY
@given(POSITIVE, st.floats(0, 1, exclude_max=True), POSITIVE, POSITIVE)
def test_a_device_computes_with_the_float32_that_a_simulation_computes_with(
    learning_rate: float, momentum: float, proximal: float, scale: float
) -> None:
    # A simulation takes the doubles of the definition; a device takes floats from the wire. The kernel rounds once.
    if not 0 < scale < 1e35:
        scale = 1 / 255
    if 0 < momentum < 2.0**-30 or float32(momentum) == float32(1.0):
        momentum = 0.9
    spec = ClientSpec(learning_rate, momentum=momentum, proximal=proximal)
    work = m.TrainingWork(SgdOptions(learning_rate, 32, 1, 0.0, momentum, proximal, 0.0), True, 10)
    model = SoftmaxModel(3, 2, DType.UINT8, Quantization(scale))
    plan = m.Plan(model, work, "float32")
    sent = m.CheckInAnswer(m.Assignment("t", 1, 0, plan, "", 0, 60.0), m.RetryWindow(0, 1))
    raw = wire.answer_to_proto(sent).SerializeToString()
    outcome = wire.answer_from_proto(fleet_pb2.CheckInResponse.FromString(raw)).outcome
    assert isinstance(outcome, m.Assignment)
    received = outcome.plan.work
    assert isinstance(received, m.TrainingWork)
    for name in ("learning_rate", "momentum", "proximal"):
        assert float32(getattr(received.sgd, name)) == float32(getattr(spec, name)), name
    assert outcome.plan.model == model
    assert float32(outcome.plan.model.quantization.scale) == float32(scale)


# ------------------------------------------------------------------------------------------------ newer peers


def with_unknown_field(raw: bytes) -> bytes:
    """``raw`` and a field 1000 that no version of ours has."""
    return raw + bytes([0xC2, 0x3E, 3]) + b"new"


@PROPERTY
@given(REPORTS)
def test_fields_of_a_newer_device_change_nothing(report: m.Report) -> None:
    raw = with_unknown_field(wire.report_to_proto(report).SerializeToString())
    assert wire.report_from_proto(fleet_pb2.ReportRequest.FromString(raw)) == report


@PROPERTY
@given(ANSWERS)
def test_fields_of_a_newer_server_change_nothing(answer: m.CheckInAnswer) -> None:
    raw = with_unknown_field(wire.answer_to_proto(answer).SerializeToString())
    assert wire.answer_from_proto(fleet_pb2.CheckInResponse.FromString(raw)) == answer


def test_an_outcome_of_a_newer_server_is_refused_and_not_taken_for_another() -> None:
    with pytest.raises(RemoteProtocolError, match="update the agent"):
        wire.answer_from_proto(fleet_pb2.CheckInResponse.FromString(with_unknown_field(b"")))
    with pytest.raises(RemoteProtocolError, match="update the agent"):
        wire.receipt_from_proto(fleet_pb2.ReportResponse.FromString(with_unknown_field(b"")))


def test_enum_values_of_a_newer_server_mean_the_least() -> None:
    message = response()
    message.last_fate = 77
    assert wire.answer_from_proto(message).last_fate is m.Fate.OPEN
    refusal = fleet_pb2.ReportResponse(refused=fleet_pb2.Refused(reason=77, message="x"))
    assert wire.receipt_from_proto(refusal)[0] == m.Refused(UpdateRefusal.MALFORMED, "x")


def test_enum_values_of_a_newer_server_tell_an_operator_to_update() -> None:
    for number in (0, 77):
        with pytest.raises(RemoteProtocolError, match=f"task status {number} is unknown; update"):
            control.task_status(control_pb2.Task(status=number))
        with pytest.raises(RemoteProtocolError, match=f"round phase {number} is unknown; update"):
            control.round_from_proto(control_pb2.Round(phase=number))


# ------------------------------------------------------------------------------------------------ numbers of the enums


def test_the_enums_of_both_sides_have_the_same_members() -> None:
    refusals = dict(fleet_pb2.RefusalReason.items())
    assert refusals.pop("REFUSAL_REASON_UNSPECIFIED") == 0
    assert refusals == {f"REFUSAL_REASON_{reason.name}": reason.value for reason in UpdateRefusal}
    statuses = {name.removeprefix("TASK_STATUS_") for name in control_pb2.TaskStatus.keys()}  # noqa: SIM118
    assert statuses == {"UNSPECIFIED", *(status.name for status in TaskStatus if status is not TaskStatus.SUSPENDED)}
    phases = {name.removeprefix("ROUND_PHASE_") for name in control_pb2.RoundPhase.keys()}  # noqa: SIM118
    assert phases == {"UNSPECIFIED", *(phase.name for phase in Phase)}
    types = {name.removeprefix("FEATURE_TYPE_") for name in plan_pb2.FeatureType.keys()}  # noqa: SIM118
    assert types == {"UNSPECIFIED", *(dtype.name for dtype in DType)}


def test_the_wire_checks_trainings_as_the_kernel_does() -> None:
    sent = {field.name for field in plan_pb2.TrainingWork.DESCRIPTOR.fields}
    assert sent == {*SgdOptions.__dataclass_fields__, "shuffle", "max_weight"}


# ------------------------------------------------------------------------------------------------ weight of imports


@pytest.mark.parametrize(
    ("modules", "absent"),
    [
        ("edgefl", ["numpy", "google", "grpc", "edgefl.errors"]),
        ("edgefl.wire", ["numpy", "grpc", "asyncio", "edgefl.wire.control", "edgefl.proto.v1.control_pb2"]),
        ("edgefl.wire.control", ["numpy", "grpc"]),
        ("edgefl.protocol.task", ["numpy", "grpc", "google"]),
        ("edgefl.cli.main", ["numpy", "grpc", "google", "rich"]),
    ],
)
def test_an_import_loads_only_what_it_needs(modules: str, absent: list[str]) -> None:
    code = f"import sys, {modules}; print([name for name in {absent!r} if name in sys.modules])"
    done = subprocess.run([*SCRIPT, code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
