"""``by_size``: sizes by a power law."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from edgefl.datasets.partitioners._dealing import Shares, check_clients, check_enough, cut
from edgefl.errors import ConfigError
from edgefl.kernels import permutation


@dataclass(frozen=True)
class by_size:
    """Each client draws from the same distribution; sizes follow a power law.

    The size of client k, counted from 1, is 1 + a share in proportion to k ** -exponent of the examples beyond one
    each. ``exponent`` is a multiple of 0.5 from 0 to 4 (a square root is exact in integers, other powers are not): at
    1, of 100 clients, the first has about a fifth of all examples, and the last a hundredth of that.
    """

    num_clients: int
    exponent: float = 1.0

    def __post_init__(self) -> None:
        check_clients(self.num_clients)
        if not (0 <= self.exponent <= 4 and float(2 * self.exponent).is_integer()):
            raise ConfigError(f"exponent is {self.exponent!r}; expected a multiple of 0.5 from 0 to 4")

    def rows(self, labels: Sequence[int], columns: Mapping[str, tuple[str, ...]], key: bytes) -> Shares:
        del columns
        check_enough(self.num_clients, len(labels))
        return cut(permutation(key, 0, len(labels)), self.sizes(len(labels)))

    def sizes(self, count: int) -> list[int]:
        """How many of ``count`` examples each client gets; never more than the client before."""
        # 2**64 / k ** exponent, rounded down: isqrt(x / k ** (2 exponent)) with x = 2**128.
        twice = int(2 * self.exponent)
        shares = [math.isqrt(2**128 // k**twice) for k in range(1, self.num_clients + 1)]
        spare, total = count - self.num_clients, sum(shares)
        sizes = [1 + spare * share // total for share in shares]
        for index in range(count - sum(sizes)):  # what rounding left over, fewer than there are clients
            sizes[index] += 1
        return sizes


PARTITIONER = by_size
