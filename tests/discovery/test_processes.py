"""Servers found by their processes: in trees of files for each shape of them, and here for real."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
import requests
from hypothesis import given
from hypothesis import strategies as st

from agent.discovery.process_table import LOOKS, ProcessTable, parse_stat
from agent.discovery.processes import (
    HIDDEN,
    HIDEPID,
    NOT_ON_HOST,
    UNMATCHED,
    ProcessSource,
    order_gpus,
    parse_cgroup,
)
from agent.errors import SourceAbsentError, SourceError
from agent.readings import MAX_FOUND, Discovery, FoundServer, PodContainer
from tests.discovery.proc_tree import Network, ProcTree, as_stranger, shared_directory
from tests.discovery.test_model_config import CONFIG, write, write_cache

GPUS = ("GPU-a", "GPU-b", "GPU-c")
UID = "1b2c3d4e-0001-4002-8003-00000000000a"
SLICE = f"pod{UID.replace('-', '_')}.slice"
"""As systemd writes it."""


@pytest.fixture
def tree(tmp_path: Path) -> ProcTree:
    return ProcTree(tmp_path)


def source(tree: ProcTree, gpus: Mapping[str, Collection[int]] | None = None) -> ProcessSource:
    return ProcessSource(proc_root=tree.root, gpu_processes=lambda: gpus or {})


def read(tree: ProcTree, gpus: Mapping[str, Collection[int]] | None = None) -> Discovery:
    return source(tree, gpus).read()


def only(discovery: Discovery) -> FoundServer:
    (server,) = discovery.servers
    return server


VLLM = ("/v/bin/python3.11", "/v/bin/vllm", "serve", "org/model")


def add_vllm(tree: ProcTree, pid: int = 10, *flags: str, **given: object) -> None:
    """A server with all its processes, as vLLM 0.32 has them; its worker listens on ports of its own."""
    arguments: dict[str, object] = {"listens": [("0.0.0.0", 8000)], "environ": {"HOME": "/root"}, **given}
    tree.add(pid, [*VLLM, *flags], name="vllm", **arguments)  # type: ignore[arg-type]
    shared = {"network": arguments["network"]} if "network" in arguments else {}
    tree.add(pid + 1, ["/v/bin/python3.11", "-B", "-c", "resource_tracker"], parent=pid, started=1001)
    tree.add(
        pid + 2,
        ["VLLM::EngineCore", "", " "],
        parent=pid,
        started=1002,
        blanked=True,
        listens=[("127.0.0.1", 40001 + pid), ("127.0.0.1", 40002 + pid)],
        **shared,  # type: ignore[arg-type]
    )


# --- the ordinary cases --------------------------------------------------------------------------


def test_a_server_is_found_with_all_that_is_known_of_it(tree: ProcTree, tmp_path: Path) -> None:
    root = tmp_path / "container"
    write_cache(root / "root/.cache/huggingface/hub", "org/model")
    add_vllm(tree, 10, "--tensor-parallel-size", "2", root=root)
    tree.add(13, ["VLLM::Worker_TP1"], parent=12, started=1003)
    server = only(read(tree, {"GPU-a": [12], "GPU-b": [13], "GPU-c": []}))
    assert (server.url, server.engine, server.pid) == ("http://127.0.0.1:8000/metrics", "vllm", 10)
    assert server.gpu_uuids == ("GPU-a", "GPU-b")
    assert server.container is None
    assert (server.facts.path, server.facts.tensor_parallel) == ("org/model", 2)
    assert server.facts.config == CONFIG


def test_nothing_is_found_where_nothing_serves(tree: ProcTree) -> None:
    tree.add(20, ["bash", "-c", "vllm serve m"])
    tree.add(21, [])  # a thread of the kernel
    assert read(tree) == Discovery(servers=())


@pytest.mark.parametrize(
    ("argv", "listens", "url"),
    [
        (
            ["python", "-m", "vllm.entrypoints.openai.api_server"],
            ("0.0.0.0", 8000),
            "http://127.0.0.1:8000/metrics",
        ),
        (["vllm", "serve", "m", "--host", "::"], ("::", 8000), "http://[::1]:8000/metrics"),
        (["vllm", "serve", "m", "--host", "192.0.2.7"], ("192.0.2.7", 8000), "http://192.0.2.7:8000/metrics"),
        (["vllm", "serve", "m", "--ssl-keyfile", "k"], ("0.0.0.0", 8000), "https://127.0.0.1:8000/metrics"),
        (["vllm", "serve", "--config", "f.yaml"], ("0.0.0.0", 8765), "http://127.0.0.1:8765/metrics"),
        (["trtllm-serve", "m"], ("0.0.0.0", 8000), "http://127.0.0.1:8000/prometheus/metrics"),
        (["llama-server", "-m", "m.gguf"], ("127.0.0.1", 8080), "http://127.0.0.1:8080/metrics"),
    ],
    ids=["python -m", "IPv6", "one address", "TLS", "a port from a file", "another path", "loopback only"],
)
def test_a_server_is_asked_where_it_listens(
    tree: ProcTree, argv: list[str], listens: tuple[str, int], url: str
) -> None:
    tree.add(10, argv, listens=[listens])
    assert only(read(tree)).url == url


def test_the_port_of_the_page_is_told_from_others_of_the_server(tree: ProcTree) -> None:
    tree.add(10, ["tritonserver"], listens=[("0.0.0.0", 8000), ("0.0.0.0", 8001), ("0.0.0.0", 8002)])
    assert only(read(tree)).url == "http://127.0.0.1:8002/metrics"


def test_a_told_address_is_honoured_where_a_port_is_held_twice(tree: ProcTree) -> None:
    tree.add(10, [*VLLM, "--host", "192.0.2.7"], listens=[("127.0.0.1", 8000), ("192.0.2.7", 8000)])
    assert only(read(tree)).url == "http://192.0.2.7:8000/metrics"


def test_several_api_servers_are_one_server(tree: ProcTree) -> None:
    (inode,) = tree.add(10, [*VLLM, "--data-parallel-size", "2"], listens=[("0.0.0.0", 8000)])
    for number in range(2):
        title = [f"VLLM::APIServer_{number}"]
        tree.add(20 + number, title, parent=10, started=1001, sockets=[inode], blanked=True)
        tree.add(30 + number, [f"VLLM::EngineCore_DP{number}"], parent=10, started=1002)
    server = only(read(tree, {"GPU-b": [30], "GPU-a": [31]}))
    assert (server.url, server.pid) == ("http://127.0.0.1:8000/metrics", 10)
    assert server.gpu_uuids == ("GPU-b", "GPU-a")
    assert server.facts.data_parallel == 2


def test_a_socket_that_only_the_api_servers_hold_is_found(tree: ProcTree) -> None:
    tree.add(10, [*VLLM, "--config", "f.yaml"], listens=[])
    tree.add(20, ["VLLM::APIServer_0"], parent=10, started=1001, listens=[("0.0.0.0", 9000)])
    tree.add(21, ["VLLM::EngineCore"], parent=10, started=1001, listens=[("127.0.0.1", 40000)])
    server = only(read(tree))
    assert (server.url, server.pid) == ("http://127.0.0.1:9000/metrics", 20)


def test_a_launcher_and_what_it_launches_are_one_server(tree: ProcTree) -> None:
    tree.add(10, ["text-generation-launcher"], environ={"MODEL_ID": "org/m", "PORT": "80", "NUM_SHARD": "2"})
    tree.add(11, ["text-generation-server", "serve", "org/m"], parent=10, started=1001)
    router = ["text-generation-router", "--port", "80", "--tokenizer-name", "org/m"]
    tree.add(12, router, parent=10, started=1002, listens=[("0.0.0.0", 80)])
    server = only(read(tree, {"GPU-c": [11]}))
    assert (server.url, server.pid, server.gpu_uuids) == ("http://127.0.0.1:80/metrics", 12, ("GPU-c",))
    assert (server.facts.path, server.facts.tensor_parallel) == ("org/m", 2)


def test_an_init_process_in_front_is_a_part_of_its_server(tree: ProcTree) -> None:
    tree.add(10, ["tini", "--", "vllm", "serve", "m"])
    tree.add(
        11, ["python3", "/usr/bin/vllm", "serve", "m"], parent=10, started=1001, listens=[("0.0.0.0", 8000)]
    )
    assert only(read(tree)).pid == 11


def test_a_ray_node_is_one_server_if_it_serves_models(tree: ProcTree) -> None:
    tree.add(10, ["/r/raylet/raylet", "--metrics-export-port=8085"])
    tree.add(
        11, ["python", "-u", "/r/dashboard/agent.py"], parent=10, started=1001, listens=[("0.0.0.0", 8085)]
    )
    assert read(tree) == Discovery(servers=())
    tree.add(12, ["ray::ServeReplica:default:LLMServer:m"], parent=10, started=1002)
    tree.add(13, ["VLLM::EngineCore"], parent=12, started=1003)
    server = only(read(tree, {"GPU-a": [13]}))
    assert (server.engine, server.url) == ("ray", "http://127.0.0.1:8085/metrics")
    assert (server.pid, server.gpu_uuids) == (11, ("GPU-a",))


def test_a_server_that_ray_started_as_a_job_is_itself(tree: ProcTree) -> None:
    tree.add(9, ["/r/raylet/raylet", "--metrics-export-port=8085"])
    add_vllm(tree, parent=9)
    server = only(read(tree, {"GPU-a": [12]}))
    assert (server.engine, server.gpu_uuids) == ("vllm", ("GPU-a",))


# --- what is not reported ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("argv", "listens", "words"),
    [
        (["vllm", "serve", "m", "--uds", "/run/v.sock"], [], "Unix socket"),
        (["vllm", "serve", "m"], [], "no port yet"),
        (["vllm", "serve", "m"], [9001], "does not listen on port 8000"),
        (["vllm", "serve", "m", "--port", "9", "--config", "f.yaml"], [9001], "does not listen on port 9"),
        (["vllm", "serve", "--config", "f.yaml"], [9001, 9002], "does not listen on port 8000"),
        (["tritonserver"], [8000], "does not listen on port 8002"),
        (["python3", "-m", "dynamo.vllm", "--model", "m"], [41000], "no port for a page"),
    ],
)
def test_it_is_said_why_a_server_is_not_asked(
    tree: ProcTree, argv: list[str], listens: list[int], words: str
) -> None:
    tree.add(10, argv, listens=[("0.0.0.0", port) for port in listens])
    discovery = read(tree)
    assert discovery.servers == ()
    (note,) = discovery.notes
    assert words in note
    assert "process 10" in note


def test_what_computes_for_a_server_elsewhere_is_none(tree: ProcTree) -> None:
    tree.add(10, [*VLLM, "--headless"], listens=[("0.0.0.0", 40000)])
    assert read(tree) == Discovery(servers=())


def test_a_missing_config_is_said_and_found_later(tree: ProcTree, tmp_path: Path) -> None:
    root = tmp_path / "container"
    root.mkdir()
    add_vllm(tree, root=root)
    reader = source(tree)
    discovery = reader.read()
    assert only(discovery).facts.config is None
    assert "config.json" in "".join(discovery.notes)
    write_cache(root / "root/.cache/huggingface/hub", "org/model")
    assert only(reader.read()).facts.config == CONFIG
    assert reader.read().notes == ()


def test_a_blanked_environment_costs_the_cache_only(tree: ProcTree, tmp_path: Path) -> None:
    root = tmp_path / "container"
    write(root / "models/m/config.json")
    add_vllm(tree, root=root, blanked=True)
    discovery = read(tree)
    assert only(discovery).facts.config is None
    assert "nor in its cache" in "".join(discovery.notes)
    tree.remove(10)
    argv = ["vllm", "serve", "/models/m"]
    tree.add(10, argv, root=root, blanked=True, listens=[("0.0.0.0", 8000)])
    assert only(read(tree)).facts.config == CONFIG


def test_servers_beyond_the_most_are_counted(tree: ProcTree) -> None:
    for number in range(MAX_FOUND + 3):
        argv = ["llama-server", "--port", str(10_000 + number)]
        tree.add(100 + number, argv, started=5000 - number, listens=[("0.0.0.0", 10_000 + number)])
    discovery = read(tree)
    assert len(discovery.servers) == MAX_FOUND
    assert "3 more" in "".join(discovery.notes)
    assert 100 not in {server.pid for server in discovery.servers}  # the latest are left out


# --- containers ----------------------------------------------------------------------------------


def test_a_server_in_a_container_is_asked_at_the_containers_address(tree: ProcTree) -> None:
    pod = Network(2, addresses=("10.244.1.9", "127.0.0.1"))
    cgroup = f"0::/kubepods.slice/kubepods-{SLICE}/cri-containerd-{'a' * 64}.scope\n"
    add_vllm(tree, network=pod, cgroup=cgroup)
    server = only(read(tree))
    assert server.url == "http://10.244.1.9:8000/metrics"
    assert server.container == PodContainer(namespace="", pod="", uid=UID)


def test_a_containers_loopback_is_not_ours(tree: ProcTree) -> None:
    tree.add(10, [*VLLM], network=Network(2, addresses=("127.0.0.1",)), listens=[("127.0.0.1", 8000)])
    tree.add(11, ["other"], listens=[("127.0.0.1", 8000)])
    discovery = read(tree)
    assert discovery.servers == ()
    assert "only its own container" in "".join(discovery.notes)


def test_two_containers_with_the_same_port_are_two_servers(tree: ProcTree) -> None:
    for number in (2, 3):
        network = Network(number, addresses=(f"10.244.1.{number}", "127.0.0.1"))
        tree.add(number * 10, [*VLLM], network=network, listens=[("0.0.0.0", 8000)])
    urls = [server.url for server in read(tree).servers]
    assert urls == ["http://10.244.1.2:8000/metrics", "http://10.244.1.3:8000/metrics"]


@pytest.mark.parametrize(
    "text",
    [
        f"0::/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-{SLICE}/cri-containerd-x.scope\n",
        f"12:cpu:/kubepods/besteffort/pod{UID}/{'c' * 64}\n11:pids:/kubepods/besteffort/pod{UID}/x\n",
        f"0::/../../kubepods-besteffort-{SLICE}/crio-{'d' * 64}.scope\n",
        f"0::/kubelet.slice/kubelet-kubepods.slice/kubelet-kubepods-{SLICE}/x.scope\n",
        f"0::/kubepods/pod{UID}\n",
        f"0::/kubepods/pod{UID}/x/kubepods/pod{'f' * 32}/y\n",
    ],
    ids=["systemd, v2", "cgroupfs, v1", "own cgroup namespace", "kind", "guaranteed", "a pod in a pod"],
)
def test_a_pod_is_known_by_its_cgroup(text: str) -> None:
    assert parse_cgroup(text) == PodContainer(namespace="", pod="", uid=UID)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "0::/\n",
        "0::/system.slice/docker-0123456789abcdef.scope\n",
        f"0::/user.slice/pod{UID}\n",
        "0::/kubepods/podcast/x\n",
        "1:cpu:/kubepods\n0::/podx\n",
    ],
)
def test_who_is_in_no_pod_has_none(text: str) -> None:
    assert parse_cgroup(text) is None


def test_processes_that_are_hidden_altogether_are_said_to_be(tree: ProcTree) -> None:
    tree.remove(1)
    assert read(tree).notes == (HIDEPID,)


def test_a_static_pod_is_known_by_its_hash() -> None:
    hashed = "0123456789abcdef0123456789abcdef"
    found = parse_cgroup(f"0::/kubepods/burstable/pod{hashed}/{'e' * 64}\n")
    assert found == PodContainer(namespace="", pod="", uid=hashed)


# --- whose GPUs ----------------------------------------------------------------------------------


def test_processes_that_cannot_be_matched_leave_the_gpus_unknown(tree: ProcTree) -> None:
    add_vllm(tree)
    discovery = read(tree, {"GPU-a": [777]})
    assert only(discovery).gpu_uuids is None
    assert UNMATCHED in discovery.notes
    assert read(tree, {"GPU-a": [12, 777]}).notes == read(tree, {"GPU-a": [12]}).notes


GPUS_UNTOLD: tuple[Mapping[str, Collection[int]], ...] = ({"GPU-a": [12, 777]}, {"GPU-a": []}, {})


def test_without_the_hosts_processes_numbers_may_match_by_chance(tmp_path: Path) -> None:
    tree = ProcTree(tmp_path, pid_namespace=4026532001)
    add_vllm(tree)
    for gpus in GPUS_UNTOLD:
        discovery = read(tree, gpus)
        assert only(discovery).gpu_uuids is None
        assert NOT_ON_HOST in discovery.notes
    assert only(read(tree, {"GPU-a": [12]})).gpu_uuids == ("GPU-a",)


def test_a_server_without_a_gpu_has_none_of_those_there_are(tree: ProcTree) -> None:
    add_vllm(tree)
    assert only(read(tree, {"GPU-a": []})).gpu_uuids == ()
    assert only(read(tree, {})).gpu_uuids is None


def test_each_server_has_its_own_gpus(tree: ProcTree) -> None:
    add_vllm(tree, 10)
    add_vllm(tree, 20, "--port", "8001", listens=[("0.0.0.0", 8001)], started=1000)
    tree.add(30, ["python", "train.py"])
    found = read(tree, {"GPU-a": [22, 30], "GPU-b": [12], "GPU-c": [22]})
    assert {server.url[-12:]: server.gpu_uuids for server in found.servers} == {
        "8000/metrics": ("GPU-b",),
        "8001/metrics": ("GPU-a", "GPU-c"),
    }


def test_a_parent_that_is_younger_is_another_process(tree: ProcTree) -> None:
    add_vllm(tree)
    tree.add(
        50, ["python", "train.py"], parent=10, started=10
    )  # its parent ended, and vLLM has that number now
    assert only(read(tree, {"GPU-a": [50], "GPU-b": [12]})).gpu_uuids == ("GPU-b",)


@pytest.mark.parametrize(
    ("visible", "order"),
    [
        ("GPU-c,GPU-a", ("GPU-c", "GPU-a")),
        ("2,0", ("GPU-c", "GPU-a")),
        ("", ("GPU-a", "GPU-c")),
        ("GPU-b, GPU-c ,nonsense", ("GPU-c", "GPU-a")),
        ("99999999999", ("GPU-a", "GPU-c")),
    ],
)
def test_gpus_come_in_the_order_in_which_cuda_shows_them(
    tree: ProcTree, visible: str, order: tuple[str, ...]
) -> None:
    add_vllm(tree, environ={"CUDA_VISIBLE_DEVICES": visible})
    assert only(read(tree, {"GPU-a": [12], "GPU-b": [], "GPU-c": [12]})).gpu_uuids == order


def test_in_a_container_numbers_say_nothing_of_the_nodes_gpus(tree: ProcTree) -> None:
    add_vllm(tree, environ={"CUDA_VISIBLE_DEVICES": "1,0"}, mounts=2)
    assert only(read(tree, {"GPU-a": [12], "GPU-b": [12]})).gpu_uuids == ("GPU-a", "GPU-b")


@given(st.lists(st.sampled_from(GPUS), unique=True), st.text("0123GPU-abc, "))
def test_an_order_loses_no_gpu(uuids: list[str], visible: str) -> None:
    assert sorted(order_gpus(uuids, visible, GPUS)) == sorted(uuids)


# --- coming and going ----------------------------------------------------------------------------


def test_a_server_that_ends_is_not_reported(tree: ProcTree) -> None:
    add_vllm(tree)
    reader = source(tree)
    assert len(reader.read().servers) == 1
    for pid in (10, 11, 12):
        tree.remove(pid)
    assert reader.read() == Discovery(servers=())


def test_a_zombie_is_not_reported(tree: ProcTree) -> None:
    tree.add(10, [], state="Z")
    tree.add(11, [*VLLM], state="Z", listens=[("0.0.0.0", 8000)])
    assert read(tree) == Discovery(servers=())


def test_a_number_that_is_used_again_is_another_process(tree: ProcTree) -> None:
    add_vllm(tree)
    reader = source(tree)
    assert only(reader.read()).facts.path == "org/model"
    tree.remove(10)
    tree.add(
        10, ["vllm", "serve", "other"], started=9000, listens=[("0.0.0.0", 8000)], environ={"HOME": "/x"}
    )
    # The worker of the one before has a parent that is younger than itself.
    server = only(reader.read())
    assert server.facts.path == "other"
    tree.remove(10)
    tree.add(10, ["sleep", "1"], started=9001)
    assert reader.read().servers == ()


def test_a_number_that_is_used_again_is_seen_at_once(tree: ProcTree) -> None:
    tree.add(10, ["sleep", "600"])
    reader = source(tree)
    for _ in range(3):
        reader.read()
    tree.add(11, VLLM, started=9000, listens=[("0.0.0.0", 8000)])
    tree.remove(10)
    (tree.root / "11").rename(tree.root / "10")
    assert only(reader.read()).pid == 10


def test_what_is_read_of_a_process_that_ends_meanwhile_is_not_reported(tree: ProcTree) -> None:
    add_vllm(tree)

    def another_takes_its_number() -> Mapping[str, Collection[int]]:
        tree.remove(10)
        tree.add(10, VLLM, started=9000, listens=[("0.0.0.0", 8000)])
        return {}

    reader = ProcessSource(proc_root=tree.root, gpu_processes=another_takes_its_number)
    assert reader.read().servers == ()


def test_a_shell_that_becomes_a_server_is_found(tree: ProcTree) -> None:
    tree.add(10, ["bash", "entry.sh"], listens=[("0.0.0.0", 8000)])
    reader = source(tree)
    for _ in range(3):
        assert reader.read().servers == ()
    tree.say(10, VLLM)
    turns = next(turn for turn in range(1, 100) if reader.read().servers)
    assert turns <= LOOKS


def test_what_has_just_started_is_looked_at_once_more(tree: ProcTree) -> None:
    tree.add(10, ["bash"], listens=[("0.0.0.0", 8000)])
    reader = source(tree)
    assert reader.read().servers == ()
    tree.say(10, VLLM)
    assert len(reader.read().servers) == 1


def test_a_server_that_becomes_another_is_read_anew(tree: ProcTree) -> None:
    add_vllm(tree)
    reader = source(tree)
    for _ in range(3):
        reader.read()
    tree.say(10, ["vllm", "serve", "other"])
    assert only(reader.read()).facts.path == "other"


def test_a_server_that_moves_its_socket_is_followed(tree: ProcTree) -> None:
    add_vllm(tree)
    reader = source(tree)
    reader.read()
    del tree.host.listening[min(tree.host.listening)]
    tree.remove(10)
    tree.add(10, [*VLLM], listens=[("192.0.2.7", 8000)])
    assert only(reader.read()).url == "http://192.0.2.7:8000/metrics"


@pytest.mark.parametrize(
    "missing", ["stat", "cmdline", "environ", "net/tcp", "net/fib_trie", "fd", "ns/net", "cgroup"]
)
def test_whatever_is_gone_at_that_moment_costs_that_server_only(tree: ProcTree, missing: str) -> None:
    add_vllm(tree)
    tree.add(20, ["llama-server"], listens=[("0.0.0.0", 8080)])
    path = tree.root / "10" / missing
    path.rename(tree.root / "gone")
    discovery = read(tree)
    assert [server.engine for server in discovery.servers] == ["llamacpp"]


@given(st.binary(max_size=80))
def test_any_bytes_are_a_state_or_are_refused(text: bytes) -> None:
    with suppress(ValueError):
        state, parent, started = parse_stat(text)
        assert state
        assert isinstance(parent + started, int)


def test_a_name_cannot_forge_a_state() -> None:
    rest = " ".join(["S", "7", *["0"] * 17, "4242", *["0"] * 30])
    assert parse_stat(f"5 (a) Z 1 (b) {rest}\n".encode()) == ("S", 7, 4242)


def test_a_parent_of_itself_is_no_endless_tree(tree: ProcTree) -> None:
    tree.add(10, ["sleep"], parent=11)
    tree.add(11, ["sleep"], parent=10)
    assert read(tree, {"GPU-a": [10]}).servers == ()


# --- what may not be seen ------------------------------------------------------------------------


def test_a_server_of_another_user_is_found_by_what_it_was_told() -> None:
    with shared_directory() as directory:
        tree = ProcTree(directory)
        add_vllm(tree, 10, "--port", "8000")
        add_vllm(tree, 20, "--port", "8100", listens=[("0.0.0.0", 8200)])
        for pid in (10, 20):
            tree.hide(pid)
        with as_stranger():
            discovery = read(tree, {"GPU-a": [12]})
    server = only(discovery)
    assert (server.url, server.gpu_uuids) == ("http://127.0.0.1:8000/metrics", ("GPU-a",))
    assert server.facts.path == "org/model"
    assert server.facts.config is None
    assert HIDDEN.format(count=2) in discovery.notes


def test_no_proc_is_absent_and_a_closed_one_fails() -> None:
    with shared_directory() as directory:
        with pytest.raises(SourceAbsentError):
            ProcessSource(proc_root=directory / "none", gpu_processes=dict).read()
        closed = directory / "closed"
        closed.mkdir(mode=0)
        with as_stranger(), pytest.raises(SourceError) as failed:
            ProcessSource(proc_root=closed, gpu_processes=dict).read()
    assert failed.value.reason in ProcessSource.failure_reasons


# --- for real ------------------------------------------------------------------------------------

SCRIPT = """
import ctypes, http.server, socket, subprocess, sys

