"""Who is killed and when, and what is said about it: only what was seen.

A kill waits until its round collects updates, so that there is something to lose: the server dies with updates already
acknowledged, the agent while its own update may be missing. The rounds come from the server's stream, in a thread of
their own; the processes are killed and started again in the main one.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from edgefl.errors import ConfigError
from edgefl.protocol.events import OVER, Phase, RoundSummary

SERVER_SHARE = 0.4
DEVICE_SHARE = 0.7
"""By default the server dies at this share of the rounds, and an agent at that one: 20 and 35 of 50."""


def round_of(option: str, wanted: int | None, share: float, rounds: int) -> int:
    """The round that ``option`` names, or the one at ``share`` of ``rounds``. Raises ``ConfigError``."""
    if wanted is not None and not 1 <= wanted <= rounds:
        raise ConfigError(f"{option} {wanted}; expected 1 to {rounds}, a round of the training")
    return wanted or max(1, round(share * rounds))


@dataclass
class Kill:
    """One process that dies in ``round_num`` of ``rounds``, and what was seen of it.

    ``after``: so many updates of the round must be acknowledged first. ``killed_round`` and ``seen``: the round in
    which it died, and how many updates of this round were acknowledged before. ``back_s``: seconds until it was back.
    ``resumed``: how the round went on, by the server's first word about it.
    """

    who: str
    round_num: int
    after: int
    rounds: int
    is_server: bool
    due: bool = False
    killed_at: float | None = None
    killed_round: int = 0
    seen: int = 0
    back_s: float | None = None
    resumed: RoundSummary | None = None

    @property
    def told(self) -> bool:
        """Whether all that can be said is known."""
        return self.back_s is not None and self.resumed is not None

    def sentence(self) -> str:
        """What happened, in plain words."""
        when = f"round {self.killed_round}" if self.killed_round <= self.rounds else f"after round {self.rounds}"
        text = f"{when}: {self.who} was killed"
        if self.back_s is None:
            return f"{text}; it starts again"
        text += f"; it came back in {self.back_s:.1f} s"
        resumed = self.resumed
        if resumed is None:
            return text
        if not self.is_server:
            counted = resumed.phase is Phase.COMMITTED and resumed.accepted == resumed.goal
            return text + (f", and its update of round {resumed.round_num} was counted" if counted else "")
        text += f" and went on with round {resumed.round_num}"
        if self.seen and resumed.round_num == self.killed_round and resumed.accepted >= self.seen:
            updates, were = ("update", "was") if self.seen == 1 else ("updates", "were")
            text += f"; the {self.seen} {updates} that it had acknowledged {were} still there"
        return text


class Watch:
    """Holds the training's rounds against the kills that are planned; sets ``wake`` when one is due.

    ``hold`` is called at once for that process: it stands still until it is killed, so its round cannot end before.
    """

    def __init__(
        self, kills: Sequence[Kill], wake: threading.Event, hold: Callable[[Kill], None] = lambda _kill: None
    ) -> None:
        self.kills = tuple(kills)
        self._wake = wake
        self._hold = hold
        self._round = 1
        self._accepted = 0

    def saw(self, summary: RoundSummary) -> None:
        """A word of the server about a round of the training. A new stream begins with the rounds of the past."""
        number, ended = summary.round_num, summary.phase in OVER
        for kill in self.kills:
            if not kill.due:
                ripe = ended or (summary.phase is Phase.COLLECTING and summary.accepted >= kill.after)
                kill.due = number > kill.round_num or (number == kill.round_num and ripe)
                if kill.due:
                    self._hold(kill)
            elif kill.resumed is None and kill.killed_at is not None and number >= kill.killed_round:
                # The old stream may hold words of the server that is dead; an agent's update counts at the round's end.
                went_on = kill.back_s is not None if kill.is_server else ended
                kill.resumed = summary if went_on else None
        if number >= self._round:
            self._round, self._accepted = (number + 1, 0) if ended else (number, summary.accepted)
        if any(kill.due and kill.killed_at is None for kill in self.kills):
            self._wake.set()

    def struck(self, kill: Kill, now_s: float) -> None:
        """Its process was killed at ``now_s``: note what was acknowledged until then."""
        kill.killed_round, kill.seen, kill.killed_at = self._round, self._accepted, now_s
