"""Speed of the backtest against stock zipline on a bundle, with the same precomputed signals and the same fills.

    python benchmarks/bench_backtest.py [--symbols 50] [--sessions 5040] [--repeats 3]

Prints a markdown table of medians. Stock zipline reads a bundle that was ingested beforehand, which is not counted; ours
starts from the frames, `simulate()` from the arrays made of them. Stock zipline and ours first run zipline's own fill rule, and
the script fails unless fills and equity are equal; then it holds `simulate()` against `backtest()`, row by row.
"""

import argparse
import os
import statistics
import tempfile
import time
import warnings

import numpy as np
import pandas as pd
from universe import universe

from tradebot.backtest import backtest
from tradebot.config import Risk
from tradebot.parity import differences
from tradebot.prices import actions_frame
from tradebot.simulate import simulate
from tradebot.universe import universe as frames_of
from tradebot.zipline_data import market
from tradebot.zipline_engine import Record, SimulationBlotter, data_portal, run

CAPITAL = 1_000_000.0


def crossings(bars: pd.DataFrame) -> pd.DataFrame:
    """Buys and sells where the 20-bar average crosses the 50-bar average."""
    closes = bars["close"].unstack("symbol")
    above = (closes.rolling(20).mean() > closes.rolling(50).mean())[50:].stack()
    turned = above.astype(int).groupby("symbol").diff().abs() == 1
    edges = above[turned].rename("above").reset_index()
    edges = edges.sort_values(["timestamp", "symbol"], ignore_index=True)
    return edges.assign(signal_type=np.where(edges["above"], "buy", "sell"), details=None).drop(
        columns="above"
    )


