"""The real sample as the stand-ins serve it: bars as traded, with the splits and dividends of five stocks."""

from typing import NamedTuple

import numpy as np
import pandas as pd

from tradebot.providers import SampleProvider

SYMBOLS = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


class Stock(NamedTuple):
    bars: pd.DataFrame
    splits: pd.Series
    dividends: pd.Series

    def shares(self, days: pd.DatetimeIndex) -> np.ndarray:
        "What one share of each day has become by the end: the product of the splits after it."
        held = np.ones(len(days))
        for day, ratio in self.splits.items():
            held[days < day] *= ratio
        return held


def stocks() -> dict[str, Stock]:
    found = {}
    for symbol in SYMBOLS:
        bars, actions = SampleProvider().fetch(symbol, pd.Timestamp("1990-01-01"), pd.Timestamp("2020-01-01"))
        by_day = actions.set_index("timestamp")
        splits, dividends = (by_day.loc[by_day["kind"] == kind, "value"] for kind in ("split", "dividend"))
        found[symbol] = Stock(bars, splits, dividends)
    return found
