"""Change points and percentile ranks: by hand, by plain Python, by published run lengths, by hindsight."""

import math

import numpy as np
import pandas as pd
import pytest
import ruptures
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from tradebot import indicators
from tradebot.change import COLUMNS, symmetric, tabular
from tradebot.config import UserError
from tradebot.indicators import columns, compute, feature, indicator
from tradebot.prices import adjust, bars_frame
from tradebot.trailing import log_returns, ranks, trailing_moments

UP, DOWN, EVENT, SINCE = range(4)
CALLS = [
    "cusum(threshold=2.0, window=10)",
    "cusum(threshold=0.03, window=0)",
    "cusum('rsi(5)', 1.5, 10)",
    "tabular_cusum(k=0.25, h=2, window=10)",
    "tabular_cusum('rsi(5)', 0.5, 2, 10)",
    "percentile_rank('relative_atr(5)', 15)",
    "percentile_rank('return_deviation(8)', 15)",
    "return_deviation(8)",
    "median_volume(4)",
]


def frame(closes: np.ndarray, symbol: str = "A") -> pd.DataFrame:
    """Bars of one symbol: high and low one per cent around the close."""
    close = np.asarray(closes, float)
    days = pd.bdate_range("2010-01-04", periods=len(close))
    values = {"open": close, "high": close * 1.01, "low": close * 0.99, "close": close}
    volume = 1e5 * (1 + np.arange(len(close)) % 7)
    return bars_frame(pd.DataFrame({**values, "volume": volume, "symbol": symbol, "timestamp": days}))


def walk(length: int, seed: int = 0) -> np.ndarray:
    return 50 * np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.02, length)))


@pytest.fixture(autouse=True)
def _own_indicators_are_forgotten():
    before = dict(indicators._OWN)
    yield
    indicators._OWN.clear()
    indicators._OWN.update(before)


# The definitions in plain Python


def plainly_counted(events: list[float]) -> list[float]:
    counts, since = [], 0.0
    for event in events:
        if math.isnan(event):
            since = 0.0
        elif event:
            since = event
        else:
            since += (since > 0) - (since < 0)
        counts.append(math.nan if math.isnan(event) else since)
    return counts


def plain_symmetric(moves, thresholds) -> np.ndarray:
    ups, downs, events = [], [], []
    up = down = 0.0
    for move, threshold in zip(moves, thresholds, strict=True):
        if math.isnan(move) or math.isnan(threshold):
            up = down = 0.0
            ups.append(math.nan), downs.append(math.nan), events.append(math.nan)
            continue
        up, down = max(0.0, up + move), min(0.0, down + move)
        over = {1.0: up > threshold > 0, -1.0: -down > threshold > 0}
        furthest = max(up, -down)
        speaks = [side for side, size in ((1.0, up), (-1.0, -down)) if over[side] and size == furthest]
        ups.append(up), downs.append(down), events.append(speaks[0] if len(speaks) == 1 else 0.0)
        up, down = (0.0 if over[1.0] else up), (0.0 if over[-1.0] else down)
    return np.array([ups, downs, events, plainly_counted(events)]).reshape(4, -1)


def plain_tabular(x, means, deviations, k, h) -> np.ndarray:
    ups, downs, events = [], [], []
    up = down = 0.0
    for value, mean, deviation in zip(x, means, deviations, strict=True):
        if any(math.isnan(number) for number in (value, mean, deviation)):
            up = down = 0.0
            ups.append(math.nan), downs.append(math.nan), events.append(math.nan)
            continue
        if deviation > 0:
            z = (value - mean) / deviation
            up, down = max(0.0, up + z - k), min(0.0, down + z + k)
        events.append(float(up > h) - float(-down > h))
        ups.append(up), downs.append(down)
        if events[-1]:
            up = down = 0.0
    return np.array([ups, downs, events, plainly_counted(events)]).reshape(4, -1)


