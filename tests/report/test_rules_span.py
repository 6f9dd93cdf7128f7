"""What the real rules record of the real agent's pages, against what really happened on the nodes."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping

import pytest

from rules.recordings import RECORDED
from tests.report.raw_span import (
    FROM_COUNTERS,
    FROM_WORK,
    NODES,
    STEP_SECONDS,
    USD_PER_HOUR,
    RawNode,
    Sample,
    Span,
    Tile,
)
from tests.report.truth import Amounts
from tests.rig.programs import Program

WITHIN = 0.01
"""Each increase is extrapolated to whole five minutes by itself, from pages 15 s apart."""
FEW = 3
"""Requests that may be on the other side of a page: where there are few, 1 % of them is less."""
BY_REQUEST = ("requests", "prefill_tokens", "cached_prompt_tokens", "preemptions")
"""What comes with whole requests, and not step by step."""


def _tiles(span: Span) -> Iterator[Tile]:
    for node in NODES:
        for state in node.steady:
            yield from span.tiles(node.kind, state)


def _of_kind(span: Span, node: RawNode) -> tuple[Tile, ...]:
    return tuple(tile for tile in _tiles(span) if tile.kind == node.kind)


def _recorded(tile: Tile, level: str, name: str, **labels: str) -> float:
    """Of this name, with these labels; that nothing has them is a failure."""
    series = tile.node if level == "node" else tile.model
    found = [
        value
        for (record, given), value in series.items()
        if record == f"roofline:{level}:{name}:increase5m" and labels.items() <= dict(given).items()
    ]
    assert found, f"nothing is recorded as {name} {labels} of {tile.kind}"
    return sum(found)


each_node = pytest.mark.parametrize("node", NODES, ids=lambda node: node.kind)


@each_node
def test_gpus_seconds_are_recorded_as_what_bounded_them(span: Span, node: RawNode) -> None:
    """Each class has its seconds, and no other has any."""
    for tile in _of_kind(span, node):
        recorded = {
            dict(labels)["bottleneck"]: value
            for (record, labels), value in tile.node.items()
            if record == "roofline:node:gpu_bottleneck_seconds:increase5m" and value > 0
        }
        assert recorded == pytest.approx(tile.gpus.seconds_by_class, rel=WITHIN)
        observed = _recorded(tile, "node", "gpu_observed_seconds")
        assert observed == pytest.approx(tile.gpu_count * STEP_SECONDS, rel=WITHIN)
        assert sum(recorded.values()) == pytest.approx(observed)


@each_node
def test_money_is_price_times_hours_and_is_conserved(span: Span, node: RawNode) -> None:
    """By class, idle, and what no engine held; engines and the rest are what was paid."""
    for tile in _of_kind(span, node):
        hours = tile.gpu_count * STEP_SECONDS / 3600
        paid = USD_PER_HOUR[node.scenario.gpus[0].part.name] * hours
        assert tile.gpus.paid_usd == pytest.approx(paid)
        assert _recorded(tile, "node", "gpu_cost_usd") == pytest.approx(paid, rel=WITHIN)
        by_class = {
            dict(labels)["bottleneck"]: value
            for (record, labels), value in tile.node.items()
            if record == "roofline:node:gpu_bottleneck_cost_usd:increase5m" and value > 0
        }
        assert by_class == pytest.approx(tile.gpus.usd_by_class, rel=WITHIN)
        idle = tile.gpus.usd_by_class.get("idle", 0.0)
        assert _recorded(tile, "node", "gpu_idle_cost_usd") == pytest.approx(idle, rel=WITHIN)
        unattributed = _recorded(tile, "node", "gpu_unattributed_cost_usd")
        assert unattributed == pytest.approx(tile.gpus.unattributed_usd, rel=WITHIN)
        engines = _recorded(tile, "model", "engine_cost_usd", location="local")
        assert engines + unattributed == pytest.approx(paid, rel=WITHIN)


@each_node
def test_idle_time_is_held_where_somebody_has_the_gpu(span: Span, node: RawNode) -> None:
    """A GPU without engine or process is idle, and held by nobody."""
    for tile in _of_kind(span, node):
        held = _recorded(tile, "node", "gpu_idle_held_seconds")
        assert held == pytest.approx(tile.gpus.idle_held_seconds, rel=WITHIN)


@each_node
def test_energy_and_held_clocks_are_the_simulators_own(span: Span, node: RawNode) -> None:
    for tile in _of_kind(span, node):
        energy = _recorded(tile, "node", "gpu_energy_joules")
        assert energy == pytest.approx(tile.gpus.energy_joules, rel=WITHIN)
        limited = {
            dict(labels)["reason"]: value
            for (record, labels), value in tile.node.items()
            if record == "roofline:node:gpu_clock_limited_seconds:increase5m" and value > 0
        }
        assert limited == pytest.approx(tile.gpus.clock_limited_seconds, rel=WITHIN)
        assert bool(limited) == (node.kind == "throttled")


def test_each_fault_is_counted_once(span: Span) -> None:
    """Where an increase would see none: neither step has a scrape before it and one after it."""
    node = next(node for node in NODES if node.scenario.faults)
    counted: defaultdict[str, float] = defaultdict(float)
    for sample in span.samples:
        of_node = sample.labels.get("instance") == node.instance and sample.labels["cluster"] == node.cluster
        if of_node and sample.name in (
            "roofline:node:gpu_xid_errors:increase5m",
            "roofline:node:gpu_ecc_errors:increase5m",
        ):
            counted[sample.labels.get("xid") or sample.labels["severity"]] += sample.value
    assert {which: count for which, count in counted.items() if count} == {"48": 1, "uncorrected": 1}


@each_node
def test_what_engines_did_is_recorded(span: Span, node: RawNode) -> None:
    """Tokens, requests, steps, preemptions: over all steady steps, as the simulator counted them."""
    tiles = _of_kind(span, node)
    for name in (*FROM_WORK, "prefill_tokens"):
        really = sum(engine.of(name) for tile in tiles for engine in tile.engines.values())
        recorded = sum(_recorded(tile, "model", f"engine_{name}") for tile in tiles)
        requests = sum(engine.requests for tile in tiles for engine in tile.engines.values())
        apart = FEW * really / max(requests, 1.0) if name in BY_REQUEST else 0.0
        assert recorded == pytest.approx(really, rel=WITHIN, abs=apart), name


@each_node
def test_what_only_agents_count_is_recorded(span: Span, node: RawNode) -> None:
    """FLOPs, bytes, energy, money by phase, objectives: as the agent's own counters rose."""
    tiles = _of_kind(span, node)
    really = Amounts()
    recorded = Amounts()
    names = {
        what: (counter, further)
        for counter, (what, *further) in FROM_COUNTERS.items()
        if what not in BY_REQUEST
    }
    for tile in tiles:
        for engine in tile.engines.values():
            really.add({key: amount for key, amount in engine.items() if key[0] in names})
        for key in {key for engine in tile.engines.values() for key in engine if key[0] in names}:
            counter, further = names[key[0]]
            record = counter.removeprefix("roofline_").removesuffix("_total")
            labels = dict(zip(further, key[1:], strict=True))
            recorded.add({key: _recorded(tile, "model", record, **labels)})
    # What is nearly nothing of a sum says nothing.
    least = {
        what: max(amount for key, amount in really.items() if key[0] == what) / 100
        for what in {key[0] for key in really}
    }
    for key, amount in really.items():
        assert recorded[key] == pytest.approx(amount, rel=WITHIN, abs=least[key[0]]), key


