"""llama.cpp's ``llama-server``: from late 2024 to b11434; its pages have no labels.

The one thing to know: generated tokens are counted when a slot is released, so a page says nothing of
those that are on their way. What moves with every step is the mean number of busy slots over the server's
life; times the steps it is `sequence_steps`, the live count.

The time between tokens cannot be had: the page has its sum over all requests, and tokens, but not how many
requests they were, so that one-token answers would pass for steps that took no time.

Numbers have six digits: what is over 10⁶ moves in jumps of 10, over 10⁷ of 100, and a window must be long
enough for many of them. The gauges of rates begin anew whenever anybody asks for the page, ours included;
they are not read here, and nobody else should rely on them.

Names, their dates and their traps: recorded pages of b11434, and its sources.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

from agent.engines.base import (
    NO_DOCUMENTS,
    Document,
    Documents,
    EngineDefinition,
    Signal,
    Spelling,
    count_at,
    list_at,
    number_at,
    read_counters,
    text_at,
)
from agent.readings import EngineReading, ModelFacts
from agent.sources.page import Page

# --- where the page has what ---------------------------------------------------------------------


_signal = Spelling(("llamacpp:",)).signal

COUNTERS: Mapping[str, Signal] = {
    "generation_tokens": _signal("tokens_predicted_total"),  # at the release of the slot
    "prefill_tokens": _signal("prompt_tokens_total"),  # live, and without cached ones, since 2026
    "cached_prompt_tokens": _signal("prompt_tokens_cached_total"),  # since 2026
    # Calls of llama_decode(): a long prompt takes several, of which only the last gives output.
    "steps": _signal("n_decode_total"),
    # Steps that also decode are in it, where they carry a part of a prompt.
    "prefill_step_seconds": _signal("prompt_seconds_total"),
    # At the release of the slot, as all of speculation, since 2026.
    "drafts": _signal("spec_decode_num_drafts_total"),
    "draft_tokens": _signal("spec_decode_num_draft_tokens_total"),
    "accepted_draft_tokens": _signal("spec_decode_num_accepted_tokens_total"),
}

RUNNING = _signal("requests_processing")
"""Busy slots, those that prefill among them. A server that sleeps writes 0, and its counters from a cache."""
WAITING = _signal("requests_deferred")
BUSY_SLOTS = _signal("n_busy_slots_per_decode")
"""Mean over all steps since the start."""
KV_USED = _signal("kv_cache_usage_ratio")  # until May 2025; what idle slots keep for reuse is in it


# --- the reading ---------------------------------------------------------------------------------


def read(page: Page, documents: Documents = NO_DOCUMENTS) -> tuple[EngineReading, ...]:
    """The one engine of the page."""
    facts = _model_facts(documents)
    capacity = _kv_capacity_tokens(documents)
    counters = read_counters(page, COUNTERS)
    return (
        EngineReading(
            engine="llamacpp",
            model=next(iter(facts.served_names), None) or facts.path or "",
            version=text_at(documents.get("props"), "build_info"),
            requests_running=RUNNING.read(page),
            requests_waiting=WAITING.read(page),
            kv_used_ratio=_kv_used_ratio(page, documents, capacity),
            kv_held_tokens=_held_tokens(page, documents),
            kv_capacity_tokens=capacity,
            counters=replace(counters, sequence_steps=_sequence_steps(page, counters.steps)),
            tokens_at_end=True,
            facts=facts,
        ),
    )


# --- what no table can say -----------------------------------------------------------------------


def _sequence_steps(page: Page, steps: float | None) -> float | None:
    """Busy slots, summed over the steps: without speculation the tokens generated so far.

    Above that by the steps in which a slot only computed a part of its prompt. The mean has six digits,
    so the product can dip while few slots are busy, hence `derived` below.
    """
    busy = BUSY_SLOTS.read(page)
    # Whole by nature: while the server is young, rounding gives back what its digits took.
    return None if busy is None or steps is None else max(0.0, float(round(busy * steps)))


def _slots(documents: Documents) -> int | None:
    return count_at(documents.get("props"), "total_slots")


def _slot_tokens(documents: Documents) -> int | None:
    """The longest context that one slot may have."""
    return count_at(documents.get("props"), "default_generation_settings", "n_ctx")


def _kv_capacity_tokens(documents: Documents) -> float | None:
    """With one slot its context; with several `None`, since nothing tells how they divide the cache.

    Each has its own part of it, or all of them share one (``--kv-unified``, and the default where ``-np``
    is not given): then each slot shows the whole. The sum would promise room that is not there, and one
    slot's context would cry wolf.
    """
    tokens = _slot_tokens(documents)
    return float(tokens) if tokens and _slots(documents) == 1 else None


def _kv_used_ratio(page: Page, documents: Documents, capacity: float | None) -> float | None:
    told = KV_USED.read(page)
    if told is not None:
        return told
    held = _held_tokens(page, documents)
    return None if capacity is None or held is None else min(held / capacity, 1.0)


def _held_tokens(page: Page, documents: Documents) -> float | None:
    """Prompt and answer so far of all busy slots; what idle ones keep for reuse is overwritten at need."""
    if not RUNNING.read(page):
        return RUNNING.read(page)
    slots = list_at(documents, "slots")
    held = [number_at(slot, "n_prompt_tokens") for slot in slots if _is_busy(slot)]
    known = [tokens for tokens in held if tokens is not None]
    return sum(known) if slots and len(known) == len(held) else None


def _is_busy(slot: object) -> bool:
    return isinstance(slot, dict) and slot.get("is_processing") is True


def _model_facts(documents: Documents) -> ModelFacts:
    """Named fields only: beside them stand templates and the settings of the server's own page."""
    props = documents.get("props")
    served = next(iter(list_at(documents.get("models"), "data")), None)
    name = text_at(served, "id") or text_at(props, "model_alias")
    return ModelFacts(
        path=text_at(props, "model_path"),
        served_names=() if name is None else (name,),
        weight_dtype=text_at(props, "model_ftype") or text_at(served, "meta", "ftype"),
        max_num_seqs=_slots(documents) or None,
        max_model_len=_slot_tokens(documents) or None,
        weight_bytes=number_at(served, "meta", "size") or None,
        parameters=number_at(served, "meta", "n_params") or None,
    )


def _works(page: Page) -> bool:
    """Asking for its slots wakes a server that sleeps, and keeps one awake that wants to.

    To load a model costs seconds and memory that others may use by then. So only a server that has
    something to do is asked.
    """
    return bool(RUNNING.read(page))


# --- the definition ------------------------------------------------------------------------------

_FINGERPRINT = frozenset(COUNTERS["generation_tokens"].names + COUNTERS["steps"].names + RUNNING.names)

LLAMACPP = EngineDefinition(
    name="llamacpp",
    fingerprint=_FINGERPRINT,
    wanted=_FINGERPRINT.union(
        *(signal.names for signal in (*COUNTERS.values(), WAITING, BUSY_SLOTS, KV_USED))
    ),
    read=read,
    documents=(
        Document(name="props", path="/props"),
        Document(name="models", path="/v1/models"),
        Document(name="slots", path="/slots", live=True, when=_works),
    ),
    ports=(8080,),
    switch="--metrics",
    derived=frozenset({"sequence_steps"}),
)
