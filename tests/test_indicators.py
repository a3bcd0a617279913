"""Indicators: the six against TA-Lib, one's own and pandas-ta's, and what every one of them promises."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import talib
from bokeh.sampledata import stocks
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tradebot import indicators, kernels
from tradebot.config import UserError
from tradebot.indicators import columns, compute, indicator, parse
from tradebot.prices import bars_frame

SIX = ["sma(20)", "ema(50)", "rsi(14)", "macd(12, 26, 9)", "bbands(20, 2)", "atr(14)"]


def frame(**closes: np.ndarray) -> pd.DataFrame:
    "Bars of symbols from their closes: each opens at its close before, high and low are two per cent apart."
    parts = []
    for symbol, close in closes.items():
        close = np.asarray(close, dtype="float64")
        start = np.concatenate([close[:1], close[:-1]])
        part = {
            "open": start,
            "high": np.maximum(start, close) * 1.01,
            "low": np.minimum(start, close) * 0.99,
        }
        days = pd.bdate_range("2010-01-04", periods=len(close))
        parts.append(
            pd.DataFrame({**part, "close": close, "volume": 1e6, "symbol": symbol, "timestamp": days})
        )
    return bars_frame(pd.concat(parts))


def walk(length: int, seed: int = 0, price: float = 50.0) -> np.ndarray:
    return price * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, length)))


def by_talib(text: str, bars: pd.DataFrame) -> np.ndarray:
    "TA-Lib's answer for one symbol: (n_columns, n_bars)."
    spec = parse(text)
    high, low, close = (bars[name].to_numpy() for name in ("high", "low", "close"))
    functions = {
        "sma": lambda n: talib.SMA(close, n),
        "ema": lambda n: talib.EMA(close, n),
        "rsi": lambda n: talib.RSI(close, n),
        "macd": lambda fast, slow, signal: talib.MACD(close, fast, slow, signal),
        "bbands": lambda n, k: talib.BBANDS(close, n, float(k), float(k)),
        "atr": lambda n: talib.ATR(high, low, close, n),
    }
    return np.atleast_2d(functions[spec.name](*spec.args))


def assert_as_talib(bars: pd.DataFrame, texts: list[str]) -> None:
    for text in texts:
        ours, expected = compute(bars, [text]).to_numpy().T, by_talib(text, bars)
        np.testing.assert_array_equal(np.isnan(ours), np.isnan(expected), err_msg=text)
        # A difference near zero is as exact as the prices it is a difference of, and a running sum as what went through.
        exact = 1e-11 * (1.0 if text.startswith("rsi") else bars["high"].max())
        if text.startswith("bbands") and bars["high"].max() > 100 * bars["low"].min():
            # TA-Lib subtracts a squared mean from a mean of squares: what is left of a narrow window behind a high price
            # is exact to the square root of a float's precision (1.5e-8) of that price, times the width.
            exact = 2e-8 * bars["high"].max() * parse(text).args[1]
        np.testing.assert_allclose(ours, expected, rtol=1e-9, atol=exact, err_msg=text)


@pytest.fixture(scope="module")
def real() -> pd.DataFrame:
    "Five real stocks as traded, splits and all: what an indicator makes of a cliff must be the same too."
    names = ["AAPL", "FB", "GOOG", "IBM", "MSFT"]
    parts = [pd.DataFrame(getattr(stocks, name)).assign(symbol=name) for name in names]
    return bars_frame(pd.concat(parts).rename(columns={"date": "timestamp"}))


@pytest.fixture(autouse=True)
def _own_indicators_are_forgotten():
    before = dict(indicators._OWN)
    yield
    indicators._OWN.clear()
    indicators._OWN.update(before)


# The six against TA-Lib


def test_the_six_equal_talib_on_every_real_stock(real):
    for symbol in real.index.levels[0]:
        assert_as_talib(real.loc[[symbol]], SIX)


@pytest.mark.parametrize("length", [2, 3, 5, 14, 20, 50, 199, 200, 201, 1000])
def test_any_length_of_window_equals_talib(length):
    calls = [f"{name}({length})" for name in ("sma", "ema", "rsi", "bbands", "atr")]
    calls += [
        f"macd({length}, {length + 7}, 5)",
        f"macd(2, {length + 1}, {length})",
        f"bbands({length}, 0.5)",
    ]
    assert_as_talib(frame(A=walk(600)), calls)


def test_windows_of_one_bar_equal_talib():
    assert_as_talib(frame(A=walk(60)), ["sma(1)", "ema(1)", "atr(1)", "macd(2, 3, 1)"])


@pytest.mark.parametrize(
    ("text", "first"),
    [("sma(7)", 6), ("ema(7)", 6), ("rsi(7)", 7), ("macd(3, 7, 4)", 9), ("bbands(7)", 6), ("atr(7)", 7)],
)
def test_a_short_history_has_no_value_before_the_first_full_window(text, first):
    for length in (1, 2, 6, 7, 8, 9, 10, 11):
        bars = frame(A=walk(length))
        assert (~np.isnan(compute(bars, [text]).to_numpy()[:, 0])).sum() == max(length - first, 0)
        assert_as_talib(bars, [text])


def test_no_bars_give_no_rows_but_every_column():
    empty = frame(A=walk(3)).iloc[:0]
    features = compute(empty, [*SIX, "cci(14)"])
    assert features.shape == (0, 11)
    assert list(features) == columns([*SIX, "cci(14)"])


@pytest.mark.parametrize("price", [1e-9, 1e-4, 0.01, 1.0, 33.33, 1e6, 1e12])
def test_any_scale_of_prices_equals_talib(price):
    assert_as_talib(frame(A=walk(400, seed=3, price=price)), SIX)


@pytest.mark.parametrize("price", [0.1, 100.0, 12345.67, 1e9])
def test_a_flat_series_equals_talib_and_its_bands_close(price):
    bars = frame(A=np.full(120, price))
    assert_as_talib(bars, SIX)
    features = compute(bars, SIX).iloc[-1]
    assert features["rsi_14"] == 0
    assert features["bbands_20_2_upper"] == features["bbands_20_2_middle"] == features["bbands_20_2_lower"]


def test_a_series_that_turns_flat_and_moves_again_equals_talib():
    assert_as_talib(frame(A=np.concatenate([walk(100), np.full(200, 40.0), walk(100, seed=1)])), SIX)


def test_a_nearly_constant_window_keeps_its_deviation():
    close = 1e6 + 1e-4 * np.sin(np.arange(300.0))
    close[:40] = walk(40, price=2e7)  # a crash: the sums once held squares of 1e14
    bars = frame(A=close)
    bands = compute(bars, ["bbands(20, 1)"])
    deviation = (bands["bbands_20_1_upper"] - bands["bbands_20_1_lower"]).iloc[-200:] / 2
    exact = bars["close"].rolling(20).apply(np.std, raw=True).iloc[-200:]
    np.testing.assert_allclose(deviation, exact, atol=1e-9)


def test_prices_that_fall_ten_thousandfold_equal_talib():
    assert_as_talib(frame(A=np.concatenate([walk(300, price=9e4), walk(300, seed=2, price=9.0)])), SIX)


closes_in_cents = st.integers(1, 10**7).map(lambda cents: cents / 100)
any_series = st.integers(1, 150).flatmap(lambda length: arrays("float64", length, elements=closes_in_cents))


@given(close=any_series, n=st.integers(2, 30), more=st.integers(1, 20), k=st.floats(0.1, 5))
@settings(deadline=None, max_examples=60)
def test_any_closes_and_parameters_equal_talib(close, n, more, k):
    calls = [
        f"sma({n})",
        f"ema({n})",
        f"rsi({n})",
        f"atr({n})",
        f"macd({n}, {n + more}, {more})",
        f"bbands({n}, {k})",
    ]
    assert_as_talib(frame(A=close), calls)


@given(close=any_series, n=st.integers(2, 30))
@settings(deadline=None, max_examples=60)
def test_the_width_of_bands_is_the_deviation_whatever_went_through_before(close, n):
    bands = compute(frame(A=close), [f"bbands({n}, 1)"])
    width = (bands[f"bbands_{n}_1_upper"] - bands[f"bbands_{n}_1_lower"]) / 2
    exact = pd.Series(close).rolling(n).apply(np.std, raw=True)
    around = pd.Series(close).rolling(n).max() * 1e-9
    assert ((width.to_numpy() - exact).abs() <= around)[n - 1 :].all()


# Symbols, threads, gaps


@given(lengths=st.lists(st.integers(1, 90), min_size=1, max_size=6), seed=st.integers(0, 99))
@settings(deadline=None, max_examples=40)
def test_a_symbols_values_do_not_depend_on_its_neighbours(lengths, seed):
    closes = {f"S{i}": walk(length, seed=seed + i) for i, length in enumerate(lengths)}
    together = compute(frame(**closes), SIX)
    for symbol, close in closes.items():
        pd.testing.assert_frame_equal(
            together.loc[[symbol]], compute(frame(**{symbol: close}), SIX), check_exact=True
        )


@pytest.mark.parametrize("threads", [2, 3, 8])
def test_threads_change_nothing(threads):
    lengths = [1, 400, 3, 90, 1200, 50, 700, 2]
    bars = frame(**{f"S{i}": walk(length, seed=i) for i, length in enumerate(lengths)})
    prices = [bars[name].to_numpy() for name in ("high", "low", "close")]
    offsets = np.concatenate([[0], np.cumsum(lengths)])
    program = [("sma", 0, 20), ("ema", 1, 50), ("rsi", 2, 14)]
    program += [("macd", 3, 12, 26, 9), ("bbands", 6, 20, 2.0), ("atr", 9, 14)]
    alone, shared = np.zeros((10, len(bars))), np.ones((10, len(bars)))
    kernels.run(program, *prices, offsets, alone, threads=1)
    kernels.run(program, *prices, offsets, shared, threads=threads)
    np.testing.assert_array_equal(alone, shared)
    np.testing.assert_array_equal(alone.T, compute(bars, SIX))


def test_strided_and_read_only_columns_give_the_same_values():
    bars = frame(A=walk(200), B=walk(100, seed=1))
    by_row = np.ascontiguousarray(bars.to_numpy())
    by_row.flags.writeable = False
    strided = pd.DataFrame(by_row, index=bars.index, columns=bars.columns, copy=False)
    assert not strided["close"].to_numpy().flags.c_contiguous
    pd.testing.assert_frame_equal(compute(strided, SIX), compute(bars, SIX), check_exact=True)


def test_a_symbol_that_begins_with_nan_starts_at_its_first_complete_bar():
    bars = frame(A=walk(100), B=walk(100, seed=1), C=np.full(60, np.nan))
    late = bars.copy()
    late.iloc[100:110, :4] = np.nan
    whole = compute(late, SIX)
    pd.testing.assert_frame_equal(whole.iloc[110:200], compute(bars.iloc[110:200], SIX), check_exact=True)
    assert whole.iloc[100:110].isna().all(axis=None)
    assert whole.loc["C"].isna().all(axis=None)
    pd.testing.assert_frame_equal(whole.loc[["A"]], compute(bars.loc[["A"]], SIX))


def test_after_a_gap_inside_a_series_everything_is_nan_and_nothing_before_it_changes():
    bars = frame(A=walk(200), B=walk(100, seed=1))
    gap = bars.copy()
    gap.iloc[120, :4] = np.nan
    expected = compute(bars, SIX)
    expected.iloc[120:200] = np.nan
    pd.testing.assert_frame_equal(compute(gap, SIX), expected, check_exact=True)


@pytest.mark.parametrize("column", ["high", "low", "close"])
def test_one_missing_price_is_enough_to_end_the_average_true_range(column):
    bars = frame(A=walk(80))
    bars.iloc[50, bars.columns.get_loc(column)] = np.nan
    atr = compute(bars, ["atr(14)"])["atr_14"]
    assert atr.iloc[14:50].notna().all()
    assert atr.iloc[51:].isna().all()


# Batch is incremental


CATALOGUE = [
    "cci(20)",
    "stoch(k=14, d=3)",
    "adx(14)",
    "obv()",
    "supertrend(7, 3.0)",
    "vwap()",
    "ichimoku(include_chikou=False)",
]


@indicator
def momentum(bars: pd.DataFrame, window: int = 10) -> pd.Series:
    return bars["close"] / bars["close"].shift(window) - 1


@given(close=any_series, data=st.data())
@settings(deadline=None, max_examples=60)
def test_the_last_row_of_a_prefix_is_the_row_of_the_whole(close, data):
    bars = frame(A=close, B=close[::-1])
    whole = compute(bars, SIX)
    t = data.draw(st.integers(1, len(close)))
    for symbol in ("A", "B"):
        prefix = compute(bars.loc[[symbol]].iloc[:t], SIX)
        pd.testing.assert_frame_equal(prefix, whole.loc[[symbol]].iloc[:t], rtol=1e-9)


def test_batch_equals_incremental_on_real_stocks_for_all_kinds(real):
    indicators._OWN["momentum"] = momentum
    specs = [*SIX, "momentum(5)", *CATALOGUE]
    recent = real[real.index.get_level_values("timestamp") >= "2012-06-01"]
    whole = compute(recent, specs)
    for day in recent.index.levels[1][-190::27]:
        known = recent[recent.index.get_level_values("timestamp") <= day]
        if known.empty:
            continue
        last = compute(known, specs).groupby("symbol").tail(1)
        np.testing.assert_allclose(last, whole.loc[last.index], rtol=1e-9, atol=1e-12)


# Asking


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("sma()", ["sma_20"]),
        ("ema(50)", ["ema_50"]),
        (" rsi( length = 14 ) ", ["rsi_14"]),
        ("macd()", ["macd_12_26_9", "macd_12_26_9_signal", "macd_12_26_9_hist"]),
        ("bbands(20, 2.0)", ["bbands_20_2_upper", "bbands_20_2_middle", "bbands_20_2_lower"]),
        ("bbands(k=2.5)", ["bbands_20_2.5_upper", "bbands_20_2.5_middle", "bbands_20_2.5_lower"]),
        ("atr(7)", ["atr_7"]),
        ("cci(20)", ["cci_20"]),
        (
            "stoch(k=14, d=3)",
            ["stoch_k14_d3_stochk_14_3_3", "stoch_k14_d3_stochd_14_3_3", "stoch_k14_d3_stochh_14_3_3"],
        ),
    ],
)
def test_a_call_names_its_columns(text, expected):
    assert columns([text]) == expected
    assert list(compute(frame(A=walk(60)), [text])) == expected


def test_calls_that_mean_the_same_give_one_column():
    same = ["macd()", "macd(12, 26, 9)", "macd(12, signal=9, slow=26)", "rsi()", "rsi(14)"]
    assert len(columns(same)) == len(compute(frame(A=walk(40)), same).columns) == 4


def test_two_calls_that_would_share_a_column_are_refused():
    @indicator
    def ends(bars):
        return bars[["high", "low"]]

    @indicator
    def ends_high(bars):
        return bars["high"]

    for ask in (columns, lambda specs: compute(frame(A=walk(9)), specs)):
        with pytest.raises(UserError, match="two of the indicators asked for give a column ends_high"):
            ask(["ends()", "ends_high()"])


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("sma(0)", "length must be a whole number from 1"),
        ("sma(-3)", "not -3"),
        ("sma(2.5)", "not 2.5"),
        ("sma(True)", "not True"),
        ("sma('20')", "not '20'"),
        ("sma(1000000)", "100000"),
        ("bbands(20, 0)", "k must be a number above 0"),
        ("bbands(20, -1.5)", "k must be"),
        ("bbands(20, 1" + "0" * 400 + ")", "at most 1000"),
        ("macd(26, 12, 9)", "must be shorter than slow"),
        ("rsi(14, 3)", r"its parameters are rsi\(length=14\)"),
        ("rsi(period=14)", r"its parameters are rsi\(length=14\)"),
        ("rsi(14, length=14)", r"its parameters are rsi\(length=14\)"),
        ("rsi(**{'length': 3})", "not a number"),
        ("rsi(*[3])", "not a number"),
        ("sma 20", "write it as a call"),
        ("sma", "write it as a call"),
        ("", "write it as a call"),
        ("sma(20", "write it as a call"),
        ("a.b(20)", "write it as a call"),
        ("sma(20); x", "write it as a call"),
        ("sma(close)", "close is not a number"),
        ("sma(__import__('os'))", "is not a number"),
        ("bbands(20, 1e999)", "not a number"),
        ("sma(\x00)", "write it as a call"),
        ("stok(14)", "is it stoch"),
        ("SMA(14)", "is it sma"),
        ("cci(lenght=20)", r"its parameters are cci\(length, c, offset\)"),
        ("cci(20, length=20)", "its parameters are"),
        ("cci(talib=True)", "its parameters are"),
        ("cci(length='a')", "length='a' changes nothing: pandas-ta passes over it"),
        ("cci(-5)", "length=-5 changes nothing"),
        ("cci(0)", "length=0 changes nothing"),
        ("cci(14.5)", "it failed on a random walk with TypingError"),
        ("kdj(signal=[3])", "is not a number"),
        ("long_run(5)", "it needs series that are not prices"),
        ("cci(5000)", "no value for it, even on 2500 bars"),
    ],
)
def test_a_bad_call_is_one_line_that_quotes_it(text, said):
    with pytest.raises(UserError, match=said) as caught:
        compute(frame(A=walk(60)), [text])
    assert "\n" not in str(caught.value)
    assert repr(text.strip()) in str(caught.value) or repr(text) in str(caught.value)


# One's own


def test_an_own_function_sees_one_symbol_by_timestamp_and_cannot_change_the_bars():
    seen = []

    @indicator
    def nosy(bars, scale=1.0):
        seen.append((bars.index.name, len(bars), list(bars)))
        bars["close"] *= scale
        return bars["close"]

    bars = frame(A=walk(30), B=walk(20))
    before = bars.copy()
    features = compute(bars, ["nosy(scale=2)"])
    assert [row[:2] for row in seen] == [("timestamp", 30), ("timestamp", 20)]
    assert seen[0][2] == ["open", "high", "low", "close", "volume"]
    np.testing.assert_array_equal(features["nosy_scale2"], before["close"] * 2)
    pd.testing.assert_frame_equal(bars, before)


def test_an_own_frame_gives_a_column_each_and_stands_beside_the_six():
    @indicator
    def ends(bars):
        return bars[["high", "low"]].rename(columns=str.upper)

    bars = frame(A=walk(30))
    features = compute(bars, ["sma(5)", "ends()", "ema(5)"])
    assert (
        list(features)
        == columns(["sma(5)", "ends()", "ema(5)"])
        == ["sma_5", "ends_high", "ends_low", "ema_5"]
    )
    np.testing.assert_array_equal(features["ends_low"], bars["low"])
    np.testing.assert_array_equal(features["ema_5"], compute(bars, ["ema(5)"])["ema_5"])


def test_an_own_function_goes_before_a_built_in_one_of_its_name():
    @indicator
    def sma(bars, length=3):
        return bars["close"] * 0 + length

    assert (compute(frame(A=walk(5)), ["sma(9)"])["sma_9"] == 9).all()


@pytest.mark.parametrize(
    ("result", "said"),
    [
        (lambda bars: 3.0, "returned float, not a Series or a DataFrame"),
        (lambda bars: bars["close"].to_numpy(), "returned ndarray"),
        (lambda bars: None, "returned NoneType"),
        (lambda bars: bars["close"].iloc[1:], "returned 29 rows that are not its 30 bars"),
        (lambda bars: bars["close"].reset_index(drop=True), "returned 30 rows that are not its 30 bars"),
        (lambda bars: bars["close"].astype(str) + "x", "values that are not numbers"),
        (lambda bars: bars[[]], "columns without names of their own"),
        (lambda bars: bars[["close", "close"]], "columns without names of their own"),
        (lambda bars: 1 / 0, "it failed on B with ZeroDivisionError: division by zero"),
        (lambda bars: bars["no\nsuch"], "it failed on B with KeyError"),
        (lambda bars: bars[["open"]], "on B its columns are"),
    ],
)
def test_an_own_function_that_misbehaves_is_one_line_with_the_symbol(result, said):
    @indicator
    def odd(bars):
        return bars["close"] if len(bars) == 20 else result(bars)

    with pytest.raises(UserError, match=said) as caught:
        compute(frame(A=walk(20), B=walk(30)), ["odd()"])
    assert "'odd()'" in str(caught.value)
    assert " B" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_an_own_function_called_wrongly_is_a_line():
    indicator(momentum)
    with pytest.raises(UserError, match="unexpected keyword argument 'days'"):
        compute(frame(A=walk(20)), ["momentum(days=3)"])


def test_an_own_function_says_itself_what_is_wrong_with_an_argument():
    @indicator
    def picky(bars, level=1.0):
        if level <= 0:
            raise UserError(f"level must be above 0, not {level}")
        return bars["close"] * level

    with pytest.raises(UserError, match=r"'picky\(-1\)': on A, level must be above 0, not -1"):
        compute(frame(A=walk(9)), ["picky(-1)"])


# The package's


@pytest.fixture
def shipped(tmp_path, monkeypatch) -> str:
    "An indicator `doubled` of a module that nobody has imported."
    (tmp_path / "shipped_for_a_test.py").write_text(
        "from tradebot.indicators import indicator\n\n\n"
        "@indicator\ndef doubled(bars):\n    return bars['close'] * 2\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setitem(indicators.SHIPPED, "doubled", "shipped_for_a_test")
    yield "shipped_for_a_test"
    sys.modules.pop("shipped_for_a_test", None)
    indicators._LOADED.pop("doubled", None)


def test_an_indicator_of_another_module_is_found_without_importing_it(shipped):
    assert shipped not in sys.modules
    parse("doubled()")
    assert shipped not in sys.modules
    bars = frame(A=walk(9))
    np.testing.assert_array_equal(compute(bars, ["doubled()"])["doubled"], bars["close"] * 2)
    assert columns(["doubled()"]) == ["doubled"]
    assert [each.__name__ for each in indicators.registered(["sma(3)", "doubled()"])] == ["doubled"]


@pytest.mark.parametrize("imported_before", [True, False])
def test_ones_own_comes_before_the_packages_whichever_came_first(shipped, imported_before):
    def doubled(bars):
        return bars["close"] * 3

    if imported_before:
        columns(["doubled()"])
    indicator(doubled)
    __import__(shipped)
    bars = frame(A=walk(9))
    np.testing.assert_array_equal(compute(bars, ["doubled()"])["doubled"], bars["close"] * 3)


def test_a_near_miss_of_a_shipped_name_is_told(shipped):
    with pytest.raises(UserError, match="there is no indicator dubled; is it doubled"):
        columns(["dubled()"])


# pandas-ta's


@pytest.mark.parametrize("length", [1, 2, 13, 14, 40])
def test_a_short_symbol_has_the_same_columns_as_a_long_one(length):
    bars = frame(LONG=walk(200), SHORT=walk(length))
    features = compute(bars, CATALOGUE)
    assert list(features) == columns(CATALOGUE) == list(compute(bars.loc[["SHORT"]], CATALOGUE))
    assert len(features.loc["SHORT"]) == length
    assert features.loc["LONG"].iloc[-1].notna().sum() >= 10


def test_talib_installed_or_not_changes_no_catalogue_value():
    bars = frame(A=walk(300))
    import pandas_ta

    expected = pandas_ta.stdev(bars.loc["A"]["close"], 20, talib=False)
    np.testing.assert_array_equal(compute(bars, ["stdev(20)"])["stdev_20"], expected)


@pytest.mark.parametrize(
    "text", ["dpo(20)", "zigzag()", "tos_stdevall()", "ichimoku()", "mom(10, offset=-1)"]
)
def test_an_indicator_that_looks_ahead_is_refused(text):
    with pytest.raises(UserError, match="looks ahead"):
        columns([text])


def test_a_first_value_comes_at_the_same_bar_however_long_the_history_is():
    bars, text = (
        frame(A=walk(120)),
        "ichimoku(include_chikou=False)",
    )  # its nine-bar line waits for the longest one
    whole = compute(bars, [text])
    for length in (9, 20, 51, 52, 53, 80):
        pd.testing.assert_frame_equal(compute(bars.iloc[:length], [text]), whole.iloc[:length])


def test_arguments_that_are_pandas_tas_defaults_may_be_said():
    asked = ["cci(14)", "cci(length=14)", "supertrend(7, 3)", "stoch(14, 3, 3)"]
    assert len(columns(asked)) == 1 + 1 + 4 + 3


def test_a_centred_indicator_may_be_asked_for_uncentred():
    assert columns(["dpo(20, centered=False)"]) == ["dpo_20_centeredfalse"]


# Cost and shape


def test_features_stand_on_the_index_of_their_bars():
    bars = frame(A=walk(30), B=walk(40))
    features = compute(bars, [*SIX, "cci(5)"])
    assert features.index is bars.index
    assert set(features.dtypes) == {np.dtype("float64")}
    assert compute(bars, []).shape == (70, 0)


def test_importing_indicators_does_not_import_numba_or_pandas_ta():
    code = (
        "import sys; from tradebot.indicators import parse, columns; columns(['sma(20)', 'macd()'])\n"
        "print([name for name in ('numba', 'pandas_ta', 'talib') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_compiled_kernels_are_kept_where_numba_cache_dir_says(tmp_path):
    environment = {**os.environ, "NUMBA_CACHE_DIR": str(tmp_path)}
    code = (
        "from tradebot import kernels; print(kernels.cache_folder(), kernels.run_symbols.stats.cache_misses)"
    )
    first, second = (
        subprocess.run(
            [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
        ).stdout
        for _ in range(2)
    )
    assert list(tmp_path.rglob("*.nbc"))
    assert first.split()[0] == second.split()[0]
    assert Path(first.split()[0]).parent == tmp_path


def test_kernels_are_kept_in_the_projects_cache_by_default(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "NUMBA_CACHE_DIR"}
    environment["TRADEBOT_HOME"] = str(tmp_path)
    subprocess.run([sys.executable, "-c", "import tradebot.kernels"], check=True, env=environment)
    assert list((tmp_path / ".cache" / "numba").rglob("*.nbc"))


def test_asking_for_a_pandas_ta_indicator_leaves_pandas_as_it_was() -> None:
    code = (
        "import pandas as pd; from tradebot.indicators import columns; "
        "columns(['cci(14)']); assert not pd.options.mode.copy_on_write"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
