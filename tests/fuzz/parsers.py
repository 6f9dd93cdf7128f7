"""THE TABLE of all parsers of what others write: what they are given, and what must come of it.

A row's `check` gives an input to its parser and looks at what comes back. It passes over the one error that
the parser is documented to raise, and raises whatever else is wrong.
"""

from __future__ import annotations

import atexit
import io
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields, is_dataclass
from pathlib import Path
from random import Random
from tempfile import mkdtemp
from typing import Any, Self, cast

import requests

from agent.app import Agent
from agent.clock import ManualClock
from agent.config import Configuration, load_web_configuration, parse_configuration
from agent.discovery.api_server import ApiError, parse_json
from agent.discovery.arguments import parse_arguments, parse_command_line, parse_environment
from agent.discovery.http2 import CallError, CallLimits, _Exchange
from agent.discovery.pod_resources import parse_allocations
from agent.discovery.pods import PodRules, find_servers
from agent.discovery.process_table import parse_stat
from agent.discovery.processes import parse_cgroup
from agent.discovery.sockets import parse_listeners, parse_local_addresses, parse_local_addresses6
from agent.engines.base import EngineDefinition
from agent.engines.gguf import config_of, read_header
from agent.engines.registry import ENGINES
from agent.engines.source import MAX_ENGINES, EngineSource
from agent.errors import ConfigurationError, SourceError, UnknownModelError
from agent.model_files import load_config_json
from agent.readings import EngineReading, ModelFacts
from agent.resolution import resolve_model
from agent.roofline.catalogue import find_config, known_names
from agent.roofline.families import parse_architecture
from agent.roofline.quantization import parse_quantization
from agent.simulate.node import SimulatedNode
from agent.simulate.scenarios import SCENARIOS
from agent.sources.dcgm import DcgmSource
from agent.sources.page import Page, PageParser
from agent.sources.prometheus import PrometheusServer
from agent.window import EngineHistory
from tests.discovery import kube_api
from tests.discovery.kubelet import message
from tests.discovery.proc_tree import tcp_row
from tests.fuzz import mutations
from tests.fuzz.mutations import Mutation
from tests.gguf_writer import array, f32, header, text, u32
from tests.soak.promises import Ledger
from tests.sources import dcgm_pages

ROOT = Path(__file__).parents[1]
FIXTURES = ROOT / "fixtures"
CORPUS = Path(__file__).parent / "corpus"
URL = "http://127.0.0.1:1/metrics"
FEW_LINES = 12
"""Enough to know the engine by."""
MOST_LINES = 150
"""Of a whole page: further ones are as these, and only take time."""
SECONDS_EACH = 5.0
"""Of CPU time: more than any input may take."""

