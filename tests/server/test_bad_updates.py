"""10,000 bad reports against a real ``edgefl-server``: each is refused by type and counted, and changes nothing.

    round 1           16 devices, 8 good reports, and one above 1 MiB: the server has done all that it does in a round
    rounds 2 to 6     g0 reports; then 7 times: 2,000 / 7 bad reports, one more good report

The good devices' reports are the same in a server that sees nothing else, and so must the models be, bit for bit.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import sqlite3
import struct
from collections import Counter
from pathlib import Path

import grpc
import pytest
from bad_reports_kit import PER_ROUND, SUBNORMALS, Bad, Kind, Scene, Taken, good
from damage_kit import Draws
from server_kit import (
    PARAMETERS,
    Caller,
    ServerProcess,
    as_device,
    calling,
    definition,
    error_of,
    run,
    server_process,
    update_for,
)
from upload_kit import content_of, upload, wide

from edgefl.cli.main import main
from edgefl.errors import EdgeFLError, UpdateRefusal
from edgefl.memory import peak_rss_bytes
from edgefl.proto.v1 import control_pb2, fleet_pb2
from edgefl.protocol.messages import (
    Accepted,
    AlreadyAccepted,
    Assignment,
    Late,
    Noted,
    Receipt,
    Refused,
)
from edgefl.randomness import derive_key
from edgefl.wire import receipt_from_proto, referring_report_to_proto

SEED = 20_260
GOOD = tuple(f"g{i}" for i in range(8))
BROKEN = tuple(f"b{i}" for i in range(8))
"""Members of every round that never send a good update."""
STRANGERS = ("s0", "s1", "s2")
ROUNDS = 6
FEATURES = 3999
"""32 kB a report: 10,000 that were kept would be 320 MB."""
AT_ONCE = 16
MAX_GROWTH_BYTES = 10_000_000
GRID_STEP = 2.0**-24
"""Of a norm bound of 64 = 2**6: 2**-(30 - 6)."""

TRAIN = definition(goal=8, minimum=4, over=2.0, rounds=ROUNDS, features=FEATURES)


def elsewhere(text: str, population: str) -> str:
    return text.replace('population = "lab"', f'population = "{population}"')


OTHER = elsewhere(definition("other", goal=1), "elsewhere")
WIDE = elsewhere(wide("wide", rounds=2), "attic").replace("over_selection = 1.0", "over_selection = 2.0")

# ------------------------------------------------------------------------------------------------ one device


Answer = UpdateRefusal | Receipt | EdgeFLError


class Sender:
    """Sends serialized messages, and counts the answers as the server should."""

    def __init__(self, caller: Caller) -> None:
        self._report = caller.channel.unary_unary("/edgefl.proto.v1.Fleet/Report")
        self._upload = caller.channel.stream_unary("/edgefl.proto.v1.Fleet/Upload")
        self._one_upload = asyncio.Lock()  # a newer one of a device would take over
        self.receipts: Counter[type[Receipt]] = Counter()
        self.refused: Counter[str] = Counter()
        self.errors: Counter[str] = Counter()

    async def send(self, bad: Bad) -> Answer:
        metadata = as_device(bad.device)
        try:
            if bad.upload:
                async with self._one_upload:
                    await self._upload(iter(bad.raw), metadata=metadata)
                raise AssertionError(f"an upload of {bad.device} was taken")
            response = await self._report(bad.raw[0], metadata=metadata)
        except grpc.aio.AioRpcError as caught:
            error, retry = error_of(caught)
            if retry is not None:  # else it is gRPC's own, which no server counts
                self.errors[type(error).__name__] += 1
            return error
        receipt, _ = receipt_from_proto(fleet_pb2.ReportResponse.FromString(response))
        self.receipts[type(receipt)] += 1
        if not isinstance(receipt, Refused):
            return receipt
        self.refused[receipt.reason.name] += 1
        return receipt.reason


async def work(caller: Caller, device: str, population: str) -> Assignment:
    while True:
        outcome = (await caller.check_in(device, population=population)).outcome
        if isinstance(outcome, Assignment):
            return outcome


async def begin_round(caller: Caller) -> Assignment:
    return (await asyncio.gather(*map(caller.assignment, GOOD + BROKEN)))[0]


async def report_good(sender: Sender, device: str, given: Assignment) -> Taken:
    raw = good(given, device).SerializeToString()
    answer = await sender.send(Bad(device, (Accepted,), (raw,)))
    assert isinstance(answer, Accepted), f"{device} in round {given.round_num}: {answer!r}"
    return Taken(raw, AlreadyAccepted(answer.sequence))


async def begin_large(caller: Caller) -> tuple[Assignment, Assignment]:
    return await asyncio.gather(work(caller, "w0", "attic"), work(caller, "w1", "attic"))


async def report_large(caller: Caller, sender: Sender, given: Assignment) -> None:
    """A good update above 1 MiB."""
    update = update_for(given, "w0")
    content = content_of(update.payload)
    await upload(caller, "w0", content, update.payload)
    raw = referring_report_to_proto(update, content).SerializeToString()
    assert isinstance(await sender.send(Bad("w0", (Accepted,), (raw,))), Accepted)


async def finish(caller: Caller) -> tuple[list[str], str]:
    """The digests of all versions, and that of a release of the last one."""
    await caller.ended(ROUNDS)
    request = control_pb2.CreateReleaseRequest(
        name="model", task="train", format=control_pb2.MODEL_FORMAT_TFLITE_FLOAT32
    )
    release = await caller.operate("CreateRelease", request)
    return await caller.models(), release.release.content.sha256.hex()


# ------------------------------------------------------------------------------------------------ the two servers


async def honest(caller: Caller) -> tuple[list[str], str]:
    """The rounds with the good reports alone."""
    await caller.create(TRAIN)
    sender = Sender(caller)
    for _ in range(ROUNDS):
        given = await begin_round(caller)
        for device in GOOD:
            await report_good(sender, device, given)
    return await finish(caller)


async def attack(sender: Sender, scene: Scene, kinds: list[Kind], draws: Draws) -> list[str]:
    """Send one of each of ``kinds``, many at once. Returns what was answered otherwise than it should."""
    wrong: list[str] = []
    gate = asyncio.Semaphore(AT_ONCE)

    async def one(kind: Kind) -> None:
        async with gate:
            bad = kind(scene, draws)
            answer = await sender.send(bad)
        if not bad.allows(answer):
            wrong.append(f"{kind.__name__} from {bad.device}: {answer!r}; expected {bad.expected}")

    await asyncio.gather(*map(one, kinds))
    return wrong


def counted(sender: Sender) -> dict[str, object]:
    """What ``edgefl answers --json`` should say."""
    return {
        "accepted": sender.receipts[Accepted],
        "already_accepted": sender.receipts[AlreadyAccepted],
        "late": sender.receipts[Late],
        "noted": sender.receipts[Noted],
        "refused": dict(sender.refused),
        "errors": dict(sender.errors),
    }


async def besieged(server: ServerProcess, caller: Caller, sender: Sender) -> int:
    """The rounds with bad reports between the good ones. Returns by how much the server's peak of memory grew."""
    for text in (TRAIN, OTHER, WIDE):
        await caller.create(text)
    other = await work(caller, "o", "elsewhere")
    await report_large(caller, sender, (await begin_large(caller))[0])
    large, _ = await begin_large(caller)
    ledger: dict[tuple[str, int], Taken] = {}
    sent = before = 0
    for round_num in range(1, ROUNDS + 1):
        given = await begin_round(caller)
        draws = Draws(derive_key(SEED, round_num, "attacker", "bad updates"))
        kinds = draws.shuffled([kind for kind, count in PER_ROUND.items() for _ in range(count)])
        for position, device in enumerate(GOOD):
            ledger[device, round_num] = await report_good(sender, device, given)
            if round_num == 1 or device == GOOD[-1]:
                continue
            # The next one may have failed before it reports; the last must not, or the round would not wait for it.
            scene = Scene(
                given=given,
                members=(*BROKEN, *GOOD[position + 1 : len(GOOD) - 1][:1]),
                accepted=GOOD[: position + 1],
                strangers=STRANGERS,
                ledger=ledger,
                other=other,
                wide=large,
                sender="w0",
                uploader="w1",
            )
            mine = kinds[position :: len(GOOD) - 1]
            wrong = await attack(sender, scene, mine, draws)
            assert not wrong, "\n".join(wrong[:20])
            sent += len(mine)
        if round_num == 1:
            await caller.ended(1)
            before = peak_rss_bytes(server.process.pid)
    assert sent == 10_000
    return peak_rss_bytes(server.process.pid) - before


