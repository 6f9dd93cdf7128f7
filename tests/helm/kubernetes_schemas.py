"""Kubernetes' own schemas of several versions, strict: an unknown key is a mistake.

`kubernetes-validate` reads all definitions anew for each object, which takes longer than all of our tests;
so its schemas are read here, each version's definitions once.
"""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
from jsonschema import Draft202012Validator
from referencing import Registry, Resource

VERSIONS = ("1.25", "1.31", "1.37")
"""The oldest that the chart takes, one between, and the newest that there are schemas of."""
_SCHEMAS = Path(kubernetes_validate.__file__).parent / "kubernetes-json-schema"


def problems_of(an_object: dict[str, Any], version: str) -> list[str]:
    """What that version finds wrong."""
    group, _, api = an_object["apiVersion"].rpartition("/")
    name = "-".join(filter(None, (an_object["kind"].lower(), group.split(".")[0], api)))
    subject = f"{an_object['kind']} {an_object['metadata']['name']}, Kubernetes {version}"
    return [
        f"{subject}: {error.json_path} {error.message}"
        for error in _validator(name, version).iter_errors(an_object)
    ]


@cache
def _validator(name: str, version: str) -> Draft202012Validator:
    schema = json.loads((_folder(version) / f"{name}.json").read_text())
    return Draft202012Validator(schema, registry=_definitions(version))


@cache
def _definitions(version: str) -> Registry[Any]:
    definitions = Resource.from_contents(json.loads((_folder(version) / "_definitions.json").read_text()))
    return definitions @ Registry()


def _folder(version: str) -> Path:
    return _SCHEMAS / f"v{version}.0-local-strict"
