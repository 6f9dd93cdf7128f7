"""Another configuration comes into force: what is asked for as before goes on; what is wrong is refused."""

from __future__ import annotations

import json
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml

from agent.app import Agent
from agent.assessment import Assessment
from agent.clock import ManualClock
from agent.config import load_configuration, parse_configuration
from agent.errors import AgentError, ConfigurationError
from agent.exposition.headline import notes
from agent.exposition.json_view import assessment_document
from agent.reloading import NOTHING, ConfigurationFile, Reloader
from agent.roofline.catalogue import find_config
from agent.simulate.node import SimulatedNode
from agent.simulate.scenarios import SCENARIOS
from agent.sources.nvml import NvmlSource
from tests.machines import MACHINES, Machine, Watch
from tests.simulated import Page, Series

TWO = replace(
    SCENARIOS["node"], name="two", gpus=SCENARIOS["node"].gpus[:2], servers=SCENARIOS["node"].servers[:2]
)
NO_DISCOVERY = {"processes": {"enabled": False}}
HOUR = 3600.0


class Scene:
    """The real agent over two simulated engines, in virtual time, and the file that configures it."""

    def __init__(self, directory: Path, **given: Any) -> None:
        self.clock = ManualClock()
        self.node = SimulatedNode(TWO, clock=self.clock)
        self.node.start()
        self.engines = [dict(engine) for engine in self.node.engine_configurations()]
        self.path = directory / "agent.yaml"
        self.write(**given)
        file = ConfigurationFile(self.path)
        configuration, loaded = file.load()
        self.agent = Agent(configuration, clock=self.clock, nvml=self.node.nvml, node="two")
        self.reloader = Reloader(file, self.agent, loaded=loaded)

    @property
    def servers(self) -> list[str]:
        """The labels of both."""
        return [str(engine["url"]).split("/")[2] for engine in self.engines]

    def write(self, **given: Any) -> None:
        """The file, with both engines unless others are given."""
        document = {"discovery": NO_DISCOVERY, "engines": self.engines, **given}
        self.path.write_text(yaml.safe_dump(document))

    def reload(self, **given: Any) -> str:
        """Write it, and load it."""
        self.write(**given)
        return self.reloader.reload("test")

    def run(self, seconds: int, *, engines: bool = True) -> Assessment:
        """So many ticks, a second apart."""
        for _ in range(seconds):
            self.clock.advance(1)
            latest = self.agent.beat(engines=engines and self.clock.monotonic() % 5 == 0)
        return latest

    def samples(self, *kinds: str) -> dict[Series, float]:
        """On the page now."""
        text = self.agent.renderer.render(None, None).body.decode()
        return Page(text=text, openmetrics="").samples(*kinds)

    def value(self, name: str, **labels: str) -> float:
        """The sum of the series with these labels."""
        found = [
            value
            for (sample, of), value in self.samples().items()
            if sample == f"roofline_{name}" and labels.items() <= dict(of).items()
        ]
        assert found, f"no {name} with {labels}"
        return sum(found)

    def close(self) -> None:
        """End it."""
        self.reloader.close()
        self.agent.close()
        self.node.close()


Begin = Callable[..., Scene]


@pytest.fixture
def begin(tmp_path: Path) -> Iterator[Begin]:
    begun: list[Scene] = []

    def start(**given: Any) -> Scene:
        begun.append(Scene(tmp_path, **given))
        return begun[-1]

    yield start
    for one in begun:
        one.close()


def counters(samples: Mapping[Series, float], *without: str) -> dict[Series, float]:
    """Those of GPUs and engines, but for these servers."""
    return {
        (name, labels): value
        for (name, labels), value in samples.items()
        if name.startswith(("roofline_gpu_", "roofline_engine_", "roofline_source_"))
        and not any(server in value for server in without for _, value in labels)
    }


def check_none_fell(before: Mapping[Series, float], after: Mapping[Series, float]) -> None:
    fell = {series: (value, after.get(series)) for series, value in before.items()}
    assert not {one: pair for one, pair in fell.items() if pair[1] is None or pair[1] < pair[0]}


# --- what goes on ----------------------------------------------------------------------------------


