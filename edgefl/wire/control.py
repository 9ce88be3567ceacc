"""The messages of the ``Control`` service: records to protobuf, and rounds back. Operators' tools import this."""

from __future__ import annotations

from edgefl.errors import RemoteProtocolError, UpdateRefusal
from edgefl.proto.v1 import control_pb2, fleet_pb2
from edgefl.protocol.events import Phase, ReleaseRecord, RoundSummary, TaskRecord, TaskStatus
from edgefl.protocol.failures import FailureCount
from edgefl.protocol.process import ClientAccuracies, FeatureStatistics, Gains, RoundConditions, RoundMetrics
from edgefl.protocol.standing import DeviceState, DeviceView
from edgefl.wire.fleet import release_info_to_proto
from edgefl.wire.shape import shape_to_proto

_STATUS = {
    TaskStatus.RUNNING: control_pb2.TASK_STATUS_RUNNING,
    TaskStatus.PAUSED: control_pb2.TASK_STATUS_PAUSED,
    TaskStatus.COMPLETED: control_pb2.TASK_STATUS_COMPLETED,
    TaskStatus.ENDED: control_pb2.TASK_STATUS_ENDED,
}
_PHASE = {
    Phase.OPEN: control_pb2.ROUND_PHASE_OPEN,
    Phase.COLLECTING: control_pb2.ROUND_PHASE_COLLECTING,
    Phase.CLOSING: control_pb2.ROUND_PHASE_CLOSING,
    Phase.COMMITTED: control_pb2.ROUND_PHASE_COMMITTED,
    Phase.ABANDONED: control_pb2.ROUND_PHASE_ABANDONED,
}
_STATUS_OF = {number: status for status, number in _STATUS.items()}
_STATUS[TaskStatus.SUSPENDED] = control_pb2.TASK_STATUS_PAUSED
_STATE = {
    DeviceState.WAITING: control_pb2.DEVICE_STATE_WAITING,
    DeviceState.WORKING: control_pb2.DEVICE_STATE_WORKING,
    DeviceState.IDLE: control_pb2.DEVICE_STATE_IDLE,
    DeviceState.AWAY: control_pb2.DEVICE_STATE_AWAY,
}
_STATE_OF = {number: state for state, number in _STATE.items()}
_PHASE_OF = {number: phase for phase, number in _PHASE.items()}


def task_to_proto(record: TaskRecord, waiting: str = "", trouble: str = "") -> control_pb2.Task:
    """A suspended task goes as a paused one with its reason: a command that knows no other word still shows it."""
    return control_pb2.Task(
        name=record.spec.name,
        kind=record.spec.kind.value,
        population=record.spec.population,
        status=_STATUS[record.status],
        committed_rounds=record.state.version,
        wanted_rounds=record.spec.rounds,
        next_round=record.next_round,
        definition=record.definition,
        waiting=waiting,
        suspended=(record.reason or "for an unknown reason") if record.status is TaskStatus.SUSPENDED else "",
        trouble=trouble,
    )


def task_status(message: control_pb2.Task) -> TaskStatus:
    status = _STATUS_OF.get(message.status)
    if status is None:
        raise RemoteProtocolError(f"task status {message.status} is unknown; update this command")
    return TaskStatus.SUSPENDED if message.suspended else status


def round_to_proto(summary: RoundSummary) -> control_pb2.Round:
    message = control_pb2.Round(
        task=summary.task,
        round=summary.round_num,
        phase=_PHASE[summary.phase],
        goal=summary.goal,
        cohort=summary.cohort,
        accepted=summary.accepted,
        failed=summary.failed,
        version=summary.version,
        reason=summary.reason,
        latency_shares=summary.latency_shares,
        population=summary.conditions.population,
        learning_rate=summary.conditions.learning_rate,
        base_version=summary.base_version,
        waiting=summary.waiting,
        failures=[control_pb2.Failure(**vars(one)) for one in summary.failures],
    )
    if summary.metrics is not None:
        counts = {**vars(summary.metrics)}
        gains, accuracies = counts.pop("gains"), counts.pop("accuracies")
        message.metrics.CopyFrom(control_pb2.Metrics(**counts))
        if gains is not None:
            message.metrics.gains.CopyFrom(control_pb2.Gains(**vars(gains)))
        if accuracies is not None:
            message.metrics.accuracies.CopyFrom(control_pb2.ClientAccuracies(**vars(accuracies)))
    return message


