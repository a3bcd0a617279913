"""The Dockerfile's steps carried out, and every command of docker-compose.yml run from what comes of them, without an engine.

PostgreSQL, Redis and Prometheus are real ones of this machine; tests/servers/image.py says what is not as an engine has it.
"""

import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing
from datetime import UTC, datetime
from http.client import HTTPConnection
from pathlib import Path
from urllib.parse import quote
from urllib.request import urlopen

import pandas as pd
import pytest
import yaml
from conftest import missing
from servers import redis
from servers.compose import Stack
from servers.image import Image, Stage
from servers.network import own_network
from servers.postgres import PostgresServer, binaries, execute

from tradebot.config import Config
from tradebot.dues import ask
from tradebot.schedules import load_schedules
from tradebot.store import open_store

ROOT = Path(__file__).resolve().parent.parent
MONITORING = ROOT / "deploy" / "monitoring"
PASSWORD = "not:a/word@all"  # a password that no URL could hold as it is
URL = f"postgresql://tradebot:{quote(PASSWORD, safe='')}@127.0.0.1:5432/tradebot"
WORDS = {"POSTGRES_PASSWORD": PASSWORD}
pytestmark = pytest.mark.timeout(600)


@pytest.fixture(scope="module")
def folder() -> Iterator[Path]:
    made = Path(
        tempfile.mkdtemp(prefix="tradebot-image-")
    )  # two gigabytes, which pytest would keep three times
    made.chmod(0o755)  # who works in it is not us
    yield made
    subprocess.run(
        ["sh", "-c", 'rm -rf "$0" >/dev/null 2>&1 &', made], check=True
    )  # a minute, on a busy disk


@pytest.fixture(scope="module")
def stage(folder: Path) -> Stage:
    if os.geteuid() != 0:
        pytest.skip("only root may mount what the image consists of")
    if not os.access("/proc/self/ns/net", os.R_OK) or not all(map(shutil.which, ("unshare", "setpriv"))):
        missing("util-linux")
    return Image(ROOT, folder / "image", folder / "build.log").stage


@pytest.fixture(scope="module")
def stack(stage: Stage, folder: Path) -> Iterator[Stack]:
    """The services in a network of their own, by the ports and names of the compose file; the database is there, and Redis."""
    if (programs := binaries()) is None:
        missing("PostgreSQL's server programs")
    if redis.program() is None:
        missing("redis-server")
    with own_network():
        server = PostgresServer(folder / "postgres", programs, ["fsync=off"], port=5432)
        execute(
            server.url(user="owner"),
            f"CREATE ROLE tradebot LOGIN PASSWORD '{PASSWORD}'",
            "CREATE DATABASE tradebot OWNER tradebot TEMPLATE template0",
        )
        broker = redis.RedisServer(folder, port=6379)
        stack = Stack(ROOT, stage, folder, WORDS)
        yield stack
        stack.end()
        broker.stop()
        server.stop()


@pytest.fixture(scope="module")
def key(stack: Stack) -> str:
    """A key as whoever reads the documentation makes it, the tables being there."""
    assert stack.run("migrate") == 0, stack.said("migrate")
    assert stack.run("tradebot", "key", "create", "laptop", "--scope", "trade") == 0
    return stack.said("tradebot").split()[-1]


@pytest.fixture(scope="module")
def served(stack: Stack, key: str) -> Stack:
    """The stack with its server, whose health check passes."""
    stack.start("serve")
    stack.well("serve")
    return stack


def get(path: str, host: str = "127.0.0.1:8000", **headers: str) -> tuple[int, bytes]:
    with closing(HTTPConnection("127.0.0.1", 8000, timeout=30)) as connection:
        connection.request("GET", path, headers={"Host": host, **headers})
        answer = connection.getresponse()
        return answer.status, answer.read()


def test_nobody_is_served_before_there_is_a_key(stack: Stack) -> None:
    assert stack.run("migrate") == 0, stack.said("migrate")
    assert stack.run("serve") == 2
    assert "there is no key yet; make one first: tradebot key create NAME" in stack.said("serve")


def test_the_image_is_nobodys_who_matters_and_holds_what_it_should(stage: Stage, stack: Stack) -> None:
    home = stage.root / "app"
    assert stage.user == "1000:1000"
    names = {path.name for path in home.iterdir()}
    assert names == {
        *(".cache", ".venv", "LICENSE", "README.md", "backups", "data", "nbs", "pyproject.toml"),
        *("models", "reports", "schedules", "settings.ini", "tradebot"),
    }
    assert not list(home.glob("nbs/**/*.html"))
    assert not (home / ".venv" / "bin" / "ruff").exists(), "what only development needs stays out"
    looked = stack.container("tradebot", ["--help"])
    assert looked.wait(60) == 0
    tried = looked.run(["touch", "/app/x", "/app/nbs/x", "/usr/local/x"])
    assert tried.stderr.count("Read-only file system") == 3
    assert "CapEff:\t0000000000000000\n" in looked.run(["cat", "/proc/self/status"]).stdout
    folders = ("/app/.cache", "/app/data", "/app/models", "/app/reports", "/tmp", "/home/tradebot")
    written = looked.run(["touch", *(f"{folder}/x" for folder in folders)])
    assert written.returncode == 0, written.stderr


