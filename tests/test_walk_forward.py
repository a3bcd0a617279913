"""Walking forward and cross-validation: no look-ahead, one account, and noise that is found to be noise."""

from itertools import combinations

import numpy as np
import pandas as pd
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from markets import frames

from tradebot.config import Risk, UserError
from tradebot.cross_validation import cross_validate
from tradebot.evidence import annual_sharpe
from tradebot.prices import actions_frame, bars_frame
from tradebot.results import cash_proof
from tradebot.sessions import sessions_between
from tradebot.signal_engine import Rules, get_strategy, strategy
from tradebot.simulate import simulate
from tradebot.splits import combinatorial, grouped
from tradebot.statistics import performance
from tradebot.sweep import Sweep, grid, sweep
from tradebot.universe import universe
from tradebot.walk import scores, walk

MONEY = {"capital": 100_000.0, "rules": Risk(sizing="fraction", fraction=0.2)}
SPACE = {"sma": [5, 10, 20, 40], "ema": [30, 50, 80]}
WINDOWS = {"train": 504, "test": 126, "purge": 10}


@strategy(needs={})
def on_bars(bars: pd.DataFrame, *, buy: int = 0, sell: int = 0) -> Rules:
    number = np.arange(len(bars))
    return Rules(
        {"now": pd.Series(number == buy, bars.index)}, {"now": pd.Series(number == sell, bars.index)}
    )


@strategy(needs={})
def follow(bars: pd.DataFrame, *, sign: int = 1) -> Rules:
    step = (bars.close - bars.close.shift(1)) * sign
    return Rules({"with it": step > 0}, {"against it": step < 0})


@pytest.fixture(scope="module")
def five(sample):
    return universe(*sample)


@pytest.fixture(scope="module")
def found(five):
    return sweep(five, "crossover", grid(SPACE), jobs=2, **MONEY)


def made(returns: np.ndarray, sessions: pd.DatetimeIndex | None = None, **parameters: list) -> Sweep:
    """A sweep with these returns (points, sessions)."""
    table = pd.DataFrame(parameters or {"number": range(len(returns))})
    days = sessions if sessions is not None else pd.RangeIndex(returns.shape[1])
    return Sweep(table, returns, days, list(table.columns), [])


# ------------------------------------------------------------------------------------------------- walk-forward


FLAT = [10, 10, 10, 10, 10, 10, 10, 11, 11, 12, 12, 15]


@pytest.fixture
def small():
    """Twelve sessions of one symbol, one price each; the first point earns early, the second always."""
    days = sessions_between(pd.Timestamp("2024-01-02"), pd.Timestamp("2024-01-18"))
    arrays = universe(frames({"A": [(price,) * 4 for price in FLAT]}, days), actions_frame())
    returns = np.array([[0.03] * 4 + [-0.01] * 8, [0.01] * 12])
    points = {"buy": [5, 7], "sell": [6, 99]}
    both = [get_strategy("on_bars", {"buy": 5, "sell": 6}), get_strategy("on_bars", {"buy": 7, "sell": 99})]
    return arrays, made(returns, days, **points)._replace(strategies=both)


def walk_small(small, **windows):
    rules = Risk(buffer=0.0)
    return walk(*small, train=4, test=3, figure="total_return", capital=1000.0, rules=rules, **windows)


def test_rolling_trainings_forget_what_anchored_ones_remember(small):
    rolling, anchored = walk_small(small), walk_small(small, anchored=True)
    assert rolling.folds["buy"].tolist() == [5, 7, 7]
    assert anchored.folds["buy"].tolist() == [5, 5, 7]
    days = small[1].sessions
    for name, expected in {
        "train_start": [0, 3, 6],
        "train_end": [3, 6, 9],
        "test_start": [4, 7, 10],
        "test_end": [6, 9, 11],
    }.items():
        assert rolling.folds[name].tolist() == [days[number] for number in expected]
    assert anchored.folds["train_start"].tolist() == [days[0]] * 3
    purged = walk_small(small, purge=2).folds
    assert purged["train_end"].tolist() == [days[1], days[4], days[7]]


