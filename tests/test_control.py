"""The random-entry control: what it keeps, what it leaves to chance, and that no skill is called none."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from markets import frames, signals_frame

from tradebot.config import Risk, UserError
from tradebot.control import _arranged, random_entries, spells
from tradebot.prices import actions_frame, bars_frame
from tradebot.sessions import sessions_between
from tradebot.signal_engine import get_strategy
from tradebot.simulate import simulate
from tradebot.universe import universe

FLAT = (10, 10, 10, 10)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=8), st.integers(0, 30), st.integers(0, 99))
def test_spells_are_shuffled_and_never_meet(lengths, spare, seed):
    sessions = sum(lengths) + len(lengths) + spare
    begins = _arranged(np.array(lengths), sessions, np.random.default_rng(seed))
    begins, ends = np.sort(begins), (begins + lengths)[np.argsort(begins)]
    assert begins[0] >= 0
    assert ends[-1] < sessions
    assert (begins[1:] > ends[:-1]).all()


def test_every_arrangement_is_as_likely_as_any_other():
    rng, seen = np.random.default_rng(1), {}
    for _ in range(6000):
        key = tuple(_arranged(np.array([1, 2]), 7, rng).tolist())
        seen[key] = seen.get(key, 0) + 1
    assert len(seen) == 12  # two orders, two free sessions in three gaps
    assert min(seen.values()) > 400 < max(seen.values()) < 600


def test_spells_of_a_result_by_hand():
    days = sessions_between(pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-12"))
    bars = frames({"A": [FLAT] * 9, "B": [FLAT] * 9}, days)
    told = [
        ("A", 0, "buy"),
        ("A", 1, "buy"),
        ("A", 3, "sell"),
        ("A", 5, "buy"),
        ("B", 1, "buy"),
        ("B", 2, "sell"),
    ]
    arrays = universe(bars, actions_frame())
    result = simulate(
        arrays, signals_frame(told, days), capital=100.0, rules=Risk(buffer=0.0, max_order=30.0)
    )
    found = spells(arrays, result)
    assert found == [[[0, 1, 3], [0, 3]], [[0, 1]]]


def walk(seed: int) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    days = sessions_between(pd.Timestamp("2015-01-02"), pd.Timestamp("2018-12-31"))
    parts = []
    for symbol in "AB":
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, len(days))))
        prices = pd.DataFrame({"open": close * np.exp(rng.normal(0, 0.003, len(days))), "close": close})
        prices = prices.assign(high=prices.max(axis=1) * 1.01, low=prices.min(axis=1) * 0.99, volume=1e6)
        parts.append(prices.assign(symbol=symbol, timestamp=days))
    return bars_frame(pd.concat(parts))


def test_on_random_walks_any_chance_is_as_likely_as_any_other():
    rules, chances = Risk(sizing="fraction", fraction=0.5), []
    for seed in range(40):
        arrays = universe(walk(seed), actions_frame())
        result = simulate(arrays, get_strategy("crossover"), capital=100_000.0, rules=rules)
        chances.append(random_entries(arrays, result, rules=rules, draws=60, seed=seed).chance)
    assert 0.35 < np.mean(chances) < 0.65
    assert np.mean(np.array(chances) <= 0.1) < 0.3


def test_the_same_seed_gives_the_same_control_and_the_trades_are_as_many(sample):
    arrays, rules = universe(*sample), Risk(sizing="fraction", fraction=0.2)
    result = simulate(arrays, get_strategy("crossover"), capital=100_000.0, rules=rules)
    one, other = (random_entries(arrays, result, rules=rules, draws=20, seed=4) for _ in range(2))
    pd.testing.assert_frame_equal(one.table, other.table)
    assert one.chance == other.chance
    assert one.table["fills"].between(0.85 * len(result.fills), 1.15 * len(result.fills)).all()
    assert one.table["exposure"].mean() == pytest.approx(result.sessions["exposure"].mean(), rel=0.2)


def test_without_fills_there_is_nothing_to_judge(sample):
    arrays = universe(*sample)
    result = simulate(arrays, get_strategy("crossover", {"sma": 5000}), capital=1.0, rules=Risk())
    with pytest.raises(UserError, match="nothing was bought, so there is no timing to judge"):
        random_entries(arrays, result, rules=Risk())
