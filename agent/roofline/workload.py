"""What an engine's work must cost: FLOPs and DRAM bytes, by phase and by kind of traffic.

The counts of tokens come from the engine, the sizes from the architecture; nothing is fitted. The one
rule that makes decode slow is here: **weights are read once a step**, however many tokens share it.
"""

from __future__ import annotations

from dataclasses import dataclass

from agent.roofline.models import Architecture, ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWork:
    """What an engine did over some span of time, counted in tokens.

    In a step that mixes both phases the weights belong to decode; only a step without any decode
    charges them to prefill.
    """

    decode_tokens: float = 0.0
    decode_context_tokens: float = 0.0
    """Σ over decoded tokens of the context each attended to."""
    decode_steps: float = 0.0
    """Steps in which anything was decoded: each read the weights once."""
    prefill_tokens: float = 0.0
    """Computed; tokens found in the prefix cache are not in it."""
    prefill_pairs: float = 0.0
    """Σ over prefilled tokens of the tokens each attended to, itself included (causal)."""
    prefill_past_tokens: float = 0.0
    """Σ over prompts (or chunks) of the tokens that were in the cache before."""
    prefill_logits: float = 0.0
    """Prompts that ended, each giving one token through the LM head."""
    prefill_only_steps: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseWork:
    """What one phase cost the whole replica."""

    flops: float
    weight_bytes: float
    kv_cache_bytes: float
    activation_bytes: float

    @property
    def bytes(self) -> float:
        """All DRAM traffic of the phase."""
        return self.weight_bytes + self.kv_cache_bytes + self.activation_bytes

    @property
    def intensity_flops_per_byte(self) -> float | None:
        """Arithmetic intensity; `None` when nothing was moved."""
        return self.flops / self.bytes if self.bytes > 0 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """Both phases of one span of time."""

    prefill: PhaseWork
    decode: PhaseWork

    @property
    def flops(self) -> float:
        """Of both phases."""
        return self.prefill.flops + self.decode.flops

    @property
    def bytes(self) -> float:
        """Of both phases."""
        return self.prefill.bytes + self.decode.bytes


def causal_pairs(*, new_tokens: float, past_tokens: float, dispersion: float = 1.0) -> float:
    """Token pairs that a causal prefill attends: n·p + n(n+1)/2.

    `dispersion` is E[n²] ÷ E[n]² where `new_tokens` is a mean over prompts of different length.
    """
    return new_tokens * past_tokens + (dispersion * new_tokens**2 + new_tokens) / 2


def workload(model: ServedModel, work: TokenWork) -> Workload:
    """FLOPs and DRAM bytes of `work`, over all GPUs of the replica; one of its ranks has 1/tensor_parallel.

    Counted: every matrix product at 2 FLOPs a weight, causal attention, the LM head where logits are made,
    weights once a step, reads and writes of the KV cache, activations of prefill. Not counted, being far
    below 1 %: norms, rotary embedding, softmax, sampling, the embedding's rows. Activations of decode stay
    in the L2 cache.
    """
    architecture = model.architecture
    linear = 2 * architecture.linear_parameters
    head = 2 * architecture.head_parameters
    pair = architecture.attention_flops_per_pair
    kv_bytes = model.kv_bytes_per_token
    weight_bytes = model.step_weight_bytes
    decode = PhaseWork(
        flops=work.decode_tokens * (linear + head) + work.decode_context_tokens * pair,
        weight_bytes=work.decode_steps * weight_bytes,
        kv_cache_bytes=(work.decode_context_tokens + work.decode_tokens) * kv_bytes,
        activation_bytes=0.0,
    )
    prefill = PhaseWork(
        flops=work.prefill_tokens * linear + work.prefill_logits * head + work.prefill_pairs * pair,
        weight_bytes=work.prefill_only_steps * weight_bytes,
        kv_cache_bytes=(work.prefill_past_tokens + work.prefill_tokens) * kv_bytes,
        activation_bytes=work.prefill_tokens
        * activation_bytes_per_token(architecture, model.tensor_parallel),
    )
    return Workload(prefill=prefill, decode=decode)


def activation_bytes_per_token(architecture: Architecture, tensor_parallel: int) -> float:
    """DRAM traffic of one prefilled token's activations in 16 bit, over all ranks.

    An estimate of what fused kernels write and read again: the residual stream six times, q, k, v, the
    attention's output, and the feed-forward's inner width three times, a layer.
    """
    replicated = 6 * architecture.hidden * tensor_parallel
    heads = (2 * architecture.heads + 2 * architecture.kv_heads) * architecture.head_dim
    return 2.0 * architecture.layers * (replicated + heads + 3 * architecture.ffn)


def max_decode_intensity(model: ServedModel, context_tokens: float) -> float:
    """What no batch can pass at this context, FLOP/byte: in the limit only the KV cache is read."""
    architecture = model.architecture
    per_token_flops = (
        2 * (architecture.linear_parameters + architecture.head_parameters)
        + architecture.attention_flops_per_pair * context_tokens
    )
    return per_token_flops / (model.kv_bytes_per_token * (context_tokens + 1))


def decode_intensity(model: ServedModel, *, batch: float, context_tokens: float) -> float:
    """Arithmetic intensity of one decode step, FLOP/byte."""
    step = TokenWork(decode_tokens=batch, decode_context_tokens=batch * context_tokens, decode_steps=1)
    decode = workload(model, step).decode
    return decode.flops / decode.bytes


def ridge_batch(model: ServedModel, *, ridge_flops_per_byte: float, context_tokens: float) -> float | None:
    """The smallest decode batch whose intensity reaches the ridge; `None` when no batch can at this context.

    With F FLOPs and K bytes a sequence and W bytes of weights, B·F ÷ (W + B·K) = ridge.
    """
    if max_decode_intensity(model, context_tokens) <= ridge_flops_per_byte:
        return None
    one = workload(model, TokenWork(decode_tokens=1, decode_context_tokens=context_tokens)).decode
    return ridge_flops_per_byte * model.step_weight_bytes / (one.flops - ridge_flops_per_byte * one.bytes)
