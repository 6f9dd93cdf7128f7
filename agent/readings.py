"""Facts as the sources gave them, converted to base units, nothing derived.

Everything here is frozen. `None` means "cannot say"; zero is a measurement. A reading is made at
one edge (`sources/`, `engines/`) and never changed afterwards.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any, Generic, Literal, TypeVar

Evidence = Literal["gpm", "dcgm", "modelled", "mixed", "none"]
"""Where a number comes from. `mixed`: its parts come from different places."""

T = TypeVar("T")


# --- outcomes: what an attempt at a source can give ------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Read(Generic[T]):
    """The source answered."""

    reading: T
    at_seconds: float
    """When the answer was complete, on the agent's monotonic clock."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """There is no such source on this machine. Not a failure, and not zero."""

    message: str
    at_seconds: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Failed:
    """The source is there, and the attempt failed."""

    reason: str
    """One word, fit for a label value."""
    message: str
    at_seconds: float


Outcome = Read[T] | Absent | Failed


# --- GPUs ----------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """How active the parts of one GPU were, as measured over the last `seconds`.

    Each ratio is 0–1, of cycles (GPM) or as the source defines it; `None` where it was not given.
    """

    evidence: Evidence
    seconds: float
    dram_ratio: float | None = None
    """DRAM bandwidth used ÷ theoretical maximum."""
    tensor_ratio: float | None = None
    """Any tensor pipe active."""
    sm_ratio: float | None = None
    """SMs with at least one warp resident, averaged over SMs."""
    graphics_ratio: float | None = None
    """Share of time in which any compute or graphics work was resident."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCounters:
    """What one GPU has counted; each from a zero of its own. A fall means that it began anew.

    `None`, and a reason that is not in `clock_limited_seconds`, is not counted by this GPU or driver.
    """

    pcie_receive_bytes: float | None = None
    pcie_transmit_bytes: float | None = None
    nvlink_receive_bytes: float | None = None
    """Over all its links."""
    nvlink_transmit_bytes: float | None = None
    clock_limited_seconds: Mapping[str, float] = field(default_factory=dict)
    """By reason, in the words of `GpuReading.clock_limit_reasons`."""


