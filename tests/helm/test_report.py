"""The monthly review as the chart makes it: a job that needs no GPU, no right and no agent.

What it is told is parsed by the command's own parser; that it runs is seen in `test_report_running.py`.
"""

from __future__ import annotations

import argparse
import json
import re
import shlex
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
import yaml

from agent.cli import EXIT_WRONG_INPUT
from agent.report.command import EXIT_PARTIAL
from agent.report.options import add_arguments
from helm.chart import CHART
from tests.helm import kubernetes_schemas
from tests.helm.api_server import ApiServer, serving
from tests.helm.chart import Object, helm, objects, of_kind, pod_of, refusal, render, review_of, the
from tests.helm.container import expanded
from tests.helm.pod_security import exceptions_of

VOLUME, LOG = (CHART / "ci" / f"{name}-values.yaml" for name in ("report", "report-log"))
CASES = {"in a volume": VOLUME, "to the log": LOG}
URL = "http://prometheus.monitoring.svc:9090"
ON = ("report.enabled=true", f"report.prometheusUrl={URL}")


def options_of(text: str) -> argparse.Namespace:
    """What the command makes of what its container is told; it must leave nothing over."""
    (container,) = review_of(text)["containers"]
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_arguments(parser)
    variables = {one["name"]: one.get("value", "prometheus") for one in container["env"]}
    return parser.parse_args([expanded(word, variables) for word in container["args"]])


def test_it_is_off_by_default() -> None:
    made = {one["kind"] for one in objects(render())}
    assert not made & {"CronJob", "PersistentVolumeClaim"}
    assert len(of_kind(render(), "ServiceAccount")) == 1


# --- what the command is told --------------------------------------------------------------------------


def test_the_command_understands_every_option_that_is_rendered() -> None:
    options = vars(options_of(render(VOLUME)))
    given = yaml.safe_load(VOLUME.read_text())["report"]
    place = Path("/etc/roofline-agent")
    assert options == {
        **vars(options_of(render(settings=ON))),
        "prometheus_url": given["prometheusUrl"],
        "cluster": "production",
        "group_by": "label:team",
        "format": ("html", "markdown", "json"),
        "tenant": "inference",
        "model": [
            ("acme/chat-70b", place / "model-0" / "config.json"),
            ("acme/search-7b", place / "model-1" / "search-7b.json"),
        ],
        "username": "prometheus",
        "password_file": place / "basic-auth" / "password",
        "ca_file": place / "ca" / "ca.crt",
        "cert_file": place / "client" / "tls.crt",
        "key_file": place / "client" / "tls.key",
        "timeout": 300.0,
    }


def test_without_more_than_a_server_it_asks_for_everything_of_the_last_month() -> None:
    options = options_of(render(settings=(*ON, "report.persistence.enabled=true")))
    parser = argparse.ArgumentParser()
    add_arguments(parser)
    assert options == parser.parse_args(["--prometheus-url", URL, "--output", "/reviews"])


def test_a_token_and_an_authority_are_files_that_are_mounted() -> None:
    text = render(LOG)
    options = options_of(text)
    assert options.bearer_token_file == Path("/etc/roofline-agent/bearer-token/token")
    assert options.ca_file == Path("/etc/roofline-agent/ca/service-ca.crt")
    assert {one["name"]: one for one in review_of(text)["volumes"]}["ca"]["configMap"] == {
        "name": "openshift-service-ca.crt",
        "items": [{"key": "service-ca.crt", "path": "service-ca.crt"}],
    }


@pytest.mark.parametrize("case", CASES)
def test_every_file_that_is_named_is_mounted_read_only(case: str) -> None:
    pod = review_of(render(CASES[case]))
    (container,) = pod["containers"]
    volumes = {one["name"]: one for one in pod["volumes"]}
    named = re.findall(r"/etc/roofline-agent/\S+", "\n".join(container["args"]))
    assert len(named) >= 2
    for path in named:
        (mount,) = [one for one in container["volumeMounts"] if Path(path).parent == Path(one["mountPath"])]
        assert mount["readOnly"] is True
        volume = volumes[mount["name"]]
        source = volume.get("secret") or volume["configMap"]
        assert Path(path).name in {one["path"] for one in source["items"]}
        assert "secret" not in volume or source["defaultMode"] == 0o440


