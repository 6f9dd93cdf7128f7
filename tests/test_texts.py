"""What the README and the documentation tell people to type works."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from agent.cli import _parser, main
from agent.config import parse_configuration
from tests.conftest import Golden

ROOT = Path(__file__).parents[1]
TEXTS = (ROOT / "README.md", ROOT / "docs" / "configuration.md")


def blocks(language: str) -> list[str]:
    return [
        block
        for path in TEXTS
        for block in re.findall(rf"```{language}\n(.*?)```", path.read_text(), re.DOTALL)
    ]


def commands() -> list[list[str]]:
    lines = [line for block in blocks("sh") for line in block.splitlines() if line]
    return [shlex.split(part) for line in lines for part in line.split("&&")]


def test_make_targets_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    named = {words[1] for words in commands() if words[0] == "make"}
    named |= set(re.findall(r"`make ([a-z0-9-]+)`", (ROOT / "README.md").read_text()))
    assert named
    assert named <= targets


def test_commands_are_understood() -> None:
    ours = [words[1:] for words in commands() if words[0].endswith("roofline-agent")]
    ours += [
        shlex.split(more) and ["demo", *shlex.split(more)]
        for more in re.findall(r'DEMO="(.*?)"', "".join(blocks("sh")))
    ]
    assert len(ours) >= 4
    for words in ours:
        _parser().parse_args(words)


@pytest.mark.parametrize("block", blocks("yaml"), ids=["readme", "configuration"])
def test_configurations_are_valid(block: str) -> None:
    assert parse_configuration(block, origin="the documentation").engines


PORT = re.compile(r"127\.0\.0\.1:\d+")


def test_the_sample_output_is_what_the_command_prints(
    capsys: pytest.CaptureFixture[str], golden: Golden
) -> None:
    assert main(["once", "--simulate", "memory-bound-decode"]) == 0
    printed = PORT.sub("127.0.0.1:8000", capsys.readouterr().out)
    readme = (ROOT / "README.md").read_text()
    before, _, rest = readme.partition("```text\n")
    golden(ROOT / "README.md", f"{before}```text\n{printed}```{rest.partition('```')[2]}")
