"""A backtest against luck: skill that was planted is seen, none is not, and where nothing can be said nothing is."""

import numpy as np
import pandas as pd
import pytest

from tradebot.config import Risk
from tradebot.control import random_entries
from tradebot.evidence import judge, minimum_track_record
from tradebot.luck import hold_against_luck
from tradebot.prices import actions_frame, bars_frame
from tradebot.results import Result
from tradebot.sessions import sessions_between
from tradebot.signal_engine import get_strategy
from tradebot.simulate import simulate
from tradebot.universe import Universe, universe

RULES = Risk(sizing="fraction", fraction=0.5, buffer=0.05)
DAYS = sessions_between(pd.Timestamp("2015-01-02"), pd.Timestamp("2018-12-31"))


def walk(drift: float = 0.0) -> Universe:
    """A random walk whose returns, in every fourth week, have this drift."""
    rng = np.random.default_rng(2)
    steps = rng.normal(0, 0.01, len(DAYS)) + drift * (np.arange(len(DAYS)) // 5 % 4 == 1)
    close = 50 * np.exp(np.cumsum(steps))
    frame = pd.DataFrame({"symbol": "A", "timestamp": DAYS, "open": close, "close": close, "volume": 1e6})
    return universe(bars_frame(frame.assign(high=close * 1.01, low=close * 0.99)), actions_frame())


def fourth_weeks(market: Universe, **more) -> Result:
    """An account that holds in every fourth week, and knows when it begins."""
    weeks = [(4 + 5 * k, ("buy", "sell")[k % 4]) for k in range(len(DAYS) // 5 - 1) if k % 4 < 2]
    rows = [("A", DAYS[day], side, {}) for day, side in weeks]
    signals = pd.DataFrame(rows, columns=["symbol", "timestamp", "signal_type", "details"])
    return simulate(market, signals, capital=100_000.0, rules=RULES, **more)


def test_skill_that_was_planted_is_told_from_luck() -> None:
    market = walk(drift=0.006)
    found = hold_against_luck(market, fourth_weeks(market), rules=RULES, trials=20)
    assert found.verdict.distinguishable
    assert found.words.startswith("Distinguishable from luck: with 20 trials")
    assert "Its timing is better than chance, were it the only trial: of 500 accounts" in found.words
    assert found.needed < found.years == pytest.approx(len(DAYS) / 252)


def test_a_random_walk_is_not() -> None:
    market = walk()
    found = hold_against_luck(market, fourth_weeks(market), rules=RULES, trials=20)
    assert found.words.startswith("Not distinguishable from luck: with 20 trials")
    assert "Its timing is not distinguishable from chance: of 500 accounts" in found.words


def test_its_numbers_are_those_of_the_evidence_and_of_the_control() -> None:
    market = walk(drift=0.002)
    result = fourth_weeks(market)
    returns = result.sessions["returns"]
    found = hold_against_luck(market, result, rules=RULES, trials=7)
    assert found.verdict == judge(returns, 7)
    assert found.needed == pytest.approx(minimum_track_record(returns) / 252)
    assert found.control.chance == random_entries(market, result, rules=RULES).chance


def test_a_loss_has_no_track_record_that_would_do() -> None:
    market = walk(drift=-0.003)
    assert hold_against_luck(market, fourth_weeks(market), rules=RULES, trials=1).needed == np.inf


def test_without_a_trade_there_is_nothing_to_say() -> None:
    market = walk()
    result = simulate(market, get_strategy("crossover", {"sma": 5000}), capital=1.0, rules=RULES)
    found = hold_against_luck(market, result, rules=RULES, trials=3)
    assert found.words == "Whether this is luck cannot be said: nothing was bought."
    assert found.verdict is found.control is None


def test_a_few_weeks_say_nothing() -> None:
    market = walk()
    result = fourth_weeks(market, start=pd.Timestamp("2018-11-19"))
    found = hold_against_luck(market, result, rules=RULES, trials=3)
    assert found.words == "Whether this is luck cannot be said: 28 sessions are too few, 30 are the least."


def test_equity_that_never_moves_says_nothing() -> None:
    frame = pd.DataFrame({"symbol": "A", "timestamp": DAYS, "volume": 1e6}).assign(
        **dict.fromkeys(("open", "high", "low", "close"), 50.0)
    )
    market = universe(bars_frame(frame), actions_frame())
    found = hold_against_luck(market, fourth_weeks(market), rules=RULES, trials=3)
    assert found.words == "Whether this is luck cannot be said: equity never changed."
