"""What really happened on a simulated node: what tests compare the agent's conclusions with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from agent.simulate.activity import Cause, activity_between, seconds_by_cause
from agent.simulate.engine import WorkDone
from agent.simulate.parts import Part
from agent.simulate.present import Present
from agent.simulate.timeline import Timeline

IDLE_RATIO = 0.9
"""A GPU without work for more than this share of the time is idle."""


class Truth:
    """The node's own record. Times are seconds since the node's start, not after now."""

    def __init__(
        self,
        *,
        parts: Sequence[Part],
        timelines: Sequence[Timeline],
        untellable: frozenset[int],
        work: Sequence[Sequence[WorkDone]],
        present: Present,
    ) -> None:
        self._parts = parts
        self._timelines = timelines
        self._untellable = untellable
        self._work = work
        self._present = present

    def seconds(self, gpu_index: int, start_seconds: float, end_seconds: float) -> dict[Cause, float]:
        """The time of a GPU by its cause; the values sum to the time asked about."""
        with self._present():
            timeline = self._timelines[gpu_index]
            return seconds_by_cause(timeline.at(start_seconds), timeline.at(end_seconds))

    def bottleneck(self, gpu_index: int, start_seconds: float, end_seconds: float) -> Cause:
        """What bounded this GPU.

        `unknown` where no observer can tell: it was lost, hung, or its counters contradict each other.
        Small kernels and the host compete together with the others; the larger of the two names them.
        """
        seconds = self.seconds(gpu_index, start_seconds, end_seconds)
        elapsed = end_seconds - start_seconds
        if gpu_index in self._untellable or seconds["unknown"] > elapsed / 2:
            return "unknown"
        if seconds["idle"] > IDLE_RATIO * elapsed:
            return "idle"
        overhead: Cause = "host" if seconds["host"] > seconds["kernel_latency"] else "kernel_latency"
        shares: dict[Cause, float] = {
            "memory_bandwidth": seconds["memory_bandwidth"],
            "compute": seconds["compute"],
            "interconnect": seconds["interconnect"],
            overhead: seconds["kernel_latency"] + seconds["host"],
        }
        return max(shares, key=shares.__getitem__)

    def dram_bytes(self, gpu_index: int, start_seconds: float, end_seconds: float) -> float:
        """What this GPU's memory really moved."""
        with self._present():
            timeline = self._timelines[gpu_index]
            seconds = end_seconds - start_seconds
            activity = activity_between(timeline.at(start_seconds), timeline.at(end_seconds), seconds)
            assert activity.dram_ratio is not None
            return activity.dram_ratio * self._parts[gpu_index].dram_bytes_per_second * seconds

    def work(self, server_index: int, rank: int = 0) -> WorkDone:
        """What this engine has done until now, over all its starts; a copy."""
        with self._present():
            return replace(self._work[server_index][rank])
