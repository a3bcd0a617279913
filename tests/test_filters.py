"""Filters and the strategy of changes: what they refuse, in both engines, by name and by label."""

import subprocess
import sys

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from starlette.testclient import TestClient

from tradebot.accounting import bars_of
from tradebot.app import create_app
from tradebot.config import Risk, UserError, load_config
from tradebot.indicators import compute
from tradebot.parity import differences, engines
from tradebot.pipeline import configured_features, configured_strategy, update_features, update_signals
from tradebot.prices import actions_frame, adjust
from tradebot.programs import read
from tradebot.scan import events_of, scan
from tradebot.signal_engine import (
    Rules,
    check_causality,
    entry_filter,
    generate,
    get_strategy,
    measure_warmup,
    strategy,
    strategy_of,
)
from tradebot.simulate import simulate
from tradebot.store import open_store
from tradebot.universe import universe

CHANGE = {"k": 0.25, "h": 4.0}
CHOSEN = {
    "change_point": ("change_point", CHANGE, []),
    "a watched indicator": ("change_point", {"of": "rsi(14)"}, []),
    "ranked": ("crossover", {}, ["ranked_volatility(minimum=0.1, maximum=0.8)"]),
    "ranked closes": (
        "crossover",
        {},
        ["ranked_volatility(maximum=0.7, measure='return_deviation', past=120)"],
    ),
    "volume": ("crossover", {}, ["volume(minimum=0.8)"]),
    "after": ("crossover", {}, ["after_change(within=60, h=4)"]),
    "not after": ("crossover", {}, ["not_after_change(of='relative_atr(14)', direction='up')"]),
    "three": (
        "change_point",
        CHANGE,
        ["ranked_volatility(maximum=0.8)", "volume(minimum=0.5)", "not_after_change(within=5)"],
    ),
}


def chosen(name: str):
    strategy_name, parameters, filters = CHOSEN[name]
    return get_strategy(strategy_name, parameters, filters)


def bars_of_closes(closes, volumes=1000.0) -> pd.DataFrame:
    index = pd.MultiIndex.from_product([["X"], pd.bdate_range("2012-01-02", periods=len(closes))])
    close = np.array(closes, float)
    frame = pd.DataFrame({"open": close, "high": close, "low": close, "close": close}, index=index)
    return frame.assign(volume=volumes).rename_axis(["symbol", "timestamp"])


def rows(signals: pd.DataFrame, side: str) -> set:
    own = signals[signals["signal_type"] == side]
    return set(zip(own["symbol"], own["timestamp"], strict=True))


# What they refuse


def test_a_rank_of_volatility_is_held_against_each_stocks_own_past(sample) -> None:
    bars, actions = sample
    chosen = get_strategy("crossover", filters=["ranked_volatility(maximum=0.8, minimum=0.2)"])
    signals = generate(bars, actions, chosen).signals
    buys = signals[signals["signal_type"] == "buy"]
    rank = compute(adjust(bars, actions), ["percentile_rank('relative_atr(14)', 252)"]).iloc[:, 0]
    expected = rank.loc[list(zip(buys["symbol"], buys["timestamp"], strict=True))]
    assert expected.between(0.2, 0.8).all()
    every = generate(bars, actions, get_strategy("crossover")).signals
    candidates = rank.loc[list(rows(every, "buy"))]
    assert rows(signals, "buy") == set(candidates[candidates.between(0.2, 0.8)].index)


@pytest.mark.parametrize(
    ("text", "since"),
    [
        ("after_change(within=3)", {1, 2, 3}),
        ("after_change(direction='down', within=2)", {-1, -2}),
        ("not_after_change(within=2)", set(range(-9, 10)) - {-1, -2}),
        ("not_after_change(direction='up', within=1)", set(range(-9, 10)) - {1}),
    ],
)
def test_bars_after_a_change_are_counted_from_its_own(text, since) -> None:
    (one,) = get_strategy("crossover", filters=[text]).filters
    counts = np.arange(-9.0, 10.0)
    answer = one.function(pd.DataFrame({f"{one.name}_cusum_since": counts}), **one.parameters)
    assert set(counts[answer.to_numpy()]) == since


def test_volume_is_held_against_the_median_with_its_own_bar_in_it() -> None:
    @strategy(needs={})
    def every_other(bars: pd.DataFrame) -> Rules:
        return Rules(buy={"up": bars.close > 10.5}, sell={})

    closes = np.tile([10.0, 11.0], 15)
    volumes = np.full(30, 100.0)
    volumes[21], volumes[25] = 79.0, 80.0
    found = generate(
        bars_of_closes(closes, volumes),
        actions_frame(),
        get_strategy("every_other", {}, ["volume(minimum=0.8)"]),
    ).signals
    days = pd.bdate_range("2012-01-02", periods=30)
    # The first median stands at the twentieth bar; a buy waits until it was there on the bar before as well.
    assert set(found["timestamp"]) == {days[23], days[25], days[27], days[29]}


