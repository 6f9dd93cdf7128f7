"""A container as the kubelet would run it: namespaces, a root of its own, read-only, no capability.

The root has only what an image would have and what the pod mounts: the interpreter with its libraries, files
of ConfigMaps and Secrets with the kubelet's owners and modes. What the rendered security context says is what
is done; what it says that cannot be done here – seccomp's default profile – is not.
"""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

import agent
from tests.rig.programs import tool

INSTALLED = Path(os.environ.get("AGENT_PREFIX", sys.prefix))
"""Where the agent is installed; AGENT_PREFIX names another place, such as one made from the lock."""
SOURCES = Path(agent.__file__).parents[1]
"""Where its modules are: in the installation, or in a checkout to which it leads."""

needs_root = pytest.mark.skipif(
    os.geteuid() != 0 and "CI" not in os.environ,
    reason="a container's root can be made by root alone",
)
"""Where nobody promised root; under CI its absence is a failure."""

Files = Mapping[str, Mapping[str, str]]
"""Of each ConfigMap or Secret, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """What a pod finds in its cluster."""

    config_maps: Files
    secrets: Files
    fields: Mapping[str, str]
    """For the downward API."""
    hosts: Mapping[str, str]
    """Addresses by name."""
    driver: Path | None = None
    """The folder of libnvidia-ml.so.1, which NVIDIA's runtime would mount."""
    claims: Mapping[str, Path] = field(default_factory=dict)
    """Where the volume of each claim is."""


@contextmanager
def running(
    pod: dict[str, Any], cluster: Cluster, directory: Path, log: Path
) -> Iterator[subprocess.Popen[bytes]]:
    """The first container of the pod, until it is left: then it must end in its time, and well."""
    with log.open("wb") as written:
        process = subprocess.Popen(
            command_of(pod, cluster, directory), stdout=written, stderr=subprocess.STDOUT, env={}
        )
    try:
        yield process
    finally:
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        for child in children.read_text().split() if process.poll() is None else ():
            os.kill(int(child), signal.SIGTERM)
        try:
            process.wait(pod["terminationGracePeriodSeconds"])
        except subprocess.TimeoutExpired:
            process.kill()
            raise
        finally:
            process.wait()
    assert process.returncode == 0, log.read_text()


def command_of(pod: dict[str, Any], cluster: Cluster, directory: Path) -> list[str]:
    """What runs the first container of the pod, with `directory` as its root."""
    (container,) = pod["containers"]
    context = {**pod["securityContext"], **container["securityContext"]}
    mounts = _mounts(cluster)
    for _, target in mounts:
        (directory / target.relative_to("/")).mkdir(parents=True, exist_ok=True)
    for name in ("proc", "dev", "tmp", "etc"):
        (directory / name).mkdir(exist_ok=True)
    for device in ("null", "urandom"):
        (directory / "dev" / device).touch()
    for link in ("bin", "lib", "lib64", "sbin"):
        if Path("/", link).is_symlink():
            (directory / link).symlink_to(Path("/", link).readlink())
    (directory / "etc" / "hosts").write_text(
        "".join(
            f"{address} {name}\n" for name, address in {"localhost": "127.0.0.1", **cluster.hosts}.items()
        )
    )
    writable = _lay_volumes(pod, container, cluster, directory, context["fsGroup"])
    steps = ["mount --make-rprivate /", f"mount --bind {directory} {directory}"]
    # First, since what stands for the image may lie below one of them: a checkout in /tmp does.
    steps += [
        f"mount --bind {shlex.quote(str(source))} {shlex.quote(str(place))}" for source, place in writable
    ]
    for source, target in [
        *mounts,
        *((Path("/dev", name), Path("/dev", name)) for name in ("null", "urandom")),
    ]:
        place = shlex.quote(f"{directory}{target}")
        if source.is_dir():
            steps.append(f"mkdir -p {place}")
        steps.append(f"mount --bind {shlex.quote(str(source))} {place}")
        if source.is_dir():
            steps.append(f"mount -o remount,bind,ro {place}")
    steps.append(f"mount -t proc proc {directory}/proc")
    if context["readOnlyRootFilesystem"]:
        steps.append(f"mount -o remount,bind,ro {directory}")
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["allowPrivilegeEscalation"] is False
    user = (
        f"setpriv --reuid {context['runAsUser']} --regid {context['runAsGroup']} "
        f"--groups {context['fsGroup']} --no-new-privs "
        "--bounding-set=-all --inh-caps=-all --ambient-caps=-all"
    )
    environment = {"PATH": f"{INSTALLED}/bin:/usr/bin:/bin", **_environment(container, cluster)}
    if cluster.driver is not None:
        environment["LD_LIBRARY_PATH"] = str(cluster.driver)
    words = [
        *("env", "-i", *(f"{name}={value}" for name, value in environment.items())),
        *container["command"],
        *(expanded(word, environment) for word in container["args"]),
    ]
    steps.append(f"exec chroot {directory} {user} {shlex.join(words)}")
    unshare = tool("unshare", "util-linux")
    return [
        unshare,
        "--mount",
        "--pid",
        "--ipc",
        "--uts",
        "--fork",
        "--kill-child",
        "sh",
        "-euc",
        "\n".join(steps),
    ]


