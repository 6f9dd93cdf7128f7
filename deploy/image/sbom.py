"""What is installed beside this interpreter, as a CycloneDX document: each distribution with its licence.

The same tree gives the same document, byte for byte: no date, no random serial number.
"""

from __future__ import annotations

import json
import platform
import sys
import uuid
from importlib.metadata import Distribution, distributions
from typing import Any

OWN = "roofline-agent"


def component(found: Distribution) -> dict[str, Any]:
    """One distribution."""
    name = found.metadata["Name"].lower().replace("_", "-").replace(".", "-")
    licence = found.metadata.get("License-Expression") or found.metadata.get("License") or ""
    url = f"pkg:pypi/{name}@{found.version}"
    stated = {"licenses": [{"license": {"name": licence}}]} if 0 < len(licence) < 100 else {}
    return {
        "type": "application" if name == OWN else "library",
        "bom-ref": url,
        "name": name,
        "version": found.version,
        "purl": url,
        **stated,
    }


def document() -> dict[str, Any]:
    """All of it."""
    components = sorted(map(component, distributions()), key=lambda one: str(one["purl"]))
    own = [one for one in components if one["name"] == OWN]
    libraries = [one for one in components if one["name"] != OWN]
    python = {"type": "platform", "name": "cpython", "version": platform.python_version()}
    content = json.dumps([own, libraries, python], sort_keys=True)
    return {
        "bomFormat": "CycloneDX",
        "specVersion": "1.5",
        "serialNumber": f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, content)}",
        "version": 1,
        "metadata": {"component": own[0]} if own else {},
        "components": [*libraries, python],
    }


if __name__ == "__main__":
    json.dump(document(), sys.stdout, indent=1)
    sys.stdout.write("\n")
