"""The chart's README: how to begin, and every value with its default."""

from __future__ import annotations

import json
from collections.abc import Iterator

from helm.values import Value, parse_values

_HEAD = """\
# roofline-agent

Generated from `values.yaml`; `make generate` rewrites it.

The agent on every node with an NVIDIA GPU: what bounds each GPU, what that costs, and what would make it
better. What the chart decides and why, privileges, TLS, monitors, upgrades:
[docs/deployment.md](../../docs/deployment.md).

```sh
helm install roofline-agent helm/roofline-agent --namespace monitoring --create-namespace \\
  --set serviceMonitor.enabled=true,prometheusRule.enabled=true,dashboards.enabled=true
helm test roofline-agent --namespace monitoring
```

`ci/*-values.yaml` are examples, each rendered and validated by the tests.

## Values
"""


def render_readme(values: str) -> str:
    """For who installs it."""
    return "\n".join(_lines(parse_values(values))) + "\n"


def _lines(values: tuple[Value, ...]) -> Iterator[str]:
    yield _HEAD
    yield "| key | default | |"
    yield "|---|---|---|"
    for value in values:
        if value.path[:2] == ("prometheusRule", "alerts"):
            if len(value.path) == 2:
                default = "as in [docs/alerts.md](../../docs/alerts.md)"
                yield f"| `{value.key}.NAME` | {default} | {_cell(value.comment)} |"
            continue
        if value.section and not value.comment:
            continue
        default = "" if value.section else f"`{_cell(json.dumps(value.default, ensure_ascii=False))}`"
        yield f"| `{value.key}` | {default} | {_cell(value.comment)} |"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
