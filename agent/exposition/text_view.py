"""A node as text for a terminal of 80 columns, a ticket, or a log; made of the JSON document."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable, Iterator

from agent.advice.words import counted
from agent.exposition.line_breaks import NO_BREAK_SPACE, with_units
from agent.exposition.picture import AdvicePicture, EnginePicture, GpuPicture, NodePicture
from agent.roofline.bottleneck import WORDS
from agent.units import render_number, render_percent, render_quantity, render_seconds

WIDTH = 80
INDENT = " " * 14
"""Below the names of things."""


def render_text(node: NodePicture) -> str:
    """The whole node, worst news in words."""
    return "\n".join(_lines(node))


def _lines(node: NodePicture) -> Iterator[str]:
    gpus, engines = (
        counted(len({gpu.index for gpu in node.gpus}), "GPU"),
        counted(len(node.engines), "engine"),
    )
    yield f"{node.node}: {gpus}, {engines}"
    for gpu in node.gpus:
        yield ""
        yield from gpu_lines(gpu)
    for engine in node.engines:
        yield ""
        yield from engine_lines(engine)
    if not node.engines:
        yield ""
        yield from wrapped("No engine is configured; list each under engines, with its url.")
    yield from advice_lines(node.advice)
    for words in source_words(node):
        yield ""
        yield from wrapped(words)


def gpu_lines(gpu: GpuPicture, *, width: int = WIDTH) -> Iterator[str]:
    """What is to be said of a GPU; its name first."""
    yield from wrapped(f"GPU {gpu.number}  {gpu.name}", width=width)
    if not gpu.up:
        yield from wrapped(f"lost: {gpu.problem}", first=INDENT, width=width)
    for words in gpu.faults:
        yield from wrapped(words, first="  health      ", width=width)
    if not gpu.up:
        return
    if gpu.partitioned:
        yield "  in MIG mode: each of its instances stands below, by itself"
        return
    verdict = gpu.verdict
    certainty = ""
    if verdict.bottleneck != "unknown" and verdict.confidence_ratio is not None:
        certainty = f" (confidence {render_percent(verdict.confidence_ratio)}, {verdict.evidence})"
    yield f"  bottleneck  {bottleneck_words(verdict.bottleneck)}{certainty}"
    yield from wrapped(f"because {verdict.reason}", first=INDENT, width=width)
    if gpu.intensity is not None and gpu.attained_ratio is not None:
        yield (
            f"  roofline    {render_number(gpu.intensity.value)} FLOP/byte ({gpu.intensity.evidence}), "
            f"{render_percent(gpu.attained_ratio)} of the roof"
        )
    if gpu.throttle:
        yield from wrapped(gpu.throttle, first=INDENT, width=width)
    if gpu.kernel_time_ratio is not None:
        yield (
            f"  kernel time {render_percent(gpu.kernel_time_ratio)}"
            " (what nvidia-smi calls utilization; no measure of load)"
        )


def engine_lines(engine: EnginePicture, *, width: int = WIDTH) -> Iterator[str]:
    """What is to be said of an engine; its name first."""
    name = f"{engine.software} {engine.server} rank {engine.rank}  {engine.model}".rstrip()
    yield from wrapped(name, width=width)
    if not engine.up:
        yield from wrapped(f"down: {engine.problem}", first=INDENT, width=width)
        return
    if engine.problem:
        yield from wrapped(engine.problem, first=INDENT, width=width)
    if engine.generation_tokens_per_second is not None:
        yield from wrapped(_output(engine), first="  output      ", width=width)
    if engine.batch is not None:
        ridge = "no batch reaches the ridge at this context"
        if engine.ridge_batch is not None:
            ridge = f"ridge at {render_number(engine.ridge_batch)}"
        limit = engine.limited_batch
        allowed = f", the KV cache allows {render_number(limit)}" if limit is not None else ""
        words = f"{render_number(engine.batch)}; {ridge}{allowed}"
        yield from wrapped(words, first="  batch       ", width=width)
    yield f"  limiter     {engine.limiter}"
    yield from wrapped(f"because {engine.limiter_reason}", first=INDENT, width=width)
    if engine.headroom_ratio is not None:
        size = f", {render_quantity(engine.free_bytes, 'B')} free" if engine.free_bytes is not None else ""
        full = engine.seconds_to_full
        until = f", full in {render_seconds(full)}" if full is not None else ""
        yield f"  KV cache    {render_percent(engine.headroom_ratio)} headroom{size}{until}"


def advice_lines(several: Iterable[AdvicePicture], *, width: int = WIDTH) -> Iterator[str]:
    """What to do, with an empty line before it; nothing where there is none."""
    for number, advice in enumerate(several, start=1):
        if number == 1:
            yield from ("", "What to do")
        yield from wrapped(f"{advice.title}: {advice.subject}", first=f"  {number}. ", width=width)
        if advice.expected:
            on_top = f" (on top of {', '.join(advice.after).replace('_', ' ')})" if advice.after else ""
            yield from wrapped(f"{advice.expected}{on_top}", first="  expected    ", width=width)
        yield from wrapped(advice.reason, first=INDENT, width=width)
        yield from wrapped(f"wrong when {advice.wrong_when}", first=INDENT, width=width)


def source_words(node: NodePicture) -> Iterator[str]:
    """What is wrong with the sources, but for servers that are told of as engines that do not answer."""
    down = {engine.problem for engine in node.engines if not engine.up}
    for source in node.sources:
        if source.waiting:
            yield f"{source.name}: no answer yet"
        elif source.message and source.message not in down:
            yield source.message


def bottleneck_words(bottleneck: str) -> str:
    """As people call it."""
    return next((words for name, words in WORDS.items() if name == bottleneck), bottleneck)


def _output(engine: EnginePicture) -> str:
    assert engine.generation_tokens_per_second is not None
    words = f"{render_number(engine.generation_tokens_per_second)} tokens/s"
    if engine.prefill_tokens_per_second is not None:
        words += f", prefill {render_number(engine.prefill_tokens_per_second)} tokens/s"
    if engine.usd_per_million_tokens is not None:
        words += f", ${engine.usd_per_million_tokens:.2f} for a million"
    return words


def wrapped(text: str, *, first: str = "", width: int = WIDTH) -> Iterator[str]:
    """The text in lines; none of them begins with a unit, and `first` stands before the first."""
    lines = textwrap.wrap(with_units(text), width, initial_indent=first, subsequent_indent=" " * len(first))
    for line in lines:
        yield line.replace(NO_BREAK_SPACE, " ")  # it has done its work, and nobody would find it with grep
