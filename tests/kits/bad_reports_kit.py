"""Reports that must not count, each with the answers that the design allows: what a broken or hostile device may send.

A kind is a function of a ``Scene``, one moment of a round, and of ``Draws``, one stream of the counter-based generator.
``PER_ROUND`` says how many of each kind a round gets; the docstring of a kind says why its answer is what it is.

The gate (design §5) looks at one thing after the other, so a kind spoils one thing and leaves what is before it right.
"""

from __future__ import annotations

import functools
import hashlib
import math
import struct
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from damage_kit import Draws, damaged
from server_kit import delta, update_for

from edgefl.errors import BusyError, NotFoundError, UpdateRefusal, VerificationError
from edgefl.proto.v1 import fleet_pb2
from edgefl.protocol.messages import (
    INLINE_UPDATE_MAX_BYTES,
    MAX_UPLOAD_BYTES,
    AlreadyAccepted,
    Assignment,
    Late,
    Noted,
    UploadedContent,
)
from edgefl.wire import (
    MAX_MESSAGE_BYTES,
    UPLOAD_CHUNK_BYTES,
    referring_report_to_proto,
    report_to_proto,
    upload_start_to_proto,
)
from edgefl.wire.limits import MAX_EXAMPLES

NORM_BOUND, MAX_WEIGHT = 64.0, 100_000
"""The defaults of a task definition."""

SUBNORMALS = (0x00000001, 0x80000001, 0x007FFFFF, 0x807FFFFF, 0x00000400)
"""float32 bits: the smallest and the largest subnormals of both signs, and one between."""

ANY_REFUSAL = (UpdateRefusal, AlreadyAccepted, Late, Noted, NotFoundError)
"""What may answer a mutant: any refusal that has a type; never ``Accepted``, and never a failure of the server."""


@dataclass(frozen=True)
class Bad:
    """``raw``: one Report, or with ``upload`` the messages of one Upload. ``expected``: values, or classes of them."""

    device: str
    expected: tuple[Any, ...]
    raw: tuple[bytes, ...]
    upload: bool = False

    def allows(self, answer: object) -> bool:
        return any(isinstance(answer, e) if isinstance(e, type) else answer == e for e in self.expected)


@dataclass(frozen=True)
class Taken:
    """A report that was accepted: its bytes, and the receipt of any further one of its device and round."""

    raw: bytes
    again: AlreadyAccepted


@dataclass(frozen=True)
class Scene:
    """``members`` have no accepted update in this round, ``accepted`` have, ``strangers`` have no assignment.

    ``ledger``: what was accepted, by (device, round). ``other``: an assignment of a task of another shape. ``wide``:
    one of a task above 1 MiB; ``sender`` reports to it, ``uploader`` uploads for it.
    """

    given: Assignment
    members: tuple[str, ...]
    accepted: tuple[str, ...]
    strangers: tuple[str, ...]
    ledger: Mapping[tuple[str, int], Taken]
    other: Assignment
    wide: Assignment
    sender: str
    uploader: str

    @property
    def anyone(self) -> tuple[str, ...]:
        return self.members + self.accepted + self.strangers

    def receipt(self, device: str) -> object:
        """What a good update of ``device``, which is no member without receipt, is answered with."""
        if device in self.accepted:
            return self.ledger[device, self.given.round_num].again
        return UpdateRefusal.NOT_ASSIGNED


Kind = Callable[[Scene, Draws], Bad]

# ------------------------------------------------------------------------------------------------ parts


@functools.lru_cache(maxsize=256)
def payload(device: str, round_num: int, parameters: int) -> bytes:
    """The good one."""
    return delta(device, round_num, parameters)


def good(given: Assignment, device: str, **changes: Any) -> fleet_pb2.ReportRequest:
    fields = {"payload": payload(device, given.round_num, given.plan.model.num_parameters), **changes}
    return report_to_proto(update_for(given, device, **fields))


