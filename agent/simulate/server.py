"""A simulated vLLM server: its engines, and the port that answers for them."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client.exposition import CONTENT_TYPE_LATEST

from agent.simulate import scenario
from agent.simulate.activity import Kind
from agent.simulate.engine import SimulatedEngine, WorkDone
from agent.simulate.gpu import SimulatedGpu
from agent.simulate.http_server import HttpServer
from agent.simulate.present import Present
from agent.simulate.vllm_page import VllmPage, render_models, render_version

_JSON = "application/json"


class SimulatedServer:
    """One server through its starts and stops; `at` is in seconds since the node's start."""

    def __init__(
        self,
        spec: scenario.Server,
        *,
        gpus: Sequence[SimulatedGpu],
        present: Present,
        seed: str,
        created_unix_seconds: float,
    ) -> None:
        self.spec = spec
        self.work = tuple(WorkDone() for _ in spec.engines)
        self.gpus = tuple(gpus[engine.gpus[0]] for engine in spec.engines)
        """The first of each engine's."""
        self._present = present
        self._seed = seed
        self._created_unix_seconds = created_unix_seconds
        self.engines: list[SimulatedEngine] = []
        self._metrics: VllmPage | None = None
        self._started_unix_seconds = created_unix_seconds
        self._http: HttpServer | None = None

    # --- what happens to it ----------------------------------------------------------------------

    def start(self, at: float) -> None:
        """All engines begin anew, their counters at zero; what was left of them is gone."""
        self.stop(at)
        self._started_unix_seconds = self._created_unix_seconds + at
        for rank, (spec, gpu, work) in enumerate(zip(self.spec.engines, self.gpus, self.work, strict=True)):
            engine = SimulatedEngine(
                spec,
                part=gpu.spec.part,
                timeline=gpu.group.timeline,
                sm_clock_ratio=gpu.spec.sm_clock_ratio,
                work=work,
                seed=f"{self._seed}/{rank}/{work.starts}",
                start=at,
            )
            gpu.group.engines.append(engine)
            self.engines.append(engine)
        self._metrics = VllmPage(self.engines, started_unix_seconds=self._started_unix_seconds)
        if self._http:
            self._http.open()

    def stop(self, at: float) -> None:
        """Its processes are gone: no engine, and nobody at the port."""
        self._metrics = None
        if self._http:
            self._http.refuse()
        for engine, gpu in zip(self.engines, self.gpus, strict=False):
            gpu.group.engines.remove(engine)
            if not gpu.group.engines:
                gpu.group.timeline.vacate(at)
        self.engines.clear()

    def hang(self, at: float) -> None:
        """Every engine stays in its step for good."""
        for engine, gpu in zip(self.engines, self.gpus, strict=True):
            engine.hang()
            gpu.group.timeline.occupy(Kind.HUNG, start=at)

    # --- its port --------------------------------------------------------------------------------

    def open(self) -> None:
        """Answer on the loopback interface whenever the server is up."""
        self._http = HttpServer(self.answer)
        if self._metrics:
            self._http.open()

    def close(self) -> None:
        """Give the port back."""
        self._metrics = None
        if self._http:
            self._http.close()

    def configuration(self) -> dict[str, object]:
        """Its entry in the agent's configuration file; the port is known once it was opened."""
        assert self._http, "open the server first"
        engine = self.spec.engines[0]
        return {
            "url": f"http://127.0.0.1:{self._http.port}/metrics",
            "engine": "vllm",
            "gpus": [index for engine in self.spec.engines for index in engine.gpus],
            "model": {"name": engine.model.name, "tensor_parallel": len(engine.gpus)},
            "max_num_seqs": engine.max_num_seqs,
        }

    def answer(self, path: str) -> tuple[str, bytes] | None:
        """Content type and body of a page, `None` where there is no such page.

        Raises `ConnectionAbortedError` when the server is down.
        """
        with self._present():
            if self._metrics is None:
                raise ConnectionAbortedError("the server is down")
            if path == "/metrics":
                return CONTENT_TYPE_LATEST, self._metrics.render()
            if path == "/version":
                return _JSON, render_version()
            if path == "/v1/models":
                return _JSON, render_models(self.spec.engines[0].model, self._started_unix_seconds)
            if path == "/load":  # as without --enable-server-load-tracking
                return _JSON, b'{"server_load":0}'
            if path == "/health":
                return _JSON, b""
            return None
