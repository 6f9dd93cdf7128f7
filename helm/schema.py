"""The schema of the chart's values, against which Helm holds what people give it.

The keys and their kinds follow from the file of values, `config` from the agent's own types, the alerts from
their table. Strict: an unknown key is an error, because a misspelt one that is ignored is a setting that is
believed. No key is required, since `helm upgrade --reuse-values` brings the values of an older chart.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, get_args

from agent.config import Configuration
from agent.report.options import FORMATS, GROUPINGS, LABEL
from helm.alerts import KEYS, key_of
from helm.values import Value, parse_values
from rules.alerts import ALERTS, Severity

Schema = dict[str, Any]

DURATION = r"^([0-9]+(ms|[smhdwy]))+$"
DECIMAL = r"^[0-9]+(\.[0-9]+)?(e[+-]?[0-9]+)?$"
TEXTS: Schema = {"type": "object", "additionalProperties": {"type": "string"}}
OBJECT: Schema = {"type": "object"}
OBJECTS: Schema = {"type": "array", "items": OBJECT}
NAMES: Schema = {"type": "array", "items": {"type": "string"}}
NAMED: Schema = {
    "type": "array",
    "items": {"anyOf": [{"type": "string"}, {"type": "object", "required": ["name"]}]},
}

MODELS: Schema = {
    "type": "array",
    "items": {
        "type": "object",
        "additionalProperties": False,
        "required": ["name", "configMap"],
        "properties": {key: {"type": "string", "minLength": 1} for key in ("name", "configMap", "key")},
    },
}

MORE: Mapping[str, Schema] = {
    "annotations": TEXTS,
    "capabilityChecks": {"type": "boolean"},
    "commonLabels": TEXTS,
    "dashboards.annotations": TEXTS,
    "dashboards.labels": TEXTS,
    "dnsPolicy": {"enum": ["", "Default", "ClusterFirst", "ClusterFirstWithHostNet", "None"]},
    "extraArgs": NAMES,
    "extraManifests": {"type": "array", "items": {"type": ["object", "string"]}},
    "global.imagePullSecrets": NAMED,
    "gpuAccess.mode": {"enum": ["environment", "volumeMounts", "none"]},
    "hostUsers": {"type": ["boolean", "null"]},
    "image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "image.pullPolicy": {"enum": ["Always", "IfNotPresent", "Never"]},
    "imagePullSecrets": NAMED,
    "nodeSelector": TEXTS,
    "podAnnotations": TEXTS,
    "podLabels": TEXTS,
    "prometheusRule.alertLabels": TEXTS,
    "prometheusRule.annotations": TEXTS,
    "prometheusRule.labels": TEXTS,
    "report.annotations": TEXTS,
    "report.extraArgs": NAMES,
    "report.formats": {"type": "array", "items": {"enum": list(FORMATS)}, "uniqueItems": True},
    "report.groupBy": {"type": "string", "pattern": f"^({'|'.join(GROUPINGS)}|{LABEL}.+)$"},
    "report.image.digest": {"type": "string", "pattern": "^(sha256:[0-9a-f]{64})?$"},
    "report.image.pullPolicy": {"enum": ["", "Always", "IfNotPresent", "Never"]},
    "report.models": MODELS,
    "report.nodeSelector": TEXTS,
    "report.persistence.accessModes": {
        "type": "array",
        "items": {"enum": ["ReadWriteOnce", "ReadWriteOncePod", "ReadWriteMany"]},
        "minItems": 1,
    },
    "report.persistence.annotations": TEXTS,
    "report.podAnnotations": TEXTS,
    "report.podLabels": TEXTS,
    "report.prometheusUrl": {"type": "string", "pattern": "^(https?://.+)?$"},
    "report.schedule": {"type": "string", "minLength": 1},
    "report.ttlSecondsAfterFinished": {"type": ["integer", "null"], "minimum": 0},
    "service.annotations": TEXTS,
    "service.ipFamilies": {"type": "array", "items": {"enum": ["IPv4", "IPv6"]}, "maxItems": 2},
    "service.ipFamilyPolicy": {"enum": ["", "SingleStack", "PreferDualStack", "RequireDualStack"]},
    "service.labels": TEXTS,
    "service.type": {"enum": ["ClusterIP", "NodePort", "LoadBalancer"]},
    "serviceAccount.annotations": TEXTS,
    "serviceMonitor.annotations": TEXTS,
    "serviceMonitor.interval": {"type": "string", "pattern": DURATION},
    "serviceMonitor.labels": TEXTS,
    "serviceMonitor.podTargetLabels": NAMES,
    "serviceMonitor.scrapeTimeout": {"type": "string", "pattern": DURATION},
    "serviceMonitor.targetLabels": NAMES,
    "terminationMessagePolicy": {"enum": ["File", "FallbackToLogsOnError"]},
    "test.timeoutSeconds": {"type": "integer", "minimum": 1, "maximum": 600},
    "verticalPodAutoscaler.updateMode": {"enum": ["Off", "Initial", "Recreate", "Auto", "InPlaceOrRecreate"]},
    "web.port": {"type": "integer", "minimum": 1, "maximum": 65535},
    "web.tls.certManager.dnsNames": NAMES,
    "web.tls.clientAuth.type": {
        "enum": ["NoClientCert", "VerifyClientCertIfGiven", "RequireAndVerifyClientCert"]
    },
    "web.tls.minVersion": {"enum": ["TLS12", "TLS13"]},
}
"""What a default does not say of its key."""


def render_schema(values: str) -> str:
    """The schema for these values, as Helm reads it."""
    definitions: Schema = {}
    root = _section(parse_values(values), (), definitions)
    # Where another chart has this one as a part: its switch for it, and whatever is global there.
    root["properties"]["enabled"] = {"type": "boolean"}
    root["properties"]["global"]["additionalProperties"] = True
    document = {
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "Values of the chart roofline-agent",
        **root,
        "definitions": definitions,
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _section(values: tuple[Value, ...], path: tuple[str, ...], definitions: Schema) -> Schema:
    properties: Schema = {}
    for value in values:
        if value.path[:-1] == path:
            described = {"description": value.comment} if value.comment else {}
            properties[value.path[-1]] = {**described, **_kind(value, values, definitions)}
    return _strict(properties)


def _strict(properties: Schema) -> Schema:
    return {"type": "object", "additionalProperties": False, "properties": properties}


def _kind(value: Value, values: tuple[Value, ...], definitions: Schema) -> Schema:
    if value.key == "config":
        return _configuration(definitions)
    if value.key == "prometheusRule.alerts":
        return _alerts()
    if value.key in MORE:
        return dict(MORE[value.key])
    if value.section:
        return _section(values, value.path, definitions)
    return _of_default(value)


def _of_default(value: Value) -> Schema:
    match value.default:
        case bool():
            return {"type": "boolean"}
        case int():
            return {"type": "integer", "minimum": 0}
        case str():
            return {"type": "string"}
        case dict():
            return OBJECT
        case list():
            return OBJECTS
        case _:
            raise AssertionError(f"{value.key}: what may it be? Say so in MORE")


def _alerts() -> Schema:
    with_threshold = {key_of(alert) for alert in ALERTS if alert.threshold is not None}
    return _strict({key: _alert(threshold=key in with_threshold) for key in KEYS})


def _alert(*, threshold: bool) -> Schema:
    properties: Schema = {
        "enabled": {"type": "boolean"},
        "for": {"type": "string", "pattern": DURATION},
        "severity": {"enum": list(get_args(Severity))},
    }
    if threshold:
        properties["threshold"] = _number({"type": "number", "minimum": 0})
    return _strict(properties)


# --- the agent's own configuration ---------------------------------------------------------------------


def _configuration(definitions: Schema) -> Schema:
    """As the agent reads it, without what the chart decides and what must not stand in a ConfigMap."""
    schema = Configuration.model_json_schema(by_alias=True, ref_template="#/definitions/{model}")
    found: Schema = {name: _plain(kind) for name, kind in schema.pop("$defs").items()}
    del schema["properties"]["web"], found["Web"]
    for credentials in ("Engine", "PodCredentials"):
        del found[credentials]["properties"]["headers"]
    definitions.update(sorted(found.items()))
    plain: Schema = _plain(schema)
    return plain


def _number(schema: Schema) -> Schema:
    """Or as text: what ``--set`` makes of a number with a point."""
    return {"anyOf": [schema, {"type": "string", "pattern": DECIMAL}]}


def _plain(schema: Any, *, names: bool = False) -> Any:
    """Without titles and docstrings, which speak of Python; `names`: its keys are those of properties."""
    if isinstance(schema, list):
        return [_plain(one) for one in schema]
    if not isinstance(schema, dict):
        return schema
    unwanted = () if names else ("title", "description", "default", "writeOnly")
    kept = {
        key: _plain(value, names=key == "properties" and not names)
        for key, value in schema.items()
        if key not in unwanted
    }
    return _number(kept) if not names and kept.get("type") == "number" else kept
