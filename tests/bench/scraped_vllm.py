"""What being read costs a real vLLM: `make bench-vllm`.

vLLM serves its page from the process that also hands on every token. So two things are measured: the CPU
time that a page takes there, by thread, and what those wait for who are served meanwhile – beside the same
without any scrape, in turns, so that what else the machine does meets both.
"""

from __future__ import annotations

import argparse
import multiprocessing
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import requests

from agent.sources.page import fetch_page, open_session
from tests.e2e.vllm_load import Held, random_requests, send
from tests.e2e.vllm_models import DENSE
from tests.e2e.vllm_process import VllmServer

DEFAULT_SECONDS = 5.0
"""Between two pages, at the defaults."""
HURRIED_SECONDS = 0.1
"""Fifty times as often: what cannot be seen at the defaults shows here."""
PAGES = 200
PROBE_SECONDS = 0.005
STREAMS, TOKENS = 4, 400


def main() -> None:
    parser = argparse.ArgumentParser(prog="make bench-vllm", description=__doc__)
    parser.add_argument(
        "--rounds", type=int, default=6, help="of each: alone, read as by default, in a hurry"
    )
    rounds = parser.parse_args().rounds
    with tempfile.TemporaryDirectory(prefix="v") as directory:
        server = VllmServer(Path(directory), DENSE)
        server.start()
        try:
            # Every histogram that it will ever have is then on its page.
            send(
                server.url,
                random_requests(32, seed=1, prompt_tokens=(8, 64), max_tokens=(8, 64)),
                concurrency=STREAMS,
            )
            cpu(server)
            delays(server, rounds)
            streams(server, rounds)
        finally:
            server.kill()


# --- CPU time ----------------------------------------------------------------------------------------


def cpu_seconds_by_thread(pid: int) -> dict[int, float]:
    """Time on a CPU since each thread began, from the scheduler, which counts nanoseconds."""
    return {
        int(task.name): int((task / "schedstat").read_text().split()[0]) / 1e9
        for task in Path(f"/proc/{pid}/task").iterdir()
    }


def milliseconds_each(pid: int, work: Callable[[], object], *, repeat: int) -> tuple[float, float]:
    """CPU time for one `work`: of the event loop's thread, which is the first, and of all threads."""
    work()
    before = cpu_seconds_by_thread(pid)
    for _ in range(repeat):
        work()
    spent = {thread: at - before.get(thread, 0.0) for thread, at in cpu_seconds_by_thread(pid).items()}
    return spent[pid] / repeat * 1e3, sum(spent.values()) / repeat * 1e3


def cpu(server: VllmServer) -> None:
    """A page beside the least that it answers, and beside a page that is compressed."""
    session, plain = open_session(), requests.Session()
    page = f"{server.url}/metrics"
    body = fetch_page(page, session=session)
    asked: tuple[tuple[str, Callable[[], object]], ...] = (
        ("GET /health, kept open: the floor", lambda: plain.get(f"{server.url}/health").content),
        ("a page, as the agent asks", lambda: fetch_page(page, session=session)),
        (
            "/load, which it asks for beside an idle page",
            lambda: fetch_page(f"{server.url}/load", session=session),
        ),
        (
            "a page, as Prometheus asks (gzip)",
            lambda: plain.get(page, headers={"Accept-Encoding": "gzip"}).content,
        ),
    )
    print(f"CPU ms in vLLM's front end, {PAGES} times each{'':14}{'event loop':>12}{'all threads':>13}")
    for what, work in asked:
        loop, everything = milliseconds_each(server.pid, work, repeat=PAGES)
        print(f"  {what:52}{loop:>12.2f}{everything:>13.2f}")
    print(f"  (a page of {len(body)} bytes, {body.count(b'# TYPE')} families)")


# --- what others wait for ----------------------------------------------------------------------------


def _read(url: str, every_seconds: float) -> None:
    session = open_session()
    due = time.monotonic()
    while True:
        fetch_page(url, session=session)
        due += every_seconds
        time.sleep(max(due - time.monotonic(), 0.0))


@contextmanager
def being_read(server: VllmServer, every_seconds: float | None) -> Iterator[None]:
    """As the agent reads, from another process; `None` reads nothing."""
    if every_seconds is None:
        yield
        return
    reader = multiprocessing.get_context("spawn").Process(
        target=_read, args=(f"{server.url}/metrics", every_seconds), daemon=True
    )
    reader.start()
    time.sleep(1.0)  # until it has begun
    try:
        assert reader.is_alive(), "the page could not be read"
        yield
        assert reader.is_alive(), "the page could not be read to the end"
    finally:
        reader.kill()
        reader.join()


HOW = (
    ("not read", None),
    (f"every {DEFAULT_SECONDS:g} s", DEFAULT_SECONDS),
    (f"every {HURRIED_SECONDS:g} s", HURRIED_SECONDS),
)


def _told(what: str, milliseconds: Sequence[float], *more: str) -> None:
    ordered = sorted(milliseconds)
    p99 = ordered[int(len(ordered) * 0.99)]
    print(f"  {what:14}{statistics.median(ordered):>10.2f}{p99:>10.2f}{ordered[-1]:>10.2f}" + "".join(more))


def delays(server: VllmServer, rounds: int) -> None:
    """How long the event loop takes to answer who asks for nothing."""
    took: dict[str, list[float]] = {how: [] for how, _ in HOW}
    with requests.Session() as session:
        for _ in range(rounds):
            for how, every in HOW:
                with being_read(server, every):
                    end = time.monotonic() + 2 * DEFAULT_SECONDS
                    while (begun := time.monotonic()) < end:
                        session.get(f"{server.url}/health").raise_for_status()
                        took[how].append((time.monotonic() - begun) * 1e3)
                        time.sleep(PROBE_SECONDS)
    print(f"GET /health, ms{'':7}{'p50':>4}{'p99':>10}{'slowest':>10}{'asked':>10}")
    for how, values in took.items():
        _told(how, values, f"{len(values):>10}")


def streams(server: VllmServer, rounds: int) -> None:
    """What streamed tokens come to."""
    gaps: dict[str, list[float]] = {how: [] for how, _ in HOW}
    rates: dict[str, list[float]] = {how: [] for how, _ in HOW}
    for seed in range(rounds):
        asked = random_requests(STREAMS, seed=seed, prompt_tokens=(16, 16), max_tokens=(TOKENS, TOKENS))
        for how, every in HOW:
            with being_read(server, every):
                begun = time.monotonic()
                held = [Held(server.url, request) for request in asked]
                for one in held:
                    one.wait()
                took = time.monotonic() - begun
            rates[how].append(sum(len(one.came_at_seconds) for one in held) / took)
            for one in held:
                came = one.came_at_seconds
                gaps[how] += [(b - a) * 1e3 for a, b in pairwise(came)]
    print(
        f"between two tokens, ms{'p50':>4}{'p99':>10}{'slowest':>10}{'tokens/s':>10}{'least':>8}{'most':>8}"
    )
    for how, values in gaps.items():
        each = rates[how]
        _told(how, values, f"{statistics.median(each):>10.1f}{min(each):>8.1f}{max(each):>8.1f}")


if __name__ == "__main__":
    main()