def plain_moments(x, window) -> tuple[np.ndarray, np.ndarray]:
    mean, deviation = np.full(len(x), np.nan), np.full(len(x), np.nan)
    for t in range(window, len(x)):
        mean[t], deviation[t] = np.mean(x[t - window : t]), np.std(x[t - window : t], ddof=1)
    return mean, deviation


def plain_ranks(x, past) -> np.ndarray:
    out = np.full(len(x), np.nan)
    for t in range(past, len(x)):
        before = x[t - past : t]
        if not np.isnan(x[t]) and not np.isnan(before).any():
            out[t] = (np.sum(before < x[t]) + 0.5 * np.sum(before == x[t])) / past
    return out


numbers = st.one_of(st.integers(-4, 4).map(float), st.floats(-50, 50), st.just(math.nan))
series = st.integers(0, 80).flatmap(lambda length: arrays("float64", length, elements=numbers))
whole_numbers = st.integers(0, 80).flatmap(
    lambda length: arrays("float64", length, elements=st.integers(-3, 3).map(float))
)
often = settings(deadline=None, max_examples=80)


@often
@given(moves=series, data=st.data())
def test_the_filter_is_its_definition(moves, data) -> None:
    limits = st.one_of(st.floats(0, 20), st.just(0.0), st.just(math.nan))
    thresholds = data.draw(arrays("float64", len(moves), elements=limits))
    np.testing.assert_array_equal(symmetric(moves, thresholds), plain_symmetric(moves, thresholds))


@often
@given(x=series, window=st.integers(2, 12), k=st.floats(0, 2), h=st.floats(0.1, 8))
def test_the_chart_is_its_definition(x, window, k, h) -> None:
    mean, deviation = trailing_moments(x, window)
    np.testing.assert_allclose(
        tabular(x, mean, deviation, k, h), plain_tabular(x, mean, deviation, k, h), rtol=1e-9, atol=1e-9
    )


@often
@given(x=series, window=st.integers(2, 12))
def test_trailing_moments_are_those_of_the_values_before(x, window) -> None:
    mean, deviation = trailing_moments(x, window)
    expected = plain_moments(x, window)
    np.testing.assert_allclose(mean, expected[0], rtol=1e-9, atol=1e-9)
    np.testing.assert_allclose(deviation, expected[1], rtol=1e-9, atol=1e-8)


@often
@given(x=series, past=st.integers(1, 20))
def test_a_rank_is_its_definition(x, past) -> None:
    np.testing.assert_allclose(ranks(x, past), plain_ranks(x, past), rtol=1e-12)


# What every one of them promises


@often
@given(moves=series, threshold=st.floats(0.1, 30))
def test_a_series_turned_upside_down_swaps_rises_and_falls_of_the_filter(moves, threshold) -> None:
    limits = np.full(len(moves), threshold)
    one, other = symmetric(moves, limits), symmetric(-moves, limits)
    np.testing.assert_array_equal(one, -other[[DOWN, UP, EVENT, SINCE]])


@often
@given(x=series, window=st.integers(2, 12), k=st.floats(0, 2), h=st.floats(0.1, 8))
def test_a_series_turned_upside_down_swaps_rises_and_falls_of_the_chart(x, window, k, h) -> None:
    one = tabular(x, *trailing_moments(x, window), k, h)
    other = tabular(-x, *trailing_moments(-x, window), k, h)
    np.testing.assert_array_equal(one, -other[[DOWN, UP, EVENT, SINCE]])


@often
@given(x=series, past=st.integers(1, 20))
def test_a_series_turned_upside_down_has_the_other_rank(x, past) -> None:
    np.testing.assert_allclose(ranks(-x, past), 1 - ranks(x, past), atol=1e-12)


@often
@given(steps=whole_numbers, data=st.data())
def test_the_last_bar_of_a_prefix_is_that_bar_of_the_whole(steps, data) -> None:
    bars = frame(40 * np.exp(np.cumsum(np.concatenate([[0], steps])) / 50))
    known = data.draw(st.integers(1, len(bars)))
    whole, part = compute(bars, CALLS), compute(bars.iloc[:known], CALLS)
    pd.testing.assert_frame_equal(part, whole.iloc[:known], rtol=0, atol=1e-12)