@each_node
def test_gpu_time_of_models_is_what_bounded_their_gpus(span: Span, node: RawNode) -> None:
    for tile in _of_kind(span, node):
        really: defaultdict[str, float] = defaultdict(float)
        for engine in tile.engines.values():
            for name, seconds in engine.seconds_by_class.items():
                really[name] += seconds
        recorded = {
            dict(labels)["bottleneck"]: value
            for (record, labels), value in tile.model.items()
            if record == "roofline:model:gpu_bottleneck_seconds:increase5m" and value > 0
        }
        assert recorded == pytest.approx(dict(really), rel=WITHIN)


def test_models_are_recorded_with_what_serves_them(span: Span) -> None:
    """Software, namespace and part come from two info metrics; each engine has all three."""
    told = {
        (sample.labels["cluster"], sample.labels["workload_namespace"]): (
            sample.labels["model"],
            sample.labels["engine"],
            sample.labels["part"],
        )
        for sample in span.samples
        if sample.name == "roofline:model:engine_generation_tokens:increase5m"
    }
    assert told == {
        (node.cluster, node.namespace): next(iter(_of_kind(span, node)[0].engines)) for node in NODES
    }


def test_clusters_are_the_sums_of_their_nodes(span: Span) -> None:
    """At every instant and for every series, although nodes of both clusters have the same names."""

    def summed(level: str) -> Mapping[tuple[object, ...], float]:
        sums: defaultdict[tuple[object, ...], float] = defaultdict(float)
        for sample in span.samples:
            if sample.level == level:
                labels = {name: value for name, value in sample.labels.items() if name != "instance"}
                sums[sample.name.split(":")[2], sample.at, *sorted(labels.items())] += sample.value
        return sums

    clusters = summed("cluster")
    assert len(clusters) > 400
    assert clusters == pytest.approx(summed("node"))


def test_everything_is_recorded_that_the_rules_say(span: Span) -> None:
    """But for what no node here has: guesses, GPUs on other nodes, MIG."""
    recorded = {sample.name for sample in span.samples}
    assert set(RECORDED) - recorded == {
        name
        for name in RECORDED
        if "draft_tokens" in name or ":ratio" in name or name == "roofline:node:agent:info"
    }
    for sample in span.samples:
        assert set(sample.labels) <= set(RECORDED[sample.name])


def test_tiles_are_in_the_database(span: Span, span_in_prometheus: Program) -> None:
    """What tests of the month rest on is what a Prometheus answers."""
    tile = span.tiles("chat", "busy")[0]
    node = next(node for node in NODES if node.kind == "chat")
    sample = next(_generation(span, node))
    answer = span_in_prometheus.get(
        "/api/v1/query",
        query=f'{sample.name}{{workload_namespace="{node.namespace}"}}',
        time=f"{sample.at:.3f}",
    ).json()["data"]["result"]
    assert [float(series["value"][1]) for series in answer] == [sample.value]
    assert _recorded(tile, "model", "engine_generation_tokens") > 100_000


def _generation(span: Span, node: RawNode) -> Iterator[Sample]:
    return (
        sample
        for sample in span.samples
        if sample.name == "roofline:model:engine_generation_tokens:increase5m"
        and sample.labels["workload_namespace"] == node.namespace
    )
