"""The fast engine: any rules on any market as zipline has them, compiled rules as the signal engine has them, and bad input."""

import re

import numpy as np
import pandas as pd
import pytest
from engines import backtest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markets import DAYS, frames, markets, rules, signals_frame

from tradebot.accounting import bars_of
from tradebot.config import Risk, UserError
from tradebot.parity import differences, engines
from tradebot.prices import actions_frame, bars_frame
from tradebot.programs import read
from tradebot.report import tear_sheet
from tradebot.scan import events_of, scan
from tradebot.signal_engine import Rules, Strategy, entry_filter, generate, get_strategy, strategy
from tradebot.simulate import simulate
from tradebot.universe import universe

SLOW = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
MONEY = {"capital": 100_000.0, "rules": Risk()}

# ------------------------------------------------------------------------------------------- rules of sizing


@settings(SLOW, max_examples=120)
@given(markets(), rules, st.integers(10, 3000))
def test_any_rules_on_any_market_are_zipline_s(made, rules, capital):
    bars, actions, signals, days = made
    backtest(bars, actions, signals, start=days[0], end=days[-1], capital=float(capital), rules=rules)


@pytest.mark.parametrize(
    "rules",
    [
        Risk(buffer=0.0),
        Risk(sizing="fraction", fraction=0.1, max_position=25_000, commission=0.0005),
        Risk(sizing="equal_weight", max_positions=3, max_drawdown=0.3),
        Risk(max_order=20_000, max_orders_per_day=1, max_daily_loss=0.02, buffer=0.02),
    ],
    ids=["no buffer", "a tenth each, with commission", "equal weights, a drawdown stop", "limits a day"],
)
@pytest.mark.parametrize(
    ("start", "end"), [("2000-01-03", "2013-12-31"), ("2004-06-01", "2006-01-31")], ids=["all", "a split"]
)
def test_real_stocks_with_splits_and_dividends(sample, rules, start, end):
    bars, actions = sample
    signals = generate(bars, actions, get_strategy("crossover")).signals
    end = min(pd.Timestamp(end), bars.index.get_level_values("timestamp").max())
    result = backtest(bars, actions, signals, start=start, end=end, capital=100_000.0, rules=rules)
    assert len(result.fills) > 10


# -------------------------------------------------------------------------------------------- compiled rules


@st.composite
def expressions(draw, depth: int = 3):
    """A number over the columns of a frame of bars, as a function of the frame."""
    kind = draw(st.sampled_from(["column", "constant", "sum", "product", "ratio", "minus", "abs", "shift"]))
    if depth == 0 or kind == "column":
        name = draw(st.sampled_from(["open", "high", "low", "close", "volume", "a", "b", "c_hist"]))
        return lambda bars: bars[name]
    if kind == "constant":
        value, name = draw(st.sampled_from([-1, 0, 0.5, 2, 30])), draw(st.sampled_from(["close", "a"]))
        return lambda bars: value * bars[name]
    one, other = draw(expressions(depth - 1)), draw(expressions(depth - 1))
    periods = draw(st.integers(0, 3))
    return {
        "sum": lambda bars: one(bars) + other(bars),
        "product": lambda bars: one(bars) * other(bars),
        "ratio": lambda bars: one(bars) / other(bars),
        "minus": lambda bars: 1 - one(bars) - -other(bars),
        "abs": lambda bars: abs(one(bars)),
        "shift": lambda bars: one(bars).shift(periods),
    }[kind]


@st.composite
def conditions(draw, depth: int = 2):
    one, other = draw(expressions()), draw(expressions())
    bound = draw(st.sampled_from([0, 1.0, 50]))
    kind = draw(st.sampled_from(["<", "<=", ">", ">=", "==", "!=", "bound", "and", "or", "xor", "not"]))
    if depth == 0 or kind in ("<", "bound"):
        return (lambda bars: bound > one(bars)) if kind == "bound" else (lambda bars: one(bars) < other(bars))
    first, second = draw(conditions(depth - 1)), draw(conditions(depth - 1))
    return {
        "<=": lambda bars: one(bars) <= other(bars),
        ">": lambda bars: one(bars) > other(bars),
        ">=": lambda bars: one(bars) >= other(bars),
        "==": lambda bars: one(bars) == other(bars),
        "!=": lambda bars: one(bars) != other(bars),
        "and": lambda bars: first(bars) & second(bars),
        "or": lambda bars: first(bars) | second(bars),
        "xor": lambda bars: first(bars) ^ second(bars),
        "not": lambda bars: ~first(bars),
    }[kind]


def made_of(buy, sell) -> Strategy:
    needs = {"a": "sma(3)", "b": "rsi(2)", "c": "macd(2, 4, 2)"}
    return Strategy("made", lambda bars: Rules({"x": buy(bars)}, {"y": sell(bars)}), needs, {})


