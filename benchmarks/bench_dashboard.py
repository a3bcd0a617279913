"""The dashboard: a first view in a fresh browser, a zoomed frame, and the server's memory with forty of them open.

    python benchmarks/bench_dashboard.py [--tabs 40]

`tradebot serve` runs over the sample (12,154 bars of five stocks, their indicators and signals), the browser is a headless Chromium
on the same machine. Counted are the bytes that cross the socket, compressed as they are.
"""

import argparse
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import pandas as pd
from playwright.sync_api import Browser, sync_playwright

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers.web import WebServer

from tradebot.config import Config
from tradebot.data_fetch import fetch
from tradebot.pipeline import update_features, update_signals
from tradebot.providers import get_provider
from tradebot.signal_engine import get_strategy
from tradebot.store import open_store

USABLE = ".chart[data-ready]"


def fill(home: Path) -> None:
    """The sample, as the pipeline leaves it."""
    store, config = open_store(f"duckdb:///{home}/data"), Config(home=home)
    span = pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31")
    fetch(store, get_provider("sample", config), config.data.universe, *span)
    update_features(store, list(config.indicators.features))
    update_signals(store, get_strategy("crossover"))


def view(browser: Browser, address: str, cached: bool) -> tuple[float, float, float]:
    """Seconds to a usable chart, megabytes received, requests; of a first visit, or of one with the browser's cache warm."""
    context = browser.new_context(viewport={"width": 1400, "height": 900})
    for visit in range(1 + cached):
        page, received = context.new_page(), []
        network = context.new_cdp_session(page)
        network.send("Network.enable")
        network.on(
            "Network.loadingFinished",
            lambda told, received=received: received.append(told["encodedDataLength"]),
        )
        began = time.perf_counter()
        page.goto(f"{address}/dashboard?page=chart&symbol=AAPL", wait_until="commit")
        page.locator(USABLE).wait_for()
        seconds = time.perf_counter() - began
        page.wait_for_timeout(500)
        if visit < cached:
            page.close()
    context.close()
    return seconds, sum(received) / 1e6, len(received)


def frames(browser: Browser, address: str) -> tuple[float, int]:
    """Milliseconds a frame while all loaded bars are zoomed back and forth, and how many bars there are."""
    page = browser.new_page(viewport={"width": 1400, "height": 900})
    page.goto(f"{address}/dashboard?page=chart&symbol=AAPL")
    place = page.locator(USABLE)
    place.wait_for()
    place.evaluate("el => el.chart.timeScale().setVisibleLogicalRange({from: 0, to: 100})")
    page.wait_for_timeout(3000)
    told = place.evaluate("""el => new Promise((done) => {
        const scale = el.chart.timeScale(), bars = el.chart.panes()[0].getSeries()[0].data().length, times = [];
        let step = 0, before = performance.now();
        const frame = (now) => {
            times.push(now - before); before = now;
            if (++step > 120) return done([times.slice(1), bars]);
            const width = bars * (0.2 + 0.8 * Math.abs(Math.cos(step / 20)));
            scale.setVisibleLogicalRange({ from: bars - width, to: bars });
            requestAnimationFrame(frame);
        };
        requestAnimationFrame(frame);
    })""")
    page.close()
    return statistics.median(told[0]), told[1]


def resident(process: int) -> float:
    """Megabytes of memory of a process."""
    status = Path(f"/proc/{process}/status").read_text()
    return int(status.split("VmRSS:")[1].split()[0]) / 1024


def open_tabs(browser: Browser, server: WebServer, count: int) -> tuple[float, float]:
    """The server's memory with one live page open, and with so many."""
    context, told = browser.new_context(), []
    for number in range(count):
        page = context.new_page()
        page.goto(f"{server.url}/dashboard")
        page.locator(".state.live").wait_for()
        if number in (0, count - 1):
            told.append(resident(server.process.pid))
    context.close()
    return told[0], told[1]


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--tabs", type=int, default=40)
    tabs = parser.parse_args().tabs
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        fill(Path(folder))
        server = WebServer(Path(folder), DATABASE_URL=f"duckdb:///{folder}/data")
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        print("| chart page, to usable | s | MB received | requests |\n|---|---|---|---|")
        for name, cached in (("the server's first view", False), ("a fresh browser", False), ("again", True)):
            seconds, size, requests = view(browser, server.url, cached)
            print(f"| {name} | {seconds:.2f} | {size:.2f} | {requests} |")
        wait, bars = frames(browser, server.url)
        print(f"\n{wait:.1f} ms a frame while {bars:,} bars are zoomed")
        one, many = open_tabs(browser, server, tabs)
        print(
            f"{one:.0f} MB with one live page open, {many:.0f} MB with {tabs}: {(many - one) / (tabs - 1):.1f} MB each"
        )
        server.kill()


if __name__ == "__main__":
    main()