def test_volume_says_what_a_rolling_median_in_the_filter_said(sample) -> None:
    @entry_filter(needs={})
    def rolled(bars: pd.DataFrame, *, minimum: float = 0.5, window: int = 20) -> pd.Series:
        return bars.volume >= minimum * bars.volume.rolling(window).median()

    one, other = (
        generate(*sample, get_strategy("change_point", {"window": 5}, [f"{name}(minimum=0.8)"])).signals
        for name in ("volume", "rolled")
    )
    told = ["symbol", "timestamp", "signal_type"]
    pd.testing.assert_frame_equal(one[told], other[told])
    assert len(rows(one, "sell")) > 100


@pytest.mark.parametrize("name", [name for name, (one, *_) in CHOSEN.items() if one == "crossover"])
def test_a_filter_takes_buys_away_and_no_sell(sample, name) -> None:
    plain, fewer = (generate(*sample, each).signals for each in (get_strategy("crossover"), chosen(name)))
    assert 0 < len(rows(fewer, "buy")) < len(rows(plain, "buy"))
    assert rows(fewer, "buy") < rows(plain, "buy")
    assert rows(fewer, "sell") >= rows(plain, "sell")


def test_a_sell_does_not_wait_for_the_indicators_of_a_filter() -> None:
    @strategy(needs={"mean": "sma(3)"})
    def around_mean(bars: pd.DataFrame) -> Rules:
        return Rules(buy={"over": bars.close > bars["mean"]}, sell={"under": bars.close < bars["mean"]})

    bars = bars_of_closes(50 + 5 * np.sin(np.arange(80.0)))
    plain = generate(bars, actions_frame(), get_strategy("around_mean")).signals
    waits = get_strategy("around_mean", {}, ["ranked_volatility(window=5, past=40)"])
    fewer = generate(bars, actions_frame(), waits).signals
    assert rows(fewer, "sell") == rows(plain, "sell")
    first_known = bars.index[46][1]  # 5 + 40 bars before a rank, and the bar before it
    assert rows(fewer, "buy") == {each for each in rows(plain, "buy") if each[1] >= first_known}
    # What isn't known yet is left out of a signal's details, where it could not be stored.
    assert "ranked_volatility_rank" not in fewer["details"].iloc[0]
    assert "ranked_volatility_rank" in fewer["details"].iloc[-1]
    arrays = universe(bars, actions_frame(), "24/7")
    (found,) = scan(arrays, bars_of(arrays), [read(waits)], arrays.span())
    assert np.array_equal(found, events_of(arrays, fewer))


# Both engines, the past alone


@pytest.mark.parametrize("name", list(CHOSEN))
def test_all_of_it_compiles_to_the_same_account(sample, name) -> None:
    bars, actions = sample
    each, arrays = chosen(name), universe(bars, actions)
    assert read(each) is not None
    money = {"capital": 100_000.0, "rules": Risk()}
    signals = generate(bars, actions, each).signals
    one, other = simulate(arrays, each, **money), simulate(arrays, signals, **money)
    assert len(one.fills) > 10
    assert differences(one, other).empty
    pd.testing.assert_frame_equal(one.signals, other.signals)


@pytest.mark.parametrize("name", ["change_point", "three"])
def test_zipline_and_the_fast_engine_agree_on_real_bars(sample, name) -> None:
    span = (pd.Timestamp("2005-01-03"), pd.Timestamp("2008-12-31"))
    ((fast, slow),) = engines(*sample, chosen(name), [span], capital=100_000.0, rules=Risk())
    assert len(slow.fills) > 20
    assert differences(fast, slow).empty


@pytest.mark.parametrize("name", list(CHOSEN))
def test_none_of_it_looks_ahead(sample, name) -> None:
    bars, actions = sample
    assert check_causality(chosen(name), bars.loc[["AAPL"]], actions, cuts=30).empty


@given(steps=st.lists(st.integers(-3, 3), min_size=30, max_size=90), cut=st.integers(20, 89))
@settings(deadline=None, max_examples=30)
def test_the_future_never_changes_what_was_said_of_a_change(steps, cut) -> None:
    bars = bars_of_closes(50 * np.exp(np.cumsum(steps) / 60))
    one = get_strategy(
        "change_point", {"window": 10, "h": 2.0}, ["not_after_change(window=8, h=2, within=4)"]
    )
    whole, known = (generate(part, actions_frame(), one).signals for part in (bars, bars.iloc[:cut]))
    last = bars.iloc[:cut].index[-1][1]
    pd.testing.assert_frame_equal(whole[whole["timestamp"] <= last].reset_index(drop=True), known)


def test_the_warm_up_of_the_chart_is_its_window_and_some_bars(sample) -> None:
    bars, actions = sample
    flips = measure_warmup(
        get_strategy("change_point"), bars.loc[["IBM"]], actions, lengths=(62, 200, 300), cuts=40
    )
    assert flips[62] > 0
    assert flips[300] == 0


# Names and labels


@pytest.mark.parametrize("name", list(CHOSEN))
def test_a_label_is_read_back(name) -> None:
    each = chosen(name)
    assert strategy_of(each.label) == each
    assert strategy_of(each.label).label == each.label


