"""What must be settled first: an engine that hangs, or a model that is not the one that runs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.advice.model import Advice, GpuKey
from agent.advice.words import sentence
from agent.assessment import EngineAssessment, GpuAssessment
from agent.judgement.engine import hung_reason
from agent.roofline.dtypes import find_dtype
from agent.roofline.step import OVERPREDICTED_RATIO
from agent.roofline.workload import workload
from agent.units import render_number

AGREEMENT = (0.7, 1.5)
"""Modelled ÷ measured bytes outside of this: model, dtype or attribution is wrong."""
EXPLAINED = (0.85, 1.3)
"""Where agreement is as expected."""


def may_hang(engine: EngineAssessment, gpus: Sequence[GpuAssessment]) -> Advice | None:
    """Work, and no step for long."""
    reason = None
    if engine.up:
        alone = all(len(gpu.engines) <= 1 for gpu in gpus)
        reason = hung_reason(engine.window, gpus[0].window if gpus else None, alone=alone)
    if reason is None:
        return None
    return Advice(
        kind="engine_may_hang",
        engines=(engine.key,),
        gpus=GpuKey.each_of(gpus),
        title="See whether the engine hangs; if so, take a stack dump and restart it",
        reason=sentence(reason),
        evidence=gpus[0].window.evidence if gpus and gpus[0].window is not None else "none",
        wrong_when="it compiles, loads an adapter, or works through a very long prompt in one step",
    )


def check_model(engine: EngineAssessment, gpus: Sequence[GpuAssessment]) -> Advice | None:
    """A model that moves other bytes than were measured, or takes longer than the steps."""
    ratio, attribution = engine.agreement_ratio, engine.attribution
    overpredicted = (
        attribution is not None
        and attribution.residual_ratio is not None
        and attribution.residual_ratio < OVERPREDICTED_RATIO
    )
    if ratio is not None and not AGREEMENT[0] <= ratio <= AGREEMENT[1]:
        reason = f"The model says {render_number(ratio)} × the DRAM traffic that was measured."
    elif overpredicted and engine.up:
        reason = "The model needs more time than the steps took."
    else:
        return None
    guess = _fitting_configuration(engine)
    return Advice(
        kind="check_model_configuration",
        engines=(engine.key,),
        gpus=GpuKey.each_of(gpus),
        title="Check the model, its dtypes, tensor_parallel and GPUs in the configuration",
        reason=reason + (f" It would fit with {guess}." if guess is not None else ""),
        evidence="none" if ratio is None or not gpus else gpus[0].verdict.evidence,
        wrong_when="another process uses the same GPU, or the engine skips work that is not known here",
    )


def _fitting_configuration(engine: EngineAssessment) -> str | None:
    """Other configurations under which modelled and measured bytes would agree, in words."""
    ratio, served, traffic = engine.agreement_ratio, engine.served, engine.traffic
    if ratio is None or served is None or traffic is None or engine.work is None or engine.work.bytes <= 0:
        return None
    others = [
        (f"weights in {dtype.name}", replace(served, weight_dtype=dtype))
        for name in ("bf16", "fp8", "int4")
        if (dtype := find_dtype(name)) is not None and dtype != served.weight_dtype
    ]
    others += [
        (f"tensor_parallel {ranks}", served.over(ranks))
        for ranks in (1, 2, 4, 8)
        if ranks != served.tensor_parallel
    ]
    per_gpu = engine.work.bytes / served.ranks
    agreements = (
        (words, ratio * workload(model, traffic.work).bytes / model.ranks / per_gpu)
        for words, model in others
    )
    fitting = [words for words, agreement in agreements if EXPLAINED[0] <= agreement <= EXPLAINED[1]]
    return " or ".join(fitting) or None