def test_the_last_bar_of_a_prefix_is_that_bar_of_the_whole_on_real_stocks(sample) -> None:
    adjusted = adjust(*sample).loc[["GOOG"]].iloc[:700]
    calls = ["cusum()", "tabular_cusum()", 'percentile_rank("relative_atr(14)", 252)']
    whole = compute(adjusted, calls)
    for known in range(60, 700, 37):
        part = compute(adjusted.iloc[:known], calls)
        pd.testing.assert_frame_equal(part, whole.iloc[:known], rtol=0, atol=1e-12)


@often
@given(moves=whole_numbers, threshold=st.integers(1, 5))
def test_an_event_follows_a_move_of_more_than_the_threshold_since_that_side_began(moves, threshold) -> None:
    up, down, event, since = symmetric(moves, np.full(len(moves), float(threshold)))
    assert ((event == 1) == (up > threshold)).all()
    assert ((event == -1) == (down < -threshold)).all()
    assert ((since == 1) == (event == 1)).all()
    assert ((since == -1) == (event == -1)).all()


# By hand


def test_a_slow_slide_and_a_crash_are_both_a_fall() -> None:
    threshold = np.full(8, 3.0)
    slide = symmetric(np.array([0, -1, -1, -1, -1, 0, 0, 0.0]), threshold)
    crash = symmetric(np.array([0, -9, 0, 0, 0, 0, 0, 0.0]), threshold)
    assert slide[EVENT].tolist() == [0, 0, 0, 0, -1, 0, 0, 0]
    assert crash[EVENT].tolist() == [0, -1, 0, 0, 0, 0, 0, 0]
    assert slide[SINCE].tolist() == [0, 0, 0, 0, -1, -2, -3, -4]


def test_noise_that_cancels_itself_is_no_change() -> None:
    noise = np.tile([1.0, -1.0], 50)
    assert not symmetric(noise, np.full(100, 1.5))[EVENT].any()
    assert not tabular(noise, np.zeros(100), np.ones(100), 0.5, 1.0)[EVENT].any()


def test_the_chart_forgives_the_reference_value_at_each_bar_and_begins_again_after_an_alarm() -> None:
    z = np.array([1.0, 2.0, 2.0, 1.0, 0.0])
    up, down, event, since = tabular(z, np.zeros(5), np.ones(5), 0.5, 3.0)
    assert up.tolist() == [0.5, 2.0, 3.5, 0.5, 0.0]
    assert down.tolist() == [0] * 5
    assert event.tolist() == [0, 0, 1, 0, 0]
    assert since.tolist() == [0, 0, 1, 2, 3]


def test_a_threshold_in_deviations_is_measured_before_the_bar_that_it_judges() -> None:
    # Moves of one alternate, so the deviation of ten is 1.054; the jump of three itself would make it larger.
    returns = np.concatenate([np.tile([0.01, -0.01], 10), [0.03]])
    bars = frame(50 * np.exp(np.concatenate([[0], np.cumsum(returns)])))
    told = compute(bars, ["cusum(threshold=2.5, window=10)", "return_deviation(10)"])
    assert told["return_deviation_10"].iloc[-1] > 0.03 / 2.5  # with the jump in it, the jump is no event
    assert told.iloc[-1].filter(like="event").item() == 1


def test_two_sides_above_a_threshold_that_has_fallen_speak_for_the_further_one() -> None:
    moves, threshold = np.array([4.0, -3.0, 0.0, 0.0]), np.array([9.0, 9.0, 2.0, 2.0])
    assert symmetric(np.array([5.0, -3.0, 0, 0]), threshold)[EVENT].tolist() == [0, 0, -1, 0]
    assert symmetric(moves, threshold)[EVENT].tolist() == [0, 0, -1, 0]


# Average run lengths