def test_what_looks_like_a_variable_stays_as_it_is() -> None:
    text = render(settings=(*ON, "report.cluster=$(HOME)"))
    assert options_of(text).cluster == "$(HOME)"


def test_no_credential_is_in_the_object() -> None:
    text = json.dumps(the(render(VOLUME), "CronJob"))
    assert "password" in text
    (container,) = review_of(render(VOLUME))["containers"]
    (user,) = [one for one in container["env"] if one["name"] == "PROMETHEUS_USERNAME"]
    assert user["valueFrom"] == {"secretKeyRef": {"name": "mimir-reader", "key": "username"}}


# --- where the review goes -----------------------------------------------------------------------------


def test_a_claim_is_made_and_outlives_the_release() -> None:
    claim = the(render(VOLUME), "PersistentVolumeClaim")
    assert claim["metadata"]["annotations"] == {"helm.sh/resource-policy": "keep"}
    assert claim["spec"] == {
        "accessModes": ["ReadWriteOnce"],
        "storageClassName": "standard",
        "resources": {"requests": {"storage": "5Gi"}},
    }
    (volume,) = [one for one in review_of(render(VOLUME))["volumes"] if one["name"] == "reviews"]
    assert volume["persistentVolumeClaim"]["claimName"] == claim["metadata"]["name"]


@pytest.mark.parametrize("values", CASES.values(), ids=CASES)
def test_a_claim_that_is_there_is_taken(values: Path) -> None:
    text = render(values, settings=("report.persistence.existingClaim=mine",))
    assert of_kind(text, "PersistentVolumeClaim") == []
    assert {"name": "reviews", "persistentVolumeClaim": {"claimName": "mine"}} in review_of(text)["volumes"]


@pytest.mark.parametrize(("given", "rendered"), [("-", ""), ("", None), ("fast", "fast")])
def test_the_storage_class_is_the_one_named_the_default_one_or_none(given: str, rendered: str | None) -> None:
    text = render(VOLUME, settings=(f"report.persistence.storageClass={given}",))
    assert the(text, "PersistentVolumeClaim")["spec"].get("storageClassName") == rendered


def test_without_a_volume_markdown_is_printed() -> None:
    assert options_of(render(LOG)).format == ("markdown",)
    (volume,) = [one for one in review_of(render(LOG))["volumes"] if one["name"] == "reviews"]
    assert volume == {"name": "reviews", "emptyDir": {}}


def test_a_partial_review_is_printed_and_its_status_kept(tmp_path: Path) -> None:
    (container,) = review_of(render(LOG))["containers"]
    command = tmp_path / "bin" / "roofline-agent"
    command.parent.mkdir()
    review = tmp_path / "review-2026-10.md"
    command.write_text(f'#!/bin/sh\necho "{review}"\nprintf "%s\\n" "$@" > {review}\nexit {EXIT_PARTIAL}\n')
    command.chmod(0o755)
    words = [word.replace("/reviews", str(tmp_path)) for word in (*container["command"], *container["args"])]
    environment = {"PATH": f"{command.parent}:/usr/bin:/bin"}
    ran = subprocess.run(words, capture_output=True, text=True, check=False, env=environment)
    assert ran.returncode == EXIT_PARTIAL
    assert ran.stdout.splitlines() == ["report", *words[4:]]
    assert ran.stderr == ""


# --- how it runs ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("case", CASES)
def test_pod_security_restricted_admits_it(case: str) -> None:
    assert exceptions_of(review_of(render(CASES[case]))) == set()


