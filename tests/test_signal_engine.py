"""Signals: edges, silence, conflicts, causality; a strategy's mistakes in one line."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradebot import signal_engine
from tradebot.config import UserError
from tradebot.prices import actions_frame
from tradebot.signal_engine import (
    Rules,
    check_causality,
    entry_filter,
    generate,
    get_strategy,
    measure_warmup,
    strategy,
)

NO_ACTIONS = actions_frame()


def bars_of(closes: list[float], symbol: str = "X", volumes: list[float] | None = None) -> pd.DataFrame:
    """Bars with the given closes, opening where they close."""
    index = pd.MultiIndex.from_product([[symbol], pd.bdate_range("2012-01-02", periods=len(closes))])
    close = np.array(closes, float)
    frame = pd.DataFrame({"open": close, "high": close, "low": close, "close": close}, index=index)
    return frame.assign(volume=volumes or 1000.0).rename_axis(["symbol", "timestamp"])


@strategy(needs={})
def level(bars: pd.DataFrame, *, above: float = 10.0, below: float = 5.0) -> Rules:
    return Rules(buy={"high": bars.close > above}, sell={"low": bars.close < below})


@strategy(needs={"mean": "sma({window})"})
def over_mean(bars: pd.DataFrame, *, window: int = 3) -> Rules:
    return Rules(buy={"over": bars.close > bars["mean"]}, sell={"under": bars.close < bars["mean"]})


@strategy(needs={})
def both_at_once(bars: pd.DataFrame) -> Rules:
    return Rules(buy={"up": bars.close > 10}, sell={"also up": bars.close > 10})


@strategy(needs={})
def dollars(bars: pd.DataFrame) -> Rules:
    return Rules(buy={"cheap": bars.close < 50}, sell={"dear": bars.close > 90})


def said(signals: pd.DataFrame) -> list[tuple[str, str]]:
    return [(f"{row.timestamp:%d}", row.signal_type) for row in signals.itertuples()]


def test_a_signal_is_the_edge_not_the_level() -> None:
    signals, _ = generate(bars_of([8, 11, 12, 11, 9, 11, 4, 3]), NO_ACTIONS, get_strategy("level"))
    assert said(signals) == [("03", "buy"), ("09", "buy"), ("10", "sell")]


def test_a_condition_that_holds_from_the_first_bar_is_no_edge() -> None:
    signals, _ = generate(bars_of([11, 12, 13]), NO_ACTIONS, get_strategy("level"))
    assert signals.empty


def test_a_strategy_is_silent_until_its_indicators_speak_twice() -> None:
    # The mean of three is first known on the third bar, so the first possible signal is on the fourth.
    signals, _ = generate(bars_of([3, 2, 9, 1, 9]), NO_ACTIONS, get_strategy("over_mean"))
    assert said(signals) == [("05", "sell"), ("06", "buy")]


def test_a_bar_with_two_minds_gives_no_signal_and_is_counted() -> None:
    signals, conflicts = generate(bars_of([8, 11, 12]), NO_ACTIONS, get_strategy("both_at_once"))
    assert signals.empty
    assert conflicts[["symbol", "rules"]].values.tolist() == [["X", "up + also up"]]


def test_details_carry_the_traded_price_the_rule_and_the_indicators() -> None:
    bars = bars_of([30, 20, 90, 10, 90])
    split = actions_frame([("X", "2012-01-06", "split", 2.0)])
    signals, _ = generate(bars, split, get_strategy("over_mean"))
    details = signals["details"].iloc[-1]
    assert details == {"price": 90.0, "rule": "over", "mean": pytest.approx((45 + 5 + 90) / 3)}
    json.dumps(details, allow_nan=False)


def test_one_symbol_s_signals_do_not_depend_on_its_neighbours(sample) -> None:
    bars, actions = sample
    crossover = get_strategy("crossover")
    together, _ = generate(bars, actions, crossover)
    for symbol in bars.index.levels[0]:
        alone, _ = generate(bars.loc[[symbol]], actions, crossover)
        own = together[together["symbol"] == symbol].reset_index(drop=True)
        pd.testing.assert_frame_equal(own, alone)


def test_the_built_in_strategy_matches_its_words_bar_by_bar(sample) -> None:
    """Written out as plain Python from its definition, with TA-Lib's indicators."""
    import talib

    bars, actions = sample
    closes = bars.loc["IBM", "close"].to_numpy()
    factor = np.ones(len(closes))
    own = actions[(actions["symbol"] == "IBM") & (actions["kind"] == "dividend")]
    dates = bars.loc["IBM"].index
    for date, amount in zip(own["timestamp"], own["value"], strict=True):
        row = dates.get_loc(date)
        factor[:row] *= 1 - amount / closes[row - 1]
    adjusted = closes * factor
    sma, ema, rsi = talib.SMA(adjusted, 20), talib.EMA(adjusted, 50), talib.RSI(adjusted, 14)
    expected = []
    for t in range(50, len(closes)):
        buy = (sma[t] > ema[t] and sma[t - 1] <= ema[t - 1]) or (rsi[t] < 30 <= rsi[t - 1])
        sell = (sma[t] < ema[t] and sma[t - 1] >= ema[t - 1]) or (rsi[t] > 70 >= rsi[t - 1])
        if buy != sell:
            expected.append((dates[t], "buy" if buy else "sell"))
    signals, _ = generate(bars.loc[["IBM"]], actions, get_strategy("crossover"))
    assert list(zip(signals["timestamp"], signals["signal_type"], strict=True)) == expected
    assert len(expected) > 100


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(min_value=1, max_value=200), min_size=1, max_size=90), st.integers(0, 10_000))
def test_the_future_never_changes_what_was_said(closes: list[float], seed: int) -> None:
    walk = np.cumsum(np.random.default_rng(seed).normal(0, 1, 120)) + 100
    bars = bars_of([*walk, *closes])
    crossover = get_strategy("crossover", {"sma": 5, "ema": 8, "rsi": 4})
    whole, _ = generate(bars, NO_ACTIONS, crossover)
    cut, _ = generate(bars.iloc[:120], NO_ACTIONS, crossover)
    end = bars.index[119][1]
    assert said(whole[whole["timestamp"] <= end]) == said(cut)