def test_probes_need_no_key_prometheus_one_and_a_stranger_is_not_known(served: Stack, key: str) -> None:
    shown = {"Authorization": f"Bearer {key}"}
    for host in ("127.0.0.1:8000", "10.244.0.17:8000", "serve:8000"):  # a health check, a kubelet, Prometheus
        assert get("/healthz", host)[0] == get("/readyz", host)[0] == 200, host
        assert get("/metrics", host)[0] == 401
        assert get("/metrics", host, **shown)[0] == 200
    assert get("/healthz", "evil.example")[0] == 421
    assert get("/latest")[0] == 401, "within the stack, nobody sits at this machine"


def test_a_due_run_goes_from_the_scheduler_to_a_worker_and_its_report_to_the_server(
    served: Stack, key: str
) -> None:
    served.start("scheduler")
    served.start("worker")
    store = open_store(URL)
    daily = next(one for one in load_schedules(Config(home=ROOT)) if one.name == "daily")
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    ask(store, daily, now, now)
    served.until("worker", lambda: "succeeded" in store.runs()["status"].tolist(), 240)
    run = store.runs().query("status == 'succeeded'").iloc[0]
    assert run["notebook"] == "pipeline.ipynb"
    assert (served.volume("reports") / run["id"] / "notebook.html").stat().st_uid == 1000
    status, page = get(f"/reports/{run['id']}/notebook.html", **{"X-API-Key": key})
    assert status == 200
    assert b"12,154 bars of 5 symbols" in page


def test_a_model_that_one_container_trains_is_there_for_the_others(served: Stack, key: str) -> None:
    line = "train weekly AAPL IBM --every 20 --horizon 10 --refit 1000 --minimum 0.5 --feature rsi(14)"
    assert served.run("tradebot", *line.split(), seconds=240) == 0, served.said("tradebot")[-3000:]
    (told,) = json.loads(get("/models", **{"X-API-Key": key})[1])
    assert (told["name"], told["problem"]) == ("weekly", "")
    for name in ("scheduler", "worker"):
        listed = served.up[name].run(["tradebot", "models"])
        assert listed.returncode == 0, listed.stderr
        assert re.search(r"^ *weekly .* yes$", listed.stdout, re.MULTILINE), name


def test_the_sample_is_traded_as_make_run_does_and_an_order_is_filled(served: Stack, key: str) -> None:
    walk = ["tradebot", "run", "nbs/pipelines/execute.ipynb", "-p", "sessions=3"]
    assert served.run("broker", "tradebot", "broker", "--from", "2012-12-18", "--", *walk) == 0, served.said(
        "broker"
    )
    orders = json.loads(get("/orders", **{"X-API-Key": key})[1])["items"]
    assert [(one["symbol"], one["status"]) for one in orders] == [("GOOG", "FILLED")]


def test_the_paper_executor_waits_at_the_broker_and_the_kill_file_stops_it_from_any_container(
    served: Stack, key: str
) -> None:
    (served.volume("data") / "paper_broker.sqlite").unlink()  # from the sample's clock to today's
    served.start("broker")
    served.until("broker", lambda: "paper broker at http://127.0.0.1:8765" in served.said("broker"))
    served.start("paper-executor")
    served.until("paper-executor", lambda: "waiting for signals" in served.said("paper-executor"))
    served.until("paper-executor", lambda: get("/account", **{"X-API-Key": key})[0] == 200)
    assert served.up["serve"].run(["touch", "reports/KILL"]).returncode == 0
    told = served.up["paper-executor"].run(["tradebot", "kill-switch", "status"])
    assert told.stdout.startswith("kill switch: ON"), told.stderr
    assert json.loads(get("/kill-switch", **{"X-API-Key": key})[1])["on"] is True
    assert served.run("tradebot", "kill-switch", "off") == 0
    assert json.loads(get("/kill-switch", **{"X-API-Key": key})[1])["on"] is False
    for name in ("paper-executor", "broker"):
        assert served.up.pop(name).stop() == 130, served.said(name)[-3000:]
        assert "Traceback" not in served.said(name)


