"""What a serving process was told: its command line and environment, as the engine itself reads them.

Pure. The one thing to know: each engine is one `Dialect`, a table of flags and variables by the fields
they fill. What stands in no table is never taken, so keys and tokens cannot get into the result; what
is there and cannot be meant (a port of 99999, −3 ranks) counts as not said.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile

from agent.labels import label_text
from agent.readings import ModelFacts

MAX_TEXT = 4096
"""Characters of a name or a path; whatever is longer is neither."""
MAX_NAMES = 16
"""Under which a model is served."""
MAX_RANKS = 4096
MAX_COUNT = 10**9
MAX_PORT = 65535


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerArguments:
    """How a server was started; `None` where it was not told."""

    engine: str
    port: int | None
    """Of its page of metrics, told or its engine's default; `None`: without being told it has no page."""
    only_there: bool = False
    """It has its page on that port or nowhere; else a file that is not read may name another."""
    host: str | None = None
    uds: str | None = None
    """The Unix socket on which it serves instead of a port."""
    tls: bool = False
    page_path: str = "/metrics"
    facts: ModelFacts = field(default_factory=ModelFacts)
    config_path: str | None = None
    """Where the model's ``config.json`` is, if not beside its weights."""
    download_dir: str | None = None
    arguments_file: str | None = None
    """Of more arguments, which are not read: what this does not say may stand there."""
    headless: bool = False
    """It computes for a server on another node and answers nobody."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Dialect:
    """How one engine is told what to do. Fields are named in `FIELDS`."""

    engine: str
    """As its `EngineDefinition` is called."""
    commands: tuple[tuple[str, ...], ...]
    """Program or Python module, and the words after it."""
    other_commands: frozenset[str] = frozenset()
    """Words that, coming next, make it start something else."""
    port: int | None
    """By default."""
    options: Mapping[str, str]
    """Flags with a value, and the fields they fill."""
    several: frozenset[str] = frozenset()
    """Those of them that take all the words up to the next flag."""
    switches: Mapping[str, str] = field(default_factory=dict)
    """Flags without a value."""
    variables: Mapping[str, str] = field(default_factory=dict)
    """Of the environment; they count where the command line does not say it."""
    bare: str | None = None
    """The field that a word without a flag fills."""
    defaults: Mapping[str, int] = field(default_factory=dict)
    """What it means to say nothing."""
    wordings: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """By field: its own words for what others call otherwise."""
    page_path: str = "/metrics"
    batch_of_all_ranks: bool = False
    """`max_num_seqs` is of all data-parallel ranks together."""
    context_of_all_slots: bool = False
    """`max_model_len` is divided among the sequences, unless `shared_context`."""


FIELDS = frozenset(
    {
        *("host", "port", "uds", "tls", "page_prefix", "headless", "arguments_file"),
        *("model", "revision", "served_names", "config_path", "download_dir"),
        *("weight_dtype", "quantization", "kv_dtype"),
        *("tensor_parallel", "pipeline_parallel", "data_parallel", "expert_parallel", "deals_experts"),
        *("max_num_seqs", "max_model_len", "shared_context"),
    }
)


def _flags(table: Mapping[str, str]) -> dict[str, str]:
    """From "--long -s" → field to flag → field."""
    return {flag: name for flags, name in table.items() for flag in flags.split()}


# --- the engines ---------------------------------------------------------------------------------

ONE_RANK = {"tensor_parallel": 1, "pipeline_parallel": 1, "data_parallel": 1}

_VLLM_MODEL_OPTIONS = _flags(
    {
        "--model": "model",
        "--revision": "revision",
        "--served-model-name": "served_names",
        "--hf-config-path": "config_path",
        "--download-dir": "download_dir",
        "--dtype": "weight_dtype",
        "--quantization -q": "quantization",
        "--kv-cache-dtype": "kv_dtype",
        "--tensor-parallel-size -tp": "tensor_parallel",
        "--pipeline-parallel-size -pp": "pipeline_parallel",
        "--data-parallel-size -dp": "data_parallel",
        "--max-num-seqs": "max_num_seqs",
        "--max-model-len": "max_model_len",
        "--config": "arguments_file",
    }
)
_VLLM_SWITCHES = _flags({"--enable-expert-parallel -ep": "deals_experts", "--headless": "headless"})

VLLM = Dialect(
    engine="vllm",
    commands=(
        ("vllm", "serve"),
        ("vllm.entrypoints.cli.main", "serve"),
        ("vllm.entrypoints.openai.api_server",),
    ),
    port=8000,
    # Not --root-path: a proxy takes that off, and asked directly the server answers without it too.
    # Nor VLLM_PORT: the first of its internal ports.
    options=_VLLM_MODEL_OPTIONS
    | _flags({"--host": "host", "--port": "port", "--uds": "uds", "--ssl-keyfile": "tls"}),
    several=frozenset({"--served-model-name"}),
    switches=_VLLM_SWITCHES,
    bare="model",
    defaults=ONE_RANK,
)

_SGLANG_MODEL_OPTIONS = _flags(
    {
        "--model-path --model": "model",
        "--revision": "revision",
        "--served-model-name": "served_names",
        "--download-dir": "download_dir",
        "--dtype": "weight_dtype",
        "--quantization": "quantization",
        "--kv-cache-dtype": "kv_dtype",
        "--tensor-parallel-size --tp-size --tp": "tensor_parallel",
        "--pipeline-parallel-size --pp-size --pp": "pipeline_parallel",
        "--data-parallel-size --dp-size --dp": "data_parallel",
        "--expert-parallel-size --ep-size --ep": "expert_parallel",
        "--max-running-requests": "max_num_seqs",
        "--context-length": "max_model_len",
        "--config": "arguments_file",
    }
)

SGLANG = Dialect(
    engine="sglang",
    commands=(("sglang.launch_server",), ("sglang", "serve"), ("sglang.cli.main", "serve")),
    port=30000,
    options=_SGLANG_MODEL_OPTIONS | _flags({"--host": "host", "--port": "port", "--ssl-keyfile": "tls"}),
    bare="model",
    defaults=ONE_RANK | {"expert_parallel": 1},
    batch_of_all_ranks=True,
)

TGI = Dialect(
    engine="tgi",
    commands=(("text-generation-launcher",), ("text-generation-router",)),
    port=3000,
    options=_flags(
        {
            "--hostname": "host",
            "--port -p": "port",
            "--model-id --tokenizer-name": "model",
            "--revision": "revision",
            "--served-model-name": "served_names",
            "--huggingface-hub-cache": "download_dir",
            "--dtype": "weight_dtype",
            "--quantize": "quantization",
            "--kv-cache-dtype": "kv_dtype",
            "--num-shard": "tensor_parallel",
            "--max-batch-size": "max_num_seqs",
            "--max-total-tokens": "max_model_len",
        }
    ),
    variables={
        "PORT": "port",
        "MODEL_ID": "model",
        "REVISION": "revision",
        "DTYPE": "weight_dtype",
        "QUANTIZE": "quantization",
        "KV_CACHE_DTYPE": "kv_dtype",
        "NUM_SHARD": "tensor_parallel",
        "MAX_BATCH_SIZE": "max_num_seqs",
        "MAX_TOTAL_TOKENS": "max_model_len",
    },
)

_TRTLLM_MODEL_OPTIONS = _flags(
    {
        "--revision": "revision",
        "--served-model-name": "served_names",
        "--kv-cache-dtype": "kv_dtype",
        "--tensor-parallel-size --tp-size": "tensor_parallel",
        "--pipeline-parallel-size --pp-size": "pipeline_parallel",
        "--moe-expert-parallel-size --ep-size": "expert_parallel",
        "--max-batch-size": "max_num_seqs",
        "--max-seq-len": "max_model_len",
        "--extra-llm-api-options --config --extra-engine-args": "arguments_file",
    }
)

TRTLLM = Dialect(
    engine="trtllm",
    commands=(("trtllm-serve", "serve"), ("trtllm-serve",)),
    other_commands=frozenset({"disaggregated", "disaggregated_mpi_worker", "mm_embedding_serve"}),
    port=8000,
    options=_TRTLLM_MODEL_OPTIONS | _flags({"--host": "host", "--port": "port"}),
    bare="model",
    defaults={"tensor_parallel": 1, "pipeline_parallel": 1},
    page_path="/prometheus/metrics",
)

TRITON = Dialect(
    engine="triton",
    commands=(("tritonserver",),),
    port=8002,
    # Its repository may hold many models, so it is none of them.
    options=_flags({"--metrics-port": "port", "--metrics-address": "host"}),
)

LLAMACPP = Dialect(
    engine="llamacpp",
    commands=(("llama-server",),),
    port=8080,
    options=_flags(
        {
            "--host": "host",
            "--port": "port",
            "--ssl-key-file": "tls",
            "--api-prefix": "page_prefix",
            "--model -m": "model",
            "--alias -a": "served_names",
            "--cache-type-k -ctk": "kv_dtype",
            "--parallel -np": "max_num_seqs",
            "--ctx-size -c": "max_model_len",
        }
    ),
    switches=_flags({"--kv-unified -kvu": "shared_context"}),
    variables={
        "LLAMA_ARG_HOST": "host",
        "LLAMA_ARG_PORT": "port",
        "LLAMA_ARG_SSL_KEY_FILE": "tls",
        "LLAMA_ARG_API_PREFIX": "page_prefix",
        "LLAMA_ARG_MODEL": "model",
        "LLAMA_ARG_ALIAS": "served_names",
        "LLAMA_ARG_CACHE_TYPE_K": "kv_dtype",
        "LLAMA_ARG_N_PARALLEL": "max_num_seqs",
        "LLAMA_ARG_CTX_SIZE": "max_model_len",
        "LLAMA_ARG_KV_UNIFIED": "shared_context",
    },
    wordings={"kv_dtype": {"f16": "fp16", "f32": "fp32", "q8_0": "int8", "q4_0": "int4"}},
    context_of_all_slots=True,
)

LMDEPLOY = Dialect(
    engine="lmdeploy",
    commands=(("lmdeploy", "serve", "api_server"), ("lmdeploy.serve.openai.api_server",)),
    port=23333,
    options=_flags(
        {
            "--server-name": "host",
            "--server-port": "port",
            "--model-name": "served_names",
            "--revision": "revision",
            "--download-dir": "download_dir",
            "--dtype": "weight_dtype",
            "--model-format": "quantization",
            "--quant-policy": "kv_dtype",
            "--tp": "tensor_parallel",
            "--dp": "data_parallel",
            "--ep": "expert_parallel",
            "--max-batch-size": "max_num_seqs",
            "--session-len": "max_model_len",
        }
    ),
    switches={"--ssl": "tls"},
    bare="model",
    defaults={"tensor_parallel": 1, "data_parallel": 1},
    wordings={
        "kv_dtype": {"0": "auto", "4": "int4", "8": "int8"},
        "quantization": {"hf": "none", "llama": "none"},
    },
)

# A worker has a page only where its environment names a port.
_DYNAMO_PORT = {"DYN_SYSTEM_PORT": "port", "DYN_SYSTEM_HOST": "host"}

DYNAMO = (
    Dialect(
        engine="dynamo",
        commands=(("dynamo.vllm",),),
        port=None,
        options=_VLLM_MODEL_OPTIONS,
        several=frozenset({"--served-model-name"}),
        switches=_VLLM_SWITCHES,
        variables=_DYNAMO_PORT,
        defaults=ONE_RANK,
    ),
    Dialect(
        engine="dynamo",
        commands=(("dynamo.sglang",),),
        port=None,
        options=_SGLANG_MODEL_OPTIONS,
        variables=_DYNAMO_PORT,
        defaults=ONE_RANK | {"expert_parallel": 1},
        batch_of_all_ranks=True,
    ),
    Dialect(
        engine="dynamo",
        commands=(("dynamo.trtllm",),),
        port=None,
        options=_TRTLLM_MODEL_OPTIONS | {"--model-path": "model", "--model": "model"},
        variables=_DYNAMO_PORT,
    ),
)

RAY = Dialect(
    engine="ray",
    # The node's manager: it was told the port of the one page, and all workers are its children.
    commands=(("raylet",),),
    port=None,
    options={"--metrics-export-port": "port", "--node-ip-address": "host"},
)

DIALECTS: tuple[Dialect, ...] = (
    *(VLLM, SGLANG, TGI, TRTLLM, TRITON, LLAMACPP, LMDEPLOY),
    *DYNAMO,
    RAY,
)

COMMANDS: Mapping[str, Sequence[tuple[tuple[str, ...], Dialect]]] = {
    name: [(words, dialect) for dialect in DIALECTS for words in dialect.commands if words[0] == name]
    for name in {words[0] for dialect in DIALECTS for words in dialect.commands}
}
"""All commands, by their first word."""

VARIABLES: frozenset[str] = frozenset[str]().union(*(dialect.variables for dialect in DIALECTS))
"""All that is looked at of a server's environment to know what it was told."""


