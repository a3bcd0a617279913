"""What runs tradebot elsewhere is right by its schema, pinned, closed, and means the same in both places."""

import json
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from conftest import missing
from servers.compose import filled
from servers.image import ignores, instructions

from tradebot.config import Config, load_config
from tradebot.metrics import StoreCollector
from tradebot.service import Service
from tradebot.store import open_store

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent
DEPLOY = ROOT / "deploy"
WORKFLOWS = sorted((ROOT / ".github" / "workflows").glob("*.yml"))
KUSTOMIZED = ("kubernetes/overlays/paper", "kubernetes/overlays/alpaca", "monitoring")
OURS = {"serve", "scheduler", "worker", "executor", "broker", "migrate"}
SHARED = {"/app/reports": "reports", "/app/models": "models"}
SHARING = OURS - {"broker", "migrate"}  # they run no notebook, compute no signal and judge no promotion


def checked(*words: object) -> None:
    done = subprocess.run([*map(str, words)], capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("schema", "files"),
    [
        ("compose-spec", [ROOT / "docker-compose.yml"]),
        ("github-workflows", WORKFLOWS),
        ("dependabot", [ROOT / ".github" / "dependabot.yml"]),
    ],
)
def test_files_of_others_are_what_their_schemas_allow(schema: str, files: list[Path]) -> None:
    checked(BIN / "check-jsonschema", "--builtin-schema", f"vendor.{schema}", *files)


# --- workflows


def test_every_action_is_pinned_by_its_commit_and_says_which_version_that_is() -> None:
    used = re.findall(r"uses: (.*)", "".join(path.read_text() for path in WORKFLOWS))
    assert len(used) > 5
    for one in used:
        assert re.fullmatch(r"(\./[\w./-]+|[\w.-]+/[\w./-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+)", one), one
    by_name: dict[str, set[str]] = {}
    for one in used:
        by_name.setdefault(one.partition("@")[0], set()).add(one)
    assert all(len(versions) == 1 for versions in by_name.values()), "one version of each"


@pytest.mark.parametrize("path", WORKFLOWS, ids=lambda path: path.stem)
def test_a_workflow_may_only_read_unless_a_job_says_more_and_puts_nothing_foreign_into_a_shell(
    path: Path,
) -> None:
    flow = yaml.safe_load(path.read_text())
    assert flow["permissions"] == {"contents": "read"}
    assert "pull_request_target" not in flow[True]  # YAML reads `on` as true
    for job in flow["jobs"].values():
        assert "uses" in job or job["timeout-minutes"]
        for step in job.get("steps", []):
            assert "${{" not in step.get("run", "")
            if "checkout" in step.get("uses", ""):
                assert step["with"]["persist-credentials"] is False


# --- the image


def test_the_image_is_locked_and_takes_nothing_that_is_ones_own() -> None:
    text = (ROOT / "Dockerfile").read_text()
    steps = list(instructions(text))
    assert all("--frozen" in words for name, words in steps if name == "RUN" and "uv sync" in words)
    assert re.search(r"uv==\d", text)
    assert all(re.search(r":\d+\.\d+-", words) for name, words in steps if name == "FROM")
    assert [words for name, words in steps if name == "USER"] == ["$UID:$UID"]
    patterns = [
        line
        for line in (ROOT / ".dockerignore").read_text().splitlines()
        if line and not line.startswith("#")
    ]
    for own in (
        ".env",
        "data/ledger.duckdb",
        "reports/x/notebook.html",
        "models/trend.skops",
        ".git/config",
        "KILL",
        "nbs/pipelines/x.html",
    ):
        assert ignores(patterns, own), own
    assert ignores(patterns, "tradebot/__pycache__/x.pyc")
    sources = [
        source
        for name, words in steps
        if name == "COPY" and not words.startswith("--from")
        for source in words.split()[:-1]
    ]
    assert sources
    for source in sources:
        assert (ROOT / source).exists(), source
        assert not ignores(patterns, source), source


def test_the_extras_that_the_image_installs_exist() -> None:
    known = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    assert set(re.findall(r"--extra (\w+)", (ROOT / "Dockerfile").read_text())) == set(known) - {"cluster"}


# --- compose


def stack(**environment: str) -> dict[str, Any]:
    return yaml.safe_load(filled((ROOT / "docker-compose.yml").read_text(), environment))


def test_without_a_password_the_stack_says_what_to_do() -> None:
    with pytest.raises(KeyError, match=r"POSTGRES_PASSWORD: put a password of the database into \.env"):
        stack()
    assert "POSTGRES_PASSWORD" in (ROOT / ".env.example").read_text()


def test_every_port_is_this_machines_alone_and_every_image_has_a_version() -> None:
    for name, service in stack(POSTGRES_PASSWORD="x")["services"].items():
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", [])), name
        image = service["image"]
        assert "build" in service or re.search(r":v?\d+\.\d+", image), image
        assert "privileged" not in service
        assert "build" not in service or service["cap_drop"] == ["ALL"]


