"""From the configuration to what it asks for: sources, each with its poller, and the sampler's settings.

The one thing to know: a poller knows what its source was made from. Where another configuration asks for
one that is made from the same, the one that runs is kept, with all that it knows; nothing else decides.
"""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

from agent.clock import Clock
from agent.config import Configuration, Engine, RoofOverride
from agent.discovery.api_server import ApiServer
from agent.discovery.kubernetes import KubernetesSource
from agent.discovery.pods import PodCredential, PodRules, parse_selector
from agent.discovery.processes import ProcessSource
from agent.discovery.sockets import load_local_addresses
from agent.engines.gguf import load_gguf_config
from agent.engines.registry import ENGINES
from agent.engines.source import EngineSource, server_label_of, source_name_of
from agent.model_files import load_config_json
from agent.prices import PricePeriod
from agent.readings import (
    DcgmReading,
    Discovery,
    FoundServer,
    GpuReading,
    ModelFacts,
    NodeReading,
    PodResourcesReading,
    ServerReading,
)
from agent.roofline.catalogue import find_config
from agent.roofline.gpus import GpuSpec, find_gpu
from agent.roster import LOOPBACK, MonitoredServer, Opener, Running
from agent.sampler import Inputs, Settings
from agent.sources.base import Poller, Source
from agent.sources.dcgm import DcgmSource
from agent.sources.nvml import NvmlSource
from agent.sources.page import open_session

NVML_DEADLINE_SECONDS = 5.0
PAGE_DEADLINE_SECONDS = 10.0
"""When an attempt is called overdue; the fetch itself gives up earlier."""
NODE_NAME_VARIABLE = "NODE_NAME"
"""As the downward API gives it: the node's name in Kubernetes need not be its host name."""

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class Parts:
    """All that one configuration asks for, whole; what does not run yet is not started."""

    configuration: Configuration
    inputs: Inputs
    finders: tuple[Poller[Discovery], ...]
    configured: tuple[MonitoredServer, ...]
    open_server: Opener

    @property
    def fixed(self) -> dict[Poller[Any], float]:
        """The pollers of all sources but the servers, which come and go; each with its interval."""
        configuration = self.configuration
        discovery_seconds = configuration.discovery.interval_seconds
        paced: tuple[tuple[Poller[Any] | None, float], ...] = (
            (self.inputs.nvml, configuration.interval_seconds),
            (self.inputs.dcgm, configuration.dcgm.interval_seconds),
            (self.inputs.pod_resources, discovery_seconds),
            *((finder, discovery_seconds) for finder in self.finders),
        )
        return {poller: seconds for poller, seconds in paced if poller is not None}


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What does not depend on the configuration."""

    node: str
    """This node's name."""
    nvml: Source[NodeReading] | None
    """Where NVML would be, if it is given."""
    gpu_processes: Callable[[], Mapping[str, Collection[int]]]
    """Those of each GPU."""
    node_labels: Callable[[], Mapping[str, str]]