def algorithm(signals: pd.DataFrame, symbols: list[str]):
    """`initialize` and `handle_data` that trade the signals with zipline's market orders, an equal stake a symbol."""
    from zipline import api

    days = {
        day: list(rows[["symbol", "signal_type"]].itertuples(index=False))
        for day, rows in signals.groupby("timestamp")
    }

    def initialize(context):
        context.assets = {symbol: api.symbol(symbol) for symbol in symbols}

    def handle_data(context, data):
        for symbol, signal_type in days.get(data.current_session, ()):
            asset = context.assets[symbol]
            if signal_type == "sell":
                api.order_target(asset, 0)
            else:
                stake = min(context.portfolio.cash, CAPITAL / len(symbols))
                api.order(asset, int(max(stake, 0) // data.current(asset, "close")))

    return initialize, handle_data


def ingest(bars: pd.DataFrame) -> None:
    """Write the bars as zipline's bundle "bench"."""
    from zipline.data import bundles

    symbols = sorted(bars.index.unique("symbol"))
    frames = [bars.loc[symbol].copy() for symbol in symbols]
    equities = pd.DataFrame(
        {
            "symbol": symbols,
            "asset_name": symbols,
            "exchange": "NYSE",
            "start_date": [frame.index[0] for frame in frames],
            "end_date": [frame.index[-1] for frame in frames],
        }
    )
    exchanges = pd.DataFrame({"exchange": ["NYSE"], "canonical_name": ["NYSE"], "country_code": ["US"]})
    days = bars.index.unique("timestamp")

    @bundles.register("bench", calendar_name="XNYS", start_session=days.min(), end_session=days.max())
    def write(environ, asset_db_writer, minutes, daily_bar_writer, adjustment_writer, *_):
        asset_db_writer.write(equities=equities, exchanges=exchanges)
        daily_bar_writer.write(enumerate(frames), show_progress=False)
        adjustment_writer.write()

    bundles.ingest("bench", show_progress=False)


def as_bundled(bars: pd.DataFrame) -> pd.DataFrame:
    """Bars as a bundle hands them out: prices as whole thousandths times 0.001, whole volumes."""
    prices = (bars[["open", "high", "low", "close"]] * 1000).round() * 0.001
    return prices.assign(volume=bars["volume"].round())


def stock(signals, symbols, start, end):
    """Equity by session, and fills as (date, symbol, shares, price), of zipline as it comes."""
    from zipline import run_algorithm

    initialize, handle_data = algorithm(signals, symbols)
    flat = pd.Series(0.0, index=pd.date_range(start, end))
    performance = run_algorithm(
        start, end, initialize, CAPITAL, handle_data, bundle="bench", benchmark_returns=flat
    )
    fills = [fill for day in performance["transactions"] for fill in day]
    return performance["portfolio_value"].tolist(), simplified(fills)


def ours(bars, signals, symbols, start, end):
    """The same of our engine under zipline's own blotter."""
    record = Record()
    with data_portal(market(frames_of(bars, actions_frame()))) as portal:
        run(portal, start, end, CAPITAL, SimulationBlotter(), record, *algorithm(signals, symbols))
    return [equity for _, equity, _ in record.sessions], simplified(record.transactions)


def simplified(fills: list[dict]) -> list[tuple]:
    return [(fill["dt"], fill["sid"].symbol, fill["amount"], fill["price"]) for fill in fills]


def timed(function, *arguments):
    began = time.perf_counter()
    answer = function(*arguments)
    return time.perf_counter() - began, answer


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--symbols", type=int, default=50)
    parser.add_argument("--sessions", type=int, default=5040)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    warnings.filterwarnings("ignore", category=FutureWarning, module="zipline")

    bars = as_bundled(universe(options.symbols, options.sessions, seed=7))
    signals, symbols = crossings(bars), sorted(bars.index.unique("symbol"))
    days = bars.index.unique("timestamp")
    start, end = days.min(), days.max()
    names = (
        "stock zipline from a bundle",
        "ours, zipline's fills",
        "ours, `backtest()`",
        "ours, `simulate()`",
    )
    seconds, arrays = {name: [] for name in names}, frames_of(bars, actions_frame())
    with tempfile.TemporaryDirectory() as root:
        os.environ["ZIPLINE_ROOT"] = root
        ingest(bars)
        for _ in range(options.repeats):
            took, expected = timed(stock, signals, symbols, start, end)
            seconds["stock zipline from a bundle"].append(took)
            took, answer = timed(ours, bars, signals, symbols, start, end)
            seconds["ours, zipline's fills"].append(took)
            assert answer == expected, "fills or equity differ from stock zipline's"
            frames = (bars, actions_frame(), signals)
            began = time.perf_counter()
            result = backtest(*frames, start=start, end=end, capital=CAPITAL, rules=Risk(buffer=0.005))
            seconds["ours, `backtest()`"].append(time.perf_counter() - began)
            money = {"capital": CAPITAL, "rules": Risk(buffer=0.005)}
            simulate(arrays, signals, start=start, end=end, **money)  # compiled code is loaded once
            began = time.perf_counter()
            for _ in range(20):
                fast = simulate(arrays, signals, start=start, end=end, **money)
                equity = fast.sessions["equity"]
            seconds["ours, `simulate()`"].append((time.perf_counter() - began) / 20)
            assert differences(fast, result).empty, "simulate() and backtest() differ"
    assert len(equity) == len(days)
    report(seconds, options, len(signals), len(expected[1]), len(result.fills))


def report(seconds: dict[str, list[float]], options, signals: int, stock_fills: int, fills: int) -> None:
    medians = {name: statistics.median(times) for name, times in seconds.items()}
    slowest = medians["stock zipline from a bundle"]
    print(
        f"{options.symbols} symbols x {options.sessions} sessions, {signals} signals, median of {options.repeats}\n"
    )
    print("| engine | seconds | times faster | fills |\n|---|---|---|---|")
    for (name, median), count in zip(medians.items(), (stock_fills, stock_fills, fills, fills), strict=True):
        print(f"| {name} | {median:.{2 if median > 0.1 else 4}f} | {slowest / median:,.1f} | {count} |")
    print(
        "\nUnder zipline's own fill rule fills and equity are identical; backtest() and simulate() agree on every row."
    )


if __name__ == "__main__":
    main()
