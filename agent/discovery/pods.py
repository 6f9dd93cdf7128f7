"""From a pod, as the API server describes it, to the serving engines in it and the URLs of their pages.

Pure. The one thing to know: a pod is asked only where something says that it serves a model – its command,
its image, a label, or an annotation in a namespace that is trusted – and then at the one port that follows,
never at one after the other. Who writes a pod's labels and annotations is not trusted with more than that
pod: the host of a URL is always its own address.
"""

from __future__ import annotations

import ipaddress
import re
import shlex
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from itertools import pairwise
from typing import Any

from agent.discovery.arguments import ServerArguments, parse_arguments
from agent.engines.base import EngineDefinition, count_at, list_at, text_at, value_at
from agent.engines.registry import ENGINES
from agent.labels import label_text
from agent.readings import FoundServer, ModelFacts, PodContainer
from agent.sources.addresses import is_reachable, parse_address, url_host

MAX_SERVERS_IN_POD = 4
MAX_CONTAINERS = 32
MAX_WORDS = 512
"""Of a command line."""
MAX_WORD = 16 * 1024
"""Characters of one; a whole script may be one."""
MAX_PORT = 65535


# --- selectors -----------------------------------------------------------------------------------

_NAME = r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,61}[A-Za-z0-9])?"
_SELECTOR = re.compile(
    rf"(?P<key>(?:[a-z0-9](?:[a-z0-9.-]{{0,251}}[a-z0-9])?/)?{_NAME})"
    rf"(?:(?P<operator>!?=)(?P<value>(?:{_NAME})?))?"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Selector:
    """One condition on the labels of a pod, as in Kubernetes' own selectors."""

    key: str
    value: str | None = None
    """`None`: any, as long as the label is there."""
    negated: bool = False
    """Another value, or no such label."""

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether a pod with these labels meets it."""
        if self.value is None:
            return self.key in labels
        return (labels.get(self.key) == self.value) != self.negated

    def __str__(self) -> str:
        """As the API server reads it."""
        return self.key if self.value is None else f"{self.key}{'!=' if self.negated else '='}{self.value}"


def parse_selector(text: str) -> Selector:
    """The selector that is written so, or `ValueError`."""
    match = _SELECTOR.fullmatch(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is not key=value, key!=value or key")
    return Selector(key=match["key"], value=match["value"], negated=match["operator"] == "!=")


# --- the rules -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class PodCredential:
    """Which pods are asked with the credentials of this name."""

    name: str
    selectors: tuple[Selector, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class PodRules:
    """Which pods are looked at, and whose word counts."""

    namespaces: tuple[str, ...] = ()
    """Empty: all are looked at, and none is trusted."""
    selectors: tuple[Selector, ...] = ()
    """All must match."""
    credentials: tuple[PodCredential, ...] = ()
    """The first that matches counts, in the namespaces that are named: whoever may make a pod elsewhere
    could give it the labels, and be sent them."""
    engines: Collection[EngineDefinition] = ENGINES
    """Those whose pages can be read; pods of others are left alone."""

    def definition(self, engine: str | None) -> EngineDefinition | None:
        """Of the engine of this name, if its page can be read."""
        return next((one for one in self.engines if one.name == engine), None)


# --- what says that a container is an engine -----------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Signs:
    """By what an engine's containers are known where their command line alone does not tell."""

    engine: str
    """As its `EngineDefinition` is called."""
    image: str = ""
    """In the name of its image, without registry and tag; a regular expression, as the next."""
    command: str = ""
    """In what is run, where `parse_arguments` does not know it."""
    names: tuple[str, ...] = ()
    """In labels, and as the name of its port."""
    entrypoint: tuple[str, ...] = ()
    """What its image runs when the pod gives arguments alone."""
    environment: Mapping[str, str] = field(default_factory=dict)
    """That its image sets."""
    ports: tuple[int, ...] = ()
    """Where they are not those of the `EngineDefinition`."""
    port_names: tuple[str, ...] = ("http",)
    """Of the port of its page, where none is called after metrics."""
    needs_gpu: bool = False
    """Also runs where no model is served."""


METRICS_PORTS = ("metrics", "http-metrics")

# Tried in this order: what wraps an engine stands before the engine.
SIGNS: tuple[Signs, ...] = (
    Signs(engine="dynamo", command=r"dynamo\.frontend", ports=(8000,)),
    Signs(engine="dynamo", image="(?:ai-)?dynamo", names=("dynamo",), port_names=("system",)),
    # KServe's server of Hugging Face models runs vLLM, behind a port of its own.
    Signs(engine="vllm", image="huggingfaceserver", command="huggingfaceserver", ports=(8080,)),
    Signs(engine="vllm", image="vllm|vllm-openai", names=("vllm",), entrypoint=("vllm", "serve")),
    Signs(engine="sglang", image="sglang", names=("sglang",)),
    Signs(
        engine="tgi",
        image="text-generation-inference|tgi",
        names=("tgi", "text-generation-inference"),
        entrypoint=("text-generation-launcher",),
        environment={"PORT": "80"},
        ports=(80,),
    ),
    Signs(
        engine="triton",
        image="tritonserver",
        names=("triton", "tritonserver", "triton-tensorrt-llm"),
        port_names=(),  # what it calls http is not where its page is
    ),
    Signs(
        engine="trtllm",
        image="tensorrt-llm|tensorrtllm|trtllm",
        names=("trtllm-serve", "trtllm", "tensorrt-llm"),
    ),
    Signs(
        engine="llamacpp",
        image=r"llama\.cpp|llama-cpp|llama-server",
        names=("llama.cpp", "llama-cpp", "llamacpp", "llama-server"),
        entrypoint=("llama-server",),
    ),
    Signs(engine="lmdeploy", image="lmdeploy", names=("lmdeploy",)),
    # Every Ray node has a page; engines are on those with GPUs.
    Signs(
        engine="ray",
        image="rayproject",
        command=r"\bray\s+start\b",
        names=("ray",),
        port_names=(),
        needs_gpu=True,
    ),
)

ENGINE_LABELS = (
    "llm-d.ai/engine-type",
    "inference.networking.k8s.io/engine-type",
    "app.kubernetes.io/name",
)
"""Whose values are `Signs.names`."""
WORKER_INDEX = "leaderworkerset.sigs.k8s.io/worker-index"
"""Not "0" on the pods that compute for another one."""

_NOT_AN_ENGINE = re.compile(
    r"(?<![a-z0-9])(?:router|gateway|proxy|operator|controller|scheduler|exporter|sidecar|sdk|bench|benchmark|"
    r"dashboard)(?![a-z0-9])"
)
"""In the name or the tag of an image that is built around an engine without being one."""
_CLIENT = re.compile(r"\bvllm\s+(?:bench|chat|complete|run-batch)\b|\bbench_serving\b|\bbenchmark_serving\b")
"""In what is run out of an engine's image without serving."""
_RESTING = re.compile(r"(?:\S*sh -\w+ )?(?:\S*/)?(?:sleep \w+|tail -f /dev/null)")

NVIDIA_RESOURCES = "nvidia.com/"


# --- what is said about pods that are not asked --------------------------------------------------

NOTES: Mapping[str, str] = {
    "host_network": "use the host's network and are not asked; list their URLs under engines",
    "bad_address": "have no address that can be asked",
    "bad_annotation": "have an annotation that cannot be meant, which is passed over; it takes a port of 1 "
    "to 65535, a plain path, http or https, and an engine that is known",
    "untrusted_annotation": "have annotations of roofline-agent, which count only in the namespaces named "
    "under discovery.kubernetes.namespaces",
    "withheld_credential": "match credentials, which are sent only into the namespaces named under "
    "discovery.kubernetes.namespaces",
    "loopback": "serve on their loopback only, where they cannot be asked",
    "too_many": f"hold more than {MAX_SERVERS_IN_POD} engines, of which the rest is left out",
}
"""After the names of the pods."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PodFindings:
    """All that is kept of a pod."""

    pod: str = ""
    """Its namespace and name."""
    servers: tuple[FoundServer, ...] = ()
    notes: tuple[str, ...] = ()
    """Keys of `NOTES`."""

    def __bool__(self) -> bool:
        return bool(self.servers or self.notes)


NOTHING = PodFindings()


# --- a pod, as far as it matters -----------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class _Container:
    name: str
    image: str
    command: tuple[str, ...]
    arguments: tuple[str, ...]
    environment: Mapping[str, str]
    ports: Mapping[int, str]
    """By number: their names."""
    has_gpu: bool

    @property
    def text(self) -> str:
        """All that it runs."""
        return " ".join((*self.command, *self.arguments))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pod:
    namespace: str
    name: str
    uid: str
    address: str
    host_network: bool
    labels: Mapping[str, str]
    annotations: Mapping[str, str]
    containers: tuple[_Container, ...]


def _read_pod(pod: Any) -> _Pod | None:
    """`None` unless it runs."""
    namespace, name = text_at(pod, "metadata", "namespace"), text_at(pod, "metadata", "name")
    if namespace is None or name is None or value_at(pod, "status", "phase") != "Running":
        return None
    containers = list_at(pod, "spec", "containers")[:MAX_CONTAINERS]
    return _Pod(
        namespace=namespace,
        name=name,
        uid=text_at(pod, "metadata", "uid") or "",
        address=text_at(pod, "status", "podIP") or "",
        host_network=value_at(pod, "spec", "hostNetwork") not in (None, False),
        labels=_texts(value_at(pod, "metadata", "labels")),
        annotations=_texts(value_at(pod, "metadata", "annotations")),
        containers=tuple(_read_container(one) for one in containers if isinstance(one, dict)),
    )


def _read_container(container: Any) -> _Container:
    environment = {
        name: value
        for one in list_at(container, "env")[:MAX_WORDS]
        if (name := text_at(one, "name")) and (value := text_at(one, "value")) is not None
    }
    ports = {
        number: text_at(one, "name") or ""
        for one in list_at(container, "ports")[:MAX_WORDS]
        if value_at(one, "protocol") in (None, "TCP")
        and (number := count_at(one, "containerPort"))
        and number <= MAX_PORT
    }
    resources = (value_at(container, "resources", kind) for kind in ("limits", "requests"))
    return _Container(
        name=text_at(container, "name") or "",
        image=text_at(container, "image") or "",
        command=_words(list_at(container, "command"), environment),
        arguments=_words(list_at(container, "args"), environment),
        environment=environment,
        ports=ports,
        has_gpu=any(
            name.startswith(NVIDIA_RESOURCES) for one in resources if isinstance(one, dict) for name in one
        )
        or bool(list_at(container, "resources", "claims")),
    )


def _texts(mapping: Any) -> dict[str, str]:
    if not isinstance(mapping, dict):
        return {}
    return {key: value for key, value in mapping.items() if isinstance(key, str) and isinstance(value, str)}


def _words(words: Sequence[Any], environment: Mapping[str, str]) -> tuple[str, ...]:
    """The words, with ``$(NAME)`` replaced as the kubelet does; what comes from elsewhere stays as it is."""
    texts = [word for word in words[:MAX_WORDS] if isinstance(word, str) and len(word) <= MAX_WORD]
    return tuple(_substitute(_KUBELET_VARIABLE, word, environment) for word in texts)


_KUBELET_VARIABLE = re.compile(r"\$\(([A-Za-z_][A-Za-z0-9_]*)\)")
_SHELL_VARIABLE = re.compile(r"\$\{?([A-Za-z_][A-Za-z0-9_]*)\}?")


def _substitute(variable: re.Pattern[str], text: str, environment: Mapping[str, str]) -> str:
    """At most `MAX_WORD` characters."""
    return variable.sub(lambda match: environment.get(match[1], match[0]), text)[:MAX_WORD]


# --- from a pod to its servers -------------------------------------------------------------------


def find_servers(pod: Any, rules: PodRules) -> PodFindings:
    """The engines in one pod, as the API server gives it; never raises, whatever JSON that is."""
    read = _read_pod(pod)
    if read is None or not all(selector.matches(read.labels) for selector in rules.selectors):
        return NOTHING
    if rules.namespaces and read.namespace not in rules.namespaces:
        return NOTHING
    return _Search(read, rules).findings()


@dataclass(frozen=True, slots=True)
class _Engine:
    """A container in which an engine was recognised."""

    container: _Container
    name: str
    signs: Signs | None
    arguments: ServerArguments | None
    """What it was told, where that could be read."""


class _Search:
    """One pod, looked through once."""

    def __init__(self, pod: _Pod, rules: PodRules) -> None:
        self._pod = pod
        self._rules = rules
        self._trusted = pod.namespace in rules.namespaces
        self._notes: list[str] = []
        self._said = _read_annotations(pod.annotations if self._trusted else {}, rules)
        self._engines = self._recognised()

    def findings(self) -> PodFindings:
        """What is known of the pod in the end."""
        servers = self._servers()
        notes = tuple(dict.fromkeys(self._notes))
        return PodFindings(
            pod=label_text(f"{self._pod.namespace}/{self._pod.name}"),
            servers=servers[:MAX_SERVERS_IN_POD],
            notes=notes,
        )

    def _servers(self) -> tuple[FoundServer, ...]:
        if any(key.startswith(OWN_ANNOTATIONS) for key in self._pod.annotations) and not self._trusted:
            self._notes.append("untrusted_annotation")
        if self._said.leave_alone:
            return ()
        if self._said.malformed:
            self._notes.append("bad_annotation")
        targets = list(self._targets())
        if not targets:
            return ()
        if self._pod.host_network:
            self._notes.append("host_network")
            return ()
        host = _host_in_url(self._pod.address)
        if host is None:
            self._notes.append("bad_address")
            return ()
        found = {server.url: server for server in (self._server(host, *target) for target in targets)}
        if len(found) > MAX_SERVERS_IN_POD:
            self._notes.append("too_many")
        return tuple(found.values())

    def _targets(self) -> Iterator[tuple[int, _Engine | None]]:
        """Ports to be asked, and the engine behind each, where one was recognised."""
        port = self._said.port
        if port is not None and self._serves():
            declaring = (one for one in self._engines if port in one.container.ports)
            yield port, next(declaring, self._engines[0] if self._engines else None)
            return
        for engine in self._engines:
            chosen = self._port(engine)
            if chosen is not None:
                yield chosen, engine

    def _serves(self) -> bool:
        """Whether an annotated pod is one of ours.

        Other exporters carry the general annotations too, and would each be an engine that is down.
        """
        ours = f"{OWN_ANNOTATIONS}port" in self._pod.annotations
        return ours or bool(self._engines) or any(one.has_gpu for one in self._pod.containers)

    def _server(self, host: str, port: int, engine: _Engine | None) -> FoundServer:
        container = engine.container if engine is not None else self._holder_of(port)
        arguments = engine.arguments if engine is not None else None
        name = self._said.engine or (engine.name if engine is not None else None)
        definition = self._rules.definition(name)
        path = self._said.path
        if path is None and arguments is not None and arguments.engine == name:
            path = arguments.page_path
        if path is None:
            path = definition.page_paths[0] if definition is not None else "/metrics"
        scheme = self._said.scheme or ("https" if arguments is not None and arguments.tls else "http")
        return FoundServer(
            url=f"{scheme}://{host}:{port}{path}",
            engine=name,
            container=PodContainer(
                namespace=self._pod.namespace,
                pod=self._pod.name,
                container=container.name if container is not None else "",
                uid=self._pod.uid,
            ),
            facts=_resolved(arguments.facts) if arguments is not None else ModelFacts(),
            credential=self._credential(),
        )

    def _holder_of(self, port: int) -> _Container | None:
        """The container that declares the port, or the only one."""
        containers = self._pod.containers
        holder = next((one for one in containers if port in one.ports), None)
        return holder or (containers[0] if len(containers) == 1 else None)

    def _credential(self) -> str | None:
        for credential in self._rules.credentials:
            if all(selector.matches(self._pod.labels) for selector in credential.selectors):
                if self._trusted:
                    return credential.name
                self._notes.append("withheld_credential")
                return None
        return None

    # --- recognising -------------------------------------------------------------------------------

    def _recognised(self) -> tuple[_Engine, ...]:
        """The engines in this pod whose pages can be read: what a container tells, else what the pod does."""
        candidates = [_recognise(one) for one in self._pod.containers]
        engines = [one for one in candidates if one is not None and self._rules.definition(one.name)]
        return tuple(engines or self._named())

    def _named(self) -> Iterator[_Engine]:
        """The engine that an annotation or a label names."""
        name, main = self._said.engine or self._labelled(), _main_container(self._pod.containers)
        signs = _signs_of(name)
        if name is None or main is None or self._rules.definition(name) is None:
            return
        if main.has_gpu or signs is None or not signs.needs_gpu:
            yield _Engine(main, name, signs, None)

    def _labelled(self) -> str | None:
        """The engine that a label names."""
        for label in ENGINE_LABELS:
            for signs in SIGNS:
                if self._pod.labels.get(label, "").lower() in signs.names:
                    return signs.engine
        return None

    # --- the port ----------------------------------------------------------------------------------

    def _port(self, engine: _Engine) -> int | None:
        """The port of its page: told on its command line, declared by the pod, its engine's default."""
        arguments, signs, declared = engine.arguments, engine.signs, engine.container.ports
        definition = self._rules.definition(engine.name)
        defaults = definition.ports if definition is not None else ()
        if signs is not None and signs.ports:
            defaults = signs.ports
        if arguments is None:
            # A worker that declares no port has no server; with one it has its own.
            silent = not declared and self._pod.labels.get(WORKER_INDEX, "0") != "0"
            return None if silent else next(_ports(declared, signs, defaults), None)
        if arguments.headless or arguments.uds is not None:
            return None
        if arguments.host is not None and _is_loopback(arguments.host):
            self._notes.append("loopback")
            return None
        if arguments.port is not None and arguments.port not in defaults:
            return arguments.port
        return next(_ports(declared, signs, defaults if arguments.port is not None else ()), None)


def _ports(declared: Mapping[int, str], signs: Signs | None, defaults: Sequence[int]) -> Iterator[int]:
    """Where the page of a container may be, the likeliest first."""
    by_name = {name: number for number, name in declared.items()}
    names = (*signs.names, *signs.port_names) if signs is not None else ("http",)
    yield from (by_name[name] for name in METRICS_PORTS if name in by_name)
    yield from (port for port in defaults if port in declared)
    yield from (by_name[name] for name in names if name in by_name)
    if len(declared) == 1:
        yield from declared
    yield from defaults


def _recognise(container: _Container) -> _Engine | None:
    """The engine in this container, by its command line, then by its image."""
    if _serves_nothing(container):
        return None
    text = container.text
    by_command = next((one for one in SIGNS if one.command and re.search(one.command, text)), None)
    by_image = next((one for one in SIGNS if one.image and _is_image_of(one, container.image)), None)
    arguments = _arguments(container, by_image)
    if arguments is not None:
        signs = by_image if by_image is not None and by_image.engine == arguments.engine else None
        return _Engine(container, arguments.engine, signs or _signs_of(arguments.engine), arguments)
    signs = by_command or by_image
    if signs is None or (signs.needs_gpu and not container.has_gpu):
        return None
    return _Engine(container, signs.engine, signs, None)


def _serves_nothing(container: _Container) -> bool:
    return _CLIENT.search(container.text) is not None or _RESTING.fullmatch(container.text) is not None


def _signs_of(engine: str | None) -> Signs | None:
    return next((one for one in SIGNS if one.engine == engine and one.names), None)


def _is_image_of(signs: Signs, image: str) -> bool:
    """Whether the image's name, without registry and tag, has a part that is the engine's."""
    repository, _ = _repository_and_tag(image)
    whole_word = rf"(?<![a-z0-9])(?:{signs.image})(?![a-z0-9])"
    return re.search(whole_word, repository) is not None and not _is_built_around(image)


def _is_built_around(image: str) -> bool:
    """Whether the image is something that stands beside engines."""
    return any(_NOT_AN_ENGINE.search(part) for part in _repository_and_tag(image))


def _repository_and_tag(image: str) -> tuple[str, str]:
    """Of ``registry:5000/vllm/vllm-openai:v1@sha256:…`` it is ``vllm/vllm-openai`` and ``v1``."""
    reference = image.lower().partition("@")[0]
    first, slash, rest = reference.partition("/")
    if slash and ("." in first or ":" in first or first == "localhost"):
        reference = rest
    path, slash, last = reference.rpartition("/")
    name, _, tag = last.partition(":")
    return path + slash + name, tag


def _main_container(containers: Sequence[_Container]) -> _Container | None:
    """The one meant by what is said of the whole pod: with a GPU, with a port for metrics, or the first."""
    wanted = (*METRICS_PORTS, "http")
    serving = [one for one in containers if not _serves_nothing(one) and not _is_built_around(one.image)]
    with_gpu = [one for one in serving if one.has_gpu]
    with_port = [one for one in serving if any(name in wanted for name in one.ports.values())]
    return next(iter((*with_gpu, *with_port, *serving)), None)


# --- command lines -------------------------------------------------------------------------------

SHELLS = frozenset({"sh", "bash", "ash", "dash", "zsh"})
_BEFORE_A_COMMAND = re.compile(r"exec|time|\w+=.*", re.DOTALL)


def _arguments(container: _Container, signs: Signs | None) -> ServerArguments | None:
    """What the container's engine was told, if its command line is known and starts one."""
    words = (*container.command, *container.arguments)
    environment = container.environment
    if not container.command and signs is not None:
        words = (*signs.entrypoint, *container.arguments)
        environment = {**signs.environment, **environment}
    for command in _commands(words, environment):
        arguments = parse_arguments(command, environment)
        if arguments is not None:
            return arguments
    return None


def _commands(words: Sequence[str], environment: Mapping[str, str]) -> Iterator[tuple[str, ...]]:
    """The command itself; of a shell's script, each that it runs."""
    script = _script(words)
    if script is None:
        yield tuple(words)
        return
    for line in _substitute(_SHELL_VARIABLE, script, environment).replace("\\\n", " ").splitlines():
        yield from _commands_of_line(line)


def _script(words: Sequence[str]) -> str | None:
    """What follows ``sh -c``."""
    if not words or words[0].rpartition("/")[2] not in SHELLS:
        return None
    for option, following in pairwise(words[1:]):
        if not option.startswith("-"):
            return None
        if not option.startswith("--") and option.endswith("c"):
            return following
    return None


def _commands_of_line(line: str) -> Iterator[tuple[str, ...]]:
    lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
    lexer.whitespace_split = True
    lexer.commenters = ""
    command: list[str] = []
    try:
        for token in lexer:
            if set(token) <= set(lexer.punctuation_chars):
                yield tuple(command)
                command = []
            elif command or not _BEFORE_A_COMMAND.fullmatch(token):
                command.append(token)
    except ValueError:  # a quotation that does not end here
        pass
    yield tuple(command)


def _resolved(facts: ModelFacts) -> ModelFacts:
    """Without the texts that hold a variable whose value is not known."""
    unknown: dict[str, Any] = {
        one.name: None
        for one in fields(facts)
        if isinstance(value := getattr(facts, one.name), str) and "$" in value
    }
    names = tuple(name for name in facts.served_names if "$" not in name)
    return replace(facts, **unknown, served_names=names)


# --- annotations ---------------------------------------------------------------------------------

OWN_ANNOTATIONS = "roofline-agent/"
PROMETHEUS_ANNOTATIONS = "prometheus.io/"
KSERVE_ANNOTATIONS = "prometheus.kserve.io/"
KSERVE_SWITCH = "serving.kserve.io/enable-prometheus-scraping"

_PATH = re.compile(r"/[A-Za-z0-9._~/%:+=,-]{0,255}")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Said:
    """What the annotations of a pod say of its page; `None` where they do not."""

    port: int | None = None
    path: str | None = None
    scheme: str | None = None
    engine: str | None = None
    leave_alone: bool = False
    """The pod is not to be scraped."""
    malformed: bool = False
    """Some of it cannot be meant."""


def _read_annotations(annotations: Mapping[str, str], rules: PodRules) -> _Said:
    """The agent's own before those that are there for everybody."""
    scrape = annotations.get(f"{PROMETHEUS_ANNOTATIONS}scrape", "").lower()
    kserve = annotations.get(KSERVE_SWITCH, "true").lower()
    if scrape == "false" and f"{OWN_ANNOTATIONS}port" not in annotations:
        return _Said(leave_alone=True)
    prefixes = [OWN_ANNOTATIONS]
    prefixes += [PROMETHEUS_ANNOTATIONS] if scrape == "true" else []
    prefixes += [KSERVE_ANNOTATIONS] if kserve == "true" else []
    values: dict[str, Any] = {}
    malformed = False
    for key, parse in _ANNOTATIONS.items():
        texts = [text for prefix in prefixes if (text := annotations.get(prefix + key)) is not None]
        if texts:
            try:
                values[key] = parse(texts[0].strip())
            except ValueError:
                malformed = True
    engine = annotations.get(f"{OWN_ANNOTATIONS}engine")
    known = engine if rules.definition(engine) is not None else None
    return _Said(**values, engine=known, malformed=malformed or known != engine)


def _parse_port(text: str) -> int:
    port = int(text) if re.fullmatch("[0-9]{1,5}", text) else 0
    if not 1 <= port <= MAX_PORT:
        raise ValueError(text)
    return port


def _parse_path(text: str) -> str:
    path = text if text.startswith("/") else f"/{text}"
    if not _PATH.fullmatch(path):
        raise ValueError(text)
    return path


def _parse_scheme(text: str) -> str:
    if text.lower() not in ("http", "https"):
        raise ValueError(text)
    return text.lower()


_ANNOTATIONS: Mapping[str, Callable[[str], int | str]] = {
    "port": _parse_port,
    "path": _parse_path,
    "scheme": _parse_scheme,
}


# --- addresses -----------------------------------------------------------------------------------


def _host_in_url(address: str) -> str | None:
    """The pod's address as it stands in a URL; `None` for one that leads to somebody else, or nowhere."""
    parsed = parse_address(address)
    return url_host(parsed) if parsed is not None and is_reachable(parsed) else None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
