"""The messages of the ``Fleet`` service: dataclasses to protobuf and back.

``*_from_proto`` refuse what the protocol does not allow with ``RemoteProtocolError`` (a client update with
``InvalidUpdateError``); what they return has passed the dataclasses' own checks.

Source: design §6; the messages are described in ``protos/edgefl/proto/v1``.
"""

from __future__ import annotations

from typing import NoReturn

from google.protobuf.message import DecodeError

from edgefl.errors import ConfigError, DataError, InvalidUpdateError, RemoteProtocolError, UpdateRefusal
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol import messages as m
from edgefl.protocol.failures import refusal
from edgefl.protocol.task import check_name
from edgefl.wire.limits import (
    DIGEST_BYTES,
    MAX_COUNT,
    MAX_DEADLINE_S,
    MAX_EXAMPLES,
    MAX_NAMES,
    MAX_REPORT_BYTES,
    MAX_TEXT,
)
from edgefl.wire.plan import plan_from_proto, plan_to_proto
from edgefl.wire.shape import shape_from_proto, shape_to_proto

_FATES = {
    m.Fate.OPEN: fleet_pb2.FATE_UNSPECIFIED,
    m.Fate.COUNTED: fleet_pb2.FATE_COUNTED,
    m.Fate.NOT_COUNTED: fleet_pb2.FATE_NOT_COUNTED,
}


# ------------------------------------------------------------------------------------------------ check-in


def check_in_to_proto(check_in: m.CheckIn) -> fleet_pb2.CheckInRequest:
    message = fleet_pb2.CheckInRequest(
        population=check_in.population,
        agent_version=check_in.agent_version,
        session=check_in.session,
        num_train=check_in.num_train,
        num_held_out=check_in.num_held_out,
        kinds=check_in.kinds,
        encodings=check_in.encodings,
    )
    if check_in.last_task:
        message.last.task = check_in.last_task
        message.last.round = check_in.last_round
    if check_in.shape is not None:
        message.shape.CopyFrom(shape_to_proto(check_in.shape))
    for name, version in check_in.running[:MAX_NAMES]:
        message.running.add(name=name, version=version)
    message.instance = check_in.instance
    return message


def check_in_from_proto(message: fleet_pb2.CheckInRequest) -> m.CheckIn:
    _name("population", message.population)
    _count("session", message.session, MAX_COUNT)
    _count("num_train", message.num_train, MAX_EXAMPLES)
    _count("num_held_out", message.num_held_out, MAX_EXAMPLES)
    return m.CheckIn(
        population=message.population,
        agent_version=message.agent_version[:MAX_TEXT],
        session=message.session,
        num_train=message.num_train,
        num_held_out=message.num_held_out,
        kinds=tuple(kind[:MAX_TEXT] for kind in message.kinds[:MAX_NAMES]),
        encodings=tuple(encoding[:MAX_TEXT] for encoding in message.encodings[:MAX_NAMES]),
        last_task=message.last.task[:MAX_TEXT],
        last_round=message.last.round,
        shape=shape_from_proto(message.shape) if message.HasField("shape") else None,
        running=tuple(_running(release) for release in message.running[:MAX_NAMES]),
        instance=message.instance,
    )


def _running(message: fleet_pb2.RunningRelease) -> tuple[str, int]:
    _name("release", message.name)
    _count("release version", message.version, MAX_COUNT)
    return message.name, message.version


def answer_to_proto(answer: m.CheckInAnswer) -> fleet_pb2.CheckInResponse:
    message = fleet_pb2.CheckInResponse(retry=retry_to_proto(answer.retry), last_fate=_FATES[answer.last_fate])
    outcome = answer.outcome
    if isinstance(outcome, m.Assignment):
        a = message.assignment
        a.key.task, a.key.round = outcome.task, outcome.round_num
        a.task_seed, a.deadline_s = outcome.task_seed, outcome.deadline_s
        a.plan.CopyFrom(plan_to_proto(outcome.plan))
        if outcome.model_digest:
            a.model.sha256 = bytes.fromhex(outcome.model_digest)
            a.model.size_bytes = outcome.model_size_bytes
    else:
        message.rejection.reason = outcome.reason
    for release in answer.releases:
        message.releases.append(release_info_to_proto(release))
    return message


