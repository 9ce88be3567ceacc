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
from edgefl.protocol.events import DeviceCheckedIn, DeviceGone, ReportReceived
from edgefl.protocol.messages import CheckIn, CheckInAnswer, ReleaseInfo, Report
from faults.checks import require
from faults.device import SimDevice
from faults.server import SimServer

if TYPE_CHECKING:
    from faults.world import World


@dataclass
class Call:
    """One call of a device; ``tokens``: where copies of it wait."""

    device: SimDevice
    life: int
    message: CheckIn | Report
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

    def call(self, device: SimDevice, message: CheckIn | Report, timeout_s: float) -> None:
        call = self._open[device.who] = Call(device, device.life, message)
        for _ in range(2 if self._world.faulty and self._chance.random() < self._world.scenario.copies else 1):
            if not self._lost(device):
                self._world.later(self._delay(), lambda: self._arrive(call))
        self._world.later(timeout_s, lambda: self._timed_out(call))

    def _lost(self, device: SimDevice) -> bool:
        cut = self._world.now < self.cut_off.get(device.who, 0.0)
        return cut or (self._world.faulty and self._chance.random() < self._world.scenario.loss)

    def _delay(self) -> float:
        slow = self._world.faulty and self._chance.random() < self._world.scenario.delay
        return self._chance.uniform(1.0, 12.0) if slow else self._chance.uniform(0.01, 0.1)

    def _arrive(self, call: Call) -> None:
        if not self._world.servers:
            self._reply_soon(call, "no server")
            return
        server = self._chance.choice(self._world.servers)
        token = self._world.new_token()
        self._waiting[token] = call
        call.tokens.append((server, token))
        name = call.device.name
        if isinstance(call.message, CheckIn):
            server.put(token, DeviceCheckedIn(token, name, call.message))
        else:
            server.put(token, ReportReceived(token, name, call.message))

    def answer(self, token: int, value: Any) -> bool:
        """A server answers ``token``; False when that is no call of a device."""
        call = self._waiting.pop(token, None)
        if call is None:
            return False
        event: Any
        if isinstance(value, EdgeFLError):
            event = on.RpcFailed(str(value), value.transient)
        elif isinstance(call.message, CheckIn):
            event = on.CheckInAnswered(self._with_offer(value))
        else:
            event = on.ReceiptReceived(*value)
        if not self._lost(call.device):
            self._world.later(self._delay(), lambda: self._reply(call, event))
        return True

    def _with_offer(self, answer: CheckInAnswer) -> CheckInAnswer:
        if answer.releases and not self._first_offer:
            self._first_offer = answer.releases
        old = self._world.faulty and self._chance.random() < self._world.scenario.old_offer
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
            call.device.event(call.life, event)

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
                raw = self._chance.choice(self._world.servers).store.content(sha256)
            except EdgeFLError as error:
                answer(str(error))
                return
            require(hashlib.sha256(raw).hexdigest() == sha256, f"content {sha256} is altered")
            answer(raw)

        self._world.later(self._delay(), arrive)
