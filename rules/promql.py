"""The few shapes that our PromQL is made of.

Everything is summed down to labels of our own and to those that say which node it was. The pod of the
agent is not among them: an agent that is replaced goes on where the one before it ended.
"""

from __future__ import annotations

from collections.abc import Iterable

TARGET = ("cluster", "job", "instance")
"""A node. `cluster` is there where several clusters share a storage, and costs nothing where it is not."""
GPU = (*TARGET, "gpu", "uuid")
DEVICE = (*TARGET, "uuid")
"""A GPU, whatever its index: that may change when another is lost."""
REPLICA = (*TARGET, "engine", "server", "rank")
"""One engine (a data-parallel rank), as the info metrics name it."""
ENGINE = (*REPLICA, "model")
SERVICE = ("cluster", "job", "model")
"""What users talk to: all engines of a model."""


def by(labels: Iterable[str]) -> str:
    """The labels as a list in PromQL."""
    return f"({', '.join(labels)})"


def selector(name: str, matchers: str = "") -> str:
    """The series of a name."""
    return f"{name}{{{matchers}}}" if matchers else name


def increase(name: str, window: str, labels: Iterable[str], matchers: str = "") -> str:
    """How much a counter rose over the window, summed to these labels."""
    return f"sum by {by(labels)} (increase({selector(name, matchers)}[{window}]))"


def mean(name: str, window: str, labels: Iterable[str], matchers: str = "") -> str:
    """The mean of a gauge over the window."""
    return f"avg by {by(labels)} (avg_over_time({selector(name, matchers)}[{window}]))"


def recorded(
    name: str, window: str, labels: Iterable[str], matchers: str = "", *, offset: str | None = None
) -> str:
    """The sum of recorded increases over the window: no increase of a sum, which a restart would spoil."""
    ago = f" offset {offset}" if offset is not None else ""
    return f"sum by {by(labels)} (sum_over_time({selector(name, matchers)}[{window}]{ago}))"


def ratio(part: str, whole: str) -> str:
    """Nothing where the whole is nothing: no traffic has no ratio, and is not inefficient."""
    return f"{part}\n/\n({whole} > 0)"


def bottleneck_share(bottleneck: str, window: str, labels: Iterable[str] = GPU) -> str:
    """The share of a GPU's observed time that went to one class."""
    keys = tuple(labels)
    return ratio(
        increase("roofline_gpu_bottleneck_seconds_total", window, keys, f'bottleneck="{bottleneck}"'),
        increase("roofline_gpu_observed_seconds_total", window, keys),
    )


def mean_of_engine(by_gpu: str) -> str:
    """What holds of GPUs by UUID, as the mean over those that each engine runs on."""
    placed = f"max by {by((*REPLICA, 'uuid'))} (roofline_engine_gpu_info)"
    return (
        f"avg by {by(ENGINE)} (\n"
        f"  {placed}\n"
        f"  * on {by(DEVICE)} group_left ()\n"
        f"  {indented(by_gpu)}\n"
        f"  * on {by(REPLICA)} group_left (model)\n"
        f"  (max by {by(ENGINE)} (roofline_engine_up) == 1)\n"
        f")"
    )


def indented(text: str, spaces: int = 2) -> str:
    """The further lines moved to the right."""
    return text.replace("\n", "\n" + " " * spaces)
