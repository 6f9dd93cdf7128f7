"""An engine's traffic over a window, in the roofline's terms: what was decoded, what was prefilled.

Engines count tokens and steps, not phases; here the one is turned into the other. What is an estimate
says so in its docstring.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from agent.roofline.workload import TokenWork
from agent.window import EngineWindow

Role = Literal["prefill", "decode", "both"]
ROLES: tuple[Role, ...] = ("prefill", "decode", "both")
DISAGGREGATED_RATIO = 0.02
"""Computed ÷ cached prompt tokens up to which an engine is taken to have its prompts from elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one engine was asked for, and how it went about it."""

    work: TokenWork
    decode_batch: float | None
    """Mean sequences in a step that decodes."""
    context_tokens: float | None
    """Mean context of a decoded token."""
    decode_step_seconds: float
    """Measured mean time of a step that decodes; 0 when none did."""
    steps_counted: bool
    """The engine counts its steps; else they are estimated from the running batch."""

    @property
    def role(self) -> Role | None:
        """Which phases this engine does; `None` while it does nothing.

        Of a disaggregated pair one only ever gives first tokens, and the other finds its prompts in the
        cache, but for the last block of each.
        """
        work = self.work
        if work.decode_tokens == 0 and work.prompts == 0:
            return None
        if work.decode_tokens == 0:
            return "prefill"
        past = work.prompt_past
        if work.prompts > 0 and past > 0 and work.prompt_length <= DISAGGREGATED_RATIO * past:
            return "decode"
        return "both"

    @property
    def prompt_tokens(self) -> float | None:
        """Mean computed tokens of a prompt."""
        return self.work.prompt_length if self.work.prompts > 0 else None

    @classmethod
    def over(cls, window: EngineWindow) -> Traffic | None:
        """The traffic of a window; `None` when the engine does not count its tokens.

        Each request's first token comes from prefill, the others from decode. A step that decodes yields
        at least one decoded token, so there are at least steps − decoded tokens steps that only prefill:
        exact for one request at a time and for a full batch, an estimate in between.
        """
        counts = window.increments
        if counts.generation_tokens is None or counts.first_tokens is None or counts.prefill_tokens is None:
            return None
        prompts = counts.first_tokens
        decode_tokens = max(counts.generation_tokens - prompts, 0.0)
        steps = counts.steps if counts.steps is not None else _estimated_steps(window, decode_tokens)
        if steps is None:
            return None
        prefill_only_steps = min(prompts, max(steps - decode_tokens, 0.0))
        decode_steps = min(steps - prefill_only_steps, decode_tokens)
        context = _context_tokens(window)
        carrying = min(prompts, steps)
        return cls(
            work=TokenWork(
                decode_tokens=decode_tokens,
                decode_steps=decode_steps,
                decode_context=context or 0.0,
                prompts=prompts,
                prefill_tokens=counts.prefill_tokens,
                prompt_past=(counts.cached_prompt_tokens or 0.0) / prompts if prompts > 0 else 0.0,
                prompt_dispersion=window.prompt_dispersion,
                prefill_logits=prompts,
                prefill_only_steps=prefill_only_steps,
                prefill_only_ratio=prefill_only_steps / carrying if carrying > 0 else 0.0,
            ),
            decode_batch=decode_tokens / decode_steps if decode_steps > 0 else None,
            context_tokens=context,
            decode_step_seconds=_decode_step_seconds(window, decode_steps),
            steps_counted=counts.steps is not None,
        )


def _estimated_steps(window: EngineWindow, decode_tokens: float) -> float | None:
    """Decoded tokens ÷ the batch while anything ran; one a prompt where nothing was decoded."""
    if decode_tokens == 0:
        return window.increments.first_tokens
    if not window.running_mean or not window.running_ratio:
        return None
    return decode_tokens / max(window.running_mean / window.running_ratio, 1.0)


def _context_tokens(window: EngineWindow) -> float | None:
    """Tokens a running request holds in the cache; without that, its prompt and half its answer.

    Prefix blocks that sequences share are held once and read by each, so the first is a lower bound.
    """
    if window.held_tokens_mean is not None:
        return window.held_tokens_mean
    counts = window.increments
    if not counts.first_tokens or counts.generation_tokens is None:
        return None
    prompt = (counts.prefill_tokens or 0.0) + (counts.cached_prompt_tokens or 0.0)
    return (prompt + counts.generation_tokens / 2) / counts.first_tokens


def _decode_step_seconds(window: EngineWindow, decode_steps: float) -> float:
    """The mean time between tokens, which is that of a step; at most what the window has for each."""
    if decode_steps <= 0:
        return 0.0
    most = window.seconds / decode_steps
    seconds, intervals = window.increments.inter_token_seconds, window.increments.inter_token_intervals
    return min(seconds / intervals, most) if seconds is not None and intervals else most