def test_the_lab_starts_with_a_token_and_has_the_kernel(stack: Stack, key: str) -> None:
    stack.start("jupyter")
    stack.well("jupyter")
    assert re.search(r"http://127\.0\.0\.1:8888/lab\?token=[0-9a-f]{48}", stack.said("jupyter"))
    kernels = stack.up["jupyter"].run(["jupyter", "kernelspec", "list"])
    assert "python3" in kernels.stdout, kernels.stderr


def expressions() -> dict[str, str]:
    """What the dashboard and the rules ask, by where it stands."""
    dashboard = json.loads((MONITORING / "grafana" / "tradebot.json").read_text())
    rules = yaml.safe_load((MONITORING / "alerts.yml").read_text())["groups"]
    asked = {
        f"{panel['title']} {target['refId']}": target["expr"]
        for panel in dashboard["panels"]
        for target in panel["targets"]
    }
    return asked | {rule["alert"]: rule["expr"] for group in rules for rule in group["rules"]}


@pytest.fixture
def prometheus(served: Stack, key: str, folder: Path) -> Iterator[str]:
    """A real one with the configuration that is shipped, but for where the key lies."""
    if (program := shutil.which("prometheus")) is None:
        missing("prometheus")
    open_store(URL).write_failures("yfinance", {"XYZZY": "no bars"}, pd.Timestamp("2024-11-29"))
    home = folder / "prometheus"
    home.mkdir()
    shutil.copy(MONITORING / "alerts.yml", home)
    (home / "key").write_text(f"{key}\n")
    text = (MONITORING / "prometheus.yml").read_text()
    assert "/run/secrets/metrics-key" in text
    text = text.replace("/run/secrets/metrics-key", str(home / "key")).replace("serve:8000", "127.0.0.1:8000")
    (home / "prometheus.yml").write_text(re.sub(r"_interval: 15s", "_interval: 2s", text))
    words = [
        "--config.file=prometheus.yml",
        "--storage.tsdb.path=data",
        "--web.listen-address=127.0.0.1:9090",
    ]
    with (home / "log").open("wb") as log:
        process = subprocess.Popen([program, *words], cwd=home, stdout=log, stderr=log)
    yield "http://127.0.0.1:9090/api/v1"
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0, (home / "log").read_text()[-2000:]


def test_whatever_the_dashboard_and_the_alerts_ask_a_real_prometheus_answers(prometheus: str) -> None:
    def asked(path: str) -> dict:
        with urlopen(f"{prometheus}/{path}", timeout=10) as answer:
            told = json.load(answer)
        assert told["status"] == "success"
        return told["data"]

    def until(true, seconds: float = 60.0) -> None:
        end = time.monotonic() + seconds
        while not true():
            assert time.monotonic() < end, asked("targets")
            time.sleep(0.5)

    def up() -> bool:
        try:
            return [one["value"][1] for one in asked("query?query=up")["result"]] == ["1"]
        except OSError:
            return False

    until(up)
    rules = [rule for group in asked("rules")["groups"] for rule in group["rules"]]
    assert len(rules) > 10
    until(
        lambda: all(rule["health"] == "ok" for group in asked("rules")["groups"] for rule in group["rules"])
    )
    known = set(asked("label/__name__/values"))
    time.sleep(4)  # a rate needs two samples
    empty = []
    for where, expression in expressions().items():
        assert set(re.findall(r"\btradebot_\w+", expression)) <= known, where
        if not asked(f"query?query={quote(expression)}")["result"]:
            empty.append(where)
    quiet = {rule["name"] for rule in rules}
    assert set(empty) - quiet <= {"Clients of the stream A"}, "every panel has something to show"
    firing = {one["labels"]["alertname"] for one in asked("alerts")["alerts"]}
    known = {"BarsOld", "ProviderFails", "NoSuccess", "NotPromoted"}
    assert firing <= known, "the sample ends in 2013, and its strategy is not promoted; else all is well"


def test_each_ends_when_told_to(served: Stack) -> None:
    assert set(served.up) == {"serve", "scheduler", "worker", "jupyter"}
    for name, container in served.up.items():
        assert container.ended is None, served.said(name)[-3000:]
        assert container.stop(90) == 0, f"{name}: {served.said(name)[-3000:]}"
        assert "Traceback" not in served.said(name), served.said(name)


def test_no_service_of_ours_was_forgotten(served: Stack) -> None:
    tried = {"migrate", "tradebot", "broker", "paper-executor", "executor", *served.up}
    assert set(served.ours()) == tried
    at_alpaca = served.container("executor")
    assert at_alpaca.wait(60) == 2
    assert "ALPACA_API_KEY" in served.said("executor"), "it is the one that needs an account"
