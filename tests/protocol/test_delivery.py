"""The delivery of a large update, call by call: what is asked, sent, sent again, and when it fails."""

from __future__ import annotations

from typing import Any

import pytest

from edgefl.errors import (
    BusyError,
    ConflictError,
    EdgeFLError,
    NotFoundError,
    PermissionDeniedError,
    UnavailableError,
    VerificationError,
)
from edgefl.protocol.delivery import CallError, Delivery, DeliveryCall, QueryUpload, ReportBySha256, UploadFrom
from edgefl.protocol.messages import Accepted, RetryWindow

RECEIPT = (Accepted(1), RetryWindow(1.0, 2.0))
REPORT, QUERY, WHOLE = ReportBySha256(), QueryUpload(), UploadFrom(0)
GONE, BROKEN = NotFoundError("not here"), UnavailableError("the link broke")


def calls(*answers: Any) -> tuple[list[DeliveryCall | None], Delivery]:
    """The calls of a delivery that gets ``answers``; an error fails its call."""
    delivery = Delivery()
    made = [delivery.call]
    for answer in answers:
        if isinstance(answer, EdgeFLError):
            delivery.failed(CallError(answer, None))
        else:
            delivery.answered(answer)
        made.append(delivery.call)
    return made, delivery


def test_a_report_whose_bytes_are_there_or_do_not_matter_uploads_nothing() -> None:
    made, delivery = calls(RECEIPT)
    assert made == [REPORT, None]
    assert delivery.result == RECEIPT


@pytest.mark.parametrize("have", [0, 700])
def test_an_upload_begins_where_the_server_is(have: int) -> None:
    made, delivery = calls(GONE, have, 1000, RECEIPT)
    assert made == [REPORT, QUERY, UploadFrom(have), REPORT, None]
    assert delivery.result == RECEIPT


def test_an_upload_that_broke_goes_on_as_long_as_each_call_brings_something() -> None:
    made, _ = calls(GONE, 0, BROKEN, 300, BROKEN, 600, None, RECEIPT)
    assert made == [REPORT, QUERY, WHOLE, QUERY, UploadFrom(300), QUERY, UploadFrom(600), REPORT, None]
    with pytest.raises(CallError, match="the link broke"):
        calls(GONE, 0, BROKEN, 300, BROKEN, 300)


def test_damaged_bytes_are_sent_again_once() -> None:
    damaged = VerificationError("another digest")
    made, _ = calls(GONE, 300, damaged, 0, None, RECEIPT)
    assert made == [REPORT, QUERY, UploadFrom(300), QUERY, WHOLE, REPORT, None]
    for answers in ((GONE, 0, damaged), (GONE, 300, damaged, 10, damaged)):
        with pytest.raises(CallError) as caught:
            calls(*answers)
        assert caught.value.error is damaged


def test_an_upload_that_is_not_wanted_ends_and_the_report_tells_why() -> None:
    made, _ = calls(GONE, 0, ConflictError("no round waits"), RECEIPT)
    assert made == [REPORT, QUERY, WHOLE, REPORT, None]


def test_a_server_that_loses_the_upload_twice_is_tried_again_later() -> None:
    made, delivery = calls(GONE, 0, None, GONE, 0, None)
    assert made == [REPORT, QUERY, WHOLE, REPORT, QUERY, WHOLE, REPORT]
    with pytest.raises(CallError, match="the server lost the upload: not here") as caught:
        delivery.failed(CallError(GONE, RECEIPT[1]))
    assert caught.value.error.transient
    assert caught.value.retry == RECEIPT[1]


@pytest.mark.parametrize("error", [BROKEN, BusyError("later"), PermissionDeniedError("revoked")])
@pytest.mark.parametrize("before", [(), (GONE,), (GONE, 0, None), (GONE, 0, None, GONE, 0, None)])
def test_any_other_error_of_a_report_or_a_question_ends_it(error: EdgeFLError, before: tuple[Any, ...]) -> None:
    with pytest.raises(CallError) as caught:
        calls(*before, error)
    assert caught.value.error is error