# Montgomery, Introduction to Statistical Quality Control, table of the tabular CUSUM with k = 1/2: by h, by shift.
PUBLISHED = {
    4.0: {0.0: 168, 0.25: 74.2, 0.5: 26.6, 1.0: 8.38, 1.5: 4.75, 2.0: 3.34, 3.0: 2.19},
    5.0: {0.0: 465, 0.25: 139, 0.5: 38.0, 1.0: 10.4, 1.5: 5.75, 2.0: 4.01, 3.0: 2.57},
}


def run_lengths(z: np.ndarray, k: float, h: float) -> np.ndarray:
    alarms = np.flatnonzero(tabular(z, np.zeros_like(z), np.ones_like(z), k, h)[EVENT])
    return np.diff(alarms, prepend=-1)


def siegmund(shift: float, k: float, h: float) -> float:
    """Siegmund's approximation of the two-sided average run length (Siegmund 1985), as Montgomery gives it."""

    def one_sided(drift: float) -> float:
        b = h + 1.166
        return b * b if drift == 0 else (math.exp(-2 * drift * b) + 2 * drift * b - 1) / (2 * drift**2)

    return 1 / (1 / one_sided(shift - k) + 1 / one_sided(-shift - k))


@pytest.mark.parametrize(("h", "shift"), [(h, shift) for h, row in PUBLISHED.items() for shift in row])
def test_run_lengths_are_the_published_ones(h, shift) -> None:
    lengths = run_lengths(np.random.default_rng(7).normal(shift, 1, 1_000_000), 0.5, h)
    error = lengths.std(ddof=1) / math.sqrt(len(lengths))
    # Four standard errors of the simulated mean, and the rounding of the published one to three digits.
    rounding = 0.5 * 10 ** (math.floor(math.log10(PUBLISHED[h][shift])) - 2)
    assert abs(lengths.mean() - PUBLISHED[h][shift]) < 4 * error + rounding


@pytest.mark.parametrize(("k", "h"), [(0.25, 8.0), (0.5, 4.0), (0.75, 3.0), (1.0, 2.5)])
def test_run_lengths_in_control_are_near_siegmunds(k, h) -> None:
    lengths = run_lengths(np.random.default_rng(8).normal(0, 1, 1_000_000), k, h)
    error = lengths.std(ddof=1) / math.sqrt(len(lengths))
    # The approximation itself is good to some per cent.
    assert abs(lengths.mean() - siegmund(0.0, k, h)) < 4 * error + 0.06 * siegmund(0.0, k, h)


def test_an_estimated_mean_makes_alarms_more_frequent() -> None:
    z = np.random.default_rng(9).normal(0, 1, 200_000)
    known = (tabular(z, np.zeros_like(z), np.ones_like(z), 0.5, 4.0)[EVENT] != 0).sum()
    estimated = np.nansum(tabular(z, *trailing_moments(z, 30), 0.5, 4.0)[EVENT] != 0)
    assert estimated > 1.3 * known


# Hindsight


def against_hindsight(close: pd.Series) -> tuple[float, np.ndarray]:
    """The share of alarms within 40 bars after an offline change of volatility, and of the same alarms turned in a circle."""
    size = np.abs(log_returns(close.to_frame("close"))[1:])
    x = np.log(size + np.median(size))
    search = ruptures.Pelt(model="l2", min_size=20, jump=5).fit((x - x.mean()) / x.std())
    soon = np.zeros(len(x), bool)
    for change in search.predict(pen=3 * np.log(len(x)))[:-1]:
        soon[change : change + 41] = True
    alarms = tabular(x, *trailing_moments(x, 120), 0.5, 5)[EVENT][120:] != 0
    turned = [soon[120:][np.roll(alarms, turn)].mean() for turn in range(1, len(alarms))]
    return soon[120:][alarms].mean(), np.array(turned)