Check = Callable[[bytes], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Parser:
    """One row."""

    name: str
    seeds: tuple[bytes, ...]
    mutations: tuple[Mutation, ...]
    shrinks: bool = True
    """Whether any part of an input is another input; not where all of it must be true."""
    weight: float = 1.0
    """Its part of all cases, against that of others: what is slow has less."""
    begin: Callable[[], Check]
    """Makes a check, with all that it keeps from one input to the next."""

    def case(self, dice: Random) -> bytes:
        """An input."""
        return mutations.mutate(dice, self.seeds, self.mutations)

    @property
    def corpus(self) -> tuple[Path, ...]:
        """Inputs that once broke something, or nearly."""
        return tuple(sorted(self.directory.glob("*")))

    @property
    def directory(self) -> Path:
        """Where they are."""
        return CORPUS / self.name.replace(" ", "-")


# --- the other side ----------------------------------------------------------------------------------


class _Response:
    """As much of a response as is looked at."""

    status_code = requests.codes.ok

    def __init__(self, body: bytes) -> None:
        self._body = body

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def iter_content(self, size: int) -> Iterator[bytes]:
        for start in range(0, len(self._body), size):
            yield self._body[start : start + size]


class FakeSession:
    """Answers with these bodies, by how the path ends; others are the page."""

    def __init__(self) -> None:
        self.page = b""
        self.documents: dict[str, bytes] = {}

    def get(self, url: str, **_: object) -> _Response:
        """One request."""
        for path, body in self.documents.items():
            if url.endswith(path):
                return _Response(body)
        return _Response(self.page)

    def close(self) -> None:
        """Nothing is held."""


def _session() -> tuple[FakeSession, requests.Session]:
    fake = FakeSession()
    return fake, cast(requests.Session, fake)


# --- what a valid reading is -------------------------------------------------------------------------


def _finite(value: Any, path: str = "") -> None:
    """No number in it is NaN or infinite, but for the bounds of histograms."""
    if isinstance(value, float):
        assert math.isfinite(value), f"{path} is {value}"
    elif is_dataclass(value) and not isinstance(value, type):
        for field in fields(value):
            if field.name not in ("bounds", "config"):
                _finite(getattr(value, field.name), f"{path}.{field.name}")
    elif isinstance(value, Mapping):
        for key, one in value.items():
            _finite(one, f"{path}[{key!r}]")
    elif isinstance(value, tuple | list):
        for one in value:
            _finite(one, path)


def _valid_engine(reading: EngineReading) -> None:
    _finite(reading)
    for label in (reading.rank, reading.model, reading.version or ""):
        assert len(label) <= 128
        assert label.isprintable(), repr(label)
    for name, value in asdict(reading.counters).items():
        assert value is None or value >= 0, f"{name} is {value}"


def _risen(before: Mapping[str, float], after: Mapping[str, float]) -> None:
    for name, value in before.items():
        assert after[name] >= value, f"{name} fell from {value} to {after[name]}"


# --- pages -------------------------------------------------------------------------------------------


def _parse_page() -> Check:
    wanted = frozenset[str]().union(*(engine.wanted for engine in ENGINES))
    parser = PageParser(wanted)

    def check(data: bytes) -> None:
        try:
            page = parser.parse(data)
        except SourceError:
            return
        _valid_page(page, wanted)
        again = parser.parse(data)  # what it has learnt changes nothing
        assert again == page

    return check


def _valid_page(page: Page, wanted: frozenset[str]) -> None:
    for name, samples in page.families.items():
        assert name in wanted
        assert samples
        seen = set()
        for labels, value in samples:
            assert math.isfinite(value)
            key = frozenset(labels.items())
            assert key not in seen, "a series twice"
            seen.add(key)


def _read_engine(
    definition: EngineDefinition, good: Sequence[bytes], *, true: bool = False
) -> Callable[[], Check]:
    """A page between two good ones: what was counted does not fall.

    If all that it says is `true`, nothing leaps either: after the second good one no more is counted than
    without it.
    """

    def begin() -> Check:
        fake, session = _session()
        source = EngineSource(URL, definitions=ENGINES, session=session)
        before, after = (_readings(source, fake, page) for page in (good[0], good[-1]))
        most = {
            rank: _history(before[rank], after[rank]).totals.counters for rank in before.keys() & after.keys()
        }

        def check(data: bytes) -> None:
            try:
                said = _readings(source, fake, data)
            except SourceError:
                return
            finally:
                source._before = {}
            for rank, reading in said.items():
                _valid_engine(reading)
                if rank not in most:
                    continue
                history = _history(before[rank], reading)
                counted = history.totals.counters
                _risen(dict.fromkeys(counted, 0.0), counted)
                _monotone(history)
                history.add(10, after[rank])
                _risen(counted, history.totals.counters)
                _monotone(history)
                history.window()
                if true:
                    for name, value in history.totals.counters.items():
                        assert value <= most[rank].get(name, 0.0), f"{name} leaps to {value}"

        return check

    return begin


def _judge(definition: EngineDefinition, good: Sequence[bytes]) -> Callable[[], Check]:
    """By the whole agent, on a GPU: whatever the page says, the agent's own is valid."""

    def begin() -> Check:
        clock = ManualClock()
        node = SimulatedNode(SCENARIOS["idle"], clock=clock)
        url = URL.replace("/metrics", definition.page_paths[0])
        engine = {"url": url, "engine": definition.name, "gpus": [0], "model": {"name": "llama-3.1-8b"}}
        document = {"discovery": {"processes": {"enabled": False}}, "engines": [engine]}
        agent = Agent(Configuration.model_validate(document), clock=clock, nvml=node.nvml, node="fuzz")
        fake, session = _session()
        source = agent.roster.servers[0].poller.source
        assert isinstance(source, EngineSource)
        source._session = source._shelf._session = session
        ledger = Ledger()

        def read(page: bytes) -> None:
            fake.page = page
            clock.advance(5)
            assessment = agent.beat(engines=True)
            ledger.see(assessment)
            ledger.read(agent.renderer.render(None, None).body.decode())
            for one in assessment.engines:
                assert not (one.problem or "").endswith("the log has the traceback"), one.problem
                _finite(one.work_totals)

        def check(data: bytes) -> None:
            for page in (data, data, good[0]):
                read(page)

        return check

    return begin


def _readings(source: EngineSource, fake: FakeSession, page: bytes) -> dict[str, EngineReading]:
    fake.page = page
    reading = source.read()
    assert len(reading.engines) <= MAX_ENGINES
    return {engine.rank: engine for engine in reading.engines}


def _history(*readings: EngineReading) -> EngineHistory:
    history = EngineHistory(keep_seconds=30.0, gap_seconds=15.0)
    for number, reading in enumerate(readings):
        history.add(number * 5.0, reading)
    return history


def _monotone(history: EngineHistory) -> None:
    for name, histogram in history.totals.histograms.items():
        assert histogram.sum >= 0, name
        assert list(histogram.cumulative) == sorted(histogram.cumulative), name
        assert histogram.cumulative[0] >= 0, name


def _read_documents(definition: EngineDefinition, page: bytes) -> Callable[[], Check]:
    def begin() -> Check:
        fake, session = _session()

        def check(data: bytes) -> None:
            source = EngineSource(URL, definitions=(definition,), session=session)
            fake.documents = {document.path: data for document in definition.documents}
            for reading in _readings(source, fake, page).values():
                _valid_engine(reading)
                resolve_model(ModelFacts(), reading, process=None, gpus=1)

        return check

    return begin


def _read_dcgm() -> Check:
    fake, session = _session()
    clock = ManualClock()
    source = DcgmSource(URL, clock=clock, interval_seconds=30)
    source._session = session

    def check(data: bytes) -> None:
        fake.page = data
        clock.advance(30)
        with suppress(SourceError):
            reading = source.read()
            _finite(reading)
            for gpu in reading.gpus:
                assert all(value >= 0 for value in gpu.values.values())

    return check


def _directory() -> Path:
    """For files, as long as this process lives."""
    directory = mkdtemp()
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    return Path(directory)


# --- JSON --------------------------------------------------------------------------------------------


def _read_prometheus() -> Check:
    fake, session = _session()
    server = PrometheusServer("http://127.0.0.1:1")
    server._session = session

    def check(data: bytes) -> None:
        fake.page = data
        with suppress(SourceError):
            _finite(server.query("up"))
        with suppress(SourceError):
            _finite(server.query_range("up", start=0, end=60, step_seconds=15))

    return check


def _read_pod() -> Check:
    rules = PodRules(namespaces=("chat",))

    def check(data: bytes) -> None:
        try:
            document = parse_json(data)
        except ApiError:
            return
        for one in (document, document.get("object") if isinstance(document, dict) else None):
            findings = find_servers(one, rules)
            for server in findings.servers:
                assert server.url.startswith(("http://", "https://"))

    return check


def _read_config_json() -> Check:
    path = _directory() / "config.json"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        try:
            config = load_config_json(path)
        except ValueError:
            return
        with suppress(UnknownModelError):
            parse_architecture(config)
        with suppress(UnknownModelError):
            parse_quantization(config)
        resolved = resolve_model(
            ModelFacts(config=config), EngineReading(engine="vllm", model="m"), process=None, gpus=1
        )
        assert resolved.served is not None or resolved.problem

    return check


# --- files of ours -----------------------------------------------------------------------------------


def _read_configuration() -> Check:
    def check(data: bytes) -> None:
        with suppress(ConfigurationError):
            parse_configuration(data.decode("utf-8", "replace"), origin="fuzz")

    return check


def _read_web_configuration() -> Check:
    path = _directory() / "web.yaml"

    def check(data: bytes) -> None:
        path.write_bytes(data)
        with suppress(ConfigurationError):
            load_web_configuration(path)

    return check


# --- what the node says ------------------------------------------------------------------------------


def _read_allocations() -> Check:
    def check(data: bytes) -> None:
        with suppress(ValueError):
            tuple(parse_allocations(data))

    return check


def _read_http2() -> Check:
    limits = CallLimits()

    def check(data: bytes) -> None:
        exchange = _Exchange("/v1.PodResourcesLister/List", b"", limits)
        exchange.data_to_send()
        try:
            exchange.receive(data)
            if exchange.ended:
                exchange.message()
        except CallError:
            pass
        except http2_errors():  # `call` translates them
            pass

    return check


def http2_errors() -> tuple[type[Exception], ...]:
    """What `http2.call` takes for a malformed answer."""
    from h2.exceptions import H2Error
    from hpack.exceptions import HPACKError
    from hyperframe.exceptions import HyperframeError

    return (H2Error, HPACKError, HyperframeError, OSError)


def _read_proc() -> Check:
    def check(data: bytes) -> None:
        with suppress(ValueError):
            parse_stat(data)
        shown = data.decode("ascii", "replace")
        lines = shown.splitlines(keepends=True)
        for listener in parse_listeners(lines):
            assert 0 <= listener.port <= 65535
        tuple(parse_local_addresses(lines))
        tuple(parse_local_addresses6(lines))
        parse_cgroup(shown)

    return check


def _read_command_line() -> Check:
    def check(data: bytes) -> None:
        environment = parse_environment(data)
        arguments = parse_arguments(parse_command_line(data), environment)
        if arguments is not None:
            _finite(arguments)

    return check


def _read_gguf() -> Check:
    def check(data: bytes) -> None:
        with suppress(ValueError):
            config = config_of(read_header(io.BufferedReader(io.BytesIO(data))))
            with suppress(UnknownModelError):
                parse_architecture(config)
            resolve_model(
                ModelFacts(config=config), EngineReading(engine="llamacpp", model="m"), process=None, gpus=1
            )

    return check


# --- seeds -------------------------------------------------------------------------------------------


def _pages(directory: str) -> list[bytes]:
    paths = sorted((FIXTURES / directory).glob("*.txt"))
    return [path.read_bytes() for path in paths if not path.name.endswith(("headers.txt", "times.txt"))]


def _wanted_lines(definition: EngineDefinition, page: bytes) -> bytes:
    """The page without what nobody reads, which only takes time."""
    lines = page.decode().splitlines(keepends=True)
    kept = [line for line in lines if line.partition("{")[0].partition(" ")[0] in definition.wanted]
    return "".join(kept).encode()


GOOD_PAGES: Mapping[str, tuple[str, str]] = {
    "vllm": ("vllm/0.32.0-load-1.txt", "vllm/0.32.0-load-4.txt"),
    "llamacpp": ("llamacpp/b11434-load-1.txt", "llamacpp/b11434-load-8.txt"),
    "trtllm": ("trtllm/constructed-2026-load-1.txt", "trtllm/constructed-2026-load-2.txt"),
    "triton": ("triton/constructed-backend-load-1.txt", "triton/constructed-backend-load-2.txt"),
    "ray": ("ray/constructed-node-load-1.txt", "ray/constructed-node-load-2.txt"),
}
"""Of one process, an earlier and a later one; else the same page stands for both."""


def _engine_rows() -> Iterator[Parser]:
    for definition in ENGINES:
        pages = [page for directory in sorted(GOOD_PAGES) + sorted(OTHERS) for page in _pages(directory)]
        own = [
            wanted
            for page in pages
            if (wanted := _wanted_lines(definition, page))
            and not definition.fingerprint.isdisjoint(
                PageParser(definition.wanted).parse(page).families if page.strip() else ()
            )
        ]
        own = [page for page in own if _first_known(page) is definition]
        if not own:
            continue
        own.sort(key=lambda page: not _is_read(definition, page))
        good = GOOD_PAGES.get(definition.name)
        chosen = (
            [_wanted_lines(definition, (FIXTURES / path).read_bytes()) for path in good] if good else own[:1]
        )
        yield Parser(
            name=f"page of {definition.name}",
            seeds=tuple(own),
            mutations=mutations.PAGE,
            weight=SLOW,
            begin=_read_engine(definition, chosen),
        )
        yield Parser(
            name=f"judged page of {definition.name}",
            seeds=tuple(own),
            mutations=mutations.PAGE,
            weight=SLOWEST,
            begin=_judge(definition, chosen),
        )
        yield Parser(
            name=f"true page of {definition.name}",
            seeds=(chosen[0],),
            # A process that tells when it started cannot be taken for another one.
            mutations=mutations.LACKING if definition.name in STARTS_TOLD else mutations.WHOLE,
            shrinks=False,
            weight=SLOW,
            begin=_read_engine(definition, chosen, true=True),
        )
        if definition.documents:
            yield Parser(
                name=f"documents of {definition.name}",
                seeds=_documents(definition.name),
                mutations=mutations.JSON,
                weight=SLOW,
                begin=_read_documents(definition, b"".join(chosen[0].splitlines(keepends=True)[:FEW_LINES])),
            )


SLOWEST, SLOW, FAST = 0.1, 0.5, 4.0
"""Weights."""
STARTS_TOLD = ("vllm", "lmdeploy")
"""Engines whose pages have their start time; of others a page that lacks lines can look like a restart."""
OTHERS = ("dynamo", "lmdeploy", "sglang", "tgi")


def _is_read(definition: EngineDefinition, page: bytes) -> bool:
    """Not so the page of a front end."""
    try:
        return bool(definition.read(PageParser(definition.wanted).parse(page), {}))
    except SourceError:
        return False


def _first_known(page: bytes) -> EngineDefinition | None:
    """As whom the agent takes it."""
    families = PageParser(frozenset[str]().union(*(one.wanted for one in ENGINES))).parse(page).families
    return next((one for one in ENGINES if not one.fingerprint.isdisjoint(families)), None)


def _documents(name: str) -> tuple[bytes, ...]:
    recorded = tuple(path.read_bytes() for path in sorted((FIXTURES / name).glob("*.json")))
    return recorded or tuple(path.read_bytes() for path in sorted((FIXTURES / "vllm").glob("*.json")))


_PODS = tuple(
    json.dumps(one).encode()
    for one in (
        kube_api.pod("llm-0"),
        {"type": "ADDED", "object": kube_api.pod("llm-1", labels={"app": "vllm"})},
        kube_api.pod(
            "llm-2",
            containers=[
                kube_api.container(
                    gpus=2,
                    command=["python3", "-m", "vllm.entrypoints.openai.api_server"],
                    args=["--model", "$(MODEL)", "--port=8001", "--tensor-parallel-size", "2"],
                    env=[{"name": "MODEL", "value": "meta-llama/Llama-3.1-8B"}],
                    ports=[{"name": "metrics", "containerPort": 8001}],
                ),
                kube_api.container("sidecar", image="envoy:1"),
            ],
        ),
        kube_api.pod(
            "llm-3",
            annotations={"prometheus.io/port": "30000", "prometheus.io/path": "/metrics"},
            containers=[kube_api.container(image="lmsysorg/sglang:v0.5", args=["--port", "30000"])],
        ),
    )
)


def _held(pod: str, *devices: tuple[int, bytes]) -> tuple[int, bytes]:
    container = message((1, "main"), *devices)
    return 1, message((1, pod), (2, "team"), (3, container))


_KUBELET = message(
    _held("llm-0", (2, message((1, "nvidia.com/gpu"), (2, "GPU-1"), (2, "GPU-2")))),
    _held("llm-1", (5, message((4, message((2, "gpu.nvidia.com"), (4, "gpu-0")))))),
)
_HTTP2 = (
    b"\0\0\0\4\0\0\0\0\0"  # settings
    b"\0\0\x0e\1\4\0\0\0\1\x88\x5f\x0bapplication"  # headers: 200, and half a content type
    b"\0\0\5\0\0\0\0\0\1\0\0\0\0\0",  # data
    b"\0\0\0\4\0\0\0\0\0\0\0\4\x08\0\0\0\0\0\0\1\0\0",
)
_PROC = (
    b"4711 (python3 -m (x)) S 1 4711 4711 0 -1 4194560 1 0 0 0 5 3 0 0 20 0 9 0 123456 1 2 3 4 5\n",
    (
        "  sl  local_address rem_address   st tx_queue rx_queue tr tm->when retrnsmt   uid\n"
        + "".join(tcp_row(address, port, port) for address, port in (("0.0.0.0", 8000), ("::", 30000)))
    ).encode(),
    b"Main:\n  +-- 0.0.0.0/0 3 0 5\n     |-- 10.0.0.7\n        /32 host LOCAL\n",
    b"fe800000000000000000000000000001 02 40 20 80     eth0\n",
    b"0::/kubepods.slice/kubepods-pod0f6cbd0a_1111_4222_8333_944455556666.slice/cri-containerd-x.scope\n",
)
_COMMANDS = tuple(
    "\0".join(words).encode() + b"\0"
    for words in (
        ("/usr/bin/python3", "/usr/bin/vllm", "serve", "meta-llama/Llama-3.1-8B", "--port", "8001", "-tp=2"),
        ("python", "-m", "sglang.launch_server", "--model-path", "x", "--dp-size", "2", "--host", "0.0.0.0"),
        ("llama-server", "-m", "/models/a.gguf", "--metrics", "-np", "4", "-c", "8192"),
        ("text-generation-launcher", "--model-id", "x", "--num-shard", "2", "--quantize", "awq"),
        ("env", "A=b", "tini", "--", "trtllm-serve", "x", "--tp_size", "2", "--max_batch_size", "64"),
        ("HF_HOME=/x", "MODEL_ID=y", "PORT=8080", "VLLM_PORT=1"),
    )
)
_GGUF = tuple(
    header(
        {
            "general.architecture": text(kind),
            "tokenizer.ggml.tokens": array([text("a"), text("b")]),
            **{
                f"{kind}.{key}": u32(value)
                for key, value in {
                    "block_count": 2,
                    "context_length": 4096,
                    "embedding_length": 512,
                    "feed_forward_length": 1536,
                    "attention.head_count": 8,
                    "attention.head_count_kv": 4,
                    "vocab_size": 1000,
                    "expert_count": 8,
                    "expert_used_count": 2,
                }.items()
            },
            f"{kind}.attention.layer_norm_rms_epsilon": f32(1e-5),
        },
        {"token_embd.weight": ((512, 1000), 1), "output_norm.weight": ((512,), 0)},
    )
    for kind in ("llama", "qwen2", "qwen3moe", "gemma3", "deepseek2")
)
_ANSWERS = tuple(
    json.dumps({"status": "success", "data": {"resultType": kind, "result": result}}).encode()
    for kind, result in (
        ("vector", [{"metric": {"gpu": "0", "uuid": "GPU-1"}, "value": [1700000000.123, "12.5"]}]),
        ("matrix", [{"metric": {"a": "b"}, "values": [[1700000000, "1"], [1700000015, "NaN"]]}]),
    )
)


def _files(*patterns: str) -> tuple[bytes, ...]:
    return tuple(path.read_bytes() for pattern in patterns for path in sorted(ROOT.glob(pattern)))


EXAMPLE = b"""interval_seconds: 1
engines_interval_seconds: 5
window_seconds: 30
web: {listen_address: ":10095", enable_lifecycle: false}
log: {format: json, level: info}
nvml: {enabled: true, gpm: true, restart: auto}
dcgm: {url: "http://127.0.0.1:9400/metrics"}
discovery:
  processes: {enabled: true}
  kubernetes: {enabled: false, namespaces: [team], pod_labels: ["app=vllm"]}
  pod_resources: {enabled: false}
engines:
  - url: http://127.0.0.1:8000/metrics
    engine: vllm
    gpus: [0, GPU-5d0ba1a4-0f3c-4bcf-9a3d-0d2bb0c5f8b1]
    model: {name: llama-3.1-8b, weight_dtype: fp8, tensor_parallel: 2}
    max_num_seqs: 256
    headers: {Authorization: Bearer s3cret}
  - &b {url: "http://[::1]:8001/metrics"}
node_labels: {zone: a}
prices: [{gpu: "NVIDIA H100 80GB HBM3", usd_per_hour: 2.99, from: 2026-01-01}]
roofs: [{gpu: "NVIDIA H100 80GB HBM3", dram_bytes_per_second: 3.35e12}]
slo: {ttft_seconds: 2, inter_token_seconds: 0.1, objective: 0.99}
"""


def _configs() -> tuple[bytes, ...]:
    return tuple(json.dumps(find_config(name)).encode() for name in known_names())


def table() -> tuple[Parser, ...]:
    """All rows."""
    dcgm = tuple(
        dcgm_pages.page(families).encode()
        for families in (
            tuple(fact.old for fact in dcgm_pages.FACTS.values()),
            tuple(fact.new for fact in dcgm_pages.FACTS.values()),
        )
    )
    pages = tuple(page for directory in (*GOOD_PAGES, *OTHERS) for page in _pages(directory)[:2])
    pages = tuple(b"".join(page.splitlines(keepends=True)[:MOST_LINES]) for page in pages)
    return (
        Parser(name="any page", seeds=pages, mutations=mutations.PAGE, begin=_parse_page),
        *_engine_rows(),
        Parser(name="page of dcgm", seeds=dcgm, mutations=mutations.PAGE, begin=_read_dcgm),
        Parser(
            name="answers of Prometheus",
            seeds=_ANSWERS,
            mutations=mutations.JSON,
            weight=FAST,
            begin=_read_prometheus,
        ),
        Parser(
            name="pods of Kubernetes", seeds=_PODS, mutations=mutations.JSON, weight=FAST, begin=_read_pod
        ),
        Parser(name="config.json", seeds=_configs(), mutations=mutations.JSON, begin=_read_config_json),
        Parser(
            name="configuration",
            seeds=(EXAMPLE, *_files("fixtures/bad_configurations/*.yaml")),
            mutations=mutations.YAML,
            weight=0.1,
            begin=_read_configuration,
        ),
        Parser(
            name="web configuration",
            seeds=_files("web/samples/valid/*.yml", "web/samples/invalid/*.yml"),
            mutations=mutations.YAML,
            weight=0.1,
            begin=_read_web_configuration,
        ),
        Parser(
            name="pod-resources",
            seeds=(_KUBELET,),
            mutations=mutations.ANY,
            weight=FAST,
            begin=_read_allocations,
        ),
        Parser(name="HTTP2 of the kubelet", seeds=_HTTP2, mutations=mutations.ANY, begin=_read_http2),
        Parser(name="proc", seeds=_PROC, mutations=mutations.ROWS, weight=FAST, begin=_read_proc),
        Parser(
            name="command lines",
            seeds=_COMMANDS,
            mutations=mutations.ANY,
            weight=FAST,
            begin=_read_command_line,
        ),
        Parser(name="GGUF", seeds=_GGUF, mutations=mutations.ANY, weight=FAST, begin=_read_gguf),
    )