def test_causality_holds_for_the_built_in_strategy_on_every_bar(sample) -> None:
    bars, actions = sample
    assert check_causality(get_strategy("crossover"), bars.loc[["FB"]], actions).empty


def test_a_peek_through_the_adjustment_is_caught(sample) -> None:
    # In 2004 Apple traded around 30 dollars; adjusted for the split of 2005, around 15.
    bars, actions = sample
    apple = bars.loc[["AAPL"]]
    differences = check_causality(get_strategy("dollars"), apple, actions, cuts=60)
    assert len(differences) > 0
    assert set(differences.columns) == {"symbol", "timestamp", "then", "later"}


def test_warm_up_falls_to_zero_and_a_short_memory_flips(sample) -> None:
    bars, actions = sample
    flips = measure_warmup(get_strategy("crossover"), bars.loc[["MSFT"]], actions, lengths=(60, 400), cuts=80)
    assert flips[60] > 0
    assert flips[400] == 0


def test_a_filter_vetoes_buys_and_never_exits() -> None:
    bars = bars_of([8, 11, 4, 11, 4], volumes=[100, 100, 1, 1, 1])

    @entry_filter(needs={})
    def busy(bars: pd.DataFrame, *, least: float = 50.0) -> pd.Series:
        return bars.volume >= least

    signals, _ = generate(bars, NO_ACTIONS, get_strategy("level", {}, ["busy(least=50)"]))
    assert said(signals) == [("03", "buy"), ("04", "sell"), ("06", "sell")]