class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"vllm:num_requests_running 0\\n")

worker = "import socket, time; s = socket.create_server(('127.0.0.1', 0)); time.sleep(600)"
child = subprocess.Popen(["VLLM::Worker", "-c", worker], executable=sys.executable)
if "--hidden" in sys.argv:
    ctypes.CDLL(None).prctl(4, 0)  # PR_SET_DUMPABLE: whoever may not trace it may not look into it
own = socket.socket(fileno=int(sys.stdin.readline()))
server = http.server.HTTPServer(own.getsockname(), Page, bind_and_activate=False)
server.socket = own
print("ready", child.pid, flush=True)
server.serve_forever()
"""
"""To who looks at its processes a vLLM; its socket comes from the test, so that its port is free."""


@contextmanager
def running(
    directory: Path, *flags: str, environ: Mapping[str, str], model: str = "org/model"
) -> Iterator[tuple[int, int, int]]:
    """A real server: its pid, its worker's, and its port. `{port}` in the flags is that."""
    script = directory / "vllm"
    script.write_text(SCRIPT)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        argv = [sys.executable, str(script), "serve", model, *(flag.format(port=port) for flag in flags)]
        process = subprocess.Popen(
            argv,
            env=dict(environ),
            cwd=directory,
            pass_fds=[listening.fileno()],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert process.stdin is not None
        process.stdin.write(f"{listening.fileno()}\n")
        process.stdin.flush()
        assert process.stdout is not None
        worker = int(process.stdout.readline().split()[1])
    try:
        yield process.pid, worker, port
    finally:
        for pid in (worker, process.pid):
            os.kill(pid, 9)
        process.communicate()


def found(reader: ProcessSource, pid: int) -> FoundServer | None:
    return next((server for server in reader.read().servers if server.pid == pid), None)


def real(gpus: Callable[[], Mapping[str, Collection[int]]] = dict) -> ProcessSource:
    return ProcessSource(gpu_processes=gpus)


@pytest.mark.parametrize("flags", [("--port", "{port}"), ("--config", "f.yaml")], ids=["told", "not told"])
def test_a_real_server_is_found_with_its_port_and_its_config(tmp_path: Path, flags: Sequence[str]) -> None:
    write_cache(tmp_path / "hf/hub", "org/model")
    with running(tmp_path, *flags, environ={"HF_HOME": str(tmp_path / "hf")}) as (pid, worker, port):
        server = found(real(lambda: {"GPU-a": [worker]}), pid)
        assert server is not None
        assert server.url == f"http://127.0.0.1:{port}/metrics"
        assert server.facts.config == CONFIG
        assert "vllm:" in requests.get(server.url, timeout=5).text


def test_a_real_server_comes_and_goes(tmp_path: Path) -> None:
    reader = real()
    reader.read()
    (tmp_path / "m").mkdir()
    (tmp_path / "m/config.json").write_text(json.dumps(CONFIG))
    with running(tmp_path, "--port", "{port}", environ={}, model="./m") as (pid, _, _):
        server = found(reader, pid)
        assert server is not None
        assert server.facts.config == CONFIG
        assert found(reader, pid) == server
    assert found(reader, pid) is None


def test_a_real_server_that_is_hidden_is_found_from_outside(tmp_path: Path) -> None:
    flags = ("--port", "{port}", "--hidden")
    with running(tmp_path, *flags, environ={"HF_HOME": "/x"}) as (pid, _, port), as_stranger():
        discovery = real().read()
    server = next(server for server in discovery.servers if server.pid == pid)
    assert server.url == f"http://127.0.0.1:{port}/metrics"
    assert any("SYS_PTRACE" in note for note in discovery.notes)


def test_the_gpus_of_a_real_servers_worker_are_its(tmp_path: Path) -> None:
    with running(tmp_path, "--port", "{port}", environ={}) as (pid, worker, _):
        server = found(real(lambda: {"GPU-a": [worker], "GPU-b": [os.getpid()]}), pid)
    assert server is not None
    assert server.gpu_uuids == ("GPU-a",)


def test_a_thousand_processes_that_serve_nothing_cost_little() -> None:
    sleeping = [subprocess.Popen(["sleep", "600"]) for _ in range(300)]
    try:
        reader = real()
        reader.read()
        reader.read()
        costs = []
        for _ in range(LOOKS):
            began = time.process_time()
            reader.read()
            costs.append(time.process_time() - began)
        processes = len(ProcessTable(Path("/proc")).refresh())
    finally:
        for process in sleeping:
            process.kill()
            process.wait()
    # 4 µs each when it was measured, and room for a slower machine.
    assert min(costs) / processes < 20e-6
