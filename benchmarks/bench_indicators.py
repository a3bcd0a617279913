"""The six built-in indicators (ten columns) over 500 symbols x 5,040 bars, beside TA-Lib and pandas-ta.

One public call of `compute` on a bars frame, against TA-Lib's functions called symbol by symbol on arrays that lie ready,
and pandas-ta's on Series of a few symbols, scaled. They take turns in one run; medians of several rounds. tradebot is
timed until the whole features frame stands in fresh memory, on as many threads as there are processors. TA-Lib is timed
twice: with its results dropped at once, so that it writes into the same few pages again and again, and with its results
kept, as somebody who wants them would.
"""

import os
import statistics
import sys
import time
from collections.abc import Callable

import numpy as np
import pandas as pd
import pandas_ta
import talib
from universe import universe

from tradebot.indicators import compute

SPECS = ["sma(20)", "ema(50)", "rsi(14)", "macd(12, 26, 9)", "bbands(20, 2)", "atr(14)"]
ROUNDS, SUBSET = 15, 10


def by_talib(high: np.ndarray, low: np.ndarray, close: np.ndarray) -> list[np.ndarray]:
    return [
        talib.SMA(close, 20),
        talib.EMA(close, 50),
        talib.RSI(close, 14),
        *talib.MACD(close, 12, 26, 9),
        *talib.BBANDS(close, 20, 2.0, 2.0),
        talib.ATR(high, low, close, 14),
    ]


def by_pandas_ta(high: pd.Series, low: pd.Series, close: pd.Series) -> None:
    pandas_ta.sma(close, 20, talib=False)
    pandas_ta.ema(close, 50, talib=False)
    pandas_ta.rsi(close, 14, talib=False)
    pandas_ta.macd(close, 12, 26, 9, talib=False)
    pandas_ta.bbands(close, 20, 2, 2, talib=False)
    pandas_ta.atr(high, low, close, 14, talib=False)


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def agreement(bars: pd.DataFrame, arrays: list[tuple[np.ndarray, ...]]) -> tuple[float, bool]:
    "Largest relative difference from TA-Lib, and whether NaN is in the same places."
    features = compute(bars, SPECS).to_numpy().T
    worst, masks, row = 0.0, True, 0
    for prices in arrays:
        expected = np.vstack(by_talib(*prices))
        ours = features[:, row : row + len(prices[0])]
        masks &= np.array_equal(np.isnan(ours), np.isnan(expected))
        worst = max(worst, np.nanmax(np.abs(ours - expected) / np.abs(expected)))
        row += len(prices[0])
    return worst, masks


def main() -> None:
    bars = universe()
    symbols = bars.index.levels[0]
    series = [tuple(bars.loc[symbol][name] for name in ("high", "low", "close")) for symbol in symbols]
    arrays = [tuple(np.ascontiguousarray(column) for column in columns) for columns in series]

    def all_by_talib() -> None:
        for prices in arrays:
            by_talib(*prices)

    def all_by_talib_kept() -> list[list[np.ndarray]]:
        return [by_talib(*prices) for prices in arrays]

    def some_by_pandas_ta() -> None:
        for columns in series[:SUBSET]:
            by_pandas_ta(*columns)

    def ours() -> None:
        compute(bars, SPECS)

    contestants = {
        "tradebot compute": (ours, 1.0),
        "TA-Lib per symbol, results dropped": (all_by_talib, 1.0),
        "TA-Lib per symbol, results kept": (all_by_talib_kept, 1.0),
        "pandas-ta per symbol, results dropped": (some_by_pandas_ta, len(symbols) / SUBSET),
    }
    for work, _ in contestants.values():
        work()  # compiled and warm
    rounds = [[seconds(work) * scale for work, scale in contestants.values()] for _ in range(ROUNDS)]
    worst, masks = agreement(bars, arrays)

    print(
        f"{len(symbols)} symbols, {len(bars):,} bars, {len(compute(bars, SPECS).columns)} columns, ", end=""
    )
    print(f"{os.cpu_count()} processors, Python {sys.version.split()[0]}, median of {ROUNDS} rounds\n")
    print("| | seconds | million bars/s | tradebot is faster by |")
    print("|---|---|---|---|")
    for place, name in enumerate(contestants):
        middle = statistics.median(times[place] for times in rounds)
        ratio = statistics.median(times[place] / times[0] for times in rounds)
        print(f"| {name} | {middle:.3f} | {len(bars) / middle / 1e6:.1f} | {ratio:.2f} |")
    print(
        f"\nLargest relative difference from TA-Lib {worst:.1e}; NaN masks {'equal' if masks else 'DIFFER'}."
    )


if __name__ == "__main__":
    main()
