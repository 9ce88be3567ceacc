"""A fleet for the fault simulation that adds integers: small, and another one for every seed."""

from __future__ import annotations

import random
import zlib

from protocol_kit import ENCODING, Adding, pack

from edgefl.faults.config import FaultsConfig, NetworkFaults
from edgefl.faults.fleet import Definitions, Member
from edgefl.models.kinds.softmax import SoftmaxModel
from edgefl.protocol.messages import Assignment, ClientUpdate
from edgefl.protocol.session_state import SessionConfig
from edgefl.protocol.task import TaskSpec, parse_task
from edgefl.types import Standardization

CONFIG = FaultsConfig(until_s=30.0, network=NetworkFaults(uploads=0.75))
"""All rounds of a run take some 15 s without faults: the devices of this fleet are not as patient as real agents."""

DEADLINE_S = 40.0
SELECTION_S = 5.0

REFUSED_OF = 12
"""One update of so many is refused: a device that computes nonsense, or a bound that is too tight."""


class AddingFleet:
    """Three to six devices; a training and its evaluation, with a goal that they can meet."""

    session = SessionConfig(encodings=(ENCODING,), check_in_timeout_s=30.0, report_timeout_s=5.0, backoff_cap_s=10.0)

    def __init__(self, seed: int) -> None:
        chance = random.Random(f"{seed} fleet")
        num_devices = chance.randint(3, 6)
        self.members = tuple(Member(f"d{number}", 10, 5) for number in range(num_devices))
        self._goal = chance.randint(2, num_devices)
        self._minimum = chance.randint(1, (self._goal + 1) // 2)
        self._over_selection = chance.choice([1.0, 1.0, 1.3])

    def definitions(self, rounds: int) -> Definitions:
        texts = (self._text("train", rounds), self._text("eval", rounds))
        return tuple((parse_task(text, "a scenario"), text) for text in texts)

    def _text(self, name: str, rounds: int) -> str:
        own = "[model]\nnum_features = 1\nnum_classes = 2\n[client]\nlearning_rate = 0.1\n" if name == "train" else ""
        return (
            f'name = "{name}"\npopulation = "p"\nrounds = {rounds}\n'
            + ('kind = "training"\n' if own else 'kind = "evaluation"\nevaluates = "train"\n')
            + f"[round]\ngoal = {self._goal}\nminimum = {self._minimum}\nover_selection = {self._over_selection}\n"
            + f"selection_s = {SELECTION_S}\ndeadline_s = {DEADLINE_S}\n"
            + own
        )

    def initial(self, task: str) -> bytes:  # noqa: ARG002
        return b""

    def process(self, spec: TaskSpec, found: Standardization | None, model: SoftmaxModel | None) -> Adding:
        return Adding(spec, found, model)

    def work(self, assignment: Assignment, model: bytes, device: str, copy: int, memory: bytes) -> ClientUpdate:  # noqa: ARG002
        """A multiple of 7: no sum is ``protocol_kit.POISON``. Some updates are larger than the gate lets pass."""
        text = f"{device} {copy} {assignment.task} {assignment.round_num} {assignment.model_digest}"
        value = zlib.crc32(text.encode())
        return ClientUpdate(
            task=assignment.task,
            round_num=assignment.round_num,
            base_model_digest=assignment.model_digest,
            encoding=ENCODING,
            payload=pack(7 * (value % 140) + (7000 if value % REFUSED_OF == 0 else 0)),
            weight=1 + value % 50,
            num_examples=1 + value % 50,
            num_correct=value % 2,
            loss_grid=value % 1000,
        )
