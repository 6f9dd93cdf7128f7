"""Small pieces of wording that advice and the views of it share."""

from __future__ import annotations


def counted(number: int, noun: str) -> str:
    """``1 GPU``, ``4 GPUs``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def sentence(text: str) -> str:
    """With a capital letter and an end."""
    text = text[:1].upper() + text[1:]
    return text if text.endswith((".", "?", "!")) else f"{text}."
