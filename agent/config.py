"""The configuration: YAML, strict, every key with a default, every error at once.

An empty file runs. Unknown keys are errors, because a misspelt key that is ignored is a setting that
is believed.
"""

from __future__ import annotations

import datetime as dt
import difflib
import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar
from urllib.parse import urlsplit

import yaml
from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SecretStr,
    ValidationError,
    ValidationInfo,
    field_validator,
    model_validator,
)
from pydantic_core import InitErrorDetails

from agent.discovery.kubernetes import MAX_NAMESPACES
from agent.discovery.pods import parse_selector
from agent.engines.registry import ENGINES
from agent.engines.source import server_of
from agent.errors import ConfigurationError, UnknownModelError
from agent.logs import Format, Level
from agent.model_files import load_config_json
from agent.objectives import Objective
from agent.prices import ANY_GPU
from agent.recovery import Policy
from agent.roofline.catalogue import find_config
from agent.roofline.dtypes import DTYPES, find_dtype
from agent.roofline.families import parse_architecture
from agent.roofline.gpus import find_gpu
from agent.roofline.quantization import parse_quantization

if TYPE_CHECKING:
    from agent.exposition.web_config import WebConfiguration


def _check_dtype(value: str) -> str:
    if find_dtype(value) is None:
        raise ValueError(f"unknown dtype; one of {', '.join(dtype.name for dtype in DTYPES)}")
    return value


def _compute_dtype(value: str) -> str:
    """The roof that products of such numbers run under, by its one name: fp16 has that of bf16."""
    dtype = find_dtype(_check_dtype(value))
    if dtype is None or (dtype.compute == "bf16" and dtype.name != "bf16"):
        raise ValueError("its products are computed in bf16: give that roof")
    return dtype.compute


def _check_url(value: str) -> str:
    parts = urlsplit(value)
    port = parts.port  # raises ValueError for one that cannot be
    if port == 0 or parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("must be an http:// or https:// URL with a host")
    if parts.username is not None or parts.password is not None:
        raise ValueError("must not hold credentials; put them under headers")
    return value


DtypeName = Annotated[str, AfterValidator(_check_dtype)]
ComputeDtypeName = Annotated[str, AfterValidator(_compute_dtype)]


class Section(BaseModel):
    """A part of the configuration: unknown keys are refused, values do not change."""

    model_config = ConfigDict(extra="forbid", frozen=True, hide_input_in_errors=True)


class Web(Section):
    """Where the agent answers, and whom."""

    listen_address: str = ":10095"
    config_file: str = ""
    enable_lifecycle: bool = False

    @field_validator("listen_address")
    @classmethod
    def _host_and_port(cls, value: str) -> str:
        host, colon, port = value.rpartition(":")
        if not colon or not port.isdecimal() or int(port) > 65535:
            raise ValueError('must be "host:port" or ":port", with a port up to 65535')
        if ":" in host and not (host.startswith("[") and host.endswith("]")):
            raise ValueError('an IPv6 address stands in brackets, as in "[::1]:10095"')
        return value

    @field_validator("config_file")
    @classmethod
    def _can_be_loaded(cls, value: str) -> str:
        if value:
            try:
                load_web_configuration(Path(value))
            except ConfigurationError as error:
                raise _errors_within(error) from None
        return value

    @property
    def host(self) -> str:
        """The interface; all of them when it is left out."""
        return self.listen_address.rpartition(":")[0].strip("[]") or "0.0.0.0"  # noqa: S104 - a node exporter is scraped from other machines

    @property
    def port(self) -> int:
        """The port; 0 takes a free one."""
        return int(self.listen_address.rpartition(":")[2])


class Log(Section):
    """How the agent logs, to stderr."""

    format: Format = "text"
    level: Level = "info"


class Nvml(Section):
    """NVIDIA's management library."""

    enabled: bool = True
    gpm: bool = True
    release_seconds: float = Field(default=300.0, ge=1, le=86400)
    restart: Policy = "auto"
    restart_after_seconds: float = Field(default=60.0, ge=1, le=86400)


class Dcgm(Section):
    """A dcgm-exporter on this node, for GPUs whose own profiling counters NVML does not read."""

    url: str = ""
    interval_seconds: float = Field(default=10.0, ge=1, le=300)

    @field_validator("url")
    @classmethod
    def _plain_http(cls, value: str) -> str:
        return _check_url(value) if value else value


