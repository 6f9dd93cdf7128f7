"""As much of an API server as Helm needs: it tells which kinds there are, and keeps what it is given.

Nothing runs what is kept, and nothing checks it. Helm talks to it as to any other, so that installing,
upgrading with the values of an older chart, and what Helm says of it are real.
"""

from __future__ import annotations

import json
import re
import threading
from base64 import b64encode
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

Object = dict[str, Any]

KINDS: Mapping[str, tuple[tuple[str, str, bool], ...]] = {
    "v1": (
        ("configmaps", "ConfigMap", True),
        ("namespaces", "Namespace", False),
        ("persistentvolumeclaims", "PersistentVolumeClaim", True),
        ("pods", "Pod", True),
        ("secrets", "Secret", True),
        ("serviceaccounts", "ServiceAccount", True),
        ("services", "Service", True),
    ),
    "apps/v1": (("daemonsets", "DaemonSet", True),),
    "batch/v1": (("cronjobs", "CronJob", True),),
    "rbac.authorization.k8s.io/v1": (
        ("clusterroles", "ClusterRole", False),
        ("clusterrolebindings", "ClusterRoleBinding", False),
        ("roles", "Role", True),
        ("rolebindings", "RoleBinding", True),
    ),
    "networking.k8s.io/v1": (("networkpolicies", "NetworkPolicy", True),),
}
"""By API version: plural, kind, whether in namespaces."""
OPERATOR: Mapping[str, tuple[tuple[str, str, bool], ...]] = {
    "monitoring.coreos.com/v1": (
        ("servicemonitors", "ServiceMonitor", True),
        ("podmonitors", "PodMonitor", True),
        ("prometheusrules", "PrometheusRule", True),
    ),
}
"""What the Prometheus Operator adds."""

_PATH = re.compile(
    r"/(?:api/(?P<core>v1)|apis/(?P<group>[^/]+/[^/]+))"
    r"(?:/namespaces/(?P<namespace>[^/]+)(?=/))?(?:/(?P<plural>[^/]+)(?:/(?P<name>[^/]+))?)?"
)


class ApiServer(ThreadingHTTPServer):
    """Keeps objects; `url` is where."""

    daemon_threads = True

    def __init__(self, kinds: Mapping[str, tuple[tuple[str, str, bool], ...]]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.kinds = kinds
        self.kept: dict[tuple[str, str, str, str], Object] = {}
        """By API version, plural, namespace and name."""

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self.server_port}"

    def of_kind(self, kind: str) -> list[Object]:
        """Those that are kept now."""
        return [one for one in self.kept.values() if one.get("kind") == kind]


class _Handler(BaseHTTPRequestHandler):
    server: ApiServer
    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        if path == "/version":
            return self._answer({"major": "1", "minor": "33", "gitVersion": "v1.33.0"})
        if path == "/api":
            return self._answer({"kind": "APIVersions", "versions": ["v1"]})
        if path == "/apis":
            return self._answer({"kind": "APIGroupList", "apiVersion": "v1", "groups": self._groups()})
        found = _PATH.fullmatch(path)
        if found is None:
            return self._status(404, "NotFound")
        version, plural = found["core"] or found["group"], found["plural"]
        if plural is None:
            return self._answer(self._resources(version))
        if found["name"] is not None:
            one = self.server.kept.get((version, plural, found["namespace"] or "", found["name"]))
            return self._answer(one) if one is not None else self._status(404, "NotFound")
        selector = parse_qs(query).get("labelSelector", [""])[0]
        wanted = dict(part.split("=", 1) for part in selector.split(",") if "=" in part and "!" not in part)
        items = [
            one
            for (its_version, its_plural, namespace, _), one in self.server.kept.items()
            if (its_version, its_plural) == (version, plural)
            and found["namespace"] in (None, namespace)
            and wanted.items() <= one["metadata"].get("labels", {}).items()
        ]
        kind = next(its_kind for its, its_kind, _ in self.server.kinds[version] if its == plural)
        return self._answer({"kind": f"{kind}List", "apiVersion": version, "metadata": {}, "items": items})

    def do_POST(self) -> None:
        given, place = self._given()
        if place in self.server.kept:
            return self._status(409, "AlreadyExists")
        self.server.kept[place] = given
        return self._answer(given, 201)

    def do_PUT(self) -> None:
        given, place = self._given()
        self.server.kept[place] = given
        return self._answer(given)

    def do_PATCH(self) -> None:
        given, place = self._given()
        if place not in self.server.kept:
            return self._status(404, "NotFound")
        self.server.kept[place] = _merged(self.server.kept[place], given)
        return self._answer(self.server.kept[place])

    def do_DELETE(self) -> None:
        _, place = self._given()
        gone = self.server.kept.pop(place, None)
        return self._answer(gone) if gone is not None else self._status(404, "NotFound")

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - http.server's name
        pass

    def _given(self) -> tuple[Object, tuple[str, str, str, str]]:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        given: Object = {}
        if self.command == "DELETE":
            pass  # how to delete it is of no matter here
        elif body.startswith(_PROTOBUF):
            given = _secret(body.removeprefix(_PROTOBUF))
        elif body:
            given = json.loads(body)
        found = _PATH.fullmatch(urlsplit(self.path).path)
        assert found is not None, self.path
        name = found["name"] or given["metadata"]["name"]
        return given, (found["core"] or found["group"], found["plural"], found["namespace"] or "", name)

    def _groups(self) -> list[Object]:
        named: list[Object] = []
        for version in self.server.kinds:
            if "/" in version:
                one = {"groupVersion": version, "version": version.split("/")[1]}
                named.append({"name": version.split("/")[0], "versions": [one], "preferredVersion": one})
        return named

    def _resources(self, version: str) -> Object:
        verbs = ["create", "delete", "get", "list", "patch", "update", "watch"]
        return {
            "kind": "APIResourceList",
            "apiVersion": "v1",
            "groupVersion": version,
            "resources": [
                {"name": plural, "singularName": "", "namespaced": namespaced, "kind": kind, "verbs": verbs}
                for plural, kind, namespaced in self.server.kinds.get(version, ())
            ],
        }

    def _status(self, code: int, reason: str) -> None:
        self._answer(
            {"kind": "Status", "apiVersion": "v1", "status": "Failure", "reason": reason, "code": code}, code
        )

    def _answer(self, document: Object, code: int = 200) -> None:
        body = json.dumps(document).encode()
        self.send_response(code)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


