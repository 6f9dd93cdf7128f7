"""A real vLLM server on this CPU, with a small random model, started and killed at will."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
from pathlib import Path

import requests

from tests.e2e.agent_process import Page, free_port, wait_until
from tests.e2e.vllm_models import MAX_MODEL_LEN, TOKENIZER, TinyModel

VLLM_DIR = Path(os.environ.get("VLLM_DIR", Path(__file__).parents[2] / ".venv-vllm")).absolute()
"""Where ``install_vllm.sh`` put it."""
START_SECONDS = 180.0
BLOCK_TOKENS = 128
"""Of its KV cache on a CPU."""

SERVED_NAME = "tiny"


class VllmServer:
    """One server on one port; `directory` takes its model, its log and its sockets, so its path is short."""

    def __init__(self, directory: Path, model: TinyModel, *flags: str) -> None:
        self._flags = flags
        self._log = directory / "vllm.log"
        self._process: subprocess.Popen[bytes] | None = None
        self._model = directory / "model"
        self._model.mkdir()
        for name, content in (
            ("config.json", model.config()),
            ("tokenizer.json", TOKENIZER),
            ("tokenizer_config.json", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ):
            (self._model / name).write_text(json.dumps(content))
        self._port = free_port()
        self._environment = {
            **os.environ,
            "HF_HUB_OFFLINE": "1",
            "VLLM_NO_USAGE_STATS": "1",
            "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB
            # One core computes. With all of them taken its front end falls behind, and then it answers
            # no scrape until the last request has ended.
            "OMP_NUM_THREADS": "1",
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
            "TMPDIR": str(directory),
        }

    @property
    def url(self) -> str:
        """Where it answers."""
        return f"http://127.0.0.1:{self._port}"

    @property
    def address(self) -> str:
        """Host and port."""
        return f"127.0.0.1:{self._port}"

    @property
    def pid(self) -> int:
        """Of its front end, which serves HTTP."""
        assert self._process is not None, "it does not run"
        return self._process.pid

    def move(self) -> None:
        """Answer at another port from the next start on."""
        self._port = free_port()

    @property
    def config_json(self) -> Path:
        """Of the model that it serves."""
        return self._model / "config.json"

    def page(self) -> Page:
        """Its metrics."""
        return Page(f"{self.url}/metrics")

    def start(self) -> None:
        """Start it, and wait until it answers."""
        command = [
            *(str(VLLM_DIR / "bin" / "vllm"), "serve", str(self._model)),
            *("--host", "127.0.0.1", "--port", str(self._port)),
            *("--served-model-name", SERVED_NAME),
            *("--load-format", "dummy"),
            *("--dtype", "bfloat16"),
            *("--max-model-len", str(MAX_MODEL_LEN)),
            *("--max-num-seqs", "16"),
            # Enough for all prompts that can come at once, so that none is cut into chunks: what vLLM
            # counts for a prompt's attention depends on where it was cut, and no client knows that.
            *("--max-num-batched-tokens", str(4 * MAX_MODEL_LEN)),
            "--enforce-eager",  # spares the minute that compiling takes
            "--enable-mfu-metrics",
            "--enable-prompt-tokens-details",  # `usage` says how much of a prompt was cached
            *self._flags,
        ]
        with self._log.open("ab") as log:
            self._process = subprocess.Popen(
                command,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,  # a group of its own, with its workers, to be killed as one
            )
        wait_until(self._is_ready, "vLLM did not get ready", seconds=START_SECONDS)

    def _is_ready(self) -> bool:
        assert self._process is not None
        if self._process.poll() is not None:
            raise RuntimeError(f"vLLM ended; the end of its log:\n{self._log.read_text()[-3000:]}")
        try:
            return requests.get(f"{self.url}/health", timeout=5).ok
        except requests.ConnectionError:
            return False  # the port opens late

    def kill(self) -> None:
        """End it and all its workers at once, without a chance to say goodbye."""
        if self._process is None:
            return
        left_behind = _shared_memory(self._process.pid)
        os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        self._process = None
        for segment in left_behind:
            segment.unlink(missing_ok=True)


def _shared_memory(group: int) -> set[Path]:
    """The shared memory of a group of processes: hundreds of MB that stay when it is killed."""
    segments: set[Path] = set()
    for process in Path("/proc").glob("[0-9]*"):
        try:
            if os.getpgid(int(process.name)) == group:
                maps = (process / "maps").read_text()
                segments.update(map(Path, re.findall(r"/dev/shm/psm_\w+", maps)))
        except OSError:
            continue  # it has just ended
    return segments