# --- from bytes to words -------------------------------------------------------------------------


def parse_command_line(data: bytes) -> tuple[str, ...]:
    """The words of ``/proc/PID/cmdline``.

    A process that has given itself a title has that for its first word, and blanks after it.
    """
    words = data.decode("utf-8", "replace").split("\0")
    while words and not words[-1].strip():
        words.pop()
    return tuple(words)


def parse_environment(data: bytes, wanted: frozenset[str] = VARIABLES) -> dict[str, str]:
    """The wanted variables of ``/proc/PID/environ``; no other is kept."""
    pairs = (line.partition("=") for line in data.decode("utf-8", "replace").split("\0"))
    return {name: value for name, equals, value in pairs if equals and name in wanted}


# --- from words to arguments ---------------------------------------------------------------------


def parse_arguments(argv: Sequence[str], environ: Mapping[str, str] | None = None) -> ServerArguments | None:
    """What this command line tells a serving engine; `None` if it starts none that is known."""
    command = unwrap(argv)
    if not command:
        return None
    for name in _names(command[0]):
        for words, dialect in COMMANDS.get(name, ()):
            rest = command[len(words) :]
            if tuple(command[1 : len(words)]) == words[1:] and not dialect.other_commands.intersection(
                rest[:1]
            ):
                return _interpret(dialect, rest, environ or {})
    return None


