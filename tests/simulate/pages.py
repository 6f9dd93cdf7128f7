"""Reading a page in tests: with prometheus_client's parser, which is nobody's here."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from agent.simulate.node import SimulatedNode


class Page:
    """The samples of one page."""

    def __init__(self, text: str) -> None:
        self.families = list(text_string_to_metric_families(text))
        self.samples = [sample for family in self.families for sample in family.samples]

    def __getitem__(self, name: str) -> float:
        """The sum of this sample over its label sets."""
        values = [sample.value for sample in self.samples if sample.name in (name, f"vllm:{name}")]
        if not values:
            raise KeyError(name)
        return sum(values)

    def labelled(self, name: str, **labels: str) -> float:
        """The one sample that has these labels."""
        (value,) = (
            sample.value
            for sample in self.samples
            if sample.name == f"vllm:{name}" and labels.items() <= sample.labels.items()
        )
        return value

    def label_names(self) -> dict[str, set[str]]:
        """Of each sample name, the labels it bears."""
        names: dict[str, set[str]] = {}
        for sample in self.samples:
            names.setdefault(sample.name, set()).update(sample.labels)
        return names


def page_of(node: SimulatedNode, server: int = 0) -> Page:
    """What this server's /metrics says now, without the way over HTTP."""
    answer = node.servers[server].answer("/metrics")
    assert answer is not None
    return Page(answer[1].decode())