@pytest.fixture(scope="module")
def walks() -> tuple[pd.DataFrame, pd.DataFrame]:
    """Three symbols: one walks, one stands still for a while, one is listed late and halted; with a split each."""
    rng, days = np.random.default_rng(5), pd.bdate_range("2012-01-03", "2012-05-25")
    days = days[~days.isin(pd.to_datetime(["2012-01-16", "2012-02-20", "2012-04-06"]))]
    parts = []
    for number, symbol in enumerate(["A", "B", "C"]):
        close = np.round(50 * np.exp(np.cumsum(rng.normal(0, 0.02, len(days)))), 2)
        if symbol == "B":
            close[20:60] = close[20]
        opened = np.round(close * np.exp(rng.normal(0, 0.01, len(days))), 2)
        part = pd.DataFrame({"timestamp": days, "open": opened, "close": close, "symbol": symbol})
        part["high"], part["low"] = (
            part[["open", "close"]].max(axis=1) + 0.3,
            part[["open", "close"]].min(axis=1) - 0.3,
        )
        part["volume"] = rng.integers(0, 5, len(days)) * 100.0
        parts.append(part.iloc[30 * (number == 2) :].drop(index=range(70, 75) if number == 2 else []))
    actions = [(symbol, days[50 + n], "split", 2.0) for n, symbol in enumerate("ABC")]
    return bars_frame(pd.concat(parts)), actions_frame([*actions, ("A", days[60], "dividend", 0.25)])


@settings(SLOW, max_examples=150)
@given(buy=conditions(), sell=conditions())
def test_any_arithmetic_compiles_to_the_signal_engine_s_signals(walks, buy, sell):
    bars, actions = walks
    made, arrays = made_of(buy, sell), universe(bars, actions)
    program = read(made)
    assert program is not None
    with np.errstate(all="ignore"):
        expected = generate(bars, actions, made).signals
    (found,) = scan(arrays, bars_of(arrays), [program], arrays.span())
    found = found[np.lexsort((found["column"], arrays.rows[found["bar"]]))]
    assert np.array_equal(found, events_of(arrays, expected))


@entry_filter(needs={})
def unreadable(bars: pd.DataFrame, *, minimum: float = 0.5) -> pd.Series:
    """A filter with a rolling window of its own, which no program has."""
    return bars.volume >= minimum * bars.volume.rolling(20).median()


@pytest.mark.parametrize("name", ["crossover"])
@pytest.mark.parametrize(
    "filters", [(), ("volatility(maximum=0.03)",), ("volume(minimum=0.8)",), ("unreadable(minimum=0.8)",)]
)
def test_a_strategy_and_its_signals_give_the_same_result(sample, name, filters):
    bars, actions = sample
    chosen, arrays = get_strategy(name, {"sma": 10, "oversold": 35}, filters), universe(bars, actions)
    signals = generate(bars, actions, chosen).signals
    one, other = simulate(arrays, chosen, **MONEY), simulate(arrays, signals, **MONEY)
    assert differences(one, other).empty
    assert len(one.fills) > 100
    pd.testing.assert_frame_equal(one.signals, other.signals)


def test_many_programs_at_once_are_each_alone(sample):
    bars, actions = sample
    arrays = universe(bars, actions)
    programs = [
        read(get_strategy("crossover", {"sma": sma, "rsi": rsi}, filters))
        for sma in (5, 20)
        for rsi in (7, 14)
        for filters in ((), ("volatility()",))
    ]
    together = scan(arrays, bars_of(arrays), programs, arrays.span())
    for program, found in zip(programs, together, strict=True):
        for threads in (1, 3):
            (alone,) = scan(arrays, bars_of(arrays), [program], arrays.span(), threads)
            assert np.array_equal(alone, found)


def test_an_indicator_that_no_kernel_knows_is_computed_beforehand(sample):
    bars, actions = sample

    @strategy(needs={"line": "hma(20)", "range": "atr(14)"})
    def hull(bars: pd.DataFrame) -> Rules:
        above = bars.close > bars.line + bars.range
        return Rules({"above": above}, {"below": ~above})

    chosen, arrays = get_strategy("hull"), universe(bars, actions)
    assert read(chosen) is not None
    signals = generate(bars, actions, chosen).signals
    assert len(signals) > 100
    assert differences(simulate(arrays, chosen, **MONEY), simulate(arrays, signals, **MONEY)).empty


UNREADABLE = {
    "a rolling window": lambda bars: bars.close > bars.close.rolling(3).mean(),
    "an if": lambda bars: bars.close > (bars.a if bars.close.iloc[-1] > 1 else bars.b),
    "a branch on truth": lambda bars: (bars.close > bars.a) and (bars.close > bars.b),
    "numpy": lambda bars: np.maximum(bars.close, bars.a) > bars.b,
    "the index": lambda bars: pd.Series(bars.index.dayofweek == 0, index=bars.index),
    "a shift into the future": lambda bars: bars.close.shift(-1) > bars.close,
    "numbers as truths": lambda bars: bars.close & bars.a,
    "a column that isn't there": lambda bars: bars.nothing > 1,
    "no comparison": lambda bars: bars.close,
    "a plain truth": lambda bars: True,
    "a power": lambda bars: bars.close**2 > 100,
}


