"""A board with every kind of panel, whether or not one of ours has it now."""

from __future__ import annotations

import json

from dashboards.board import board
from dashboards.layout import banner, row
from dashboards.links import link_to
from dashboards.panels import (
    Column,
    Query,
    bar_gauge,
    heatmap,
    names,
    not_a_number,
    stat,
    state_timeline,
    steps,
    table,
    text,
    time_series,
)
from dashboards.queries import metric, one_hot_code
from dashboards.roofline import gpu_points, phase_points, roofline_chart, without_the_chart
from dashboards.units import RATIO
from dashboards.variables import variables
from tests.dashboards.boards import WRITTEN, Json, boards

power = metric("gpu_power_watts")
attained = metric("gpu_roof_attained_ratio")
tokens = metric("engine_generation_tokens_total")
ttft = metric("engine_time_to_first_token_seconds")
limiter = metric("engine_batch_limiter")
GPU, MODEL, SERVER = 'gpu=~"$gpu"', 'model=~"$model"', 'server=~"$server"'
AGENT = link_to("agent", "Its agent", instance="instance")
PHASES = {"traffic": 1, "kv_cache": 2}

_board = board(
    "specimen",
    "Specimen",
    "Every kind of panel.",
    banner(
        stat(
            "Power",
            Query(f"sum by (instance) ({power.where(GPU)})"),
            unit=power.unit,
            description=power.tells("Near the limit: heat."),
            links=[AGENT],
            mappings=[not_a_number("no traffic")],
            width=6,
        ),
        text("", "Words.", width=18),
    ),
    row(
        "Charts",
        time_series(
            "Tokens",
            Query(f"sum by (instance) ({tokens.rate(MODEL)})", "{{instance}}"),
            unit=tokens.rate_unit,
            description=tokens.tells("Compare replicas."),
            colours={"n1": "green"},
            stacked=True,
            legend_values=["lastNotNull", "max"],
            links=[AGENT],
        ),
        state_timeline(
            "Limiter",
            Query(
                one_hot_code(limiter, "limiter", PHASES, "instance, server", server="$server"), "{{server}}"
            ),
            mappings=[names({1: ("traffic", "green"), 2: ("KV cache", "orange")})],
            description=limiter.tells("Lift what it names."),
        ),
        heatmap("TTFT", ttft, MODEL, SERVER, description=ttft.tells("Two bands: two kinds of prompt.")),
        bar_gauge(
            "Attained",
            Query(f"max by (instance, gpu) ({attained.where(GPU)})", "{{instance}} {{gpu}}"),
            unit=RATIO,
            description=attained.tells("Low: something else holds it up."),
            thresholds=steps("red", (0.5, "green")),
        ),
        table(
            "GPUs",
            Column("Power", f"max by (instance, gpu) ({power.where(GPU)})", unit=power.unit, links=[AGENT]),
            Column("Attained", f"max by (instance, gpu) ({attained.where(GPU)})", unit=RATIO, width=90),
            labels={"instance": "Node", "gpu": "GPU"},
            sort_by="Power",
            links=[AGENT],
            description="All GPUs chosen. Look at the hottest.",
            width=24,
        ),
    ),
    row(
        "Rooflines",
        roofline_chart(
            "GPUs on the roofline",
            gpu_points(GPU),
            description="Each GPU as a point. Left of the ridge: a larger batch.",
            links=[AGENT],
        ),
        roofline_chart(
            "Phases on the roofline",
            phase_points(MODEL),
            description="Each phase as a point. Left of the ridge: a larger batch.",
            dtypes=["bf16"],
        ),
    ),
    without_the_chart(
        gpu_points(), Query(f"max by (instance, gpu) ({attained.where(GPU)})", "{{instance}} GPU {{gpu}}")
    ),
    variables=variables(many=["model"], one=["server", "gpu"]),
)


JUDGED = (*WRITTEN, "specimen")
"""The names of all that is held to the rules."""


def judged() -> dict[str, Json]:
    """Our boards and the specimen, by name; copies of one's own."""
    return {**boards(), "specimen": specimen()}


def specimen() -> Json:
    """The board as Grafana gets it; a copy of one's own."""
    content = json.loads(json.dumps(_board.to_json_data()))
    assert isinstance(content, dict)
    return content