INTERPRETER = re.compile(r"(python|pypy)[0-9.]*t?")
INTERPRETER_OPTIONS_WITH_VALUE = ("-X", "-W", "--check-hash-based-pycs")
WRAPPERS = frozenset({"env", "tini", "tini-static", "docker-init", "dumb-init", "catatonit", "nohup"})
ASSIGNMENT = re.compile(r"\w+=")


def unwrap(argv: Sequence[str]) -> Sequence[str]:
    """The command without what it is run by: its first word is a program, a script or a Python module.

    Empty if what it runs does not stand in a word of its own, as with ``bash -c`` and ``python -c``.
    """
    words = list(argv)
    while words and _base_name(words[0]) in WRAPPERS:
        options = len(list(takewhile(lambda word: word[:1] == "-" or ASSIGNMENT.match(word), words[1:])))
        words = words[1 + options :]
    if not words or not INTERPRETER.fullmatch(_base_name(words[0])):
        return words
    rest = iter(words[1:])
    for word in rest:
        if word == "-m":
            return list(rest)
        if word == "-c":
            return []
        if word in INTERPRETER_OPTIONS_WITH_VALUE:
            next(rest, None)
        elif not word.startswith("-"):
            return [word, *rest]
    return []


def _base_name(path: str) -> str:
    return path.rsplit("/", 1)[-1]


