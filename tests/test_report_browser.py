"""The tear sheet in a real browser: silent, asking nobody, fitting a phone, following the theme and the pointer."""

from pathlib import Path

import nbformat
import papermill
import pytest
from nbformat.v4 import new_code_cell, new_notebook

from tradebot.backtest import backtest
from tradebot.config import Risk
from tradebot.luck import hold_against_luck
from tradebot.report import tear_sheet
from tradebot.runs import write_html
from tradebot.signal_engine import generate, get_strategy
from tradebot.universe import universe


@pytest.fixture(scope="module")
def sheet(sample, tmp_path_factory: pytest.TempPathFactory) -> Path:
    bars, actions = sample
    signals, _ = generate(bars, actions, get_strategy("crossover"))
    span = bars.index.get_level_values("timestamp")
    result = backtest(
        bars, actions, signals, start=span.min(), end=span.max(), capital=100_000, rules=Risk(buffer=0.005)
    )
    path = tmp_path_factory.mktemp("sheet") / "tearsheet.html"
    luck = hold_against_luck(universe(bars, actions), result, rules=Risk(buffer=0.005), trials=10)
    return tear_sheet(result, bars, actions, title="crossover", luck=luck, path=path)


def opened(browser, sheet: Path, width: int = 1400, height: int = 900, theme: str = "light"):
    """The sheet in a fresh window, with what it said and asked for noted on the way."""
    page = browser.new_context(viewport={"width": width, "height": height}, color_scheme=theme).new_page()
    page.said, page.asked = [], []
    page.on("console", lambda message: page.said.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: page.said.append(f"error: {error}"))
    page.on("request", lambda request: page.asked.append(request.url))
    page.goto(sheet.as_uri())
    page.wait_for_selector("html[data-ready]", timeout=30_000)
    page.wait_for_timeout(300)
    return page


@pytest.mark.parametrize(("width", "height"), [(1400, 900), (390, 844)])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_it_is_silent_asks_nobody_and_fits(browser, sheet: Path, width: int, height: int, theme: str) -> None:
    page = opened(browser, sheet, width, height, theme)
    page.locator("details summary").click()
    page.wait_for_timeout(200)
    assert [line for line in page.said if not line.startswith(("log:", "info:", "debug:"))] == []
    assert [url for url in page.asked if not url.startswith(("file:", "data:", "blob:"))] == []
    assert page.evaluate("document.documentElement.scrollWidth") <= width


def test_an_executed_notebook_fits_a_phone_and_what_is_wider_scrolls(browser, tmp_path: Path) -> None:
    cells = [
        new_code_cell("import pandas as pd; pd.DataFrame([[123456.789] * 15])"),
        new_code_cell("print('words ' * 60)"),
    ]
    nbformat.write(new_notebook(cells=cells), tmp_path / "wide.ipynb")
    papermill.execute_notebook(
        tmp_path / "wide.ipynb", tmp_path / "done.ipynb", kernel_name="python3", progress_bar=False
    )
    write_html(tmp_path / "done.ipynb")
    window = browser.new_context(viewport={"width": 390, "height": 844}, color_scheme="dark")
    page = window.new_page()
    page.goto((tmp_path / "done.html").as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    own = "(name) => { const one = document.querySelector(name); return one.scrollWidth > one.clientWidth + 100; }"
    assert page.evaluate(own, ".jp-RenderedHTMLCommon:has(table)")
    assert page.evaluate(own, "pre")
    assert "invert" in page.evaluate("getComputedStyle(document.body).filter")


def test_the_theme_follows_the_system_and_the_button(browser, sheet: Path) -> None:
    page = opened(browser, sheet, theme="dark")
    background = "getComputedStyle(document.body).backgroundColor"
    line = "Bokeh.documents[0].get_model_by_name('equity').renderers.at(-1).glyph.line_color.value"
    dark = (page.evaluate(background), page.evaluate(line))
    page.click("#theme")
    light = (page.evaluate(background), page.evaluate(line))
    assert dark[0] != light[0]
    assert dark[1] != light[1]
    page.reload()
    page.wait_for_selector("html[data-ready]")
    assert page.evaluate(background) == light[0], "the choice was forgotten"


def test_the_pointer_brings_up_the_session_s_figures(browser, sheet: Path) -> None:
    page = opened(browser, sheet)
    chart = page.locator("#equity .chart").first
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 20, box["y"] + 140)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 150)
    page.wait_for_timeout(500)
    tip = page.locator(".tip").first
    assert "Buy and hold" in tip.inner_text()
    assert "Cash" in tip.inner_text()


def test_the_crowd_of_random_accounts_says_how_many_are_where(browser, sheet: Path) -> None:
    page = opened(browser, sheet)
    chart = page.locator("#luck .chart")
    chart.scroll_into_view_if_needed()
    box = chart.bounding_box()
    page.mouse.move(box["x"] + box["width"] / 2 - 20, box["y"] + 100)
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + 110)
    page.wait_for_timeout(500)
    assert "Accounts" in page.locator(".tip").first.inner_text()


def test_a_range_zooms_every_chart_over_time(browser, sheet: Path) -> None:
    page = opened(browser, sheet)
    span = "(() => { const t = Bokeh.documents[0].get_model_by_name('time'); return t.end - t.start; })()"
    whole = page.evaluate(span)
    page.click("[data-years='1']")
    assert page.evaluate(span) == pytest.approx(365.25 * 864e5)
    page.click("[data-years='0']")
    assert page.evaluate(span) == whole


def test_the_chooser_and_a_row_of_trades_show_their_symbol(browser, sheet: Path) -> None:
    page = opened(browser, sheet)
    closes = "Bokeh.documents[0].get_model_by_name('candle-rows').data.close.length"
    page.select_option("#symbol", "FB")
    page.wait_for_timeout(200)
    assert page.evaluate(closes) == 196
    page.locator("#trades tbody button", has_text="IBM").first.click()
    page.wait_for_timeout(200)
    assert page.input_value("#symbol") == "IBM"
    assert page.evaluate(closes) == 3270
    shown = (
        "(() => { const x = Bokeh.documents[0].get_model_by_name('candles-x'); return x.end - x.start; })()"
    )
    assert page.evaluate(shown) < 400


def test_trades_sort_by_what_they_earned(browser, sheet: Path) -> None:
    page = opened(browser, sheet)
    page.locator("#trades thead button", has_text="Profit").click()
    earned = page.evaluate(
        "[...document.querySelectorAll('#trades tbody tr')].map((row) => Number(row.cells[7].dataset.v))"
    )
    assert earned == sorted(earned)
    assert len(earned) > 80
