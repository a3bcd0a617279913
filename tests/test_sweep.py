"""Sweeps: each point is what simulate says of it, nothing is done twice, and other machines can help."""

import json
import os
import signal
import subprocess
import sys
import time
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradebot.config import Config, Risk, UserError
from tradebot.programs import read
from tradebot.signal_engine import entry_filter, get_strategy
from tradebot.simulate import simulate
from tradebot.statistics import performance
from tradebot.sweep import FIGURES, Sweep, draw, grid, neighbourhood, stored_universe, sweep, sweep_stored
from tradebot.universe import universe

MONEY = {"capital": 100_000.0, "rules": Risk(sizing="fraction", fraction=0.2)}
SPACE = {"sma": [5, 10, 20], "ema": [30, 50], "oversold": [25.0, 30.0]}


@pytest.fixture(scope="module")
def five(sample):
    return universe(*sample)


@pytest.mark.parametrize("filters", [(), ("rolled(minimum=0.9)",)], ids=["compiled", "called"])
def test_each_point_is_what_simulate_says_of_it(five, filters):
    @entry_filter(needs={})
    def rolled(bars: pd.DataFrame, *, minimum: float = 0.5) -> pd.Series:
        return bars.volume >= minimum * bars.volume.rolling(20).median()

    points = draw(SPACE, 6, seed=3)
    span = {"start": pd.Timestamp("2004-01-05"), "end": pd.Timestamp("2009-12-31")}
    found = sweep(five, "crossover", points, filters=filters, jobs=2, **span, **MONEY)
    assert found.table[list(SPACE)].to_dict("records") == points
    for row, point in zip(found.table.itertuples(), points, strict=True):
        chosen = get_strategy("crossover", point, filters)
        assert bool(read(chosen)) == (not filters)
        alone = simulate(five, chosen, **span, **MONEY)
        told = performance(alone.sessions["equity"], 100_000.0)
        expected = [told.total_return, told.cagr, told.sharpe, told.drawdown.depth]
        assert [getattr(row, name) for name in FIGURES[:4]] == pytest.approx(expected, rel=1e-9)
        assert row.exposure == pytest.approx(alone.sessions["exposure"].mean())
        assert row.fills == len(alone.fills) > 0
        assert found.returns[row.Index] == pytest.approx(alone.sessions["returns"].to_numpy(), abs=1e-7)
    assert (found.sessions == alone.sessions.index).all()


def test_what_the_points_do_not_name_is_as_configured_or_as_told(sample, store, tmp_path):
    bars, actions = sample
    store.write_bars(bars)
    store.write_actions(actions)
    own = {"name": "crossover", "sma": 15, "ema": 99, "filters": ["volume(minimum=0.9)"]}
    config = Config(home=tmp_path, strategy=own, risk=MONEY["rules"], data={"universe": ["IBM"]})
    found = sweep_stored(store, config, {"ema": [40, 60]})
    expected = [get_strategy("crossover", {"sma": 15, "ema": ema}, own["filters"]) for ema in (40, 60)]
    assert [each.label for each in found.strategies] == [each.label for each in expected]
    alone = simulate(stored_universe(store, config), expected[1], **MONEY)
    assert found.table.loc[1, "total_return"] == pytest.approx(alone.sessions["equity"].iloc[-1] / 1e5 - 1)
    other = sweep_stored(store, config, {"ema": [40, 60]}, strategy="crossover")
    assert [each.label for each in other.strategies] == ["crossover(ema=40)", "crossover(ema=60)"]


def test_figures_of_an_account_that_never_trades_are_told_as_such(five):
    found = sweep(five, "crossover", [{"oversold": -1.0, "overbought": 101.0, "sma": 5000}], **MONEY)
    row = found.table.iloc[0]
    assert (row.total_return, row.drawdown, row.exposure, row.fills) == (0, 0, 0, 0)
    assert np.isnan(row.sharpe)


# ----------------------------------------------------------------------------------------------------- points


@given(
    st.dictionaries(st.sampled_from("abc"), st.lists(st.integers(), min_size=1, max_size=5, unique=True)),
    st.integers(1, 200),
)
def test_points_that_are_drawn_are_points_of_the_grid_in_its_order(space, count):
    whole, drawn = grid(space), draw(space, count, seed=1)
    assert len(drawn) == min(count, len(whole))
    assert drawn == [point for point in whole if point in drawn]
    backwards = draw(dict(reversed(space.items())), count, seed=1)
    assert sorted(map(sorted, map(dict.items, drawn))) == sorted(map(sorted, map(dict.items, backwards)))


def test_mistakes_are_told_in_a_line(five):
    with pytest.raises(UserError, match="parameter sma has no values to try"):
        grid({"sma": []})
    with pytest.raises(UserError, match="a sweep needs at least one point"):
        sweep(five, "crossover", [], **MONEY)
    with pytest.raises(UserError, match="strategy crossover has no parameter 'smaa'"):
        sweep(five, "crossover", [{"smaa": 3}], **MONEY)
    with pytest.raises(UserError, match="length must be a whole number from 1 to 100000, not 0"):
        sweep(five, "crossover", [{"sma": 0}], **MONEY)
    late = universe(five.bars, five.actions, end=pd.Timestamp("2020-12-31"))
    with pytest.raises(UserError, match="there are no bars from 2020-01-02"):
        sweep(late, "crossover", [{"sma": 5}], start=pd.Timestamp("2020-01-02"), **MONEY)


# ------------------------------------------------------------------------------------------------- going on


