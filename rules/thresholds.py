"""Every number that an alert holds something against, with the reason for it and for changing it.

Nothing here is a law of nature. What is one – roofs, ridge, peaks – comes from the agent's metrics.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Threshold:
    """A number with its unit and its reason."""

    value: float
    unit: str
    """`ratio`, `s`, `sequences`, `×` (times a budget or an earlier value), or "" for a count."""
    reason: str

    @property
    def text(self) -> str:
        """As it stands in an expression."""
        return f"{self.value:g}"


# --- the roofline ----------------------------------------------------------------------------------

COMPUTE_USED = Threshold(
    value=0.1,
    unit="ratio",
    reason="a tenth of the FLOP/s is what decode at a batch of some 50 reaches on an H100: below it a batch "
    "several times larger costs hardly any latency. Raise it where latency does not matter.",
)
DOMINANT_SHARE = 0.5
"""More than half of the time: nothing else can have had more."""
ROOF_ATTAINED = Threshold(
    value=0.3,
    unit="ratio",
    reason="good decode kernels reach 0.6 to 0.8 of the memory roof; with less than 0.3 of either roof no "
    "kernel that matters is limited by the hardware. Lower it for very small models.",
)
KERNEL_TIME = 0.9
"""What people call a busy GPU: the figure nvidia-smi calls utilization is above 90 %."""
SINGLE_USER_BATCH = Threshold(
    value=10,
    unit="sequences",
    reason="below a batch of 10 each step reads all weights for a handful of tokens: bandwidth is all that "
    "is used of the GPU, and cheaper ones sell more of it per dollar. Lower it where latency is the product.",
)
FAST_DRAM_BYTES_PER_SECOND = 3e12
"""H100 SXM and faster: what one pays most for."""
HOST_SHARE = Threshold(
    value=0.5,
    unit="ratio",
    reason="for more than half of the time the wait between steps was the largest part of them. Prefer a "
    "lower value where GPUs are scarce: every part of it is capacity.",
)
IDLE_SHARE = Threshold(
    value=0.95,
    unit="ratio",
    reason="an hour with less than three minutes of work. Lower it for models that are meant to wait.",
)
ROOF_LOST = Threshold(
    value=0.15,
    unit="ratio",
    reason="clocks within 10 % of the rated ones are ordinary under full load; from 15 % on prefill gets "
    "noticeably slower. Raise it where power is capped on purpose.",
)
LIMITED_SHARE = 0.5
"""For at least half of the time the driver itself says that clocks are held back."""
INTERCONNECT_SHARE = Threshold(
    value=0.35,
    unit="ratio",
    reason="over NVLink all-reduces take 5 to 15 % of a step; more than a third means PCIe, or too many "
    "ranks for the model. Raise it where the model fits on no fewer GPUs.",
)
BUSY_SHARE = 0.1
"""An engine that works for less than a tenth of the time is not worth tuning."""
INTERFERENCE_SHARE = Threshold(
    value=0.4,
    unit="ratio",
    reason="above it users who read an answer wait nearly as long for others' prompts as for their tokens. "
    "Lower it where the time between tokens is promised.",
)
ANSWER_TOKENS = 32
"""A shorter answer is over before anybody has begun to read it."""

# --- the KV cache ----------------------------------------------------------------------------------

KV_SECONDS_TO_FULL = Threshold(
    value=900,
    unit="s",
    reason="a quarter of an hour is what adding a replica takes: loading weights and a node's start. Lower "
    "it where replicas start faster.",
)
FILLING_SHARE = 0.9
"""Nearly every sample of the window sees it filling: a cache that breathes does not."""
PREEMPTIONS_PER_REQUEST = Threshold(
    value=0.05,
    unit="ratio",
    reason="one request in twenty computed twice is 5 % of prefill thrown away, and shows as a pause in "
    "somebody's answer. Lower it where the time between tokens is promised.",
)

PREEMPTIONS_MIN = 5
"""In a quarter of an hour: fewer are an accident of long contexts."""

# --- money and objectives --------------------------------------------------------------------------

COST_GROWTH = Threshold(
    value=1.25,
    unit="×",
    reason="week over week, so that weekdays are compared with their like; a quarter more is beyond what the "
    "mix of requests explains. Raise it for traffic that changes a lot.",
)
COST_MIN_TOKENS = 10_000
"""In a day: below it somebody only tries a model out."""
BURN_MIN_EVENTS = 20
"""Requests or tokens in the long window: with fewer one slow request is a catastrophe."""

# --- what must hold for any of it to be true -------------------------------------------------------

AGREEMENT = Threshold(
    value=1.5,
    unit="ratio",
    reason="modelled and measured bytes agree within 0.9 to 1.3 where the model is right; a factor of 1.5 "
    "either way is a wrong dtype, a wrong model or a wrong GPU.",
)
STALLED_SECONDS = Threshold(
    value=60,
    unit="s",
    reason="no step of any engine takes a minute; loading adapters and compiling can take half of one.",
)
STALE_SECONDS = Threshold(
    value=30,
    unit="s",
    reason="assessments are made each second; thirty of them missing is no hiccup. Raise it with "
    "interval_seconds.",
)
BUDGET = Threshold(
    value=3,
    unit="×",
    reason="the agent is promised to cost 1 % of a core and 60 MiB with 8 GPUs and 8 engines; three times "
    "that is a fault, or a node several times as large.",
)
BUDGET_CORES = 0.01
BUDGET_BYTES = 60 * 1024 * 1024

# --- what the driver's words mean ------------------------------------------------------------------

APPLICATION_XIDS = "8|11|13|25|31|43|45|69|80|137"
"""The application's own: illegal accesses, page faults, bad work, channels torn down by their process."""
HARMLESS_XIDS = f"{APPLICATION_XIDS}|44|66|67|106|107|141|162"
"""And those of which NVIDIA's XID catalogue says to ignore them."""
NOTED_XIDS = "63|92|121|154|157|160|161"
"""Memory that was repaired, links that were retrained, and what only repeats what another asks for."""
POWER_REASONS = "sw_power_cap|hw_power_brake"
HEAT_REASONS = "sw_thermal|hw_thermal"