@pytest.mark.parametrize("symbol", ["GOOG", "MSFT"])
def test_alarms_of_volatility_follow_what_hindsight_calls_a_change(sample, symbol) -> None:
    share, by_chance = against_hindsight(adjust(*sample).loc[symbol, "close"])
    assert share > 2 * by_chance.mean()
    assert (by_chance >= share).mean() < 0.05


# Edges of the input


def test_a_constant_series_never_alarms_and_stands_in_the_middle() -> None:
    told = compute(frame(np.full(120, 33.3)), CALLS)
    settled = told.iloc[40:]
    assert settled.notna().all(axis=None)
    assert (settled.filter(like="event") == 0).all(axis=None)
    assert (settled.filter(like="percentile_rank") == 0.5).all(axis=None)
    assert (settled["return_deviation_8"] == 0).all()


def test_constant_growth_has_no_deviation_and_no_alarm() -> None:
    bars = frame(50 * 1.01 ** np.arange(200))
    told = compute(bars, ["cusum()", "tabular_cusum()"])
    assert (told.filter(like="event").iloc[61:] == 0).all(axis=None)


def test_a_jump_after_silence_is_an_event_as_soon_as_it_can_be_measured() -> None:
    closes = np.concatenate([np.full(100, 50.0), np.full(20, 60.0)])
    event = compute(frame(closes), ["cusum()"])["cusum_event"]
    assert event.iloc[61:101].eq(0).all()  # on the hundredth bar nothing has moved before
    assert event.iloc[101] == 1


def test_fewer_bars_than_the_window_have_no_value_and_every_column() -> None:
    for length in (1, 2, 9, 11):
        told = compute(
            frame(walk(length)), ["cusum(window=30)", "tabular_cusum(window=30)", "percentile_rank()"]
        )
        assert told.shape == (length, 9)
        assert told.isna().all(axis=None)
    assert list(told)[:4] == [f"cusum_window30_{name}" for name in COLUMNS]


def test_values_begin_where_their_windows_are_full() -> None:
    told = compute(
        frame(walk(400)),
        ["cusum()", "cusum(threshold=0.1, window=0)", "tabular_cusum()", "percentile_rank()"],
    )
    first = [told[name].first_valid_index() for name in told if name.endswith("_since") or "rank" in name]
    assert first == [told.index[t] for t in (61, 1, 61, 14 + 252)]


def test_a_missing_value_begins_the_series_anew() -> None:
    closes = walk(300)
    broken = closes.copy()
    broken[150] = np.nan
    calls = ["cusum()", "tabular_cusum()"]
    told, alone = compute(frame(broken), calls), compute(frame(closes[151:]), calls)
    assert told.iloc[150].isna().all()
    np.testing.assert_array_equal(told.iloc[151:], alone)
    pd.testing.assert_frame_equal(told.iloc[:150], compute(frame(closes[:150]), calls))


def test_a_rank_is_missing_as_long_as_its_past_has_a_gap() -> None:
    @indicator
    def gappy(bars):
        values = bars["close"].copy()
        values.iloc[50] = np.nan
        return values

    rank = compute(frame(walk(100)), ["percentile_rank('gappy()', 10)"]).iloc[:, 0]
    assert rank.iloc[10:50].notna().all()
    assert rank.iloc[50:61].isna().all()
    assert rank.iloc[61:].notna().all()


def test_a_price_of_zero_is_a_missing_return() -> None:
    closes = walk(20)
    closes[10] = 0.0
    assert np.flatnonzero(np.isnan(log_returns(frame(closes).loc["A"]))).tolist() == [0, 10, 11]


def test_a_split_is_no_change(sample) -> None:
    bars, actions = sample
    apple = adjust(bars, actions).loc[["AAPL"]]
    split = actions[(actions["symbol"] == "AAPL") & (actions["kind"] == "split")]["timestamp"]
    calls = ["tabular_cusum()", "cusum()"]
    adjusted, as_traded = compute(apple, calls), compute(bars.loc[["AAPL"]], calls)
    days = [("AAPL", day) for day in split if day > bars.loc["AAPL"].index[100]]
    assert len(days) > 0
    assert (as_traded.loc[days, "tabular_cusum_event"] == -1).all()
    assert (adjusted.loc[days, ["tabular_cusum_event", "cusum_event"]] >= 0).all(axis=None)


