"""The processes of the machine, and which of them are one server.

A server is a tree of processes. The topmost one has the command line, the environment and, itself or by
a child that says its name, the socket; those below it that hold the GPUs say nothing of themselves.

The one thing to know: a process can become another program at any time, with its number and its start
as they were – a shell that ends in ``exec vllm serve`` does – so each is looked at again now and then.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from agent.discovery.arguments import ServerArguments, parse_arguments, parse_command_line, unwrap

PAGE_BYTES = 4096
MAX_TEXT = 2**18
"""Bytes of a command line or an environment."""
LOOKS = 6
"""A process that serves nothing is looked at again after so many readings: a minute, at ten seconds each."""
MAX_DEPTH = 64
"""Of a tree of processes."""

# --- processes -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Process:
    """One process, as far as it matters here."""

    pid: int
    started_ticks: int
    """Since the machine started; with the pid it is the process and no later one."""
    parent: int
    arguments: ServerArguments | None = None
    """As its command line alone says, if that starts a server."""
    title: str = ""
    """What it is called, if it is a part of a server that says which."""

    @property
    def of_interest(self) -> bool:
        """Whether it is a server, or a part of one that says so."""
        return self.arguments is not None or bool(self.title)


ANSWERING = re.compile(r"\S*::APIServer\S*|\S*/dashboard/agent\.py")
"""Children that hold their server's socket: vLLM's, each of several, and the metrics agent of a Ray node."""
SERVING_REPLICA = re.compile(r"ray::ServeReplica:.*llm", re.IGNORECASE)
"""Without one of these a Ray node serves no model."""


@dataclass(frozen=True, slots=True)
class _Look:
    """What was seen of a process, and when."""

    process: Process
    inode: int
    """Of its directory: as long as it is the same, so is the process."""
    first_turn: int


class ProcessTable:
    """All processes of the machine, or of as much of it as can be seen."""

    def __init__(self, proc: Path) -> None:
        self._proc = proc
        self._looks: dict[int, _Look] = {}
        self._turn = 0

    def refresh(self) -> Mapping[int, Process]:
        """The processes now, by pid. Raises `OSError` if there is no such file system."""
        self._turn += 1
        looks = {}
        with os.scandir(self._proc) as entries:
            for entry in entries:
                if entry.name.isdecimal():
                    pid = int(entry.name)
                    look = self._look(pid, entry.inode())
                    if look is not None:
                        looks[pid] = look
        self._looks = looks
        return {pid: look.process for pid, look in looks.items()}

    def _look(self, pid: int, inode: int) -> _Look | None:
        before = self._looks.get(pid)
        if before is not None and before.inode == inode and not self._is_due(before):
            return before
        process = load_process(f"{self._proc}/{pid}", pid)
        if process is None:
            return None
        known = before is not None and before.process.started_ticks == process.started_ticks
        return _Look(process, inode, before.first_turn if before is not None and known else self._turn)

    def _is_due(self, look: _Look) -> bool:
        """A server each time; a new one once more, since what starts a program is another one at first."""
        age = self._turn - look.first_turn
        return look.process.of_interest or age == 1 or (age + look.process.pid) % LOOKS == 0


def load_process(directory: str | Path, pid: int) -> Process | None:
    """The process of that directory of ``/proc``; `None` if it is gone."""
    try:
        state, parent, started_ticks = parse_stat(read_bytes(f"{directory}/stat"))
        argv = () if state in "ZX" else parse_command_line(read_bytes(f"{directory}/cmdline"))
    except (OSError, ValueError):
        return None
    # The kernel's own threads have no command line, and what has ended has none any more.
    name = next(iter(unwrap(argv)), "")
    return Process(
        pid=pid,
        started_ticks=started_ticks,
        parent=parent,
        arguments=parse_arguments(argv),
        title=name if ANSWERING.fullmatch(name) or SERVING_REPLICA.match(name) else "",
    )


def parse_stat(text: bytes) -> tuple[str, int, int]:
    """State, parent and start of ``/proc/PID/stat``. Raises `ValueError`."""
    # Its name is in parentheses and may have some itself.
    columns = text.rpartition(b")")[2].split()
    if len(columns) < 20:
        raise ValueError("not the state of a process")
    return columns[0].decode("ascii", "replace"), int(columns[1]), int(columns[19])


def read_bytes(path: str | Path) -> bytes:
    """What a file of ``/proc`` says, its first quarter of a MiB. Raises `OSError`."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        text = os.read(descriptor, PAGE_BYTES)
        # Few are longer, and room for a long one costs more than the reading.
        return text if len(text) < PAGE_BYTES else text + os.read(descriptor, MAX_TEXT)
    finally:
        os.close(descriptor)


# --- trees of processes --------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Tree:
    """One server: the process that was started, and those of its children that say what they are."""

    top: Process
    parts: tuple[Process, ...]
    """The top among them, as the first."""

    @property
    def engine(self) -> str:
        """The software."""
        return self.top.arguments.engine if self.top.arguments is not None else ""


def find_top(processes: Mapping[int, Process], pid: int) -> Process | None:
    """The process that was started as the server of which this one is a part; `None` if it is of none.

    Of several of one engine, one inside the other, it is the outermost: a launcher and what it launches. A
    server that another engine's process has started, as a job of Ray's, is one by itself.
    """
    engine = top = None
    for process in _ancestry(processes, pid):
        if process.arguments is not None and engine in (None, process.arguments.engine):
            engine, top = process.arguments.engine, process
    return top


def _ancestry(processes: Mapping[int, Process], pid: int) -> Iterator[Process]:
    """The process, its parent, and so on."""
    process = processes.get(pid)
    for _ in range(MAX_DEPTH):
        if process is None:
            return
        yield process
        parent = processes.get(process.parent)
        # A parent that is younger is another one, with the number of one that has ended.
        process = parent if parent is not None and parent.started_ticks <= process.started_ticks else None


def find_trees(processes: Mapping[int, Process]) -> tuple[Tree, ...]:
    """All servers, in the order in which they were started."""
    parts: dict[int, list[Process]] = {}
    for process in processes.values():
        if process.of_interest:
            top = find_top(processes, process.pid)
            if top is not None:
                parts.setdefault(top.pid, []).append(process)
    trees = [
        Tree(top=processes[pid], parts=tuple(sorted(found, key=lambda part: (part.pid != pid, part.pid))))
        for pid, found in parts.items()
    ]
    return tuple(sorted(filter(_serves, trees), key=lambda tree: (tree.top.started_ticks, tree.top.pid)))


def _serves(tree: Tree) -> bool:
    """Whether it answers for models: not if it computes for a server elsewhere, or is Ray without any."""
    arguments = tree.top.arguments
    if arguments is None or arguments.headless:
        return False
    return arguments.engine != "ray" or any(SERVING_REPLICA.match(part.title) for part in tree.parts)
