"""The ``config.json`` of the model that a process serves, found where that process would find it.

The path comes from the server, so it is not trusted. Its parts are opened one by one, links are followed
by hand within the root of the process, and a file is held before it is looked at: no link leads out of
a container, neither one that is there nor one that is put there meanwhile.

Beside it one kind of file is opened: of a cache of models the reference that says which commit is meant,
of which nothing but 40 digits is taken.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from json import JSONDecodeError
from pathlib import Path, PurePosixPath
from typing import Any

from agent.model_files import load_config_json

CONFIG_JSON = "config.json"
ONE_FILE = ".gguf"
"""How a model ends that has its architecture in the file of its weights."""
MAX_STEPS = 256
"""On the way to one file, the links on it and what they lead over included."""

CACHE_VARIABLES = ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME", "XDG_CACHE_HOME", "HOME")
"""All that is looked at of a server's environment to find its cache of models."""

Loader = Callable[[Path], Mapping[str, Any]]
"""Reads an architecture from a file; raises `OSError`, or `ValueError` that says what it is instead."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundConfig:
    """What was found, or why nothing was."""

    config: Mapping[str, Any] | None = None
    problem: str | None = None


def find_model_config(
    path: str,
    *,
    root: Path,
    cwd: str | None,
    environ: Mapping[str, str] | None,
    revision: str | None = None,
    download_dir: str | None = None,
    loaders: Mapping[str, Loader] | None = None,
) -> FoundConfig:
    """The architecture of the model that a process calls `path`: a directory, or a name on a hub.

    `root` is ``/proc/PID/root``; `cwd` and `environ` are the process's, `None` where they cannot be read.
    `loaders`, by suffix, read models that are one file; without its loader such a one is no problem, as its
    engine tells itself what is in it.
    """
    loader = (loaders or {}).get(PurePosixPath(path).suffix)
    in_place = _absolute(path, cwd)
    if loader is None and path.endswith(ONE_FILE):
        return FoundConfig()
    if loader is not None:
        places = iter([in_place])
    elif not HUB_NAME.fullmatch(path):
        places = iter([_in(in_place, CONFIG_JSON)])
    else:
        places = _hub_places(path, in_place, root, _caches(environ or {}, cwd, download_dir), revision)
    problem = None
    for place in places:
        try:
            if place is not None:
                return FoundConfig(config=_load(root, place, loader or load_config_json))
        except (FileNotFoundError, NotADirectoryError):
            pass
        except OSError as error:
            problem = problem or f"cannot be read: {error.strerror}"
        except ValueError as error:
            problem = problem or str(error)
    file = CONFIG_JSON if loader is None else "model file"
    return FoundConfig(problem=f"its {file}: {problem or _absence(in_place, environ)}")


def _absence(in_place: str | None, environ: Mapping[str, str] | None) -> str:
    if environ is None:
        return "its environment, which says where models are cached, cannot be read"
    if in_place is None:
        return "its path is relative, and its working directory cannot be read"
    return "neither where the model's name says nor in its cache of models"


def _load(root: Path, place: str, loader: Loader) -> Mapping[str, Any]:
    with hold(root, place) as file:
        try:
            return loader(file)
        except (JSONDecodeError, UnicodeDecodeError):
            raise ValueError("not JSON") from None


# --- where it may be -----------------------------------------------------------------------------

HUB_NAME = re.compile(r"(?!\.+(/|$))[\w.-]+(/(?!\.+$)[\w.-]+)?")
REVISION = re.compile(r"(?!\.+(/|$))[\w.-]+(/(?!\.+(/|$))[\w.-]+)*")
COMMIT = re.compile(r"[0-9a-f]{40}")


def _hub_places(
    name: str, in_place: str | None, root: Path, caches: Iterator[str], revision: str | None
) -> Iterator[str | None]:
    """A directory comes before a name on a hub, as it does for the engines."""
    yield _in(in_place, CONFIG_JSON)
    for cache in caches:
        repository = f"{cache}/models--{name.replace('/', '--')}"
        with suppress(OSError, ValueError):
            commit = _load_commit(root, repository, revision or "main")
            yield f"{repository}/snapshots/{commit}/{CONFIG_JSON}"


def _load_commit(root: Path, repository: str, revision: str) -> str:
    """The commit that a revision, a commit itself or a name, means. Raises `OSError`, `ValueError`."""
    if COMMIT.fullmatch(revision):
        return revision
    if not REVISION.fullmatch(revision):
        raise ValueError("not a revision")
    with hold(root, f"{repository}/refs/{revision}") as file, file.open("rb") as reference:
        commit = COMMIT.fullmatch(reference.read(64).decode("ascii", "replace").strip())
    if commit is None:
        raise ValueError("not a reference")
    return commit[0]


def _caches(environ: Mapping[str, str], cwd: str | None, download_dir: str | None) -> Iterator[str]:
    """Where the process keeps models, the likelier place first.

    An engine that was told to download elsewhere may still have put what is not weights into the usual place.
    """
    usual = (
        ("HF_HUB_CACHE", ""),
        ("HUGGINGFACE_HUB_CACHE", ""),
        ("HF_HOME", "hub"),
        ("XDG_CACHE_HOME", "huggingface/hub"),
        ("HOME", ".cache/huggingface/hub"),
    )
    first = next((_in(environ[name], below) for name, below in usual if environ.get(name)), None)
    for told in (download_dir, first):
        place = None if told is None else _absolute(_at_home(told, environ.get("HOME")), cwd)
        if place is not None:
            yield place


def _at_home(path: str, home: str | None) -> str:
    return f"{home}{path[1:]}" if home and (path == "~" or path.startswith("~/")) else path


def _absolute(path: str, cwd: str | None) -> str | None:
    return path if path.startswith("/") else _in(cwd, path)


def _in(directory: str | None, name: str) -> str | None:
    return None if directory is None else f"{directory}/{name}"


# --- opening it ----------------------------------------------------------------------------------

HELD = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
"""Neither read from nor woken up: what turns out to be a device or a pipe is not touched."""


@contextmanager
def hold(root: Path, path: str) -> Iterator[Path]:
    """The regular file that a process with this root means by an absolute path, as a path to read it by.

    It stays that file whatever is done meanwhile to the names on the way. Raises `OSError`, and `ValueError`
    if it is no regular file.
    """
    with ExitStack() as held:
        file = _Walk(root, held).open(path)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            raise ValueError("not a regular file")
        yield Path(f"/proc/self/fd/{file}")


class _Walk:
    """The way from a root to a file, each directory on it held open."""

    def __init__(self, root: Path, held: ExitStack) -> None:
        self._held = held
        # The root itself is a link that the kernel makes; it is the only one that is followed.
        self._way = [self._keep(os.open(root, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC))]

    def open(self, path: str) -> int:
        """What is there, held. Raises `OSError`."""
        ahead = _parts(path)
        for _ in range(MAX_STEPS):
            if not ahead:
                return self._way[-1]
            part = ahead.pop()
            if part == "..":
                del self._way[max(1, len(self._way) - 1) :]  # above the root is the root
                continue
            link = self._read_link(part)
            if link is not None:
                ahead += _parts(link)
                if link.startswith("/"):
                    del self._way[1:]
                continue
            # Should it have become a link since, this fails.
            flags = HELD | os.O_DIRECTORY if ahead else HELD
            self._way.append(self._keep(os.open(part, flags, dir_fd=self._way[-1])))
        raise OSError(errno.ELOOP, os.strerror(errno.ELOOP))

    def _keep(self, descriptor: int) -> int:
        self._held.callback(os.close, descriptor)
        return descriptor

    def _read_link(self, part: str) -> str | None:
        """Where a link points; `None` if it is none."""
        try:
            return os.readlink(part, dir_fd=self._way[-1])
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise
            return None


def _parts(path: str) -> list[str]:
    """The parts of a path, the first one last."""
    return [part for part in reversed(path.split("/")) if part not in ("", ".")]