def test_what_spends_money_starts_only_when_it_is_asked_for() -> None:
    services = stack(POSTGRES_PASSWORD="x")["services"]
    started = {name for name, service in services.items() if "profiles" not in service}
    assert started == {"database", "redis", "migrate", "serve", "scheduler", "worker", "jupyter"}
    assert services["executor"]["profiles"] == ["trading"]
    assert services["paper-executor"]["network_mode"] == "service:broker"


def test_all_containers_share_reports_and_models_which_begin_as_folders_of_the_image() -> None:
    compose = stack(POSTGRES_PASSWORD="x")
    for name, service in compose["services"].items():
        if "build" in service:
            mounts = {target: source for source, target, *_ in (one.split(":") for one in service["volumes"])}
            assert SHARED.items() <= mounts.items(), name
    assert set(SHARED.values()) <= compose["volumes"].keys()
    (made,) = re.findall(r"install -d -o tradebot -g tradebot (.*)", (ROOT / "Dockerfile").read_text())
    assert SHARED.keys() <= set(made.split()), "a volume belongs to whom its folder in the image does"


# --- Kubernetes


@pytest.fixture(scope="module")
def kubectl() -> str:
    """A kubectl that knows today's kustomizations."""
    if (program := shutil.which("kubectl")) is None:
        missing("kubectl")
    told = subprocess.run([program, "version", "--client", "-o", "json"], capture_output=True, text=True)
    if int(re.sub(r"\D", "", json.loads(told.stdout)["clientVersion"]["minor"])) < 27:
        missing("kubectl 1.27 or newer")
    return program


