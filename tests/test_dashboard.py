"""The dashboard in a real browser over a real server: what it shows, what arrives by itself, what it says when there is nothing."""

import contextlib
import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import pandas as pd
import pytest
from playwright.sync_api import TimeoutError as Late
from servers.web import WebServer

from tradebot.config import Config, Environment, Risk
from tradebot.dashboard import PAGES
from tradebot.executor import utc_now
from tradebot.keys import create_key
from tradebot.pages import Desk, Glance, Live, alarms, look, positions_table, problem
from tradebot.provenance import left_in
from tradebot.replay import walk
from tradebot.service import Service, Switch
from tradebot.sessions import sessions_between
from tradebot.store import Store, open_store
from tradebot.universe import universe

RUN = "20130228T220000-pipeline-ab12"
WIDE, PHONE = {"width": 1400, "height": 900}, {"width": 390, "height": 844}
SHOWS = {
    "live": "Since the last close",
    "chart": "volume",
    "performance": "Monthly returns",
    "orders": "Signals that became no order",
    "data": "Signals that would be others",
    "runs": "no bars of",
    "models": "No model has been trained yet",
    "reports": "Side by side",
    "trust": "entries of the chain",
}


def store_of(home: Path) -> Store:
    return open_store(f"duckdb:///{home}/data")


def record(store: Store, run: str, **told) -> None:
    row = {
        "id": run, "notebook": "pipeline.ipynb", "git_revision": None, "parameters": {}, "fingerprint": "", "started": utc_now(),
        "ended": utc_now(), "status": "succeeded", "output": run, "error": None, **told,
    }  # fmt: skip
    store.write_run(**row)