@dataclass(frozen=True, slots=True)
class Wiring:
    """Makes what one configuration asks for; nothing is started."""

    configuration: Configuration
    clock: Clock
    running: Running = field(default_factory=dict)
    """Is kept, where it is what is asked for."""

    def parts(self, surroundings: Surroundings) -> Parts:
        """Everything. Raises `OSError` and `ValueError` for what cannot be made."""
        finders = (self.processes(surroundings.gpu_processes), self.kubernetes())
        return Parts(
            configuration=self.configuration,
            inputs=Inputs(
                settings=self.settings(surroundings.node),
                nvml=self.nvml(surroundings.nvml),
                dcgm=self.dcgm(),
                pod_resources=self.pod_resources(),
                node_labels=surroundings.node_labels,
            ),
            finders=tuple(finder for finder in finders if finder is not None),
            configured=tuple(self._configured(engine) for engine in self.configuration.engines),
            open_server=self.found,
        )

    # --- the node ----------------------------------------------------------------------------------

    def nvml(self, given: Source[NodeReading] | None = None) -> Poller[NodeReading] | None:
        """The GPUs, unless they are switched off: NVML, or what stands in its place."""
        settings = self.configuration.nvml
        if given is None and not settings.enabled:
            return None
        return self._poll(
            "nvml",
            lambda: given if given is not None else NvmlSource(clock=self.clock, gpm=settings.gpm),
            interval_seconds=self.configuration.interval_seconds,
            deadline_seconds=NVML_DEADLINE_SECONDS,
        )

    def dcgm(self) -> Poller[DcgmReading] | None:
        """A dcgm-exporter's page, if one is named."""
        settings = self.configuration.dcgm
        if not settings.url:
            return None
        return self._poll(
            "dcgm",
            lambda: DcgmSource(settings.url, clock=self.clock, interval_seconds=settings.interval_seconds),
            settings,
            interval_seconds=settings.interval_seconds,
        )

    # --- engines -----------------------------------------------------------------------------------

    def found(self, one: FoundServer, running: Running) -> MonitoredServer:
        """A server that was found, named by its address as the listed ones are."""
        headers: Mapping[str, str] = {}
        ca_file = ""
        if one.credential is not None:
            credentials = self.configuration.discovery.kubernetes.credentials[int(one.credential)]
            headers, ca_file = credentials.plain_headers, credentials.ca_file
        poller = replace(self, running=running)._page(one.url, headers=headers, ca_file=ca_file)
        return _monitored(poller, one.url, engine=one.engine, found=one, on_this_node=True)

    def _configured(self, engine: Engine) -> MonitoredServer:
        poller = self._page(
            engine.url, engine=engine.engine, headers=engine.plain_headers, ca_file=engine.ca_file
        )
        return replace(
            _monitored(poller, engine.url, engine=engine.engine),
            gpus=engine.gpus,
            on_this_node=urlsplit(engine.url).hostname in LOOPBACK,
            model=_configured_facts(engine),
        )

    def _page(
        self, url: str, *, engine: str | None = None, headers: Mapping[str, str], ca_file: str
    ) -> Poller[ServerReading]:
        return self._poll(
            source_name_of(url),
            lambda: EngineSource(
                url,
                # Configured, it is that one; else the page says.
                definitions=[known for known in ENGINES if engine in (None, known.name)],
                headers=headers,
                session=open_session(verify=ca_file or True),
            ),
            (url, engine, dict(headers), ca_file),
            interval_seconds=self.configuration.engines_interval_seconds,
        )

    # --- discovery ---------------------------------------------------------------------------------

    def processes(
        self, gpu_processes: Callable[[], Mapping[str, Collection[int]]]
    ) -> Poller[Discovery] | None:
        """Who looks for servers by their processes; `gpu_processes` gives those of each GPU."""
        settings = self.configuration.discovery
        if not settings.processes.enabled:
            return None
        return self._poll(
            "processes",
            lambda: ProcessSource(gpu_processes=gpu_processes, loaders={".gguf": load_gguf_config}),
            interval_seconds=settings.interval_seconds,
        )

    def kubernetes(self) -> Poller[Discovery] | None:
        """Who looks for servers by their pods."""
        settings = self.configuration.discovery.kubernetes
        if not settings.enabled:
            return None
        rules = PodRules(
            namespaces=settings.namespaces,
            selectors=tuple(map(parse_selector, settings.pod_labels)),
            credentials=tuple(
                PodCredential(name=str(number), selectors=tuple(map(parse_selector, one.pod_labels)))
                for number, one in enumerate(settings.credentials)
            ),
        )
        node_name = os.environ.get(NODE_NAME_VARIABLE, "")
        return self._poll(
            "kubernetes",
            lambda: KubernetesSource(node_name, rules, server=ApiServer.from_environment()),
            rules,
            interval_seconds=self.configuration.discovery.interval_seconds,
        )

    def pod_resources(self) -> Poller[PodResourcesReading] | None:
        """The kubelet's list, if it may be read."""
        settings = self.configuration.discovery
        if not settings.pod_resources.enabled:
            return None
        # Here, since few may use it, and its HTTP/2 takes memory.
        from agent.discovery.pod_resources import PodResourcesSource

        return self._poll(
            "pod_resources",
            lambda: PodResourcesSource(settings.pod_resources.socket),
            settings.pod_resources.socket,
            interval_seconds=settings.interval_seconds,
        )

    # --- kept, or made -----------------------------------------------------------------------------

    def _poll(
        self,
        name: str,
        make: Callable[[], Source[T]],
        made_from: object = None,
        *,
        interval_seconds: float,
        deadline_seconds: float = PAGE_DEADLINE_SECONDS,
    ) -> Poller[T]:
        """Whatever polls the source of this name, if it is made from the same; else a new one."""
        running = self.running.get(name)
        if running is not None and running.made_from == made_from:
            return running
        return Poller(
            make(),
            made_from=made_from,
            interval_seconds=interval_seconds,
            deadline_seconds=deadline_seconds,
            clock=self.clock,
        )

    # --- the sampler -------------------------------------------------------------------------------

    def settings(self, node: str) -> Settings:
        """What the sampler must know beyond its sources."""
        configuration = self.configuration
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
            objectives=configuration.slo.objectives,
        )


