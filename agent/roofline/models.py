"""What a model's architecture costs: parameters, KV cache, FLOPs a token.

A model is a stack of layers of a few kinds; each kind is a group that knows its own costs. The groups are
facts about shapes only: how they are read from a ``config.json`` is in `families`, what a window of traffic
makes of them in `workload`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal

from agent.roofline.dtypes import Dtype

Part = Literal["attention", "recurrent", "dense_ffn", "experts", "shared_experts", "router", "head", "small"]
PARTS: tuple[Part, ...] = (
    "attention",
    "recurrent",
    "dense_ffn",
    "experts",
    "shared_experts",
    "router",
    "head",
    "small",
)
"""Kinds of parameters; each may have a dtype of its own. `small` is norms and biases."""


# --- mixers: how a layer looks at its context ------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Attention:
    """Layers of multi-head, grouped-query or multi-query attention."""

    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    window: int | None = None
    """Tokens a query sees at most; `None` is all of them."""
    output_gate: bool = False
    """The query projection is twice as wide: half of it gates the output."""
    keys_are_values: bool = False
    """One projection gives both; both are kept in the cache all the same."""

    def parameters(self, hidden: int) -> int:
        """Of the projections, all layers."""
        width = self.heads * self.head_dim
        query_and_output = hidden * width * (3 if self.output_gate else 2)
        key_and_value = hidden * self.kv_heads * self.head_dim * (1 if self.keys_are_values else 2)
        return self.layers * (query_and_output + key_and_value)

    def copied_parameters(self, hidden: int, ranks: int) -> int:
        """What all ranks together hold beyond one copy: keys and values, when ranks outnumber their heads."""
        copies = max(ranks - self.kv_heads, 0)
        return self.layers * copies * hidden * self.head_dim * (1 if self.keys_are_values else 2)

    def attended(self, context: float) -> float:
        """Tokens that a query with this much context sees."""
        return context if self.window is None else min(context, self.window)

    def kv_elements(self, ranks: int) -> int:
        """Of one token, over all ranks; heads are copied when ranks outnumber them."""
        return 2 * self.layers * max(self.kv_heads, ranks) * self.head_dim

    @property
    def decode_flops_per_pair(self) -> int:
        """One query over one attended token: score and weighted sum, all layers."""
        return 4 * self.layers * self.heads * self.head_dim

    @property
    def prefill_flops_per_pair(self) -> int:
        """The same in prefill."""
        return self.decode_flops_per_pair

    @property
    def reprojection_flops_per_past_token(self) -> int:
        """What a chunk pays for each token before it, beyond the pairs."""
        return 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LatentAttention:
    """Layers of multi-head latent attention (DeepSeek-V2, arXiv 2405.04434): the cache holds a latent.

    Decode runs absorbed, in the latent's own width; prefill expands it again, also that of earlier chunks.
    """

    layers: int
    heads: int
    query_rank: int | None
    kv_rank: int
    nope_dim: int
    rope_dim: int
    value_dim: int
    top_k: int | None = None
    """Sparse attention: a query sees only so many tokens, which an indexer chooses."""
    index_heads: int = 0
    index_dim: int = 0

    def parameters(self, hidden: int) -> int:
        """Of the projections, and of the indexer, all layers."""
        query_width = self.heads * (self.nope_dim + self.rope_dim)
        query = (
            hidden * query_width
            if self.query_rank is None
            else hidden * self.query_rank + self.query_rank * query_width
        )
        latent = hidden * (self.kv_rank + self.rope_dim)
        expanded = self.kv_rank * self.heads * (self.nope_dim + self.value_dim)
        output = self.heads * self.value_dim * hidden
        index = 0
        if self.top_k is not None:
            source = self.query_rank or hidden
            index = source * self.index_heads * self.index_dim + hidden * (self.index_dim + self.index_heads)
        return self.layers * (query + latent + expanded + output + index)

    def copied_parameters(self, hidden: int, ranks: int) -> int:
        """What all ranks together hold beyond one copy: the projections into the latents."""
        into_latents = hidden * ((self.query_rank or 0) + self.kv_rank + self.rope_dim)
        return self.layers * (ranks - 1) * into_latents

    def attended(self, context: float) -> float:
        """Tokens that a query with this much context sees."""
        return context if self.top_k is None else min(context, self.top_k)

    def kv_elements(self, ranks: int) -> int:
        """The latent is whole on every rank."""
        return self.layers * (self.kv_rank + self.rope_dim) * ranks

    @property
    def decode_flops_per_pair(self) -> int:
        """Absorbed: scores in latent and rotary width, values in latent width."""
        return 2 * self.layers * self.heads * (2 * self.kv_rank + self.rope_dim)

    @property
    def prefill_flops_per_pair(self) -> int:
        """Expanded."""
        return 2 * self.layers * self.heads * (self.nope_dim + self.rope_dim + self.value_dim)

    @property
    def reprojection_flops_per_past_token(self) -> int:
        """Expanding the latent of each earlier token again."""
        return 2 * self.layers * self.kv_rank * self.heads * (self.nope_dim + self.value_dim)

    @property
    def index_flops_per_pair(self) -> int:
        """The indexer looks at the whole context."""
        return 2 * self.layers * self.index_heads * self.index_dim if self.top_k is not None else 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Recurrent:
    """Layers with a state instead of a cache (Mamba-2, gated delta net): nothing grows with the context."""

    layers: int
    parameters_per_layer: int
    state_elements_per_layer: int
    """Of one sequence."""
    state_element_bytes: int = 4

    @property
    def state_bytes(self) -> int:
        """Of one sequence, all layers."""
        return self.layers * self.state_elements_per_layer * self.state_element_bytes

    @property
    def flops_per_token(self) -> int:
        """Decaying the state, adding to it, reading from it: each a multiply and an add an element."""
        return 6 * self.layers * self.state_elements_per_layer


# --- feed-forward ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseFfn:
    """Layers whose feed-forward every token goes through."""

    layers: int
    width: int
    matrices: int = 3
    """3 when gated (SwiGLU, GeGLU), else 2."""

    def parameters(self, hidden: int) -> int:
        """All layers."""
        return self.layers * self.matrices * hidden * self.width


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertFfn:
    """Layers of experts, a few of which each token goes through."""

    layers: int
    experts: int
    active: int
    """Experts a token."""
    width: int
    matrices: int = 3
    shared_width: int = 0
    """Of the shared experts together, which every token goes through."""
    shared_gate: bool = False

    def expert_parameters(self, hidden: int) -> int:
        """Of one expert in one layer."""
        return self.matrices * hidden * self.width

    def shared_parameters(self, hidden: int) -> int:
        """Of the shared experts, all layers."""
        return self.layers * self.matrices * hidden * self.shared_width

    def router_parameters(self, hidden: int) -> int:
        """All layers."""
        return self.layers * hidden * (self.experts + (1 if self.shared_gate else 0))

    def distinct(self, tokens: float) -> float:
        """Experts of one layer that a step of so many tokens is expected to touch.

        With even routing: E·(1 − (1 − k/E)^T). Real routing is skewed, so this is an upper estimate.
        """
        if tokens <= 1:
            return self.active * max(tokens, 0.0)
        return float(self.experts * (1 - (1 - self.active / self.experts) ** tokens))


# --- the whole ---------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)  # no slots: the sums below are formed once
class Architecture:
    """The shape of one model."""

    hidden: int
    vocabulary: int
    tied_head: bool
    """The LM head is the embedding itself: no parameters of its own, but read all the same."""
    attention: tuple[Attention | LatentAttention, ...] = ()
    recurrent: tuple[Recurrent, ...] = ()
    dense_ffn: tuple[DenseFfn, ...] = ()
    expert_ffn: tuple[ExpertFfn, ...] = ()
    small_parameters: int = 0
    """Norms and biases: a few parts in 10⁵, read with every step."""

    @cached_property
    def layers(self) -> int:
        """That have a mixer: what collectives and small kernels are paid for."""
        return sum(group.layers for group in (*self.attention, *self.recurrent))

    @cached_property
    def parameters(self) -> dict[Part, int]:
        """By part; `head` is counted whether it is tied or not, the embedding is not in it."""
        hidden = self.hidden
        return {
            "attention": sum(group.parameters(hidden) for group in self.attention),
            "recurrent": sum(group.layers * group.parameters_per_layer for group in self.recurrent),
            "dense_ffn": sum(group.parameters(hidden) for group in self.dense_ffn),
            "experts": sum(g.layers * g.experts * g.expert_parameters(hidden) for g in self.expert_ffn),
            "shared_experts": sum(group.shared_parameters(hidden) for group in self.expert_ffn),
            "router": sum(group.router_parameters(hidden) for group in self.expert_ffn),
            "head": self.head_parameters,
            "small": self.small_parameters,
        }

    @property
    def head_parameters(self) -> int:
        """Of the LM head."""
        return self.vocabulary * self.hidden

    @cached_property
    def linear_parameters(self) -> int:
        """What each token is multiplied with, the LM head apart; of the experts only its own."""
        parts = self.parameters
        active = sum(g.layers * g.active * g.expert_parameters(self.hidden) for g in self.expert_ffn)
        dense: tuple[Part, ...] = ("attention", "recurrent", "dense_ffn", "shared_experts", "router")
        return active + sum(parts[part] for part in dense)

    @property
    def total_parameters(self) -> int:
        """As published: the embedding once more where the head is not tied to it."""
        return sum(self.parameters.values()) + (0 if self.tied_head else self.head_parameters)

    def copied_parameters(self, ranks: int) -> tuple[int, int]:
        """What tensor-parallel ranks hold beyond one copy: of attention, and of routers, each of them all."""
        attention = sum(group.copied_parameters(self.hidden, ranks) for group in self.attention)
        routers = (ranks - 1) * self.parameters["router"]
        return attention, routers

    @property
    def active_parameters(self) -> int:
        """Total less the experts that a token does not go through."""
        idle = sum(
            g.layers * (g.experts - g.active) * g.expert_parameters(self.hidden) for g in self.expert_ffn
        )
        return self.total_parameters - idle


@dataclass(frozen=True, kw_only=True)  # no slots, as above
class ServedModel:
    """An architecture as one replica serves it."""

    name: str
    architecture: Architecture
    weight_dtype: Dtype
    """Of the large matrices."""
    kv_dtype: Dtype
    part_dtypes: Mapping[Part, Dtype] = field(default_factory=dict)
    """Parts that are kept in another dtype; head, router and small parts stay in 16 bit unless named here."""
    tensor_parallel: int = 1
    pipeline_parallel: int = 1
    expert_parallel: int = 1
    """Ranks that the experts are dealt over, each whole. Above `tensor_parallel` several replicas hold them
    together (attention is data-parallel), and this is one of those."""

    @property
    def expert_groups(self) -> int:
        """Replicas that hold the experts together, each with the other weights for itself."""
        if not self.architecture.expert_ffn:
            return 1
        return max(self.expert_parallel // self.tensor_parallel, 1)

    @property
    def ranks(self) -> int:
        """GPUs of the replica."""
        return self.tensor_parallel * self.pipeline_parallel

    def over(self, tensor_parallel: int, *, pipeline_parallel: int | None = None) -> ServedModel:
        """The same on other ranks; as many replicas as before hold its experts together."""
        groups = self.expert_groups
        dealt = groups * tensor_parallel if groups > 1 else min(self.expert_parallel, tensor_parallel)
        stages = self.pipeline_parallel if pipeline_parallel is None else pipeline_parallel
        return replace(self, tensor_parallel=tensor_parallel, pipeline_parallel=stages, expert_parallel=dealt)

    @cached_property
    def largest_dtype(self) -> Dtype:
        """Of the part with the most parameters, head apart: a checkpoint may keep experts alone in 4 bit."""
        parts = self.architecture.parameters
        largest = max((part for part in PARTS if part != "head"), key=lambda part: parts[part])
        return self.part_dtypes.get(largest, self.weight_dtype)

    @cached_property
    def linear_parameters(self) -> int:
        """What each token is multiplied with over all ranks, copies included, the LM head apart."""
        return self.architecture.linear_parameters + sum(
            self.architecture.copied_parameters(self.tensor_parallel)
        )

    def bytes_per_weight(self, part: Part) -> float:
        """What one parameter of that part costs to read."""
        own = self.part_dtypes.get(part)
        if own is not None:
            return own.bytes_per_weight
        return 2.0 if part in ("head", "router", "small") else self.weight_dtype.bytes_per_weight

    def step_weight_bytes(self, tokens: float) -> float:
        """Read once a step of so many tokens by the whole replica: everything but the experts not touched.

        Of experts held together with other replicas it reads its part of those that all touch, each with a
        step like this one: the pages of the others are not known here.
        """
        architecture, groups = self.architecture, self.expert_groups
        touched = sum(
            group.layers * group.distinct(tokens * groups) * group.expert_parameters(architecture.hidden)
            for group in architecture.expert_ffn
        )
        return self._dense_bytes + touched / groups * self.bytes_per_weight("experts")

    @cached_property
    def _dense_bytes(self) -> float:
        """Of all weights but the experts' and the embedding's, copies included."""
        parts = self.architecture.parameters
        one = sum(parts[part] * self.bytes_per_weight(part) for part in PARTS if part != "experts")
        return one + self._copied_bytes

    @cached_property
    def _copied_bytes(self) -> float:
        attention, routers = self.architecture.copied_parameters(self.tensor_parallel)
        return attention * self.bytes_per_weight("attention") + routers * self.bytes_per_weight("router")

    @cached_property
    def weight_bytes(self) -> float:
        """In memory, over the whole replica: the embedding too, and its part of experts held together."""
        architecture = self.architecture
        embedding = 0 if architecture.tied_head else architecture.head_parameters * 2
        experts = architecture.parameters["experts"] * self.bytes_per_weight("experts") / self.expert_groups
        return embedding + self._dense_bytes + experts

    @cached_property
    def kv_bytes_per_token(self) -> float:
        """Key and value of one token over all ranks, while no window is full."""
        elements = sum(group.kv_elements(self.tensor_parallel) for group in self.architecture.attention)
        return elements * self.kv_dtype.bytes_per_weight

    def kv_bytes(self, context: float) -> float:
        """The cache of one sequence of that length over all ranks: windows hold only what they see."""
        return self.kv_dtype.bytes_per_weight * sum(
            group.kv_elements(self.tensor_parallel)
            * (min(context, group.window) if isinstance(group, Attention) and group.window else context)
            for group in self.architecture.attention
        )

    @cached_property
    def state_bytes(self) -> int:
        """Of one sequence's recurrent state."""
        return sum(group.state_bytes for group in self.architecture.recurrent)
