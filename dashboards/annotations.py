"""What happened, drawn over every chart of a board.

Where a metric is a timestamp, it is the event's own time, to the second, however long the agent or its
page was away; else the event lasts for as long as the query holds.
"""

from __future__ import annotations

from typing import Any

from dashboards.queries import Quantity, metric, milliseconds
from dashboards.variables import DATASOURCE

Json = dict[str, Any]


def annotation(
    name: str, expr: str, *, text: str, colour: str, exact: bool = False, shown: bool = True
) -> Json:
    """One kind of event; `exact` where the query's value is the event's time in milliseconds."""
    return {
        "name": name,
        "datasource": DATASOURCE,
        "enable": shown,
        "hide": False,
        "iconColor": colour,
        "target": {"expr": expr, "refId": "Anno", "interval": ""},
        "titleFormat": name,
        "textFormat": text,
        "tagKeys": "",
        "useValueForTime": exact,
    }


def at_timestamp(name: str, quantity: Quantity, *, text: str, colour: str, shown: bool = True) -> Json:
    """An event at the time that a metric says, if that is in view."""
    expr = f"{milliseconds(quantity.where())} > $__from"
    return annotation(name, expr, text=text, colour=colour, exact=True, shown=shown)


ENGINE_RESTART = at_timestamp(
    "Engine restart",
    metric("engine_start_time_seconds"),
    text="{{engine}} {{server}} rank {{rank}} on {{instance}}: {{model}}",
    colour="purple",
)
LOADED = at_timestamp(
    "Configuration loaded",
    metric("config_last_reload_success_timestamp_seconds"),
    text="{{instance}}: the agent was started, or took its configuration anew",
    colour="green",
)
XID = at_timestamp(
    "XID",
    metric("gpu_last_xid_timestamp_seconds"),
    text="GPU {{gpu}} on {{instance}}: {{uuid}}",
    colour="red",
)
# Without sw_power_cap: a GPU at work is at its power cap most of the time.
_HELD_BACK = metric("gpu_clock_limited_seconds_total").rate(
    reason="hw_slowdown|sw_thermal|hw_thermal|hw_power_brake"
)
THROTTLE = annotation(
    "Throttle",
    f"sum by (instance, gpu, reason) ({_HELD_BACK}) > 0.1",
    text="GPU {{gpu}} on {{instance}}: {{reason}}",
    colour="orange",
)

STANDARD: tuple[Json, ...] = (ENGINE_RESTART, XID, LOADED, THROTTLE)
