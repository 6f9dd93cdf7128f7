"""The composition root: the only module that knows everyone.

Sources, sampler, renderer and server are built here from a configuration, started, and closed. A
simulated node enters exactly where the real one would.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.assessment import Assessment
from agent.clock import Clock, SystemClock
from agent.config import Configuration, load_web_configuration, redacted
from agent.exposition.access import Access
from agent.exposition.collector import Renderer
from agent.exposition.server import ExpositionServer
from agent.readings import NodeReading
from agent.recovery import Remedy, find_remedy
from agent.roster import Roster
from agent.sampler import Sampler, SamplerLoop
from agent.sources.base import Poller, Source
from agent.sources.nvml import NvmlSource
from agent.units import render_seconds
from agent.wiring import Wiring, gpu_processes, own_addresses

log = logging.getLogger(__name__)

CLOSE_SECONDS = 1.0


class Agent:
    """The whole agent, built from a configuration."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        clock: Clock | None = None,
        nvml: Source[NodeReading] | None = None,
        node: str | None = None,
    ) -> None:
        self._configuration = configuration
        self._clock = clock or SystemClock()
        wiring = Wiring(configuration, self._clock, node or socket.gethostname())
        self._nvml_source = nvml if nvml is not None else wiring.nvml_source()
        self.nvml_poller = wiring.nvml(self._nvml_source) if self._nvml_source is not None else None
        self.dcgm_poller = wiring.dcgm()
        self._kubernetes = wiring.kubernetes()
        finders = [
            wiring.processes(self._gpu_processes),
            wiring.finder(self._kubernetes) if self._kubernetes is not None else None,
        ]
        self.finders = [finder for finder in finders if finder is not None]
        self.pod_resources_poller = wiring.pod_resources()
        self.roster = Roster(
            configured=wiring.configured(),
            finders=self.finders,
            open_server=wiring.found,
            own_addresses=own_addresses(),
            clock=self._clock,
        )
        self.sampler = Sampler(
            settings=wiring.settings(),
            clock=self._clock,
            nvml=self.nvml_poller,
            dcgm=self.dcgm_poller,
            pod_resources=self.pod_resources_poller,
            roster=self.roster,
            node_labels=self._node_labels,
        )
        self.renderer = Renderer(
            lambda: self.sampler.latest,
            clock=self._clock,
            states=lambda: tuple(poller.state() for poller in self.pollers),
        )
        self._loop = SamplerLoop(
            self.sampler, interval_seconds=configuration.interval_seconds, clock=self._clock
        )
        self._server: ExpositionServer | None = None

    @property
    def pollers(self) -> Sequence[Poller[Any]]:
        """Of all sources."""
        return [*self._fixed_pollers, *(server.poller for server in self.roster.servers)]

    @property
    def _fixed_pollers(self) -> Sequence[Poller[Any]]:
        """Of all sources but the servers, which come and go."""
        optional = (self.nvml_poller, self.dcgm_poller, self.pod_resources_poller)
        return [*(poller for poller in optional if poller is not None), *self.finders]

    @property
    def port(self) -> int:
        """Where it answers, once started."""
        if self._server is None:
            raise RuntimeError("the agent is not started")
        return self._server.port

    def start(self) -> None:
        """Bind first, so that a port in use is said before anything runs; then read and tick."""
        web = self._configuration.web
        server = ExpositionServer(
            host=web.host,
            port=web.port,
            metrics=self.renderer,
            latest=lambda: self.sampler.latest,
            configuration=redacted(self._configuration),
            clock=self._clock,
            access=self._access(),
        )
        server.start()
        self._server = server
        self.start_sampling()

    def start_sampling(self) -> None:
        """Read and tick, without a server."""
        for poller in self._fixed_pollers:
            poller.start()
        self.roster.start()
        self._loop.start()

    def beat(self, *, engines: bool, dcgm: bool = False) -> Assessment:
        """One tick by hand, for who brings time along: read what is due, then conclude."""
        if self.nvml_poller is not None:
            self.nvml_poller.poll()
        if dcgm and self.dcgm_poller is not None:
            self.dcgm_poller.poll()
        if engines:
            for server in self.roster.servers:
                server.poller.poll()
        return self.sampler.tick()

    def close(self) -> None:
        """Stop everything, the server first; all sources together get a second to end their attempts."""
        if self._server is not None:
            self._server.close()
        self._loop.close()
        for poller in self.pollers:
            poller.stop()
        deadline = self._clock.monotonic() + CLOSE_SECONDS
        for poller in self.pollers:
            poller.close(patience_seconds=max(deadline - self._clock.monotonic(), 0.0))

    def release_gpus(self, seconds: float | None = None) -> str:
        """Let go of the GPUs for a while, so that they can be reset or divided. Gives what was done."""
        source = self._nvml_source
        if not isinstance(source, NvmlSource):
            return "there is nothing to let go of: NVML is not used here"
        seconds = self._configuration.nvml.release_seconds if seconds is None else seconds
        if source.release(seconds):
            return f"let go of all GPUs for {render_seconds(seconds)}"
        return "a call hangs in the driver and keeps the GPUs; they are let go of when it ends"

    def reacquire_gpus(self) -> str:
        """Read the GPUs again before that time is over. Gives what was done."""
        if isinstance(self._nvml_source, NvmlSource):
            self._nvml_source.reacquire()
        return "the GPUs are read again"

    def remedy(self) -> Remedy | None:
        """What this process must do because going on is of no use, if so."""
        if self.nvml_poller is None:
            return None
        settings = self._configuration.nvml
        return find_remedy(
            self.nvml_poller.state(),
            now_seconds=self._clock.monotonic(),
            patience_seconds=settings.restart_after_seconds,
            policy=settings.restart,
        )

    def _gpu_processes(self) -> dict[str, list[int]]:
        success = self.nvml_poller.state().last_success if self.nvml_poller is not None else None
        return gpu_processes(success.reading if success is not None else None)

    def _node_labels(self) -> Mapping[str, str]:
        """As Kubernetes has them, and as configured, which counts more."""
        known = self._kubernetes.node_labels if self._kubernetes is not None else {}
        return {**known, **self._configuration.node_labels}

    def _access(self) -> Callable[[], Access]:
        web = self._configuration.web
        release = self.release_gpus if web.enable_lifecycle else None
        if not web.config_file:
            everybody = Access(release=release)
            return lambda: everybody
        # Here, since few have such a file.
        from agent.exposition.web_file import WebFile

        path = Path(web.config_file)
        return WebFile(path, load=load_web_configuration, clock=self._clock, release=release).access
