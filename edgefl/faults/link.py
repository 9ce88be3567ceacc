"""The link between devices and servers: it loses, delays, repeats and reorders, and cuts devices off.

A call is answered at most once, whatever its copies bring; a caller that gave up is gone for the servers, too.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import edgefl.protocol.session_events as on
from edgefl.errors import EdgeFLError
from edgefl.faults.checks import require
from edgefl.faults.device import SimDevice
from edgefl.faults.scenario import Kind
from edgefl.faults.server import SimServer
from edgefl.faults.upload import LargeReport, Pieces, Query, Referred, UploadMessage, served
from edgefl.protocol.events import DeviceCheckedIn, DeviceGone, ReportReceived
from edgefl.protocol.messages import (
    CheckIn,
    CheckInAnswer,
    ClientUpdate,
    ReleaseInfo,
    Report,
    WorkFailure,
)
from edgefl.wire import query_to_proto, referring_report_to_proto, upload_start_to_proto
from edgefl.wire.fleet import answer_to_proto, check_in_to_proto, receipt_to_proto, report_to_proto

if TYPE_CHECKING:
    from edgefl.faults.world import World


@dataclass
class Call:
    """One call of a device; ``tokens``: where copies of it wait. ``answered``: who takes the answer."""

    device: SimDevice
    life: int
    message: CheckIn | Report | UploadMessage
    answered: Callable[[Any], None]
    open: bool = True
    tokens: list[tuple[SimServer, int]] = field(default_factory=list)


class Link:
    """``cut_off``: until when a device hears nothing and is not heard."""

    def __init__(self, world: World, chance: random.Random) -> None:
        self.cut_off: dict[str, float] = {}
        self._world = world
        self._chance = chance
        self._waiting: dict[int, Call] = {}
        self._open: dict[str, Call] = {}
        self._first_offer: tuple[ReleaseInfo, ...] = ()

    def report(self, device: SimDevice, report: Report, timeout_s: float) -> None:
        """Deliver ``report``, in pieces where the scenario says so."""
        if isinstance(report, ClientUpdate) and self._world.scenario.uploads:
            LargeReport(self._world, device, report, timeout_s)
        else:
            self.call(device, report, timeout_s)

    def call(
        self,
        device: SimDevice,
        message: CheckIn | Report | UploadMessage,
        timeout_s: float,
        answered: Callable[[Any], None] | None = None,
    ) -> None:
        """Send ``message``; its answer goes to ``answered``, else as an event to the session of ``device``."""
        life = device.life
        call = Call(device, life, message, answered or (lambda event: device.event(life, event)))
        self._open[device.who] = call
        size = _size(message)
        copied = not isinstance(message, Pieces) and self._strikes(Kind.COPIES, self._world.scenario.copies)
        for _ in range(2 if copied else 1):
            self._world.tally.device_bytes += size
            if not self._lost(device):
                self._world.later(self._delay(), lambda: self._arrive(call))
        self._world.later(timeout_s, lambda: self._timed_out(call))

    def _strikes(self, kind: Kind, probability: float) -> bool:
        struck = self._world.faulty and self._chance.random() < probability
        if struck:
            self._world.struck(kind)
        return struck

    def _lost(self, device: SimDevice) -> bool:
        if self._world.now < self.cut_off.get(device.who, 0.0):
            self._world.struck(Kind.PARTITION)
            return True
        return self._strikes(Kind.LOSS, self._world.scenario.loss)

    def _delay(self) -> float:
        network = self._world.config.network
        slow = self._strikes(Kind.DELAY, self._world.scenario.delay)
        return self._chance.uniform(*(network.delay_s if slow else network.latency_s))

    def _arrive(self, call: Call) -> None:
        if not self._world.servers:
            self._reply_soon(call, "no server")
            return
        server = self._chance.choice(self._world.servers)
        message = call.message
        if isinstance(message, CheckIn | ClientUpdate | WorkFailure):
            self._hand_in(server, call, message)
        else:
            self._upload_call(server, call, message)

    def _hand_in(self, server: SimServer, call: Call, message: CheckIn | Report) -> None:
        token = self._world.new_token()
        self._waiting[token] = call
        call.tokens.append((server, token))
        name = call.device.name
        if isinstance(message, CheckIn):
            server.put(token, DeviceCheckedIn(token, name, message))
        else:
            server.put(token, ReportReceived(token, name, message))

    def _upload_call(self, server: SimServer, call: Call, message: UploadMessage) -> None:
        name = call.device.name
        try:
            found = served(server, name, message)
        except EdgeFLError as error:
            self._send_back(call, error)
            return
        if isinstance(found, ClientUpdate):
            self._hand_in(server, call, found)
        elif isinstance(found, tuple):
            if isinstance(message, Referred):
                self._world.promises.leaves(name, message.update, found[0])
            self._send_back(call, on.ReceiptReceived(*found))
        elif isinstance(message, Pieces) and found < message.content.size_bytes:
            self._send_piece(server, call, replace(message, offset=found))
        else:
            self._send_back(call, found)

    def _send_piece(self, server: SimServer, call: Call, rest: Pieces) -> None:
        """The next piece of a stream to ``server``; where it is lost the stream breaks, and may hang."""

        def arrive() -> None:
            if not call.open or call.life != call.device.life:
                return
            if server.up:
                self._upload_call(server, call, rest)
            else:
                self._reply_soon(call, "reset")

        if not self._lost(call.device):
            self._world.later(self._delay(), arrive)
        elif self._chance.random() < 0.5:
            self._reply_soon(call, "the stream broke")

    def answer(self, token: int, value: Any) -> bool:
        """A server answers ``token``; False when that is not a call of a device."""
        call = self._waiting.pop(token, None)
        if call is None:
            return False
        event: Any
        if isinstance(value, EdgeFLError):
            event = on.RpcFailed(str(value), value.transient)
        elif isinstance(call.message, CheckIn):
            asked = call.message
            if asked.last_task:
                self._world.promises.told((asked.last_task, asked.last_round, call.device.name), value.last_fate)
            event = on.CheckInAnswered(self._with_offer(value))
        else:
            event = on.ReceiptReceived(*value)
            if isinstance(call.message, Referred):
                for server, waits in call.tokens:
                    if waits == token:
                        server.uploads.remove(call.device.name, call.message.content)
        self._send_back(call, event)
        return True

    def _send_back(self, call: Call, event: Any) -> None:
        self._world.tally.server_bytes += _size(event)
        if not self._lost(call.device):
            self._world.later(self._delay(), lambda: self._reply(call, event))

    def _with_offer(self, answer: CheckInAnswer) -> CheckInAnswer:
        if answer.releases and not self._first_offer:
            self._first_offer = answer.releases
        old = self._strikes(Kind.OLD_OFFER, self._world.scenario.old_offer)
        return replace(answer, releases=self._first_offer) if old else answer

    def reset(self, server: SimServer) -> None:
        """``server`` is gone: most of its callers learn it at once, the others by their timeouts."""
        for token, call in list(self._waiting.items()):
            if (server, token) in call.tokens:
                del self._waiting[token]
                if self._chance.random() < 0.8:
                    self._reply_soon(call, "reset")

    def _reply_soon(self, call: Call, message: str) -> None:
        self._world.later(0.05, lambda: self._reply(call, on.RpcFailed(message, True)))

    def _reply(self, call: Call, event: Any) -> None:
        if call.open:
            call.open = False
            call.answered(event)

    def _timed_out(self, call: Call) -> None:
        self._hang_up(call)
        self._reply(call, on.RpcFailed("no answer", True))

    def _hang_up(self, call: Call) -> None:
        for server, token in call.tokens:
            if server.up and self._waiting.pop(token, None) is not None:
                server.put(token, DeviceGone(token))

    def died(self, device: SimDevice) -> None:
        call = self._open.get(device.who)
        if call is not None and self._chance.random() < 0.7:
            self._world.later(0.2, lambda: self._hang_up(call))

    def fetch(self, device: SimDevice, sha256: str, answer: Callable[[bytes | str], None]) -> None:
        life = device.life

        def arrive() -> None:
            if life != device.life:
                return
            if not self._world.servers or self._lost(device):
                answer("cut off")
                return
            try:
                raw = self._chance.choice(self._world.servers).content(sha256)
            except EdgeFLError as error:
                answer(str(error))
                return
            require(hashlib.sha256(raw).hexdigest() == sha256, f"content {sha256} is altered")
            self._world.tally.server_bytes += len(raw)
            answer(raw)

        self._world.later(self._delay(), arrive)


def _size(message: Any) -> int:
    """Its bytes on the wire; 0 of an error, whose words are not in a message."""
    match message:
        case CheckIn():
            return int(check_in_to_proto(message).ByteSize())
        case on.CheckInAnswered(answer):
            return int(answer_to_proto(answer).ByteSize())
        case on.ReceiptReceived(receipt, retry):
            return int(receipt_to_proto(receipt, retry).ByteSize())
        case ClientUpdate() | WorkFailure():
            return int(report_to_proto(message).ByteSize())
        case Referred(update, content):
            return int(referring_report_to_proto(update, content).ByteSize())
        case Query(content):
            return int(query_to_proto(content).ByteSize())
        case Pieces(_, content, offset):
            return int(upload_start_to_proto(content, offset).ByteSize()) + content.size_bytes - offset
    return 0
