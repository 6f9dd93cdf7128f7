"""A serving engine: continuous batching, chunked prefill, a pool of KV blocks, preemption.

It runs from event to event: a step begins, its kernels run, the host has its turn, the step is finished
and counted. Between events nothing happens, so a run is the same however often somebody looks.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field

from agent.simulate import scenario
from agent.simulate.activity import KERNEL_KINDS, SIGNATURES, Kind
from agent.simulate.arrivals import Arrivals, Request
from agent.simulate.counters import EngineCounters
from agent.simulate.decode_batch import Batch, DecodeBatch, Gains, SpeculativeBatch
from agent.simulate.parts import Part
from agent.simulate.scenario import BLOCK_TOKENS
from agent.simulate.step_times import load_step_times
from agent.simulate.timeline import Timeline


@dataclass(slots=True, kw_only=True)
class WorkDone:
    """What an engine really did in its finished steps, over all its starts; some of it is on no page."""

    starts: int = 0
    steps: int = 0
    decode_steps: int = 0
    """Steps that decoded, prefill beside it or not."""
    batch_sum: int = 0
    """Sequences decoded, summed over the steps."""
    context_sum: int = 0
    """Tokens of context read by decode, summed over the steps."""
    prefill_tokens: int = 0
    """Computed, those computed again included."""
    recomputed_tokens: int = 0
    """Of them, those computed for requests that had been preempted."""
    cached_prompt_tokens: int = 0
    """Found in the cache instead; of requests that have had their first token."""
    generation_tokens: int = 0
    requests: int = 0
    """Answered to the end."""
    draft_tokens: int = 0
    accepted_tokens: int = 0
    """Guesses that were right; at the end of an answer a few of them were not given any more."""
    preemptions: int = 0


@dataclass(slots=True, kw_only=True)
class _Step:
    """The step in flight."""

    decoding: int
    """Sequences."""
    gains: Gains
    chunks: list[tuple[Request, int]] = field(default_factory=list)
    """Requests in prefill, with the tokens of each that this step computes."""


class SimulatedEngine:
    """One engine core, from one start to its end."""

    def __init__(
        self,
        spec: scenario.Engine,
        *,
        part: Part,
        timeline: Timeline,
        sm_clock_ratio: float = 1.0,
        work: WorkDone,
        seed: str,
        start: float,
    ) -> None:
        self.spec = spec
        self._speculation = spec.speculation
        self.counters = EngineCounters(
            max_model_len=spec.model.max_model_len,
            spec_decode_num_accepted_tokens_per_pos=[0] * (spec.tokens_per_sequence - 1),
        )
        self.work = work
        work.starts += 1
        self._timeline = timeline
        self._times = load_step_times(part, spec.model.measured_name, len(spec.gpus))
        self._stretch = [
            1 / sm_clock_ratio if SIGNATURES[kind].follows_sm_clock else 1.0
            for kind in list(Kind)[:KERNEL_KINDS]
        ]
        self._arrivals = Arrivals(spec.traffic, spec.traffic_changes, seed=seed, start=start)
        self._waiting: deque[Request] = deque()
        self._running: dict[Request, None] = {}  # ordered by admission: the newest is preempted first
        self._prefilling: list[Request] = []
        self._batch: Batch = DecodeBatch()
        if spec.speculation:
            self._batch = SpeculativeBatch(spec.speculation, seed=f"{seed}/guesses")
        self._usable_blocks = spec.num_gpu_blocks - 1  # one is the null block
        self._free_blocks = self._usable_blocks
        self._prefix_cached = False
        self._prefix_holders = 0
        self._step: _Step | None = None
        self._last_step_end = math.nan
        self.next_at = self._arrivals.next_at
        """When something happens next here, in seconds since the node's start."""

    def turn(self) -> None:
        """Let happen what happens at `next_at`."""
        if self._step is not None:
            self._finish(self._step, self.next_at)
        elif self._timeline.kernels_until > self.next_at:  # another engine's kernels are on the GPU
            self.next_at = self._timeline.kernels_until
        else:
            self._begin(self.next_at)

    def hang(self) -> None:
        """The step in flight never ends, and no other begins."""
        self.next_at = math.inf

    # --- a step begins ---------------------------------------------------------------------------

    def _begin(self, at: float) -> None:
        self._waiting.extend(self._arrivals.until(at))
        if not (self._running or self._waiting):  # other traffic began, and nobody has asked yet
            self.next_at = self._arrivals.next_at
            return
        preempted = self._make_room()
        self._free_blocks -= self._batch.blocks_needed()
        step = self._step = _Step(decoding=self._batch.size, gains=self._batch.advance())
        self._schedule_prefill(step, at, admit=not preempted)
        kernels = self._kernel_seconds(step)
        self.next_at = at + sum(kernels) + self.spec.host_gap_seconds
        tokens = step.decoding * self.spec.tokens_per_sequence
        self._timeline.run(kernels, batch=tokens, start=at, in_flight_until=self.next_at)

    def _make_room(self) -> bool:
        """Preempt the newest requests until every other one has its block; says whether any had to go."""
        preempted = False
        while self._batch.blocks_needed() > self._free_blocks:
            request, _ = self._running.popitem()
            if request in self._prefilling:
                self._prefilling.remove(request)
                self._release(request, request.tokens_to_compute)
            else:
                self._batch.leave(request)
                self._release(request, request.kv_tokens)
                request.last_token_at = self._last_step_end
            request.kv_tokens = 0
            request.preemptions += 1
            self._waiting.appendleft(request)
            self.counters.num_preemptions += 1
            self.work.preemptions += 1
            preempted = True
        return preempted

    def _schedule_prefill(self, step: _Step, at: float, *, admit: bool) -> None:
        budget = self.spec.max_num_batched_tokens - step.decoding * self.spec.tokens_per_sequence
        for request in self._prefilling:
            budget -= self._add_chunk(step, request, budget)
        while admit and budget > 0 and self._waiting and len(self._running) < self.spec.max_num_seqs:
            request = self._waiting[0]
            if not self._admit(request, at):
                break
            self._waiting.popleft()
            self._running[request] = None
            self._prefilling.append(request)
            budget -= self._add_chunk(step, request, budget)

    def _add_chunk(self, step: _Step, request: Request, budget: int) -> int:
        tokens = min(budget, request.tokens_to_compute - request.kv_tokens)
        if tokens > 0:
            step.chunks.append((request, tokens))
        return tokens

    def _admit(self, request: Request, at: float) -> bool:
        """Reserve the blocks of all it has to compute; `False` when they are not to be had."""
        request.shares_prefix = self._prefix_cached and request.shared_tokens > 0
        needed = self._own_blocks(request, request.tokens_to_compute)
        if request.shares_prefix and not self._prefix_holders:
            needed += self._prefix_blocks
        if needed > self._free_blocks:
            return False
        self._free_blocks -= needed
        self._prefix_holders += request.shares_prefix
        request.kv_tokens = request.shared_tokens if request.shares_prefix else 0
        if request.scheduled_at is None:
            # The queue's clock stops at the first admission; a later one is part of running.
            request.scheduled_at = at
            request.cached_tokens = request.kv_tokens
            self.counters.prefix_cache_queries += request.prompt_tokens
            self.counters.prefix_cache_hits += request.cached_tokens
        return True

    def _kernel_seconds(self, step: _Step) -> list[float]:
        parts = []
        if step.decoding:
            tokens = step.decoding * self.spec.tokens_per_sequence
            parts.append(self._times.decode(tokens, self._batch.kv_tokens))
            if self._speculation:
                parts[-1][Kind.DECODE_GEMM] += self._speculation.draft_seconds
        if step.chunks:
            chunks = ((request.kv_tokens, request.kv_tokens + tokens) for request, tokens in step.chunks)
            parts.append(self._times.prefill(chunks, alone=not step.decoding))
        return [sum(kind) * stretch for stretch, *kind in zip(self._stretch, *parts, strict=True)]

    # --- a step is finished ----------------------------------------------------------------------

    def _finish(self, step: _Step, at: float) -> None:
        counters = self.counters
        self.work.steps += 1
        if step.decoding:
            # Every sequence that decodes got its last token from the step before.
            counters.inter_token_latency_seconds.observe(at - self._last_step_end, step.decoding)
            self.work.decode_steps += 1
            self.work.batch_sum += step.decoding
            self.work.context_sum += self._batch.kv_tokens
            self._count_guesses(step)
        ended = self._batch.take_ended()
        output_tokens, prompt_tokens = step.gains.tokens, 0
        for request, tokens in step.chunks:
            request.kv_tokens += tokens
            self.work.prefill_tokens += tokens
            if request.preemptions:
                self.work.recomputed_tokens += tokens
            if request.kv_tokens < request.tokens_to_compute:
                continue
            self._prefilling.remove(request)
            output_tokens += 1
            prompt_tokens += self._give_token(request, at)
            if request.generated_tokens == request.output_tokens:
                ended.append(request)
            else:
                self._batch.join(request)
        for request in ended:
            self._end(request, at)
        if output_tokens:
            counters.generation_tokens += output_tokens
            counters.iteration_tokens_total.observe(prompt_tokens + output_tokens)
            self.work.generation_tokens += output_tokens
        counters.num_requests_running = len(self._running)
        counters.num_requests_waiting = len(self._waiting)
        counters.kv_cache_usage_perc = 1 - self._free_blocks / self._usable_blocks
        self._step = None
        self._last_step_end = at
        self.next_at = at if self._running or self._waiting else max(at, self._arrivals.next_at)

    def _count_guesses(self, step: _Step) -> None:
        if not self._speculation:
            return
        counters, guessed, right = (
            self.counters,
            step.decoding * self._speculation.tokens,
            step.gains.accepted,
        )
        counters.spec_decode_num_drafts += step.decoding
        counters.spec_decode_num_draft_tokens += guessed
        counters.spec_decode_num_accepted_tokens += sum(right)
        by_place = counters.spec_decode_num_accepted_tokens_per_pos
        by_place[:] = [total + more for total, more in zip(by_place, right, strict=True)]
        self.work.draft_tokens += guessed
        self.work.accepted_tokens += sum(right)

    def _give_token(self, request: Request, at: float) -> int:
        """The token at the end of a prefill; returns the prompt tokens that are booked with it."""
        request.generated_tokens += 1
        self._prefix_cached = True
        if request.generated_tokens > 1:  # it was preempted while it decoded
            self.counters.inter_token_latency_seconds.observe(at - request.last_token_at)
            return 0
        request.first_token_at = at
        computed = request.prompt_tokens - request.cached_tokens
        self.counters.time_to_first_token_seconds.observe(at - request.arrived_at)
        self.counters.prompt_tokens += request.prompt_tokens
        self.counters.prompt_tokens_computed += computed
        self.counters.prompt_tokens_cached += request.cached_tokens
        self.work.cached_prompt_tokens += request.cached_tokens
        return computed

    def _end(self, request: Request, at: float) -> None:
        assert request.scheduled_at is not None
        del self._running[request]
        self._release(request, request.kv_tokens)
        self._arrivals.answered(at)
        counters = self.counters
        decode_seconds = at - request.first_token_at
        later_tokens = request.output_tokens - 1
        counters.requests_length += 1
        self.work.requests += 1
        for tally, value in (
            (counters.e2e_request_latency_seconds, at - request.arrived_at),
            (counters.request_queue_time_seconds, request.scheduled_at - request.arrived_at),
            (counters.request_inference_time_seconds, at - request.scheduled_at),
            (counters.request_prefill_time_seconds, request.first_token_at - request.scheduled_at),
            (counters.request_decode_time_seconds, decode_seconds),
            (
                counters.request_time_per_output_token_seconds,
                decode_seconds / later_tokens if later_tokens else 0.0,
            ),
            (counters.request_prompt_tokens, request.prompt_tokens),
            (counters.request_generation_tokens, request.output_tokens),
            (counters.request_params_max_tokens, request.output_tokens),
            (counters.request_max_num_generation_tokens, request.output_tokens),
            (counters.request_prefill_kv_computed_tokens, request.prompt_tokens - request.cached_tokens),
            (counters.request_params_n, 1),
            (counters.request_num_preemptions, request.preemptions),
        ):
            tally.observe(value)

    # --- KV blocks -------------------------------------------------------------------------------

    @property
    def _prefix_blocks(self) -> int:
        return self.spec.traffic.shared_prefix_tokens // BLOCK_TOKENS

    def _own_blocks(self, request: Request, tokens: int) -> int:
        blocks = -(-tokens // BLOCK_TOKENS)
        return blocks - self._prefix_blocks if request.shares_prefix else blocks

    def _release(self, request: Request, tokens: int) -> None:
        self._free_blocks += self._own_blocks(request, tokens)
        if request.shares_prefix:
            self._prefix_holders -= 1
            if not self._prefix_holders:
                self._free_blocks += self._prefix_blocks
