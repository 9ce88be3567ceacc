"""How a device delivers an update that is too large for a report: sans-I/O, one call at a time.

::

    report by SHA-256 ──receipt──> done
       │      ^
    not found │ all is there, or no more is wanted
       v      │
    query ──> upload from what the server has ──broken──> query, and on from there

Whoever owns a ``Delivery`` carries its ``call`` out and tells it the answer or the error. The report comes first: a
device whose round is over uploads nothing.

Source: design §6 (content by SHA-256, resumable).
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from dataclasses import dataclass
from typing import Any

from edgefl.errors import ConflictError, EdgeFLError, NotFoundError, UnavailableError, VerificationError
from edgefl.protocol.messages import Receipt, RetryWindow

UPLOADS_A_REPORT = 2
"""A report tries so often to bring what the server lacks: the second time for one that restarted or dropped it."""


class CallError(Exception):
    """A call failed: ``error`` says how, ``retry`` is the server's wish, if it had one."""

    def __init__(self, error: EdgeFLError, retry: RetryWindow | None) -> None:
        super().__init__(str(error))
        self.error = error
        self.retry = retry


@dataclass(frozen=True)
class ReportBySha256:
    """Report without the payload. Answer: the receipt and the retry window."""


@dataclass(frozen=True)
class QueryUpload:
    """Ask how much of the payload the server has. Answer: bytes."""


@dataclass(frozen=True)
class UploadFrom:
    """Send the payload from byte ``offset`` on. The answer does not matter."""

    offset: int


DeliveryCall = ReportBySha256 | QueryUpload | UploadFrom
_Steps = Generator[DeliveryCall, Any, Any]


class Delivery:
    """``call``: what to do next; None when ``result`` is there."""

    def __init__(self) -> None:
        self.result: tuple[Receipt, RetryWindow] | None = None
        self.call: DeliveryCall | None = None
        self._steps = _deliver()
        self._go(lambda: next(self._steps))

    def answered(self, value: Any) -> None:
        """The call was answered ``value``."""
        self._go(lambda: self._steps.send(value))

    def failed(self, error: CallError) -> None:
        """The call failed. Raises ``CallError`` when the delivery did, too; the server keeps what it has."""
        self._go(lambda: self._steps.throw(error))

    def _go(self, step: Callable[[], DeliveryCall]) -> None:
        try:
            self.call = step()
        except StopIteration as end:
            self.call, self.result = None, end.value


def _deliver() -> _Steps:
    for _ in range(UPLOADS_A_REPORT):
        try:
            return (yield ReportBySha256())
        except CallError as error:
            if not isinstance(error.error, NotFoundError):
                raise
        yield from _upload()
    try:
        return (yield ReportBySha256())
    except CallError as error:
        if not isinstance(error.error, NotFoundError):
            raise
        raise CallError(UnavailableError(f"the server lost the upload: {error}"), error.retry) from None


def _upload() -> _Steps:
    """Bring the server what it lacks. Returns when it has all, or when it takes no more: the report tells why."""
    have, damaged = (yield QueryUpload()), False
    while True:
        try:
            yield UploadFrom(have)
            return
        except CallError as error:
            if isinstance(error.error, ConflictError):
                return
            # What it had of an earlier try may have been damaged: once more, whole.
            again = isinstance(error.error, VerificationError) and have > 0 and not damaged
            if not (again or error.error.transient):
                raise
            now = yield QueryUpload()
            if not again and now <= have:
                raise
            have, damaged = now, damaged or again