def _monitored(
    poller: Poller[ServerReading],
    url: str,
    *,
    engine: str | None,
    found: FoundServer | None = None,
    on_this_node: bool = False,
) -> MonitoredServer:
    return MonitoredServer(
        poller=poller,
        server=server_label_of(url),
        url=url,
        engine=engine or "unknown",
        found=found,
        on_this_node=on_this_node,
    )


def own_node_name() -> str:
    """As Kubernetes calls this node, where it says so: a pod's host name is the pod's own."""
    return os.environ.get(NODE_NAME_VARIABLE) or socket.gethostname()


def own_addresses(process: Path = Path("/proc/self")) -> tuple[str, ...]:
    """The addresses of this machine, or of the container that this is; none where they cannot be read."""
    try:
        return tuple(map(str, load_local_addresses(process)))
    except OSError:
        return ()


def gpu_processes(reading: NodeReading | None) -> dict[str, list[int]]:
    """The processes on each GPU that NVML lists them for."""
    gpus = reading.gpus if reading is not None else ()
    return {
        gpu.uuid: [process.pid for process in gpu.processes]
        for gpu in gpus
        if isinstance(gpu, GpuReading) and gpu.processes is not None
    }


def _configured_facts(engine: Engine) -> ModelFacts:
    model = engine.model
    if model is None:
        return ModelFacts(max_num_seqs=engine.max_num_seqs)
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
        max_num_seqs=engine.max_num_seqs,
    )


def _override(roof: RoofOverride) -> GpuSpec:
    """The catalogue's row with the configured figures in place of its own."""
    peak = roof.peak_dram_bytes_per_second
    if peak is None:
        raise AssertionError("the configuration asks for the bandwidth of a part that is not known")
    spec = find_gpu(roof.gpu) or GpuSpec(
        name=roof.gpu, nvml_names=(), memory_gigabytes=0, dram_bytes_per_second=peak
    )
    reached = roof.achievable_dram_bytes_per_second
    return replace(
        spec,
        nvml_names=(roof.gpu, *spec.nvml_names),
        dram_bytes_per_second=peak,
        achievable_dram_ratio=spec.achievable_dram_ratio if reached is None else reached / peak,
        flops_per_second={**spec.flops_per_second, **roof.flops_per_second},
        origin="configuration" if roof.dram_bytes_per_second or roof.flops_per_second else spec.origin,
    )