def test_one_account_walks_through_all_tests_by_hand(small):
    """Bought 100 at 10; sold at 11 in the second test on the first test's last signal; 100 at 11 held into the third."""
    walked = walk_small(small)
    account, fills = walked.result.sessions, walked.result.fills
    assert account["equity"].tolist() == [1000, 1000, 1000, 1100, 1100, 1200, 1200, 1500]
    assert fills["timestamp"].tolist() == [walked.sweep.sessions[k] for k in (6, 7, 8)]
    assert fills["price"].tolist() == [10, 11, 11]
    assert walked.folds["test_return"].tolist() == pytest.approx([0, 0.2, 0.25])


def test_where_the_choice_never_changes_the_walk_is_that_point_alone(five, found):
    best = np.full_like(found.returns, -0.001)
    best[3] = np.abs(found.returns[3]) + 0.001
    walked = walk(five, found._replace(returns=best), **WINDOWS, **MONEY)
    alone = simulate(five, get_strategy("crossover", grid(SPACE)[3]), start=found.sessions[504], **MONEY)
    pd.testing.assert_frame_equal(walked.result.sessions, alone.sessions)
    pd.testing.assert_frame_equal(walked.result.signals, alone.signals)


@pytest.mark.parametrize("anchored", [False, True])
def test_the_equity_joins_to_the_cent(five, found, anchored):
    walked = walk(five, found, anchored=anchored, **WINDOWS, **MONEY)
    folds, equity = walked.folds, walked.result.sessions["equity"]
    assert folds[found.names].drop_duplicates().shape[0] > 1, "the choice changes"
    ends = equity[folds["test_end"]].to_numpy()
    assert 100_000 * (1 + folds["test_return"]).cumprod().to_numpy() == pytest.approx(ends, abs=0.005)
    assert cash_proof(walked.result)["end cash"] == walked.result.sessions["cash"].iloc[-1]
    assert len(equity) == len(found.sessions) - 504


def test_each_row_says_what_its_slices_say(five, found):
    walked = walk(five, found, **WINDOWS, **MONEY)
    row, point = walked.folds.iloc[4], walked.folds.loc[5, found.names]
    own = found.table.index[(found.table[found.names] == point).all(axis=1)][0]
    trained = scores(found.returns[:, 504:998], "sharpe")
    assert trained.argmax() == own
    assert row["train_sharpe"] == pytest.approx(annual_sharpe(found.returns[own, 504:998]))
    assert row["test_sharpe"] == pytest.approx(annual_sharpe(walked.result.sessions["returns"].iloc[504:630]))
    each = [annual_sharpe(returns) for returns in found.returns[:, 1008:1134]]
    assert row["median_sharpe"] == pytest.approx(np.median(each))
    efficiency = performance(walked.result.sessions["equity"], 1e5).cagr / walked.folds["train_cagr"].mean()
    assert walked.efficiency == pytest.approx(efficiency)


@pytest.mark.parametrize("figure", ["sharpe", "total_return", "drawdown"])
@pytest.mark.parametrize("fold", [1, 9])
def test_what_comes_after_a_fold_changes_neither_its_choice_nor_its_result(five, found, figure, fold):
    walked = walk(five, found, figure=figure, **WINDOWS, **MONEY)
    end = walked.folds.loc[fold, "test_end"]
    bars, later = five.bars.copy(), five.bars.index.get_level_values("timestamp") > end
    prices = ["open", "high", "low", "close"]
    bars.loc[later, prices] *= np.random.default_rng(fold).uniform(0.5, 2.0, later.sum())[:, None]
    other = universe(bars, five.actions)
    again = walk(
        other,
        sweep(other, "crossover", grid(SPACE), jobs=2, **MONEY),
        figure=figure,
        **WINDOWS,
        **MONEY,
    )
    pd.testing.assert_frame_equal(again.folds[:fold], walked.folds[:fold])
    pd.testing.assert_frame_equal(again.result.sessions[:end], walked.result.sessions[:end])
    assert not again.folds.equals(walked.folds)