def test_the_shipped_filters_only_take_buys_away(sample) -> None:
    bars, actions = sample
    plain, _ = generate(bars, actions, get_strategy("crossover"))
    calm = get_strategy("crossover", {}, ["volatility(maximum=0.03)", "volume(minimum=0.8)"])
    fewer, _ = generate(bars, actions, calm)
    assert 0 < (fewer["signal_type"] == "buy").sum() < (plain["signal_type"] == "buy").sum()
    assert set(said(fewer)) <= set(said(plain))


def test_two_parameter_sets_are_two_labels() -> None:
    assert get_strategy("crossover").label == "crossover"
    assert get_strategy("crossover", {"sma": 20}).label == "crossover"
    assert get_strategy("crossover", {"sma": 10}).label == "crossover(sma=10)"


@pytest.mark.parametrize(
    ("name", "parameters", "filters", "says"),
    [
        ("crosover", {}, [], "there is no strategy 'crosover'"),
        ("crossover", {"fast": 1}, [], "no parameter 'fast'; it has sma"),
        ("crossover", {"sma": "ten"}, [], "sma = 'ten' must be int"),
        ("crossover", {}, ["volatilty(maximum=1)"], "there is no filter 'volatilty'"),
        ("crossover", {}, ["volatility(0.03)"], "name its parameters"),
        ("crossover", {}, ["volatility"], "write it as a call"),
    ],
)
def test_a_wrong_name_or_parameter_is_one_line(name, parameters, filters, says) -> None:
    with pytest.raises(UserError, match=says.replace("(", r"\(")) as caught:
        get_strategy(name, parameters, filters)
    assert "\n" not in str(caught.value)


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> str:
    """A strategy `rises` and a filter `dear` of a module that nobody has imported."""
    (tmp_path / "shipped_rules.py").write_text(
        "from tradebot.signal_engine import Rules, entry_filter, strategy\n\n\n"
        "@strategy(needs={})\ndef rises(bars):\n"
        "    return Rules(buy={'up': bars.close > bars.open}, sell={})\n\n\n"
        "@entry_filter(needs={})\ndef dear(bars, *, least=10.0):\n    return bars.close >= least\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setattr(signal_engine, "_STRATEGIES", dict(signal_engine._STRATEGIES))
    monkeypatch.setattr(signal_engine, "_FILTERS", dict(signal_engine._FILTERS))
    monkeypatch.setitem(signal_engine.SHIPPED_STRATEGIES, "rises", "shipped_rules")
    monkeypatch.setitem(signal_engine.SHIPPED_FILTERS, "dear", "shipped_rules")
    yield "shipped_rules"
    sys.modules.pop("shipped_rules", None)


def test_a_strategy_and_a_filter_of_another_module_are_found_without_importing_it(shipped) -> None:
    assert shipped not in sys.modules
    assert get_strategy("crossover", filters=["dear(least=3)"]).label == "crossover(dear(least=3))"
    assert get_strategy("rises").function.__module__ == shipped
    assert "rises" in signal_engine.strategies()


def test_an_unknown_name_is_told_what_there_is_shipped_ones_included(shipped) -> None:
    with pytest.raises(UserError, match=r"there is no strategy 'rise'; there is .*crossover.*rises"):
        get_strategy("rise")
    with pytest.raises(UserError, match=r"there is no filter 'deer'; there is .*dear.*volatility, volume"):
        get_strategy("crossover", filters=["deer(least=3)"])
    assert shipped not in sys.modules


@pytest.mark.parametrize("imported_before", [True, False])
def test_ones_own_strategy_comes_before_the_packages_whichever_came_first(shipped, imported_before) -> None:
    if imported_before:
        get_strategy("rises")

    @strategy(needs={})
    def rises(bars: pd.DataFrame) -> Rules:
        return Rules(buy={}, sell={})

    __import__(shipped)
    assert get_strategy("rises").function is rises


def raises(bars: pd.DataFrame) -> Rules:
    raise KeyError("no such column")


def returns_a_number(bars: pd.DataFrame) -> Rules:
    return 7


def returns_floats(bars: pd.DataFrame) -> Rules:
    return Rules(buy={"b": bars.close * 1.0}, sell={})


def returns_too_few(bars: pd.DataFrame) -> Rules:
    return Rules(buy={"b": (bars.close > 1).iloc[1:]}, sell={})


@pytest.mark.parametrize(
    ("function", "says"),
    [
        (raises, "raised KeyError on X"),
        (returns_a_number, "returned int on X, not Rules"),
        (returns_floats, "rule 'b' on X: expected 3 booleans, got Series of float64"),
        (returns_too_few, "expected 3 booleans"),
    ],
)
def test_a_strategy_that_misbehaves_is_one_line_with_its_symbol(function, says) -> None:
    strategy(needs={})(function)
    with pytest.raises(UserError, match=says):
        generate(bars_of([1, 2, 3]), NO_ACTIONS, get_strategy(function.__name__))


OWN = """
import pandas as pd
from tradebot.indicators import indicator
from tradebot.signal_engine import Rules, entry_filter, strategy

@indicator
def {indicator}(bars, window=5):
    return (bars["open"] / bars["close"].shift(1) - 1).rolling(window).mean()

@strategy(needs={{}})
def {strategy}(bars):
    return Rules(buy={{}}, sell={{}})

@entry_filter(needs={{}})
def {filter}(bars):
    return bars.close > 0
"""
ONES_OWN = {"indicator": "own_gap", "strategy": "own_rules", "filter": "own_filter"}


def ask_with(module: str, folder: Path, question: str) -> subprocess.CompletedProcess:
    """A fresh process in which `module` stands in tradebot/strategies/ as own_module.py."""
    (folder / "own_module.py").write_text(module)
    code = f"import tradebot.strategies; tradebot.strategies.__path__.append({str(folder)!r}); {question}"
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)


