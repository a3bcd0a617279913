"""REST: typed answers, pages that join, mistakes with a code, nothing but reports out of the reports' folder."""

import json
import re
import secrets
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from datetime import datetime, timedelta
from pathlib import Path
from threading import Event
from time import sleep

import pandas as pd
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from starlette.testclient import TestClient

from tradebot.app import Readiness, create_app
from tradebot.config import Config
from tradebot.dues import ask, claim, finish
from tradebot.engine import StoreError
from tradebot.executor import utc_now
from tradebot.identity import identify
from tradebot.keys import create_key
from tradebot.metrics import StoreCollector
from tradebot.pipeline import configured_strategy, update_features, update_signals
from tradebot.promotion import GOOD_FOR, NEEDED, promote
from tradebot.provenance import environment_digest
from tradebot.schedules import load_schedules
from tradebot.service import Service
from tradebot.signal_engine import get_strategy
from tradebot.store import Store, open_store


@pytest.fixture(scope="module")
def home(sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("home")
    store = open_store(f"duckdb:///{folder}/data")
    bars, actions = sample
    store.write_bars(bars)
    store.write_actions(actions)
    update_features(store, ["sma(20)", "rsi(14)"])
    update_signals(store, get_strategy("crossover"))
    store.write_failures("yfinance", {"XYZZY": "no bars", "YZZYX": "no bars"}, pd.Timestamp("2024-01-01"))
    moment = pd.Timestamp("2024-01-02 10:00")
    for number in range(5):
        record(store, f"2024010{number}T100000-backtest-aaaa", moment + pd.Timedelta(days=number))
    run = folder / "reports" / "20240104T100000-backtest-aaaa"
    run.mkdir(parents=True)
    (run / "tearsheet.html").write_text("<html><head><title>crossover  on\nAAPL</title></head>ok</html>")
    (run / "notebook.html").write_text("<html><title>notebook</title></html>")
    (folder / "reports" / ".staging").mkdir()
    (folder / "reports" / ".staging" / "half.html").write_text("half")
    (folder / "settings.secret").write_text("mine")
    (run / "link.html").symlink_to(folder / "settings.secret")
    return folder


def record(store: Store, run: str, started: pd.Timestamp) -> None:
    store.write_run(
        id=run, notebook="backtest.ipynb", git_revision=None, parameters={"symbols": ["AAPL"]}, fingerprint="", started=started,
        ended=started + pd.Timedelta(seconds=12), status="succeeded", output=run, error=None,
    )  # fmt: skip


def configured(home: Path, url: str = "") -> Config:
    return Config(home=home, environment={"database_url": url or f"duckdb:///{home}/data"})


def calling(home: Path) -> TestClient:
    """A client on the same machine with a key that may trade."""
    key = create_key(open_store(f"duckdb:///{home}/data"), f"test {secrets.token_hex(4)}", "trade", utc_now())
    return TestClient(
        create_app(configured(home)), "http://127.0.0.1", raise_server_exceptions=False, headers={"X-API-Key": key},
        client=("127.0.0.1", 50000),
    )  # fmt: skip


@pytest.fixture(scope="module")
def client(home: Path) -> Iterator[TestClient]:
    with calling(home) as client:
        yield client


def test_pages_of_signals_join_without_a_gap(client: TestClient, home: Path) -> None:
    ids, after = [], 0
    while after is not None:
        page = client.get("/signals", params={"after_id": after, "limit": 97}).json()
        ids += [signal["id"] for signal in page["items"]]
        after = page["next_id"]
    assert ids == open_store(f"duckdb:///{home}/data").signals_after(0)["id"].tolist()
    assert [signal["id"] for signal in client.get("/latest?n=3").json()] == ids[:-4:-1]


def test_signals_are_chosen_by_symbol_and_by_time(client: TestClient) -> None:
    found = client.get("/signals", params={"symbol": "ibm", "since": "2012-06-01", "limit": 1000}).json()[
        "items"
    ]
    assert {signal["symbol"] for signal in found} == {"IBM"}
    assert min(signal["timestamp"] for signal in found) >= "2012-06-01"
    zoned = client.get(
        "/signals", params={"symbol": "IBM", "since": "2012-06-01T02:00:00+02:00", "limit": 1000}
    )
    assert zoned.json()["items"] == found


def test_pages_of_bars_join_from_the_newest_back(client: TestClient, sample) -> None:
    closes, before = [], None
    while True:
        page = client.get(
            "/prices/MSFT", params={"limit": 1000, "adjusted": False} | ({"before": before} if before else {})
        ).json()
        closes = [bar["close"] for bar in page["items"]] + closes
        if (before := page["previous"]) is None:
            break
    bars, _ = sample
    assert closes == bars.loc["MSFT", "close"].tolist()


def test_indicators_are_those_that_are_stored_and_null_where_undefined(client: TestClient) -> None:
    found = client.get("/indicators/AAPL", params={"limit": 50_000}).json()["items"]
    assert found[0]["values"] == {"sma_20": None, "rsi_14": None}
    assert found[-1]["timestamp"] == "2013-03-01"
    assert found[-1]["values"]["rsi_14"] == pytest.approx(33.33, abs=0.01)


def test_runs_name_their_pages_and_join(client: TestClient) -> None:
    first = client.get("/runs?limit=2").json()
    second = client.get("/runs", params={"limit": 9, "before": first["next"]}).json()
    ids = [run["id"] for run in first["items"] + second["items"]]
    assert ids == sorted(ids, reverse=True)
    assert len(ids) == 5
    assert first["items"][0]["pages"] == [
        "/reports/20240104T100000-backtest-aaaa/tearsheet.html",
        "/reports/20240104T100000-backtest-aaaa/notebook.html",
    ]
    assert first["items"][0]["started"] == "2024-01-06T10:00:00.000Z"
    assert client.get(first["items"][0]["pages"][0]).text.endswith("ok</html>")


def test_a_signal_leads_to_its_run_and_the_records_say_whether_they_hold(client: TestClient) -> None:
    told = client.get("/why/1").json()
    assert told["lines"][0].startswith("signal 1: ")
    assert (told["sound"], told["pages"]) == (True, [])
    assert client.get("/why/tb1-nothing").json()["code"] == "unknown_signal_or_order"
    assert client.get("/why/99999").status_code == 404
    found = client.get("/records").json()
    assert found["runs"] == found["entries"] == 5
    assert found["wrong"] == []
    assert found["head"].startswith("5:")


def test_the_strategy_says_what_it_lacks(client: TestClient) -> None:
    told = client.get("/promotion").json()
    assert (told["strategy"], told["stage"]) == ("crossover", "research")
    assert {one["state"] for one in told["evidence"]} == {"missing"}
    assert told["ways"] == ["run: tradebot run nbs/pipelines/evidence.ipynb"]


def test_reports_are_listed_with_their_titles(client: TestClient) -> None:
    told = [(report["kind"], report["title"]) for report in client.get("/reports").json()]
    assert told == [("tearsheet", "crossover on AAPL"), ("notebook", "notebook")]


@pytest.mark.parametrize(
    "address",
    [
        "/reports/../settings.secret",
        "/reports/%2e%2e/settings.secret",
        "/reports/20240104T100000-backtest-aaaa/..%2f..%2fsettings.secret",
        "/reports/20240104T100000-backtest-aaaa/%2e%2e%2f%2e%2e%2fsettings.secret",
        "/reports/..%5c..%5csettings.secret",
        "/reports/.staging/half.html",
        "/reports/20240104T100000-backtest-aaaa/link.html",
        "/reports/20240104T100000-backtest-aaaa/tearsheet.html%00.txt",
        "/reports//etc/passwd",
    ],
)
def test_reports_lead_nowhere_else(client: TestClient, address: str) -> None:
    answer = client.get(address)
    assert answer.status_code in (404, 422)
    assert "mine" not in answer.text


@pytest.mark.parametrize(
    ("address", "status", "code", "words"),
    [
        ("/prices/NONE", 404, "unknown_symbol", "no bars of NONE are stored; there are bars of AAPL, FB, GOOG, IBM, MSFT"),
        ("/prices/a%20b", 422, "invalid", "symbol: String should match pattern"),
        ("/latest?n=0", 422, "invalid", "n: Input should be greater than or equal to 1"),
        ("/signals?since=yesterday", 422, "invalid", "since: write it as 2012-06-29"),
        ("/account", 404, "no_account", "no account has been traded from this store yet"),
        ("/nowhere", 404, "not_found", "Not Found"),
    ],
)  # fmt: skip
def test_mistakes_are_told_with_a_code(
    client: TestClient, address: str, status: int, code: str, words: str
) -> None:
    answer = client.get(address)
    assert (answer.status_code, answer.json()["code"]) == (status, code)
    assert answer.json()["message"].startswith(words)


def test_the_kill_switch_is_turned_everywhere(client: TestClient, home: Path) -> None:
    assert client.post("/kill-switch", json={"on": True, "reason": "a test"}).json()["on"] is True
    assert (home / "KILL").exists()
    assert "tradebot_kill_switch 1.0" in client.get("/metrics").text
    assert client.post("/kill-switch", json={"on": False}).json() == {
        "on": False,
        "reason": "no reason given",
    }
    assert not (home / "KILL").exists()
    assert client.post("/kill-switch", json={"on": "perhaps"}).status_code == 422


def test_metrics_say_what_the_store_says(client: TestClient) -> None:
    count = client.get("/signals?limit=1000").json()["items"]
    text = client.get("/metrics").text
    assert f'tradebot_signals{{state="new"}} {float(len(count))}' in text
    assert 'tradebot_run_seconds{notebook="backtest.ipynb",status="succeeded"} 12.0' in text
    assert 'tradebot_provider_errors_total{provider="yfinance"} 2.0' in text
    assert 'tradebot_requests_total{method="GET",route="/signals",status="200"}' in text
    assert "settings.secret" not in text


def traded(store: Store, mode: str) -> None:
    "Nothing but an account of this mode is in the books."
    with store.engine.transaction("ledger", write=True) as ledger:
        ledger.rows("DELETE FROM account")
        ledger.rows(
            "INSERT INTO account (id, mode, cash, reserved, opened, updated) VALUES ($mode, $mode, 1, 0, $now, $now)",
            mode=mode,
            now=utc_now(),
        )


def test_metrics_say_whether_the_strategy_may_buy_where_something_is_traded(tmp_path: Path) -> None:
    with calling(tmp_path) as client:
        store, config = client.app.state.service.store, client.app.state.service.config
        identity = identify(configured_strategy(config), environment_digest())

        def told(mode: str) -> str:
            traded(store, mode)
            (line,) = re.findall(r"^tradebot_promoted.*", client.get("/metrics").text, re.MULTILINE)
            return line.removeprefix(f'tradebot_promoted{{stage="{NEEDED[mode]}",strategy="crossover"}} ')

        text = client.get("/metrics").text
        assert "\ntradebot_promoted" not in text, "nothing was ever traded"
        assert 'tradebot_flipped_signals{strategy="crossover"} 0.0' in text, (
            "so that the first is an increase"
        )
        assert told("paper") == "0.0"
        long_ago = utc_now() - GOOD_FOR - timedelta(days=1)
        promote(store, config, identity, "paper", "ann", long_ago, "a demonstration")
        assert told("paper") == "0.0", "that override has ended"
        promote(store, config, identity, "paper", "ann", utc_now(), "another one")
        assert [told(mode) for mode in ("paper", "local", "live")] == ["1.0", "1.0", "0.0"]


@pytest.mark.parametrize("wrong", [{"filters": ("classifier(model='gone')",)}, {"name": "unheard"}])
def test_a_strategy_that_cannot_be_told_may_not_buy_and_the_rest_is_told(
    tmp_path: Path, wrong: dict[str, object]
) -> None:
    store, config = open_store(f"duckdb:///{tmp_path}/data"), Config(home=tmp_path)
    traded(store, "paper")
    config = config.model_copy(update={"strategy": config.strategy.model_copy(update=wrong)})
    found = {one.name: one for one in StoreCollector(Service(config, store), lambda: 0).collect()}
    assert [sample.value for sample in found["tradebot_promoted"].samples] == [0]
    assert [sample.value for sample in found["tradebot_up"].samples] == [1]
    assert {"tradebot_flipped_signals", "tradebot_schedule_late"} <= found.keys()


def test_schedules_are_told_with_how_they_stand_and_so_are_wrong_files(tmp_path: Path) -> None:
    with calling(tmp_path) as client:
        assert client.get("/schedules").json() == []
        (tmp_path / "schedules").mkdir()
        path, notebook = tmp_path / "schedules" / "daily.toml", tmp_path / "idle.ipynb"
        notebook.write_text('{"cells": []}')
        path.write_text('notebook = "idle.ipynb"\ntrigger = { event = "close" }\nlate = "1h"\nretries = 0')
        store, long_ago = client.app.state.service.store, datetime(2012, 6, 29, 20)
        (schedule,) = load_schedules(client.app.state.service.config)
        ask(store, schedule, long_ago, long_ago)
        (mine,) = claim(store, [schedule], "us", long_ago)
        finish(store, schedule, mine, "", "no data", long_ago)
        (told,) = client.get("/schedules").json()
        assert (told["name"], told["trigger"], told["state"], told["late"]) == (
            "daily",
            "close",
            "parked",
            True,
        )
        assert (told["due"], told["succeeded"]) == ("2012-06-29T20:00:00.000Z", None)
        metrics = client.get("/metrics").text
        assert 'tradebot_schedule_late{schedule="daily"} 1.0' in metrics
        assert 'tradebot_schedule_parked{schedule="daily"} 1.0' in metrics
        path.write_text('notebook = "idle.ipynb"\ntrigger = { event = "noon" }')
        told = client.get("/schedules")
        assert (told.status_code, told.json()["code"]) == (409, "refused")
        assert "daily.toml:2: trigger.event" in told.json()["message"]
        assert "tradebot_up 1.0" in client.get("/metrics").text


def test_a_store_that_is_lost_is_told_and_not_guessed(tmp_path: Path) -> None:
    with calling(tmp_path) as client:
        del client.headers["X-API-Key"]
        ledger = tmp_path / "data" / "ledger.duckdb"
        ledger.rename(tmp_path / "away")
        ledger.mkdir()
        told = client.get("/latest")
        assert (told.status_code, told.json()["code"]) == (503, "store_unavailable")
        unready = client.get("/readyz")
        assert (unready.status_code, unready.json()["code"]) == (503, "store_unavailable")
        assert "ledger" not in unready.text, "anybody may ask, so it says no more"
        assert client.get("/healthz").status_code == 200
        text = client.get("/metrics").text
        assert "tradebot_up 0.0" in text
        assert "tradebot_kill_switch 1.0" in text
        assert "tradebot_signals{" not in text


def test_many_ask_whether_it_is_ready_and_the_store_is_looked_at_once_and_holds_nobody_up() -> None:
    now, looks, hangs, leave = [0.0], [], Event(), Event()

    def look() -> None:
        looks.append(now[0])
        if hangs.is_set():
            leave.wait(30)
            raise StoreError("it hung")

    ready = Readiness(look, lambda: now[0])
    assert [ready() for _ in range(50)] == [True] * 50
    assert looks == [0.0]
    hangs.set()
    now[0] = 4.0
    with ThreadPoolExecutor(1) as pool:
        hanging = pool.submit(ready)
        while len(looks) < 2:
            sleep(0.01)
        assert ready(patience=0.01), "what was well four seconds ago still counts"
        now[0] = 5.0
        assert not ready(patience=0.01), "and five are enough"
        leave.set()
        assert not hanging.result(30)
    assert not ready(), "a failed look counts for a second, too"
    assert looks == [0.0, 4.0]


def test_the_openapi_document_types_every_answer(client: TestClient) -> None:
    document = client.get("/openapi.json").json()
    for path, methods in document["paths"].items():
        for method, route in methods.items():
            if "200" not in route["responses"]:
                assert {"204", "307"} & route["responses"].keys()
                continue
            media = route["responses"]["200"]["content"]
            assert path in ("/metrics", "/reports/{run}/{name}") or media["application/json"]["schema"], (
                method,
                path,
            )
    names = [route["operationId"] for methods in document["paths"].values() for route in methods.values()]
    assert len(names) == len(set(names))
    assert json.dumps(document)


@pytest.mark.parametrize(
    "mode", [GenerationMode.POSITIVE, GenerationMode.NEGATIVE], ids=["allowed", "forbidden"]
)
def test_no_request_that_the_document_allows_or_forbids_breaks_it(home: Path, mode: GenerationMode) -> None:
    client = calling(home)
    asked = {"Host": "127.0.0.1", **client.headers}
    schema = schemathesis.openapi.from_asgi("/openapi.json", client.app, headers=asked)
    tried = 0
    for found in schema.get_all_operations():
        cases = found.ok().as_strategy(generation_mode=mode)

        @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
        @given(case=cases)
        def holds(case) -> None:
            case.call_and_validate(headers=asked)

        with suppress(Unsatisfiable):  # nothing that it could be asked is forbidden
            holds()
            tried += 1
    assert tried > 5
