"""One server of a node: where its steps go, how far its batch is from what would help, and its cache."""

from __future__ import annotations

from dashboards.board import board
from dashboards.layout import banner, row
from dashboards.links import link_to
from dashboards.panels import (
    Column,
    Query,
    heatmap,
    stat,
    state_timeline,
    steps,
    table,
    time_series,
)
from dashboards.queries import metric, one_hot_code, recorded, regex_matcher
from dashboards.roofline import phase_points, roofline_chart
from dashboards.states import COMPONENT_COLOURS, LIMITER_CODES, LIMITER_NAMES
from dashboards.units import RATIO
from dashboards.variables import variables
from rules import thresholds

up = metric("engine_up")
info = metric("engine_info")
model_info = metric("engine_model_info")
placed = metric("engine_gpu_info")
shares = metric("engine_gpu_share_ratio")
batch = metric("engine_decode_batch_size")
ridge_batch = metric("engine_ridge_batch_size")
kv_batch = metric("engine_kv_limited_batch_size")
max_seqs = metric("engine_max_num_seqs")
limiter = metric("engine_batch_limiter")
running = metric("engine_requests_running")
waiting = metric("engine_requests_waiting")
requests = metric("engine_requests_total")
step_seconds = metric("engine_step_seconds_total")
phase_seconds = metric("engine_phase_seconds_total")
observed = metric("engine_observed_seconds_total")
steps_made = metric("engine_steps_total")
interference = metric("engine_prefill_interference_ratio")
traffic = metric("engine_dram_bytes_total")
flops = metric("engine_flops_total")
intensity = metric("engine_arithmetic_intensity_flops_per_byte")
highest = metric("engine_max_intensity_flops_per_byte")
ridge = metric("gpu_ridge_flops_per_byte")
agreement = metric("engine_model_agreement_ratio")
headroom = metric("engine_kv_cache_headroom_ratio")
free_sequences = metric("engine_kv_cache_free_sequences")
free_bytes = metric("engine_kv_cache_free_bytes")
capacity = metric("engine_kv_cache_capacity_tokens")
to_full = metric("engine_kv_cache_seconds_to_full")
preemptions = metric("engine_preemptions_total")
prefilled = metric("engine_prefill_tokens_total")
cached = metric("engine_cached_prompt_tokens_total")
generated = metric("engine_generation_tokens_total")
drafted = metric("engine_draft_tokens_total")
accepted = metric("engine_accepted_draft_tokens_total")
per_step = metric("engine_tokens_per_sequence_step")
stalled = metric("engine_stalled_seconds")
ttft = metric("engine_time_to_first_token_seconds")
itl = metric("engine_inter_token_latency_seconds")
used = recorded(
    "roofline:engine:gpu_compute_used:ratio30m",
    unit=RATIO,
    help="FLOP/s done, of those that its GPUs could do, over half an hour.",
)

MODEL, SERVER = regex_matcher("model"), regex_matcher("server")
BUSY = 'phase!="neither"'
RANK = "rank {{rank}}"


def _per_busy_second(part: str, label: str) -> str:
    return f"sum by ({label}) ({part}) / ignoring ({label}) group_left () sum({observed.rate(MODEL, SERVER)})"


