"""``float32``: the delta as it is, 4 bytes a value, little-endian. Nothing is lost; every other encoding is measured
against this one."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

from edgefl import kernels
from edgefl.errors import InvalidUpdateError, UpdateRefusal

if TYPE_CHECKING:
    from typing_extensions import Buffer

    from edgefl.types import RoundKey


@dataclass(frozen=True)
class Float32:
    name: str = "float32"
    value_format: Literal["f", "q"] = "f"

    def encode(self, values: Buffer, key: RoundKey, memory: bytes) -> tuple[bytes, bytes]:  # noqa: ARG002
        return bytes(values), memory

    def decode(self, payload: bytes, num_values: int, key: RoundKey) -> bytes:  # noqa: ARG002
        """Raises ``InvalidUpdateError``: SHAPE for a payload of another size, NON_FINITE for a NaN or an infinity."""
        if len(payload) != 4 * num_values:
            raise InvalidUpdateError(
                UpdateRefusal.SHAPE,
                f"a float32 payload of {len(payload)} bytes; expected {4 * num_values} for {num_values} values",
            )
        index = kernels.first_non_finite(payload)
        if index >= 0:
            value = memoryview(payload).cast("f")[index]
            raise InvalidUpdateError(UpdateRefusal.NON_FINITE, f"value {index} is {value}; expected finite values")
        return payload


CODEC = Float32()
