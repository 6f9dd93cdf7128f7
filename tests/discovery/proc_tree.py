"""A ``/proc`` made of plain files: as much of it as finding servers looks at.

Networks are written by the kernel's own rules and not by the agent's parser: numbers of 32 bits in the
machine's byte order, listening sockets first.
"""

from __future__ import annotations

import os
import shutil
import socket
import struct
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

HOST_PID_NAMESPACE = 4026531836
NOBODY = 65534


def hexadecimal(address: str) -> str:
    """An address as ``/proc/net/tcp`` has it."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    packed = socket.inet_pton(family, address)
    return "".join(f"{word:08X}" for word in struct.unpack(f"={len(packed) // 4}I", packed))


def tcp_row(address: str, port: int, inode: int, *, state: str = "0A") -> str:
    """A line of ``/proc/net/tcp`` or ``tcp6``."""
    own = hexadecimal(address)
    return (
        f"   0: {own}:{port:04X} {'0' * len(own)}:0000 {state} 00000000:00000000 00:00000000 00000000  1000"
        f"        0 {inode} 1 0000000000000000 100 0 0 10 0"
    )


@dataclass
class Network:
    """What the processes in one network namespace see."""

    number: int
    addresses: Sequence[str] = ("127.0.0.1",)
    addresses6: Sequence[str] = ("::1",)
    listening: dict[int, tuple[str, int]] = field(default_factory=dict)
    """Address and port, by inode."""

    def write(self, directory: Path) -> None:
        directory.mkdir(exist_ok=True)
        rows: dict[str, list[str]] = {"tcp": [], "tcp6": []}
        for inode, (address, port) in self.listening.items():
            rows["tcp6" if ":" in address else "tcp"].append(tcp_row(address, port, inode))
        for name, lines in rows.items():
            other = "::" if name == "tcp6" else "0.0.0.0"
            text = "\n".join(["  sl  local_address …", *lines, tcp_row(other, 8000, 1, state="01")])
            (directory / name).write_text(text + "\n")
        leaves = "".join(f"           |-- {one}\n              /32 host LOCAL\n" for one in self.addresses)
        (directory / "fib_trie").write_text(
            f"Main:\n{leaves}           |-- 10.0.0.0\n              /24 link UNICAST\nLocal:\n{leaves}"
        )
        (directory / "if_inet6").write_text(
            "".join(
                f"{socket.inet_pton(socket.AF_INET6, one).hex()} 01 80 10 80       lo\n"
                for one in self.addresses6
            )
        )


class ProcTree:
    """The directory, and the processes in it."""

    def __init__(self, root: Path, *, pid_namespace: int = HOST_PID_NAMESPACE) -> None:
        self.root = root
        self.host = Network(1, addresses=("127.0.0.1", "192.0.2.7"))
        self._inode = 100
        (root / "self" / "ns").mkdir(parents=True)
        (root / "self" / "ns" / "net").symlink_to("net:[1]")
        (root / "self" / "ns" / "pid").symlink_to(f"pid:[{pid_namespace}]")
        self.host.write(root / "self" / "net")
        self.add(1, ["/sbin/init"], parent=0)

    def add(
        self,
        pid: int,
        argv: Sequence[str],
        *,
        parent: int = 1,
        started: int = 1000,
        name: str = "a (strange) name",
        state: str = "S",
        environ: Mapping[str, str] | None = None,
        blanked: bool = False,
        cwd: str = "/",
        root: Path | str = "/",
        network: Network | None = None,
        listens: Sequence[tuple[str, int]] = (),
        sockets: Sequence[int] = (),
        mounts: int = 1,
        cgroup: str = "0::/\n",
    ) -> tuple[int, ...]:
        """Write a process; the inodes of the sockets on which it listens. `sockets` it has besides."""
        network = network or self.host
        directory = self.root / str(pid)
        (directory / "fd").mkdir(parents=True)
        (directory / "ns").mkdir()
        fields = [state, str(parent), *["0"] * 17, str(started), *["0"] * 30]
        (directory / "stat").write_text(f"{pid} ({name}) {' '.join(fields)}\n")
        (directory / "cmdline").write_bytes("".join(f"{word}\0" for word in argv).encode())
        lines = "".join(f"{key}={value}\0" for key, value in (environ or {}).items()).encode()
        (directory / "environ").write_bytes(bytes(len(lines)) if blanked else lines)
        (directory / "cgroup").write_text(cgroup)
        (directory / "root").symlink_to(root)
        (directory / "cwd").symlink_to(cwd)
        (directory / "ns" / "net").symlink_to(f"net:[{network.number}]")
        (directory / "ns" / "mnt").symlink_to(f"mnt:[{mounts}]")
        inodes = []
        for address, port in listens:
            self._inode += 1
            network.listening[self._inode] = (address, port)
            inodes.append(self._inode)
        (directory / "fd" / "0").symlink_to("/dev/null")
        for number, inode in enumerate([*inodes, *sockets], start=3):
            (directory / "fd" / str(number)).symlink_to(f"socket:[{inode}]")
        (directory / "fd" / "99").symlink_to("socket:[99999]")
        network.write(directory / "net")
        return tuple(inodes)

    def say(self, pid: int, argv: Sequence[str]) -> None:
        """Another command line: it has become another program, or has given itself a title."""
        (self.root / str(pid) / "cmdline").write_bytes("".join(f"{word}\0" for word in argv).encode())

    def hide(self, pid: int) -> None:
        """What of a process is hidden from other users."""
        directory = self.root / str(pid)
        (directory / "environ").chmod(0)
        for name in ("fd", "ns"):
            (directory / name).chmod(0)

    def remove(self, pid: int) -> None:
        """It ends."""
        shutil.rmtree(self.root / str(pid))


@contextmanager
def as_stranger() -> Iterator[None]:
    """What is done here is done as a user who owns nothing and may nothing."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(NOBODY)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def shared_directory() -> Iterator[Path]:
    """An empty directory that every user can look into."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory)
        path.chmod(0o755)
        yield path
