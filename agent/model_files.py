"""A model's ``config.json``, as it lies on a disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

MAX_CONFIG_JSON_BYTES = 1 << 20


def load_config_json(path: Path) -> dict[str, Any]:
    """The object in that file. Raises `OSError`, or `ValueError` that says what it is instead."""
    with path.open("rb") as file:
        text = file.read(MAX_CONFIG_JSON_BYTES + 1)
    if len(text) > MAX_CONFIG_JSON_BYTES:
        raise ValueError("larger than 1 MiB: not a config.json")
    try:
        loaded = json.loads(text)
    except RecursionError:
        raise ValueError("nested too deeply: not a config.json") from None
    if not isinstance(loaded, dict):
        raise ValueError("not a JSON object")
    return loaded
