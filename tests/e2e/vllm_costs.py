"""What the work that a client asked for must cost, and what vLLM's own estimate makes of it.

Nothing here imports the agent: it is arithmetic on the model's numbers, written down once more.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tests.e2e.vllm_load import Answer
from tests.e2e.vllm_models import (
    ATTENTION_PARAMETERS,
    BYTES_PER_NUMBER,
    HEAD_DIM,
    HEAD_PARAMETERS,
    HEADS,
    HIDDEN,
    KV_HEADS,
    LAYERS,
    NORM_PARAMETERS,
    TinyModel,
)

HEAD_FLOPS = 2 * HEAD_PARAMETERS
"""Of the logits of one token."""
PAIR_FLOPS = 4 * LAYERS * HEADS * HEAD_DIM
"""Of one token that attends to one token."""


# --- what it must cost -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Flops:
    """FLOPs by phase."""

    prefill: int
    decode: int

    @property
    def total(self) -> int:
        """Of both phases."""
        return self.prefill + self.decode


def causal_flops(model: TinyModel, answers: Iterable[Answer]) -> Flops:
    """Each token attends to those before it and to itself; prefill gives the first token of an answer."""
    linear_flops = 2 * (
        ATTENTION_PARAMETERS + model.active * model.expert_parameters + model.router_parameters
    )
    prefill = decode = 0
    for answer in answers:
        computed, decoded = answer.computed_tokens, answer.decoded_tokens
        pairs = computed * answer.cached_tokens + computed * (computed + 1) // 2
        prefill += computed * linear_flops + pairs * PAIR_FLOPS + HEAD_FLOPS
        decode += decoded * (linear_flops + HEAD_FLOPS) + decode_pairs(answer) * PAIR_FLOPS
    return Flops(prefill=prefill, decode=decode)


def decode_pairs(answer: Answer) -> int:
    """Tokens that the decoded ones attend to, themselves included."""
    decoded = answer.decoded_tokens
    return decoded * answer.prompt_tokens + decoded * (decoded + 1) // 2


def distinct_experts(model: TinyModel, tokens: int) -> float:
    """That so many tokens are expected to go through together, each choosing as if by lot.

    An expert is left out when each token leaves it out.
    """
    left_out = ((model.experts - model.active) / model.experts) ** tokens
    return model.experts * (1 - left_out)


def weight_bytes(model: TinyModel, tokens: int) -> float:
    """Read by one step of so many tokens."""
    everywhere = ATTENTION_PARAMETERS + HEAD_PARAMETERS + NORM_PARAMETERS + model.router_parameters
    touched = distinct_experts(model, tokens) * model.expert_parameters
    return BYTES_PER_NUMBER * (everywhere + touched)


# --- what vLLM makes of it -------------------------------------------------------------------------


def square_excess_flops(answers: Iterable[Answer]) -> int:
    """What vLLM counts on top: each token of a prompt attends to those after it as well."""
    return sum(a.computed_tokens * (a.computed_tokens - 1) // 2 for a in answers) * PAIR_FLOPS


def router_flops(model: TinyModel, answers: Iterable[Answer]) -> int:
    """What vLLM leaves out: each token's choice of its experts."""
    tokens = sum(answer.computed_tokens + answer.decoded_tokens for answer in answers)
    return 2 * tokens * model.router_parameters


def billed_experts(model: TinyModel, tokens: int) -> int:
    """In vLLM's bill of a step: no two tokens choose the same one, until there are no more."""
    return min(tokens * model.active, model.experts)


def billed_weight_bytes(model: TinyModel, tokens: int) -> int:
    """In vLLM's bill of a step: norms and router are not in it."""
    experts = billed_experts(model, tokens) * model.expert_parameters
    return BYTES_PER_NUMBER * (ATTENTION_PARAMETERS + HEAD_PARAMETERS + experts)


def billed_token_bytes(model: TinyModel, answers: Iterable[Answer]) -> int:
    """All else that vLLM bills as read: activations of both phases, and the cache.

    Of a layer's activations: the input of the projections, the queries, the attention's output, and for each
    expert its input and three times its width.
    """
    activations = LAYERS * (HIDDEN + 2 * HEADS * HEAD_DIM + model.active * (HIDDEN + 3 * model.ffn))
    cache = 2 * LAYERS * KV_HEADS * HEAD_DIM
    numbers = 0
    for answer in answers:
        numbers += (answer.computed_tokens + answer.decoded_tokens) * activations
        numbers += (answer.prompt_tokens + decode_pairs(answer)) * cache
        numbers += answer.generated_tokens * HIDDEN  # the input of the LM head
    return BYTES_PER_NUMBER * numbers
