"""Serving engines by their processes: what ``/proc`` tells of each, and nothing that would disturb it.

What it was told, where it listens, which model it has, whose pod it is, and which GPUs its processes hold.
The one thing to know: it can be gone at any moment. Whatever is read of it may fail, and what has ended is
not reported.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from agent.discovery.arguments import (
    VARIABLES,
    ServerArguments,
    parse_arguments,
    parse_command_line,
    parse_environment,
)
from agent.discovery.model_config import CACHE_VARIABLES, FoundConfig, Loader, find_model_config
from agent.discovery.process_table import (
    Process,
    ProcessTable,
    Tree,
    find_top,
    find_trees,
    load_process,
    read_bytes,
)
from agent.discovery.sockets import (
    Listener,
    address_to_ask,
    load_listeners,
    load_local_addresses,
    load_socket_inodes,
    same_network,
)
from agent.errors import SourceAbsentError, SourceError
from agent.readings import MAX_FOUND, Discovery, FoundServer, PodContainer
from agent.sources.addresses import Address, url_host

HOST_PID_NAMESPACE = "pid:[4026531836]"
"""The number is the kernel's own, the same on every machine."""
INIT = 1
"""The process that is always there to be seen, if those of others are."""
VISIBLE_GPUS = "CUDA_VISIBLE_DEVICES"
WANTED_VARIABLES = VARIABLES | {*CACHE_VARIABLES, VISIBLE_GPUS}

NOT_ON_HOST = (
    "only the processes of the agent's own container can be seen: engines in others, and whose GPUs are "
    "whose, need hostPID, or the agent as a service of the host"
)
UNMATCHED = (
    "none of the processes that NVML names can be found here, so whose GPUs are whose is not known: that "
    "needs hostPID, or the agent as a service of the host"
)
HIDDEN = (
    "{count} of the serving processes belong to other users and can be seen from outside only: their ports "
    "are as told, and neither their environment nor their config.json can be read: that needs SYS_PTRACE"
)
HIDEPID = (
    "the processes of other users are hidden altogether, by the option hidepid of /proc: it takes a mount "
    "without it, or SYS_PTRACE"
)
LEFT_OUT = "{count} more serving processes are left out: {most} are the most"
ON_SOCKET = "it serves on a Unix socket, which is not read"
NO_PAGE = "it was told no port for a page of metrics, so it has none"
SILENT = "it listens on no port yet"
UNCERTAIN = "it does not listen on port {port} yet, and of those on which it does none is known to be right"
SHUT = "what it listens on cannot be seen"
UNREACHABLE = "it listens where only its own container can reach it"
"""Why a server that runs is not reported."""


class _UnseenError(Exception):
    """A server runs and cannot be asked; why, in words."""


# --- containers ----------------------------------------------------------------------------------

POD = re.compile(
    r"kubepods\S*?[/-]pod([0-9a-f]{8}(?:[-_][0-9a-f]{4}){3}[-_][0-9a-f]{12}|[0-9a-f]{32})(?=[/.\s]|$)"
)
"""A pod's uid; systemd's slices write _ for its hyphens. That of a static pod is a hash."""


def parse_cgroup(text: str) -> PodContainer | None:
    """The pod of ``/proc/PID/cgroup``; `None` if it is in none."""
    pod = POD.search(text)
    return None if pod is None else PodContainer(namespace="", pod="", uid=pod[1].replace("_", "-"))


# --- GPUs ----------------------------------------------------------------------------------------

GpuProcesses = Mapping[str, Collection[int]]
"""UUIDs in NVML's order, and the processes that have each open, as the host counts them."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Gpus:
    """Which server has which GPUs open."""

    by_top: Mapping[int, tuple[str, ...]] | None
    """By the pid of its top process; `None` if it cannot be said."""
    uuids: tuple[str, ...]
    """All, in NVML's order."""
    notes: tuple[str, ...]


def open_gpus(
    gpu_processes: GpuProcesses, processes: Mapping[int, Process], *, on_host: bool
) -> Mapping[int, tuple[str, ...]] | None:
    """By the pid of a server's top process, the GPUs that it and its children have open.

    `None` if NVML's numbers are not those of these processes.
    """
    named = {pid for pids in gpu_processes.values() for pid in pids}
    seen = named & processes.keys()
    # Elsewhere a number that is there may be another process's, by chance.
    if not gpu_processes or (named and not seen) or (not on_host and (named != seen or not named)):
        return None
    found: dict[int, dict[str, None]] = {}
    for uuid, pids in gpu_processes.items():
        for pid in pids:
            top = find_top(processes, pid)
            if top is not None:
                found.setdefault(top.pid, {})[uuid] = None
    return {pid: tuple(uuids) for pid, uuids in found.items()}