# --- releases, which Helm keeps as Secrets and sends in Kubernetes' binary form --------------------------

_PROTOBUF = b"k8s\x00"


def _secret(body: bytes) -> Object:
    """The Secret in an envelope; the numbers are those of its fields in Kubernetes' own definitions."""
    secret = _fields(_fields(body)[2][0])
    metadata = _fields(secret[1][0])
    return {
        "kind": "Secret",
        "apiVersion": "v1",
        "metadata": {
            "name": metadata[1][0].decode(),
            "namespace": metadata[3][0].decode(),
            "labels": {key: value.decode() for key, value in _map(metadata.get(11, []))},
        },
        "data": {key: b64encode(value).decode() for key, value in _map(secret.get(2, []))},
        "type": secret[3][0].decode(),
    }


def _map(entries: list[bytes]) -> Iterator[tuple[str, bytes]]:
    for entry in entries:
        fields = _fields(entry)
        yield fields[1][0].decode(), fields[2][0]


def _fields(message: bytes) -> dict[int, list[bytes]]:
    """By number, those that have a length; the others are numbers that we need not."""
    found: dict[int, list[bytes]] = {}
    at = 0
    while at < len(message):
        key, at = _number(message, at)
        value, at = _number(message, at)
        if key & 7 == 2:
            found.setdefault(key >> 3, []).append(message[at : at + value])
            at += value
    return found


def _number(message: bytes, at: int) -> tuple[int, int]:
    """A number in groups of seven bits, and where it ends."""
    value = shift = 0
    while True:
        byte = message[at]
        value |= (byte & 0x7F) << shift
        at, shift = at + 1, shift + 7
        if byte < 0x80:
            return value, at


def _merged(kept: Any, patch: Any) -> Any:
    """As a merge patch does: lists are replaced, and null removes."""
    if not isinstance(kept, dict) or not isinstance(patch, dict):
        return patch
    whole = {**kept, **{key: _merged(kept.get(key), value) for key, value in patch.items()}}
    return {key: value for key, value in whole.items() if value is not None and not key.startswith("$")}


@contextmanager
def serving(directory: Path, *, operator: bool) -> Iterator[tuple[ApiServer, Path]]:
    """A cluster with the namespace `gpu`, and the kubeconfig that leads to it."""
    server = ApiServer({**KINDS, **(OPERATOR if operator else {})})
    namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": "gpu"}}
    server.kept["v1", "namespaces", "", "gpu"] = namespace
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    path = directory / "kubeconfig"
    cluster = {"name": "it", "cluster": {"server": server.url}}
    context = {"name": "it", "context": {"cluster": "it", "user": "it"}}
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [cluster],
        "users": [{"name": "it", "user": {}}],
        "contexts": [context],
        "current-context": "it",
    }
    path.write_text(json.dumps(document))
    path.chmod(0o600)
    try:
        yield server, path
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
