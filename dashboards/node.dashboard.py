"""One node: each GPU's class, its place under the roofs, the evidence, and the health of the hardware."""

from __future__ import annotations

from dashboards.alerting import HARDWARE_XIDS
from dashboards.board import board
from dashboards.layout import banner, row
from dashboards.links import link_to
from dashboards.panels import (
    Column,
    Query,
    stat,
    state_timeline,
    steps,
    table,
    time_series,
)
from dashboards.queries import counted, metric, one_hot_code, regex_matcher
from dashboards.roofline import gpu_points, roofline_chart, without_the_chart
from dashboards.states import BOTTLENECK_CODES, BOTTLENECK_COLOURS, BOTTLENECK_NAMES
from dashboards.units import COUNT, RATIO
from dashboards.variables import variables
from rules.thresholds import ROOF_LOST

gpu_up = metric("gpu_up")
info = metric("gpu_info")
bottleneck = metric("gpu_bottleneck")
class_seconds = metric("gpu_bottleneck_seconds_total")
confidence = metric("gpu_bottleneck_confidence_ratio")
observed = metric("gpu_observed_seconds_total")
evidence = metric("gpu_evidence_seconds_total")
attained = metric("gpu_roof_attained_ratio")
kernel_time = metric("gpu_kernel_time_ratio")
dram_active = metric("gpu_dram_active_ratio")
tensor_active = metric("gpu_tensor_active_ratio")
intensity = metric("gpu_arithmetic_intensity_flops_per_byte")
ridge = metric("gpu_ridge_flops_per_byte")
flops = metric("gpu_flops_total")
dram_bytes = metric("gpu_dram_bytes_total")
roof = metric("gpu_roof_flops_per_second")
peak = metric("gpu_peak_flops_per_second")
memory_total = metric("gpu_memory_total_bytes")
memory_used = metric("gpu_memory_used_bytes")
power = metric("gpu_power_watts")
power_limit = metric("gpu_power_limit_watts")
temperature = metric("gpu_temperature_celsius")
clock = metric("gpu_sm_clock_hertz")
limited = metric("gpu_clock_limited_seconds_total")
nvlink_in = metric("gpu_nvlink_receive_bytes_total")
pcie_in = metric("gpu_pcie_receive_bytes_total")
pcie_out = metric("gpu_pcie_transmit_bytes_total")
xids = metric("gpu_xid_errors_total")
ecc = metric("gpu_ecc_errors_total")
recovery = metric("gpu_recovery_action")
processes = metric("gpu_processes")
placed = metric("engine_gpu_info")
shares = metric("engine_gpu_share_ratio")

GPU = regex_matcher("gpu")
ON_GPU = "GPU {{gpu}}"
EACH = "cluster, instance, gpu, uuid"


def _of_evidence(quantity: str) -> str:
    """Of one quantity, GPUs' worth of time by where it was known from."""
    return f"sum by (evidence) ({evidence.rate(GPU, quantity=quantity)})"


