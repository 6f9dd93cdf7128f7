"""What the classes and limiters are called and coloured, the same on every board."""

from __future__ import annotations

from collections.abc import Mapping

from agent.roofline.bottleneck import BOTTLENECKS
from agent.roofline.kv_cache import LIMITERS
from dashboards.panels import names

BOTTLENECK_COLOURS: Mapping[str, str] = {
    "memory_bandwidth": "orange",
    "compute": "green",
    "interconnect": "purple",
    "kernel_latency": "yellow",
    "host": "blue",
    "idle": "#8e8e8e",
    "unknown": "red",
}
COMPONENT_COLOURS: Mapping[str, str] = {
    **{name: colour for name, colour in BOTTLENECK_COLOURS.items() if name not in ("idle", "unknown")},
    "unexplained": "red",
    "neither": "#8e8e8e",
}
"""Of an engine's step, in the same words."""
LIMITER_COLOURS: Mapping[str, str] = {
    "traffic": "#8e8e8e",
    "kv_cache": "orange",
    "max_num_seqs": "purple",
    "unknown": "red",
}

BOTTLENECK_CODES: Mapping[str, int] = {name: code for code, name in enumerate(BOTTLENECKS, start=1)}
LIMITER_CODES: Mapping[str, int] = {name: code for code, name in enumerate(LIMITERS, start=1)}

BOTTLENECK_NAMES = names(
    {code: (name.replace("_", " "), BOTTLENECK_COLOURS[name]) for name, code in BOTTLENECK_CODES.items()}
)
LIMITER_NAMES = names(
    {code: (name.replace("_", " "), LIMITER_COLOURS[name]) for name, code in LIMITER_CODES.items()}
)
