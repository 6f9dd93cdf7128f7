"""What a simulated node is made of: GPUs, servers with their engines, traffic, and what goes wrong when."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from agent.simulate.parts import H100, Part

BLOCK_TOKENS = 16
"""Tokens in one block of KV cache."""


ClockHolder = Literal["sw_power_cap", "hw_slowdown", "sw_thermal", "hw_thermal", "hw_power_brake"]
"""What holds an SM clock down, in the words of the real source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """One GPU."""

    part: Part = H100
    sm_clock_ratio: float = 1.0
    """Of its maximum."""
    clock_held_by: tuple[ClockHolder, ...] = ("sw_power_cap",)
    """All that NVML names when the SM clock is below its maximum. Where power is none of them, what it may
    draw falls with the clock."""
    hotter_celsius: int = 0
    """Than such a part is at the power that it draws: its air is warm, or does not move."""
    power_limit_watts: float | None = None
    """Set below its part's own, which is `None`."""
    profiling_reads_zero: bool = False
    """Its profiling counters say nothing happens, whatever happens."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Model:
    """A model that engines serve."""

    name: str
    """As the agent's catalogue has it. Its configuration says so, be it true or not."""
    served_name: str
    measured_name: str
    """As the measured steps have it."""
    weight_bytes: float
    kv_bytes_per_token: int
    max_model_len: int = 32768