@pytest.mark.parametrize("tier", ["tier-d", "gke", "mig", "volume-mounts"])
def test_privileges_of_the_agents_are_not_its_own(tier: str) -> None:
    text = render(CHART / "ci" / f"{tier}-values.yaml", settings=ON)
    assert exceptions_of(pod_of(text))
    pod = review_of(text)
    assert exceptions_of(pod) == set()
    assert not pod.keys() & {"runtimeClassName", "hostNetwork", "hostPID", "affinity"}
    assert pod["serviceAccountName"] != pod_of(text)["serviceAccountName"]


@pytest.mark.parametrize("case", CASES)
def test_it_needs_no_gpu_no_token_and_no_place_to_write_but_two(case: str) -> None:
    text = render(CASES[case])
    pod = review_of(text)
    (container,) = pod["containers"]
    environment = {one["name"]: one.get("value") for one in container["env"]}
    assert environment["NVIDIA_VISIBLE_DEVICES"] == "void"
    assert environment["MPLCONFIGDIR"] == "/tmp"
    assert "affinity" not in pod
    assert pod["automountServiceAccountToken"] is False
    assert container["securityContext"]["readOnlyRootFilesystem"] is True
    assert [one["mountPath"] for one in container["volumeMounts"] if not one.get("readOnly")] == [
        "/reviews",
        "/tmp",
    ]
    account = next(
        one for one in of_kind(text, "ServiceAccount") if one["metadata"]["name"] == pod["serviceAccountName"]
    )
    assert account["automountServiceAccountToken"] is False


def test_its_account_has_no_right() -> None:
    text = render(CHART / "ci" / "tier-b-namespaces-values.yaml", settings=ON)
    subjects = {
        subject["name"]
        for kind in ("RoleBinding", "ClusterRoleBinding")
        for one in of_kind(text, kind)
        for subject in one["subjects"]
    }
    assert subjects == {"roofline-agent"}
    assert review_of(text)["serviceAccountName"] == "roofline-agent-report"


def test_what_cannot_get_better_is_not_tried_again() -> None:
    job = the(render(settings=ON), "CronJob")["spec"]["jobTemplate"]["spec"]
    assert job["template"]["spec"]["restartPolicy"] == "Never"
    fails, ignores = job["podFailurePolicy"]["rules"]
    (container,) = job["template"]["spec"]["containers"]
    assert fails == {
        "action": "FailJob",
        "onExitCodes": {
            "containerName": container["name"],
            "operator": "In",
            "values": [EXIT_WRONG_INPUT, EXIT_PARTIAL],
        },
    }
    assert ignores["action"] == "Ignore"
    assert job["backoffLimit"] == 6


def test_a_kubernetes_without_failure_policies_is_given_none() -> None:
    text = render(VOLUME, version="1.25.0")
    assert "podFailurePolicy" not in the(text, "CronJob")["spec"]["jobTemplate"]["spec"]


def test_two_never_run_at_once() -> None:
    assert the(render(settings=ON), "CronJob")["spec"]["concurrencyPolicy"] == "Forbid"


def test_its_name_is_short_enough_for_a_cron_job() -> None:
    text = render(settings=(*ON, f"fullnameOverride={'n' * 60}", "report.persistence.enabled=true"))
    assert len(the(text, "CronJob")["metadata"]["name"]) <= 52


@pytest.mark.parametrize(
    ("settings", "image"),
    [
        ((), "roofline-agent/roofline-agent:0.1.0-report"),
        (
            ("image.tag=1.2", "image.registry=r.example.com"),
            "r.example.com/roofline-agent/roofline-agent:1.2-report",
        ),
        ((f"image.digest=sha256:{'0' * 64}",), "roofline-agent/roofline-agent:0.1.0-report"),
        (("report.image.repository=own/review", "report.image.tag=v7"), "own/review:v7"),
        ((f"report.image.digest=sha256:{'1' * 64}",), f"roofline-agent/roofline-agent@sha256:{'1' * 64}"),
        (
            ("global.imageRegistry=mirror.example.com", "report.image.registry=r.example.com"),
            "mirror.example.com/roofline-agent/roofline-agent:0.1.0-report",
        ),
    ],
)
def test_its_image_is_named(settings: tuple[str, ...], image: str) -> None:
    (container,) = review_of(render(settings=(*ON, *settings)))["containers"]
    assert container["image"] == image


