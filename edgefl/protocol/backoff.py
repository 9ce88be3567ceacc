"""What follows an abandoned round: a growing delay before the next; after too many that only failed, suspension.

A round that is abandoned is likely to be abandoned again for the same reason, so the next one waits: ``FIRST_S``
doubled with each abandoned round in a row, up to a bound. A commit ends it. A round is *fruitless* when nothing of it
was accepted and every member's last word was a failure: the task itself is then likely to be wrong, and after
``SUSPEND_AFTER`` fruitless rounds in a row the server suspends it, until an operator resumes it. A round that is
abandoned because devices are silent, or because one of them fails, suspends nothing: it may go on by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

FIRST_S = 0.5
"""The delay after the first abandoned round: a single bad moment costs next to nothing."""

MAX_S = 60.0
"""The longest delay: a task whose devices are repaired goes on within a minute, and within two deadlines (I9)."""

SUSPEND_AFTER = 10
"""So many fruitless rounds in a row, about three minutes of them, are not just a bad moment."""


@dataclass(frozen=True)
class Setbacks:
    """What kept a task from committing since its last commit, or since it was resumed.

    ``abandoned``: rounds abandoned in a row; ``fruitless``: of the last of them, those in a row that only failed;
    ``reason``: why the last one was abandoned.
    """

    abandoned: int = 0
    fruitless: int = 0
    reason: str = ""

    def after(self, reason: str, *, fruitless: bool) -> Setbacks:
        """With one more abandoned round."""
        return Setbacks(self.abandoned + 1, self.fruitless + 1 if fruitless else 0, reason)

    def delay_s(self, max_s: float = MAX_S) -> float:
        """How long the next round waits."""
        if self.abandoned == 0:
            return 0.0
        return min(max_s, FIRST_S * 2.0 ** min(self.abandoned - 1, 30))

    @property
    def hopeless(self) -> bool:
        """Whether the task is to be suspended."""
        return self.fruitless >= SUSPEND_AFTER


NONE = Setbacks()
