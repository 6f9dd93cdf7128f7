"""Models where engines keep them, and links that lead elsewhere."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.discovery.model_config import FoundConfig, find_model_config, hold
from tests.discovery.proc_tree import as_stranger, shared_directory

COMMIT = "0123456789abcdef0123456789abcdef01234567"
CONFIG = {"model_type": "llama", "hidden_size": 64}
SECRET = {"secret": "of the host"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """The root of a process."""
    (tmp_path / "root").mkdir()
    return tmp_path / "root"


def write(path: Path, document: object = CONFIG) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document))


def write_cache(cache: Path, name: str, *, revision: str = "main", document: object = CONFIG) -> Path:
    """A model in a cache as Hugging Face lays it out; its directory there."""
    repository = cache / f"models--{name.replace('/', '--')}"
    write(repository / "blobs" / "b10b", document)
    snapshot = repository / "snapshots" / COMMIT
    snapshot.mkdir(parents=True)
    (snapshot / "config.json").symlink_to("../../blobs/b10b")
    reference = repository / "refs" / revision
    reference.parent.mkdir(parents=True, exist_ok=True)
    reference.write_text(COMMIT)
    return repository


def find(root: Path, path: str, **given: object) -> FoundConfig:
    arguments = {"cwd": "/srv", "environ": {"HOME": "/home/me"}, **given}
    return find_model_config(path, root=root, **arguments)  # type: ignore[arg-type]


# --- where it is ---------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/models/m", "../models/m", "m", "./m/", "/srv/../models/./m"])
def test_a_directory_is_found_from_where_the_process_is(root: Path, path: str) -> None:
    write(root / "models/m/config.json")
    write(root / "srv/m/config.json")
    assert find(root, path) == FoundConfig(config=CONFIG)


@pytest.mark.parametrize(
    ("environ", "cache"),
    [
        ({"HF_HUB_CACHE": "/c", "HF_HOME": "/h", "HOME": "/home/me"}, "c"),
        ({"HUGGINGFACE_HUB_CACHE": "/data", "HOME": "/home/me"}, "data"),
        ({"HF_HOME": "/h", "XDG_CACHE_HOME": "/x", "HOME": "/home/me"}, "h/hub"),
        ({"HF_HOME": "~/hf", "HOME": "/home/me"}, "home/me/hf/hub"),
        ({"HF_HOME": "hf"}, "srv/hf/hub"),
        ({"XDG_CACHE_HOME": "/x", "HOME": "/home/me"}, "x/huggingface/hub"),
        ({"HF_HOME": "", "HOME": "/home/me"}, "home/me/.cache/huggingface/hub"),
    ],
)
def test_a_cache_is_where_the_engines_environment_places_it(
    root: Path, environ: dict[str, str], cache: str
) -> None:
    write_cache(root / cache, "org/model")
    assert find(root, "org/model", environ=environ).config == CONFIG


def test_a_told_directory_comes_before_the_cache_and_the_cache_after_it(root: Path) -> None:
    write_cache(root / "home/me/.cache/huggingface/hub", "org/model")
    assert find(root, "org/model", download_dir="/told").config == CONFIG
    write_cache(root / "told", "org/model", document={"told": 1})
    assert find(root, "org/model", download_dir="/told").config == {"told": 1}
    assert find(root, "org/model", download_dir="/told", environ=None).config == {"told": 1}


def test_a_directory_of_that_name_comes_before_the_hub(root: Path) -> None:
    write_cache(root / "home/me/.cache/huggingface/hub", "org/model")
    write(root / "srv/org/model/config.json", {"here": 1})
    assert find(root, "org/model").config == {"here": 1}


@pytest.mark.parametrize("revision", ["v1.0", "refs/pr/7", COMMIT])
def test_a_revision_is_the_one_that_was_told(root: Path, revision: str) -> None:
    write_cache(root / "home/me/.cache/huggingface/hub", "org/model", revision=revision)
    assert find(root, "org/model", revision=revision).config == CONFIG
    assert find(root, "org/model", revision="other").config is None


@pytest.mark.parametrize("revision", ["../b", "../../b", "v/../../../b", "..", "a b"])
def test_what_is_no_revision_opens_nothing(root: Path, revision: str) -> None:
    cache = root / "home/me/.cache/huggingface/hub"
    repository = write_cache(cache, "org/model", revision="v/1")
    for place in (cache / "b", repository / "b"):
        place.write_text(COMMIT)
    assert find(root, "org/model", revision="v/1").config == CONFIG
    assert find(root, "org/model", revision=revision).config is None


def test_a_link_to_the_snapshot_is_followed_within_the_root(root: Path) -> None:
    write(root / "data/models/m/config.json")
    (root / "models").symlink_to("/data/models")
    (root / "mnt").symlink_to("../../../../data")
    (root / "srv").mkdir()
    (root / "srv/here").symlink_to("/data/models/m")
    assert find(root, "./here").config == CONFIG
    assert find(root, "/models/m").config == CONFIG
    assert find(root, "/mnt/models/m").config == CONFIG


def test_a_model_of_one_file_is_read_by_the_loader_of_its_suffix(root: Path) -> None:
    (root / "srv").mkdir()
    (root / "srv/m.gguf").write_bytes(b"GGUF")
    found = find(root, "m.gguf", loaders={".gguf": lambda file: {"magic": file.read_bytes().decode()}})
    assert found.config == {"magic": "GGUF"}
    assert find(root, "m.gguf") == FoundConfig()
    assert "its model file" in problem(find(root, "other.gguf", loaders={".gguf": lambda _: {}}))


# --- why it is not -------------------------------------------------------------------------------


def problem(found: FoundConfig) -> str:
    assert found.config is None
    assert found.problem is not None
    return found.problem


def test_it_is_said_what_is_missing(root: Path) -> None:
    assert "nor in its cache" in problem(find(root, "org/model"))
    assert "environment" in problem(find(root, "org/model", environ=None))
    assert "working directory" in problem(find(root, "./m", cwd=None))
    assert "nor in its cache" in problem(find(root, "/nowhere"))


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"secret words", "not JSON"),
        (b"\xff\xfe secret", "not JSON"),
        (b'["secret"]', "not a JSON object"),
        (b"[" * 100_000, "nested too deeply"),
        (b'{"secret": "' + b" " * 2**20 + b'"}', "larger than 1 MiB"),
    ],
)
def test_what_is_no_config_is_named_and_not_quoted(root: Path, content: bytes, words: str) -> None:
    (root / "m").mkdir()
    (root / "m/config.json").write_bytes(content)
    found = problem(find(root, "/m"))
    assert words in found
    assert "secret" not in found


def test_only_a_regular_file_is_opened(root: Path) -> None:
    for name, make in (("pipe", os.mkfifo), ("directory", os.mkdir)):
        (root / name).mkdir()
        make(root / name / "config.json")
        assert "not a regular file" in problem(find(root, f"/{name}"))
    (root / "device").mkdir()
    (root / "device/config.json").symlink_to("/dev/zero")
    assert problem(find(root, "/device"))


def test_links_that_go_round_end(root: Path) -> None:
    (root / "m").mkdir()
    (root / "m/config.json").symlink_to("config.json")
    assert "cannot be read" in problem(find(root, "/m"))
    (root / "a").symlink_to("a/a/a")
    assert "cannot be read" in problem(find(root, "/a"))
    assert "cannot be read" in problem(find(root, "/" + "m/../" * 2000))


def test_what_may_not_be_read_is_said() -> None:
    with shared_directory() as root:
        write(root / "m/config.json")
        (root / "m/config.json").chmod(0)
        with as_stranger():
            assert "Permission denied" in problem(find(root, "/m"))


# --- what leads out ------------------------------------------------------------------------------


def test_no_link_leads_out_of_the_root(root: Path) -> None:
    outside = root.parent / "outside"
    write(outside / "config.json", SECRET)
    (root / "absolute").symlink_to(outside)
    (root / "relative").symlink_to("../outside")
    (root / "file").mkdir()
    (root / "file/config.json").symlink_to(outside / "config.json")
    for path in ("/absolute", "/relative", "/file", "/../outside", str(outside)):
        assert find(root, path).config is None


def test_a_cache_that_links_out_of_the_root_is_not_followed(root: Path) -> None:
    repository = write_cache(root / "home/me/.cache/huggingface/hub", "org/model")
    write(root.parent / "outside/config.json", SECRET)
    (repository / "snapshots" / COMMIT / "config.json").unlink()
    (repository / "snapshots" / COMMIT / "config.json").symlink_to("../" * 12 + "outside/config.json")
    assert find(root, "org/model").config is None


NAMES = st.sampled_from(["a", "b", "c", "d"])
TARGETS = st.lists(st.sampled_from(["..", ".", "a", "b", "c", "outside", "root"]), min_size=1, max_size=6)


@given(
    st.dictionaries(NAMES, st.tuples(st.booleans(), TARGETS), max_size=4),
    st.lists(st.sampled_from(["..", "a", "b", "c", "d", "outside"]), max_size=6),
    st.booleans(),
)
def test_whatever_the_links_nothing_outside_is_read(
    links: dict[str, tuple[bool, list[str]]], path: list[str], absolute: bool
) -> None:
    with shared_directory() as directory:
        root = directory / "root"
        write(directory / "outside/config.json", SECRET)
        write(directory / "config.json", SECRET)
        write(root / "inside/config.json")
        for name, (from_root, target) in links.items():
            (root / name).symlink_to(("/" if from_root else "") + "/".join(target))
        told = "/".join(path) or "."
        found = find(root, f"/{told}" if absolute else told, cwd="/inside")
        assert found.config in (None, CONFIG)


SWAP = """
import os
while True:
    os.rename("real", "model")
    os.rename("model", "real")
    os.rename("link", "model")
    os.rename("model", "link")