def test_the_same_again_changes_nothing_but_when_it_was_loaded(begin: Begin) -> None:
    scene = begin()
    scene.run(41)
    before, pollers = scene.samples("counter"), scene.agent.pollers
    loaded = scene.value("config_last_reload_success_timestamp_seconds")
    assert scene.reload() == "nothing is different"
    assessment = scene.run(1)
    assert scene.agent.pollers == pollers
    check_none_fell(counters(before), scene.samples("counter"))
    assert all(engine.up and engine.window is not None for engine in assessment.engines)
    assert scene.value("config_last_reload_success_timestamp_seconds") == loaded + 41
    assert scene.value("config_last_reload_successful") == 1


def test_a_removed_engine_leaves_at_once_and_the_others_do_not_notice(begin: Begin) -> None:
    scene = begin(prices=[{"usd_per_hour": 3.6}])
    scene.run(60)
    kept, removed = scene.servers
    before, (poller, ended) = scene.samples("counter"), [one.poller for one in scene.agent.roster.servers]
    assert (
        scene.reload(prices=[{"usd_per_hour": 3.6}], engines=scene.engines[:1])
        == f"engines removed: {removed}"
    )
    assessment = scene.run(1)
    assert [engine.key.server for engine in assessment.engines] == [kept]
    assert [one.poller for one in scene.agent.roster.servers] == [poller]
    assert ended not in scene.agent.pollers
    check_none_fell(counters(before, removed), scene.samples("counter"))
    # What its GPU costs is nobody's now, and none of it is lost.
    scene.run(29)
    assert scene.value("gpu_cost_usd_total", gpu="1") == pytest.approx(0.089, abs=1e-6)
    # It comes back as a new one, whose counters begin at 0.
    assert scene.reload(prices=[{"usd_per_hour": 3.6}]) == f"engines added: {removed}"
    scene.run(20)
    tokens = scene.value("engine_generation_tokens_total", server=removed)
    assert 0 < tokens < dict(before)["roofline_engine_generation_tokens_total", _labels(before, removed)]


def _labels(samples: Mapping[Series, float], server: str) -> frozenset[tuple[str, str]]:
    (labels,) = (
        labels
        for name, labels in samples
        if name == "roofline_engine_generation_tokens_total" and ("server", server) in labels
    )
    return labels


def test_other_facts_of_a_model_are_computed_with_and_the_counters_go_on(begin: Begin) -> None:
    scene = begin()
    first = scene.run(60).engines[0]
    before, pollers = scene.samples("counter"), scene.agent.pollers
    other = {**scene.engines[0], "max_num_seqs": 8, "model": {"name": "llama-3.1-8b", "weight_dtype": "fp8"}}
    assert scene.reload(engines=[other, scene.engines[1]]) == f"engines changed: {scene.servers[0]}"
    second = scene.run(1).engines[0]
    assert scene.agent.pollers == pollers
    check_none_fell(counters(before), scene.samples("counter"))
    assert (first.max_num_seqs, second.max_num_seqs) == (256, 8)
    # The same window, the same steps: only that half as many bytes are read in each.
    assert first.work is not None
    assert second.work is not None
    assert 0.5 < second.work.decode.weight_bytes / first.work.decode.weight_bytes < 0.57


def test_other_headers_go_out_with_the_next_page_and_nothing_is_lost_between(begin: Begin) -> None:
    scene = begin()
    scene.run(60)
    before, (poller, other) = scene.samples("counter"), [one.poller for one in scene.agent.roster.servers]
    scene.reload(engines=[{**scene.engines[0], "headers": {"Authorization": "Bearer new"}}, scene.engines[1]])
    anew, same = (one.poller for one in scene.agent.roster.servers)
    assert anew is not poller
    assert same is other
    assessment = scene.run(12)
    assert all(engine.up for engine in assessment.engines)
    check_none_fell(counters(before), scene.samples("counter"))
    gained = scene.samples("counter")[
        "roofline_engine_generation_tokens_total", _labels(before, scene.servers[0])
    ]
    assert gained > before["roofline_engine_generation_tokens_total", _labels(before, scene.servers[0])]


