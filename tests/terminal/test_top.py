"""The command in a terminal: what stands there, what keys do, and that it is left as it was."""

from __future__ import annotations

import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import pytest

from agent.assessment import Assessment
from agent.cli import EXIT_WRONG_INPUT, main
from agent.sources.agent_page import CREDENTIALS_VARIABLE
from agent.terminal.screen import ENTER, LEAVE
from tests.exposition import scenes
from tests.exposition.test_server import start
from tests.sources.test_agent_page import PASSWORD, authority, guarded_agent  # noqa: F401 - a fixture
from tests.terminal.pseudo_terminal import COMMAND, PseudoTerminal, running
from tests.web.certificates import Authority


@contextmanager
def top(*arguments: str, **more: object) -> Iterator[PseudoTerminal]:
    with running([COMMAND, "top", *arguments], **more) as terminal:  # type: ignore[arg-type]  # its keywords
        yield terminal


@contextmanager
def agent_at(assessment: Assessment, port: int = 0) -> Iterator[int]:
    """The port of an agent that says this."""
    exposed = start(assessment, port=port)
    try:
        yield exposed.port
    finally:
        exposed.close()


# --- a simulated node, from the first key to the last ----------------------------------------------


def test_from_the_first_look_to_the_shell_again() -> None:
    with top("--simulate", "node") as terminal:
        table = terminal.wait_for("6 of 8 GPUs wait for memory")
        assert len(table.splitlines()) == 24
        assert "▶ 0     memory bandwidth" in table
        assert "Llama-3.1-70B" in table
        terminal.press("jj\r")
        detail = terminal.wait_for("FLOP/s over FLOP/byte")
        assert "GPU 2  NVIDIA H100" in detail
        assert "because compute takes" in detail
        terminal.press("\x1b")
        terminal.wait_for("▶ 2     compute")
        terminal.press("/70b\r")
        filtered = terminal.wait_for("/70b")
        assert "▶ 4     memory" in filtered
        terminal.press("?")
        terminal.wait_for("fg comes back")
        terminal.press("q")
        assert terminal.wait_for_end() == 0
        assert terminal.is_restored()
        assert terminal.output.endswith(LEAVE), "not a word besides"


def test_a_window_that_changes_is_filled_anew() -> None:
    with top("--simulate", "idle") as terminal:
        terminal.wait_for("The GPU is idle")
        terminal.resize(120, 40)
        terminal.wait_for("power   heat")
        assert len(terminal.screen.splitlines()) == 40
        terminal.resize(30, 5)
        terminal.wait_for("40 × 10 at least")
        terminal.resize(80, 24)
        terminal.wait_for("The GPU is idle")
        terminal.press("q")
        assert terminal.wait_for_end() == 0


# --- however it ends -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)],
    ids=["SIGTERM", "SIGINT", "SIGHUP"],
)
def test_a_signal_leaves_the_terminal_as_it_was(number: signal.Signals, status: int) -> None:
    with top("--simulate", "idle") as terminal:
        terminal.wait_for("The GPU is idle")
        assert terminal.modes != terminal.found
        terminal.kill(number)
        assert terminal.wait_for_end() == status
        assert terminal.is_restored()


def test_ctrl_c_leaves_the_terminal_as_it_was_even_before_the_first_picture() -> None:
    with top("--simulate", "node") as terminal:
        terminal.wait_for(ENTER, where="output")
        terminal.press("\x03")
        assert terminal.wait_for_end() == 130
        assert terminal.is_restored()


def test_a_terminal_that_is_gone_ends_it() -> None:
    with top("--simulate", "idle") as terminal:
        terminal.wait_for("The GPU is idle")
        terminal.hang_up()
        assert terminal.wait_for_end() == 129


def test_an_error_within_leaves_the_terminal_as_it_was() -> None:
    code = (
        "import sys\n"
        "from agent.terminal.screen import Screen\n"
        "with Screen(keyboard=0, display=1, term='xterm', encoding='utf-8') as screen:\n"
        "    screen.draw(['drawn'], at_once=False)\n"
        "    raise RuntimeError('a bug')\n"
    )
    with running([sys.executable, "-c", code]) as terminal:
        assert terminal.wait_for_end() == 1
        assert terminal.is_restored()
        assert "a bug" in terminal.output.rpartition(LEAVE)[2], "it is read where it can be read"


def test_it_can_be_stopped_and_goes_on() -> None:
    with running(["/bin/bash", "--norc", "--noprofile", "-i"], environment={"PS1": "shell> "}) as terminal:
        terminal.wait_for("shell> ", where="output")
        terminal.press(f"{COMMAND} top --simulate idle\r")
        terminal.wait_for("The GPU is idle")
        terminal.press("\x1a")
        terminal.wait_for("Stopped", where="output")
        assert terminal.output.rfind(LEAVE) > terminal.output.rfind(ENTER)
        terminal.press("echo in the $((1 + 1))nd shell\r")
        terminal.wait_for("in the 2nd shell", where="output")
        terminal.forget()
        terminal.press("fg\r")
        terminal.wait_for("The GPU is idle")
        assert ENTER in terminal.output
        terminal.press("?")
        terminal.wait_for("fg comes back")
        terminal.press("q")
        time.sleep(0.1)
        terminal.press("echo status $?\r")
        terminal.wait_for("status 0", where="output")
        terminal.press("exit\r")
        assert terminal.wait_for_end() == 0
        assert terminal.output.rfind(LEAVE) > terminal.output.rfind(ENTER)