"""


def test_a_link_that_is_swapped_meanwhile_leads_nowhere(root: Path) -> None:
    write(root.parent / "outside/config.json", SECRET)
    write(root / "real/config.json")
    (root / "link").symlink_to(root.parent / "outside")
    swapping = subprocess.Popen([sys.executable, "-c", SWAP], cwd=root)  # with a core of its own
    try:
        found = [find(root, "/model").config for _ in range(20_000)]
    finally:
        swapping.kill()
        swapping.wait()
    assert CONFIG in found
    assert SECRET not in found


def test_a_file_that_is_held_stays_the_same(root: Path) -> None:
    write(root / "config.json")
    with hold(root, "/config.json") as file:
        write(root / "new.json", SECRET)
        (root / "new.json").replace(root / "config.json")
        assert json.loads(file.read_text()) == CONFIG


def test_nothing_stays_open(root: Path) -> None:
    write(root / "models/m/config.json")
    before = len(os.listdir("/proc/self/fd"))
    for path in ("/models/m", "/models/none", "org/model"):
        find(root, path)
    assert len(os.listdir("/proc/self/fd")) == before


def test_the_root_of_a_real_process_is_read_through_its_link(tmp_path: Path) -> None:
    write(tmp_path / "config.json")
    assert find(Path("/proc/self/root"), str(tmp_path)).config == CONFIG
