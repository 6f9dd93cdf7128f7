"""From the options to what is written."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from agent.errors import AgentError, UnknownModelError
from agent.planning.lesson import lesson_record, lesson_report
from agent.planning.options import SINCE, refuse_without_effect
from agent.planning.points import config_of, plans_of_file, plans_of_options, setups
from agent.planning.records import live_record, record_of, render_csv, render_json
from agent.planning.report import report, throughput
from agent.planning.sizing import forecast
from agent.roofline.planner import PHASES, Plan
from agent.roofline.simplified import cost_rows, decode_rows


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """One answer in all its forms."""

    plans: Sequence[Plan]
    records: Sequence[Mapping[str, Any]]
    lines: Callable[[], Iterable[str]]


def run(options: argparse.Namespace) -> int:
    """Evaluate what was asked and write it; raises `AgentError` for what is not known."""
    refuse_without_effect(options)
    answer = _answer(options)
    if options.picture is not None:
        from agent.planning.picture import draw

        try:
            options.picture.write_text(draw(answer.plans), encoding="utf-8")
        except OSError as error:
            raise AgentError(f"{options.picture}: cannot be written: {error.strerror}") from error
    if options.format == "json":
        sys.stdout.write(render_json(answer.records))
    elif options.format == "csv":
        sys.stdout.write(render_csv(answer.records))
    else:
        sys.stdout.write("\n".join(answer.lines()) + "\n")
    return 0


def _answer(options: argparse.Namespace) -> _Answer:
    if options.simplified:
        return _of_the_lesson()
    if options.traffic is not None:
        return _of_traffic(options)
    if options.points is not None:
        plans = plans_of_file(options.points)
        return _Answer(
            plans=plans, records=[record_of(each) for each in plans], lines=lambda: throughput(plans)
        )
    plans = plans_of_options(options)
    return _Answer(plans=plans, records=[record_of(each) for each in plans], lines=lambda: report(plans))


def _of_the_lesson() -> _Answer:
    rows = (*decode_rows(), *cost_rows())
    return _Answer(
        plans=[row.exact for row in rows],
        records=[lesson_record(row) for row in rows],
        lines=lesson_report,
    )


def _of_traffic(options: argparse.Namespace) -> _Answer:
    # The network and its libraries are for this alone.
    from agent.planning.live_mix import fetch_mixes
    from agent.sources.prometheus import TOKEN_VARIABLE, Access, PrometheusServer

    named = [model.partition("=") for model in options.model or ()]
    configs = {name: config_of(path) for name, _, path in named if path}
    access = Access(bearer_token=os.environ.get(TOKEN_VARIABLE))
    server = PrometheusServer(options.traffic, access=access)
    try:
        mixes = fetch_mixes(server, since=options.since or SINCE, models=[name for name, _, _ in named])
    finally:
        server.close()
    forecasts, unknown = [], []
    for mix in mixes:
        config = next((config for name, config in configs.items() if mix.serving.is_named(name)), None)
        try:
            forecasts.append(
                forecast(mix, list(setups(options)), batch_limits=options.batch or (), config=config)
            )
        except UnknownModelError as error:
            unknown.append(f"{error}: --model '{mix.serving.model}=PATH'")
    if not forecasts:
        raise AgentError("; ".join(unknown))
    for problem in unknown:
        sys.stderr.write(f"roofline-agent: left out: {problem}\n")
    planned = [
        (each, sizing, sizing.plan.vary(phase=phase))
        for each in forecasts
        for sizing in each.sizings
        for phase in options.phase or PHASES
    ]
    plans = [plan for _, _, plan in planned]
    return _Answer(
        plans=plans,
        records=[live_record(each, sizing, plan) for each, sizing, plan in planned],
        lines=lambda: report(plans, forecasts),
    )
