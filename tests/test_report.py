"""The tear sheet: figures that can be checked by hand, sums that reconcile, odd results, and no request to anybody."""

import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tradebot.backtest import backtest
from tradebot.config import Risk
from tradebot.evidence import judge
from tradebot.luck import hold_against_luck
from tradebot.page import number, percent
from tradebot.prices import actions_frame, bars_frame
from tradebot.report import tear_sheet
from tradebot.results import Result
from tradebot.signal_engine import generate, get_strategy
from tradebot.statistics import (
    buy_and_hold,
    monthly_returns,
    performance,
    reconcile,
    round_trips,
    session_returns,
    signal_outcomes,
    trading,
    underwater,
    worst_drawdown,
)
from tradebot.universe import universe

DAYS = pd.bdate_range("2012-01-02", periods=8)


def equity(*values: float) -> pd.Series:
    return pd.Series(values, index=DAYS[: len(values)], dtype="float64")


def flat_bars(closes: dict[str, list[float]], volume: float = 1000.0) -> pd.DataFrame:
    """Bars that open, trade and close at one price, from the sessions of January 2012."""
    sessions = pd.DatetimeIndex(
        ["2012-01-03", "2012-01-04", "2012-01-05", "2012-01-06", "2012-01-09", "2012-01-10"]
    )
    frames = [
        pd.DataFrame(
            {"symbol": symbol, "timestamp": sessions[: len(prices)], "volume": volume}
            | {name: prices for name in ("open", "high", "low", "close")}
        )
        for symbol, prices in closes.items()
    ]
    return bars_frame(pd.concat(frames))


def signals_of(*rows: tuple[str, str, str]) -> pd.DataFrame:
    frame = pd.DataFrame(rows, columns=["symbol", "timestamp", "signal_type"])
    return frame.assign(timestamp=pd.to_datetime(frame["timestamp"]), details=[{} for _ in rows])


def traded(bars: pd.DataFrame, signals: pd.DataFrame, actions: pd.DataFrame | None = None, **more) -> Result:
    options = {
        "start": "2012-01-03",
        "end": "2012-01-10",
        "capital": 1000.0,
        "rules": Risk(buffer=0.0),
    } | more
    return backtest(bars, actions_frame() if actions is None else actions, signals, **options)


@pytest.fixture(scope="module")
def real(sample) -> tuple[Result, pd.DataFrame, pd.DataFrame]:
    """The built-in strategy on the five stocks, over all their splits and dividends."""
    bars, actions = sample
    signals, _ = generate(bars, actions, get_strategy("crossover"))
    span = bars.index.get_level_values("timestamp")
    result = backtest(
        bars, actions, signals, start=span.min(), end=span.max(), capital=100_000, rules=Risk(buffer=0.005)
    )
    return result, bars, actions


def test_returns_begin_with_the_capital() -> None:
    assert session_returns(equity(110, 99), 100).tolist() == pytest.approx([0.1, -0.1])


def test_a_drawdown_is_measured_from_the_highest_equity_so_far_the_capital_included() -> None:
    assert underwater(equity(90, 120, 60, 90), 100).tolist() == pytest.approx([-0.1, 0.0, -0.5, -0.25])
    worst = worst_drawdown(equity(90, 120, 60, 90, 130), 100)
    assert (worst.depth, worst.peak, worst.trough, worst.recovered) == (-0.5, DAYS[1], DAYS[2], DAYS[4])


def test_the_figures_of_a_doubling_are_those_of_a_doubling() -> None:
    days = pd.bdate_range("2012-01-02", periods=504)
    figures = performance(pd.Series(100 * 2 ** (np.arange(1, 505) / 504), index=days), 100)
    assert figures.total_return == pytest.approx(1.0)
    assert figures.cagr == pytest.approx(2**0.5 - 1)
    assert figures.drawdown is None


def test_sharpe_is_the_mean_over_the_deviation_times_the_root_of_a_year() -> None:
    figures = performance(equity(110, 99, 108.9), 100)
    returns = np.array([0.1, -0.1, 0.1])
    assert figures.sharpe == pytest.approx(returns.mean() / returns.std(ddof=1) * 252**0.5)