CLOCK_LIMITS: tuple[str, ...] = (
    "sw_power_cap",
    "hw_slowdown",
    "sync_boost",
    "sw_thermal",
    "hw_thermal",
    "hw_power_brake",
    "application_clocks",
    "display_clock",
)
"""Why clocks are limited, in NVML's words; that a GPU has nothing to do is none of these."""
RECOVERY_ACTIONS: tuple[str, ...] = (
    "none",
    "reset",
    "node_reboot",
    "drain_p2p",
    "drain_and_reset",
    "recover_imex_domain",
    "bus_reset",
    "system_reboot",
)
DIVIDED = "in MIG mode: its instances are measured, each by itself"
"""Why a GPU in MIG mode has no activity of its own."""
FABRIC_STATES: tuple[str, ...] = ("not_started", "in_progress", "completed")
FABRIC_HEALTH: tuple[str, ...] = ("healthy", "unhealthy", "limited")
"""Each in the order of NVML's own numbers."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuHealth:
    """What wears out or breaks, as the driver tells it; `None` where it does not."""

    ecc_corrected_errors: int | None = None
    """Since the driver was loaded, as the next."""
    ecc_uncorrected_errors: int | None = None
    remapped_rows_corrected: int | None = None
    """Rows of memory replaced for good, after corrected errors, and after uncorrected ones."""
    remapped_rows_uncorrected: int | None = None
    row_remap_pending: bool | None = None
    """A row waits for a reset of the GPU to be replaced."""
    row_remap_failed: bool | None = None
    recovery_action: str | None = None
    """What the driver asks for, out of `RECOVERY_ACTIONS`."""
    fabric_state: str | None = None
    """Of its registration with the NVLink fabric, out of `FABRIC_STATES`."""
    fabric_health: str | None = None
    """Out of `FABRIC_HEALTH`."""
    xid_errors: Mapping[int, int] | None = None
    """Errors that the driver reported since the agent began to listen, by XID."""
    last_xid_unix_seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuProcess:
    """A process that computes on a GPU."""

    pid: int
    """As the host counts."""
    memory_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MigInstance:
    """Which part of which GPU a MIG device is."""

    parent_uuid: str
    gpu_instance_id: int
    compute_instance_id: int
    sm_count: int | None = None
    memory_bytes: int | None = None
    """What the profile gives it; a little less than its slices of the whole."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuReading:
    """One GPU, or one MIG instance of a GPU, at one instant."""

    index: int
    """NVML's; of a MIG instance its parent's."""
    uuid: str
    name: str
    """As NVML spells it, for example ``NVIDIA H100 80GB HBM3``."""
    mig: MigInstance | None = None
    """Set for a MIG instance."""
    partitioned: bool = False
    """In MIG mode: its instances are readings of their own, and what they say is not said here again."""
    virtualization: str | None = None
    """``none``, ``passthrough``, ``vgpu``, ``host_vgpu``, ``host_vsga``."""
    pci_bus_id: str | None = None
    compute_capability: tuple[int, int] | None = None
    memory_origin: Literal["device", "system"] = "device"
    """``system``: it has no memory of its own and shares the CPU's, of which the operating system tells."""
    memory_total_bytes: int | None = None
    memory_used_bytes: int | None = None
    """Allocated by processes; what the driver reserves is apart."""
    memory_free_bytes: int | None = None
    memory_reserved_bytes: int | None = None
    memory_bus_bits: int | None = None
    power_watts: float | None = None
    """Mean over a second where the GPU gives one (Ampere and newer, but for GA100), else of this instant."""
    power_instant_watts: float | None = None
    power_limit_watts: float | None = None
    energy_joules: float | None = None
    """Since the driver was loaded: a counter."""
    temperature_celsius: float | None = None
    memory_temperature_celsius: float | None = None
    sm_clock_hertz: float | None = None
    sm_clock_max_hertz: float | None = None
    memory_clock_hertz: float | None = None
    memory_clock_max_hertz: float | None = None
    kernel_time_ratio: float | None = None
    """NVML's "GPU utilization": share of *time* in which some kernel ran. Says nothing of load."""
    memory_time_ratio: float | None = None
    """NVML's "memory utilization": share of *time*, not of bandwidth. Never used to classify."""
    clock_limit_reasons: tuple[str, ...] | None = None
    """Why the clocks are lowered now: ``sw_power_cap``, ``hw_thermal``, …; empty when they are not."""
    counters: GpuCounters = field(default_factory=GpuCounters)
    health: GpuHealth = field(default_factory=GpuHealth)
    processes: tuple[GpuProcess, ...] | None = None
    activity: Activity | None = None
    """From its own profiling counters."""
    activity_problem: str | None = None
    """Why there is no activity, in words, when there is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuLost:
    """A GPU that is known to be there and cannot be read; the others are not affected."""

    index: int
    uuid: str | None
    name: str | None
    reason: str
    message: str
    parent_uuid: str | None = None
    """Set for a MIG instance."""
    health: GpuHealth = field(default_factory=GpuHealth)
    """What is still known of it: the XIDs that led there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeReading:
    """All GPUs of the node, in NVML's order."""

    gpus: tuple[GpuReading | GpuLost, ...]
    driver_version: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class DcgmGpu:
    """What a dcgm-exporter's page says of one GPU, or of one MIG instance."""

    uuid: str
    """Of the GPU; of a MIG instance its parent's."""
    gpu_instance_id: int | None = None
    """Set for a MIG instance."""
    index: int | None = None
    name: str | None = None
    activity: Activity | None = None
    activity_problem: str | None = None
    """Why there is no activity, in words, when there is none."""
    values: Mapping[str, float] = field(default_factory=dict)
    """The rest, in base units, by the names of `GpuReading`'s fields."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DcgmReading:
    """One page of a dcgm-exporter."""

    gpus: tuple[DcgmGpu, ...]
    age_seconds: float
    """Since its values were first seen: the page itself carries no time."""
    collect_seconds: float
    """How often its values change, as observed."""
    malformed_lines: int = 0
    """Wanted lines that could not be read or believed, and were passed over."""


# --- serving engines -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Histogram:
    """A cumulative histogram; `bounds` end with +Inf, `cumulative` are counts ≤ each bound."""

    bounds: tuple[float, ...]
    cumulative: tuple[float, ...]
    sum: float

    @property
    def count(self) -> float:
        """Observations in all."""
        return self.cumulative[-1]

    def __post_init__(self) -> None:
        if len(self.bounds) != len(self.cumulative) or not self.bounds or self.bounds[-1] != math.inf:
            raise ValueError("a histogram needs one count a bound, and +Inf as its last bound")


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineCounters:
    """What an engine has counted since its start. `None` where this engine or version has no such counter."""

    generation_tokens: float | None = None
    """Output tokens, the first of each request included."""
    prefill_tokens: float | None = None
    """Prompt tokens really computed; tokens found in the prefix cache are not in it."""
    cached_prompt_tokens: float | None = None
    steps: float | None = None
    """Engine steps that gave output."""
    first_tokens: float | None = None
    """Requests that have given their first token."""
    inter_token_seconds: float | None = None
    """Sum of the times between tokens of one request, over all requests."""
    inter_token_intervals: float | None = None
    """How many such times: one a request a step after its first token."""
    decode_steps: float | None = None
    """Steps in which anything was decoded, where the engine counts them apart."""
    decode_step_seconds: float | None = None
    """Sum of their times, where the engine takes them."""
    prefill_steps: float | None = None
    """Steps that only prefilled, where the engine counts them apart."""
    prefill_step_seconds: float | None = None
    """Sum of their times, where the engine takes them."""
    sequence_steps: float | None = None
    """Sequences in each step that decodes, summed over those steps."""
    timed_steps: float | None = None
    """Steps whose time t and batch b the engine has recorded; the next four are sums over them."""
    timed_sequences: float | None = None
    """Σ b."""
    timed_seconds: float | None = None
    """Σ t."""
    timed_squared_sequences: float | None = None
    """Σ b²."""
    timed_sequence_seconds: float | None = None
    """Σ b·t."""
    preemptions: float | None = None
    requests_stop: float | None = None
    requests_length: float | None = None
    requests_abort: float | None = None
    requests_error: float | None = None
    requests_finished: float | None = None
    """Requests that came to their end, where the engine does not say which."""
    rejected_requests: float | None = None
    drafts: float | None = None
    draft_tokens: float | None = None
    accepted_draft_tokens: float | None = None
    estimated_flops_per_gpu: float | None = None
    """The engine's own estimate of its FLOPs, where it makes one."""


