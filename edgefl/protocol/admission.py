"""Whether a new task can ever find devices, judged by those that are known: for operators who mistype.

A fleet may come later, so a task without any known device is taken, and a device that does not say its shape (an older
agent) may fit. What is refused is refused because devices are there, and none of them can do it.
"""

from __future__ import annotations

from collections import Counter

from edgefl.errors import ConfigError
from edgefl.protocol.devices import KnownDevices
from edgefl.protocol.fitness import Needs, lack
from edgefl.wording import name_hint

GO_ON = "correct the definition, or create it with --anyway if such devices come later"
MAX_REASONS = 3


def check_devices(task: str, needs: Needs, devices: KnownDevices) -> None:
    """Raises ``ConfigError`` for a task that no known device can do: of another population, shape or size."""
    known = devices.population(needs.population)
    if not known:
        others = devices.populations()
        if others:
            hint = name_hint(needs.population, others)
            raise ConfigError(
                f"task {task!r}: population is {needs.population!r}, which no device has named{hint}; {GO_ON}"
            )
        return
    lacks = Counter(lack(needs, one.record) for one in known.values())
    # Examples come by themselves; what is there and does not fit stays as it is.
    if any(reason == "" or reason.startswith("no ") for reason in lacks):
        return
    reasons = ", ".join(f"{count} with {reason}" for reason, count in lacks.most_common(MAX_REASONS))
    raise ConfigError(
        f"task {task!r} fits none of the {len(known)} known devices of population {needs.population!r}: {reasons}; "
        f"{GO_ON}"
    )
