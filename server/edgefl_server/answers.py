"""How the server answered since its start: every receipt, every refusal by reason, every error by class.

For operators: a device that is wrong, or lies, shows here and nowhere else, because what is refused is not stored.

Source: design §5 (each refusal typed and counted).
"""

from __future__ import annotations

from collections import Counter

from edgefl.errors import EdgeFLError, UpdateRefusal
from edgefl.protocol.messages import Receipt, Refused


class AnswerCounts:
    """``receipts``: by kind. ``refusals``: the ``Refused`` among them, by reason. ``errors``: calls, by error class.

    Used by the event loop's thread alone. A message above gRPC's own bound is answered by gRPC, and is not here.
    """

    def __init__(self) -> None:
        self.receipts: Counter[type[Receipt]] = Counter()
        self.refusals: Counter[UpdateRefusal] = Counter()
        self.errors: Counter[type[EdgeFLError]] = Counter()

    def add_receipt(self, receipt: Receipt) -> None:
        self.receipts[type(receipt)] += 1
        if isinstance(receipt, Refused):
            self.refusals[receipt.reason] += 1

    def add_error(self, error: EdgeFLError) -> None:
        self.errors[type(error)] += 1