COUNTER_NAMES: tuple[str, ...] = tuple(f.name for f in fields(EngineCounters))


ServingRole = Literal["prefill", "decode"]
"""The one phase that an engine does, where the two are kept apart."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelFacts:
    """What a server's own interface, or its process, says of its model and of how that is run.

    `None` where it does not say; nothing here is derived. Texts are as the server words them.
    """

    path: str | None = None
    """Where the weights are from: a directory, a file, or a name on a hub."""
    revision: str | None = None
    served_names: tuple[str, ...] = ()
    config: Mapping[str, Any] | None = None
    """As of a ``config.json``."""
    weight_dtype: str | None = None
    """Of the weights, or the method by which they are quantized: ``bfloat16``, ``fp8``, ``awq``, …"""
    kv_dtype: str | None = None
    """``auto`` means the model's."""
    tensor_parallel: int | None = None
    pipeline_parallel: int | None = None
    expert_parallel: int | None = None
    """Over how many ranks the experts are dealt; 1 where each rank has a slice of all."""
    data_parallel: int | None = None
    max_num_seqs: int | None = None
    """The most sequences of one data-parallel rank that may run at once."""
    max_model_len: int | None = None
    weight_bytes: float | None = None
    """Over all ranks of one replica."""
    parameters: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class EngineReading:
    """One engine (one data-parallel rank) at one instant."""

    engine: str
    """The software: ``vllm``, …"""
    rank: str = "0"
    model: str
    """The name it serves under; "" when the page does not say."""
    version: str | None = None
    """Of the software."""
    start_time_seconds: float | None = None
    """Unix time of the process's start: a change of it means a restart."""
    requests_running: float | None = None
    requests_waiting: float | None = None
    kv_used_ratio: float | None = None
    kv_held_tokens: float | None = None
    """What its running requests hold of the cache, where that is told by itself."""
    kv_capacity_tokens: float | None = None
    kv_block_tokens: int | None = None
    counters: EngineCounters = field(default_factory=EngineCounters)
    step_tokens: Histogram | None = None
    """Tokens a step, over the steps that gave output."""
    time_to_first_token: Histogram | None = None
    inter_token_latency: Histogram | None = None
    request_latency: Histogram | None = None
    computed_prompt_lengths: Histogram | None = None
    """Tokens computed for the prompt of each finished request."""
    requests_in_flight: float | None = None
    """That the server in front of the engine has in hand, where it counts them by itself."""
    tokens_at_end: bool = False
    """Its counters of generated tokens move only when a request ends."""
    last_step_seconds: float | None = None
    """Time of the last step, of whatever kind, where that is all the engine says of its steps."""
    gauge_age_seconds: float | None = None
    """How old the gauges of its page may be at most; `None` where they are as of its last step."""
    role: ServingRole | None = None
    """Where the engine says it; `None` does both, or does not say."""
    facts: ModelFacts = field(default_factory=ModelFacts)


