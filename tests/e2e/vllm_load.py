"""A client that knows what it asked for and what it got.

Nothing here imports the agent. The client's truth is the `usage` of each answer, and the time at which each
streamed token came.
"""

from __future__ import annotations

import random
import threading
import time
from bisect import bisect_right
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import requests

from tests.e2e.vllm_models import VOCABULARY
from tests.e2e.vllm_process import SERVED_NAME

REQUEST_SECONDS = 120.0
"""No answer takes so long; a server that hangs must not hang the tests."""

# --- what was asked for ----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """A prompt of token ids, and how many tokens to give for it."""

    prompt: tuple[int, ...]
    max_tokens: int

    def body(self, *, stream: bool) -> dict[str, object]:
        """For ``/v1/completions``. Never with a seed: on a CPU that ends vLLM's worker."""
        return {
            "model": SERVED_NAME,
            "prompt": self.prompt,
            "max_tokens": self.max_tokens,
            "ignore_eos": True,
            "stream": stream,
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """The `usage` of one answer."""

    prompt_tokens: int
    cached_tokens: int
    """The part of the prompt that was found in the prefix cache."""
    generated_tokens: int

    @property
    def computed_tokens(self) -> int:
        """The part of the prompt that was computed."""
        return self.prompt_tokens - self.cached_tokens

    @property
    def decoded_tokens(self) -> int:
        """Without the first, which prefill gives."""
        return self.generated_tokens - 1


# --- asking ----------------------------------------------------------------------------------------


def random_requests(
    count: int, *, seed: int, prompt_tokens: tuple[int, int], max_tokens: tuple[int, int]
) -> list[Request]:
    """Prompts that share nothing; all lengths within the bounds are as likely."""
    generator = random.Random(seed)
    return [
        Request(
            prompt=tuple(generator.choices(range(3, VOCABULARY), k=generator.randint(*prompt_tokens))),
            max_tokens=generator.randint(*max_tokens),
        )
        for _ in range(count)
    ]


def send(base_url: str, asked: Sequence[Request], *, concurrency: int) -> list[Answer]:
    """Send them, so many at a time; gives the answers when all are there."""

    def ask(request: Request) -> Answer:
        response = requests.post(
            f"{base_url}/v1/completions", json=request.body(stream=False), timeout=REQUEST_SECONDS
        )
        response.raise_for_status()
        usage = response.json()["usage"]
        return Answer(
            prompt_tokens=usage["prompt_tokens"],
            cached_tokens=usage["prompt_tokens_details"]["cached_tokens"],
            generated_tokens=usage["completion_tokens"],
        )

    with ThreadPoolExecutor(concurrency) as pool:
        return list(pool.map(ask, asked))


class Held:
    """A request that is streamed, on a thread of its own, until its server dies."""

    def __init__(self, base_url: str, request: Request) -> None:
        self._url = f"{base_url}/v1/completions"
        self._request = request
        self._came_at: list[float] = []
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self) -> None:
        body = self._request.body(stream=True)
        try:
            with requests.post(self._url, json=body, stream=True, timeout=REQUEST_SECONDS) as response:
                for line in response.iter_lines(chunk_size=None):
                    if line.startswith(b"data: {"):
                        self._came_at.append(time.monotonic())
        except requests.RequestException:
            pass  # the server was killed

    @property
    def runs(self) -> bool:
        """Whether its first token has come."""
        return bool(self._came_at)

    @property
    def came_at_seconds(self) -> tuple[float, ...]:
        """Of each token so far, by the monotonic clock."""
        return tuple(self._came_at)

    def wait(self) -> None:
        """Until the stream has ended."""
        self._thread.join(REQUEST_SECONDS)

    @staticmethod
    def contexts(held: Sequence[Held], generated_tokens: int) -> tuple[int, ...] | None:
        """Tokens of each, prompt included, when so many had come over all of them; `None` if fewer came.

        The count is the clock: no delay between a server and its readers matters.
        """
        came_at = sorted(at for stream in held for at in stream._came_at)
        if not 0 < generated_tokens <= len(came_at):
            return None
        then = came_at[generated_tokens - 1]
        return tuple(len(s._request.prompt) + bisect_right(s._came_at, then) for s in held)
