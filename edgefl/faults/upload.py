"""The delivery of an update in pieces: the agent's own logic, over the link, to the server's own staging.

An upload is a stream of pieces. It ends when a piece is lost, its server dies or its device does; what came stays.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import edgefl.protocol.session_events as on
from edgefl.errors import ConflictError, EdgeFLError, NotFoundError, UnavailableError, VerificationError
from edgefl.faults.checks import require
from edgefl.faults.server import SimServer
from edgefl.protocol.delivery import CallError, Delivery, QueryUpload, UploadFrom
from edgefl.protocol.messages import ClientUpdate, Receipt, RetryWindow, UploadedContent

if TYPE_CHECKING:
    from edgefl.faults.device import SimDevice
    from edgefl.faults.world import World

PIECES = 4
"""A payload comes in so many pieces: each costs the run another message."""

UPLOAD_MESSAGES = 5 + PIECES
"""So many more messages a report takes whose bytes the server lacks: the report that names them, the question what is
there, and the upload, with their answers."""


@dataclass(frozen=True)
class Referred:
    """A report by SHA-256."""

    update: ClientUpdate
    content: UploadedContent


@dataclass(frozen=True)
class Query:
    content: UploadedContent


@dataclass(frozen=True)
class Pieces:
    """An upload of what follows ``offset`` of ``update``'s payload."""

    update: ClientUpdate
    content: UploadedContent
    offset: int

    @property
    def sent(self) -> int:
        """Bytes of the next piece."""
        return min(-(-self.content.size_bytes // PIECES), self.content.size_bytes - self.offset)


UploadMessage = Referred | Query | Pieces


class LargeReport:
    """One report of a device, until its receipt or until it fails; the session then sends another."""

    def __init__(self, world: World, device: SimDevice, update: ClientUpdate, timeout_s: float) -> None:
        self._world = world
        self._device = device
        self._life = device.life
        self._update = update
        self._content = UploadedContent(update.payload_digest, len(update.payload))
        self._until = world.now + timeout_s
        self._delivery = Delivery()
        self._servers = list(world.servers)
        self._undisturbed = True
        self._next()

    def _check_kept(self) -> None:
        """I9: what a device uploaded is there when its report comes, if one server lived all the while."""
        calm = self._undisturbed and len(self._servers) == 1 and self._servers == self._world.servers
        lost = calm and not self._world.is_cloned(self._device.name)
        require(not lost, f"I9: {self._device.who} cannot upload its update of {self._update.task}, and nothing failed")

    def _next(self) -> None:
        match self._delivery.call:
            case None:
                assert self._delivery.result is not None
                self._device.event(self._life, on.ReceiptReceived(*self._delivery.result))
                return
            case QueryUpload():
                message: UploadMessage = Query(self._content)
            case UploadFrom(offset):
                message = Pieces(self._update, self._content, offset)
            case _:
                message = Referred(self._update, self._content)
        left = self._until - self._world.now
        if left <= 0:
            self._answered(on.RpcFailed("the time for this report is over", True))
            return
        self._world.link.call(self._device, message, left, self._answered_alive)

    def _answered_alive(self, value: Any) -> None:
        def go_on() -> None:
            self._world.device_point(self._device, f"answer to {type(self._delivery.call).__name__}")
            self._answered(value)

        self._device.act(self._life, go_on)

    def _answered(self, value: Any) -> None:
        try:
            match value:
                case on.RpcFailed(message):
                    self._undisturbed = False
                    self._delivery.failed(CallError(UnavailableError(message), None))
                case EdgeFLError():
                    self._delivery.failed(CallError(value, None))
                case on.ReceiptReceived(receipt, retry):
                    self._delivery.answered((receipt, retry))
                case _:
                    self._delivery.answered(value)
        except CallError as error:
            if isinstance(value, NotFoundError):
                self._check_kept()
            self._device.event(self._life, on.RpcFailed(str(error), error.error.transient, error.retry))
        else:
            self._next()


def served(server: SimServer, device: str, message: UploadMessage) -> int | ClientUpdate | tuple[Receipt, RetryWindow]:
    """What ``server`` does with ``message``, as ``edgefl_server.upload_calls`` does: of an upload the first piece.

    A report gives the whole update for the gate, or its receipt where that does not depend on the bytes. Raises what
    the device is told.
    """
    uploads, coordinator, content = server.uploads, server.coordinator, message.content
    match message:
        case Query():
            return uploads.have(device, content)
        case Referred(update):
            early = coordinator.early_receipt(device, update)
            if early is not None:
                uploads.remove(device, content)
                return early
            try:
                return replace(update, payload=uploads.read(device, content))
            except VerificationError as error:
                raise NotFoundError(f"the upload was damaged: {error}; send it again") from None
        case Pieces(update, _, offset):
            if not coordinator.awaits(device):
                uploads.remove(device)
                raise ConflictError(f"no round waits for a report of {device!r}; the report's receipt tells why")
            uploads.begin(device, content)
            if (have := uploads.have(device, content)) != offset:
                raise ConflictError(f"offset {offset}; the server has {have} bytes: go on from there (QueryUpload)")
            end = offset + message.sent
            uploads.append(device, content, offset, update.payload[offset:end])
            if end == content.size_bytes:
                uploads.verify(device, content)
            return end