dashboard = board(
    "node",
    "Node and GPU",
    "One node, GPU by GPU: what bounds each, how near it is to its roofs, how that is known, and whether "
    "the hardware is well.",
    banner(
        stat(
            "GPUs",
            Query(f"sum({gpu_up.where(GPU)})"),
            description=gpu_up.tells("Fewer than the node has: the lost one is in the table below."),
        ),
        stat(
            "Roof attained",
            Query(f"avg({attained.where(GPU)})"),
            unit=attained.unit,
            description=attained.tells("Below 30 % while kernels run: neither roof decides, see the class."),
            sparkline=True,
            minimum=0,
            maximum=1,
        ),
        stat(
            "Kernels run",
            Query(f"avg({kernel_time.where(GPU)})"),
            unit=kernel_time.unit,
            description=kernel_time.tells("Do not act on it; act on the class and on the roof attained."),
            sparkline=True,
            minimum=0,
            maximum=1,
        ),
        stat(
            "Power",
            Query(f"sum({power.where(GPU)})"),
            unit=power.unit,
            description=power.tells("At the limit while compute-bound: prefill is slower than it could be."),
            sparkline=True,
            minimum=0,
        ),
        stat(
            "Hottest",
            Query(f"max({temperature.where(GPU)})"),
            unit=temperature.unit,
            description=temperature.tells("From some 85 °C on clocks fall: look at fans and airflow."),
            thresholds=steps("green", (80, "orange"), (87, "red")),
        ),
        stat(
            "Errors",
            Query(
                f"(sum({counted(xids, 'gpu, uuid, xid', GPU, HARDWARE_XIDS, over='$__range')}) or vector(0))"
                f" + (sum({ecc.increase(GPU, over='$__range', severity='uncorrected')}) or vector(0))"
            ),
            description="XIDs that are the hardware's, and uncorrected memory errors, in the time shown. If "
            "any: drain the node and see the runbooks of GpuXidError and GpuEccUncorrected.",
            thresholds=steps("green", (1, "red")),
            background=True,
        ),
    ),
    row(
        "What bounds each GPU",
        state_timeline(
            "Bottleneck",
            Query(one_hot_code(bottleneck, "bottleneck", BOTTLENECK_CODES, EACH, gpu="$gpu"), ON_GPU),
            mappings=[BOTTLENECK_NAMES],
            description=bottleneck.tells(
                "A change that comes with an annotation has its cause there. A GPU that differs from its "
                "neighbours under the same model is the one to look at."
            ),
            width=14,
            height=9,
        ),
        time_series(
            "GPUs by class",
            Query(f"sum by (bottleneck) ({class_seconds.rate(GPU)})", "{{bottleneck}}"),
            unit=COUNT,
            stacked=True,
            minimum=0,
            colours=BOTTLENECK_COLOURS,
            description=class_seconds.tells("The widest band is where to work."),
            width=10,
            height=9,
        ),
        table(
            "GPUs",
            Column("Up", f"max by (gpu, uuid) ({gpu_up.where(GPU)})", thresholds=steps("red", (1, "green"))),
            Column("Roof attained", f"max by (gpu, uuid) ({attained.where(GPU)})", unit=attained.unit),
            Column("FLOP/byte", f"max by (gpu, uuid) ({intensity.where(GPU)})", decimals=1),
            Column("Ridge (bf16)", f"max by (gpu, uuid) ({ridge.where(GPU, dtype='bf16')})", decimals=0),
            Column("Confidence", f"max by (gpu, uuid) ({confidence.where(GPU)})", unit=RATIO),
            Column("Memory used", f"max by (gpu, uuid) ({memory_used.where(GPU)})", unit=memory_used.unit),
            Column("Processes", f"max by (gpu, uuid) ({processes.where(GPU)})"),
            Column("Engines", f"count by (gpu, uuid) ({placed.where(GPU)})"),
            Column("Temperature", f"max by (gpu, uuid) ({temperature.where(GPU)})", unit=temperature.unit),
            Column(
                "Compute roof",
                f"max by (gpu, uuid) ({roof.where(GPU, dtype='bf16')})"
                f" / max by (gpu, uuid) ({peak.where(GPU, dtype='bf16')})",
                unit=RATIO,
                thresholds=steps("red", (1 - ROOF_LOST.value, "text")),
            ),
            labels={"gpu": "GPU", "uuid": "UUID"},
            sort_by="Roof attained",
            descending=False,
            description="The least used on top. Left of the ridge memory decides; a compute roof below 85 "
            "% is held down by power or heat. No engine on a busy GPU: attribution is missing, see "
            "discovery.",
            width=24,
            height=8,
        ),
    ),
    row(
        "Where on the roofline",
        roofline_chart(
            "On the roofline",
            gpu_points(GPU),
            description="Each GPU of this node under the roofs of its part. Left of the ridge memory "
            "decides: raise the batch. On the level roof compute does: split prefill off or add GPUs.",
            width=12,
            height=12,
        ),
        time_series(
            "Attained, measured and what nvidia-smi shows",
            Query(f"avg by (gpu, uuid) ({attained.where(GPU)})", "GPU {{gpu}} of the nearer roof"),
            Query(f"max by (gpu, uuid) ({dram_active.where(GPU)})", "GPU {{gpu}} DRAM"),
            Query(f"max by (gpu, uuid) ({tensor_active.where(GPU)})", "GPU {{gpu}} tensor cores"),
            Query(f"max by (gpu, uuid) ({kernel_time.where(GPU)})", "GPU {{gpu}} kernels run"),
            unit=RATIO,
            minimum=0,
            maximum=1,
            description="DRAM high with tensor low is decode at a small batch; tensor high is prefill; "
            "both low with kernels running is latency. DRAM and tensor are measured, or absent.",
            width=12,
            height=12,
        ),
        time_series(
            "FLOP/s",
            Query(f"sum by (gpu, uuid) ({flops.rate(GPU)})", ON_GPU),
            unit=flops.rate_unit,
            minimum=0,
            description=flops.tells("Compare GPUs that serve the same model: they should be alike."),
            width=8,
        ),
        time_series(
            "DRAM traffic",
            Query(f"sum by (gpu, uuid) ({dram_bytes.rate(GPU)})", ON_GPU),
            unit=dram_bytes.rate_unit,
            minimum=0,
            description=dram_bytes.tells("Flat at some 70 % of the peak is a memory-bound engine at work."),
            width=8,
        ),
        time_series(
            "How DRAM traffic is known",
            Query(_of_evidence("dram_bytes"), "{{evidence}}"),
            unit=COUNT,
            stacked=True,
            minimum=0,
            description=evidence.tells(
                "modelled where gpm or dcgm was expected: profiling is not permitted, or its exporter is "
                "gone."
            ),
            width=8,
        ),
    ),
    row(
        "Hardware",
        time_series(
            "Power and its limit",
            Query(f"max by (gpu, uuid) ({power.where(GPU)})", ON_GPU),
            Query(f"max by (gpu, uuid) ({power_limit.where(GPU)})", "GPU {{gpu}} limit"),
            unit=power.unit,
            minimum=0,
            description=power.tells("At its limit for long: the compute roof is lowered; see the clocks."),
            width=8,
        ),
        time_series(
            "SM clock",
            Query(f"max by (gpu, uuid) ({clock.where(GPU)})", ON_GPU),
            unit=clock.unit,
            minimum=0,
            description=clock.tells("Low while busy: the chart beside it says what holds it back."),
            width=8,
        ),
        time_series(
            "Clocks held back by",
            Query(f"sum by (gpu, uuid, reason) ({limited.rate(GPU)}) > 0", "GPU {{gpu}} {{reason}}"),
            unit=limited.rate_unit,
            minimum=0,
            description=limited.tells(
                "sw_power_cap: the limit. thermal: cooling. application_clocks: a setting."
            ),
            width=8,
        ),
        time_series(
            "Memory",
            Query(f"max by (gpu, uuid) ({memory_used.where(GPU)})", ON_GPU),
            Query(f"max by (gpu, uuid) ({memory_total.where(GPU)})", "GPU {{gpu}} of"),
            unit=memory_used.unit,
            minimum=0,
            description=memory_used.tells(
                "Serving engines take all they may at start: it says nothing of load."
            ),
            width=8,
        ),
        time_series(
            "Temperature",
            Query(f"max by (gpu, uuid) ({temperature.where(GPU)})", ON_GPU),
            unit=temperature.unit,
            description=temperature.tells("One hotter than its neighbours: its fan, its slot, its paste."),
            width=8,
        ),
        time_series(
            "Links",
            Query(f"sum by (gpu, uuid) ({nvlink_in.rate(GPU)})", "GPU {{gpu}} NVLink in"),
            Query(f"sum by (gpu, uuid) ({pcie_in.rate(GPU)})", "GPU {{gpu}} PCIe in"),
            Query(f"sum by (gpu, uuid) ({pcie_out.rate(GPU)})", "GPU {{gpu}} PCIe out"),
            unit=pcie_in.rate_unit,
            minimum=0,
            description="Traffic over NVLink and PCIe. Much PCIe under tensor parallelism: the GPUs have "
            "no NVLink between them, or do not use it; see nvidia-smi topo -m.",
            width=8,
        ),
        time_series(
            "XIDs and memory errors",
            Query(counted(xids, "gpu, uuid, xid", GPU, HARDWARE_XIDS), "GPU {{gpu}} XID {{xid}}"),
            Query(f"sum by (gpu, uuid, severity) ({ecc.increase(GPU)}) > 0", "GPU {{gpu}} {{severity}}"),
            unit=COUNT,
            minimum=0,
            points=True,
            description="Errors that the driver reported: uncorrected ones of memory, and XIDs for which "
            "GpuXidError is critical. Drain the node, then see the runbooks.",
            width=12,
        ),
        table(
            "What the driver asks for",
            Column("Asked", f"max by (gpu, uuid, action) ({recovery.where(GPU)}) == 1"),
            labels={"gpu": "GPU", "action": "Action", "uuid": "UUID"},
            description=recovery.tells("Anything but none: drain, then do it; see GpuRecoveryActionNeeded."),
            width=12,
        ),
    ),
    row(
        "Who is on it",
        table(
            "Engines",
            Column(
                "Share of the GPU",
                f"max by (gpu, uuid, engine, server, rank) ({shares.where(GPU)})",
                unit=RATIO,
            ),
            labels={"gpu": "GPU", "engine": "Engine", "server": "Server", "rank": "Rank", "uuid": "UUID"},
            links=(link_to("engine", "Open the engine", server="Server"),),
            description=shares.tells("Two on one GPU slow each other down by more than their shares tell."),
            width=12,
        ),
        table(
            "What it is",
            Column(
                "GPUs",
                f"count by (name, part, roof_origin, driver_version) ({info.where(GPU)})",
            ),
            labels={"name": "Name", "part": "Part", "roof_origin": "Roofs from", "driver_version": "Driver"},
            description=info.tells("part unknown: name its roofs in the configuration (roofs)."),
            width=12,
        ),
    ),
    without_the_chart(gpu_points(GPU), Query(f"max by (gpu, uuid) ({attained.where(GPU)})", ON_GPU)),
    variables=variables(many=("gpu",), one=("instance",)),
    span="3h",
)
