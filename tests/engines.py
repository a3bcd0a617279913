"""Both engines at once: what is tested of one is tested of the other, and that they agree."""

import pandas as pd

from tradebot import backtest as slow
from tradebot.config import Risk
from tradebot.parity import differences
from tradebot.results import Result, cash_proof
from tradebot.simulate import simulate
from tradebot.universe import universe


def backtest(
    bars: pd.DataFrame,
    actions: pd.DataFrame,
    signals: pd.DataFrame,
    *,
    start: pd.Timestamp,
    end: pd.Timestamp,
    capital: float,
    rules: Risk,
    calendar: str = "XNYS",
) -> Result:
    """zipline's result, after it was found equal to the fast engine's."""
    span, money = (
        {"start": pd.Timestamp(start), "end": pd.Timestamp(end)},
        {"capital": capital, "rules": rules},
    )
    result = slow.backtest(bars, actions, signals, calendar=calendar, **span, **money)
    fast = simulate(universe(bars, actions, calendar, **span), signals, **span, **money)
    found = differences(fast, result)
    assert found.empty, found.to_string()
    assert (fast.start, fast.end, fast.capital) == (result.start, result.end, result.capital)
    cash_proof(fast)
    return result