# --- what is the agents' stays theirs ------------------------------------------------------------------


def selectors(text: str) -> Iterator[tuple[str, Mapping[str, str]]]:
    """Of pods, by the agents' objects."""
    for one in objects(text):
        spec = one.get("spec", {})
        name = f"{one['kind']} {one['metadata']['name']}"
        if one["kind"] in ("ServiceMonitor", "PodMonitor", "PodMonitoring", "DaemonSet"):
            yield name, spec["selector"]["matchLabels"]
        elif one["kind"] == "Service":
            yield name, spec["selector"]
        elif one["kind"] == "NetworkPolicy":
            yield name, spec["podSelector"]["matchLabels"]


@pytest.mark.parametrize("monitor", ["serviceMonitor", "podMonitor", "podMonitoring"])
def test_nothing_that_selects_agents_selects_its_pods_nor_the_reverse(monitor: str) -> None:
    text = render(VOLUME, settings=(f"{monitor}.enabled=true",))
    review = the(text, "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"]["labels"]
    agent = the(text, "DaemonSet")["spec"]["template"]["metadata"]["labels"]
    by_pod = {
        pod: {name for name, wanted in selectors(text) if wanted.items() <= labels.items()}
        for pod, labels in (("review", review), ("agent", agent))
    }
    assert by_pod["review"] == {"NetworkPolicy roofline-agent-report"}
    assert len(by_pod["agent"]) == 4
    assert "NetworkPolicy roofline-agent-report" not in by_pod["agent"]


def test_labels_of_ones_own_cannot_make_it_an_agent() -> None:
    settings = (*ON, r"report.podLabels.app\.kubernetes\.io/component=agent")
    labels = the(render(settings=settings), "CronJob")["spec"]["jobTemplate"]["spec"]["template"]["metadata"][
        "labels"
    ]
    assert labels["app.kubernetes.io/component"] == "report"


# --- the network ---------------------------------------------------------------------------------------


def egress(url: str, *settings: str) -> list[Object]:
    text = render(
        settings=(
            "report.enabled=true",
            f"report.prometheusUrl={url}",
            "networkPolicy.enabled=true",
            "networkPolicy.egress.enabled=true",
            *settings,
        )
    )
    (policy,) = [one for one in of_kind(text, "NetworkPolicy") if one["metadata"]["name"].endswith("-report")]
    assert policy["spec"]["ingress"] == []
    names, *rules = policy["spec"]["egress"]
    assert {one["port"] for one in names["ports"]} == {53}
    return list(rules)


@pytest.mark.parametrize(
    ("url", "rule"),
    [
        (URL, {"namespace": "monitoring"}),
        ("http://mimir.metrics.svc.cluster.local/prometheus", {"namespace": "metrics"}),
        ("https://mimir.example.com/prometheus", {"port": 443}),
        ("http://mimir.example.com", {"port": 80}),
        ("http://[2001:db8::1]:9090/", {"port": 9090}),
        ("http://10.0.0.7:8481/select/0/prometheus", {"port": 8481}),
        ("http://prometheus.svc.example.com:9090", {"port": 9090}),
    ],
)
def test_it_reaches_names_and_the_prometheus_and_nothing_else(url: str, rule: dict[str, object]) -> None:
    if "namespace" in rule:
        labels = {"kubernetes.io/metadata.name": rule["namespace"]}
        assert egress(url) == [{"to": [{"namespaceSelector": {"matchLabels": labels}}]}]
    else:
        assert egress(url) == [{"ports": [{"port": rule["port"], "protocol": "TCP"}]}]


