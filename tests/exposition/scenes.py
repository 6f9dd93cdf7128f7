"""Nodes to look at, made by the real sampler from scripted sources in virtual time.

Assessments are frozen, so that each scene is played once a test run.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache
from typing import Generic, TypeVar

from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.errors import SourceAbsentError, SourceError
from agent.readings import (
    Activity,
    EngineCounters,
    EngineReading,
    GpuLost,
    GpuReading,
    ModelFacts,
    NodeReading,
    ServerReading,
)
from agent.roster import MonitoredServer, Roster
from agent.sampler import Inputs, Sampler, Settings
from agent.sources.base import Poller

T = TypeVar("T")
SECONDS = 60

H100 = GpuReading(
    index=0,
    uuid="GPU-0",
    name="NVIDIA H100 80GB HBM3",
    memory_total_bytes=85_520_809_984,
    memory_used_bytes=71_000_000_000,
    power_watts=412.0,
    power_limit_watts=700.0,
    temperature_celsius=54.0,
    sm_clock_hertz=1.83e9,
    memory_clock_hertz=2.619e9,
    memory_clock_max_hertz=2.619e9,
    kernel_time_ratio=0.99,
    clock_limit_reasons=(),
    activity=Activity(
        evidence="gpm", seconds=1.0, dram_ratio=0.70, tensor_ratio=0.04, sm_ratio=0.6, graphics_ratio=0.97
    ),
)


@dataclass
class Scripted(Generic[T]):
    """A source that answers by a function of the seconds since its start, or raises what that raises."""

    name: str
    answer: Callable[[float], T]
    clock: ManualClock
    failure_reasons: tuple[str, ...] = ()

    def read(self) -> T:
        return self.answer(self.clock.monotonic())

    def close(self) -> None:
        pass


def observe(
    gpus: Callable[[float], NodeReading] | None,
    servers: dict[str, Callable[[float], ServerReading]] | None = None,
    *,
    seconds: int = SECONDS,
    node: str = "node-7",
) -> Assessment:
    """What is concluded after that many seconds; server number n runs on GPU n."""
    clock = ManualClock()
    nvml: Poller[NodeReading] | None = None
    if gpus is not None:
        nvml = Poller(Scripted("nvml", gpus, clock), interval_seconds=1, deadline_seconds=5, clock=clock)
    monitored = [
        MonitoredServer(
            poller=Poller(
                Scripted(f"engine:{server}", answer, clock),
                interval_seconds=5,
                deadline_seconds=5,
                clock=clock,
            ),
            server=server,
            engine="vllm",
            gpus=(index,),
        )
        for index, (server, answer) in enumerate((servers or {}).items())
    ]
    sampler = Sampler(
        Inputs(settings=Settings(node=node), nvml=nvml),
        roster=Roster(configured=monitored, clock=clock),
        clock=clock,
    )
    for second in range(seconds):
        clock.advance(1)
        if nvml is not None:
            nvml.poll()
        for server in monitored if second % 5 == 0 else ():
            server.poller.poll()
        sampler.tick()
    assert sampler.latest is not None
    return sampler.latest


def node_of(*gpus: GpuReading | GpuLost) -> Callable[[float], NodeReading]:
    return lambda _: NodeReading(gpus=gpus, driver_version="580.105.08")


def decoding(
    *, batch: int = 8, step_seconds: float = 0.0072, model: str = "meta-llama/Llama-3.1-8B-Instruct"
) -> Callable[[float], ServerReading]:
    """A vLLM that decodes without pause: 200 tokens an answer, 300 a prompt."""

    def answer(now: float) -> ServerReading:
        steps = now / step_seconds
        requests = steps * batch / 200
        counters = EngineCounters(
            generation_tokens=steps * batch + requests,
            prefill_tokens=requests * 300,
            cached_prompt_tokens=0.0,
            steps=steps,
            first_tokens=requests,
            inter_token_seconds=steps * batch * step_seconds,
            inter_token_intervals=steps * batch,
            preemptions=0.0,
        )
        reading = EngineReading(
            engine="vllm",
            model=model,
            start_time_seconds=1.0,
            requests_running=float(batch),
            requests_waiting=0.0,
            kv_used_ratio=batch * 400 / 400_000,
            kv_capacity_tokens=400_000.0,
            kv_block_tokens=16,
            counters=counters,
            facts=ModelFacts(kv_dtype="auto", max_num_seqs=256),
        )
        return ServerReading(engines=(reading,))

    return answer


@cache
def memory_bound(*, model: str = "meta-llama/Llama-3.1-8B-Instruct", node: str = "node-7") -> Assessment:
    """One H100 that reads the weights of an 8B model for eight tokens at a time."""
    return observe(node_of(H100), {"127.0.0.1:8000": decoding(model=model)}, node=node)


@cache
def no_gpu() -> Assessment:
    def absent(_: float) -> NodeReading:
        raise SourceAbsentError("nvml: no NVIDIA driver is loaded on this machine")

    return observe(absent)


@cache
def gpu_lost() -> Assessment:
    lost = GpuLost(
        index=1,
        uuid="GPU-1",
        name=H100.name,
        reason="gpu_is_lost",
        message="GPU 1: it has fallen off the bus; reset it or reboot",
    )
    return observe(node_of(H100, lost), {"127.0.0.1:8000": decoding()})


@cache
def engine_down() -> Assessment:
    serve = decoding()

    def answer(now: float) -> ServerReading:
        if now > 20:
            raise SourceError("refused", "vllm at http://127.0.0.1:8000/metrics: refused; is the server up?")
        return serve(now)

    return observe(node_of(H100), {"127.0.0.1:8000": answer})


@cache
def unknown() -> Assessment:
    """A GPU of an older kind that nothing is known of, and a model that nothing is known of."""
    old = replace(
        H100,
        name="Tesla K80",
        activity=None,
        activity_problem="this GPU has no profiling counters",
        memory_clock_max_hertz=None,
        kernel_time_ratio=None,
        power_watts=None,
        power_limit_watts=None,
        temperature_celsius=None,
    )
    return observe(node_of(old), {"127.0.0.1:8000": decoding(model="acme/secret-7b")})


@cache
def contradicting() -> Assessment:
    silent = Activity(
        evidence="gpm", seconds=1.0, dram_ratio=0.0, tensor_ratio=0.0, sm_ratio=0.0, graphics_ratio=0.0
    )
    return observe(node_of(replace(H100, activity=silent)), {"127.0.0.1:8000": decoding()})


@cache
def throttled() -> Assessment:
    slow = replace(H100, sm_clock_hertz=1.2e9, clock_limit_reasons=("sw_power_cap",))
    return observe(node_of(slow), {"127.0.0.1:8000": decoding()})


@cache
def eight_gpus() -> Assessment:
    """A full node, engines alike on seven GPUs and nothing on the last."""
    idle = replace(
        H100,
        kernel_time_ratio=0.0,
        activity=Activity(
            evidence="gpm", seconds=1.0, dram_ratio=0.0, tensor_ratio=0.0, sm_ratio=0.0, graphics_ratio=0.0
        ),
    )
    gpus = [replace(idle if index == 7 else H100, index=index, uuid=f"GPU-{index}") for index in range(8)]
    servers = {f"127.0.0.1:{8000 + index}": decoding(batch=8 + index) for index in range(7)}
    return observe(node_of(*gpus), servers)


@cache
def nvml_off() -> Assessment:
    return observe(None)


@cache
def first_tick() -> Assessment:
    return observe(node_of(H100), {"127.0.0.1:8000": decoding()}, seconds=1)


SCENES: dict[str, Callable[[], Assessment]] = {
    "memory bound": memory_bound,
    "no GPU": no_gpu,
    "NVML switched off": nvml_off,
    "GPU lost": gpu_lost,
    "engine down": engine_down,
    "unknown": unknown,
    "contradicting": contradicting,
    "throttled": throttled,
    "eight GPUs": eight_gpus,
    "first tick": first_tick,
}
