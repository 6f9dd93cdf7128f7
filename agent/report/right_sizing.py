"""What models could be served by, for the traffic that they had: planned for their busiest hour.

Everything is compared with what was paid, for the hours that were recorded, and is at work all of them: GPUs
that come and go with the day would save more. Savings below a tenth are not proposed, for the model errs by
as much.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from agent.advice.changes import READABLE_SECONDS, RENTABLE
from agent.errors import AgentError
from agent.planning.mix import Latency, LiveMix, Serving
from agent.planning.sizing import BATCH_MAX, BUSY_RATIO_MAX, Sizing, forecast
from agent.report.document import (
    Alternative,
    AlternativeKind,
    Confidence,
    Quality,
    RightSizing,
    Service,
)
from agent.report.measured import PER_HOUR, Measured, hourly_coverage, labels_of, ratio, together
from agent.report.period import HOUR_SECONDS, instant
from agent.report.positions import serving_of
from agent.report.prices import ENOUGH_PRICED
from agent.report.prices import NEEDED as NEEDED_FOR_PRICES
from agent.report.questions import OF_A_SERVICE
from agent.report.services import priced_ratio
from agent.roofline.gpus import GpuSpec, find_gpu, is_part_of_one
from agent.roofline.planner import Plan, SplitError
from agent.units import render_number, render_percent

MOST_SERVICES = 20
"""The dearest; of the others there is little to save."""
LEAST_SAVED = 0.1
SLOWER_MAX = 2.0
"""Times the present time to a token, unless the first still comes soon and others faster than one reads."""
FIRST_TOKEN_SECONDS = 1.0
LEAST_REPLICAS = 2
"""Where there were two, one more must be there when one fails."""
MOST_HOST = 0.9
"""Of a step: more says that the model of it is wrong."""
FEW_REQUESTS = 1000
ENOUGH_COVERAGE = 0.9
RECORDED_OF_HOUR = 0.5
"""Of an hour with less, how busy it was is a guess."""
NEEDED = (
    "hourly_engine_requests",
    "engine_step_seconds",
    "engines",
    "max_num_seqs",
    "engine_cost_usd",
    "model_gpu_bottleneck_seconds",
    "engine_prefill_tokens",
    "engine_cached_prompt_tokens",
    "engine_generation_tokens",
    "engine_requests",
    "recorded",
)
"""What a service is sized by. Where a piece is missing, the busiest hour may be in it."""
MEASURED = "measured"
"""The origin of a price that is paid in the same cluster."""
_NO_LATENCY = Latency(p50=None, p99=None)


def right_sizing(
    measured: Measured,
    services: Sequence[Service],
    quality: Quality,
    configs: Mapping[str, Mapping[str, Any]],
) -> tuple[RightSizing, ...]:
    """Of the dearest services that had traffic; `configs` are documents of models that no catalogue has."""
    doubted = {row.key for row in quality.disagreements}
    dearest = services[:MOST_SERVICES]
    coverage = {
        cluster: hourly_coverage(measured.now, cluster=cluster)
        for cluster in {row.cluster for row in dearest}
    }
    rows = []
    for service in dearest:
        if service.generation_tokens <= 0:
            continue
        is_doubted = service.key in doubted
        rows.append(
            _Case(
                measured=measured,
                service=service,
                coverage=coverage[service.cluster],
                config=configs.get(service.model),
                confidence=_confidence(
                    service,
                    sum(coverage[service.cluster].values()) / measured.span.hours,
                    is_doubted=is_doubted,
                ),
            ).sized()
        )
    return tuple(
        sorted(
            rows, key=lambda row: -max((each.savings_usd or 0.0 for each in row.alternatives), default=0.0)
        )
    )


def _confidence(service: Service, coverage: float, *, is_doubted: bool) -> Confidence:
    little = coverage < ENOUGH_COVERAGE or service.requests < FEW_REQUESTS
    return "low" if is_doubted or little else "estimate"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Case:
    """One service, and what is known of it."""

    measured: Measured
    service: Service
    coverage: Mapping[int, float]
    """The share of each hour that was recorded of its cluster; of another it may be more."""
    config: Mapping[str, Any] | None
    confidence: Confidence

    @property
    def paid(self) -> float | None:
        """For all its GPUs."""
        return together(self.service.usd, self.service.remote_usd)

    @property
    def own_price(self) -> float | None:
        """Of an hour of its own GPUs, as it paid itself."""
        return ratio(self.service.usd, self.service.gpu_hours) or None

    @property
    def gpus(self) -> float:
        """Held on average; those on other nodes by what they are taken to cost."""
        row = self.service
        return row.gpu_hours / self._recorded_hours * (1 + (ratio(row.remote_usd, row.usd) or 0.0))

    def sized(self) -> RightSizing:
        """With alternatives, or with the reason for which there are none."""
        row, (busiest, at) = self.service, self._busiest_hour()
        alternatives: tuple[Alternative, ...] = ()
        refused = self._refusal(busiest)
        if not refused:
            try:
                alternatives = tuple(
                    sorted(
                        self._alternatives(busiest, at),
                        key=lambda each: (each.confidence == "low", -(each.savings_usd or 0.0)),
                    )
                )
            except AgentError as error:
                refused = f"{error}: give its configuration, --model '{row.model}=config.json'"
            else:
                if not alternatives:
                    refused = "nothing would save a tenth of what it costs"
        return RightSizing(
            cluster=row.cluster,
            model=row.model,
            engine=row.engine,
            part=row.part,
            namespace=row.namespace,
            gpus=self.gpus,
            usd=self.paid,
            busiest_hour_requests_per_second=busiest,
            mean_requests_per_second=row.requests / self._recorded_seconds,
            prompt_tokens=_each(row.prefill_tokens + row.cached_prompt_tokens, row.requests),
            output_tokens=_each(row.generation_tokens, row.requests),
            refused=refused,
            alternatives=alternatives,
        )

    def _refusal(self, busiest: float) -> str:
        row = self.service
        if self.measured.now.lack(*NEEDED, *NEEDED_FOR_PRICES):
            return "a part of what it is sized by was not answered"
        if not self.paid or self.own_price is None:
            return "what it cost is not known"
        priced = priced_ratio(self.measured, row.key)
        if priced < ENOUGH_PRICED:
            return f"what it cost is known for {render_percent(priced)} of its GPU hours at most"
        if is_part_of_one(row.part):
            return "it runs on MIG instances, and only whole GPUs are planned for"
        if find_gpu(row.part) is None:
            return "its GPU is not in the catalogue"
        if row.requests <= 0:
            return "its requests are not counted"
        if busiest <= 0:
            return "no hour in which it had requests was recorded by half"
        if not self._serving.tensor_parallel:
            return "how it is divided over GPUs was not recorded"
        return ""

    @property
    def _recorded_hours(self) -> float:
        return max(sum(self.coverage.values()), 1 / PER_HOUR)

    @property
    def _recorded_seconds(self) -> float:
        return self._recorded_hours * HOUR_SECONDS

    def _busiest_hour(self) -> tuple[float, int]:
        """Requests a second of what was recorded of it, and when it began."""
        hours = self.measured.now["hourly_engine_requests"].steps(*OF_A_SERVICE).get(self.service.key, {})
        rates = {
            at: requests / (self.coverage[at] * HOUR_SECONDS)
            for at, requests in hours.items()
            if self.coverage.get(at, 0.0) >= RECORDED_OF_HOUR
        }
        at, most = max(rates.items(), key=lambda hour: hour[1], default=(self.measured.span.start, 0.0))
        return most, at

    @property
    def _serving(self) -> Serving:
        split = serving_of(self.measured.now, self.service.key)
        return Serving(
            model=self.service.model,
            engine=self.service.engine,
            part=self.service.part,
            tensor_parallel=split.get("tensor_parallel", ""),
            pipeline_parallel=int(split.get("pipeline_parallel") or 1),
            weight_dtype=split.get("weight_dtype", ""),
            kv_dtype=split.get("kv_dtype", ""),
        )

    @property
    def _host_ratio(self) -> float:
        """Of the engine's steps, what the GPU does not account for: a replica can do that much less."""
        seconds = self.measured.now["engine_step_seconds"]
        labels = labels_of(self.service.key)
        lost = sum(seconds.amount(component=component, **labels) for component in ("host", "unexplained"))
        return min(ratio(lost, seconds.value(**labels)) or 0.0, MOST_HOST)

    def _mix(self, requests_per_second: float) -> LiveMix:
        """The mean request of the period, as often as that."""
        row, serving = self.service, self._serving
        prompt = (row.prefill_tokens + row.cached_prompt_tokens) / row.requests
        output = row.generation_tokens / row.requests
        engines = self.measured.now["engines"].amount(**labels_of(self.service.key))
        paid = self.paid
        return LiveMix(
            serving=serving,
            replicas=engines * HOUR_SECONDS / PER_HOUR / self._recorded_seconds,
            gpus=self.gpus,
            requests_per_second=requests_per_second,
            prefill_tokens_per_second=requests_per_second * row.prefill_tokens / row.requests,
            cached_ratio=row.cached_prompt_tokens / (row.requests * prompt) if prompt else 0.0,
            generation_tokens_per_second=requests_per_second * output,
            prompt_tokens=prompt,
            output_tokens=output,
            context=prompt + output / 2,
            decode_batch=row.batch.mean,
            max_num_seqs=row.batch.max_num_seqs,
            usd_per_second=None if paid is None else paid / self._recorded_seconds,
            ttft=_NO_LATENCY,
            tpot=_NO_LATENCY,
        )

    # --- alternatives ---

    def _alternatives(self, busiest: float, at: int) -> Iterator[Alternative]:
        mix = self._mix(busiest / (1 - self._host_ratio))
        present = forecast(mix, [], config=self.config).today
        host = self._host_ratio
        because = (
            f"Sized for the busiest hour ({instant(at):%Y-%m-%d %H:00} UTC, {render_number(busiest)} "
            f"requests/s) at {render_percent(BUSY_RATIO_MAX)} of what the arithmetic gives, for all "
            f"{self._recorded_hours:.0f} recorded hours. Of a step {render_percent(host)} is taken "
            "to be the host's, as it was. Minutes may be busier than their hour: load-test one replica "
            "before."
        )
        fewer = self._size(mix, {})
        yield from self._worth("fewer_replicas", fewer, present, because, than=None)
        least = self._usd(fewer)
        others: tuple[tuple[AlternativeKind, Sizing | None, str], ...] = (
            ("larger_batch", self._with_larger_batch(mix), ""),
            ("quantized", self._quantized(mix), " Whether answers stay good enough only an evaluation says."),
            (
                "other_gpu",
                self._on_other_gpu(mix, present),
                " Prices of suppliers differ by a factor of two.",
            ),
        )
        for kind, sizing, further in others:
            yield from self._worth(kind, sizing, present, because + further, than=least)
        yield from self._disaggregated(mix, fewer, present, because)

    def _size(
        self, mix: LiveMix, setup: Mapping[str, Any], *, batch_limit: int | None = None
    ) -> Sizing | None:
        """`None` where it cannot be served so."""
        part = setup.get("gpu", self.service.part)
        spec = find_gpu(part)
        assert spec is not None
        price, _ = self._price(spec)
        limits = () if batch_limit is None else (batch_limit,)
        try:
            (sizing,) = forecast(
                mix,
                [{**setup, "usd_per_hour": price}],
                batch_limits=limits,
                least_replicas=_least_replicas(mix),
                config=self.config,
            ).sizings
        except SplitError:
            return None
        return sizing if sizing.replicas is not None else None

    def _with_larger_batch(self, mix: LiveMix) -> Sizing | None:
        allowed = self.service.batch.max_num_seqs
        return None if allowed is None or allowed >= BATCH_MAX else self._size(mix, {}, batch_limit=BATCH_MAX)

    def _quantized(self, mix: LiveMix) -> Sizing | None:
        return self._size(mix, {"weight_dtype": "fp8"}) if mix.serving.weight_dtype == "bf16" else None

    def _on_other_gpu(self, mix: LiveMix, present: Plan | None) -> Sizing | None:
        """The least dear of those that hold the model and are quick enough."""
        own = find_gpu(self.service.part)
        first, between = FIRST_TOKEN_SECONDS, READABLE_SECONDS
        if present is not None:
            first = max(first, SLOWER_MAX * present.ttft.expected)
            between = max(between, SLOWER_MAX * present.tpot.expected)
        best, least = None, math.inf
        for spec in RENTABLE:
            if own is not None and spec.name == own.name:
                continue
            price, _ = self._price(spec)
            for ranks in (1, 2, 4, 8):
                if (price or 0.0) * ranks * _least_replicas(mix) * self._recorded_hours >= least:
                    break
                sizing = self._size(mix, {"gpu": spec.name, "tensor_parallel": ranks, "pipeline_parallel": 1})
                usd = self._usd(sizing)
                if sizing is None or usd is None or usd >= least:
                    continue
                if sizing.plan.ttft.expected <= first and sizing.tpot_seconds <= between:
                    best, least = sizing, usd
        return best

    def _disaggregated(
        self, mix: LiveMix, fewer: Sizing | None, present: Plan | None, because: str
    ) -> Iterator[Alternative]:
        """Prefill and decode on GPUs of their own: for steadier tokens, where it costs no more."""
        if fewer is None or fewer.prefill_ratio < 0.2:
            return
        limit = min(int(mix.max_num_seqs or BATCH_MAX), fewer.plan.kv_limited_batch)
        decoding = fewer.plan.vary(batch=limit)
        busy_prefill = mix.requests_per_second * fewer.plan.ttft.expected
        busy_decode = mix.generation_tokens_per_second * decoding.tpot.expected / limit
        replicas = sum(-int(-busy / BUSY_RATIO_MAX // 1) for busy in (busy_prefill, busy_decode))
        apart = replace(fewer, plan=decoding, replicas=replicas, prefill_ratio=0.0)
        usd, together_usd = self._usd(apart), self._usd(fewer)
        if usd is None or together_usd is None or usd > together_usd * (1 + LEAST_SAVED):
            return
        yield from self._worth(
            "disaggregated",
            apart,
            present,
            f"{because} Moving the cache between the two is not in it.",
            than=None,
        )

    def _worth(
        self,
        kind: AlternativeKind,
        sizing: Sizing | None,
        present: Plan | None,
        because: str,
        *,
        than: float | None,
    ) -> Iterator[Alternative]:
        """The alternative, where it saves enough: of what was paid, and of what `than` would cost."""
        paid, usd = self.paid, None if sizing is None else self._usd(sizing)
        if sizing is None or sizing.gpus is None or usd is None or not paid:
            return
        if usd > paid * (1 - LEAST_SAVED) or (than is not None and usd > than * (1 - LEAST_SAVED)):
            return
        plan = sizing.plan
        price, origin = self._price(plan.spec)
        yield Alternative(
            kind=kind,
            what=_in_words(kind, sizing, self.gpus),
            gpu=plan.spec.name,
            gpus=sizing.gpus,
            weight_dtype=plan.model.weight_dtype.name,
            batch=plan.point.batch,
            usd_per_gpu_hour=price,
            price_origin=origin,
            usd=usd,
            savings_usd=paid - usd,
            savings_ratio=(paid - usd) / paid,
            token_seconds=sizing.tpot_seconds,
            present_token_seconds=None if present is None else present.tpot.expected,
            confidence="low" if origin != MEASURED else self.confidence,
            because=because,
        )

    def _price(self, spec: GpuSpec) -> tuple[float | None, str]:
        """Of an hour of a GPU: what it pays, or others in its cluster, or elsewhere; else the usual."""
        if spec == find_gpu(self.service.part):
            return self.own_price, MEASURED
        prices = self.measured.prices
        here = self.service.cluster
        for part in sorted(prices.clusters.get(here, ())):
            if find_gpu(part) == spec:
                return prices.of_part(part, cluster=here), MEASURED
        for part in sorted({part for parts in prices.clusters.values() for part in parts}):
            if find_gpu(part) == spec:
                return prices.of_part(part), "paid in other clusters"
        return spec.typical_usd_per_hour, spec.price_origin

    def _usd(self, sizing: Sizing | None) -> float | None:
        """For the hours that were recorded."""
        if sizing is None or sizing.gpus is None or sizing.plan.usd_per_hour is None:
            return None
        return sizing.gpus * sizing.plan.usd_per_hour * self._recorded_hours


def _in_words(kind: AlternativeKind, sizing: Sizing, gpus: float) -> str:
    plan = sizing.plan
    size = f"{sizing.gpus} × {plan.spec.name}"
    if plan.gpus > 1:
        size += f", {plan.gpus} to a replica"
    begin = {
        "fewer_replicas": f"Serve it on {size}, instead of {render_number(gpus)} GPUs",
        "larger_batch": f"Allow a batch of {BATCH_MAX} (max_num_seqs), which needs {size}",
        "quantized": f"Serve it in fp8 on {size}",
        "other_gpu": f"Serve it on {size}",
        "disaggregated": f"Prefill and decode apart, on {size} together",
    }[kind]
    return f"{begin}; decode batch {plan.point.batch}."


def _least_replicas(mix: LiveMix) -> int:
    return LEAST_REPLICAS if mix.replicas > 1.5 else 1


def _each(amount: float, requests: float) -> float:
    return amount / requests if requests else 0.0
