"""The error taxonomy: what can go wrong, whether a retry can help, and how each error leaves the process.

One class for each kind of failure that a caller can treat differently. Each class says

- ``transient``: the same call may succeed later, unchanged;
- ``grpc_code``: the *name* of its gRPC status code (this package does not import gRPC);
- ``exit_code``: the exit status of the commands, one number per class (``sysexits.h`` where it has a fitting one).

A message says what was wrong, with the value, what was expected, and what to do.
"""

from __future__ import annotations

import enum
from typing import ClassVar


class EdgeFLError(Exception):
    """Base of every error that EdgeFL raises on purpose."""

    transient: ClassVar[bool] = False
    grpc_code: ClassVar[str] = "INTERNAL"
    exit_code: ClassVar[int] = 1


class ConfigError(EdgeFLError):
    """A configuration file, a task definition or a command-line option is wrong."""

    grpc_code = "INVALID_ARGUMENT"
    exit_code = 78


class DataError(EdgeFLError):
    """Examples (or a data set) are not what was declared: shape, dtype, range, a non-finite value."""

    grpc_code = "INVALID_ARGUMENT"
    exit_code = 65


class KernelError(EdgeFLError):
    """The arithmetic left its domain: a non-finite logit or weight. Lower the learning rate or check the features."""

    grpc_code = "FAILED_PRECONDITION"
    exit_code = 66


class LocalProtocolError(EdgeFLError):
    """Our own side asked for a step that the protocol does not allow now. Always a bug in the caller."""

    grpc_code = "INTERNAL"
    exit_code = 70


class RemoteProtocolError(EdgeFLError):
    """The other side sent something that the protocol does not allow."""

    grpc_code = "INVALID_ARGUMENT"
    exit_code = 76


class UpdateRefusal(enum.Enum):
    """Why the update gate refused a report, in the order in which the gate checks."""

    TOO_LARGE = 1
    MALFORMED = 2
    ENCODING = 3
    SHAPE = 4
    NON_FINITE = 5
    WRONG_TASK = 6
    WRONG_ROUND = 7
    NOT_ASSIGNED = 8
    WRONG_BASE_MODEL = 9
    WEIGHT = 10
    NORM = 11


class InvalidUpdateError(EdgeFLError):
    """A client update was refused; ``reason`` says at which check. A refused update changes nothing."""

    grpc_code = "INVALID_ARGUMENT"
    exit_code = 79

    def __init__(self, reason: UpdateRefusal, message: str) -> None:
        super().__init__(message)
        self.reason = reason


class StorageError(EdgeFLError):
    """A database or a state file cannot be read or written, or is corrupt."""

    grpc_code = "INTERNAL"
    exit_code = 74


class FencedError(StorageError):
    """Another process owns the database, or took it over: this one must not write."""

    grpc_code = "ABORTED"
    exit_code = 73


class NotFoundError(EdgeFLError):
    """No task, model, release or content of that name."""

    grpc_code = "NOT_FOUND"
    exit_code = 72


class ConflictError(EdgeFLError):
    """The request contradicts what exists: a name that is taken, a task that has ended."""

    grpc_code = "FAILED_PRECONDITION"
    exit_code = 80


class UnauthenticatedError(EdgeFLError):
    """The caller did not say, or could not prove, who it is."""

    grpc_code = "UNAUTHENTICATED"
    exit_code = 77


class PermissionDeniedError(EdgeFLError):
    """The caller is known, and its role may not do this."""

    grpc_code = "PERMISSION_DENIED"
    exit_code = 81


class UnavailableError(EdgeFLError):
    """The other side cannot be reached, or is shutting down. Try again later."""

    transient = True
    grpc_code = "UNAVAILABLE"
    exit_code = 69


class BusyError(EdgeFLError):
    """A limit on waiting check-ins or reports in flight is reached. Try again after the retry window."""

    transient = True
    grpc_code = "RESOURCE_EXHAUSTED"
    exit_code = 75


class VerificationError(EdgeFLError):
    """Something is not what was promised: a digest, a model's outputs, what a simulated run left in its ledger."""

    grpc_code = "DATA_LOSS"
    exit_code = 82


class InterruptedByUser(EdgeFLError):
    """The user pressed Ctrl-C, or the process was told to stop, and everything was put away."""

    grpc_code = "CANCELLED"
    exit_code = 130