@pytest.mark.parametrize(
    "question",
    [
        "from tradebot.indicators import columns; print(columns(['own_gap(3)']))",
        "from tradebot.indicators import versions; print(*versions(['own_gap(3)']))",
        "from tradebot.signal_engine import get_strategy; print(get_strategy('own_rules', filters=['own_filter()']).label)",
        "from tradebot.signal_engine import strategies; print(strategies())",
    ],
)
def test_what_stands_in_the_folder_of_strategies_is_found_by_its_name(tmp_path: Path, question: str) -> None:
    answer = ask_with(OWN.format(**ONES_OWN), tmp_path, question)
    assert "own_" in answer.stdout, answer.stderr


@pytest.mark.parametrize(
    ("kind", "name"),
    [
        ("indicator", "sma"),
        ("indicator", "cusum"),
        ("strategy", "crossover"),
        ("strategy", "classifier"),
        ("filter", "volume"),
    ],
)
def test_a_name_of_the_package_s_is_refused_there(tmp_path: Path, kind: str, name: str) -> None:
    question = "from tradebot.signal_engine import strategies; strategies()"
    answer = ask_with(OWN.format(**ONES_OWN | {kind: name}), tmp_path, question)
    assert f"tradebot/strategies/own_module.py cannot be imported: {name} is a" in answer.stderr
    assert "give yours another name" in answer.stderr


@pytest.mark.parametrize(
    "question",
    [
        "from tradebot.signal_engine import get_strategy; get_strategy('not there')",
        "from tradebot.indicators import columns; columns(['not_there(3)'])",
    ],
)
def test_a_module_of_strategies_that_does_not_import_is_named(tmp_path: Path, question: str) -> None:
    answer = ask_with("import nothing_of_this_name\n", tmp_path, question)
    assert "tradebot/strategies/own_module.py cannot be imported" in answer.stderr