# --- what takes effect -----------------------------------------------------------------------------


def test_the_next_second_is_charged_at_the_new_price_and_what_was_charged_stays(begin: Begin) -> None:
    scene = begin(prices=[{"usd_per_hour": HOUR}])
    scene.run(60)
    assert scene.value("gpu_cost_usd_total") == pytest.approx(2 * 59)
    assert scene.reload(prices=[{"usd_per_hour": 2 * HOUR}]) == "prices"
    scene.run(1)
    assert scene.value("gpu_cost_usd_total") == pytest.approx(2 * 59 + 4)
    held = scene.value("engine_cost_usd_total") + scene.value("gpu_unattributed_cost_usd_total")
    assert held == pytest.approx(2 * 59 + 4)


def test_labels_of_the_node_and_prices_for_them_take_effect_together(begin: Begin) -> None:
    scene = begin()
    scene.run(10)
    difference = scene.reload(
        node_labels={"pool": "spot"}, prices=[{"usd_per_hour": HOUR, "node_labels": {"pool": "spot"}}]
    )
    assert difference == "node_labels; prices"
    scene.run(10)
    assert scene.value("gpu_cost_usd_total") == pytest.approx(20)


def test_another_window_is_filled_by_and_by_or_cut_at_once(begin: Begin) -> None:
    scene = begin()
    assert scene.run(60).engines[0].window.seconds == 30  # type: ignore[union-attr]
    assert scene.reload(window_seconds=10) == "window_seconds 30 → 10"
    assert scene.run(5).engines[0].window.seconds == 10  # type: ignore[union-attr]
    assert scene.agent.sampler.latest is not None
    assert scene.agent.sampler.latest.gpus[0].window.seconds <= 10  # type: ignore[union-attr]
    scene.reload(window_seconds=50)
    assert scene.run(15).engines[0].window.seconds == 25  # type: ignore[union-attr]
    assert scene.run(60).engines[0].window.seconds == 50  # type: ignore[union-attr]


def test_roofs_are_those_of_the_configuration_in_force(begin: Begin) -> None:
    scene = begin()
    scene.run(10)
    peak = scene.value("gpu_peak_dram_bytes_per_second", gpu="0")
    scene.reload(roofs=[{"gpu": "NVIDIA H100 80GB HBM3", "dram_bytes_per_second": 2e12}])
    scene.run(1)
    assert scene.value("gpu_peak_dram_bytes_per_second", gpu="0") == 2e12
    scene.reload()
    scene.run(1)
    assert scene.value("gpu_peak_dram_bytes_per_second", gpu="0") == peak


def test_an_event_is_judged_by_the_target_of_its_time(begin: Begin) -> None:
    scene = begin(slo={"ttft_seconds": 10})
    scene.run(60)
    events = scene.value("engine_slo_events_total", slo="ttft")
    assert scene.value("engine_slo_good_events_total", slo="ttft") == events > 0
    scene.reload(slo={"ttft_seconds": 0.001})
    scene.run(60)
    more = scene.value("engine_slo_events_total", slo="ttft")
    assert more > events
    # None of the later ones was as fast; those before stay good.
    assert scene.value("engine_slo_good_events_total", slo="ttft") == events
    scene.reload()  # without a target nothing is counted, and nothing forgotten
    scene.run(1)
    assert not [name for name, _ in scene.samples() if name == "roofline_engine_slo_good_events_total"]
    scene.reload(slo={"ttft_seconds": 10})
    scene.run(60)
    last = scene.value("engine_slo_events_total", slo="ttft")
    assert scene.value("engine_slo_good_events_total", slo="ttft") == events + last - more


def test_a_dcgm_exporter_comes_and_goes(begin: Begin) -> None:
    scene = begin()
    scene.run(10)
    assert not [labels for _, labels in scene.samples() if ("evidence", "dcgm") in labels]
    assert scene.reload(dcgm={"url": "http://127.0.0.1:9/metrics"}) == "dcgm.url"
    scene.run(1)
    assert scene.value("gpu_dram_active_seconds_total", evidence="dcgm") == 0
    assert scene.value("source_reads_total", source="dcgm") == 0
    before = scene.samples("counter")
    scene.reload()
    scene.run(10)
    check_none_fell(
        {one: value for one, value in counters(before).items() if ("source", "dcgm") not in one[1]},
        scene.samples("counter"),
    )
    assert not [labels for _, labels in scene.samples() if ("source", "dcgm") in labels]