def test_stopped_from_outside_it_draws_all_anew() -> None:
    with top("--simulate", "idle") as terminal:
        terminal.wait_for("The GPU is idle")
        terminal.kill(signal.SIGSTOP)
        terminal.kill(signal.SIGCONT)
        terminal.wait_for(f"{ENTER}\x1b[H", where="output")
        terminal.press("q")
        assert terminal.wait_for_end() == 0
        assert terminal.is_restored()


# --- terminals of other kinds ----------------------------------------------------------------------


def test_no_color_has_no_colours() -> None:
    with top("--simulate", "idle", environment={"NO_COLOR": "1"}) as terminal:
        terminal.wait_for("The GPU is idle")
        terminal.press("q")
        assert terminal.wait_for_end() == 0
        assert not any(f"\x1b[3{colour}m" in terminal.output for colour in range(8))
        assert "\x1b[1m" in terminal.output


@pytest.mark.parametrize("term", ["dumb", ""])
def test_a_terminal_that_can_nothing_gets_frames_beneath_each_other(term: str) -> None:
    with top("--simulate", "memory-bound-decode", environment={"TERM": term}) as terminal:
        terminal.wait_for("The GPU waits for memory.", where="output")
        terminal.press("\r")
        terminal.wait_for("FLOP/s over FLOP/byte", where="output")
        terminal.press("q")
        assert terminal.wait_for_end() == 0
        assert "\x1b" not in terminal.output
        assert terminal.modes == terminal.found


def test_a_locale_without_these_characters_is_spelled() -> None:
    latin = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    with top("--simulate", "idle", environment=latin) as terminal:
        screen = terminal.wait_for("The GPU is idle")
        assert "> 0     idle" in screen
        assert screen.isascii()
        terminal.press("q")
        assert terminal.wait_for_end() == 0


def test_without_a_terminal_it_points_to_once() -> None:
    ended = subprocess.run(
        [COMMAND, "top", "--simulate", "idle"],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (ended.returncode, ended.stdout) == (1, "")
    (line,) = ended.stderr.splitlines()
    assert "roofline-agent once" in line


def test_without_the_library_it_says_what_to_install() -> None:
    code = (
        "import sys\n"
        "class Missing:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'rich': raise ModuleNotFoundError(name, name=name)\n"
        "sys.meta_path.insert(0, Missing())\n"
        "from agent.cli import main\n"
        "sys.exit(main(['top', '--simulate', 'idle']))"
    )
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert ended.returncode == 1
    assert "pip install 'roofline-agent[top]'" in ended.stderr
    assert len(ended.stderr.splitlines()) == 1


# --- an agent that runs ----------------------------------------------------------------------------


def test_an_agent_that_goes_leaves_its_last_picture_until_it_comes_back() -> None:
    with socket.create_server(
        ("127.0.0.1", 0)
    ) as free:  # of a port that was chosen for it no one is let in again
        port = free.getsockname()[1]
    with ExitStack() as stack:
        with agent_at(scenes.memory_bound(), port=port):
            terminal = stack.enter_context(top("--url", f"http://127.0.0.1:{port}"))
            first = terminal.wait_for("The GPU waits for memory.")
            assert f"node-7 · agent at http://127.0.0.1:{port} · just now" in first
        gone = terminal.wait_for("is the agent up")
        assert "The GPU waits for memory." in gone
        assert "▶ 0     memory bandwidth" in gone
        terminal.wait_for("5 s old")
        with agent_at(scenes.throttled(), port=port):
            back = terminal.wait_for("throttled")
            assert "is the agent up" not in back
            terminal.press("q")
            assert terminal.wait_for_end() == 0


def test_over_tls_with_a_password_from_the_environment(authority: Authority) -> None:  # noqa: F811 - the fixture
    with guarded_agent(authority) as url:
        with top("--url", url, "--ca-file", str(authority.certificate)) as terminal:
            terminal.wait_for("HTTP 401")
            terminal.press("q")
            assert terminal.wait_for_end() == 0
        with top("--url", url) as terminal:
            terminal.wait_for("--ca-file")
            terminal.press("q")
            assert terminal.wait_for_end() == 0
        known = {CREDENTIALS_VARIABLE: f"ops:{PASSWORD}"}
        with top("--url", url, "--ca-file", str(authority.certificate), environment=known) as terminal:
            terminal.wait_for("The GPU waits for memory.")
            terminal.press("q")
            assert terminal.wait_for_end() == 0
            assert "horse" not in terminal.output


def test_a_page_that_is_none_of_ours_is_said_to_be_none() -> None:
    with agent_at(scenes.no_gpu()) as port, top("--url", f"http://127.0.0.1:{port}/metrics") as terminal:
        terminal.wait_for("HTTP 404")
        terminal.press("q")
        assert terminal.wait_for_end() == 0


def test_a_model_with_an_evil_name_stands_there_and_does_nothing() -> None:
    name = "acme/\x1b]0;owned\x07\x1b[2J\x9b31m[red]7b[/red]\u202e"
    evil = scenes.memory_bound(model=name, node="node\x1b[5m")
    with agent_at(evil) as port, top("--url", f"http://127.0.0.1:{port}", width=140) as terminal:
        terminal.wait_for("[red]7b[/red]")
        terminal.press("G\r")
        terminal.wait_for("limiter")
        terminal.press("q")
        assert terminal.wait_for_end() == 0
    output = terminal.output.replace(ENTER, "").replace(LEAVE, "")
    assert "\x1b]" not in output
    assert "\x1b[2J" not in output
    assert "\x1b[5m" not in output
    assert not set("\x07\x9b\u202e") & set(output)


@pytest.mark.parametrize(
    "arguments",
    [
        ["--url", "http://h", "--simulate", "idle"],
        ["--simulate", "no such scenario"],
    ],
)
def test_wrong_options_are_refused(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["top", *arguments])
    assert ended.value.code == EXIT_WRONG_INPUT
