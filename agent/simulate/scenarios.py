"""The scenarios: a table. Each tells one story, and is in its steady state within 20 seconds."""

from __future__ import annotations

from dataclasses import replace

from agent.simulate.parts import H200, L40S
from agent.simulate.scenario import (
    DcgmExporter,
    Engine,
    Fault,
    Gpu,
    Lengths,
    Model,
    Outage,
    Scenario,
    Server,
    Speculation,
    Traffic,
    TrafficChange,
)

LLAMA_8B = Model(
    name="llama-3.1-8b",
    served_name="meta-llama/Llama-3.1-8B-Instruct",
    measured_name="Llama-3.1-8B",
    weight_bytes=16.1e9,
    kv_bytes_per_token=131072,
)
LLAMA_70B = Model(
    name="llama-3.1-70b",
    served_name="meta-llama/Llama-3.1-70B-Instruct",
    measured_name="Llama-3.1-70B",
    weight_bytes=141.1e9,
    kv_bytes_per_token=327680,
)
QWEN_235B = Model(
    name="qwen3-235b-a22b",
    served_name="Qwen/Qwen3-235B-A22B",
    measured_name="Qwen3-235B-A22B",
    weight_bytes=470.2e9,
    kv_bytes_per_token=385024,  # on eight GPUs, each of its four heads twice
)

BLOCKS_8B = 26_000
"""416,000 tokens: 55 GB, what the weights leave on one H100."""
BLOCKS_8B_SHARED = 9_000
"""144,000 tokens: 19 GB, with another engine beside it."""
BLOCKS_8B_L40S = 12_000
"""192,000 tokens: 25 GB, what the weights leave on one L40S."""
BLOCKS_70B = 22_000
"""352,000 tokens: 29 GB on each of four H100s."""
BLOCKS_70B_L40S = 35_000
"""560,000 tokens: 23 GB on each of eight L40S."""
BLOCKS_235B = 95_000
"""1,520,000 tokens: 73 GB on each of eight H200s."""


def _server(
    gpu: int,
    traffic: Traffic,
    *,
    model: Model = LLAMA_8B,
    num_gpu_blocks: int = BLOCKS_8B,
    traffic_changes: tuple[TrafficChange, ...] = (),
    max_num_seqs: int = 256,
    max_num_batched_tokens: int = 2048,
    host_gap_seconds: float = 0.0004,
    speculation: Speculation | None = None,
) -> Server:
    engine = Engine(
        model=model,
        gpus=(gpu,),
        traffic=traffic,
        traffic_changes=traffic_changes,
        num_gpu_blocks=num_gpu_blocks,
        max_num_seqs=max_num_seqs,
        max_num_batched_tokens=max_num_batched_tokens,
        host_gap_seconds=host_gap_seconds,
        speculation=speculation,
    )
    return Server(engines=(engine,))


CHAT = Traffic(
    clients=6,
    prompt=Lengths(low=50, high=400),
    output=Lengths(low=200, high=600),
    shared_prefix_tokens=256,
)
BATCH_JOB = Traffic(clients=128, prompt=Lengths(low=400, high=800), output=Lengths(low=500, high=900))
SPARSE_DOCUMENTS = Traffic(
    requests_per_second=1.5, prompt=Lengths(low=4000, high=8000), output=Lengths(low=4, high=16)
)
DOCUMENTS = Traffic(clients=4, prompt=Lengths(low=4000, high=8000), output=Lengths(low=4, high=16))
ONE_PERSON = Traffic(
    clients=1,
    pause_seconds=4.5,
    prompt=Lengths(low=50, high=400),
    output=Lengths(low=200, high=400),
    shared_prefix_tokens=256,
)
LONG_ANSWERS = Traffic(
    clients=16,
    all_begin_at_once=True,
    prompt=Lengths(low=100, high=300),
    output=Lengths(low=31_000, high=32_000),
)
LONG_QUESTIONS = Traffic(clients=16, prompt=Lengths(low=5000, high=7500), output=Lengths(low=120, high=240))
TOO_MANY = Traffic(
    requests_per_second=10, prompt=Lengths(low=200, high=400), output=Lengths(low=200, high=400)
)
MIXED = Traffic(requests_per_second=6, prompt=Lengths(low=1000, high=3000), output=Lengths(low=150, high=350))

