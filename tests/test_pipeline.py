"""The pipeline's steps: incremental equals batch, nothing stale stays, signals stored and found agree."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tradebot.config import Config
from tradebot.data_fetch import fetch
from tradebot.indicators import compute
from tradebot.pipeline import (
    compare_signals,
    configured_features,
    forget_old_bars,
    update_features,
    update_signals,
)
from tradebot.prices import actions_frame
from tradebot.providers import SampleProvider
from tradebot.signal_engine import generate, get_strategy
from tradebot.store import Store

FEATURES = ["sma(20)", "ema(50)", "rsi(14)", "macd()", "atr(14)"]
FIRST = pd.Timestamp("2000-01-01")


def fetched_until(store: Store, end: str, symbols=("AAPL", "IBM")) -> None:
    fetch(store, SampleProvider(), symbols, FIRST, pd.Timestamp(end), months=240)


def test_features_grown_day_by_day_equal_features_of_the_whole(store: Store) -> None:
    for end in ("2005-02-25", "2005-02-28", "2005-03-01", "2005-03-02", "2006-01-05"):
        fetched_until(store, end)
        update_features(store, FEATURES)
    names = compute(store.bars(adjusted=True), FEATURES)
    stored = store.features(list(names.columns))
    pd.testing.assert_frame_equal(stored, names, rtol=1e-9, check_names=False, check_index_type=False)


def test_an_evening_writes_only_the_new_bars(store: Store) -> None:
    fetched_until(store, "2012-06-28")
    update_features(store, FEATURES)
    fetched_until(store, "2012-06-29")
    written = update_features(store, FEATURES)
    assert (written.inserted, written.updated) == (2, 0)


def test_a_split_rewrites_the_history_of_its_symbol_alone(store: Store) -> None:
    fetched_until(store, "2005-02-25")
    update_features(store, FEATURES)
    fetched_until(store, "2005-02-28")
    written = update_features(store, FEATURES)
    apple = len(store.bars(["AAPL"]))
    assert written.inserted == 2
    # Apple's first bars have no feature yet and so nothing that a split could rescale.
    assert apple - 60 < written.updated < apple


def test_another_recipe_is_computed_for_every_bar(store: Store) -> None:
    fetched_until(store, "2005-02-25")
    update_features(store, ["sma(20)"])
    update_features(store, ["sma(20)", "sma(10)"])
    assert store.features(["sma_10"])["sma_10"].notna().sum() == len(store.bars()) - 2 * 9


def test_a_repaired_bar_is_felt_by_every_later_feature(store: Store) -> None:
    fetched_until(store, "2005-02-25", ["IBM"])
    update_features(store, FEATURES)
    bars = store.bars(["IBM"])
    bars.iloc[100, 3] *= 1.01
    store.write_bars(bars)
    update_features(store, FEATURES)
    batch = compute(store.bars(adjusted=True), FEATURES)
    stored = store.features(list(batch.columns))
    pd.testing.assert_frame_equal(stored, batch, rtol=1e-9, check_names=False, check_index_type=False)


def test_signals_grown_by_the_month_are_the_signals_of_the_whole(store: Store, sample) -> None:
    crossover = get_strategy("crossover")
    for month in pd.date_range("2011-12-31", "2013-02-28", freq="ME"):
        fetched_until(store, f"{month:%Y-%m-%d}", ["AAPL", "FB", "IBM"])
        update_signals(store, crossover, run=f"{month:%b}")
    found = generate(store.bars(), store.actions(), crossover).signals
    stored = store.signals(crossover.label)
    assert compare_signals(stored, found).empty
    assert len(stored) == len(found) > 200
    assert stored["details"].iloc[-1]["run"] in {"Jan", "Feb"}


def test_a_difference_between_stored_and_found_is_shown(store: Store, sample) -> None:
    bars, actions = sample
    signals = generate(bars.loc[["IBM"]], actions, get_strategy("crossover")).signals
    fewer = signals.drop(index=[3])
    differences = compare_signals(signals, fewer)
    assert differences["found"].tolist() == ["nothing"]
    assert differences["timestamp"].tolist() == [signals["timestamp"][3]]


def test_an_empty_store_gives_nothing_and_no_error(store: Store) -> None:
    assert update_features(store, FEATURES).inserted == 0
    written, conflicts = update_signals(store, get_strategy("crossover"))
    assert written.inserted == 0
    assert conflicts.empty


def test_the_strategy_s_indicators_are_stored_even_if_settings_forget_them(tmp_path: Path) -> None:
    config = Config(home=tmp_path, indicators={"features": ["atr(14)"]})
    assert configured_features(config) == ["atr(14)", "sma(20)", "ema(50)", "rsi(14)"]


def test_adjusting_follows_an_independent_total_return_ledger(sample) -> None:
    """Holding one share and reinvesting each dividend at the ex-date's close earns the adjusted price's return, nearly.

    The proportional method reinvests at the last close before the ex-date; the ledger here does too, so it is exact.
    """
    bars, actions = sample
    from tradebot.prices import adjust

    adjusted = adjust(bars, actions)
    for symbol in ("AAPL", "IBM", "MSFT"):
        closes, own = bars.loc[symbol, "close"], actions[actions["symbol"] == symbol]
        shares = 1.0
        for _, row in own.iterrows():
            before = closes[closes.index < row["timestamp"]].iloc[-1]
            shares *= row["value"] if row["kind"] == "split" else 1 / (1 - row["value"] / before)
        earned = shares * closes.iloc[-1] / closes.iloc[0]
        series = adjusted.loc[symbol, "close"]
        assert series.iloc[-1] / series.iloc[0] == pytest.approx(earned, rel=1e-12)


def test_a_split_and_a_dividend_on_one_day_are_both_felt_once() -> None:
    from tradebot.prices import adjust, bars_frame

    bars = bars_frame(
        pd.DataFrame(
            {"symbol": "X", "timestamp": pd.bdate_range("2012-01-02", periods=2), "volume": 10.0}
            | {name: [100.0, 49.0] for name in ("open", "high", "low", "close")}
        )
    )
    both = actions_frame([("X", "2012-01-03", "split", 2.0), ("X", "2012-01-03", "dividend", 1.0)])
    # An owner of one share at 100 holds two at 49 and 2 dollars: nothing was won or lost.
    assert adjust(bars, both)["close"].tolist() == [49.0, 49.0]
    assert np.allclose(adjust(bars, both)["volume"], [20.0, 10.0])


def test_whole_months_of_intraday_bars_are_forgotten_where_that_is_asked_for(store: Store) -> None:
    hours = pd.date_range("2012-01-15 15:00", "2012-06-15", freq="7D")
    index = pd.MultiIndex.from_product([["AAPL"], hours], names=["symbol", "timestamp"])
    store.write_bars(pd.DataFrame(1.0, index=index, columns=["open", "high", "low", "close", "volume"]))
    now = pd.Timestamp("2012-06-15 21:00")
    assert forget_old_bars(store, Config(home=Path()), now) == 0
    config = Config(home=Path(), data={"keep_intraday": 2})
    assert forget_old_bars(store, config, now) == (hours < "2012-04-01").sum()
    assert store.bars(daily=False).index.get_level_values("timestamp").min() >= pd.Timestamp("2012-04-01")
    assert forget_old_bars(store, config, pd.Timestamp("2012-06-30")) == 0
