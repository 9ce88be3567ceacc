"""``int64``: exact integers, 8 bytes a value, little-endian: the counts of an evaluation, the sums of statistics.

Every bit pattern is an integer; which integers are possible is for the aggregator to check.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgefl.errors import InvalidUpdateError, UpdateRefusal

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgefl.types import RoundKey


@dataclass(frozen=True)
class Int64:
    name: str = "int64"
    value_format: Literal["f", "q"] = "q"

    def encode(self, values: Buffer, key: RoundKey, memory: bytes) -> tuple[bytes, bytes]:  # noqa: ARG002
        return bytes(values), memory

    def decode(self, payload: bytes, num_values: int, key: RoundKey) -> bytes:  # noqa: ARG002
        """Raises ``InvalidUpdateError``: SHAPE for a payload of another size."""
        if len(payload) != 8 * num_values:
            raise InvalidUpdateError(
                UpdateRefusal.SHAPE,
                f"an int64 payload of {len(payload)} bytes; expected {8 * num_values} for {num_values} values",
            )
        return payload


CODEC = Int64()