def test_ten_thousand_bad_reports_change_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    expected: list[tuple[list[str], str]] = []

    async def alone(caller: Caller) -> None:
        expected.append(await honest(caller))

    async def siege(server: ServerProcess) -> None:
        async with calling(server) as caller:
            sender = Sender(caller)
            grown = await besieged(server, caller, sender)
            assert grown < MAX_GROWTH_BYTES
            assert set(sender.refused) == {reason.name for reason in UpdateRefusal}  # no kind of refusal went untried
            options = ("--insecure", "--server", caller.address, "answers")
            capsys.readouterr()
            assert await asyncio.to_thread(main, (*options, "--json")) == 0
            assert json.loads(capsys.readouterr().out) == counted(sender)
            assert await asyncio.to_thread(main, options) == 0
            line = capsys.readouterr().out
            assert line.startswith(f"{8 * ROUNDS + 1} accepted, {sender.receipts[AlreadyAccepted]} already accepted, ")
            assert f" NON_FINITE {sender.refused['NON_FINITE']}, " in line
            assert await finish(caller) == expected[0]

    (tmp_path / "alone").mkdir()
    run(tmp_path / "alone", alone)
    with server_process(tmp_path) as server:
        asyncio.run(siege(server))
        server.kill()
        assert "ERROR" not in server.log
    with contextlib.closing(sqlite3.connect(tmp_path / "data" / "edgefl.db")) as db:
        rows = db.execute("SELECT task, round, device, counted FROM reports ORDER BY sequence").fetchall()
    honest_rows = [("train", round_num, device, 1) for round_num in range(1, ROUNDS + 1) for device in GOOD]
    assert rows == [("wide", 1, "w0", 1), *honest_rows]