def _names(word: str) -> Iterator[str]:
    """What a program or module may be called that is reached by this word."""
    yield word
    yield _base_name(word)
    if word.endswith(".py"):  # a module that is run by its file
        *_, fourth, third, second, first = ("", "", "", *word.removesuffix(".py").split("/"))
        yield f"{second}.{first}"
        yield f"{third}.{second}.{first}"
        yield f"{fourth}.{third}.{second}.{first}"


def _interpret(dialect: Dialect, words: Sequence[str], environ: Mapping[str, str]) -> ServerArguments:
    from_environment = {
        name: (environ[variable],) for variable, name in dialect.variables.items() if environ.get(variable)
    }
    said = _Said(dialect, from_environment | _scan(dialect, words))
    host, uds = said.text("host"), said.text("uds")
    if host is not None and host.endswith(".sock"):  # llama.cpp's way to name a socket
        host, uds = None, host
    port, arguments_file = said.number("port", MAX_PORT), said.text("arguments_file")
    return ServerArguments(
        engine=dialect.engine,
        port=port or dialect.port,
        only_there=port is not None or arguments_file is None or dialect.port is None,
        host=host,
        uds=uds,
        tls=said.given("tls"),
        page_path=_page_prefix(said) + dialect.page_path,
        facts=_facts(dialect, said),
        config_path=said.text("config_path"),
        download_dir=said.text("download_dir"),
        arguments_file=arguments_file,
        headless=said.given("headless"),
    )


PAGE_PREFIX = re.compile(r"(/[\w.~-]+)+")


def _page_prefix(said: _Said) -> str:
    prefix = (said.text("page_prefix") or "").rstrip("/")
    return prefix if PAGE_PREFIX.fullmatch(prefix) else ""


def _facts(dialect: Dialect, said: _Said) -> ModelFacts:
    def ranks(name: str) -> int | None:
        silence = None if said.text("arguments_file") else dialect.defaults.get(name)
        return said.number(name, MAX_RANKS) or silence

    tensor, data = ranks("tensor_parallel"), ranks("data_parallel")
    dealt = tensor * data if said.given("deals_experts") and tensor and data else None
    sequences = said.number("max_num_seqs", MAX_COUNT)
    return ModelFacts(
        path=said.text("model"),
        revision=said.text("revision"),
        served_names=said.texts("served_names"),
        weight_dtype=said.choice("quantization") or said.choice("weight_dtype"),
        kv_dtype=said.text("kv_dtype"),
        tensor_parallel=tensor,
        pipeline_parallel=ranks("pipeline_parallel"),
        data_parallel=data,
        expert_parallel=dealt or ranks("expert_parallel"),
        max_num_seqs=None if dialect.batch_of_all_ranks and data != 1 else sequences,
        max_model_len=_longest(dialect, said, sequences),
    )


