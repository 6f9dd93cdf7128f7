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

        Each request's first token comes from prefill, the others from decode; with speculation those that
        were guessed right came in the step of another, so that there are fewer sequences in the steps than
        tokens. Guesses are taken as the engine books them, which may be when a request ends; one that does
        not count them (SGLang) is taken to make none.

        Where an engine does not tell steps that only prefill from the others: one that decodes has at least
        one sequence, so there are at least steps − sequences of them; exact for one request at a time and for
        a full batch, an estimate in between.
        """
        counts = window.increments
        if counts.prefill_tokens is None:
            return None
        prompts = _prompts(window)
        steps = _steps(window)
        sequences = _sequences(window, steps)
        if prompts is None or sequences is None:
            return None
        if steps is None:
            steps = _estimated_steps(window, sequences, prompts)
        if steps is None:
            return None
        if counts.prefill_steps is not None:
            prefill_only_steps = counts.prefill_steps if prompts > 0 else 0.0
            prefill_only_ratio = 1.0 if prefill_only_steps > 0 else 0.0
        else:
            prefill_only_steps = min(prompts, max(steps - sequences, 0.0))
            carrying = min(prompts, steps)
            prefill_only_ratio = prefill_only_steps / carrying if carrying > 0 else 0.0
        decode_steps = min(max(steps - prefill_only_steps, 0.0), sequences)
        context = _context_tokens(window)
        accepted = counts.accepted_draft_tokens or 0.0
        return cls(
            work=TokenWork(
                decode_tokens=sequences + accepted,
                # TGI counts those that were right alone.
                draft_tokens=max(counts.draft_tokens or 0.0, accepted),
                accepted_tokens=accepted,
                decode_steps=decode_steps,
                decode_context=context or 0.0,
                prompts=prompts,
                prefill_tokens=counts.prefill_tokens,
                prompt_past=(counts.cached_prompt_tokens or 0.0) / prompts if prompts > 0 else 0.0,
                prompt_dispersion=window.prompt_dispersion,
                prefill_logits=prompts,
                prefill_only_steps=prefill_only_steps,
                prefill_only_ratio=prefill_only_ratio,
            ),
            decode_batch=sequences / decode_steps if decode_steps > 0 else None,
            context_tokens=context,
            decode_step_seconds=_decode_step_seconds(window, decode_steps),
            steps_counted=counts.steps is not None,
        )


# --- what an engine does not count, from what it does ---------------------------------------------


def _prompts(window: EngineWindow) -> float | None:
    """Requests that gave their first token; else as many as ended; else as many as their length lets be."""
    counts = window.increments
    if counts.first_tokens is not None:
        return counts.first_tokens
    ended = [counts.requests_finished, counts.requests_stop, counts.requests_length]
    if any(number is not None for number in ended):
        return sum(number or 0.0 for number in ended)
    if not counts.prefill_tokens or window.held_tokens_mean is None:
        return 0.0 if counts.prefill_tokens == 0 else None
    return max(counts.prefill_tokens / window.held_tokens_mean, 1.0)


def _sequences(window: EngineWindow, steps: float | None) -> float | None:
    """Sequences in the steps that decode, summed over them: one token each that was not guessed.

    Of an engine that books its tokens when a request ends they are the running batch times the steps; what
    is booked at once would be work of minutes ago.
    """
    counts = window.increments
    if counts.sequence_steps is not None:
        return counts.sequence_steps
    decode_steps = counts.decode_steps if counts.decode_steps is not None else steps
    if window.tokens_at_end and decode_steps is not None:
        batch = _running_batch(window)
        return None if batch is None else decode_steps * batch
    return _booked_sequences(window)


def _booked_sequences(window: EngineWindow) -> float | None:
    """Generated tokens that are neither the first of their request nor were guessed.

    Never fewer than the guesses: each was verified in a step of its own sequence. Where an answer ends within
    a guess, tokens count as accepted that nobody was given.
    """
    counts = window.increments
    if counts.generation_tokens is None:
        return None
    first_tokens = counts.first_tokens if counts.first_tokens is not None else _prompts(window)
    decoded = max(counts.generation_tokens - (first_tokens or 0.0), 0.0)
    return max(decoded - (counts.accepted_draft_tokens or 0.0), min(counts.drafts or 0.0, decoded))


def _steps(window: EngineWindow) -> float | None:
    """As counted; else the time in which anything ran ÷ that of a step."""
    counts = window.increments
    if counts.steps is not None:
        return counts.steps
    if counts.decode_steps is not None:
        return counts.decode_steps + (counts.prefill_steps or 0.0)
    if window.last_step_seconds_mean and window.running_ratio is not None:
        return window.running_ratio * window.seconds / window.last_step_seconds_mean
    return None


def _running_batch(window: EngineWindow) -> float | None:
    """Mean requests running while any did."""
    if window.running_mean is None or window.running_ratio is None:
        return None
    return window.running_mean / window.running_ratio if window.running_ratio > 0 else 0.0


def _estimated_steps(window: EngineWindow, sequences: float, prompts: float) -> float | None:
    """Sequences ÷ the batch while anything ran; one a prompt where nothing was decoded."""
    if sequences == 0:
        return prompts
    batch = _running_batch(window)
    return sequences / max(batch, 1.0) if batch else None


def _context_tokens(window: EngineWindow) -> float | None:
    """Tokens a running request holds in the cache; without that, its prompt and half its answer.

    Prefix blocks that sequences share are held once and read by each, so the first is a lower bound.
    """
    if window.held_tokens_mean is not None:
        return window.held_tokens_mean
    counts, requests = window.increments, _prompts(window)
    if not requests or counts.generation_tokens is None:
        return None
    prompt = (counts.prefill_tokens or 0.0) + (counts.cached_prompt_tokens or 0.0)
    return (prompt + counts.generation_tokens / 2) / requests


def _decode_step_seconds(window: EngineWindow, decode_steps: float) -> float:
    """The mean time of a step that decodes; at most what the window has for each.

    The time between tokens is that of a step; else the engine's own clock.
    """
    if decode_steps <= 0:
        return 0.0
    counts, most = window.increments, window.seconds / decode_steps
    for seconds, number in (
        (counts.inter_token_seconds, counts.inter_token_intervals),
        (counts.decode_step_seconds, counts.decode_steps),
        (counts.timed_seconds, counts.timed_steps),
        (window.last_step_seconds_mean, 1.0),
    ):
        if seconds is not None and number:
            return min(seconds / number, most)
    return most