def _bits(*words: int) -> bytes:
    return struct.pack(f"<{len(words)}I", *words)


@pytest.mark.parametrize(
    ("value", "counts"),
    [
        *((_bits(word), False) for word in SUBNORMALS),
        (struct.pack("<f", GRID_STEP / 2), False),
        (struct.pack("<f", -GRID_STEP / 2), False),
        (struct.pack("<f", GRID_STEP), True),
    ],
    ids=lambda v: v.hex() if isinstance(v, bytes) else "",
)
def test_subnormal_and_tiny_values_are_taken_and_count_as_zero(tmp_path: Path, value: bytes, counts: bool) -> None:
    """They are finite, so the gate takes them, and the grid rounds up to half a step of it to 0 (design §4.4).

    A device that sends nothing else is counted like one that learned nothing. A whole step counts.
    """
    models: list[str] = []

    async def body(caller: Caller) -> None:
        for task, payload in (("tiny", value * PARAMETERS), ("zero", bytes(4 * PARAMETERS))):
            await caller.create(definition(task, goal=1, rounds=1))
            given = await caller.assignment("a")
            assert isinstance(await caller.report("a", update_for(given, "a", payload=payload)), Accepted)
            models.append((await caller.models(task))[-1])

    run(tmp_path, body)
    assert (models[0] != models[1]) is counts
