"""Which devices can do a task: by population, agent, examples and shape. Pure.

A device that cannot do a task is never drawn for it, and the reason is told to the device and to the operator. What a
device does not say (an older agent says no shape) is not an obstacle: its own check is the last word.

Reasons are phrases that follow "has" or "with": "no training examples", "5 features (expected 75)".
"""

from __future__ import annotations

from dataclasses import dataclass

from edgefl.protocol.events import DeviceRecord
from edgefl.protocol.messages import KINDS, CheckIn, Plan
from edgefl.protocol.shape import ExampleShape, misfit, shape_of
from edgefl.protocol.task import ModelSpec, TaskKind, TaskSpec


@dataclass(frozen=True)
class Needs:
    """What a task asks of a device. ``shape`` is None where nothing is known of a model."""

    population: str
    kind: TaskKind
    train: bool
    held_out: bool
    max_weight: int
    shape: ExampleShape | None


def needs_of(spec: TaskSpec, model: ModelSpec | None) -> Needs:
    """``model``: the task's own, or that of the task which it evaluates."""
    return Needs(
        population=spec.population,
        kind=spec.kind,
        train=spec.kind is not TaskKind.EVALUATION,
        held_out=bool(spec.evaluates),
        max_weight=spec.aggregator.max_weight,
        shape=None if model is None else shape_of(model.build()),
    )


def lack(needs: Needs, device: CheckIn | DeviceRecord) -> str:
    """What keeps a device of the task's population from doing it; '' when nothing does. Its agent is not looked at."""
    for wanted, count, which in (
        (needs.held_out, device.num_held_out, "held-out"),
        (needs.train, device.num_train, "training"),
    ):
        if wanted and count == 0:
            return f"no {which} examples"
        if wanted and count > needs.max_weight:
            return f"{count} {which} examples (max_weight is {needs.max_weight})"
    if needs.shape is None or device.shape is None:
        return ""
    return misfit(device.shape, needs.shape)


def agent_lack(needs: Needs, plan: Plan | None, kinds: tuple[str, ...], encodings: tuple[str, ...]) -> str:
    """What the agent does not know of a task's work; '' when it knows all. ``plan``: None while it is not known."""
    kind = needs.kind.value if plan is None else KINDS.get(type(plan.work), "")
    if not kind:
        return "no way to get work of a user's own (run the task in one Python process)"
    if kind not in kinds:
        return f"an agent that does not know kind {kind!r} (update it)"
    if plan is not None and plan.encoding not in encodings:
        return f"an agent that does not know encoding {plan.encoding!r} (update it)"
    return ""


def unfit(needs: Needs, plan: Plan | None, check_in: CheckIn) -> str:
    """Why a device of the task's population that checked in so cannot do the task; '' when it can."""
    return agent_lack(needs, plan, check_in.kinds, check_in.encodings) or lack(needs, check_in)