@pytest.mark.parametrize(
    "of",
    [
        "rsi(14)",
        "macd(12, 26, 9)",
        'percentile_rank("relative_atr(14)", 252)',
        "x('a, b=c')",
        "it's",
        "12",
        " ",
        "",
    ],
)
def test_any_text_survives_a_label(of) -> None:
    for each in (
        get_strategy("change_point", {"of": of, "h": 4.0}),
        get_strategy("change_point", {"of": of}, [f"after_change(of={of!r})", "volume(minimum=1)"]),
    ):
        assert strategy_of(each.label) == each


def test_labels_of_before_are_what_they_were() -> None:
    @strategy(needs={})
    def worded(bars: pd.DataFrame, *, mode: str = "slow", level: float = 1.0) -> Rules:
        return Rules(buy={}, sell={})

    filters = ["volatility(maximum=0.05)", "volume(window=30)"]
    assert get_strategy("crossover", {"oversold": 25}, filters).label == (
        "crossover(oversold=25, volatility(maximum=0.05, window=14), volume(minimum=0.5, window=30))"
    )
    assert get_strategy("worded", {"mode": "fast-ish", "level": 2}).label == "worded(mode=fast-ish, level=2)"
    assert strategy_of("worded(mode=a,b)").parameters["mode"] == "a,b"


def test_quotes_in_settings_reach_the_store_and_the_api(tmp_path, sample) -> None:
    (tmp_path / "settings.ini").write_text(
        "[data]\nuniverse = IBM, GOOG\n"
        "[indicators]\nfeatures =\n    sma(20)\n    cusum(\"rsi(14)\", 4, 60)\n    percentile_rank('relative_atr(14)', 252)\n"
        "[strategy]\nname = change_point\nof = rsi(14)\nh = 4\n"
        'filters = ranked_volatility(maximum=0.8), not_after_change(direction="down", of="rsi(14)", within=3)\n'
    )
    config = load_config(tmp_path)
    store = open_store(config.database_url)
    bars, actions = sample
    store.write_bars(bars.loc[["GOOG", "IBM"]])
    store.write_actions(actions[actions["symbol"].isin(["GOOG", "IBM"])])
    update_features(store, configured_features(config))
    each = configured_strategy(config)
    written, _ = update_signals(store, each)
    assert written.inserted > 50
    assert strategy_of(store.signals()["strategy"].iloc[0]) == each
    column = "cusum_rsi(14)_4_60_since"
    stored = store.features([column, "percentile_rank_relative_atr(14)_252"], ["IBM"])
    expected = compute(adjust(bars, actions).loc[["IBM"]], ["cusum('rsi(14)', 4, 60)"])[column]
    np.testing.assert_array_equal(stored[column], expected)
    with TestClient(create_app(config), "http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        newest = client.get("/indicators/IBM?limit=1").json()["items"][-1]["values"]
    assert newest[column] == expected.iloc[-1]
    assert 0 <= newest["percentile_rank_relative_atr(14)_252"] <= 1


@pytest.mark.parametrize(
    ("name", "parameters", "filters", "says"),
    [
        ("change_point", {"k": -1.0}, [], "k must be a number of at least 0, not -1"),
        ("change_point", {"h": 0}, [], "h must be a number above 0, not 0"),
        ("change_point", {"h": "five"}, [], "h = 'five' must be float"),
        ("change_point", {"window": 1}, [], "window must be a whole number of at least 2"),
        ("change_point", {"of": "rsi"}, [], "write it as a call"),
        ("crossover", {}, ["ranked_volatility(maximum=1.5)"], "0 <= minimum <= maximum <= 1"),
        ("crossover", {}, ["ranked_volatility(minimum=0.9, maximum=0.1)"], "not 0.9 and 0.1"),
        ("crossover", {}, ["ranked_volatility(past=0)"], "past must be a whole number"),
        ("crossover", {}, ["ranked_volatility(measure='calm')"], "there is no indicator calm"),
        ("crossover", {}, ["ranked_volatility(maximum='high')"], "maximum = 'high' must be float"),
        ("crossover", {}, ["after_change(direction='left')"], "direction must be up or down, not 'left'"),
        ("crossover", {}, ["after_change(within=0)"], "within must be a whole number of bars, at least 1"),
        ("crossover", {}, ["not_after_change(within=2.5)"], "not 2.5"),
        ("crossover", {}, ["volume(window=0)"], "length must be a whole number"),
        ("crossover", {}, ["volume()", "volume(minimum=2)"], "filter volume is given twice"),
    ],
)
def test_what_is_wrong_is_one_line(sample, name, parameters, filters, says) -> None:
    bars, actions = sample
    with pytest.raises(UserError) as caught:
        generate(bars.loc[["FB"]], actions, get_strategy(name, parameters, filters))
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)


def test_asking_for_a_filter_imports_no_other_module_than_its_own() -> None:
    code = (
        "import sys; from tradebot.signal_engine import get_strategy\n"
        "assert not {'tradebot.filters', 'tradebot.change', 'numba'} & set(sys.modules)\n"
        "get_strategy('crossover', filters=['volatility(maximum=0.03)'])\n"
        "assert 'tradebot.filters' in sys.modules and not {'tradebot.change', 'numba'} & set(sys.modules)\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