def _longest(dialect: Dialect, said: _Said, sequences: int | None) -> int | None:
    """The most tokens of one sequence."""
    told = said.number("max_model_len", MAX_COUNT)
    if told is None or not dialect.context_of_all_slots or said.given("shared_context"):
        return told
    # With no number of slots the engine chooses one, and then they share.
    return told // (sequences or 1) or None


# --- the scan ------------------------------------------------------------------------------------


def _scan(dialect: Dialect, words: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """What is said of which field, the last word of it counting."""
    said: dict[str, tuple[str, ...]] = {}
    position = 0
    # A bare word after a flag that is not known may be its value.
    may_be_bare = True
    while position < len(words):
        flag, equals, value = _flag(words[position])
        position += 1
        if not flag:
            if may_be_bare and dialect.bare is not None:
                said.setdefault(dialect.bare, (value,))
        elif flag in dialect.options:
            values = (value,) if equals else tuple(_values(words, position, several=flag in dialect.several))
            position += 0 if equals else len(values)
            if values:
                said[dialect.options[flag]] = values
            may_be_bare = True
        elif flag in dialect.switches and not equals:
            said[dialect.switches[flag]] = ("on",)
            may_be_bare = True
        elif _denied(flag) in dialect.switches:
            said.pop(dialect.switches[_denied(flag)], None)
            may_be_bare = True
        else:
            may_be_bare = False
    return said


def _flag(word: str) -> tuple[str, str, str]:
    """A flag, "=" if its value stands with it, and the value; of any other word only that."""
    if len(word) < 2 or word[0] != "-" or word == "--":
        return "", "", word
    flag, equals, value = word.partition("=")
    # Most engines take an underscore for a hyphen.
    return (flag.replace("_", "-") if flag.startswith("--") else flag), equals, value


def _denied(flag: str) -> str:
    """The flag that this one takes back."""
    return f"--{flag.removeprefix('--no-')}" if flag.startswith("--no-") else ""


def _values(words: Sequence[str], position: int, *, several: bool) -> Iterator[str]:
    """The words after a flag that are its value. What starts with one hyphen may be a number."""
    for number, word in enumerate(words[position:]):
        if word.startswith("--") or (number and (word.startswith("-") or not several)):
            return
        yield word


# --- from words to values ------------------------------------------------------------------------

NUMBER = re.compile(r"([0-9]{1,12})([kmgKMG]?)")
FACTORS = {"": 1, "k": 10**3, "m": 10**6, "g": 10**9, "K": 2**10, "M": 2**20, "G": 2**30}
NO_CHOICE = frozenset({"auto", "none", "null"})
OFF = frozenset({"", "0", "false", "off", "no"})


@dataclass(frozen=True, slots=True)
class _Said:
    """The words for each field, and what can be meant by them."""

    dialect: Dialect
    words: Mapping[str, tuple[str, ...]]

    def texts(self, name: str) -> tuple[str, ...]:
        """The names given, fit for labels."""
        return tuple(label_text(word) for word in self.words.get(name, ()) if _is_text(word))[:MAX_NAMES]

    def text(self, name: str) -> str | None:
        """The text given."""
        word = self._last(name)
        return word if _is_text(word) else None

    def choice(self, name: str) -> str | None:
        """The text, unless it leaves the choice to the engine."""
        text = self.text(name)
        return None if text is None or text.lower() in NO_CHOICE else text

    def number(self, name: str, most: int) -> int | None:
        """The number given, 1 to `most`."""
        match = NUMBER.fullmatch(self._last(name))
        value = int(match[1]) * FACTORS[match[2]] if match else 0
        return value if 1 <= value <= most else None

    def given(self, name: str) -> bool:
        """Whether it is on, or there is something to be used."""
        return self._last(name).lower() not in OFF

    def _last(self, name: str) -> str:
        word = self.words.get(name, ("",))[-1]
        return self.dialect.wordings.get(name, {}).get(word, word)


def _is_text(word: str) -> bool:
    # A URL with a user in it has most likely a password there too.
    return 0 < len(word) <= MAX_TEXT and word.isprintable() and not ("://" in word and "@" in word)
