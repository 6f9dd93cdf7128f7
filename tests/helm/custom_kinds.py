"""Kinds that operators bring: what may stand in them, by the operators' own schemas and types.

The schemas check what is there, and say nothing of keys that they do not know; the types do.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tests import npm_packages
from tests.dashboards import grafana_packages

PACKAGES = Path(__file__).parent / "kubernetes"

MODULES = {
    "monitoring.coreos.com/v1": "prometheus-operator/monitoring.coreos.com/v1",
    "cert-manager.io/v1": "cert-manager/cert-manager.io/v1",
    "autoscaling.k8s.io/v1": "autoscaler/autoscaling.k8s.io/v1",
    "grafana.integreatly.org/v1beta1": "grafana-operator/grafana.integreatly.org/v1beta1",
}

_SECRET = {"secret": {"name": str, "key": str}}
_POD_MONITORING: dict[str, Any] = {
    "selector": {"matchLabels": dict},
    "targetLabels": {"metadata": [str]},
    "limits": {"samples": int, "labels": int, "labelNameLength": int, "labelValueLength": int},
    "endpoints": [
        {
            "port": str,
            "path": str,
            "scheme": str,
            "interval": str,
            "timeout": str,
            "basicAuth": {"username": str, "password": _SECRET},
            "tls": {
                "serverName": str,
                "insecureSkipVerify": bool,
                "ca": _SECRET,
                "cert": _SECRET,
                "key": _SECRET,
            },
            "metricRelabeling": [
                {"action": str, "sourceLabels": [str], "regex": str, "targetLabel": str, "replacement": str}
            ],
        }
    ],
}
"""What we use of Google's PodMonitoring, read off its definition; no package has it."""


def problems_of(objects: Sequence[dict[str, Any]]) -> list[str]:
    """What the schemas find wrong."""
    found: list[str] = npm_packages.run_script(PACKAGES / "validate.mjs", list(objects))
    return found


def problems_of_types(objects: Sequence[dict[str, Any]]) -> str:
    """What the types find wrong: keys that they do not know, too."""
    project = npm_packages.install_packages(PACKAGES) / ".written"
    shutil.rmtree(project, ignore_errors=True)
    project.mkdir()
    imports, constants = set(), []
    for number, one in enumerate(objects):
        kind, module = one["kind"], MODULES[one["apiVersion"]]
        imports.add(f'import type {{I{kind}}} from "@kubernetes-models/{module}";\n')
        constants.append(f"export const object{number}: I{kind} = {json.dumps(one)};\n")
    (project / "objects.ts").write_text("".join(sorted(imports)) + "".join(constants))
    (project / "tsconfig.json").write_text(
        json.dumps(
            {
                "compilerOptions": {
                    "strict": True,
                    "noEmit": True,
                    "module": "nodenext",
                    "skipLibCheck": True,
                    "types": [],
                },
                "files": ["objects.ts"],
            }
        )
    )
    return grafana_packages.run_type_checker(project)


def problems_of_pod_monitoring(spec: dict[str, Any]) -> list[str]:
    """What in the specification of a PodMonitoring has no place in it."""
    return list(_misfits(spec, _POD_MONITORING, "spec"))


def _misfits(value: Any, wanted: Any, path: str) -> list[str]:
    if isinstance(wanted, type):
        return [] if isinstance(value, wanted) else [f"{path}: {value!r} is no {wanted.__name__}"]
    if isinstance(wanted, list):
        if not isinstance(value, list):
            return [f"{path}: no list"]
        return [problem for one in value for problem in _misfits(one, wanted[0], f"{path}[]")]
    return [
        problem
        for key, one in value.items()
        for problem in (
            _misfits(one, wanted[key], f"{path}.{key}") if key in wanted else [f"{path}.{key}: unknown"]
        )
    ]