# ------------------------------------------------------------------------------------------------- what is planted


def test_where_the_market_turns_the_choice_turns_with_it():
    rng = np.random.default_rng(2)
    days = sessions_between(pd.Timestamp("2005-01-03"), pd.Timestamp("2012-12-31"))
    again = np.where(
        np.arange(len(days)) < len(days) // 2, 0.75, 0.25
    )  # how often a step goes as the last did
    same = np.where(rng.random(len(days)) < again, 1, -1)
    close = 50 * np.exp(np.cumsum(0.01 * np.cumprod(same)))
    opened = np.append(50.0, close[:-1])
    prices = pd.DataFrame({"open": opened, "close": close, "volume": 1e6, "symbol": "A", "timestamp": days})
    prices = prices.assign(
        high=prices[["open", "close"]].max(axis=1), low=prices[["open", "close"]].min(axis=1)
    )
    market = universe(bars_frame(prices), actions_frame())
    money = {"capital": 100_000.0, "rules": Risk(buffer=0.01)}
    told = sweep(market, "follow", grid({"sign": [1, -1]}), jobs=1, **money)
    walked = walk(market, told, train=252, test=63, **money)
    turn = days[len(days) // 2]
    before, after = walked.folds["test_end"] < turn, walked.folds["train_start"] >= turn
    assert before.sum() > 5 < after.sum()
    assert (walked.folds.loc[before, "sign"] == 1).all()
    assert (walked.folds.loc[after, "sign"] == -1).all()
    assert annual_sharpe(walked.result.sessions["returns"]) > 2 > told.table["sharpe"].max()


def test_on_noise_training_shines_and_the_test_does_not():
    days = sessions_between(pd.Timestamp("2005-01-03"), pd.Timestamp("2010-12-31"))
    money, trained, tested = {"capital": 100_000.0, "rules": Risk(sizing="equal_weight")}, [], []
    for seed in range(12):
        steps = np.random.default_rng(seed).normal(
            -0.00005, 0.01, (4, len(days))
        )  # a fair game: no price drifts
        closes = 50 * np.exp(steps.cumsum(axis=1))
        bars = frames(
            {name: [(price,) * 4 for price in row] for name, row in zip("ABCD", closes, strict=True)}, days
        )
        market = universe(bars, actions_frame())
        told = sweep(
            market, "crossover", grid({"sma": [5, 10, 15, 25], "ema": [20, 40, 60, 80]}), jobs=2, **money
        )
        walked = walk(market, told, train=378, test=126, purge=5, **money)
        trained.append(walked.folds["train_sharpe"].mean())
        tested.append(annual_sharpe(walked.result.sessions["returns"]))
    assert np.mean(trained) > 0.7
    assert abs(np.mean(tested)) < 0.25  # its standard error is 0.14


# ------------------------------------------------------------------------------------------------- cross-validation


def slow_paths(returns, groups, held_out, purge, embargo):
    """Point by point and split by split: the Sharpe ratio of every path."""
    members, best = grouped(returns.shape[1], groups), {}
    splits = combinatorial(returns.shape[1], groups=groups, held_out=held_out, purge=purge, embargo=embargo)
    for chosen, split in zip(combinations(range(groups), held_out), splits, strict=True):
        ratios = [annual_sharpe(point[split.train]) for point in returns]
        best[chosen] = int(np.nanargmax(ratios))
    found = []
    tests = [[chosen for chosen in best if group in chosen] for group in range(groups)]
    for path in range(len(tests[0])):
        joined = [returns[best[tests[group][path]], own] for group, own in enumerate(members)]
        found.append(annual_sharpe(np.concatenate(joined)))
    return found, list(best.values())


@given(
    st.integers(2, 6).flatmap(lambda groups: st.tuples(st.just(groups), st.integers(1, groups - 1))),
    st.integers(30, 90),
    st.integers(0, 6),
    st.integers(0, 6),
    st.integers(0, 999),
)
def test_paths_are_those_of_a_plain_reckoning(choice, sessions, purge, embargo, seed):
    groups, held_out = choice
    returns = np.random.default_rng(seed).normal(0.0, 0.01, (7, sessions))
    returns[2] = 0.0  # never traded
    try:
        splits = combinatorial(sessions, groups=groups, held_out=held_out, purge=purge, embargo=embargo)
    except UserError:
        assume(False)
    assume(min(len(split.train) for split in splits) > 1)
    told = cross_validate(made(returns), groups=groups, held_out=held_out, purge=purge, embargo=embargo)
    sharpes, chosen = slow_paths(returns, groups, held_out, purge, embargo)
    assert told.chosen.tolist() == chosen
    assert told.sharpes == pytest.approx(sharpes)
    assert told.returns.shape == (len(sharpes), sessions)


def test_paths_of_a_sweep_hold_each_session_s_own_returns(found):
    told = cross_validate(found, groups=6, held_out=2, purge=10, embargo=20)
    assert len(told.sharpes) == 5
    assert all((found.returns == path).any(axis=0).all() for path in told.returns)
    assert np.median(told.sharpes) < found.table["sharpe"].max()


# ------------------------------------------------------------------------------------------------- mistakes


@pytest.mark.parametrize(
    ("mistake", "told"),
    [
        (
            {"train": 3200, "test": 126},
            "3270 sessions are too few to train on 3200 and test on 126; shorten them",
        ),
        ({"purge": 504}, "a purge of 504 leaves nothing of 504 sessions of training; lengthen train"),
        ({"purge": -1}, "purge is -1; it has to be at least 0"),
        ({"test": 0}, "test is 0; it has to be at least 1"),
        ({"figure": "fills"}, "'fills' cannot be chosen by; take one of sharpe, total_return, drawdown"),
    ],
)
def test_windows_that_cannot_be_are_told_in_a_line(five, found, mistake, told):
    with pytest.raises(UserError) as error:
        walk(five, found, **(WINDOWS | mistake), **MONEY)
    assert str(error.value) == told


def test_one_point_and_trainings_without_trades_are_told_in_a_line(five, found):
    one = found._replace(table=found.table[:1], returns=found.returns[:1])
    with pytest.raises(UserError, match="one point leaves nothing to choose; give a parameter more values"):
        walk(five, one, **WINDOWS, **MONEY)
    idle = sweep(
        five, "crossover", grid({"sma": [5000, 6000], "oversold": [-1.0], "overbought": [101.0]}), **MONEY
    )
    with pytest.raises(
        UserError, match="no point traded from 2000-03-01 to 2002-02-20, so there is nothing to choose by"
    ):
        walk(five, idle, **WINDOWS, **MONEY)
    with pytest.raises(UserError, match="in one of the trainings no point traded"):
        cross_validate(idle, groups=6, held_out=2)


def test_doing_nothing_is_never_chosen(found):
    falling = np.array([[-0.01, -0.02, -0.01], [0.0, 0.0, 0.0]])
    for figure in ("sharpe", "total_return", "drawdown"):
        assert np.nanargmax(scores(falling, figure)) == 0
        assert np.isnan(scores(falling, figure)[1])
    assert np.isnan(scores(falling[:, :1], "sharpe")).all()


def test_a_gain_in_less_than_a_year_has_no_efficiency(small):
    assert np.isnan(walk_small(small).efficiency)


def test_efficiency_is_not_that_of_the_longer_trainings_alone(five, found):
    walked = walk(five, found, train=200, test=126, anchored=True, **MONEY)
    assert np.isnan(walked.folds["train_cagr"]).tolist()[:2] == [True, False]
    assert np.isnan(walked.efficiency)
