"""The agent beside a real vLLM server that serves a mixture of experts, on this CPU.

Two kinds of load. A mixed one, for FLOPs. And streams in step – so many requests that are alike, sent at
once – of which the client knows the batch of every step, and with it what weights the step must read.

vLLM's own count of bytes knows experts as well, but takes no two tokens to choose the same one: a batch of
eight, two experts each, is billed for all eight, where 7.2 are expected. What else is in its bill is
written down in `vllm_costs`; the rest of it is then the agent's, byte for byte.

Run by ``make e2e-vllm``. It needs the vLLM that ``install_vllm.sh`` puts into ``$VLLM_DIR``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.e2e.vllm_costs import (
    billed_experts,
    billed_token_bytes,
    billed_weight_bytes,
    causal_flops,
    distinct_experts,
    router_flops,
    weight_bytes,
)
from tests.e2e.vllm_load import random_requests
from tests.e2e.vllm_models import BYTES_PER_NUMBER, MIXTURE
from tests.e2e.vllm_record import Figures, Load, Recorder, stage, tokens_and_flops

LOAD = random_requests(60, seed=11, prompt_tokens=(300, 900), max_tokens=(64, 256))
STREAMS = (1, 2, 8)
PROMPT_TOKENS, STREAM_TOKENS = 128, 400
DECODE_STEPS = STREAM_TOKENS - 1
STRAGGLING = 0.02
"""Streams are sent at once, but one may be a step or two behind: each is a four-hundredth of the load."""


# --- the record ------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Streams:
    """A load of requests that are alike, all of them in the batch of every step."""

    count: int
    load: Load

    def expected_decode_bytes(self) -> float:
        """Weights that the client expects its decoding steps to read."""
        return DECODE_STEPS * weight_bytes(MIXTURE, self.count)

    def agent_decode_bytes(self) -> float:
        """Weights that the agent says they read."""
        return self.load.agent_weight_bytes(phase="decode")

    def bill(self) -> Mapping[str, float]:
        """What vLLM must count as read, part by part."""
        return {
            "activations and cache": billed_token_bytes(MIXTURE, self.load.answers),
            "weights to prefill": billed_weight_bytes(MIXTURE, self.count * PROMPT_TOKENS),
            "weights to decode": DECODE_STEPS * billed_weight_bytes(MIXTURE, self.count),
            # When the last request has ended there is one more step, of nothing.
            "weights of the empty step": billed_weight_bytes(MIXTURE, 0),
        }

    def vllm_decode_bytes(self) -> float:
        """Weights of the decoding steps in vLLM's count: what is left when all else on the bill is paid."""
        bill = self.bill()
        return self.load.vllm_read_bytes() - (sum(bill.values()) - bill["weights to decode"])

    def agent_experts(self) -> float:
        """Of a layer, in a decoding step, by the agent."""
        return self._experts(self.agent_decode_bytes(), everywhere=weight_bytes(MIXTURE, 0))

    def vllm_experts(self) -> float:
        """The same by vLLM."""
        return self._experts(self.vllm_decode_bytes(), everywhere=billed_weight_bytes(MIXTURE, 0))

    def _experts(self, decode_bytes: float, *, everywhere: float) -> float:
        return (decode_bytes / DECODE_STEPS - everywhere) / (BYTES_PER_NUMBER * MIXTURE.expert_parameters)


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """What happened."""

    load: Load
    streams: Mapping[int, Streams]


@pytest.fixture(scope="module")
def record(request: pytest.FixtureRequest) -> Record:
    with stage(MIXTURE) as (vllm, agent):
        vllm.start()
        recorder = Recorder(MIXTURE, vllm, agent)
        streams = {
            count: Streams(
                count=count,
                load=recorder.play(
                    random_requests(
                        count,
                        seed=20 + count,
                        prompt_tokens=(PROMPT_TOKENS, PROMPT_TOKENS),
                        max_tokens=(STREAM_TOKENS, STREAM_TOKENS),
                    ),
                    concurrency=count,
                ),
            )
            for count in STREAMS
        }
        played = Record(streams=streams, load=recorder.play(LOAD, concurrency=12))
    request.config.pluginmanager.register(Figures("mixture", lambda: figures(played)))
    return played


# --- the claims ------------------------------------------------------------------------------------


def test_tokens_are_those_that_the_client_was_billed_for(record: Record) -> None:
    for load in (record.load, *(each.load for each in record.streams.values())):
        assert load.agent_tokens() == load.client_tokens()
        assert load.vllm_tokens() == load.client_tokens()


def test_vllm_leaves_out_the_router_and_counts_a_prompts_attention_as_a_square(record: Record) -> None:
    # To the last FLOP: so with the one and without the other, what it counts is what the client asked for.
    causal = causal_flops(MIXTURE, record.load.answers).total
    assert record.load.vllm_causal_flops() == pytest.approx(causal, rel=1e-9)