def answer_from_proto(message: fleet_pb2.CheckInResponse) -> m.CheckInAnswer:
    kind = message.WhichOneof("outcome")
    if kind is None:
        raise RemoteProtocolError("a check-in response without an outcome this agent knows; update the agent")
    outcome: m.Assignment | m.Rejection
    if kind == "assignment":
        try:
            outcome = _assignment_from_proto(message.assignment)
        except (ConfigError, DataError) as error:
            raise RemoteProtocolError(f"the assignment: {error}") from None
    else:
        outcome = m.Rejection(message.rejection.reason[:MAX_TEXT])
    fates = {number: fate for fate, number in _FATES.items()}
    return m.CheckInAnswer(
        outcome=outcome,
        retry=retry_from_proto(message.retry),
        releases=tuple(_release_info_from_proto(r) for r in message.releases),
        last_fate=fates.get(message.last_fate, m.Fate.OPEN),
    )


def _assignment_from_proto(a: fleet_pb2.Assignment) -> m.Assignment:
    _name("task", a.key.task)
    if not 0 <= a.deadline_s < MAX_DEADLINE_S:
        raise RemoteProtocolError(f"deadline_s is {a.deadline_s}; expected 0 to {MAX_DEADLINE_S:.0f}")
    _count("model size_bytes", a.model.size_bytes, MAX_COUNT)
    return m.Assignment(
        task=a.key.task,
        round_num=a.key.round,
        task_seed=a.task_seed,
        plan=plan_from_proto(a.plan),
        model_digest=_digest("model", a.model.sha256) if a.HasField("model") else "",
        model_size_bytes=a.model.size_bytes,
        deadline_s=a.deadline_s,
    )


# ------------------------------------------------------------------------------------------------ report


def report_to_proto(report: m.Report, *, with_payload: bool = True) -> fleet_pb2.ReportRequest:
    message = fleet_pb2.ReportRequest()
    if isinstance(report, m.WorkFailure):
        f = message.failure
        f.key.task, f.key.round = report.task, report.round_num
        f.kind, f.message = report.kind, report.message[:MAX_TEXT]
        return message
    u = message.update
    u.key.task, u.key.round = report.task, report.round_num
    u.base_model_sha256 = bytes.fromhex(report.base_model_digest)
    u.encoding = report.encoding
    if with_payload:
        u.payload = report.payload
    u.weight, u.num_examples, u.num_correct = report.weight, report.num_examples, report.num_correct
    u.loss_grid, u.attempt = report.loss_grid, report.attempt
    return message


def parse_report(raw: bytes) -> fleet_pb2.ReportRequest:
    """The gate's look at the size, before anything is parsed. Raises ``InvalidUpdateError``: TOO_LARGE, MALFORMED."""
    if len(raw) > MAX_REPORT_BYTES:
        _refuse(
            UpdateRefusal.TOO_LARGE,
            f"a report of {len(raw)} bytes; expected an update of at most {m.INLINE_UPDATE_MAX_BYTES}",
        )
    try:
        return fleet_pb2.ReportRequest.FromString(raw)
    except DecodeError as error:
        _refuse(UpdateRefusal.MALFORMED, f"{len(raw)} bytes that are not a valid report: {error}")


def report_from_proto(message: fleet_pb2.ReportRequest) -> m.Report:
    """The payload of an update that was uploaded is empty here (``edgefl.wire.upload``).

    Raises ``InvalidUpdateError`` (MALFORMED).
    """
    kind = message.WhichOneof("result")
    if kind == "failure":
        f = message.failure
        return m.WorkFailure(f.key.task[:MAX_TEXT], f.key.round, f.kind[:MAX_TEXT], f.message[:MAX_TEXT])
    if kind != "update":
        _refuse(UpdateRefusal.MALFORMED, "a report without an update or a failure")
    u = message.update
    if len(u.base_model_sha256) not in (0, DIGEST_BYTES):
        _refuse(UpdateRefusal.MALFORMED, f"base_model_sha256 of {len(u.base_model_sha256)} bytes; expected 32 or none")
    if u.num_examples > MAX_EXAMPLES:
        _refuse(UpdateRefusal.MALFORMED, f"num_examples is {u.num_examples}; expected at most 2**40")
    if u.num_correct > u.num_examples:
        _refuse(UpdateRefusal.MALFORMED, f"{u.num_correct} right of {u.num_examples} examples")
    return m.ClientUpdate(
        task=u.key.task[:MAX_TEXT],
        round_num=u.key.round,
        base_model_digest=u.base_model_sha256.hex(),
        encoding=u.encoding[:MAX_TEXT],
        payload=u.payload,
        weight=u.weight,
        num_examples=u.num_examples,
        num_correct=u.num_correct,
        loss_grid=u.loss_grid,
        attempt=u.attempt,
    )