def _mounts(cluster: Cluster) -> list[tuple[Path, Path]]:
    """What stands for the image: the system's libraries, the interpreter, the installation."""
    base = Path(os.path.realpath(INSTALLED / "bin" / "python")).parents[1]
    wanted = [Path("/usr"), base, INSTALLED, *([SOURCES] if "AGENT_PREFIX" not in os.environ else [])]
    wanted += [Path(name) for name in ("/lib", "/lib64", "/bin") if not Path(name).is_symlink()]
    wanted += [cluster.driver] if cluster.driver is not None else []
    tops = [one for one in wanted if not any(one != other and one.is_relative_to(other) for other in wanted)]
    return [(one, one) for one in dict.fromkeys(tops)]


def _lay_volumes(
    pod: dict[str, Any], container: dict[str, Any], cluster: Cluster, directory: Path, group: int
) -> list[tuple[Path, Path]]:
    """Files where the pod mounts them, as the kubelet lays them: a Secret's for the group alone.

    Gives what can be written, and where it is to be mounted.
    """
    writable = []
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    for mount in container["volumeMounts"]:
        volume = volumes[mount["name"]]
        place = directory / Path(mount["mountPath"]).relative_to("/")
        place.mkdir(parents=True, exist_ok=True)
        if "configMap" in volume:
            source = volume["configMap"]
            files, mode = cluster.config_maps[source["name"]], 0o644
        elif "secret" in volume:
            source = volume["secret"]
            files, mode = cluster.secrets[source["secretName"]], source["defaultMode"]
        else:
            writable.append((_writable(volume, cluster, directory, group), place))
            continue
        chosen = {one["path"]: files[one["key"]] for one in source["items"]} if "items" in source else files
        lay_files(place, chosen, group=group, mode=mode)
    return writable


def _writable(volume: dict[str, Any], cluster: Cluster, directory: Path, group: int) -> Path:
    """A claim's volume, or an empty one, which is the group's as the kubelet makes it."""
    if "persistentVolumeClaim" in volume:
        place = cluster.claims[volume["persistentVolumeClaim"]["claimName"]]
    else:
        assert "emptyDir" in volume, volume
        place = directory.with_name(f"{directory.name}-{volume['name']}")
        place.mkdir()
    shutil.chown(place, 0, group)
    place.chmod(0o2770)
    return place


def lay_files(place: Path, files: Mapping[str, str], *, group: int, mode: int) -> None:
    """As the kubelet does: in a folder of their own, to which a link is turned when all are there."""
    folder = Path(tempfile.mkdtemp(prefix="..", dir=place))
    folder.chmod(0o755)
    for name, text in files.items():
        path = folder / name
        path.write_text(text)
        shutil.chown(path, 0, group)
        path.chmod(mode)
        if not (place / name).is_symlink():
            (place / name).symlink_to(Path("..data", name))
    turned = place / "..data_tmp"
    turned.symlink_to(folder.name)
    turned.rename(place / "..data")


def expanded(word: str, environment: Mapping[str, str]) -> str:
    """An argument as Kubernetes gives it: variables for their names, unless `$$(` says otherwise."""

    def value(found: re.Match[str]) -> str:
        if found[0].startswith("$$"):
            return found[0][1:]
        return environment.get(found[1], found[0])

    return re.sub(r"\$?\$\(([^)]*)\)", value, word)


def _environment(container: dict[str, Any], cluster: Cluster) -> dict[str, str]:
    return {one["name"]: _value(one, cluster) for one in container["env"]}


def _value(variable: dict[str, Any], cluster: Cluster) -> str:
    if "value" in variable:
        return str(variable["value"])
    source = variable["valueFrom"]
    if "fieldRef" in source:
        return cluster.fields[source["fieldRef"]["fieldPath"]]
    key = source["secretKeyRef"]
    return cluster.secrets[key["name"]][key["key"]]
