"""Label values: whatever text comes from outside, made fit to stand on a page."""

from __future__ import annotations

MAX_LABEL_LENGTH = 128


def label_text(text: str) -> str:
    """The text as a label value: control characters escaped, at most 128 characters."""
    if not text.isprintable():
        text = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    return text if len(text) <= MAX_LABEL_LENGTH else text[: MAX_LABEL_LENGTH - 1] + "…"