def order_gpus(uuids: Sequence[str], visible: str, numbered: Sequence[str]) -> tuple[str, ...]:
    """GPUs in the order in which CUDA shows them to a process, as far as its variable tells it.

    `numbered` are the UUIDs that a number in the variable counts; empty if that is not known.
    """
    names = [word.strip() for word in visible.split(",")]
    numbers = {str(number): uuid for number, uuid in enumerate(numbered)}
    shown = [numbers.get(name, name) for name in names if name]

    def place(uuid: str) -> int:
        return next((place for place, name in enumerate(shown) if uuid.startswith(name)), len(shown))

    return tuple(sorted(uuids, key=place))


# --- where it listens ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Endpoint:
    """A socket, who holds it, and where it is asked."""

    process: Process
    listener: Listener
    address: Address


def choose_listener(
    held: Sequence[tuple[Process, Listener]], arguments: ServerArguments
) -> tuple[Process, Listener]:
    """The socket on which the page is, of all that a server and the children that answer for it hold."""
    told = [one for one in held if one[1].port == arguments.port]
    if told:
        return next((one for one in told if str(one[1].address) == arguments.host), told[0])
    if not held:
        raise _UnseenError(SILENT)
    # While it starts, the only one may be that on which its ranks meet.
    if arguments.only_there or len({listener.port for _, listener in held}) > 1:
        raise _UnseenError(UNCERTAIN.format(port=arguments.port))
    return held[0]


# --- the source ----------------------------------------------------------------------------------


@dataclass(slots=True)
class _Known:
    """What is remembered of one server as long as it runs."""

    told: ServerArguments | None
    """As its command line alone says it; once that changes, it is another program."""
    arguments: ServerArguments
    environ: Mapping[str, str] | None
    """The wanted part; `None` if it is hidden from us."""
    container: PodContainer | None
    config: FoundConfig = field(default_factory=FoundConfig)
    endpoint: _Endpoint | None = None


