"""Our alerts as Prometheus keeps them: which fire, on what, and since when."""

from __future__ import annotations

from dashboards.queries import regex_matcher
from rules.alerts import RUNBOOK_NAMES
from rules.thresholds import HARMLESS_XIDS, NOTED_XIDS

OURS = f'alertname=~"{"|".join(RUNBOOK_NAMES)}"'
"""By name, since others' rules fire into the same series."""
HARDWARE_XIDS = f'xid!~"{HARMLESS_XIDS}|{NOTED_XIDS}"'
"""Those for which GpuXidError is critical."""
SERIOUS = 'severity=~"critical|warning"'


def firing(*matchers: str) -> str:
    """1 for each alert that fires. Those of a model have no instance, so only the cluster is chosen."""
    return f'ALERTS{{{",".join((regex_matcher("cluster"), OURS, *matchers))},alertstate="firing"}}'


def since(*matchers: str) -> str:
    """For each alert that fires, when its condition began to hold, in seconds since 1970."""
    began = f"ALERTS_FOR_STATE{{{','.join((regex_matcher('cluster'), OURS, *matchers))}}}"
    return f"({began} and ignoring (alertstate) {firing(*matchers)})"