def test_a_month_s_return_multiplies_its_sessions() -> None:
    returns = pd.Series([0.1, 0.1, -0.5], index=pd.to_datetime(["2012-01-30", "2012-01-31", "2012-02-01"]))
    table = monthly_returns(returns)
    assert table.loc[2012].iloc[:2].tolist() == pytest.approx([0.21, -0.5])
    assert table.loc[2012].iloc[-1] == pytest.approx(1.21 * 0.5 - 1)


def test_buy_and_hold_splits_the_capital_over_what_traded_at_the_start() -> None:
    bars = flat_bars({"A": [10, 20], "B": [10, 5]})
    late = flat_bars({"A": [10, 20], "B": [10, 5], "C": [1, 1]}).drop(("C", pd.Timestamp("2012-01-03")))
    sessions = bars.index.levels[1]
    for frame in (bars, late):
        assert buy_and_hold(frame, actions_frame(), sessions, 100).sum(axis=1).tolist() == [100.0, 125.0]


def test_a_round_trip_over_a_split_counts_the_shares_it_became() -> None:
    bars = flat_bars({"A": [100.0, 100.0, 50.0, 60.0, 60.0]})
    split = actions_frame([("A", "2012-01-05", "split", 2.0)])
    result = traded(bars, signals_of(("A", "2012-01-03", "buy"), ("A", "2012-01-05", "sell")), split)
    (trip,) = round_trips(result, split).to_dict("records")
    assert (trip["quantity"], trip["entry"], trip["exit"], trip["pnl"]) == (20.0, 50.0, 60.0, 200.0)


def test_a_dividend_belongs_to_the_trip_that_earned_it() -> None:
    bars = flat_bars({"A": [100.0] * 6})
    paid = actions_frame([("A", "2012-01-05", "dividend", 1.5)])
    result = traded(bars, signals_of(("A", "2012-01-03", "buy"), ("A", "2012-01-06", "sell")), paid)
    (trip,) = round_trips(result, paid).to_dict("records")
    assert (trip["gain"], trip["dividends"], trip["pnl"]) == (0.0, 15.0, 15.0)


def test_on_real_data_the_trips_add_up_to_the_change_of_equity(real) -> None:
    result, _, actions = real
    trips = round_trips(result, actions)
    assert abs(reconcile(trips, result)["remainder"]) < 0.01
    assert trading(trips).closed > 80
    assert signal_outcomes(result.signals)["total"].sum() == len(result.signals)


def test_one_page_says_it_all_and_asks_nobody(real, tmp_path: Path) -> None:
    result, bars, actions = real
    notes = {"strategy": "crossover", "revision": "0123abc"}
    page = tear_sheet(
        result, bars, actions, title="A <title> & more", notes=notes, path=tmp_path / "sheet.html"
    )
    html = page.read_text(encoding="utf-8")
    assert page.stat().st_size < 4_000_000
    assert "<h1>A &lt;title&gt; &amp; more</h1>" in html
    assert "0123abc" in html
    for heading in ("Equity and drawdown", "Monthly returns", "Trades", "Exposure and cash", "pyfolio"):
        assert heading in html
    assert f"${result.lowest_cash:,.2f}" in html
    markup = re.sub(r"<script>.*?</script>", "", html, flags=re.S)
    assert not re.findall(r"""(?:src|href)\s*=\s*["']?(?!data:)[^"'\s>]+""", markup)
    assert not re.findall(r"url\((?!data:)|@import", markup)
    assert "default-src 'none'" in markup


def luck_section(html: str) -> str:
    """The words of the section about luck, one space between them; empty if there is none."""
    found = re.search(r'<section id="luck">(.*?)</section>', html, flags=re.S)
    return " ".join(re.sub(r"<[^>]+>", " ", found.group(1)).split()) if found else ""


