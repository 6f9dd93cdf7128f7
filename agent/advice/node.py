"""What would make a node better, the most useful first.

An effect is the window's own work, put through the same `workload` and step functions with another dtype,
batch, split, roof or part. Nothing is advised because a number is beyond a threshold: a threshold only says
which question to ask. What was measured and the model does not explain (the host's gaps, a neighbour's turn)
stays as it is in every what-if.

**Effects for one engine are computed on top of each other**, in the order in which one would do them, so that
they multiply: a batch that is larger already leaves less to gain from smaller weights. `Advice.after` says
on top of what.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import accumulate

from agent.advice.changes import changes_of, disaggregate, throttled_alone
from agent.advice.doubts import check_model, may_hang
from agent.advice.idle import consolidate
from agent.advice.model import Advice, Kind
from agent.advice.what_if import case_of
from agent.assessment import Assessment

MOST = 5
"""Advices a node: a longer list is not read."""
FIRST: tuple[Kind, ...] = ("engine_may_hang", "check_model_configuration")
"""Before these are settled, nothing else that is said of the engine can be trusted."""


def advise_node(assessment: Assessment) -> tuple[Advice, ...]:
    """At most `MOST`, the most useful first; empty where there is nothing that clearly helps."""
    alone = [[each] for each in (*throttled_alone(assessment), *consolidate(assessment))]
    alike: dict[object, list[list[Advice]]] = {}
    for engine in assessment.engines:
        gpus = [gpu for gpu in assessment.gpus if gpu.uuid in engine.gpu_uuids]
        first = may_hang(engine, gpus) or check_model(engine, gpus)
        if first is not None:
            alone.append([first])
        elif (case := case_of(engine, gpus)) is not None:
            for chain in (list(changes_of(case)), list(disaggregate(case))):
                what = (engine.model, case.now.spec.name, *((each.kind, each.title) for each in chain))
                alike.setdefault(what, []).append(chain)
    return tuple(_ranked([*alone, *(_merged(chains) for chains in alike.values())])[:MOST])


def _merged(chains: Sequence[Sequence[Advice]]) -> list[Advice]:
    """One chain for engines that need the same, as replicas do; its numbers are of the first."""
    if len(chains) == 1:
        return list(chains[0])
    return [
        replace(
            same[0],
            engines=tuple(key for advice in same for key in advice.engines),
            gpus=tuple({gpu.uuid: gpu for advice in same for gpu in advice.gpus}.values()),
            reason=f"{same[0].reason} (Numbers of the first of {len(same)} engines.)",
            benefit_gpus=sum(advice.benefit_gpus for advice in same),
        )
        for same in zip(*chains, strict=True)
    ]


def _ranked(chains: Sequence[Sequence[Advice]]) -> list[Advice]:
    """By benefit; what builds on something never comes before it, so that a list cut short stays true."""
    keyed = [
        ((advice.kind not in FIRST, -at_most), advice)
        for chain in chains
        for advice, at_most in zip(
            chain, accumulate((advice.benefit_gpus for advice in chain), min), strict=True
        )
    ]
    return [advice for _, advice in sorted(keyed, key=lambda pair: pair[0])]