ENDLESS = """
import json, sys
from pathlib import Path
sys.path.insert(0, {tests!r})
from test_sweep import MONEY, SPACE
from conftest import SAMPLE
import pandas as pd, tradebot.sweep as module
from tradebot.config import Config
from tradebot.prices import actions_frame, bars_frame
from tradebot.providers import get_provider
from tradebot.universe import universe

provider = get_provider("sample", Config(home=Path()))
fetched = {{name: provider.fetch(name, pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31")) for name in SAMPLE}}
bars = bars_frame(pd.concat([each.bars.reset_index().assign(symbol=name) for name, each in fetched.items()]))
five = universe(bars, actions_frame(pd.concat([each.actions for each in fetched.values()])))
module._batches = lambda universe, todo, jobs: [todo[k : k + 1] for k in range(len(todo))]
done = []

def told(points):
    done.append(points)
    print(sum(done), flush=True)
    if sum(done) == 5 and {stop}:
        import time
        time.sleep(60)

found = module.sweep(five, "crossover", module.grid(SPACE), folder=Path({folder!r}), progress=told, jobs=1, **MONEY)
print("TABLE", json.dumps(found.table.to_dict('list')))
"""


def test_a_sweep_that_is_killed_goes_on_where_it_was(five, tmp_path: Path):
    def start(stop: bool) -> subprocess.Popen:
        code = ENDLESS.format(tests=str(Path(__file__).parent), folder=str(tmp_path), stop=stop)
        return subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)

    with start(True) as killed:
        while killed.stdout.readline().strip() != "5":
            assert killed.poll() is None
        time.sleep(0.2)
        os.kill(killed.pid, signal.SIGKILL)
    with start(False) as second:
        lines = second.communicate(timeout=120)[0].splitlines()
    assert lines[0] == "5", "what was done is known"
    table = pd.DataFrame(json.loads(lines[-1].removeprefix("TABLE ")))
    whole = sweep(five, "crossover", grid(SPACE), **MONEY)
    pd.testing.assert_frame_equal(table, whole.table, check_dtype=False)


def test_another_sweep_does_not_take_what_this_one_left(five, tmp_path: Path):
    points = grid({"sma": [5, 10]})
    for rules, start in ((Risk(), None), (Risk(buffer=0.0), None), (Risk(), pd.Timestamp("2005-01-03"))):
        heard = []
        sweep(
            five,
            "crossover",
            points,
            capital=1e5,
            rules=rules,
            start=start,
            folder=tmp_path,
            progress=heard.append,
        )
        assert heard[0] == 0
    assert len(list(tmp_path.iterdir())) == 3


# ------------------------------------------------------------------------------------------- the neighbourhood


@given(st.integers(0, 1000), st.integers(3, 20))
def test_the_neighbourhood_is_the_median_of_all_points_at_most_one_value_away(seed, count):
    rng, space = np.random.default_rng(seed), {"a": [1, 2, 4, 8], "b": [0.1, 0.5, 0.9], "c": ["x", "y"]}
    points = draw(space, count, seed)
    values = rng.normal(size=len(points))
    values[rng.random(len(points)) < 0.2] = np.nan
    table = pd.DataFrame(points).assign(sharpe=values)
    found = neighbourhood(Sweep(table, np.empty((0, 0)), pd.DatetimeIndex([]), list(space), []))
    known = {name: sorted({point[name] for point in points}) for name in space}
    for number, point in enumerate(points):
        near = [
            value
            for other, value in zip(points, values, strict=True)
            if all(abs(known[n].index(point[n]) - known[n].index(other[n])) <= 1 for n in space)
            and not np.isnan(value)
        ]
        expected = np.median(near) if near else np.nan
        assert found.iloc[number] == pytest.approx(expected, nan_ok=True)


def test_a_lonely_peak_is_not_a_robust_best(five):
    points = [dict(zip("ab", place, strict=True)) for place in product(range(7), range(7))]
    hill = np.array([3 - (p["a"] - 5) ** 2 / 4 - (p["b"] - 5) ** 2 / 4 for p in points])
    hill[points.index({"a": 1, "b": 1})] = 9.0
    table = pd.DataFrame(points).assign(sharpe=hill)
    near = neighbourhood(Sweep(table, np.empty((0, 0)), pd.DatetimeIndex([]), ["a", "b"], []))
    assert table.loc[table["sharpe"].idxmax(), ["a", "b"]].tolist() == [1, 1]
    assert table.loc[near.idxmax(), ["a", "b"]].tolist() == [5, 5]


# ------------------------------------------------------------------------------------------------ on a cluster


def test_a_dask_cluster_takes_over_by_its_address(five):
    pytest.importorskip("distributed")
    from distributed import LocalCluster

    points = grid(SPACE)
    whole = sweep(five, "crossover", points, **MONEY)
    with LocalCluster(n_workers=2, threads_per_worker=1, dashboard_address=None) as cluster:
        heard = []
        found = sweep(
            five, "crossover", points, cluster=cluster.scheduler_address, progress=heard.append, **MONEY
        )
        assert len(cluster.workers) == 2
    assert sum(heard) == len(points)
    pd.testing.assert_frame_equal(found.table, whole.table)
    assert np.array_equal(found.returns, whole.returns)


def test_a_cluster_that_is_not_there_is_told(five):
    pytest.importorskip("distributed")
    with pytest.raises(UserError, match=r"no Dask scheduler answers at tcp://127\.0\.0\.1:9"):
        sweep(five, "crossover", [{"sma": 5}], cluster="tcp://127.0.0.1:9", **MONEY)


def test_an_account_that_outgrows_its_arithmetic_is_refused_in_a_sweep_too(five):
    with pytest.raises(UserError, match=r"1e\+13 dollars are more than can be counted"):
        sweep(five, "crossover", [{"sma": 5}], capital=1e13, rules=Risk())
