"""What goes into a device's session and what comes out of it: events and effects, as data.

The shell (the agent, or the simulator) hands in events and carries the effects out **in their order**. It runs one
timer and at most one call (check-in, model fetch, report) for the session at a time; releases are fetched alongside it.

Source: design §5 (the device machine), §9 (few writes, outbox).
"""

from __future__ import annotations

from dataclasses import dataclass

from edgefl.protocol.messages import (
    Assignment,
    CheckInAnswer,
    ClientUpdate,
    Receipt,
    ReleaseInfo,
    Report,
    RetryWindow,
    RoundKey,
    WorkFailure,
)

# ------------------------------------------------------------------------------------------------ events


@dataclass(frozen=True)
class Started:
    """The agent started, with what it found on disk. Always the first event.

    ``outbox``: a saved update without a receipt; or a ``WorkFailure`` that the shell made up, because it found an
    assignment that killed the agent too often. It is reported before anything else.
    ``window``: the last retry window that was stored: the first delay is drawn from it, so that a fleet that boots
    together does not arrive together. ``releases``: the highest version *seen* of each name, whether kept or refused.
    ``proposals``: rounds whose proposed memory is kept until it is known whether they counted this device.
    """

    outbox: Report | None = None
    last_task: str = ""
    last_round: int = 0
    window: RetryWindow | None = None
    releases: tuple[ReleaseInfo, ...] = ()
    proposals: tuple[RoundKey, ...] = ()


@dataclass(frozen=True)
class TimerFired:
    """The timer of the last ``StartTimer`` ran out."""


@dataclass(frozen=True)
class NotEligible:
    """Answer to ``SendCheckIn``: the device's own conditions forbid work now; nothing was sent."""

    reason: str


@dataclass(frozen=True)
class CheckInAnswered:
    answer: CheckInAnswer


@dataclass(frozen=True)
class PlanNotUnderstood:
    """Answer to ``SendCheckIn``: an assignment whose plan this agent cannot read. ``failure`` is sent as the report."""

    failure: WorkFailure


@dataclass(frozen=True)
class RpcFailed:
    """The call in flight failed. ``transient``: the same call may succeed later. ``retry``: the server's wish."""

    message: str
    transient: bool
    retry: RetryWindow | None = None


@dataclass(frozen=True)
class ModelReady:
    """Answer to ``FetchModel``: the bytes are here and their digest was verified."""


@dataclass(frozen=True)
class ModelUnavailable:
    """Answer to ``FetchModel``: it cannot be had (wrong digest, too large, no space); a retry would not help."""

    message: str


@dataclass(frozen=True)
class WorkDone:
    update: ClientUpdate


@dataclass(frozen=True)
class WorkFailed:
    failure: WorkFailure


@dataclass(frozen=True)
class WorkStopped:
    """The work ended between batches, by ``StopWork`` or because the device's conditions changed."""

    reason: str = "stopped"


@dataclass(frozen=True)
class UpdateSaved:
    """Answer to ``SaveUpdate``: the outbox entry is durable."""


@dataclass(frozen=True)
class SaveFailed:
    """Answer to ``SaveUpdate``: the outbox entry could not be written; a failure is reported in its place."""

    message: str


@dataclass(frozen=True)
class ReceiptReceived:
    receipt: Receipt
    retry: RetryWindow


@dataclass(frozen=True)
class ReleaseFetched:
    """A release is in place, or was looked at and refused for good: this version is not fetched again."""

    info: ReleaseInfo


@dataclass(frozen=True)
class ReleaseFailed:
    """The fetch of a release failed: the next answer that names it starts another."""

    info: ReleaseInfo
    message: str


@dataclass(frozen=True)
class StopRequested:
    """The agent must stop. May come at any time and more than once."""


SessionEvent = (
    Started
    | TimerFired
    | NotEligible
    | CheckInAnswered
    | PlanNotUnderstood
    | RpcFailed
    | ModelReady
    | ModelUnavailable
    | WorkDone
    | WorkFailed
    | WorkStopped
    | UpdateSaved
    | SaveFailed
    | ReceiptReceived
    | ReleaseFetched
    | ReleaseFailed
    | StopRequested
)

# ------------------------------------------------------------------------------------------------ effects


@dataclass(frozen=True)
class SendCheckIn:
    """Check the eligibility, then check in. Outcomes: NotEligible, CheckInAnswered, PlanNotUnderstood, RpcFailed."""

    last_task: str
    last_round: int
    timeout_s: float


@dataclass(frozen=True)
class SaveAssignment:
    """Note the assignment and the window, unsynced: after a crash the device may train again."""

    assignment: Assignment
    retry: RetryWindow


@dataclass(frozen=True)
class FetchModel:
    """Take the model from the cache or download it. Outcomes: ModelReady, ModelUnavailable, RpcFailed."""

    digest: str
    size_bytes: int


@dataclass(frozen=True)
class StartWork:
    """Run the assignment's plan. Outcomes: WorkDone, WorkFailed, WorkStopped."""

    assignment: Assignment


@dataclass(frozen=True)
class StopWork:
    """Set the stop flag. The outcome of the work is still awaited; it may be WorkDone."""


@dataclass(frozen=True)
class SaveUpdate:
    """The one durable write of a round: the outbox entry. Outcomes: UpdateSaved, SaveFailed."""

    update: ClientUpdate


@dataclass(frozen=True)
class SendReport:
    """Report. Outcomes: ReceiptReceived, RpcFailed."""

    report: Report
    timeout_s: float


@dataclass(frozen=True)
class ClearOutbox:
    """Forget outbox entry and assignment, and note the rest, unsynced: a repeated report is harmless.

    ``receipt`` is None when the call was refused for good. The last round is what the next check-in asks the fate of.
    ``proposal``: the entry's memory is to be kept under it until that is known; None where there is none.
    """

    receipt: Receipt | None
    last_task: str
    last_round: int
    retry: RetryWindow | None
    proposal: RoundKey | None = None


@dataclass(frozen=True)
class AdoptMemory:
    """The round counted this device: from now on the memory that it proposed is its own."""

    proposal: RoundKey


@dataclass(frozen=True)
class DropMemory:
    """The round did not count this device: the memory that it proposed never was."""

    proposal: RoundKey


@dataclass(frozen=True)
class FetchRelease:
    """Download, verify and install a release, alongside the session. Outcomes: ReleaseFetched, ReleaseFailed."""

    info: ReleaseInfo


@dataclass(frozen=True)
class StartTimer:
    """Start the session's one timer; it replaces the one before. Outcome: TimerFired."""

    delay_s: float


@dataclass(frozen=True)
class StopTimer:
    """The timer of the last ``StartTimer`` must not fire any more."""


@dataclass(frozen=True)
class Halt:
    """The session is over: cancel the call in flight, and hand in no more events."""


SessionEffect = (
    SendCheckIn
    | SaveAssignment
    | FetchModel
    | StartWork
    | StopWork
    | SaveUpdate
    | SendReport
    | ClearOutbox
    | AdoptMemory
    | DropMemory
    | FetchRelease
    | StartTimer
    | StopTimer
    | Halt
)
