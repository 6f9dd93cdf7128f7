"""THE TABLE as a page of documentation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from agent.metrics import ENGINE_METRICS, GPU_METRICS, HEALTH_METRICS, Metric

_SECTIONS: tuple[tuple[str, str, Sequence[Metric]], ...] = (
    (
        "GPUs",
        'Labels `gpu` (NVML\'s index) and `uuid`. `gpu_*` with `evidence="modelled"` is the part of an '
        "engine's work that falls on that GPU.",
        GPU_METRICS,
    ),
    (
        "Engines",
        "Labels `engine` (the software), `server` (host:port), `rank` (data-parallel rank) and `model` (the "
        "name it is served under). `engine_*` is the whole replica, over all its GPUs.",
        ENGINE_METRICS,
    ),
    (
        "The agent itself",
        "These never disappear. Beside them stand the client library's `process_*`: CPU, memory and file "
        "descriptors of the agent.",
        HEALTH_METRICS,
    ),
)


def render_metrics_document() -> str:
    """All metrics by section, in Markdown."""
    return "\n".join(_lines()) + "\n"


def _lines() -> Iterator[str]:
    yield "# Metrics"
    yield ""
    yield "Generated from the table in `agent/metrics.py`; `make generate` rewrites it."
    yield ""
    yield "A value that cannot be told is left out; 0 is a measurement. Counters are the agent's own: they"
    yield "start at 0 when it does, take each increase of an engine's counter, and never fall when the engine"
    yield "restarts. Divide `rate()` by `rate()` for a ratio over any time; gauges are means over the window."
    for title, text, metrics in _SECTIONS:
        yield ""
        yield f"## {title}"
        yield ""
        yield text
        yield ""
        yield "| metric | kind | unit | labels beyond these | help | from |"
        yield "|---|---|---|---|---|---|"
        common = metrics[0].labels
        for metric in metrics:
            labels = ", ".join(f"`{label}`" for label in metric.labels if label not in common)
            if metrics is HEALTH_METRICS:
                labels = ", ".join(f"`{label}`" for label in metric.labels)
            cells = (f"`{metric.full_name}`", metric.kind, metric.unit, labels, metric.help, metric.origin)
            yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"