@pytest.mark.parametrize("name", list(UNREADABLE))
def test_what_cannot_be_read_is_not_guessed(name):
    assert read(made_of(UNREADABLE[name], lambda bars: bars.close < bars.a)) is None


# --------------------------------------------------------------------------------------------------- bad input


def with_bar(symbol: str, day: str, **values: float) -> pd.DataFrame:
    bars = frames({"A": [(10, 11, 9, 10)] * 5, "B": [(10, 11, 9, 10)] * 5})
    for name, value in values.items():
        bars.loc[(symbol, pd.Timestamp(day)), name] = value
    return bars


@pytest.mark.parametrize("name", ["open", "high", "low", "close"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0])
def test_a_price_that_is_no_price_is_told_with_its_symbol_and_day(name, value):
    with pytest.raises(UserError, match=f"B has a {name} of {value} on 2024-01-04"):
        universe(with_bar("B", "2024-01-04", **{name: value}), actions_frame())


def test_without_bars_there_is_nothing_to_trade_on():
    with pytest.raises(UserError, match="there are no bars to trade on; fetch some first"):
        universe(frames({"A": []}), actions_frame())


def test_a_price_beyond_counting_is_refused():
    bars = with_bar("A", "2024-01-04", high=6e6)
    with pytest.raises(UserError, match="A cost 6,000,000 on 2024-01-04"):
        simulate(universe(bars, actions_frame()), signals_frame([]), **MONEY)
    with pytest.raises(UserError, match="1e\\+13 dollars are more than can be counted"):
        simulate(
            universe(with_bar("A", "2024-01-04"), actions_frame()),
            signals_frame([]),
            capital=1e13,
            rules=Risk(),
        )


def test_symbols_that_never_trade_together_are_traded_one_after_the_other():
    bars = frames({"A": [(10, 11, 9, 10)] * 2 + [None] * 3, "B": [None] * 3 + [(20, 21, 19, 20)] * 2})
    signals = signals_frame([("A", 0, "buy"), ("B", 3, "buy")])
    result = backtest(
        bars, actions_frame(), signals, start=DAYS[0], end=DAYS[-1], capital=1000.0, rules=Risk(buffer=0.0)
    )
    assert result.fills["symbol"].tolist() == ["A"]
    assert result.sessions["equity"].tolist() == [1000.0] * 5


def test_no_signal_leaves_the_capital(sample):
    arrays = universe(*sample)
    result = simulate(
        arrays, get_strategy("crossover", {"oversold": -1.0, "overbought": 101.0, "sma": 5000}), **MONEY
    )
    assert (result.sessions["equity"] == 100_000).all()
    for frame in (result.orders, result.fills, result.positions, result.dividends, result.signals):
        assert frame.empty


def test_a_signal_of_another_kind_is_refused():
    bars, signals = with_bar("A", "2024-01-04"), signals_frame([("A", 1, "hold")])
    with pytest.raises(UserError, match="A has a signal of type 'hold'; it must be buy or sell"):
        simulate(universe(bars, actions_frame()), signals, **MONEY)


def test_a_single_bar_is_enough_for_an_account():
    result = simulate(
        universe(frames({"A": [(10, 11, 9, 10)]}), actions_frame()), get_strategy("crossover"), **MONEY
    )
    assert result.sessions["equity"].tolist() == [100_000]


def test_the_worth_of_what_was_bought_on_a_day_of_a_sale_counts_at_that_day_s_close():
    flat = (0.5, 0.5, 0.5, 0.5)
    bars = frames({"A": [flat, flat, flat, (0.5, 0.85, 0.5, 0.85), flat], "B": [flat] * 5})
    signals = signals_frame(
        [("B", 0, "buy"), ("B", 1, "buy"), ("B", 2, "sell"), ("A", 2, "buy"), ("A", 4, "buy")]
    )
    rules = Risk(buffer=0.0, max_order=100.0, max_drawdown=0.01)
    span = {"start": DAYS[0], "end": DAYS[-1]}
    result = backtest(bars, actions_frame(), signals, capital=203.0, rules=rules, **span)
    assert result.sessions["equity"].tolist() == [203, 203, 203, 205.1, 203]
    assert result.signals["reason"].iloc[-1] == "drawdown of 1.0%, max_drawdown is 1.0%"


def test_a_tear_sheet_of_either_engine_is_the_same_page(sample, tmp_path):
    bars, actions = sample
    chosen, span = get_strategy("crossover"), (pd.Timestamp("2004-01-02"), pd.Timestamp("2007-12-31"))
    pairs = engines(bars, actions, chosen, [span], **MONEY)
    pages = []
    for number, result in enumerate(pairs[0]):
        path = tmp_path / f"{number}.html"
        tear_sheet(result, bars, actions, title="either", notes={}, path=path)
        pages.append(visible(path.read_text()))
    assert "Sharpe" in pages[0]
    assert pages[0] == pages[1]


def visible(page: str) -> str:
    "The words of a page, without scripts and data."
    return re.sub(r"<[^>]+>", " ", re.sub(r"<(script|style)\b.*?</\1>", "", page, flags=re.DOTALL))
