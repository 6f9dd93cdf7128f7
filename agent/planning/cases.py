"""Points that belong together: one set-up, at several batches and in both phases."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from agent.roofline.planner import Plan, Point


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """The plans that differ only in phase and batch, under one number."""

    number: int
    plans: tuple[Plan, ...]

    @property
    def first(self) -> Plan:
        """Any: what the case is, all are."""
        return self.plans[0]

    @property
    def batches(self) -> Iterator[Plan]:
        """One plan a batch: what both phases take is in either."""
        return iter({each.point.batch: each for each in self.plans}.values())

    @property
    def largest(self) -> Plan:
        """That of the largest batch."""
        return max(self.plans, key=lambda each: each.point.batch)


def alike(point: Point) -> Point:
    """The same for all points of a case."""
    return replace(point, phase="decode", batch=1)


def cases_of(plans: Sequence[Plan]) -> list[Case]:
    """In the order of their first plans, numbered from 1."""
    found: dict[Point, list[Plan]] = {}
    for each in plans:
        found.setdefault(alike(each.point), []).append(each)
    return [Case(number=n, plans=tuple(group)) for n, group in enumerate(found.values(), start=1)]


def described(plan: Plan) -> str:
    """A set-up in words."""
    point = plan.point
    splits = (
        (point.tensor_parallel, "tensor"),
        (point.pipeline_parallel, "pipeline"),
        (point.expert_parallel, "expert"),
    )
    parallel = "".join(f", {name} parallel {count}" for count, name in splits if count > 1)
    return (
        f"{point.model} on {plan.gpus} × {plan.spec.name}{parallel}; weights "
        f"{(plan.point.weight_dtype or plan.model.weight_dtype.name)}, KV {plan.model.kv_dtype.name}, "
        f"{point.backend}; context {point.context}"
    )