def _bad(device: str, expected: object, message: fleet_pb2.ReportRequest) -> Bad:
    return Bad(device, (expected,), (message.SerializeToString(),))


def _with_values(scene: Scene, draws: Draws, device: str, bits: Sequence[int]) -> bytes:
    """The good payload with one to five values replaced."""
    size = scene.given.plan.model.num_parameters
    values = bytearray(payload(device, scene.given.round_num, size))
    for _ in range(1 + draws.below(5)):
        struct.pack_into("<I", values, 4 * draws.below(size), draws.one(bits))
    return bytes(values)


def _digest(draws: Draws) -> str:
    return hashlib.sha256(struct.pack("<I", draws.below(1 << 31))).hexdigest()


# ------------------------------------------------------------------------------------------------ the numbers


def nan(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    values = _with_values(scene, draws, device, (0x7FC00000, 0x7F800001, 0xFFC00000, 0xFFFFFFFF))
    return _bad(device, UpdateRefusal.NON_FINITE, good(scene.given, device, payload=values))


def infinity(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    values = _with_values(scene, draws, device, (0x7F800000, 0xFF800000))
    return _bad(device, UpdateRefusal.NON_FINITE, good(scene.given, device, payload=values))


def subnormal(scene: Scene, draws: Draws) -> Bad:
    """Refused for its sender alone: subnormals are finite and below the grid, so a member's are taken, as zeros."""
    device = draws.one(scene.accepted + scene.strangers)
    values = _with_values(scene, draws, device, SUBNORMALS)
    return _bad(device, scene.receipt(device), good(scene.given, device, payload=values))


def huge(scene: Scene, draws: Draws) -> Bad:
    """1e38 and the largest float32: their squares are in range in binary64."""
    device = draws.one(scene.members)
    values = _with_values(scene, draws, device, (0x7E967699, 0xFE967699, 0x7F7FFFFF))
    return _bad(device, UpdateRefusal.NORM, good(scene.given, device, payload=values))


def above_the_bound(scene: Scene, draws: Draws) -> Bad:
    """By the smallest step that a float32 can be above it."""
    device, size = draws.one(scene.members), scene.given.plan.model.num_parameters
    values = bytearray(4 * size)
    (bits,) = struct.unpack("<I", struct.pack("<f", NORM_BOUND))
    struct.pack_into("<I", values, 4 * draws.below(size), bits + 1)
    return _bad(device, UpdateRefusal.NORM, good(scene.given, device, payload=bytes(values)))


def weight(scene: Scene, draws: Draws) -> Bad:
    """The last is -1: a whole number without a sign on the wire."""
    device = draws.one(scene.members)
    value = draws.one((0, MAX_WEIGHT + 1, 1 << 32, 1 << 63, (1 << 64) - 1))
    return _bad(device, UpdateRefusal.WEIGHT, good(scene.given, device, weight=value))


def weight_nan(scene: Scene, draws: Draws) -> Bad:
    """A double in the field's place: an unknown field to protobuf, so the weight is absent, which is 0."""
    device = draws.one(scene.members)
    body = good(scene.given, device, weight=0).update.SerializeToString()
    body += b"\x29" + struct.pack("<d", draws.one((math.nan, -math.nan, math.inf, -1.0)))
    return Bad(device, (UpdateRefusal.WEIGHT,), (b"\x0a" + _varint(len(body)) + body,))


def counts(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.members)
    changes: dict[str, int] = draws.one(
        (
            {"num_correct": 1000},
            {"num_examples": MAX_EXAMPLES + 1},
            {"num_examples": (1 << 64) - 1, "num_correct": (1 << 64) - 1},
            {"num_examples": 1000},
            {"loss_grid": -1},
            {"loss_grid": (1 << 62) + 1},
        )
    )
    return _bad(device, UpdateRefusal.MALFORMED, good(scene.given, device, **changes))


# ------------------------------------------------------------------------------------------------ the form


def shape(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    values = payload(device, scene.given.round_num, scene.given.plan.model.num_parameters)
    wrong = draws.one((b"", values[:-1], values[:-4], values + b"\x00", values + values, values[:4]))
    return _bad(device, UpdateRefusal.SHAPE, good(scene.given, device, payload=wrong))


def encoding(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    name = draws.one(("", "int64", "FLOAT32", "float32 ", "../float32", "e" * 5000))
    return _bad(device, UpdateRefusal.ENCODING, good(scene.given, device, encoding=name))


def truncated(scene: Scene, draws: Draws) -> Bad:
    """The result spans the whole message, so no part of it parses."""
    device = draws.one(scene.anyone)
    whole = good(scene.given, device).SerializeToString()
    return Bad(device, (UpdateRefusal.MALFORMED,), (whole[: 1 + draws.below(len(whole) - 1)],))


def not_text(scene: Scene, draws: Draws) -> Bad:
    """A name that is no UTF-8 does not parse."""
    device = draws.one(scene.anyone)
    whole = good(scene.given, device).SerializeToString()
    return Bad(device, (UpdateRefusal.MALFORMED,), (whole.replace(b"float32", b"float\xff\xfe"),))


def without_result(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    return Bad(device, (UpdateRefusal.MALFORMED,), (draws.one((b"", b"\x7a\x03abc", b"\x28\x01")),))


def digest_size(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    message = good(scene.given, device)
    message.update.base_model_sha256 = bytes(draws.one((1, 31, 33, 64)))
    return _bad(device, UpdateRefusal.MALFORMED, message)


def oversized(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    size = INLINE_UPDATE_MAX_BYTES + 4096 + draws.below(4096)
    return _bad(device, UpdateRefusal.TOO_LARGE, good(scene.given, device, payload=bytes(size)))


def beyond_a_message(scene: Scene, draws: Draws) -> Bad:
    """gRPC itself refuses it, before the server has any of it: it is in no count of the server's."""
    device = draws.one(scene.anyone)
    return _bad(device, BusyError, good(scene.given, device, payload=bytes(MAX_MESSAGE_BYTES)))


# ------------------------------------------------------------------------------------------------ the place


def stale(scene: Scene, draws: Draws) -> Bad:
    """New numbers for an earlier round: the ledger answers who was counted in it, and the others are late."""
    device, round_num = draws.one(scene.anyone), 1 + draws.below(scene.given.round_num - 1)
    taken = scene.ledger.get((device, round_num))
    expected = Late() if taken is None else taken.again
    return _bad(device, expected, good(scene.given, device, round_num=round_num))


def not_yet(scene: Scene, draws: Draws) -> Bad:
    device, now = draws.one(scene.anyone), scene.given.round_num
    round_num = draws.one((0, now + 1, now + 1000, (1 << 32) - 1))
    return _bad(device, UpdateRefusal.WRONG_ROUND, good(scene.given, device, round_num=round_num))


def other_base(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.members + scene.accepted)
    digest = draws.one(("", _digest(draws), "00" * 32, scene.other.model_digest))
    return _bad(device, UpdateRefusal.WRONG_BASE_MODEL, good(scene.given, device, base_model_digest=digest))


def other_task(scene: Scene, draws: Draws) -> Bad:
    """What would be good in another task, from a device that has no part in it."""
    device = draws.one(scene.anyone)
    return _bad(device, UpdateRefusal.NOT_ASSIGNED, good(scene.other, device))


def other_tasks_shape(scene: Scene, draws: Draws) -> Bad:
    device = draws.one(scene.anyone)
    return _bad(device, UpdateRefusal.SHAPE, good(scene.given, device, task=scene.other.task))


def no_task(scene: Scene, draws: Draws) -> Bad:
    device, name = draws.one(scene.anyone), draws.one(("", "TRAIN", "train\x00", "../train", "t" * 5000))
    return _bad(device, UpdateRefusal.WRONG_TASK, good(scene.given, device, task=name))


def other_device(scene: Scene, draws: Draws) -> Bad:
    """The very bytes of a report that was accepted, from somebody else."""
    owner = draws.one(scene.accepted)
    device = draws.one([d for d in scene.accepted + scene.strangers if d != owner])
    return Bad(device, (scene.receipt(device),), (scene.ledger[owner, scene.given.round_num].raw,))


def replay(scene: Scene, draws: Draws) -> Bad:
    """The very bytes of a report of this or of an earlier round that was accepted from this device."""
    key = draws.one(sorted(scene.ledger))
    taken = scene.ledger[key]
    return Bad(key[0], (taken.again,), (taken.raw,))


# ------------------------------------------------------------------------------------------------ uploads


def never_arrived(scene: Scene, draws: Draws) -> Bad:
    """The round would take it, so the device is told to upload first."""
    content = UploadedContent(_digest(draws), 4 * scene.wide.plan.model.num_parameters)
    message = referring_report_to_proto(update_for(scene.wide, scene.sender, payload=b""), content)
    return _bad(scene.sender, NotFoundError, message)


def bad_reference(scene: Scene, draws: Draws) -> Bad:
    size, reason = draws.one(
        (
            (INLINE_UPDATE_MAX_BYTES, UpdateRefusal.MALFORMED),
            (0, UpdateRefusal.MALFORMED),
            (MAX_UPLOAD_BYTES + 1, UpdateRefusal.TOO_LARGE),
            ((1 << 64) - 1, UpdateRefusal.TOO_LARGE),
        )
    )
    content = UploadedContent(_digest(draws), size)
    message = referring_report_to_proto(update_for(scene.wide, scene.sender, payload=b""), content)
    return _bad(scene.sender, reason, message)


def other_content(scene: Scene, draws: Draws) -> Bad:
    """An upload of the size announced, whose bytes are not what its digest says."""
    data = bytes(4 * scene.wide.plan.model.num_parameters)
    start = upload_start_to_proto(UploadedContent(_digest(draws), len(data)), 0)
    pieces = (data[at : at + UPLOAD_CHUNK_BYTES] for at in range(0, len(data), UPLOAD_CHUNK_BYTES))
    messages = (start, *(fleet_pb2.UploadRequest(data=piece) for piece in pieces))
    return Bad(scene.uploader, (VerificationError,), tuple(m.SerializeToString() for m in messages), upload=True)


# ------------------------------------------------------------------------------------------------ mutants


def mutant(scene: Scene, draws: Draws) -> Bad:
    """A report that was accepted, damaged. It may still be good, so it comes from who can send no other good one."""
    device = draws.one(scene.accepted + scene.strangers)
    owner = device if device in scene.accepted else draws.one(scene.accepted)
    return Bad(device, ANY_REFUSAL, (damaged(scene.ledger[owner, scene.given.round_num].raw, draws),))


def _varint(value: int) -> bytes:
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes((*out, value))


PER_ROUND: dict[Kind, int] = {
    nan: 100,
    infinity: 100,
    subnormal: 100,
    huge: 100,
    above_the_bound: 50,
    weight: 150,
    weight_nan: 50,
    counts: 80,
    shape: 100,
    encoding: 100,
    truncated: 120,
    not_text: 30,
    without_result: 36,
    digest_size: 30,
    oversized: 10,
    beyond_a_message: 2,
    stale: 100,
    not_yet: 50,
    other_base: 80,
    other_task: 80,
    other_tasks_shape: 20,
    no_task: 50,
    other_device: 100,
    replay: 100,
    never_arrived: 50,
    bad_reference: 10,
    other_content: 2,
    mutant: 200,
}
"""2,000: with those that are slow to send (above 1 MiB) few, the others are many."""
