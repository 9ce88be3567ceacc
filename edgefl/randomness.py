"""Keys of the counter-based generator: everything random in learning derives from one of these.

A key is a pure function of (task seed, round, device, purpose), so any device's work can be replayed on any machine.
Privacy noise and cryptographic keys never come from here; they come from the operating system (design §4.5).
"""

from __future__ import annotations

import hashlib

from edgefl.types import KEY_BYTES

SHUFFLE = "shuffle"
"""The order of a client's examples in each local epoch."""

COHORT = "cohort"
"""A candidate's place in the draw for a round."""

INITIAL = "initial"
"""Where a model that begins at random begins; no round and no device."""

PARTITION = "partition"
"""Which client of a simulation gets which training example; no round and no device."""

PARTITION_TEST = "partition-test"
"""The same of the test examples."""

PARTITION_CLIENTS = "partition-clients"
"""Which clients of a simulation are held out as a whole; no round and no device."""


def derive_key(task_seed: int, round_num: int, device: str, purpose: str) -> bytes:
    """The 16-byte key for one purpose of one device in one round.

    ``task_seed`` is 0 to 2**64 - 1 and ``round_num`` 0 to 2**32 - 1. The fields are length-delimited before hashing,
    so no two different inputs share a text.
    """
    digest = hashlib.sha256(b"edgefl-key-v1")
    digest.update(task_seed.to_bytes(8, "little"))
    digest.update(round_num.to_bytes(4, "little"))
    for text in (device, purpose):
        raw = text.encode()
        digest.update(len(raw).to_bytes(4, "little"))
        digest.update(raw)
    return digest.digest()[:KEY_BYTES]
