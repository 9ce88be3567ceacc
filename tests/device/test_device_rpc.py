"""The device's calls against a scripted server: errors, retry windows, broken downloads, closing."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from device_fleet import LATER, ScriptedFleet

from edgefl.errors import (
    BusyError,
    NotFoundError,
    RemoteProtocolError,
    UnauthenticatedError,
    UnavailableError,
    UpdateRefusal,
    VerificationError,
)
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol.delivery import CallError
from edgefl.protocol.messages import (
    CheckIn,
    CheckInAnswer,
    ClientUpdate,
    Late,
    Receipt,
    Refused,
    Rejection,
    RetryWindow,
    WorkFailure,
)
from edgefl.wire import answer_to_proto, check_in_to_proto
from edgefl_device.rpc import FleetClient

CHECK_IN = CheckIn("watch", "0.1", 1, 2, 3, ("training",), ("float32",))
UPDATE = ClientUpdate("shoulder", 3, "ab" * 32, "float32", b"1234", 17, 34, 20, -5)
CONTENT = bytes(range(256)) * 20
SHA = hashlib.sha256(CONTENT).hexdigest()


@pytest.fixture
def fleet() -> Iterator[ScriptedFleet]:
    server = ScriptedFleet()
    server.content[bytes.fromhex(SHA)] = CONTENT
    yield server
    server.stop()


@pytest.fixture
def client(fleet: ScriptedFleet) -> Iterator[FleetClient]:
    opened = FleetClient(fleet.address, "pi-01")
    yield opened
    opened.close()


def test_a_check_in_is_answered_and_counted(fleet: ScriptedFleet, client: FleetClient) -> None:
    answer = client.check_in(CHECK_IN, 10)
    assert answer == CheckInAnswer(Rejection("no work"), LATER)
    assert fleet.check_ins == [CHECK_IN]
    assert fleet.identities == {"device/pi-01"}
    traffic = client.traffic["check_in", "other"]
    assert traffic.calls == 1
    assert traffic.sent_bytes == check_in_to_proto(CHECK_IN).ByteSize()
    assert traffic.received_bytes == answer_to_proto(answer).ByteSize()


def test_a_report_gets_its_receipt(fleet: ScriptedFleet, client: FleetClient) -> None:
    refused = Refused(UpdateRefusal.NORM, "norm 99; expected at most 64")
    receipts: list[Receipt] = [Late(), refused]
    fleet.on_report = lambda _: receipts.pop(0)
    assert client.report(UPDATE, 10) == (Late(), LATER)
    assert client.report(UPDATE, 10) == (refused, LATER)
    assert fleet.reports == [UPDATE, UPDATE]


def test_errors_arrive_typed_and_with_their_window(fleet: ScriptedFleet, client: FleetClient) -> None:
    for error in (BusyError("full"), UnauthenticatedError("who?"), NotFoundError("no such population")):

        def fail(_: CheckIn, error: Exception = error) -> CheckInAnswer:
            raise error

        fleet.on_check_in = fail
        with pytest.raises(CallError) as caught:
            client.check_in(CHECK_IN, 10)
        assert type(caught.value.error) is type(error)
        assert str(caught.value) == str(error)
        assert caught.value.retry == RetryWindow(7.0, 9.0)


def test_no_server_is_a_transient_error_that_names_the_address(fleet: ScriptedFleet, client: FleetClient) -> None:
    fleet.stop()
    with pytest.raises(CallError, match=f"no server at {fleet.address}") as caught:
        client.check_in(CHECK_IN, 10)
    assert isinstance(caught.value.error, UnavailableError)
    assert caught.value.retry is None


def test_a_plan_that_cannot_be_read_gives_the_failure_to_report(fleet: ScriptedFleet, client: FleetClient) -> None:
    message = fleet_pb2.CheckInResponse()
    message.assignment.key.task, message.assignment.key.round = "shoulder", 7
    fleet._answer = lambda _context, _body: message  # type: ignore[method-assign]
    failure = client.check_in(CHECK_IN, 10)
    assert isinstance(failure, WorkFailure)
    assert (failure.task, failure.round_num, failure.kind) == ("shoulder", 7, "PlanNotUnderstood")
    assert "update the agent" in failure.message


def test_an_answer_without_an_outcome_is_refused(fleet: ScriptedFleet, client: FleetClient) -> None:
    fleet._answer = lambda _context, _body: fleet_pb2.CheckInResponse()  # type: ignore[method-assign]
    with pytest.raises(CallError) as caught:
        client.check_in(CHECK_IN, 10)
    assert isinstance(caught.value.error, RemoteProtocolError)


def test_a_download_is_complete_and_verified(fleet: ScriptedFleet, client: FleetClient, tmp_path: Path) -> None:
    client.download(SHA, len(CONTENT), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert fleet.downloads == [(SHA[:8], 0)]
    assert client.traffic["download", "other"].received_bytes > len(CONTENT)


def test_a_broken_download_resumes_where_it_stopped(fleet: ScriptedFleet, client: FleetClient, tmp_path: Path) -> None:
    def break_twice(_sha: bytes, offset: int) -> Iterator[bytes]:
        yield CONTENT[offset : offset + 2000]
        if offset < 2000:
            raise UnavailableError("the link broke")
        if offset < 4000:
            return  # ends early, as if it were whole
        yield CONTENT[offset + 2000 :]

    fleet.on_download = break_twice
    client.download(SHA, len(CONTENT), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [offset for _, offset in fleet.downloads] == [0, 2000, 4000]


def test_a_truncated_download_is_a_typed_error_and_is_kept_for_later(
    fleet: ScriptedFleet, client: FleetClient, tmp_path: Path
) -> None:
    part = tmp_path / "part"
    fleet.on_download = lambda _sha, offset: iter([CONTENT[offset:3000]] if offset < 3000 else [])
    with pytest.raises(CallError, match=f"ended after 3000 of {len(CONTENT)} bytes") as caught:
        client.download(SHA, len(CONTENT), part)
    assert caught.value.error.transient
    fleet.on_download = fleet._serve
    fleet.downloads.clear()
    client.download(SHA, len(CONTENT), part)
    assert fleet.downloads == [(SHA[:8], 3000)]
    assert part.read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", [b"\0" * len(CONTENT), CONTENT + b"more"])
def test_wrong_content_is_never_used(fleet: ScriptedFleet, client: FleetClient, tmp_path: Path, wrong: bytes) -> None:
    fleet.on_download = lambda _sha, offset: iter([wrong[offset:]])
    with pytest.raises(CallError) as caught:
        client.download(SHA, len(CONTENT), tmp_path / "part")
    assert isinstance(caught.value.error, VerificationError)
    assert not (tmp_path / "part").exists()


def test_a_damaged_part_of_an_earlier_run_is_fetched_anew(
    fleet: ScriptedFleet, client: FleetClient, tmp_path: Path
) -> None:
    (tmp_path / "part").write_bytes(b"\0" * 1000)
    client.download(SHA, len(CONTENT), tmp_path / "part")
    assert (tmp_path / "part").read_bytes() == CONTENT
    assert [offset for _, offset in fleet.downloads] == [1000, 0]


def test_content_that_is_gone_is_a_permanent_error(fleet: ScriptedFleet, client: FleetClient, tmp_path: Path) -> None:
    def gone(_sha: bytes, _offset: int) -> Iterator[bytes]:
        raise NotFoundError("no such content")
        yield b""

    fleet.on_download = gone
    with pytest.raises(CallError) as caught:
        client.download(SHA, len(CONTENT), tmp_path / "part")
    assert isinstance(caught.value.error, NotFoundError)


def test_closing_ends_a_waiting_check_in(fleet: ScriptedFleet, client: FleetClient) -> None:
    arrived, release = threading.Event(), threading.Event()

    def wait(_: CheckIn) -> CheckInAnswer:
        arrived.set()
        release.wait(30)
        return CheckInAnswer(Rejection("late"), LATER)

    fleet.on_check_in = wait
    outcome: list[CallError] = []

    def call() -> None:
        with pytest.raises(CallError) as caught:
            client.check_in(CHECK_IN, 60)
        outcome.append(caught.value)

    thread = threading.Thread(target=call)
    thread.start()
    assert arrived.wait(10)
    client.close()
    thread.join(10)
    assert not thread.is_alive()
    release.set()
    assert outcome[0].error.transient
    with pytest.raises(CallError, match="closed by this side"):
        client.check_in(CHECK_IN, 1)