@dataclass(frozen=True, slots=True, kw_only=True)
class Lengths:
    """Numbers of tokens, uniform between two, both included."""

    low: int
    high: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """Requests: arriving at random (Poisson), from clients that ask again at once when answered, or both."""

    requests_per_second: float = 0.0
    clients: int = 0
    pause_seconds: float = 0.0
    """Of a client, between an answer and its next question."""
    all_begin_at_once: bool = False
    """Clients begin with a whole answer each, so that all grow together; else in the middle of one."""
    prompt: Lengths = Lengths(low=1, high=1)
    output: Lengths = Lengths(low=1, high=1)
    shared_prefix_tokens: int = 0
    """Every prompt begins with these same tokens (a system prompt): after the first they are in the cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrafficChange:
    """Other traffic from now on; what is under way is answered. Clients too many leave when answered."""

    at_seconds: float
    """Since the node's start."""
    traffic: Traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Speculation:
    """Speculative decoding: tokens are guessed, and the model verifies them all in one step."""

    tokens: int
    """Guessed for each sequence in each step."""
    acceptance_ratio: float
    """How often a guess is right, if all before it in the step were."""
    draft_seconds: float = 0.0
    """In a step, of the kernels of a smaller model that guesses; it mostly reads its weights. Guesses found
    in the prompt need none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Engine:
    """One engine core (one data-parallel rank); its tensor-parallel ranks are its GPUs."""

    model: Model
    gpus: tuple[int, ...]
    traffic: Traffic
    """From the start until the first change."""
    traffic_changes: tuple[TrafficChange, ...] = ()
    """In the order of time."""
    num_gpu_blocks: int
    max_num_seqs: int = 256
    max_num_batched_tokens: int = 2048
    host_gap_seconds: float = 0.0004
    """Between the end of a step's kernels and the next step's first: schedule, sample, detokenise."""
    speculation: Speculation | None = None

    @property
    def tokens_per_sequence(self) -> int:
        """Computed for each sequence that decodes, in each step."""
        return 1 + (self.speculation.tokens if self.speculation else 0)

    def __post_init__(self) -> None:
        for traffic in (self.traffic, *(change.traffic for change in self.traffic_changes)):
            longest = traffic.shared_prefix_tokens + traffic.prompt.high + traffic.output.high
            if longest > (self.num_gpu_blocks - 1) * BLOCK_TOKENS:
                raise ValueError(f"a request of {longest} tokens would wait forever for its KV blocks")
            if longest > self.model.max_model_len:
                raise ValueError(f"a request of {longest} tokens is longer than the model's context")
            if traffic.shared_prefix_tokens % BLOCK_TOKENS:
                raise ValueError(f"only whole blocks of {BLOCK_TOKENS} tokens are found in the cache")
            if traffic.shared_prefix_tokens != self.traffic.shared_prefix_tokens:
                raise ValueError("one prefix is in the cache: traffic that changes must keep it")
        if self.max_num_seqs * self.tokens_per_sequence >= self.max_num_batched_tokens:
            raise ValueError("a full batch would leave no tokens for prefill")


@dataclass(frozen=True, slots=True, kw_only=True)
class Server:
    """What answers on one port."""

    engines: tuple[Engine, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class DcgmExporter:
    """A dcgm-exporter beside the GPUs."""

    collect_seconds: float = 30.0
    """Its own default."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """Something goes wrong, and perhaps comes back.

    `server_down`: its processes are gone and its port refuses; it comes back as a fresh start.
    `engines_hung`: its steps never end, its kernels stay resident, and its pages are still answered.
    `gpu_lost`: the GPU cannot be read, and the servers on it go down with it.
    `driver_down`: no reading of NVML succeeds; the GPUs work on, and so do the servers.
    `dcgm_frozen`: the dcgm-exporter collects no more, and goes on to show what it has.
    `dcgm_down`: the dcgm-exporter's port refuses.
    """

    what: Literal["server_down", "engines_hung", "gpu_lost", "driver_down", "dcgm_frozen", "dcgm_down"]
    index: int = 0
    """Of the server or GPU; there is only one driver, and one exporter."""
    at_seconds: float
    until_seconds: float = math.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """The hardware of a GPU reports that something broke. It works on."""

    gpu: int
    at_seconds: float
    xids: tuple[int, ...] = ()
    """The driver's error reports, one each."""
    ecc_uncorrected_errors: int = 0
    row_remap_pending: bool = False
    """From now on a reset would take the bad row of memory out of use."""
    recovery_action: str = "none"
    """What the driver asks for from now on, in the words of the real source."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    """A node and what happens on it. Times are seconds since its start."""

    name: str
    description: str
    """For people: what happens here, and what an observer should find."""
    gpus: tuple[Gpu, ...]
    servers: tuple[Server, ...]
    dcgm: DcgmExporter | None = None
    outages: tuple[Outage, ...] = ()
    faults: tuple[Fault, ...] = ()

    @property
    def change_seconds(self) -> tuple[float, ...]:
        """When anything happens that is not the same all the time."""
        outages = (at for outage in self.outages for at in (outage.at_seconds, outage.until_seconds))
        faults = (fault.at_seconds for fault in self.faults)
        traffic = (
            change.at_seconds
            for server in self.servers
            for engine in server.engines
            for change in engine.traffic_changes
        )
        return tuple(sorted(at for at in (*outages, *faults, *traffic) if at < math.inf))

    @property
    def gpu_groups(self) -> tuple[tuple[int, ...], ...]:
        """The node's GPUs, together where an engine spans them."""
        groups = {engine.gpus for server in self.servers for engine in server.engines}
        used = {index for group in groups for index in group}
        return (*sorted(groups), *((index,) for index in range(len(self.gpus)) if index not in used))

    def __post_init__(self) -> None:
        grouped = sorted(index for group in self.gpu_groups for index in group)
        if grouped != list(range(len(self.gpus))):
            raise ValueError(
                f"{self.name}: engines must share all their GPUs or none, of those that are there"
            )
        for outage in self.outages:
            if outage.what == "gpu_lost" and (outage.index,) not in self.gpu_groups:
                raise ValueError(f"{self.name}: only a GPU whose engines need no other can be lost")
            if outage.what in ("dcgm_frozen", "dcgm_down") and self.dcgm is None:
                raise ValueError(f"{self.name}: there is no dcgm-exporter to freeze or to stop")