class ProcessSource:
    """The servers of this machine, as a `Source[Discovery]`."""

    name = "processes"
    failure_reasons: tuple[str, ...] = ("unreadable",)

    def __init__(
        self,
        *,
        gpu_processes: Callable[[], GpuProcesses],
        proc_root: str | Path = "/proc",
        loaders: Mapping[str, Loader] | None = None,
    ) -> None:
        """`loaders`, by suffix, read the architecture of models that are one file."""
        self._proc = Path(proc_root)
        self._own = self._proc / "self"
        self._gpu_processes = gpu_processes
        self._loaders = loaders
        self._table = ProcessTable(self._proc)
        # By pid and start.
        self._known: dict[tuple[int, int], _Known] = {}

    def read(self) -> Discovery:
        """All servers that run now."""
        try:
            processes = self._table.refresh()
        except FileNotFoundError:
            raise SourceAbsentError(f"{self._proc}: no such directory; is this Linux?") from None
        except OSError as error:
            raise SourceError("unreadable", f"{self._proc}: {error.strerror}") from None
        trees = find_trees(processes)
        self._forget_others(trees)
        gpus = self._find_gpus(processes)
        servers, notes = [], list(gpus.notes)
        for tree in trees[:MAX_FOUND]:
            server, problem = self._try(tree, gpus)
            # Only now, since all that was read of it may be another's that has its number since.
            if self._runs(tree.top):
                servers += [server] if server is not None else []
                notes += [f"{tree.engine}, process {tree.top.pid}: {problem}"] if problem is not None else []
        if INIT not in processes:
            notes.append(HIDEPID)
        hidden = sum(known.environ is None for known in self._known.values())
        if hidden:
            notes.append(HIDDEN.format(count=hidden))
        if len(trees) > MAX_FOUND:
            notes.append(LEFT_OUT.format(count=len(trees) - MAX_FOUND, most=MAX_FOUND))
        return Discovery(servers=tuple(servers), notes=tuple(notes))

    def close(self) -> None:
        """Nothing is held."""

    def _directory(self, process: Process) -> Path:
        return self._proc / str(process.pid)

    def _runs(self, process: Process) -> bool:
        now = load_process(self._directory(process), process.pid)
        return now is not None and now.started_ticks == process.started_ticks and now.arguments is not None

    # --- one server --------------------------------------------------------------------------------

    def _try(self, tree: Tree, gpus: _Gpus) -> tuple[FoundServer | None, str | None]:
        """The server if it can be asked, and what is to be said of it."""
        try:
            known = self._know(tree.top)
            server = None if known is None else self._describe(tree, known, gpus)
        except _UnseenError as reason:
            return None, str(reason)
        except PermissionError:
            return None, SHUT
        except OSError:  # it has ended
            return None, None
        return server, None if known is None else known.config.problem

    def _describe(self, tree: Tree, known: _Known, gpus: _Gpus) -> FoundServer:
        arguments = known.arguments
        endpoint = known.endpoint = self._find_endpoint(tree, known)
        if known.config.config is None and known.environ is not None:
            known.config = self._find_config(tree.top, known)
        host = url_host(endpoint.address)
        return FoundServer(
            url=f"{'https' if arguments.tls else 'http'}://{host}:{endpoint.listener.port}{arguments.page_path}",
            engine=arguments.engine,
            pid=endpoint.process.pid,
            gpu_uuids=self._order(tree.top, known, gpus),
            container=known.container,
            facts=replace(arguments.facts, config=known.config.config),
        )

    def _know(self, top: Process) -> _Known | None:
        """What is remembered of it, or is now found out; `None` if it is no server any more."""
        key = (top.pid, top.started_ticks)
        known = self._known.get(key)
        if known is None or known.told != top.arguments:
            directory = self._directory(top)
            environ = None
            with suppress(PermissionError):
                environ = parse_environment(read_bytes(directory / "environ"), WANTED_VARIABLES)
            arguments = parse_arguments(parse_command_line(read_bytes(directory / "cmdline")), environ)
            if arguments is None:
                return None
            container = parse_cgroup(read_bytes(directory / "cgroup").decode("utf-8", "replace"))
            known = self._known[key] = _Known(top.arguments, arguments, environ, container)
        return known

    def _forget_others(self, trees: Sequence[Tree]) -> None:
        running = {(tree.top.pid, tree.top.started_ticks) for tree in trees[:MAX_FOUND]}
        self._known = {key: known for key, known in self._known.items() if key in running}

    def _find_config(self, top: Process, known: _Known) -> FoundConfig:
        arguments, directory = known.arguments, self._directory(top)
        path = arguments.config_path or arguments.facts.path
        if path is None:
            return FoundConfig()
        return find_model_config(
            path,
            root=directory / "root",
            cwd=_read_link(directory / "cwd"),
            environ=known.environ,
            revision=arguments.facts.revision,
            download_dir=arguments.download_dir,
            loaders=self._loaders,
        )

    # --- where it is asked -------------------------------------------------------------------------

    def _find_endpoint(self, tree: Tree, known: _Known) -> _Endpoint:
        arguments, before = known.arguments, known.endpoint
        if arguments.uds is not None:
            raise _UnseenError(ON_SOCKET)
        if arguments.port is None:
            raise _UnseenError(NO_PAGE)
        if (
            before is not None
            and before.listener.port == arguments.port
            and self._still_listens(tree, before)
        ):
            return before
        held = [(part, listener) for part in tree.parts for listener in self._held_by(part, arguments)]
        process, listener = choose_listener(held, arguments)
        return _Endpoint(process=process, listener=listener, address=self._find_address(process, listener))

    def _still_listens(self, tree: Tree, endpoint: _Endpoint) -> bool:
        return endpoint.process in tree.parts and endpoint.listener in load_listeners(
            self._directory(endpoint.process)
        )

    def _held_by(self, part: Process, arguments: ServerArguments) -> tuple[Listener, ...]:
        """The sockets on which it listens; if it does not show them, those that can be told to be its."""
        directory = self._directory(part)
        inodes = None
        try:
            listeners = load_listeners(directory)
            with suppress(PermissionError):
                inodes = load_socket_inodes(directory)
        except (FileNotFoundError, ProcessLookupError):
            return ()
        if inodes is None:
            return tuple(listener for listener in listeners if listener.port == arguments.port)
        return tuple(listener for listener in listeners if listener.inode in inodes)

    def _find_address(self, process: Process, listener: Listener) -> Address:
        directory = self._directory(process)
        address = address_to_ask(
            listener,
            same_network=same_network(directory, self._own),
            addresses=load_local_addresses(directory),
        )
        if address is None:
            raise _UnseenError(UNREACHABLE)
        return address

    # --- its GPUs ----------------------------------------------------------------------------------

    def _find_gpus(self, processes: Mapping[int, Process]) -> _Gpus:
        on_host = _read_link(self._own / "ns" / "pid") in (HOST_PID_NAMESPACE, None)
        gpu_processes = self._gpu_processes()
        by_top = open_gpus(gpu_processes, processes, on_host=on_host)
        unmatched = by_top is None and any(gpu_processes.values())
        return _Gpus(
            by_top=by_top,
            uuids=tuple(gpu_processes),
            notes=() if on_host and not unmatched else (UNMATCHED if on_host else NOT_ON_HOST,),
        )

    def _order(self, top: Process, known: _Known, gpus: _Gpus) -> tuple[str, ...] | None:
        """The GPUs that a server has open, in its order; `None` if they are not known."""
        if gpus.by_top is None:
            return None
        uuids = gpus.by_top.get(top.pid, ())
        visible = (known.environ or {}).get(VISIBLE_GPUS)
        if visible is None:
            return uuids
        # In a container a number counts what it was given, and on a node with MIG it counts otherwise.
        mounts = {_read_link(self._proc / pid / "ns" / "mnt") for pid in (str(top.pid), str(INIT))}
        numbered = None not in mounts and len(mounts) == 1 and all(u.startswith("GPU-") for u in gpus.uuids)
        return order_gpus(uuids, visible, gpus.uuids if numbered else ())


def _read_link(path: Path) -> str | None:
    try:
        return os.readlink(path)
    except OSError:
        return None