def test_more_may_be_let_through() -> None:
    (_, more) = egress(URL, "report.egress.extra[0].ports[0].port=5353")
    assert more == {"ports": [{"port": 5353}]}


def test_without_egress_only_what_comes_in_is_limited() -> None:
    text = render(settings=(*ON, "networkPolicy.enabled=true"))
    for policy in of_kind(text, "NetworkPolicy"):
        assert policy["spec"]["policyTypes"] == ["Ingress"]


# --- values --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        (("report.enabled=true",), "report.enabled needs report.prometheusUrl"),
        (
            (*ON, "report.prometheusUrl=http://me:secret@prometheus"),
            "report.prometheusUrl must hold no credentials",
        ),
        ((*ON, "report.prometheusUrl=prometheus:9090"), "prometheusUrl"),
        ((*ON, "report.groupBy=team"), "groupBy"),
        ((*ON, "report.formats={pdf}"), "formats"),
        ((*ON, "report.models[0].name=m"), "configMap"),
        ((*ON, "report.persistance.enabled=true"), "persistance is not allowed"),
        (
            (*ON, "report.auth.bearerTokenSecret.name=a", "report.auth.basicAuthSecret.name=b"),
            "a token or a name with a password",
        ),
        ((*ON, "report.auth.caSecret.name=a", "report.auth.caConfigMap.name=b"), "not both"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_cannot_be_meant_is_refused(settings: tuple[str, ...], said: str) -> None:
    assert said in refusal(*settings)


def test_what_an_older_charts_values_lack_is_as_by_default(tmp_path: Path) -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    del values["report"]
    older = tmp_path / "chart"
    older.mkdir()
    for path in CHART.iterdir():
        if path.name != "values.yaml":
            (older / path.name).symlink_to(path)
    (older / "values.yaml").write_text(yaml.safe_dump(values))
    for settings in (ON, (*ON, "report.persistence.enabled=true", "networkPolicy.enabled=true")):
        assert objects(render(settings=settings, chart=older)) == objects(render(settings=settings))
    assert objects(render(chart=older)) == objects(render())


# --- what is said after it is installed ----------------------------------------------------------------


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[ApiServer, Path]]:
    with serving(tmp_path_factory.mktemp("cluster"), operator=True) as begun:
        yield begun


def notes(cluster: tuple[ApiServer, Path], name: str, *arguments: str | Path) -> str:
    more = ("--namespace", "gpu", "--disable-openapi-validation", "--qps", "1000", "--burst-limit", "1000")
    ran = helm("--kubeconfig", cluster[1], "install", name, CHART, *more, *arguments)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_the_notes_say_how_to_have_one_now_and_how_to_copy_what_is_kept(
    cluster: tuple[ApiServer, Path],
) -> None:
    said = notes(cluster, "kept", "--values", VOLUME)
    review = "kept-roofline-agent-report"
    assert f"create job --from=cronjob/{review} " in said
    assert f"PersistentVolumeClaim {review}" in said
    assert "WARNING: no volume keeps" not in said
    (overrides,) = re.findall(r"--overrides=(\S+.*)$", said, re.MULTILINE)
    pod = json.loads(shlex.split(overrides)[0])["spec"]
    assert exceptions_of(pod) == set()
    assert pod["volumes"][0]["persistentVolumeClaim"]["claimName"] == review
    assert (
        kubernetes_schemas.problems_of(
            {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "reader"}, "spec": pod}, "1.31"
        )
        == []
    )


def test_the_notes_say_what_is_lost_without_a_volume(cluster: tuple[ApiServer, Path]) -> None:
    said = notes(cluster, "printed", "--values", LOG)
    assert "WARNING: no volume keeps the reviews" in said
    assert "printed to its log (markdown)" in said
    assert "report.persistence.enabled=true" in said


def test_the_notes_say_nothing_of_a_review_that_is_off(cluster: tuple[ApiServer, Path]) -> None:
    assert "review" not in notes(cluster, "off")
