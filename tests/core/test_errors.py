"""The taxonomy: one class, one exit status, one gRPC code, the same on the page that documents it and over the wire."""

from __future__ import annotations

import re

import grpc
import pytest
from places import ROOT

from edgefl import errors
from edgefl.errors import EdgeFLError, InvalidUpdateError, UpdateRefusal
from edgefl.protocol.messages import RetryWindow
from edgefl.wire import ERROR_KEY, RETRY_KEY, error_from_status, error_to_status
from edgefl.wire.limits import MAX_TEXT

PAGE = ROOT / "docs" / "reference" / "exit-status.md"


def subclasses(kind: type[EdgeFLError]) -> list[type[EdgeFLError]]:
    below = [deeper for child in kind.__subclasses__() for deeper in subclasses(child)]
    return [kind, *below]


CLASSES = sorted({kind for kind in subclasses(EdgeFLError) if kind.__module__ == "edgefl.errors"}, key=str)
GRPC_HEADERS_BYTES = 8192
"""Default bound of a gRPC call's metadata."""


def make(kind: type[EdgeFLError], text: str) -> EdgeFLError:
    return InvalidUpdateError(UpdateRefusal.NORM, text) if issubclass(kind, InvalidUpdateError) else kind(text)


def test_there_are_classes_to_test() -> None:
    assert len(CLASSES) >= 17


def test_every_class_has_an_exit_status_of_its_own() -> None:
    statuses = [kind.exit_code for kind in CLASSES]
    assert len(set(statuses)) == len(statuses)
    assert all(0 < status < 256 for status in statuses)
    assert not {2, 64, 120, 126, 127} & set(statuses)  # argparse, wrong usage, Python at exit, the shell


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_names_a_grpc_code_that_is_an_error(kind: type[EdgeFLError]) -> None:
    assert kind.grpc_code in {code.name for code in grpc.StatusCode} - {"OK"}


@pytest.mark.parametrize("kind", CLASSES)
def test_every_class_says_what_it_is_for(kind: type[EdgeFLError]) -> None:
    assert kind.__doc__
    assert kind.__doc__ is not Exception.__doc__


@pytest.mark.parametrize("retry", [None, RetryWindow(1.5, 3.0)])
@pytest.mark.parametrize("kind", CLASSES)
def test_an_error_survives_the_wire(kind: type[EdgeFLError], retry: RetryWindow | None) -> None:
    code, details, trailing = error_to_status(make(kind, "what was wrong"), retry)
    found, window = error_from_status(code, details, trailing)
    assert type(found) is kind
    assert str(found) == "what was wrong"
    assert window == retry
    assert found.transient == kind.transient


def test_only_what_a_repetition_can_cure_is_transient() -> None:
    assert {kind.__name__ for kind in CLASSES if kind.transient} == {"UnavailableError", "BusyError"}


@pytest.mark.parametrize("text", ["x" * 100_000, "\U0001f600" * 100_000, "\n" * 100_000])
def test_a_long_message_is_cut_to_what_a_header_holds(text: str) -> None:
    code, details, trailing = error_to_status(errors.ConfigError(text), RetryWindow(1, 2))
    assert details == text[:MAX_TEXT]
    assert 3 * len(details.encode()) + sum(len(key) + len(value) for key, value in trailing) < GRPC_HEADERS_BYTES
    assert len(str(error_from_status(code, text, ())[0])) < 2 * MAX_TEXT


@pytest.mark.parametrize("code", [code.name for code in grpc.StatusCode if code is not grpc.StatusCode.OK])
def test_a_status_without_our_word_is_still_an_error_of_ours(code: str) -> None:
    found, window = error_from_status(code, "from a proxy", [("server", "envoy"), ("other-bin", b"\x00")])
    assert str(found) == f"from a proxy ({code})"
    assert window is None
    if code in {"UNAVAILABLE", "DEADLINE_EXCEEDED", "RESOURCE_EXHAUSTED"}:
        assert found.transient
    if code in {"UNAUTHENTICATED", "PERMISSION_DENIED", "NOT_FOUND"}:
        assert found.grpc_code == code


def test_a_class_that_this_version_does_not_know_falls_back_to_its_code() -> None:
    for name in ("QuotaError", "Exception", "UpdateRefusal", ""):
        assert type(error_from_status("NOT_FOUND", "x", [(ERROR_KEY, name)])[0]) is errors.NotFoundError
    assert type(error_from_status("INTERNAL", "x", [(ERROR_KEY, b"\xff")])[0]) is EdgeFLError
    assert type(error_from_status("INTERNAL", "x", [(ERROR_KEY, b"StorageError")])[0]) is errors.StorageError


@pytest.mark.parametrize(
    "raw", [b"\xff\xff", bytes.fromhex("09000000000000f87f"), "text", bytes.fromhex("0900000000000059c0")]
)
def test_a_retry_window_that_is_none_is_no_window(raw: bytes | str) -> None:
    found, window = error_from_status("UNAVAILABLE", "x", [(RETRY_KEY, raw)])
    assert window is None
    assert isinstance(found, errors.UnavailableError)


def test_an_update_refusal_keeps_its_reason_where_it_is_raised() -> None:
    error = InvalidUpdateError(UpdateRefusal.NORM, "norm 9 above 8")
    assert error.reason is UpdateRefusal.NORM
    assert str(error) == "norm 9 above 8"
    assert [reason.value for reason in UpdateRefusal] == list(range(1, len(UpdateRefusal) + 1))


def documented() -> dict[int, tuple[str, str, bool]]:
    """Exit status -> class name, gRPC code, transient; from the page's table."""
    rows = {}
    for line in PAGE.read_text(encoding="utf-8").splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if re.fullmatch(r"[0-9]+", cells[0]):
            status, name, code, _meaning, transient = cells
            assert int(status) not in rows, f"status {status} stands there twice"
            rows[int(status)] = (name.strip("`"), code, transient == "yes")
    return rows


def test_the_page_says_what_the_code_does() -> None:
    rows = documented()
    assert rows.pop(0) == ("", "OK", False)
    assert rows.pop(64) == ("", "", False)
    assert rows == {kind.exit_code: (kind.__name__, kind.grpc_code, kind.transient) for kind in CLASSES}
    assert list(rows) == sorted(rows)
