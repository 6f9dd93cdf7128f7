"""Small pieces of wording that every advice needs."""

from __future__ import annotations


def count_gpus(count: int) -> str:
    """``1 GPU``, ``4 GPUs``."""
    return f"{count} GPU" if count == 1 else f"{count} GPUs"


def sentence(text: str) -> str:
    """With a capital letter and an end."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