# Features of features


def test_any_indicator_can_be_watched() -> None:
    @indicator
    def spread(bars, window=5):
        return bars["close"] / bars["close"].rolling(window).mean() - 1

    bars = frame(walk(300))
    for of in ("rsi(14)", "spread(window=7)", "cci(20)", "percentile_rank('relative_atr(5)', 20)"):
        watched = compute(bars, [of]).iloc[:, 0].to_numpy()
        np.testing.assert_array_equal(feature(bars.loc["A"], of), watched)
        told = compute(bars, [f"tabular_cusum({of!r}, 0.5, 4, 30)", f"cusum({of!r}, 4, 30)"]).to_numpy().T
        moves = np.diff(watched, prepend=np.nan)
        np.testing.assert_array_equal(told[:4], tabular(watched, *trailing_moments(watched, 30), 0.5, 4))
        np.testing.assert_array_equal(told[4:], symmetric(moves, 4 * trailing_moments(moves, 30)[1]))


def test_an_indicator_that_is_watched_counts_as_mentioned() -> None:
    @indicator
    def spread(bars):
        return bars["close"].diff()

    found = indicators.registered(["tabular_cusum('spread()')", "sma(3)", "percentile_rank(of='spread()')"])
    assert [each.__name__ for each in found] == ["tabular_cusum", "spread", "percentile_rank"]


@pytest.mark.parametrize(
    ("call", "said"),
    [
        ("cusum(threshold=0)", "threshold must be a number above 0, not 0"),
        ("cusum(threshold=-2.5)", "threshold must be a number above 0, not -2.5"),
        ("cusum(threshold='much')", "threshold must be a number above 0, not 'much'"),
        ("cusum(threshold=True)", "not True"),
        ("cusum(window=1)", "window, if it isn't 0, must be a whole number of at least 2, not 1"),
        ("cusum(window=2.5)", "not 2.5"),
        ("cusum(5.0)", "of must be 'returns' or an indicator's call in quotes, not 5.0"),
        ("cusum('close')", "indicator 'close': write it as a call"),
        ("cusum('macd()')", "it has 3 columns, and one is wanted"),
        ("cusum('rsi(-1)')", "length must be a whole number from 1"),
        ("cusum('nothing()')", "there is no indicator nothing"),
        ("cusum(h=3)", "unexpected keyword argument 'h'"),
        ("cusm()", "is it cusum"),
        ("tabular_cusum(k=-0.5)", "k must be a number of at least 0, not -0.5"),
        ("tabular_cusum(h=0)", "h must be a number above 0, not 0"),
        ("tabular_cusum(window=0)", "window must be a whole number of at least 2, not 0"),
        ("percentile_rank(past=0)", "past must be a whole number of at least 1, not 0"),
        ("percentile_rank('bbands()')", "it has 3 columns"),
        ("relative_atr(0)", "length must be a whole number of at least 1, not 0"),
        ("return_deviation('20')", "length must be a whole number of at least 2, not '20'"),
        ("median_volume(0)", "length must be a whole number of at least 1, not 0"),
    ],
)
def test_a_wrong_argument_is_one_line_that_names_the_indicator(call, said) -> None:
    for ask in (columns, lambda calls: compute(frame(walk(90)), calls)):
        with pytest.raises(UserError, match=said) as caught:
            ask([call])
        assert call in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_watched_indicator_that_fails_is_named_with_its_symbol() -> None:
    @indicator
    def odd(bars):
        return 1 / 0 if len(bars) == 30 else bars["close"]

    with pytest.raises(
        UserError, match=r"cusum.*on A, indicator 'odd\(\)': it failed on these bars with Zero"
    ):
        compute(frame(walk(30)), ["cusum('odd()')"])