def test_time_is_conserved_whatever_the_interval_becomes(begin: Begin) -> None:
    scene = begin(interval_seconds=10)
    for _ in range(3):
        scene.clock.advance(10)
        scene.agent.beat(engines=True)
    scene.reload(interval_seconds=1)
    scene.clock.advance(9)  # the tick that was awaited when the interval was longer
    scene.agent.beat(engines=True)
    scene.run(5)
    assert scene.value("gpu_observed_seconds_total", gpu="0") == pytest.approx(34)
    assert scene.value("gpu_unobserved_seconds_total", gpu="0") == 0
    scene.reload(interval_seconds=10)
    scene.clock.advance(10)
    scene.agent.beat(engines=True)
    assert scene.value("gpu_observed_seconds_total", gpu="0") == pytest.approx(44)


def test_gpm_is_switched_off_and_on_without_a_new_session(watch: Watch, fresh_pynvml: None) -> None:
    watched = watch(Machine(gpus=1, driver=590))
    watched.stand_in.set({"xids": "1:gpu0:94"})
    watched.beat()
    watched.hear()
    before = watched.beat(10).gpus[0]
    assert before.reading is not None
    assert before.reading.activity is not None
    watched.agent.adopt(parse_configuration("nvml: {gpm: false}", origin="x"))
    off = watched.beat(1).gpus[0]
    assert off.reading is not None
    assert off.reading.activity is None
    assert off.health == before.health
    assert off.totals.observed_seconds == before.totals.observed_seconds + 1
    watched.agent.adopt(parse_configuration("", origin="x"))
    on = watched.beat(3).gpus[0]
    assert on.reading is not None
    assert on.reading.activity is not None


def test_gpus_that_were_let_go_of_stay_so(watch: Watch) -> None:
    watched = watch(MACHINES["8 GPUs"])
    watched.beat(3)
    watched.agent.release_gpus(60)
    watched.beat(1)
    watched.agent.adopt(parse_configuration("nvml: {gpm: false}", origin="x"))
    assert not watched.beat(5).sources[0].up
    assert isinstance(watched.source, NvmlSource)


# --- what is refused -------------------------------------------------------------------------------


