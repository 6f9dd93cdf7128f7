"""Where a line of prose may break: never between a number and its unit."""

from __future__ import annotations

import re

NO_BREAK_SPACE = "\N{NO-BREAK SPACE}"

_BEFORE_UNIT = re.compile(
    r"(?<=\d) (?=(?:[%×]|°C|h|min|[mµ]?s|W|[kMGTP]?(?:B|Hz|FLOP|FLOPs)(?:/s|/byte)?)(?!\w))"
)


def with_units(text: str) -> str:
    """The text with a no-break space wherever a number meets its unit."""
    return _BEFORE_UNIT.sub(NO_BREAK_SPACE, text)