dashboard = board(
    "engine",
    "Engine and model",
    "One server: where each second of its steps goes, what its batch is held against, what its cache still "
    "holds, and what prefill and decode do to each other.",
    banner(
        stat(
            "Decode batch",
            Query(f"avg({batch.where(MODEL, SERVER)})"),
            unit=batch.unit,
            decimals=1,
            description=batch.tells("Below 10 on a fast GPU: bandwidth is all that is used of it."),
            sparkline=True,
            minimum=0,
        ),
        stat(
            "Compute used",
            Query(f"avg({used.where(MODEL, SERVER)})"),
            unit=RATIO,
            description=used.tells("Below 10 % while memory decides: a larger batch is nearly free."),
            thresholds=steps("orange", (thresholds.COMPUTE_USED.value, "green")),
        ),
        stat(
            "KV headroom",
            Query(f"min({headroom.where(MODEL, SERVER)})"),
            unit=headroom.unit,
            description=headroom.tells("Below 5 %: requests are about to wait or to be preempted."),
            thresholds=steps("red", (0.05, "orange"), (0.2, "green")),
            sparkline=True,
            minimum=0,
            maximum=1,
        ),
        stat(
            "Tokens/s",
            Query(f"sum({generated.rate(MODEL, SERVER)})"),
            unit=generated.rate_unit,
            description=generated.tells("Compare with its replicas: they should be alike."),
            sparkline=True,
            minimum=0,
        ),
        stat(
            "No step for",
            Query(f"max({stalled.where(MODEL, SERVER)})"),
            unit=stalled.unit,
            description=stalled.tells("If it rises: see the runbook of EngineStalled before you restart it."),
            thresholds=steps("green", (30, "orange"), (thresholds.STALLED_SECONDS.value, "red")),
        ),
        stat(
            "Model against measurement",
            Query(f"avg({agreement.where(MODEL, SERVER)})"),
            unit=RATIO,
            no_value="not measured",
            description=agreement.tells("Then correct engines[].model in the configuration."),
            thresholds=steps(
                "red",
                (1 / thresholds.AGREEMENT.value, "orange"),
                (0.8, "green"),
                (1.3, "orange"),
                (thresholds.AGREEMENT.value, "red"),
            ),
        ),
    ),
    row(
        "Where its time goes",
        time_series(
            "The step, by what takes it",
            Query(_per_busy_second(step_seconds.rate(MODEL, SERVER), "component"), "{{component}}"),
            unit=RATIO,
            stacked=True,
            minimum=0,
            maximum=1,
            colours=COMPONENT_COLOURS,
            description=step_seconds.tells(
                "The widest band is what to work on: memory bandwidth by a larger batch or fewer bytes, "
                "host by CPU, interconnect by fewer ranks. What is missing to 100 % is time without a step."
            ),
            width=12,
            height=9,
        ),
        time_series(
            "Prefill, decode, neither",
            Query(_per_busy_second(phase_seconds.rate(MODEL, SERVER), "phase"), "{{phase}}"),
            unit=RATIO,
            stacked=True,
            minimum=0,
            maximum=1,
            colours={"prefill": "green", "decode": "orange", "neither": "#8e8e8e"},
            description=phase_seconds.tells(
                "Two machines in one: where both are large, splitting them (disaggregation) pays."
            ),
            width=12,
            height=9,
        ),
        time_series(
            "Mean step",
            Query(
                f"sum by (rank) ({phase_seconds.rate(MODEL, SERVER, BUSY)})"
                f" / (sum by (rank) ({steps_made.rate(MODEL, SERVER)}) > 0)",
                RANK,
            ),
            unit=stalled.unit,
            minimum=0,
            description="Busy time by steps. With decode alone it is the time between tokens: reading all "
            "weights once is its floor, so only fewer bytes or more bandwidth make it shorter.",
            width=8,
        ),
        time_series(
            "Prefill in the way of decode",
            Query(f"avg by (rank) ({interference.where(MODEL, SERVER)})", RANK),
            unit=interference.unit,
            minimum=0,
            maximum=1,
            description=interference.tells(
                "Above 40 %: a smaller max_num_batched_tokens, or prefill on engines of its own."
            ),
            thresholds=steps("text", (thresholds.INTERFERENCE_SHARE.value, "red")),
            lines_at_thresholds=True,
            width=8,
        ),
        table(
            "Its GPUs",
            Column(
                "Share of its GPU",
                f"max by (server, rank, gpu) ({shares.where(SERVER)})",
                unit=RATIO,
            ),
            labels={"server": "Server", "rank": "Rank", "gpu": "GPU"},
            links=(link_to("node", "Open the node", gpu="GPU"),),
            description=shares.tells("Not all of it: another engine is on the same GPU."),
            width=8,
        ),
    ),
    row(
        "Where its phases stand",
        roofline_chart(
            "Prefill and decode on the roofline",
            phase_points(MODEL, SERVER),
            description="Each phase as fast as it is while it runs. Prefill under the level roof and "
            "decode under the slope are two machines: what helps one does not help the other, and where "
            "both are large, splitting them pays.",
            height=12,
        ),
    ),
    row(
        "The batch, and what it is held against",
        time_series(
            "Batch, ridge and limits",
            Query(f"avg by (rank) ({batch.where(MODEL, SERVER)})", "rank {{rank}} decode batch"),
            Query(f"min by (rank) ({kv_batch.where(MODEL, SERVER)})", "rank {{rank}} KV cache holds"),
            Query(f"min by (rank) ({max_seqs.where(MODEL, SERVER)})", "rank {{rank}} max num seqs"),
            Query(f"avg by (rank) ({ridge_batch.where(MODEL, SERVER)})", "rank {{rank}} ridge"),
            unit=batch.unit,
            minimum=0,
            description=batch.tells(
                "Far below both limits: traffic. At one of them while requests wait: raise that one. "
                "Without a ridge no batch reaches it at this context: the cache's own traffic is in the "
                "way."
            ),
            width=12,
            height=9,
        ),
        state_timeline(
            "Why it is not larger",
            Query(
                one_hot_code(limiter, "limiter", LIMITER_CODES, "rank", model="$model", server="$server"),
                RANK,
            ),
            mappings=[LIMITER_NAMES],
            description=limiter.tells("See the runbooks GpuMemoryBoundUnderutilizedBy… for each of them."),
            width=12,
            height=9,
        ),
        time_series(
            "Decode reads: weights or cache",
            Query(
                f"sum by (traffic) ({traffic.rate(MODEL, SERVER, phase='decode')})",
                "{{traffic}}",
            ),
            unit=traffic.rate_unit,
            stacked=True,
            minimum=0,
            colours={"weights": "orange", "kv_cache": "purple", "activations": "blue"},
            description=traffic.tells(
                "Mostly weights: raise the batch, quantize weights. Mostly cache: quantize it."
            ),
            width=12,
            height=9,
        ),
        time_series(
            "Intensity by phase",
            Query(f"avg by (phase) ({intensity.where(MODEL, SERVER)})", "{{phase}}"),
            Query(f"min({highest.where(MODEL, SERVER)})", "no decode batch passes"),
            Query(
                f"min({ridge.where(dtype='bf16')} and on (instance, uuid) {placed.where(SERVER)})",
                "ridge (bf16)",
            ),
            unit=intensity.unit,
            minimum=0,
            description=intensity.tells(
                "Decode below the ridge is memory-bound whatever the GPU; if even the line no batch passes "
                "is below the ridge, faster compute will not help."
            ),
            width=12,
            height=9,
        ),
    ),
    row(
        "KV cache and queue",
        time_series(
            "Headroom",
            Query(f"min by (rank) ({headroom.where(MODEL, SERVER)})", RANK),
            unit=headroom.unit,
            minimum=0,
            maximum=1,
            description=headroom.tells("A steady fall predicts the hour at which requests begin to wait."),
            width=8,
        ),
        time_series(
            "Sequences that still fit",
            Query(f"min by (rank) ({free_sequences.where(MODEL, SERVER)})", RANK),
            unit=free_sequences.unit,
            minimum=0,
            description=free_sequences.tells(
                "Under a few: lower the longest context, or quantize the cache."
            ),
            width=8,
        ),
        time_series(
            "Full in",
            Query(f"min by (rank) ({to_full.where(MODEL, SERVER)})", RANK),
            unit=to_full.unit,
            minimum=0,
            description=to_full.tells("Minutes that stay minutes: add a replica before it is over."),
            width=8,
        ),
        time_series(
            "Running and waiting",
            Query(f"sum by (rank) ({running.where(MODEL, SERVER)})", "rank {{rank}} running"),
            Query(f"sum by (rank) ({waiting.where(MODEL, SERVER)})", "rank {{rank}} waiting"),
            unit=running.unit,
            minimum=0,
            description=waiting.tells("Waiting with a limiter of max num seqs is free to mend."),
            width=8,
        ),
        time_series(
            "Preemptions",
            Query(f"sum by (rank) ({preemptions.rate(MODEL, SERVER)})", RANK),
            unit=preemptions.rate_unit,
            minimum=0,
            description=preemptions.tells("A steady rate: lower max_num_seqs or make the cache larger."),
            width=8,
        ),
        table(
            "Capacity",
            Column("Tokens", f"max by (server, rank) ({capacity.where(MODEL, SERVER)})"),
            Column(
                "Free", f"min by (server, rank) ({free_bytes.where(MODEL, SERVER)})", unit=free_bytes.unit
            ),
            labels={"server": "Server", "rank": "Rank"},
            description=capacity.tells(
                "Smaller than planned: gpu_memory_utilization, or a neighbour on the GPU."
            ),
            width=8,
        ),
    ),
    row(
        "Tokens and requests",
        time_series(
            "Tokens",
            Query(f"sum({prefilled.rate(MODEL, SERVER)})", "prompt, computed"),
            Query(f"sum({cached.rate(MODEL, SERVER)})", "prompt, from the prefix cache"),
            Query(f"sum({generated.rate(MODEL, SERVER)})", "output"),
            unit=generated.rate_unit,
            minimum=0,
            description=cached.tells("Few of them with long common prompts: the router scatters sessions."),
            width=8,
        ),
        time_series(
            "Requests ended",
            Query(f"sum by (outcome) ({requests.rate(MODEL, SERVER)})", "{{outcome}}"),
            unit=requests.rate_unit,
            stacked=True,
            minimum=0,
            description=requests.tells(
                "Aborts that rise with latency are users who give up: act on latency."
            ),
            width=8,
        ),
        time_series(
            "Guessed tokens that were right",
            Query(
                f"sum({accepted.rate(MODEL, SERVER)}) / (sum({drafted.rate(MODEL, SERVER)}) > 0)",
                "accepted of drafted",
            ),
            unit=RATIO,
            minimum=0,
            maximum=1,
            description=accepted.tells("Below some 40 % guessing costs more than it gives: guess fewer."),
            no_value="no speculative decoding",
            width=8,
        ),
        heatmap(
            "Time to first token",
            ttft,
            MODEL,
            SERVER,
            description=ttft.tells(
                "Two bands are two kinds of request: those that waited, and those that did not."
            ),
            width=12,
        ),
        heatmap(
            "Time between tokens",
            itl,
            MODEL,
            SERVER,
            description=itl.tells("A second band far above the first is others' prefill in the same steps."),
            width=12,
        ),
        time_series(
            "FLOP/s by phase",
            Query(f"sum by (phase) ({flops.rate(MODEL, SERVER)})", "{{phase}}"),
            unit=flops.rate_unit,
            stacked=True,
            minimum=0,
            description=flops.tells(
                "Nearly all is prefill's, while nearly all time is decode's: that is the lesson."
            ),
            width=8,
        ),
        time_series(
            "Tokens a sequence and step",
            Query(f"avg by (rank) ({per_step.where(MODEL, SERVER)})", RANK),
            unit=per_step.unit,
            minimum=0,
            description=per_step.tells("More than one is speculation: each step verifies so many."),
            width=4,
        ),
        table(
            "What is assumed of the model",
            Column(
                "Engines",
                "count by (server, model, origin, weight_dtype, kv_dtype, tensor_parallel)"
                f" ({model_info.where(MODEL, SERVER)})",
            ),
            labels={
                "server": "Server",
                "model": "Model",
                "weight_dtype": "Weights",
                "kv_dtype": "KV cache",
                "tensor_parallel": "Tensor parallel",
                "origin": "Known from",
            },
            description=model_info.tells(
                "Wrong or empty: name it under engines[].model; FLOPs follow from it."
            ),
            width=12,
        ),
        table(
            "Software",
            Column("Up", f"min by (server, rank, engine) ({up.where(MODEL, SERVER)})"),
            labels={"server": "Server", "rank": "Rank", "engine": "Engine"},
            description=up.tells("0: see the runbook of EngineDown."),
            width=12,
            height=5,
        ),
        table(
            "Versions",
            Column(
                "Engines",
                f"count by (engine, version, workload_namespace, workload_pod) ({info.where(MODEL, SERVER)})",
            ),
            labels={
                "engine": "Engine",
                "version": "Version",
                "workload_namespace": "Namespace",
                "workload_pod": "Pod",
            },
            description=info.tells(
                "A version that differs from its replicas' explains what differs in numbers."
            ),
            width=12,
            height=5,
        ),
        collapsed=False,
    ),
    variables=variables(many=("model",), one=("instance", "server")),
    span="3h",
)