@pytest.fixture(scope="module", params=KUSTOMIZED)
def manifests(request: pytest.FixtureRequest, kubectl: str) -> list[dict[str, Any]]:
    done = subprocess.run([kubectl, "kustomize", DEPLOY / request.param], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not done.stderr, "nothing that is going away"
    return list(yaml.safe_load_all(done.stdout))


def pods(manifests: list[dict[str, Any]]) -> Iterator[tuple[str, dict[str, Any]]]:
    for one in manifests:
        if template := one.get("spec", {}).get("template"):
            yield one["metadata"]["name"], template["spec"]


@pytest.mark.parametrize("version", ["1.30", "1.37"])
def test_manifests_are_what_kubernetes_knows(manifests: list[dict[str, Any]], version: str) -> None:
    for one in manifests:
        kubernetes_validate.validate(one, version, strict=True)
    wrong = {"apiVersion": "apps/v1", "kind": "Deployment", "spec": {"replica": 1}}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(wrong, version, strict=True)


def test_no_pod_may_more_than_it_must(manifests: list[dict[str, Any]]) -> None:
    assert list(pods(manifests))
    for name, pod in pods(manifests):
        context = pod["securityContext"]
        assert context["runAsNonRoot"] is True, name
        assert context["seccompProfile"] == {"type": "RuntimeDefault"}, name
        assert pod["automountServiceAccountToken"] is False, name
        for container in pod["containers"]:
            assert container["securityContext"] == {
                "allowPrivilegeEscalation": False,
                "readOnlyRootFilesystem": True,
                "capabilities": {"drop": ["ALL"]},
            }, name
            assert container["resources"]["requests"].keys() == {"cpu", "memory"}, name
            assert "memory" in container["resources"]["limits"], name
            assert re.search(r":v?\d", container["image"]), container["image"]
            mounted = {volume["name"] for volume in pod.get("volumes", [])}
            claimed = {"database", "prometheus"}
            assert {mount["name"] for mount in container["volumeMounts"]} <= mounted | claimed, name


def test_whatever_answers_requests_is_probed_and_serve_by_what_needs_no_key(
    manifests: list[dict[str, Any]],
) -> None:
    for name, pod in pods(manifests):
        for container in pod["containers"]:
            probes = {probe for probe in container if probe.endswith("Probe")}
            if "ports" in container:
                assert probes == {"startupProbe", "livenessProbe", "readinessProbe"}, name
            if name == "serve":
                asked = {container[probe]["httpGet"]["path"] for probe in probes}
                assert asked == {"/healthz", "/readyz"}


def test_what_pods_refer_to_is_there(manifests: list[dict[str, Any]]) -> None:
    by_kind: dict[str, set[str]] = {}
    for one in manifests:
        by_kind.setdefault(one["kind"], set()).add(one["metadata"]["name"])
    for name, pod in pods(manifests):
        for volume in pod.get("volumes", []):
            if "configMap" in volume:
                assert volume["configMap"]["name"] in by_kind["ConfigMap"], name
            if "persistentVolumeClaim" in volume:
                assert volume["persistentVolumeClaim"]["claimName"] in by_kind["PersistentVolumeClaim"], name
    for service in (one for one in manifests if one["kind"] == "Service"):
        labels = [
            one["spec"]["template"]["metadata"]["labels"]
            for one in manifests
            if "template" in one.get("spec", {})
        ]
        assert any(service["spec"]["selector"].items() <= one.items() for one in labels), service["metadata"]


def test_whatever_computes_signals_or_judges_a_promotion_has_the_same_reports_and_models(
    manifests: list[dict[str, Any]],
) -> None:
    names = set()
    for _, pod in pods(manifests):
        claims = {
            volume["name"]: volume["persistentVolumeClaim"]["claimName"]
            for volume in pod.get("volumes", [])
            if "persistentVolumeClaim" in volume
        }
        for container in (one for one in pod["containers"] if one["name"] in SHARING):
            mounts = {mount["mountPath"]: claims.get(mount["name"]) for mount in container["volumeMounts"]}
            assert SHARED.items() <= mounts.items(), container["name"]
            names.add(container["name"])
    claimed = {
        one["metadata"]["name"]: one["spec"]["accessModes"]
        for one in manifests
        if one["kind"] == "PersistentVolumeClaim"
    }
    assert names in (SHARING, set()), "each overlay of ours runs them all"
    assert not names or claimed["models"] == claimed["reports"], "on one node, or written from many"


def test_one_executor_an_account_and_one_is_gone_before_the_next(manifests: list[dict[str, Any]]) -> None:
    executors = [
        one for one in manifests if one["kind"] == "Deployment" and one["metadata"]["name"] == "executor"
    ]
    assert len(executors) == ("scheduler" in dict(pods(manifests))), "each overlay of ours has one"
    for one in executors:
        assert one["spec"]["replicas"] == 1
        assert one["spec"]["strategy"] == {"type": "Recreate"}


def test_settings_are_ones_that_there_are(manifests: list[dict[str, Any]], tmp_path: Path) -> None:
    for one in manifests:
        if one["kind"] == "ConfigMap" and one["metadata"]["name"].startswith("settings"):
            load_config(tmp_path, one["data"])


def test_compose_and_kubernetes_run_the_same_commands(kubectl: str) -> None:
    compose = stack(POSTGRES_PASSWORD="x")["services"]
    found = {}
    for overlay in KUSTOMIZED[:2]:
        done = subprocess.run(
            [kubectl, "kustomize", DEPLOY / overlay], capture_output=True, text=True, check=True
        )
        for _, pod in pods(list(yaml.safe_load_all(done.stdout))):
            found |= {one["name"]: one["command"] for one in pod["containers"] if "tradebot" in one["image"]}
    assert found.keys() >= OURS
    for name in OURS:
        assert found[name] == compose[name]["command"], name


# --- monitoring


def test_rules_are_right_and_fire_when_they_should() -> None:
    if (promtool := shutil.which("promtool")) is None:
        missing("promtool")
    checked(promtool, "check", "rules", DEPLOY / "monitoring" / "alerts.yml")
    checked(promtool, "test", "rules", DEPLOY / "monitoring" / "alerts.test.yml")


def test_every_rule_says_how_bad_it_is_what_happened_and_what_to_do_and_has_a_test() -> None:
    tests = (DEPLOY / "monitoring" / "alerts.test.yml").read_text()
    for group in yaml.safe_load((DEPLOY / "monitoring" / "alerts.yml").read_text())["groups"]:
        for rule in group["rules"]:
            assert rule["labels"]["severity"] in ("critical", "warning")
            assert rule["annotations"].keys() == {"summary", "action"}
            assert rule["alert"] in tests


def test_rules_and_dashboard_ask_for_metrics_that_there_are(tmp_path: Path) -> None:
    store = open_store(f"duckdb:///{tmp_path}/data")
    ours = {"tradebot_requests_total", "tradebot_request_seconds_bucket", "tradebot_provider_errors_total"}
    known = {
        one.name for one in StoreCollector(Service(Config(home=tmp_path), store), lambda: 0).collect()
    } | ours
    known |= {
        "tradebot_cash_dollars",
        "tradebot_halted",
        "tradebot_newest_bar_age_seconds",
        "tradebot_promoted",
    }  # once there is something
    files = (DEPLOY / "monitoring" / "alerts.yml", DEPLOY / "monitoring" / "grafana" / "tradebot.json")
    asked = set(re.findall(r"\btradebot_\w+", "".join(path.read_text() for path in files)))
    assert asked <= known
    assert len(asked) > 12


def test_the_dashboards_panels_have_titles_and_do_not_overlap() -> None:
    dashboard = json.loads((DEPLOY / "monitoring" / "grafana" / "tradebot.json").read_text())
    taken: set[tuple[int, int]] = set()
    for panel in dashboard["panels"]:
        assert panel["title"]
        assert panel["datasource"]["uid"] == "prometheus"
        at = panel["gridPos"]
        assert at["x"] + at["w"] <= 24
        cells = {(x, y) for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])}
        assert not cells & taken, panel["title"]
        taken |= cells