class Credentials(Section):
    """What a server is asked with: headers, and the authorities that may vouch for it."""

    headers: dict[str, SecretStr] = Field(default_factory=dict)
    ca_file: str = ""

    @field_validator("headers")
    @classmethod
    def _one_line(cls, value: dict[str, SecretStr]) -> dict[str, SecretStr]:
        for name, secret in value.items():
            if not re.fullmatch(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+", name):
                raise ValueError(f"{name!r} cannot be the name of a header")
            if not secret.get_secret_value().isprintable():
                raise ValueError(f"the value of {name} must be one printable line")
        return value

    @field_validator("ca_file")
    @classmethod
    def _can_be_read(cls, value: str) -> str:
        if value and not Path(value).is_file():
            raise ValueError(f"{value}: no such file")
        return value

    @property
    def plain_headers(self) -> dict[str, str]:
        """To be sent."""
        return {name: value.get_secret_value() for name, value in self.headers.items()}


def _check_selector(value: str) -> str:
    parse_selector(value)
    return value


PodSelector = Annotated[str, AfterValidator(_check_selector)]


class PodCredentials(Credentials):
    """What the pods with these labels are asked with, and no others."""

    pod_labels: tuple[PodSelector, ...] = Field(min_length=1)


class ProcessDiscovery(Section):
    """Serving engines by their processes; needs to see those of other users."""

    enabled: bool = True


class KubernetesDiscovery(Section):
    """Serving engines by the pods of this node; needs to list and watch them."""

    enabled: bool = False
    namespaces: tuple[str, ...] = Field(default=(), max_length=MAX_NAMESPACES)
    pod_labels: tuple[PodSelector, ...] = ()
    credentials: tuple[PodCredentials, ...] = ()


class PodResources(Section):
    """Which container has which GPU, from the kubelet's own socket."""

    enabled: bool = False
    socket: str = "/var/lib/kubelet/pod-resources/kubelet.sock"


class DiscoverySettings(Section):
    """How serving engines are found, and whose GPUs are whose."""

    interval_seconds: float = Field(default=10.0, ge=1, le=300)
    processes: ProcessDiscovery = ProcessDiscovery()
    kubernetes: KubernetesDiscovery = KubernetesDiscovery()
    pod_resources: PodResources = PodResources()


class Model(Section):
    """Which model an engine serves, and how, where its page does not say."""

    name: str | None = None
    config_json: Path | None = None
    weight_dtype: DtypeName | None = None
    kv_dtype: DtypeName | None = None
    tensor_parallel: int | None = Field(default=None, ge=1, le=1024)
    pipeline_parallel: int | None = Field(default=None, ge=1, le=1024)
    expert_parallel: int | None = Field(default=None, ge=1, le=1024)

    @model_validator(mode="after")
    def _known(self) -> Model:
        if self.name is not None and self.config_json is not None:
            raise ValueError("give either name or config_json, not both")
        if self.name is not None and find_config(self.name) is None:
            raise ValueError(f"{self.name!r} is not in the catalogue of models; give config_json instead")
        if self.config_json is not None:
            try:
                config = load_config_json(self.config_json)
                parse_architecture(config)
                parse_quantization(config)
            except (OSError, ValueError, UnknownModelError) as error:
                raise ValueError(f"{self.config_json}: {error}") from None
        return self


class Engine(Credentials):
    """One serving engine; its credentials go to no other."""

    url: str
    engine: str | None = None
    gpus: tuple[int | str, ...] | None = None
    model: Model | None = None
    max_num_seqs: int | None = Field(default=None, ge=1)

    @field_validator("gpus")
    @classmethod
    def _some_gpu(cls, value: tuple[int | str, ...] | None) -> tuple[int | str, ...] | None:
        if value == ():
            raise ValueError("must name a GPU, or be left out")
        return value

    @field_validator("url")
    @classmethod
    def _plain_http(cls, value: str) -> str:
        return _check_url(value)

    @field_validator("engine")
    @classmethod
    def _known_engine(cls, value: str | None) -> str | None:
        names = [definition.name for definition in ENGINES]
        if value is not None and value not in names:
            raise ValueError(f"unknown engine; one of {', '.join(names)}")
        return value

    @model_validator(mode="after")
    def _its_own_page(self) -> Engine:
        path = urlsplit(self.url).path.rstrip("/")
        if self.engine == "trtllm" and not path.endswith("/prometheus/metrics"):
            raise ValueError(
                "the page of trtllm-serve is /prometheus/metrics; reading its /metrics empties a queue that "
                "others may need"
            )
        return self


class Price(Section):
    """What an hour of one GPU costs, from a date on, and on which nodes."""

    gpu: str = ANY_GPU
    usd_per_hour: float = Field(ge=0, allow_inf_nan=False)
    since: dt.date = Field(default=dt.date.min, alias="from")
    node_labels: dict[str, str] = Field(default_factory=dict)


class RoofOverride(Section):
    """Peaks of a part that the catalogue does not know, or knows otherwise, and what its kernels reach."""

    gpu: str
    dram_bytes_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    achievable_dram_bytes_per_second: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """What good kernels were measured to reach of the peak; the catalogue has a ratio by kind of memory."""
    flops_per_second: dict[ComputeDtypeName, Annotated[float, Field(gt=0, allow_inf_nan=False)]] = Field(
        default_factory=dict
    )

    @property
    def peak_dram_bytes_per_second(self) -> float | None:
        """As configured, else the catalogue's."""
        known = find_gpu(self.gpu)
        return self.dram_bytes_per_second or (known.dram_bytes_per_second if known is not None else None)

    @model_validator(mode="after")
    def _enough(self) -> RoofOverride:
        peak, reached = self.peak_dram_bytes_per_second, self.achievable_dram_bytes_per_second
        if peak is None:
            raise ValueError(f"{self.gpu!r} is not in the catalogue, so dram_bytes_per_second is needed")
        if reached is not None and reached > peak:
            raise ValueError(
                f"achievable_dram_bytes_per_second is {reached:.3g}, more than the peak of {peak:.3g}"
            )
        return self


class Slo(Section):
    """What requests are promised; a target left out is not counted."""

    ttft_seconds: float | None = Field(default=None, gt=0)
    inter_token_seconds: float | None = Field(default=None, gt=0)
    objective: float = Field(default=0.99, gt=0, lt=1)

    @property
    def objectives(self) -> dict[str, Objective]:
        """By name."""
        given = {"ttft": self.ttft_seconds, "inter_token": self.inter_token_seconds}
        return {
            name: Objective(target_seconds=target, ratio=self.objective)
            for name, target in given.items()
            if target is not None
        }


class Configuration(Section):
    """All of it."""

    interval_seconds: float = Field(default=1.0, ge=0.2, le=60)
    engines_interval_seconds: float = Field(default=5.0, ge=0.5, le=300)
    window_seconds: float = Field(default=30.0, ge=5, le=3600)
    web: Web = Web()
    log: Log = Log()
    nvml: Nvml = Nvml()
    dcgm: Dcgm = Dcgm()
    discovery: DiscoverySettings = DiscoverySettings()
    engines: tuple[Engine, ...] = ()
    node_labels: dict[str, str] = Field(default_factory=dict)
    prices: tuple[Price, ...] = ()
    roofs: tuple[RoofOverride, ...] = ()
    slo: Slo = Slo()

    @field_validator("window_seconds")
    @classmethod
    def _holds_two_pages(cls, value: float, info: ValidationInfo) -> float:
        interval = info.data.get("engines_interval_seconds")
        if interval is not None and value < 2 * interval:
            raise ValueError(f"must hold at least two engine intervals of {interval:g} s")
        return value

    @field_validator("engines")
    @classmethod
    def _each_once(cls, value: tuple[Engine, ...]) -> tuple[Engine, ...]:
        seen: set[str] = set()
        for engine in value:
            server = server_of(engine.url)
            if server in seen:
                raise ValueError(f"{server} is listed twice")
            seen.add(server)
        return value


class _RefusedError(yaml.MarkedYAMLError):
    """YAML it is, but not what a configuration can mean."""


class _StrictLoader(yaml.SafeLoader):
    """Refuses a key given twice: only one of the two would count."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        seen = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                raise _RefusedError(problem="a key must be a word", problem_mark=key.start_mark)
            if key.value in seen:
                raise _RefusedError(problem=f"{key.value} is given twice", problem_mark=key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep=deep)

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep=deep)
        except ValueError as error:  # of a date that is none
            raise _RefusedError(problem=str(error), problem_mark=node.start_mark) from None


def load_configuration(path: Path | None) -> Configuration:
    """The configuration in that file, or the defaults without one.

    Raises `ConfigurationError` with every problem found.
    """
    if path is None:
        return Configuration()
    return parse_configuration(_read(path), origin=str(path))


def parse_configuration(text: str, *, origin: str) -> Configuration:
    """The configuration in that YAML text; `origin` stands before each problem."""
    return _parse(text, _SECTIONS, Configuration, origin=origin, example="interval_seconds: 1")


def load_web_configuration(path: Path) -> WebConfiguration:
    """What the file says that `web.config_file` names; the certificates that it names in turn are tried.

    Raises `ConfigurationError` with every problem found.
    """
    # Here, since few have such a file, and who has none need not hold its types in memory.
    from agent.exposition.tls import load_tls
    from agent.exposition.web_config import WEB_SECTIONS, WebConfiguration

    web = _parse(
        _read(path), WEB_SECTIONS, WebConfiguration, origin=str(path), example="basic_auth_users: {alice: …}"
    )
    if web.tls is not None:
        load_tls(web.tls, path)
    return web


def _read(path: Path) -> str:
    try:
        return path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        reason = error.strerror if isinstance(error, OSError) else "not UTF-8 text"
        raise ConfigurationError(str(path), (f"cannot be read: {reason}",)) from None


_Document = TypeVar("_Document", bound=BaseModel)


def _parse(
    text: str, sections: Sequence[type[BaseModel]], whole: type[_Document], *, origin: str, example: str
) -> _Document:
    """The YAML text as `whole`; `sections` are all the types whose keys may have been meant."""
    try:
        document = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - it is a safe loader, and stricter
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
        problem = getattr(error, "problem", None) or "cannot be read"
        raise ConfigurationError(
            origin, (f"{place}{'' if isinstance(error, _RefusedError) else 'not YAML: '}{problem}",)
        ) from None
    except RecursionError:
        raise ConfigurationError(origin, ("is nested too deeply",)) from None
    if document is None:
        document = {}
    if not isinstance(document, dict):
        raise ConfigurationError(origin, (f"must be a mapping of keys, such as {example}",))
    try:
        return whole.model_validate(document)
    except ValidationError as error:
        known = {field.alias or name for section in sections for name, field in section.model_fields.items()}
        raise ConfigurationError(
            origin, tuple(_explain(problem, known) for problem in error.errors())
        ) from None


def _errors_within(error: ConfigurationError) -> ValidationError:
    """The problems of a file that a key names, each as a problem of that key."""
    return ValidationError.from_exception_data(
        error.origin,
        [
            InitErrorDetails(
                type="value_error", ctx={"error": ValueError(f"in {error.origin}: {problem}")}, input=None
            )
            for problem in error.problems
        ],
    )


def _explain(problem: Any, known: Collection[str]) -> str:
    location: tuple[int | str, ...] = problem["loc"]
    # A union reports once for each of its members, named after them: the path ends before that.
    path = ".".join(str(step) for step in location if step not in ("int", "str", "[key]"))
    if problem["type"] == "extra_forbidden":
        return f"{path}: unknown key{_suggest(location, known)}"
    message = problem["msg"].removeprefix("Value error, ").removeprefix("Input should be ")
    if not problem["msg"].startswith(("Value error", "Field required")):
        message = f"must be {message}"
    return f"{path or 'configuration'}: {message[0].lower()}{message[1:]}"


def _suggest(location: tuple[int | str, ...], known: Collection[str]) -> str:
    near = difflib.get_close_matches(str(location[-1]), known, n=1)
    return f"; did you mean {near[0]}?" if near else ""


_SECTIONS: tuple[type[Section], ...] = (
    Configuration,
    Web,
    Log,
    Nvml,
    Dcgm,
    DiscoverySettings,
    ProcessDiscovery,
    KubernetesDiscovery,
    PodCredentials,
    PodResources,
    Engine,
    Model,
    Price,
    RoofOverride,
    Slo,
)


def redacted(configuration: Configuration) -> dict[str, Any]:
    """The configuration as a person may see it: secrets and query strings are hidden."""
    shown = configuration.model_dump(mode="json", by_alias=True)
    for section in (*shown["engines"], shown["dcgm"]):
        parts = urlsplit(section["url"])
        if parts.query:
            section["url"] = parts._replace(query="**********").geturl()
    return shown