HISTOGRAM_NAMES: tuple[str, ...] = (
    "step_tokens",
    "time_to_first_token",
    "inter_token_latency",
    "request_latency",
    "computed_prompt_lengths",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerReading:
    """One page: all engines behind one server, in the order of their rank."""

    engines: tuple[EngineReading, ...]
    malformed_lines: int = 0
    """Wanted lines that could not be read and were passed over."""
    problems: tuple[str, ...] = ()
    """What else of its interface could not be read, and why."""


# --- what runs on the node -----------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PodContainer:
    """A container of a pod on this node."""

    namespace: str
    pod: str
    container: str = ""
    """"" where only the pod is known."""
    uid: str = ""
    """Of the pod; "" where it is not known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundServer:
    """A serving engine that was found on this node, and what was found out about it."""

    url: str
    """Of its page of metrics."""
    engine: str | None = None
    """The software, where that is known before its page is read."""
    pid: int | None = None
    """Of the process that answers, as the host counts."""
    gpu_uuids: tuple[str, ...] | None = None
    """The GPUs that its processes have open; `None` where it cannot be said."""
    container: PodContainer | None = None
    facts: ModelFacts = field(default_factory=ModelFacts)
    credential: str | None = None
    """The name of the configured credentials that it is asked with."""


MAX_FOUND = 64
"""Servers of one node that are watched without being configured; it has fewer GPUs."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Discovery:
    """All serving engines that one way of looking found."""

    servers: tuple[FoundServer, ...]
    notes: tuple[str, ...] = ()
    """What could not be seen or was left out, and why, in words; each at most once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceAllocation:
    """A device that the kubelet has given to a container."""

    container: PodContainer
    resource: str
    """As it is asked for: ``nvidia.com/gpu``, ``nvidia.com/mig-1g.10gb``, or the class of a DRA driver."""
    device_id: str
    """As the kubelet has it: a UUID, or what the device plugin made of it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodResourcesReading:
    """Which container has which device, as the kubelet says."""

    allocations: tuple[DeviceAllocation, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuAllocation:
    """A GPU or MIG instance that a container has."""

    uuid: str
    container: PodContainer
    attribution: Literal["exclusive", "shared"]
    """``shared``: its device plugin gives the same one to several."""