NODE = Scenario(
    name="node",
    description=(
        "Eight H100s that all look busy: chat at a batch of 6, a batch job of 128 sequences, documents to be "
        "read (prefill), an engine that its host keeps waiting, and a 70B over four GPUs."
    ),
    gpus=(Gpu(),) * 8,
    servers=(
        _server(0, CHAT),
        _server(1, BATCH_JOB),
        _server(2, DOCUMENTS),
        _server(3, CHAT, host_gap_seconds=0.014),
        Server(
            engines=(
                Engine(
                    model=LLAMA_70B,
                    gpus=(4, 5, 6, 7),
                    traffic=Traffic(
                        requests_per_second=1.2,
                        prompt=Lengths(low=200, high=1000),
                        output=Lengths(low=200, high=500),
                        shared_prefix_tokens=512,
                    ),
                    num_gpu_blocks=BLOCKS_70B,
                ),
            )
        ),
    ),
)

_OTHERS = (
    Scenario(
        name="idle",
        description="A model is loaded and nobody asks it anything.",
        gpus=(Gpu(),),
        servers=(_server(0, Traffic()),),
    ),
    Scenario(
        name="memory-bound-decode",
        description="Chat at a batch of 6: every step reads all weights for a few tokens.",
        gpus=(Gpu(),),
        servers=(_server(0, CHAT),),
    ),
    Scenario(
        name="single-user",
        description=(
            "One person talks, reads, and asks again: at a batch of one every token reads all weights, and "
            "two thirds of the time the GPU waits for the next question."
        ),
        gpus=(Gpu(),),
        servers=(_server(0, ONE_PERSON),),
    ),
    Scenario(
        name="compute-bound-prefill",
        description="Long documents, short answers: nearly all time goes to prefill.",
        gpus=(Gpu(),),
        servers=(_server(0, DOCUMENTS),),
    ),
    Scenario(
        name="sparse-prefill",
        description="Long documents now and then: they are read in chunks, while hardly anything decodes.",
        gpus=(Gpu(),),
        servers=(_server(0, SPARSE_DOCUMENTS),),
    ),
    Scenario(
        name="mixed",
        description="Middling prompts and answers: prefill rides on decode steps, and decode takes more.",
        gpus=(Gpu(),),
        servers=(_server(0, MIXED),),
    ),
    Scenario(
        name="interference",
        description=(
            "Sixteen people ask about long documents: each prompt rides whole in one step, a sixth of a "
            "second long, and all the answers under way wait for it."
        ),
        gpus=(Gpu(),),
        servers=(_server(0, LONG_QUESTIONS, max_num_batched_tokens=8192),),
    ),
    Scenario(
        name="host-bound",
        description="The same chat, and a host that takes 14 ms between steps: the GPU waits.",
        gpus=(Gpu(),),
        servers=(_server(0, CHAT, host_gap_seconds=0.014),),
    ),
    Scenario(
        name="speculative-decoding",
        description=(
            "Chat with three tokens guessed ahead: one engine finds them in the prompt, the other has a "
            "smaller model guess them, of which its page tells nothing. More tokens come than sequences run."
        ),
        gpus=(Gpu(), Gpu()),
        servers=(
            _server(0, CHAT, speculation=Speculation(tokens=3, acceptance_ratio=0.5)),
            _server(1, CHAT, speculation=Speculation(tokens=3, acceptance_ratio=0.75, draft_seconds=0.0009)),
        ),
    ),
    Scenario(
        name="interconnect",
        description=(
            "A 70B over eight L40S, with PCIe alone and no profiling counters: most of every step "
            "goes to all-reduces, and only a model of the step can say so."
        ),
        gpus=(Gpu(part=L40S),) * 8,
        servers=(
            Server(
                engines=(
                    Engine(
                        model=LLAMA_70B,
                        gpus=tuple(range(8)),
                        traffic=Traffic(
                            clients=32,
                            prompt=Lengths(low=50, high=200),
                            output=Lengths(low=200, high=400),
                            shared_prefix_tokens=256,
                        ),
                        num_gpu_blocks=BLOCKS_70B_L40S,
                    ),
                )
            ),
        ),
    ),
    Scenario(
        name="kernel-latency",
        description=(
            "Two people talk to a mixture of experts on eight H200s: each GPU has so little to do in a layer "
            "that its kernels are over before they reach the speed of anything."
        ),
        gpus=(Gpu(part=H200),) * 8,
        servers=(
            Server(
                engines=(
                    Engine(
                        model=QWEN_235B,
                        gpus=tuple(range(8)),
                        traffic=Traffic(
                            clients=2,
                            prompt=Lengths(low=50, high=400),
                            output=Lengths(low=300, high=600),
                            shared_prefix_tokens=256,
                        ),
                        num_gpu_blocks=BLOCKS_235B,
                    ),
                )
            ),
        ),
    ),
    Scenario(
        name="kv-nearly-full",
        description="The KV cache is nine tenths full, and nothing has to be preempted yet.",
        gpus=(Gpu(),),
        servers=(
            _server(
                0,
                Traffic(clients=25, prompt=Lengths(low=1900, high=2100), output=Lengths(low=200, high=300)),
                num_gpu_blocks=3_500,
            ),
        ),
    ),
    Scenario(
        name="kv-filling",
        description=(
            "Sixteen answers of 32,000 tokens began together: the KV cache fills steadily, and will be full "
            "after six or seven minutes, before any of them ends."
        ),
        gpus=(Gpu(),),
        servers=(_server(0, LONG_ANSWERS),),
    ),
    Scenario(
        name="preempting",
        description="More clients than the KV cache can hold: answers are cut off and computed again.",
        gpus=(Gpu(),),
        servers=(
            _server(
                0,
                Traffic(clients=64, prompt=Lengths(low=200, high=400), output=Lengths(low=400, high=800)),
                num_gpu_blocks=1_200,
            ),
        ),
    ),
    Scenario(
        name="max-num-seqs",
        description="The KV cache would hold many more, but only 16 sequences may run: the others wait.",
        gpus=(Gpu(),),
        servers=(
            _server(
                0,
                Traffic(clients=40, prompt=Lengths(low=200, high=400), output=Lengths(low=200, high=400)),
                max_num_seqs=16,
            ),
        ),
    ),
    Scenario(
        name="overloaded",
        description=(
            "Ten requests come each second, and with the 16 sequences that may run seven or eight are "
            "answered: the queue grows without end, and the first token comes later and later."
        ),
        gpus=(Gpu(),),
        servers=(_server(0, TOO_MANY, max_num_seqs=16),),
    ),
    Scenario(
        name="traffic-fell",
        description=(
            "After a minute of 128 clients all but four leave: the same GPU is paid for far fewer tokens."
        ),
        gpus=(Gpu(),),
        servers=(
            _server(
                0,
                BATCH_JOB,
                traffic_changes=(TrafficChange(at_seconds=60, traffic=replace(BATCH_JOB, clients=4)),),
            ),
        ),
    ),
    Scenario(
        name="throttled",
        description="Prefill under a power cap: the SM clock is held at 62 %, and prefill takes longer.",
        gpus=(Gpu(sm_clock_ratio=0.62, power_limit_watts=450),),
        servers=(_server(0, DOCUMENTS),),
    ),
    Scenario(
        name="overheated",
        description=(
            "Prefill on a GPU whose fans have failed: at 89 degrees the hardware halves the SM clock, and "
            "prefill takes twice as long."
        ),
        gpus=(
            Gpu(
                sm_clock_ratio=0.5,
                clock_held_by=("hw_slowdown", "sw_thermal", "hw_thermal"),
                hotter_celsius=38,
            ),
        ),
        servers=(_server(0, DOCUMENTS),),
    ),
    Scenario(
        name="hung-engine",
        description="After a minute the engine hangs in a step: its page answers, its kernel stays.",
        gpus=(Gpu(),),
        servers=(_server(0, CHAT),),
        outages=(Outage(what="engines_hung", index=0, at_seconds=60),),
    ),
    Scenario(
        name="shared-gpu",
        description="Two engines take turns on one GPU.",
        gpus=(Gpu(),),
        servers=tuple(_server(0, CHAT, num_gpu_blocks=BLOCKS_8B_SHARED) for _ in range(2)),
    ),
    Scenario(
        name="data-parallel",
        description="One server, two data-parallel engines on a GPU each, and both on one page.",
        gpus=(Gpu(), Gpu()),
        servers=(Server(engines=tuple(_server(gpu, CHAT).engines[0] for gpu in (0, 1))),),
    ),
    Scenario(
        name="contradicting-evidence",
        description="The profiling counters say that nothing happens, while kernels run all the time.",
        gpus=(Gpu(profiling_reads_zero=True),),
        servers=(_server(0, CHAT),),
    ),
    Scenario(
        name="wrong-model",
        description=(
            "The configuration still names the 32B that was served before, while the server serves an 8B: by "
            "that model every step would read nearly four times what is measured."
        ),
        gpus=(Gpu(),),
        servers=(_server(0, CHAT, model=replace(LLAMA_8B, name="qwen3-32b")),),
    ),
    Scenario(
        name="measured-by-dcgm",
        description=(
            "L40S have no profiling counters for NVML to read: a dcgm-exporter tells, every 30 seconds. Two "
            "serve the same chat, but the host of one takes 40 ms between steps; the third has nothing to do."
        ),
        gpus=(Gpu(part=L40S),) * 3,
        servers=(
            _server(0, CHAT, num_gpu_blocks=BLOCKS_8B_L40S),
            _server(1, CHAT, num_gpu_blocks=BLOCKS_8B_L40S, host_gap_seconds=0.04),
        ),
        dcgm=DcgmExporter(),
    ),
    Scenario(
        name="dcgm-down",
        description=(
            "Chat on an L40S, of whose DRAM only a dcgm-exporter can tell: after a minute nobody answers at "
            "its port any more."
        ),
        gpus=(Gpu(part=L40S),),
        servers=(_server(0, CHAT, num_gpu_blocks=BLOCKS_8B_L40S),),
        dcgm=DcgmExporter(),
        outages=(Outage(what="dcgm_down", at_seconds=60),),
    ),
    Scenario(
        name="driver-down",
        description="After a minute the driver answers nothing any more, while the engine works on.",
        gpus=(Gpu(),),
        servers=(_server(0, CHAT),),
        outages=(Outage(what="driver_down", at_seconds=60),),
    ),
    Scenario(
        name="failing-memory",
        description=(
            "Chat on two GPUs: after a minute the memory of one has an error that ECC cannot correct. Work "
            "goes on, and the driver asks for that GPU to be drained and reset."
        ),
        gpus=(Gpu(), Gpu()),
        servers=(_server(0, CHAT), _server(1, CHAT)),
        faults=(
            Fault(
                gpu=1,
                at_seconds=60,
                xids=(48, 63, 94),  # uncorrected error, row remapping recorded, error contained
                ecc_uncorrected_errors=1,
                row_remap_pending=True,
                recovery_action="drain_and_reset",
            ),
        ),
    ),
    Scenario(
        name="gpu-lost",
        description="One of two GPUs falls off the bus for two minutes, its server with it.",
        gpus=(Gpu(), Gpu()),
        servers=(_server(0, CHAT), _server(1, CHAT)),
        outages=(Outage(what="gpu_lost", index=1, at_seconds=120, until_seconds=240),),
    ),
    Scenario(
        name="engine-down",
        description="The server is gone for two minutes, and comes back with its counters at zero.",
        gpus=(Gpu(),),
        servers=(_server(0, CHAT),),
        outages=(Outage(what="server_down", index=0, at_seconds=120, until_seconds=240),),
    ),
)

SCENARIOS: dict[str, Scenario] = {scenario.name: scenario for scenario in (NODE, *_OTHERS)}
