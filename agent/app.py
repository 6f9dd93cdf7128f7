"""The composition root: the only module that knows everyone.

Sources, sampler, renderer and server are built here from a configuration, started, and closed. A
simulated node enters exactly where the real one would.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from agent.assessment import Assessment, ConfigurationStatus
from agent.clock import Clock, SystemClock
from agent.config import Configuration, load_web_configuration, redacted
from agent.difference import Difference
from agent.discovery.kubernetes import KubernetesSource
from agent.errors import ConfigurationError
from agent.exposition.access import Access
from agent.exposition.collector import Renderer
from agent.exposition.server import ExpositionServer
from agent.readings import DcgmReading, Discovery, NodeReading, PodResourcesReading
from agent.recovery import Remedy, find_remedy
from agent.roster import Roster
from agent.sampler import Sampler, SamplerLoop
from agent.sources.base import Poller, Source
from agent.sources.nvml import NvmlSource
from agent.units import render_seconds
from agent.wiring import Parts, Surroundings, Wiring, gpu_processes, own_addresses, own_node_name

CLOSE_SECONDS = 0.5


class Agent:
    """The whole agent, built from a configuration."""

    def __init__(
        self,
        configuration: Configuration,
        *,
        clock: Clock | None = None,
        nvml: Source[NodeReading] | None = None,
        node: str | None = None,
        adopted: Callable[[Configuration], None] = lambda _: None,
    ) -> None:
        """`adopted` is told of each further configuration that has come into force."""
        self._adopted = adopted
        self._clock = clock or SystemClock()
        self._surroundings = Surroundings(
            node=node or own_node_name(),
            nvml=nvml,
            gpu_processes=self._gpu_processes,
            node_labels=self._node_labels,
        )
        self._cluster_labels: Mapping[str, str] = {}
        self._parts = parts = Wiring(configuration, self._clock).parts(self._surroundings)
        self.roster = Roster(
            configured=parts.configured,
            finders=parts.finders,
            open_server=parts.open_server,
            own_addresses=own_addresses(),
            clock=self._clock,
        )
        self.sampler = Sampler(parts.inputs, roster=self.roster, clock=self._clock)
        self.renderer = Renderer(
            lambda: self.sampler.latest,
            clock=self._clock,
            states=lambda: tuple(poller.state() for poller in self.pollers),
        )
        self._loop = SamplerLoop(
            self.sampler, interval_seconds=configuration.interval_seconds, clock=self._clock
        )
        self._server: ExpositionServer | None = None
        self._sampling = False

    @property
    def configuration(self) -> Configuration:
        """The one in force."""
        return self._parts.configuration

    @property
    def nvml_poller(self) -> Poller[NodeReading] | None:
        """Of the GPUs."""
        return self._parts.inputs.nvml

    @property
    def dcgm_poller(self) -> Poller[DcgmReading] | None:
        """Of the dcgm-exporter, if there is one."""
        return self._parts.inputs.dcgm

    @property
    def pod_resources_poller(self) -> Poller[PodResourcesReading] | None:
        """Of the kubelet's list, if it may be read."""
        return self._parts.inputs.pod_resources

    @property
    def finders(self) -> Sequence[Poller[Discovery]]:
        """Who looks for servers."""
        return self._parts.finders

    @property
    def pollers(self) -> Sequence[Poller[Any]]:
        """Of all sources."""
        return [*self._parts.fixed, *(server.poller for server in self.roster.servers)]

    @property
    def port(self) -> int:
        """Where it answers, once started."""
        if self._server is None:
            raise RuntimeError("the agent is not started")
        return self._server.port

    def start(self, *, reload: Callable[[str], str] | None = None) -> None:
        """Bind first, so that a port in use is said before anything runs; then read and tick.

        `reload` loads the configuration anew, for who asks over HTTP.
        """
        web = self.configuration.web
        server = ExpositionServer(
            host=web.host,
            port=web.port,
            metrics=self.renderer,
            latest=lambda: self.sampler.latest,
            configuration=lambda: redacted(self.configuration),
            clock=self._clock,
            access=self._access(),
            reload=reload,
        )
        server.start()
        self._server = server
        self.start_sampling()

    def start_sampling(self) -> None:
        """Read and tick, without a server."""
        self._sampling = True
        for poller in self._parts.fixed:
            poller.start()
        self.roster.start()
        self._loop.start()

    def adopt(self, configuration: Configuration) -> Difference:
        """Go on by another configuration, from the next tick. Gives what is different.

        All of it is made before any of it counts. What is asked for as before runs on with all that it
        knows. Raises `ConfigurationError`, and goes on as it was, where that cannot be.
        """
        difference = Difference.between(self.configuration, configuration)
        difference.refuse_what_needs_a_restart()
        with self.sampler.between_ticks:  # from here on nothing that runs is let go of by a tick
            running = {poller.source.name: poller for poller in self.pollers}
            try:
                parts = Wiring(configuration, self._clock, running).parts(self._surroundings)
            except (OSError, ValueError) as error:
                problem = f"cannot be brought into force: {error}"
                raise ConfigurationError("configuration", (problem,)) from error
            self._exchange(parts)
            self.sampler.configuration = ConfigurationStatus(loaded_unix_seconds=self._clock.unix())
        self._adopted(configuration)
        return difference

    def note_refusal(self, problems: Sequence[str]) -> None:
        """Say, from the next tick on, that another configuration was to be loaded and is wrong."""
        self.sampler.configuration = replace(self.sampler.configuration, problems=tuple(problems))

    def _exchange(self, parts: Parts) -> None:
        former = {poller.source.name: poller for poller in self._parts.fixed}
        self._parts = parts
        for poller, interval_seconds in parts.fixed.items():
            before = former.pop(poller.source.name, None)
            if poller is before:
                poller.pace(interval_seconds)
                continue
            if before is not None:
                before.retire()
                if poller not in parts.finders:  # these read the same, and what was found is found anew
                    poller.follow(before)
            if self._sampling:
                poller.start()
        for poller in former.values():
            poller.retire()
        if self.nvml_poller is not None and isinstance(self.nvml_poller.source, NvmlSource):
            self.nvml_poller.source.use_gpm(parts.configuration.nvml.gpm)
        self.sampler.adopt(parts.inputs)
        self.roster.adopt(configured=parts.configured, finders=parts.finders, open_server=parts.open_server)
        for server in self.roster.servers:
            server.poller.pace(parts.configuration.engines_interval_seconds)
        self._loop.pace(parts.configuration.interval_seconds)

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
        """Stop everything; all sources together get `CLOSE_SECONDS` to end their attempts, NVML first."""
        self._sampling = False
        pollers = self.pollers
        for poller in pollers:
            poller.stop()
        # Beside them, since a client that is slow to take its answer is given a second too.
        serving = threading.Thread(target=self._close_server, name="http-close", daemon=True)
        serving.start()
        deadline = time.monotonic() + CLOSE_SECONDS
        for poller in pollers:
            poller.close(patience_seconds=max(deadline - time.monotonic(), 0.0))
        self._loop.close()
        serving.join()

    def _close_server(self) -> None:
        if self._server is not None:
            self._server.close()

    def release_gpus(self, seconds: float | None = None) -> str:
        """Let go of the GPUs for a while, so that they can be reset or divided. Gives what was done."""
        source = self.nvml_poller.source if self.nvml_poller is not None else None
        if not isinstance(source, NvmlSource):
            return "there is nothing to let go of: NVML is not used here"
        seconds = self.configuration.nvml.release_seconds if seconds is None else seconds
        if source.release(seconds):
            return f"let go of all GPUs for {render_seconds(seconds)}"
        return "a call hangs in the driver and keeps the GPUs; they are let go of when it ends"

    def reacquire_gpus(self) -> str:
        """Read the GPUs again before that time is over. Gives what was done."""
        if self.nvml_poller is not None and isinstance(self.nvml_poller.source, NvmlSource):
            self.nvml_poller.source.reacquire()
        return "the GPUs are read again"

    def remedy(self) -> Remedy | None:
        """What this process must do because going on is of no use, if so."""
        if self.nvml_poller is None:
            return None
        settings = self.configuration.nvml
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
        cluster = [one.source for one in self.finders if isinstance(one.source, KubernetesSource)]
        # Until a new source has read them, they are what the former one knew: a node keeps its labels.
        self._cluster_labels = next((one.node_labels or self._cluster_labels for one in cluster), {})
        return {**self._cluster_labels, **self.configuration.node_labels}

    def _access(self) -> Callable[[], Access]:
        web = self.configuration.web
        release = self.release_gpus if web.enable_lifecycle else None
        if not web.config_file:
            everybody = Access(release=release)
            return lambda: everybody
        # Here, since few have such a file.
        from agent.exposition.web_file import WebFile

        path = Path(web.config_file)
        return WebFile(path, load=load_web_configuration, clock=self._clock, release=release).access
