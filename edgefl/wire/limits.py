"""How much is taken from the other side."""

from __future__ import annotations

from edgefl.protocol.messages import INLINE_UPDATE_MAX_BYTES

MAX_TEXT = 500
"""Longest name, reason or error text that is taken from the other side; longer ones are cut."""

MAX_INITIAL_BYTES = 3 << 20
"""Largest model that is sent with a task's definition: a definition of ``MAX_FILE_BYTES`` fits the message too."""

MAX_COUNT = (1 << 63) - 1
"""Largest session counter, version or size: what SQLite and an int64 hold."""

MAX_EXAMPLES = 1 << 40
"""Largest example count of a device: a million devices' counts still add up within an int64."""

MAX_NAMES = 32
"""Most kinds and encodings that a device may name; further ones are not read."""

MAX_DEADLINE_S = 1e9
"""Thirty years: a time that a monotonic clock can be added to."""

MAX_REPORT_BYTES = INLINE_UPDATE_MAX_BYTES + 4096
"""Largest report: the largest inline update, and room for what describes it."""

DIGEST_BYTES = 32