@pytest.fixture(scope="module")
def home(sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home whose account was traded for two months, with two runs and their pages."""
    home = tmp_path_factory.mktemp("desk")
    config = Config(
        home=home, risk=Risk(sizing="fraction", fraction=0.25), environment=Environment(database_url=f"duckdb:///{home}/data")
    )  # fmt: skip
    sessions = sessions_between(pd.Timestamp("2012-12-31"), pd.Timestamp("2013-02-28"))
    walk(universe(*sample), config, sessions)
    store = store_of(home)
    record(store, f"{RUN}-failed", status="failed", error="UserError: no bars of XYZ <script>", output=None)
    folder = home / "reports" / RUN
    folder.mkdir(parents=True)
    (folder / "tearsheet.html").write_text(
        "<html><title>crossover on AAPL</title><h1>the tear sheet</h1></html>"
    )
    (folder / "notebook.html").write_text(
        "<html><title>Pipeline</title><h1>the notebook of the run</h1></html>"
    )
    record(store, RUN, files=json.dumps(left_in(folder)))
    return home


@pytest.fixture(scope="module")
def server(home: Path) -> Iterator[WebServer]:
    started = WebServer(home, DATABASE_URL=f"duckdb:///{home}/data", POLLING_INTERVAL="0.5")
    yield started
    started.kill()


@pytest.fixture
def desk(browser, server: WebServer) -> Iterator[SimpleNamespace]:
    """Opens pages, and holds what went wrong in them: nothing may."""
    contexts, wrong = [], []

    def start(**options):
        context = browser.new_context(**{"viewport": WIDE, "color_scheme": "light", **options})
        context.set_default_timeout(60_000)
        contexts.append(context)
        return context

    def opened(page_name: str = "live", context=None, base: str = server.url, **options):
        page = (context or start(**options)).new_page()
        page.on(
            "console", lambda said: wrong.append(said.text) if said.type in ("error", "warning") else None
        )
        page.on("pageerror", lambda error: wrong.append(str(error)))
        page.on("request", lambda asked: None if is_own(asked.url, base) else wrong.append(asked.url))
        page.goto(f"{base}/dashboard?page={page_name}")
        return page

    yield SimpleNamespace(open=opened, start=start, wrong=wrong)
    for context in contexts:
        context.close()
    assert not wrong


def is_own(url: str, base: str) -> bool:
    return url.startswith((base, base.replace("http", "ws"), "data:", "blob:"))


def expect(page, text: str, timeout: int = 60_000) -> None:
    page.get_by_text(text).first.wait_for(timeout=timeout, state="attached")


@pytest.mark.parametrize("name", PAGES)
def test_every_page_is_shown_on_a_light_screen_and_on_a_dark_phone(desk, name: str) -> None:
    phone = {"viewport": PHONE, "color_scheme": "dark", "is_mobile": True, "has_touch": True}
    for theme, options in (("light", {"color_scheme": "light"}), ("dark", phone)):
        page = desk.open(name, **options)
        expect(page, SHOWS[name])
        page.wait_for_function(f"document.documentElement.dataset.theme === '{theme}'")
        assert page.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it doesn't fit"
        background = page.evaluate("getComputedStyle(document.body).backgroundColor")
        assert background == {"light": "rgb(255, 255, 255)", "dark": "rgb(18, 22, 28)"}[theme]


def test_a_signal_that_another_process_commits_appears_by_itself(desk, home: Path) -> None:
    page = desk.open("live")
    page.locator(".state.live").wait_for()
    code = (
        "import sys, pandas as pd\nfrom tradebot.store import open_store\n"
        "frame = pd.DataFrame({'symbol': ['IBM'], 'timestamp': pd.Timestamp('2013-03-01'), 'signal_type': 'buy', "
        "'details': [{'price': 123.45, 'rule': 'made just now'}]})\n"
        f"open_store(sys.argv[1]).write_signals('crossover', frame, run='{RUN}')\n"
    )
    subprocess.run([sys.executable, "-c", code, f"duckdb:///{home}/data"], check=True)
    row = page.locator("tr.new")
    row.wait_for(timeout=60_000)
    assert re.search(r"IBM\s+buy\s+123\.45\s+2013-03-01\s+made just now", row.inner_text())
    assert "buy IBM at 123.45" in page.locator("[role=log]").inner_text()
    with page.context.expect_page() as opened:
        row.get_by_text("why?").click()
    opened.value.get_by_text("the notebook of the run").wait_for()


def test_the_feed_comes_back_when_the_server_does(browser, home: Path, tmp_path: Path) -> None:
    """On a server of its own; what the browser says about the lost connection is expected here."""
    server = WebServer(home, DATABASE_URL=f"duckdb:///{home}/data", POLLING_INTERVAL="0.5")
    page = browser.new_page()
    page.goto(f"{server.url}/dashboard")
    page.locator(".state.live").wait_for(timeout=60_000)
    server.kill()
    page.get_by_text("connection lost, trying again").wait_for(timeout=60_000)
    frame = {
        "symbol": ["MSFT"],
        "timestamp": pd.Timestamp("2013-03-01"),
        "signal_type": "sell",
        "details": [{"rule": "meanwhile"}],
    }
    store_of(home).write_signals("crossover", pd.DataFrame(frame))
    server.start()
    page.get_by_text("meanwhile").wait_for(timeout=60_000)
    assert page.get_by_text("meanwhile").count() == 1
    server.kill()
    page.close()


def test_the_chart_zooms_and_brings_older_bars(desk) -> None:
    page = desk.open("chart&symbol=MSFT")
    place = page.locator(".chart[data-ready=MSFT]")
    place.wait_for(timeout=60_000)
    visible = (
        "el => { const r = el.chart.timeScale().getVisibleLogicalRange(); return r ? r.to - r.from : NaN }"
    )
    # There is no range before the chart has its width.
    before = page.wait_for_function(visible, arg=place.element_handle()).json_value()
    assert before == pytest.approx(184, abs=3)
    box = place.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 3)
    for _ in range(4):
        page.mouse.wheel(0, -240)
    page.wait_for_function(f"([el, n]) => ({visible})(el) < n", arg=[place.element_handle(), before * 0.9])
    place.evaluate("el => el.chart.timeScale().setVisibleLogicalRange({from: 0, to: 100})")
    count = "el => el.chart.panes()[0].getSeries()[0].data().length"
    page.wait_for_function(f"el => ({count})(el) > 3000", arg=place.element_handle())
    legend = page.locator(".legend").inner_text()
    assert all(word in legend for word in ("sma_20", "ema_50", "rsi_14"))


def test_a_symbol_is_found_and_stands_in_the_address(desk) -> None:
    page = desk.open("chart&symbol=AAPL")
    page.locator(".chart[data-ready=AAPL]").wait_for(timeout=60_000)
    search = page.get_by_label("Symbol")
    search.fill("goo")
    page.get_by_role("option", name="GOOG").click()
    page.locator(".chart[data-ready=GOOG]").wait_for(timeout=60_000)
    page.wait_for_url(re.compile("symbol=GOOG"))
    page.reload()
    page.locator(".chart[data-ready=GOOG]").wait_for(timeout=60_000)
    page.get_by_role("button", name="Performance").click()
    expect(page, "Monthly returns")
    page.wait_for_url(re.compile("page=performance"))


def test_the_theme_is_chosen_once(desk) -> None:
    context = desk.start()
    page = desk.open("live", context)
    expect(page, SHOWS["live"])
    page.get_by_role("button", name=re.compile("theme|dark", re.I)).first.click()
    page.wait_for_function("document.documentElement.dataset.theme === 'dark'")
    page.wait_for_function("document.cookie.includes('tradebot-theme=dark')")
    again = desk.open("orders", context)
    expect(again, SHOWS["orders"])
    again.wait_for_function("document.documentElement.dataset.theme === 'dark'")


def test_an_order_leads_to_its_run_and_every_file_is_looked_at_when_asked(desk, home: Path) -> None:
    page = desk.open("trust")
    expect(page, "no file looked at")
    page.get_by_role("button", name="Look at every file, too").click()
    expect(page, "2 files")
    (home / "reports" / RUN / "tearsheet.html").rename(home / "tearsheet.html")
    try:
        page.get_by_role("button", name="Look at every file, too").click()
        expect(page, f"{RUN}/tearsheet.html is gone")
    finally:
        (home / "tearsheet.html").rename(home / "reports" / RUN / "tearsheet.html")
    field = page.get_by_label("A signal's number, or an order's id")
    for asked, told in (("1", "signal 1: "), ("99999", "there is no signal 99999")):
        field.fill(asked)
        # An Enter within a few milliseconds of the last letter comes before the field has noted that letter.
        for _ in range(20):
            field.press("Enter")
            with contextlib.suppress(Late):
                expect(page, told, timeout=3000)
                break
        expect(page, told)


def test_two_reports_stand_side_by_side(desk, server: WebServer) -> None:
    page = desk.open("reports")
    expect(page, "Side by side")
    for label, title in (("Compare", "crossover on AAPL"), ("with", "Pipeline")):
        page.get_by_label(label, exact=True).click()
        page.get_by_role("option", name=f"{title} ·").click()
    for number, told in enumerate(("the tear sheet", "the notebook of the run")):
        page.frame_locator("iframe").nth(number).get_by_text(told).wait_for()


def test_buying_is_stopped_by_whoever_may_trade(desk, home: Path) -> None:
    context = desk.start()
    page = desk.open("live", context)
    page.get_by_role("button", name="Stop buying").click()
    dialog = page.get_by_role("dialog")
    dialog.get_by_role("button", name="Stop buying").click()
    expect(page, "This takes a key that may trade")
    wrong, desk.wrong[:] = list(desk.wrong), []
    assert all("401" in said for said in wrong), "the browser itself notes the refusal"

    dialog.get_by_role("link", name="sign in").click()
    page.get_by_label("Key").fill(create_key(store_of(home), "browser", "trade", utc_now()))
    page.get_by_role("button", name="Sign in").click()
    page.get_by_role("button", name="Stop buying").click()
    page.get_by_label("Reason, for the record").fill("a test <b>of it</b>")
    page.get_by_role("dialog").get_by_role("button", name="Stop buying").click()
    expect(page, "The kill switch is on; nothing is bought.")
    expect(page, "a test <b>of it</b>")
    assert Service(Config(home=home), store_of(home)).switch().on
    other = desk.open("orders")
    expect(other, "The kill switch is on; nothing is bought.")

    page.get_by_role("button", name="Turn the kill switch off").click()
    page.get_by_role("button", name="Allow buying").click()
    page.get_by_role("button", name="Stop buying").first.wait_for()
    other.get_by_text("The kill switch is on").wait_for(state="detached")
    assert not Service(Config(home=home), store_of(home)).switch().on


def test_who_is_not_signed_in_signs_in_first_and_comes_back(browser, home: Path) -> None:
    server = WebServer(home, DATABASE_URL=f"duckdb:///{home}/data", TRADEBOT_SERVE_OPEN_READING="false")
    page = browser.new_page()
    page.goto(f"{server.url}/dashboard?page=chart&symbol=IBM")
    page.get_by_label("Key").fill("tb_wrong_key")
    page.get_by_role("button", name="Sign in").click()
    page.get_by_text("This key is unknown, or revoked.").wait_for()
    page.get_by_label("Key").fill(create_key(store_of(home), "reader", "read", utc_now()))
    page.get_by_role("button", name="Sign in").click()
    page.locator(".chart[data-ready=IBM]").wait_for(timeout=60_000)
    cookie = next(one for one in page.context.cookies() if one["name"] == "tradebot-session")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Lax")
    server.kill()
    page.close()


def test_it_can_be_installed(desk, server: WebServer) -> None:
    page = desk.open("live")
    page.locator(".state.live").wait_for(timeout=60_000)
    manifest = page.evaluate("fetch(document.querySelector('link[rel=manifest]').href).then((a) => a.json())")
    assert manifest["display"] == "standalone"
    for icon in manifest["icons"]:
        assert page.request.get(server.url + icon["src"]).headers["content-type"] == "image/png"
    active = page.evaluate("navigator.serviceWorker.ready.then((one) => one.active.scriptURL)")
    assert active == f"{server.url}/sw.js"
    page.get_by_text("Notify this device").wait_for(state="detached")


def test_an_empty_store_says_what_to_do(browser, tmp_path: Path) -> None:
    server = WebServer(tmp_path, DATABASE_URL=f"duckdb:///{tmp_path}/data")
    page = browser.new_page()
    commands = {"live": "tradebot execute --once", "chart": "tradebot fetch", "performance": "tradebot execute --once",
                "orders": "tradebot execute --once", "data": "tradebot fetch", "runs": "tradebot run", "models": "tradebot train",
                "reports": "tradebot backtest", "trust": "tradebot run nbs/pipelines/evidence.ipynb"}  # fmt: skip
    for name, command in commands.items():
        page.goto(f"{server.url}/dashboard?page={name}")
        expect(page, command)
    server.kill()
    page.close()


def test_a_page_that_cannot_be_read_says_so(browser, home: Path, tmp_path: Path) -> None:
    server = WebServer(tmp_path, DATABASE_URL=f"duckdb:///{tmp_path}/data")
    page = browser.new_page()
    ledger = tmp_path / "data" / "ledger.duckdb"
    ledger.rename(tmp_path / "away")
    ledger.mkdir()
    page.goto(f"{server.url}/dashboard?page=orders")
    expect(page, "This page cannot be shown.")
    server.kill()
    page.close()


def test_the_newest_day_s_page_is_one_click_from_the_live_page(desk, home: Path) -> None:
    assert look(Service(Config(home=home), store_of(home)))["day"] == ""
    run, failed = "20130228T223000-day-cd34", "20130228T230000-day-ef56"
    record(store_of(home), run, notebook="day.ipynb")
    record(store_of(home), failed, notebook="day.ipynb", status="failed")
    folder = home / "reports" / run
    folder.mkdir()
    (folder / "notebook.html").write_text("<html><title>The day</title><h1>the page of the day</h1></html>")
    page = desk.open("live")
    link = page.get_by_role("link", name="Was all well?")
    with page.context.expect_page() as opened:
        link.click()
    opened.value.get_by_text("the page of the day").wait_for()


def test_what_the_page_shows_is_what_the_api_says(home: Path) -> None:
    service = Service(Config(home=home), store_of(home))
    known = look(service)
    assert known["account"] == service.account()
    assert known["positions"] == service.positions()
    live = Live(desk=Desk(service=service, glance=Glance(**known)))
    assert live.desk.zone == "America/New_York"
    shown = positions_table(known["positions"])
    assert all(f">{one.symbol}<" in shown for one in known["positions"])
    found = service.performance()
    assert found.equity[-1] == pytest.approx(float(service.account().equity), abs=0.01)
    assert json.loads(found.model_dump_json())["days"][0] == "2012-12-31"


def test_words_of_others_are_never_markup() -> None:
    assert "<script>" not in alarms(None, Switch(on=True, reason="<script>"))
    assert "<b>x" not in problem(ValueError("<b>x"))