def test_flops_are_vllms_within_2_per_cent_with_the_router_and_where_attention_is_causal(
    record: Record,
) -> None:
    assert record.load.agent_flops() == pytest.approx(record.load.vllm_causal_flops(), rel=0.02)


@pytest.mark.parametrize("phase", ["prefill", "decode"])
def test_flops_of_each_phase_are_the_clients_within_2_per_cent(record: Record, phase: str) -> None:
    asked_for = getattr(causal_flops(MIXTURE, record.load.answers), phase)
    assert record.load.agent_flops(phase=phase) == pytest.approx(asked_for, rel=0.02)


def test_one_stream_reads_just_its_own_experts(record: Record) -> None:
    alone = record.streams[1]
    assert alone.agent_decode_bytes() == pytest.approx(alone.expected_decode_bytes(), rel=1e-6)
    assert alone.agent_experts() == pytest.approx(MIXTURE.active, rel=1e-6)


@pytest.mark.parametrize("streams", STREAMS[1:])
def test_streams_together_read_the_experts_that_they_are_expected_to_share(
    record: Record, streams: int
) -> None:
    together = record.streams[streams]
    expected = together.expected_decode_bytes()
    assert together.agent_decode_bytes() == pytest.approx(expected, rel=STRAGGLING)


@pytest.mark.parametrize("streams", STREAMS)
def test_vllms_bytes_are_accounted_for(record: Record, streams: int) -> None:
    play = record.streams[streams]
    within = 1e-9 if streams == 1 else STRAGGLING
    assert play.load.vllm_read_bytes() == pytest.approx(sum(play.bill().values()), rel=within)


def test_with_one_stream_the_agents_weights_are_vllms_with_norms_and_router(record: Record) -> None:
    alone = record.streams[1]
    missing = DECODE_STEPS * (weight_bytes(MIXTURE, 0) - billed_weight_bytes(MIXTURE, 0))
    assert alone.agent_decode_bytes() == pytest.approx(alone.vllm_decode_bytes() + missing, rel=1e-6)


@pytest.mark.parametrize("streams", STREAMS[1:])
def test_what_vllm_has_on_top_is_the_experts_that_it_takes_nobody_to_share(
    record: Record, streams: int
) -> None:
    together = record.streams[streams]
    shared = billed_experts(MIXTURE, streams) - distinct_experts(MIXTURE, streams)
    surplus = together.vllm_experts() - together.agent_experts()
    assert surplus == pytest.approx(shared, abs=STRAGGLING * billed_experts(MIXTURE, streams))


# --- figures ---------------------------------------------------------------------------------------


def figures(record: Record) -> Iterator[str]:
    """A table, and what follows from it."""
    load = record.load
    causal, ours = causal_flops(MIXTURE, load.answers), load.agent_flops()
    router = router_flops(MIXTURE, load.answers)
    yield from tokens_and_flops(
        {"load": load},
        {
            "load: GFLOP as each counts": (causal.total, ours, load.vllm_flops()),
            "of it the router's": (router, router, 0.0),
            "load: GFLOP, with router, causal": (causal.total, ours, load.vllm_causal_flops()),
        },
    )
    raw, corrected = ours / load.vllm_flops(), ours / load.vllm_causal_flops()
    yield f"FLOPs, agent / vLLM: {raw:.4f} as each counts, {corrected:.4f} with the router and causal in both"
    prefill, decode = (load.agent_flops(phase=p) / getattr(causal, p) for p in ("prefill", "decode"))
    yield f"FLOPs, agent / client: {prefill:.4f} of prefill, {decode:.4f} of decode"
    for streams, play in record.streams.items():
        for name, three in (("experts a decoding step", _experts(play)), ("GB to decode", _gigabytes(play))):
            yield f"{f'{streams} at once: {name}':36}" + "".join(f"{each:10.3f}" for each in three)
    for streams, play in record.streams.items():
        bill = {name: part / 1e9 for name, part in play.bill().items()}
        parts = ", ".join(f"{part:.3f} {name}" for name, part in bill.items())
        read, whole = play.load.vllm_read_bytes() / 1e9, sum(bill.values())
        yield f"{streams} at once: vLLM read {read:.3f} GB; its bill {whole:.3f}: {parts}"


def _experts(play: Streams) -> tuple[float, float, float]:
    return distinct_experts(MIXTURE, play.count), play.agent_experts(), play.vllm_experts()


def _gigabytes(play: Streams) -> tuple[float, float, float]:
    each = play.expected_decode_bytes(), play.agent_decode_bytes(), play.vllm_decode_bytes()
    client, agent, vllm = (value / 1e9 for value in each)
    return client, agent, vllm
