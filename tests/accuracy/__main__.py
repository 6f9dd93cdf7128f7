"""Rewrite the tables of docs/accuracy.md."""

from __future__ import annotations

from pathlib import Path

from tests.accuracy.page import render_page

PAGE = Path(__file__).parents[2] / "docs" / "accuracy.md"

if __name__ == "__main__":
    PAGE.write_text(render_page(PAGE.read_text()))
    print(f"the tables of {PAGE.relative_to(PAGE.parents[1])} are as measured now")