def round_from_proto(message: control_pb2.Round) -> RoundSummary:
    phase = _PHASE_OF.get(message.phase)
    if phase is None:
        raise RemoteProtocolError(f"round phase {message.phase} is unknown; update this command")
    metrics = None
    if message.HasField("metrics"):
        inner = message.metrics
        metrics = RoundMetrics(
            num_reports=inner.num_reports,
            total_weight=inner.total_weight,
            num_examples=inner.num_examples,
            num_correct=inner.num_correct,
            loss_sum=inner.loss_sum,
            confusion=tuple(inner.confusion),
            gains=_gains_from_proto(inner.gains) if inner.HasField("gains") else None,
            accuracies=_accuracies_from_proto(inner.accuracies) if inner.HasField("accuracies") else None,
        )
    return RoundSummary(
        task=message.task,
        round_num=message.round,
        phase=phase,
        goal=message.goal,
        cohort=message.cohort,
        accepted=message.accepted,
        failed=message.failed,
        version=message.version,
        metrics=metrics,
        reason=message.reason,
        latency_shares=tuple(message.latency_shares),
        conditions=RoundConditions(message.population, message.learning_rate),
        base_version=message.base_version,
        failures=tuple(FailureCount(one.kind, one.count, one.device, one.message) for one in message.failures),
        waiting=message.waiting,
    )


def _gains_from_proto(message: control_pb2.Gains) -> Gains:
    return Gains(message.num_correct_before, message.num_gained, message.num_lost, message.gain_sum)


def _accuracies_from_proto(message: control_pb2.ClientAccuracies) -> ClientAccuracies:
    return ClientAccuracies(message.mean, message.spread, message.minimum, message.maximum, message.worst_decile)


def feature_to_proto(feature: FeatureStatistics) -> control_pb2.Feature:
    return control_pb2.Feature(**vars(feature))


def feature_from_proto(message: control_pb2.Feature) -> FeatureStatistics:
    return FeatureStatistics(
        count=message.count,
        mean=message.mean,
        spread=message.spread,
        minimum=message.minimum if message.HasField("minimum") else None,
        maximum=message.maximum if message.HasField("maximum") else None,
        edges=tuple(message.edges),
        histogram=tuple(message.histogram),
    )


def release_to_proto(record: ReleaseRecord, max_abs_diff: float = 0.0) -> control_pb2.ReleaseInfo:
    return control_pb2.ReleaseInfo(
        release=release_info_to_proto(record.info),
        population=record.population,
        task=record.task,
        model_version=record.model_version,
        max_abs_diff=max_abs_diff,
    )


def device_to_proto(view: DeviceView) -> control_pb2.Device:
    record = view.record
    message = control_pb2.Device(
        name=record.device,
        population=record.population,
        agent_version=record.agent_version,
        session=record.session,
        num_train=record.num_train,
        num_held_out=record.num_held_out,
        suspect=record.suspect,
        state=_STATE[view.state],
        seen_ago_s=record.seen_ago_s,
        running=[fleet_pb2.RunningRelease(name=name, version=version) for name, version in record.running],
        twins=view.twins,
    )
    if view.works_for is not None:
        message.works_for.task, message.works_for.round = view.works_for.task, view.works_for.round_num
    if record.shape is not None:
        message.shape.CopyFrom(shape_to_proto(record.shape))
    if record.error is not None:
        message.error.CopyFrom(control_pb2.DeviceError(**vars(record.error)))
    return message


def device_state(message: control_pb2.Device) -> DeviceState | None:
    """None where an older server does not say it, or a newer one says what is not known here."""
    return _STATE_OF.get(message.state)


def refusal_name(message: control_pb2.RefusalCount) -> str:
    """The reason's name; its number where a newer server has one more."""
    try:
        return UpdateRefusal(message.reason).name
    except ValueError:
        return f"reason {int(message.reason)}"