def test_what_is_wrong_is_said_everywhere_and_changes_nothing(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    scene = begin()
    scene.run(20)
    loaded, pollers = scene.value("config_last_reload_success_timestamp_seconds"), scene.agent.pollers
    with pytest.raises(ConfigurationError) as wrong:
        scene.reload(window_seconds="long", prices=[{"usd_per_hour": -1}])
    assert [problem.split(":")[0] for problem in wrong.value.problems] == [
        "window_seconds",
        "prices.0.usd_per_hour",
    ]
    (logged,) = (record for record in caplog.records if record.levelno == logging.ERROR)
    assert all(problem in logged.getMessage() for problem in wrong.value.problems)
    assert "\n" not in logged.getMessage()
    assessment = scene.run(1)
    assert scene.agent.pollers == pollers
    assert all(engine.up for engine in assessment.engines)
    assert scene.value("config_last_reload_successful") == 0
    assert scene.value("config_last_reload_success_timestamp_seconds") == loaded
    (note,) = (note for note in notes(assessment) if "configuration" in note)
    assert "window_seconds" in note
    assert assessment_document(assessment)["configuration"]["problems"] == list(wrong.value.problems)
    scene.reload(window_seconds=20)
    assessment = scene.run(1)
    assert scene.value("config_last_reload_successful") == 1
    assert scene.value("config_last_reload_success_timestamp_seconds") == loaded + 21
    assert not [note for note in notes(assessment) if "configuration" in note]


def test_what_takes_a_restart_is_refused_by_its_key_and_the_rest_with_it(begin: Begin) -> None:
    scene = begin()
    scene.run(10)
    with pytest.raises(ConfigurationError) as wrong:
        scene.reload(web={"listen_address": ":1", "enable_lifecycle": True}, window_seconds=60)
    assert wrong.value.problems == (
        "web.listen_address: cannot change without a restart",
        "web.enable_lifecycle: cannot change without a restart",
    )
    assert scene.agent.configuration.window_seconds == 30


def test_what_cannot_be_made_is_refused_before_anything_is_exchanged(begin: Begin, tmp_path: Path) -> None:
    scene = begin()
    scene.run(10)
    model = tmp_path / "config.json"
    model.write_text(json.dumps(find_config("llama-3.1-8b")))
    engines = [{**scene.engines[0], "model": {"config_json": str(model)}}]
    scene.write(engines=engines, window_seconds=60)
    configuration = load_configuration(scene.path)
    model.unlink()  # after it was checked
    pollers = scene.agent.pollers
    with pytest.raises(ConfigurationError, match="No such file"):
        scene.agent.adopt(configuration)
    assert scene.agent.pollers == pollers
    assert scene.agent.configuration.window_seconds == 30
    assert len(scene.run(1).engines) == 2


def test_secrets_are_not_in_what_is_said_of_a_change(begin: Begin, caplog: pytest.LogCaptureFixture) -> None:
    scene = begin()
    kubernetes = {"credentials": [{"pod_labels": ["a"], "headers": {"Authorization": "Bearer s3cret"}}]}
    with_secret = {**scene.engines[0], "headers": {"Authorization": "Bearer s3cret"}}
    said = scene.reload(engines=[with_secret], discovery={**NO_DISCOVERY, "kubernetes": kubernetes})
    assert "discovery.kubernetes.credentials" in said
    assert "s3cret" not in said + caplog.text


def test_without_a_file_there_is_nothing_to_reload_and_nothing_is_wrong(
    begin: Begin, caplog: pytest.LogCaptureFixture
) -> None:
    scene = begin()
    reloader = Reloader(None, scene.agent)
    with pytest.raises(ConfigurationError, match=NOTHING):
        reloader.reload("test")
    assert NOTHING in caplog.text
    scene.run(1)
    assert scene.value("config_last_reload_successful") == 1


# --- when it is read again -------------------------------------------------------------------------


class Recorded:
    """Remembers what it was asked to go on by."""

    def __init__(self) -> None:
        self.windows: list[float] = []
        self.refusals: list[tuple[str, ...]] = []

    def adopt(self, configuration: Any) -> str:
        self.windows.append(configuration.window_seconds)
        return "something"

    def note_refusal(self, problems: Any) -> None:
        self.refusals.append(tuple(problems))


def watching(path: Path, **given: Any) -> tuple[Recorded, Reloader]:
    file, agent = ConfigurationFile(path), Recorded()
    return agent, Reloader(file, agent, loaded=file.load()[1], **given)


def test_a_change_is_believed_when_it_is_seen_twice(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("window_seconds: 30")
    agent, reloader = watching(path)
    reloader.look()
    reloader.look()
    assert agent.windows == []
    path.write_text("window_seconds: 4")  # half of what is being written
    reloader.look()
    path.write_text("window_seconds: 40")
    reloader.look()
    assert (agent.windows, agent.refusals) == ([], [])
    reloader.look()
    reloader.look()
    assert agent.windows == [40]


def test_the_bytes_decide_and_not_when_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("window_seconds: 30")
    agent, reloader = watching(path)
    os.utime(path, (1, 1))
    reloader.look()
    reloader.look()
    assert agent.windows == []
    path.write_text("window_seconds: 50")
    os.utime(path, (1, 1))
    reloader.look()
    reloader.look()
    assert agent.windows == [50]


def test_an_editor_that_renames_and_a_file_that_is_missing_for_a_moment(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("window_seconds: 30")
    agent, reloader = watching(path)
    path.unlink()
    reloader.look()
    new = tmp_path / ".agent.yaml.swp"
    new.write_text("window_seconds: 60")
    new.rename(path)
    reloader.look()
    reloader.look()
    assert (agent.windows, agent.refusals) == ([60], [])


def test_a_file_that_stays_away_is_said_to_be_and_is_loaded_when_it_is_back(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("window_seconds: 30")
    agent, reloader = watching(path)
    path.unlink()
    reloader.look()
    with pytest.raises(ConfigurationError):
        reloader.look()
    reloader.look()
    assert agent.refusals == [("cannot be read: No such file or directory",)]
    path.write_text("window_seconds: 30")
    for _ in range(3):
        reloader.look()
    assert agent.windows == [30]


def test_a_config_map_is_exchanged_behind_its_symlink(tmp_path: Path) -> None:
    for name, seconds in (("..first", 30), ("..second", 70)):
        (tmp_path / name).mkdir()
        (tmp_path / name / "agent.yaml").write_text(f"window_seconds: {seconds}")
    (tmp_path / "..data").symlink_to("..first")
    (tmp_path / "agent.yaml").symlink_to("..data/agent.yaml")
    agent, reloader = watching(tmp_path / "agent.yaml")
    (tmp_path / "..data_tmp").symlink_to("..second")
    (tmp_path / "..data_tmp").rename(tmp_path / "..data")
    reloader.look()
    reloader.look()
    assert agent.windows == [70]


def test_what_was_refused_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("")
    agent, reloader = watching(path)
    path.write_text("window: 30")
    reloader.look()
    with pytest.raises(ConfigurationError, match=r"did you mean window_seconds\?"):
        reloader.look()
    reloader.look()
    assert len(agent.refusals) == 1
    assert agent.windows == []


def test_a_bug_does_not_pass_for_a_success_and_ends_nothing(tmp_path: Path) -> None:
    class Broken(Recorded):
        def adopt(self, configuration: Any) -> str:
            raise RuntimeError("a bug")

    path = tmp_path / "agent.yaml"
    path.write_text("")
    agent = Broken()
    reloader = Reloader(ConfigurationFile(path), agent)
    with pytest.raises(AgentError, match="RuntimeError; the log has the traceback"):
        reloader.reload("test")
    assert len(agent.refusals) == 1
    reloader.start()
    reloader.ask("SIGHUP")
    reloader.ask("SIGHUP")
    reloader.close()
    assert len(agent.refusals) == 3


@pytest.mark.parametrize("held", [b"\xff\xfe", b"#" * (2 << 20)], ids=["not UTF-8", "2 MiB"])
def test_what_cannot_be_a_configuration_is_refused(tmp_path: Path, held: bytes) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("")
    agent, reloader = watching(path)
    path.write_bytes(held)
    with pytest.raises(ConfigurationError, match="cannot be read"):
        reloader.reload("test")
    assert agent.windows == []


def test_a_pipe_is_read_once(tmp_path: Path) -> None:
    path = tmp_path / "pipe"
    os.mkfifo(path)
    writer = threading.Thread(target=lambda: path.write_text("window_seconds: 45"))
    writer.start()
    file = ConfigurationFile(path)
    configuration, loaded = file.load()
    writer.join()
    assert configuration.window_seconds == 45
    agent = Recorded()
    reloader = Reloader(file, agent, loaded=loaded)
    reloader.look()
    reloader.look()
    assert agent.refusals == []
    with pytest.raises(ConfigurationError, match="not a regular file"):
        reloader.reload("test")


def test_whoever_asks_one_is_loaded_after_the_other(tmp_path: Path) -> None:
    path = tmp_path / "agent.yaml"
    path.write_text("")
    inside: list[int] = []
    most: list[int] = []

    class Slow(Recorded):
        def adopt(self, configuration: Any) -> str:
            inside.append(1)
            most.append(len(inside))
            time.sleep(0.01)
            inside.pop()
            return super().adopt(configuration)

    agent = Slow()
    reloader = Reloader(ConfigurationFile(path), agent, loaded=None, look_seconds=0.01)
    reloader.start()
    threads = [threading.Thread(target=reloader.reload, args=("POST",)) for _ in range(8)]
    for thread in threads:
        thread.start()
        reloader.ask("SIGHUP")
    for thread in threads:
        thread.join()
    reloader.close()
    assert max(most) == 1
    assert len(agent.windows) >= 9