@pytest.mark.parametrize("trials", [1, 12_000])
def test_the_page_says_first_whether_it_is_luck_and_its_numbers_are_those_of_the_evidence(
    real, tmp_path: Path, trials: int
) -> None:
    result, bars, actions = real
    luck = hold_against_luck(universe(bars, actions), result, rules=Risk(buffer=0.005), trials=trials)
    page = tear_sheet(result, bars, actions, title="luck", luck=luck, path=tmp_path / "sheet.html")
    html = page.read_text(encoding="utf-8")
    words, verdict = luck_section(html), judge(result.sessions["returns"], trials)
    assert words.startswith(f"Is it luck? {verdict.words.replace('-', '−')}")
    assert html.index('<section id="luck">') < html.index('<section id="equity">')
    sharpe, fall = verdict.sharpe, verdict.drawdown
    for shown in (
        f"Sharpe ratio {number(sharpe.value)} 95% interval {number(sharpe.low)} to {number(sharpe.high)}",
        f"Worst drawdown {percent(-fall.value)} 95% interval {percent(-fall.high)} to {percent(-fall.low)}",
        f"Probabilistic Sharpe ratio {verdict.probabilistic:.3f}",
        f"Deflated Sharpe ratio {verdict.deflated:.3f}",
        f"Sharpe ratio by luck {verdict.chance:.2f} best of {trials:,} trial",
        f"Minimum track record never {len(result.sessions) / 252:.1f} years there are",
        luck.control.words,
    ):
        assert shown in words
    assert "Bailey and López de Prado 2014" in html


def test_where_nothing_can_be_said_about_luck_the_page_says_why(tmp_path: Path) -> None:
    bars = flat_bars(closes_of("no trades"))
    result = traded(bars, signals_of())
    luck = hold_against_luck(universe(bars, actions_frame()), result, rules=Risk(), trials=5)
    page = tear_sheet(result, bars, actions_frame(), title="none", luck=luck, path=tmp_path / "sheet.html")
    words = luck_section(page.read_text(encoding="utf-8"))
    assert words == "Is it luck? Whether this is luck cannot be said: nothing was bought."


def test_a_page_that_is_told_nothing_about_luck_is_silent_about_it(tmp_path: Path) -> None:
    bars = flat_bars(closes_of("no trades"))
    page = tear_sheet(
        traded(bars, signals_of()), bars, actions_frame(), title="none", path=tmp_path / "sheet.html"
    )
    assert "luck" not in luck_section(page.read_text(encoding="utf-8"))


def closes_of(kind: str) -> dict[str, list[float]]:
    return {"ruin": {"A": [100.0, 100.0, 0.01, 0.01, 0.01, 0.01]}}.get(kind, {"A": [100.0] * 6})


@pytest.mark.parametrize(
    ("kind", "signals", "end"),
    [
        ("no trades", signals_of(), "2012-01-10"),
        ("one session", signals_of(), "2012-01-03"),
        ("open trade", signals_of(("A", "2012-01-03", "buy")), "2012-01-10"),
        ("ruin", signals_of(("A", "2012-01-03", "buy")), "2012-01-10"),
    ],
)
def test_an_odd_result_still_gives_a_page(tmp_path: Path, kind: str, signals: pd.DataFrame, end: str) -> None:
    bars = flat_bars(closes_of(kind))
    result = traded(bars, signals, end=end)
    page = tear_sheet(result, bars, actions_frame(), title=kind, path=tmp_path / "sheet.html")
    assert "Equity and drawdown" in page.read_text(encoding="utf-8")


def test_of_very_many_symbols_the_most_traded_are_charted_and_the_rest_counted(
    sample, tmp_path: Path
) -> None:
    bars, _ = sample
    ibm = bars.loc["IBM"].reset_index()
    many = bars_frame(pd.concat([ibm.assign(symbol=f"S{n:02d}") for n in range(20)]))
    signals = signals_of(("S17", "2010-01-04", "buy"), ("S17", "2010-03-01", "sell"))
    result = traded(many, signals, start="2000-03-01", end="2013-03-01")
    page = tear_sheet(result, many, actions_frame(), title="many", path=tmp_path / "sheet.html")
    html = page.read_text(encoding="utf-8")
    assert "<option>S17</option>" in html
    assert "8 more symbols, the least traded, are not charted" in html
    assert page.stat().st_size < 6_000_000
