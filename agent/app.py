"""The composition root: the only module that knows everyone.

Sources, sampler, renderer and server are built here from a configuration, started, and closed. A
simulated node enters exactly where the real one would.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from agent.assessment import Assessment
from agent.clock import Clock, SystemClock
from agent.config import Configuration, Engine, RoofOverride, load_web_configuration, redacted
from agent.engines.registry import ENGINES
from agent.engines.source import EngineSource
from agent.exposition.authentication import Authenticator
from agent.exposition.collector import Renderer
from agent.exposition.server import Access, ExpositionServer
from agent.model_files import load_config_json
from agent.prices import PricePeriod
from agent.readings import DcgmReading, ModelFacts, NodeReading
from agent.recovery import Remedy, find_remedy
from agent.roofline.catalogue import find_config
from agent.roofline.gpus import GpuSpec, find_gpu
from agent.roster import LOOPBACK, MonitoredServer, Roster
from agent.sampler import Sampler, SamplerLoop, Settings
from agent.sources.base import Poller, Source
from agent.sources.dcgm import DcgmSource
from agent.sources.nvml import NvmlSource
from agent.sources.page import open_session
from agent.units import render_seconds

log = logging.getLogger(__name__)

NVML_DEADLINE_SECONDS = 5.0
CLOSE_SECONDS = 1.0
PAGE_DEADLINE_SECONDS = 10.0
"""When an attempt is called overdue; the fetch itself gives up earlier."""


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
        self._nvml_source = nvml if nvml is not None else self._open_nvml()
        self.nvml_poller = self._poll_nvml()
        self.dcgm_poller = self._poll_dcgm()
        self.roster = Roster(
            configured=[self._monitor(engine) for engine in configuration.engines], clock=self._clock
        )
        self.sampler = Sampler(
            settings=_settings(configuration, node or socket.gethostname()),
            clock=self._clock,
            nvml=self.nvml_poller,
            dcgm=self.dcgm_poller,
            roster=self.roster,
        )
        self.renderer = Renderer(
            lambda: self.sampler.latest,
            clock=self._clock,
            interval_seconds=configuration.interval_seconds,
            states=lambda: tuple(poller.state() for poller in self.pollers),
        )
        self._loop = SamplerLoop(
            self.sampler, interval_seconds=configuration.interval_seconds, clock=self._clock
        )
        self._server: ExpositionServer | None = None

    @property
    def pollers(self) -> Sequence[Poller[Any]]:
        """Of all sources."""
        nodes = (self.nvml_poller, self.dcgm_poller)
        return [
            *(poller for poller in nodes if poller is not None),
            *(server.poller for server in self.roster.servers),
        ]

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
        for poller in self.pollers:
            poller.start()
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

    def _open_nvml(self) -> NvmlSource | None:
        settings = self._configuration.nvml
        return NvmlSource(clock=self._clock, gpm=settings.gpm) if settings.enabled else None

    def _access(self) -> Access:
        web = self._configuration.web
        file = load_web_configuration(Path(web.config_file)) if web.config_file else None
        return Access(
            authenticator=Authenticator(file.users) if file is not None and file.users else None,
            release=self.release_gpus if web.enable_lifecycle else None,
            headers=file.headers if file is not None else {},
        )

    def _poll_nvml(self) -> Poller[NodeReading] | None:
        if self._nvml_source is None:
            return None
        return Poller(
            self._nvml_source,
            interval_seconds=self._configuration.interval_seconds,
            deadline_seconds=NVML_DEADLINE_SECONDS,
            clock=self._clock,
        )

    def _poll_dcgm(self) -> Poller[DcgmReading] | None:
        settings = self._configuration.dcgm
        if not settings.url:
            return None
        return Poller(
            DcgmSource(settings.url, clock=self._clock, interval_seconds=settings.interval_seconds),
            interval_seconds=settings.interval_seconds,
            deadline_seconds=PAGE_DEADLINE_SECONDS,
            clock=self._clock,
        )

    def _monitor(self, engine: Engine) -> MonitoredServer:
        # Configured, it is that one; else the page says.
        definitions = [known for known in ENGINES if engine.engine in (None, known.name)]
        source = EngineSource(
            engine.url,
            definitions=definitions,
            headers=engine.plain_headers,
            session=open_session(verify=engine.ca_file or True),
        )
        return MonitoredServer(
            poller=Poller(
                source,
                interval_seconds=self._configuration.engines_interval_seconds,
                deadline_seconds=PAGE_DEADLINE_SECONDS,
                clock=self._clock,
            ),
            server=source.server,
            url=engine.url,
            engine=engine.engine or "unknown",
            gpus=engine.gpus,
            on_this_node=urlsplit(engine.url).hostname in LOOPBACK,
            model=_configured_facts(engine),
            max_num_seqs=engine.max_num_seqs,
        )


def _configured_facts(engine: Engine) -> ModelFacts:
    model = engine.model
    if model is None:
        return ModelFacts()
    config = find_config(model.name) if model.name is not None else None
    if model.config_json is not None:
        config = load_config_json(model.config_json)
    return ModelFacts(
        config=config,
        weight_dtype=model.weight_dtype,
        kv_dtype=model.kv_dtype,
        tensor_parallel=model.tensor_parallel,
        pipeline_parallel=model.pipeline_parallel,
        expert_parallel=model.expert_parallel,
    )


def _settings(configuration: Configuration, node: str) -> Settings:
    return Settings(
        node=node,
        interval_seconds=configuration.interval_seconds,
        engines_interval_seconds=configuration.engines_interval_seconds,
        window_seconds=configuration.window_seconds,
        prices=tuple(
            PricePeriod(
                gpu=price.gpu,
                usd_per_hour=price.usd_per_hour,
                since=price.since,
                node_labels=price.node_labels,
            )
            for price in configuration.prices
        ),
        specs=tuple(_override(roof) for roof in configuration.roofs),
        objectives=configuration.slo.targets,
    )


def _override(roof: RoofOverride) -> GpuSpec:
    """The catalogue's row with the configured peaks in place of its own."""
    known = find_gpu(roof.gpu)
    if known is not None:
        return replace(
            known,
            nvml_names=(roof.gpu, *known.nvml_names),
            dram_bytes_per_second=roof.dram_bytes_per_second or known.dram_bytes_per_second,
            flops_per_second={**known.flops_per_second, **roof.flops_per_second},
            origin="configuration",
        )
    if roof.dram_bytes_per_second is None:
        raise AssertionError("the configuration asks for the bandwidth of a part that is not known")
    return GpuSpec(
        name=roof.gpu,
        nvml_names=(roof.gpu,),
        memory_gigabytes=0,
        dram_bytes_per_second=roof.dram_bytes_per_second,
        flops_per_second=roof.flops_per_second,
        origin="configuration",
    )
