"""A minute becomes seconds: the durations of rules, shortened by one table.

The one thing to know: only what a rule waits for or looks back on is shortened – ranges, offsets, `for`
and group intervals. Plain numbers of seconds, such as how far `predict_linear` looks ahead, are meant.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

import yaml

COMPRESSED = {
    "30s": "4s",
    "1m": "4s",
    "2m": "6s",
    "3m": "6s",
    "5m": "8s",
    "10m": "10s",
    "15m": "14s",
    "20m": "15s",
    "30m": "16s",
    "1h": "21s",
    "2h": "22s",
    "3h": "23s",
    "6h": "24s",
    "12h": "24s",
    "1d": "24s",
    "3d": "26s",
    "7d": "30s",
    "8d": "54s",
    "30d": "70s",
}
"""What is longer is not shorter, eight days are a day and seven, and the shortest range holds two scrapes."""

_UNIT_SECONDS = {"ms": 0.001, "s": 1, "m": 60, "h": 3600, "d": 86400, "w": 604800, "y": 31536000}
_DURATION = r"(?:\d+(?:ms|[smhdwy]))+"
_RANGE = re.compile(rf"\[\s*({_DURATION})\s*(?:(:)\s*({_DURATION})?\s*)?\]")
_OFFSET = re.compile(rf"\boffset\s+(-?)({_DURATION})")


def seconds_of(duration: str) -> float:
    """A duration as Prometheus writes it, `1h30m`."""
    return sum(int(n) * _UNIT_SECONDS[unit] for n, unit in re.findall(r"(\d+)(ms|[smhdwy])", duration))


_BY_SECONDS = {seconds_of(given): compressed for given, compressed in COMPRESSED.items()}


def compress_duration(duration: str) -> str:
    """What it becomes; nothing stays nothing. Raises `AssertionError` for one that the table lacks."""
    if (seconds := seconds_of(duration)) == 0:
        return duration
    assert seconds in _BY_SECONDS, f"{duration} is not in the table of tests/rig/compression.py: add it there"
    return _BY_SECONDS[seconds]


def compress_expression(expression: str) -> str:
    """The same PromQL over shorter ranges."""

    def shorten_range(match: re.Match[str]) -> str:
        over, colon, step = match.groups()
        return f"[{compress_duration(over)}{colon or ''}{compress_duration(step) if step else ''}]"

    return compress_offsets(_RANGE.sub(shorten_range, expression))


def compress_offsets(expression: str) -> str:
    """The same PromQL that looks back less far, over ranges as they are."""
    return _OFFSET.sub(lambda match: f"offset {match[1]}{compress_duration(match[2])}", expression)


def compress_rules(text: str) -> str:
    """A rule file, compressed."""
    document = yaml.safe_load(text)
    groups = [_group(group) for group in document["groups"]]
    return yaml.safe_dump({**document, "groups": groups}, sort_keys=False, allow_unicode=True)


def _group(group: Mapping[str, Any]) -> dict[str, Any]:
    compressed = dict(group) | {"rules": [_rule(rule) for rule in group["rules"]]}
    if "interval" in group:
        compressed["interval"] = compress_duration(group["interval"])
    return compressed


def _rule(rule: Mapping[str, Any]) -> dict[str, Any]:
    compressed = dict(rule) | {"expr": compress_expression(str(rule["expr"]))}
    for key in ("for", "keep_firing_for"):
        if key in rule:
            compressed[key] = compress_duration(str(rule[key]))
    return compressed
