"""The choke point of optional calls: each is tried once a session, and what is lacking is remembered."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import Any, TypeVar

import pynvml

from agent.clock import Clock
from agent.sources.nvml.errors import LACKING, OF_THE_GPU, OF_THE_SESSION

log = logging.getLogger(__name__)

T = TypeVar("T")
Handle = pynvml.c_nvmlDevice_t

SELDOM_SECONDS = 5.0
"""Between two askings of what changes rarely and costs the driver more."""


class Asker:
    """Asks one GPU, or one MIG instance, and raises only what concerns it as a whole."""

    def __init__(self, handle: Handle, *, subject: str, clock: Clock) -> None:
        self.handle = handle
        self._subject = subject
        self._clock = clock
        self._lacking: dict[Callable[[Handle], Any], int] = {}
        self._constants: dict[Callable[[Handle], Any], Any] = {}
        self._seldom: dict[Callable[[Handle], Any], tuple[float, Any]] = {}
        self._answers = 0
        self._failure: int | None = None

    def begin(self) -> None:
        """A new reading: see from here on whether anything answers."""
        self._answers, self._failure = 0, None

    def require_an_answer(self) -> None:
        """Raise the last failure, if nothing has answered since `begin`.

        What never changes comes from the driver's memory; when nothing else answers, the GPU is gone.
        """
        if self._failure is not None and not self._answers:
            raise pynvml.NVMLError(self._failure)

    def forget_lacking(self) -> None:
        """Try everything again: in another mode a GPU has other calls."""
        self._lacking.clear()

    def why_lacking(self, call: Callable[[Handle], Any]) -> int | None:
        """The code with which a call was refused for good."""
        return self._lacking.get(call)

    def ask(self, *calls: Callable[[Handle], T]) -> T | None:
        """The answer of the first of these calls that this GPU has; `None` when it has none, or fails now."""
        for call in calls:
            if call in self._lacking:
                continue
            try:
                answer = call(self.handle)
            except pynvml.NVMLError as error:
                if error.value in OF_THE_GPU or error.value in OF_THE_SESSION:
                    raise
                if error.value not in LACKING:
                    self._failure = error.value
                    return None  # no older call in its place: its value may mean something else
                self._lacking[call] = error.value
                name = getattr(call, "__name__", "call").lstrip("_")
                log.debug("nvml: %s has no %s: %s", self._subject, name, error)
            else:
                self._answers += 1
                return answer
        return None

    def ask_once(self, call: Callable[[Handle], T]) -> T | None:
        """The same for what never changes: asked until it answers."""
        if call not in self._constants:
            answer = self.ask(call)
            if answer is None:
                return None
            self._constants[call] = answer
        constant: T = self._constants[call]
        return constant

    def ask_seldom(self, *calls: Callable[[Handle], T]) -> T | None:
        """The same for what changes rarely: an answer is kept for `SELDOM_SECONDS`."""
        now = self._clock.monotonic()
        if calls[0] not in self._seldom or now >= self._seldom[calls[0]][0]:
            self._seldom[calls[0]] = (now + SELDOM_SECONDS, self.ask(*calls))
        kept: T | None = self._seldom[calls[0]][1]
        return kept