def refused_report(message: fleet_pb2.ReportRequest, error: InvalidUpdateError) -> m.WorkFailure:
    """What a report that ``report_from_proto`` or ``reference_from_proto`` refused is to its round."""
    key = message.update.key
    return refusal(key.task[:MAX_TEXT], key.round, error)


def receipt_to_proto(receipt: m.Receipt, retry: m.RetryWindow) -> fleet_pb2.ReportResponse:
    message = fleet_pb2.ReportResponse(retry=retry_to_proto(retry))
    if isinstance(receipt, m.Accepted):
        message.accepted.sequence = receipt.sequence
    elif isinstance(receipt, m.AlreadyAccepted):
        message.already_accepted.sequence = receipt.sequence
    elif isinstance(receipt, m.Refused):
        message.refused.reason = fleet_pb2.RefusalReason.ValueType(receipt.reason.value)
        message.refused.message = receipt.message[:MAX_TEXT]
    elif isinstance(receipt, m.Late):
        message.late.SetInParent()
    else:
        message.noted.SetInParent()
    return message


def receipt_from_proto(message: fleet_pb2.ReportResponse) -> tuple[m.Receipt, m.RetryWindow]:
    kind = message.WhichOneof("receipt")
    receipt: m.Receipt
    if kind == "accepted":
        receipt = m.Accepted(message.accepted.sequence)
    elif kind == "already_accepted":
        receipt = m.AlreadyAccepted(message.already_accepted.sequence)
    elif kind == "late":
        receipt = m.Late()
    elif kind == "noted":
        receipt = m.Noted()
    elif kind == "refused":
        try:
            reason = UpdateRefusal(message.refused.reason)
        except ValueError:
            reason = UpdateRefusal.MALFORMED  # a reason that a newer server knows: still a refusal
        receipt = m.Refused(reason, message.refused.message[:MAX_TEXT])
    else:
        raise RemoteProtocolError("a report response without a receipt this agent knows; update the agent")
    return receipt, retry_from_proto(message.retry)


# ------------------------------------------------------------------------------------------------ parts


def retry_to_proto(retry: m.RetryWindow) -> fleet_pb2.RetryWindow:
    return fleet_pb2.RetryWindow(min_s=retry.min_s, max_s=retry.max_s)


def retry_from_proto(message: fleet_pb2.RetryWindow) -> m.RetryWindow:
    try:
        return m.RetryWindow(message.min_s, message.max_s)
    except ConfigError as error:
        raise RemoteProtocolError(str(error)) from None


def release_info_to_proto(info: m.ReleaseInfo) -> fleet_pb2.Release:
    return fleet_pb2.Release(
        name=info.name,
        version=info.version,
        content=fleet_pb2.Content(sha256=bytes.fromhex(info.sha256), size_bytes=info.size_bytes),
    )


def _release_info_from_proto(message: fleet_pb2.Release) -> m.ReleaseInfo:
    _name("release", message.name)
    _count("release version", message.version, MAX_COUNT)
    _count("release size_bytes", message.content.size_bytes, MAX_COUNT)
    digest = _digest("release", message.content.sha256)
    return m.ReleaseInfo(message.name, message.version, digest, message.content.size_bytes)


def _digest(what: str, raw: bytes) -> str:
    if len(raw) != DIGEST_BYTES:
        raise RemoteProtocolError(f"{what}: a digest of {len(raw)} bytes; expected {DIGEST_BYTES}")
    return raw.hex()


def _name(what: str, text: str) -> None:
    # Names become file names and rows: what our own side would not take is not taken from the other side.
    try:
        check_name(what, text[:MAX_TEXT])
    except ConfigError as error:
        raise RemoteProtocolError(str(error)) from None


def _count(what: str, value: int, highest: int) -> None:
    if value > highest:
        raise RemoteProtocolError(f"{what} is {value}; expected at most {highest}")


def _refuse(reason: UpdateRefusal, message: str) -> NoReturn:
    raise InvalidUpdateError(reason, message)
