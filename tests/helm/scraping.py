"""The scrape configuration that a ServiceMonitor means, as the Prometheus Operator writes it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LIMITS = {
    "sampleLimit": "sample_limit",
    "labelLimit": "label_limit",
    "labelNameLengthLimit": "label_name_length_limit",
    "labelValueLengthLimit": "label_value_length_limit",
}


def scrape_configuration(
    monitor: dict[str, Any],
    secrets: Mapping[str, Mapping[str, str]],
    targets: Mapping[str, Mapping[str, str]],
    directory: Path,
) -> dict[str, Any]:
    """`targets` are addresses with the labels that service discovery gives them; Secrets become files."""
    (endpoint,) = monitor["spec"]["endpoints"]

    def file_of(reference: dict[str, str]) -> str:
        path = directory / f"{reference['name']}-{reference['key']}"
        path.write_text(secrets[reference["name"]][reference["key"]])
        return str(path)

    configuration: dict[str, Any] = {
        "job_name": f"serviceMonitor/{monitor['metadata']['namespace']}/{monitor['metadata']['name']}/0",
        "scheme": endpoint["scheme"],
        "metrics_path": endpoint["path"],
        "scrape_interval": "1s",
        "scrape_timeout": "1s",
        "honor_labels": endpoint["honorLabels"],
        "static_configs": [
            {"targets": [address], "labels": dict(labels)} for address, labels in targets.items()
        ],
        **{theirs: monitor["spec"][ours] for ours, theirs in LIMITS.items() if ours in monitor["spec"]},
    }
    if "tlsConfig" in endpoint:
        tls = endpoint["tlsConfig"]
        configuration["tls_config"] = {
            "server_name": tls["serverName"],
            "ca_file": file_of(tls["ca"]["secret"]),
        }
    if "basicAuth" in endpoint:
        user = endpoint["basicAuth"]["username"]
        configuration["basic_auth"] = {
            "username": secrets[user["name"]][user["key"]],
            "password_file": file_of(endpoint["basicAuth"]["password"]),
        }
    job = "__meta_kubernetes_service_label_" + re.sub(r"\W", "_", monitor["spec"]["jobLabel"])
    configuration["relabel_configs"] = [
        {"source_labels": ["__meta_kubernetes_namespace"], "target_label": "namespace"},
        {"source_labels": ["__meta_kubernetes_pod_name"], "target_label": "pod"},
        {"source_labels": [job], "regex": "(.+)", "target_label": "job"},
        *({_snake(key): value for key, value in one.items()} for one in endpoint["relabelings"]),
    ]
    return configuration


def _snake(name: str) -> str:
    return re.sub(r"([A-Z])", lambda found: f"_{found[1].lower()}", name)
