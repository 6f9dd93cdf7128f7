"""What Pod Security "restricted" refuses of a pod, in the words that the chart uses.

After https://kubernetes.io/docs/concepts/security/pod-security-standards/: the controls of "baseline" and
"restricted" that a pod of ours could offend.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

ALLOWED_VOLUMES = frozenset(
    (
        "configMap",
        "csi",
        "downwardAPI",
        "emptyDir",
        "ephemeral",
        "persistentVolumeClaim",
        "projected",
        "secret",
    )
)


def exceptions_of(pod: dict[str, Any]) -> set[str]:
    """Each thing that is refused; none if the pod is admitted."""
    return set(_refused(pod))


def _refused(pod: dict[str, Any]) -> Iterator[str]:
    for key in ("hostPID", "hostIPC", "hostNetwork"):
        if pod.get(key):
            yield key
    for volume in pod.get("volumes", ()):
        for kind in volume.keys() - {"name"} - ALLOWED_VOLUMES:
            yield f"{kind} {volume['name']}"
    whole = pod.get("securityContext", {})
    for container in (*pod.get("initContainers", ()), *pod["containers"]):
        own = container.get("securityContext", {})
        both = {**whole, **own}
        if own.get("privileged"):
            yield "privileged container"
        elif own.get("allowPrivilegeEscalation") is not False:
            yield "privilege escalation"
        if not both.get("runAsNonRoot") or both.get("runAsUser") == 0:
            yield "uid 0"
        if both.get("seccompProfile", {}).get("type") not in ("RuntimeDefault", "Localhost"):
            yield "seccomp"
        capabilities = own.get("capabilities", {})
        if "ALL" not in capabilities.get("drop", ()):
            yield "capabilities not dropped"
        for capability in capabilities.get("add", ()):
            if capability != "NET_BIND_SERVICE":
                yield f"capability {capability}"
        if any("hostPort" in port for port in container.get("ports", ())):
            yield "hostPort"
