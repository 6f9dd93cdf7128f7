"""What an engine's work must cost: FLOPs and DRAM bytes, by phase and by kind of traffic.

The counts of tokens come from the engine, the sizes from the architecture; nothing is fitted. The one
rule that makes decode slow is here: **weights are read once a step**, however many tokens share it.

Speculative decoding bends nothing of that. In a step a sequence has several tokens computed, those that were
guessed and one more, and keeps those that were right: what is computed and written goes by the tokens, what
is read of the cache by the sequences, and what the user gets is less than what was computed.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from agent.roofline.models import Architecture, Attention, LatentAttention, ServedModel


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenWork:
    """What an engine did over some span of time, counted in tokens.

    In a step that mixes both phases the weights belong to decode; only a step without any decode
    charges them to prefill.
    """

    decode_tokens: float = 0.0
    """Given to the users: with speculation several a sequence and step."""
    draft_tokens: float = 0.0
    """Guessed by speculative decoding, and verified by the model. What guessing took is not in here."""
    accepted_tokens: float = 0.0
    """Of `decode_tokens`, those that had been guessed."""
    decode_steps: float = 0.0
    """Steps in which anything was decoded: each read the weights once."""
    decode_context: float = 0.0
    """Mean tokens that a decoded token has before it."""
    prompts: float = 0.0
    """Prompts, or chunks of prompts, that were prefilled."""
    prefill_tokens: float = 0.0
    """Computed, over all prompts; tokens found in the prefix cache are not in it."""
    prompt_past: float = 0.0
    """Mean tokens of a prompt that were in the cache before."""
    prompt_dispersion: float = 1.0
    """E[n²] ÷ E[n]² of the computed lengths; 1 when all prompts are alike."""
    prefill_logits: float = 0.0
    """Prompts that ended, each giving one token through the LM head."""
    prefill_only_steps: float = 0.0
    prefill_only_ratio: float = 0.0
    """Share of the prefill work done in those steps."""

    @property
    def sequence_steps(self) -> float:
        """Sequences in each decoding step, summed over steps: each gives one token that nobody guessed."""
        return max(self.decode_tokens - self.accepted_tokens, 0.0)

    @property
    def verified_tokens(self) -> float:
        """Computed by the model in decoding steps: one a sequence and all guesses, the wrong ones too."""
        return self.sequence_steps + self.draft_tokens

    @property
    def tokens_per_sequence_step(self) -> float:
        """Computed for a sequence in one decoding step: 1, and its guesses."""
        return self.verified_tokens / self.sequence_steps if self.sequence_steps > 0 else 1.0

    @property
    def prompt_length(self) -> float:
        """Mean computed tokens of a prompt."""
        return self.prefill_tokens / self.prompts if self.prompts > 0 else 0.0

    @property
    def carrying_ratio(self) -> float:
        """Share of the decoding steps that carry prefill along: one for each prompt, at most all."""
        if self.decode_steps <= 0:
            return 0.0
        return min(self.prompts * (1 - self.prefill_only_ratio) / self.decode_steps, 1.0)

    @property
    def tokens_per_prefill_only_step(self) -> float:
        """Mean tokens of a step that only prefills."""
        if self.prefill_only_steps <= 0:
            return 0.0
        return self.prefill_tokens * self.prefill_only_ratio / self.prefill_only_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class PhaseWork:
    """What one phase cost the whole replica."""

    flops: float
    weight_bytes: float
    kv_cache_bytes: float
    """Cache and recurrent state, read and written."""
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


def workload(model: ServedModel, work: TokenWork) -> Workload:
    """FLOPs and DRAM bytes of `work`, over all GPUs of the replica.

    Counted: every matrix product at 2 FLOPs a weight, causal attention, the LM head where logits are made,
    weights once a step (of the experts those that the step is expected to touch), reads and writes of the
    KV cache and of recurrent state, activations of prefill. Not counted, being far below 1 %: norms, rotary
    embedding, softmax, sampling, the embedding's rows. Activations of decode stay in the L2 cache. Nor is the
    model counted that guesses tokens, of which no page tells; guesses out of the prompt itself need none.
    """
    return Workload(prefill=_prefill(model, work), decode=_decode(model, work))


def _decode(model: ServedModel, work: TokenWork) -> PhaseWork:
    architecture = model.architecture
    context = work.decode_context
    per_token = 2.0 * (model.linear_parameters + architecture.head_parameters)
    per_token += sum(group.flops_per_token for group in architecture.recurrent)
    read_elements = 0.0
    for group in architecture.attention:
        seen = group.attended(context)
        per_token += group.decode_flops_per_pair * seen
        read_elements += group.kv_elements(model.tensor_parallel) * seen
        if isinstance(group, LatentAttention):
            per_token += group.index_flops_per_pair * context
    read_bytes = read_elements * model.kv_dtype.bytes_per_weight + model.state_bytes
    # A guess that turns out wrong must be undone, so that a state is written for each token.
    written_bytes = model.kv_bytes_per_token + model.state_bytes
    return PhaseWork(
        flops=work.verified_tokens * per_token,
        weight_bytes=_decode_weight_bytes(model, work),
        kv_cache_bytes=work.sequence_steps * read_bytes + work.verified_tokens * written_bytes,
        activation_bytes=0.0,
    )


def _decode_weight_bytes(model: ServedModel, work: TokenWork) -> float:
    """Weights of the steps that decode.

    Those that carry prefill along touch more experts; counted at the mean, all would touch too many.
    """
    if work.decode_steps <= 0:
        return 0.0
    tokens, carrying = work.verified_tokens / work.decode_steps, work.carrying_ratio
    alone = (1 - carrying) * model.step_weight_bytes(tokens) if carrying < 1 else 0.0
    if carrying == 0:
        return work.decode_steps * alone
    carried = work.prefill_tokens * (1 - work.prefill_only_ratio) / (carrying * work.decode_steps)
    return work.decode_steps * (alone + carrying * model.step_weight_bytes(tokens + carried))


def _prefill(model: ServedModel, work: TokenWork) -> PhaseWork:
    architecture = model.architecture
    new, past = work.prompt_length, work.prompt_past
    recurrent = sum(group.flops_per_token for group in architecture.recurrent)
    flops = work.prefill_tokens * (2 * model.linear_parameters + recurrent)
    flops += 2 * work.prefill_logits * architecture.head_parameters
    read_elements = 0.0
    for group in architecture.attention:
        pairs = causal_pairs(
            new_tokens=new,
            past_tokens=past,
            dispersion=work.prompt_dispersion,
            window=group.window if isinstance(group, Attention) else group.top_k,
        )
        flops += work.prompts * group.prefill_flops_per_pair * pairs
        flops += work.prompts * group.reprojection_flops_per_past_token * past
        read_elements += group.kv_elements(model.tensor_parallel) * group.attended(past)
        if isinstance(group, LatentAttention):
            every = causal_pairs(new_tokens=new, past_tokens=past, dispersion=work.prompt_dispersion)
            flops += work.prompts * group.index_flops_per_pair * every
    read_bytes = read_elements * model.kv_dtype.bytes_per_weight
    return PhaseWork(
        flops=flops,
        weight_bytes=work.prefill_only_steps * model.step_weight_bytes(work.tokens_per_prefill_only_step),
        kv_cache_bytes=(
            work.prompts * (read_bytes + 2 * model.state_bytes)
            + work.prefill_tokens * model.kv_bytes_per_token
        ),
        activation_bytes=work.prefill_tokens
        * activation_bytes_per_token(architecture, model.tensor_parallel),
    )


def causal_pairs(
    *, new_tokens: float, past_tokens: float, dispersion: float = 1.0, window: float | None = None
) -> float:
    """Token pairs that a causal prefill attends: n·p + n(n+1)/2, each token seeing at most its window.

    `dispersion` is E[n²] ÷ E[n]² where `new_tokens` is a mean over prompts of different length; it is not
    applied to a window that is already full.
    """
    if window is None or past_tokens + new_tokens <= window:
        return new_tokens * past_tokens + (dispersion * new_tokens**2 + new_tokens) / 2
    growing = min(max(window - past_tokens, 0.0), new_tokens)
    return growing * past_tokens + growing * (growing + 1) / 2 + (new_tokens - growing) * window


def activation_bytes_per_token(architecture: Architecture, tensor_parallel: int) -> float:
    """DRAM traffic of one prefilled token's activations in 16 bit, over all ranks.

    An estimate of what fused kernels write and read again: the residual stream six times, q, k, v, the
    attention's output, and the feed-forward's inner width three times, a layer.
    """
    width = 6.0 * architecture.hidden * tensor_parallel * architecture.layers
    for group in architecture.attention:
        if isinstance(group, Attention):
            width += group.layers * (2 * group.heads + 2 * group.kv_heads) * group.head_dim
        else:
            width += group.layers * group.heads * (2 * group.nope_dim + 2 * group.value_dim)
    for dense in architecture.dense_ffn:
        width += 3 * dense.layers * dense.width
    for expert in architecture.expert_ffn:
        width += 3 * expert.layers * (expert.active * expert.width + expert.shared_width)
    return 2.0 * width


def decode_step(*, batch: float, context_tokens: float, tokens_per_sequence: float = 1.0) -> TokenWork:
    """One step that decodes a batch, all at the same context; beyond one a sequence, tokens are guesses."""
    return TokenWork(
        decode_tokens=batch,
        draft_tokens=batch * (tokens_per_sequence - 1),
        decode_steps=1,
        decode_context=context_tokens,
    )


def decode_intensity(
    model: ServedModel, *, batch: float, context_tokens: float, tokens_per_sequence: float = 1.0
) -> float:
    """Arithmetic intensity of one decode step, FLOP/byte."""
    step = decode_step(batch=batch, context_tokens=context_tokens, tokens_per_sequence=tokens_per_sequence)
    decode = _decode(model, step)
    return decode.flops / decode.bytes


def max_decode_intensity(
    model: ServedModel, context_tokens: float, *, tokens_per_sequence: float = 1.0
) -> float:
    """What no batch can pass at this context, FLOP/byte: in the limit only cache and state are read.

    Tokens of one sequence share their read of its cache, so that guessing raises this limit as it raises
    the intensity of a small batch.
    """
    decode = _one_sequence(model, context_tokens, tokens_per_sequence)
    return decode.flops / decode.kv_cache_bytes


def ridge_batch(
    model: ServedModel,
    *,
    ridge_flops_per_byte: float,
    context_tokens: float,
    tokens_per_sequence: float = 1.0,
) -> float | None:
    """The sequences in a decode step whose intensity is the ridge's; `None` when no batch has it.

    With F FLOPs and K bytes a sequence and W bytes of weights, B·F ÷ (W + B·K) = ridge. The weights grow
    with the batch where there are experts, so B is found from above, beginning with all of them. With
    several tokens a sequence (`TokenWork.tokens_per_sequence_step`) F grows with them and K hardly does, and
    fewer sequences are enough.
    """
    one = _one_sequence(model, context_tokens, tokens_per_sequence)
    surplus = one.flops - ridge_flops_per_byte * one.kv_cache_bytes
    if surplus <= 0:
        return None
    batch = math.inf
    for _ in range(50):
        weight_bytes = model.step_weight_bytes(batch * tokens_per_sequence)
        before, batch = batch, ridge_flops_per_byte * weight_bytes / surplus
        if before - batch <= 1e-6 * batch:
            break
    return batch


def _one_sequence(model: ServedModel, context_tokens: float, tokens_per_sequence: float) -> PhaseWork:
    """A decode step of one sequence: its FLOPs, cache and state are what each further one adds."""
    step = decode_step(batch=1, context_tokens=context_tokens, tokens_per_sequence=tokens_per_sequence)
    return _decode(model, step)
