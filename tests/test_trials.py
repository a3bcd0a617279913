"""The count of trials, from runs that are really recorded: what is a trial, and each once."""

import json
from datetime import datetime
from itertools import product
from math import prod

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradebot.signal_engine import get_strategy
from tradebot.store import Store, open_store
from tradebot.sweep import draw, grid
from tradebot.trials import _distinct, count_trials

CONFIGURED = {"name": "crossover", "parameters": {"sma": 10}, "filters": ["volume(minimum=1.0)"]}
SPACE = {"sma": [5, 10, 15], "ema": [50, 100]}


def record(store: Store, notebook: str, status: str = "succeeded", **parameters) -> None:
    number = len(store.runs(limit=None))
    nothing = dict.fromkeys(("git_revision", "fingerprint", "ended", "output", "error"))
    run = {"id": f"{number}", "notebook": f"{notebook}.ipynb", "status": status, "parameters": parameters}
    store.write_run(**nothing, **run, started=datetime(2026, 1, 1))


def counted(store: Store, *present) -> int:
    return count_trials(store.runs(limit=None), present)


def test_the_present_one_is_a_trial_and_counts_once_when_it_is_on_record(store: Store) -> None:
    present = get_strategy("crossover", {"sma": 5})
    assert counted(store, present) == 1
    record(store, "backtest", strategy="crossover", parameters={"sma": 5})
    assert counted(store, present) == 1
    assert counted(store, present, get_strategy("crossover")) == 2


@pytest.mark.parametrize(
    "same",
    [{"ema": 50, "sma": 5}, {"sma": 5, "ema": 50}, {"sma": 5.0}, {"sma": 5, "oversold": 30, "overbought": 70.0}],
)  # fmt: skip
def test_defaults_their_order_and_20_for_20_point_0_make_no_trial_of_their_own(
    store: Store, same: dict
) -> None:
    record(store, "backtest", strategy="crossover", parameters={"sma": 5})
    record(store, "backtest", strategy="crossover", parameters=same)
    assert counted(store) == 1


def test_all_strategies_count_those_no_longer_known_by_what_was_recorded(store: Store) -> None:
    record(store, "backtest", strategy="crossover", parameters={})
    record(store, "backtest", strategy="breakout", parameters={"entry": 55})
    for parameters in ({"a": 1, "b": [2, 3]}, {"b": [2, 3], "a": 1}, {"a": 1}):
        record(store, "backtest", strategy="forgotten", parameters=parameters)
    assert counted(store, get_strategy("breakout")) == 4


def test_a_sweep_counts_every_point_and_its_overlap_with_others_once(store: Store) -> None:
    record(store, "sweep", strategy="crossover", space=SPACE, points=0)
    assert counted(store) == 6
    record(store, "sweep", strategy="crossover", space={"ema": [100, 200], "sma": [5, 10]}, points=99)
    record(store, "sweep", strategy="crossover", space={"rsi": [14, 21]})
    record(store, "backtest", strategy="crossover", parameters={"sma": 15})
    assert counted(store, get_strategy("crossover", {"sma": 10, "ema": 200})) == 6 + 2 + 2


def test_a_sweep_that_drew_counts_the_points_it_drew(store: Store) -> None:
    record(store, "sweep", strategy="crossover", space=SPACE, points=4, seed=3)
    drawn = draw(SPACE, 4, seed=3)
    assert counted(store) == counted(store, *(get_strategy("crossover", point) for point in drawn)) == 4
    assert counted(store, *(get_strategy("crossover", point) for point in grid(SPACE))) == 6


def test_what_was_drawn_is_known_again_from_a_server_that_reorders_parameters(postgres_url: str) -> None:
    store = open_store(postgres_url)
    record(store, "sweep", strategy="crossover", space=SPACE, points=4, seed=3)
    present = [get_strategy("crossover", point) for point in draw(SPACE, 4, seed=3)]
    assert counted(store, *present) == 4


def test_runs_that_failed_and_other_notebooks_show_no_trial(store: Store) -> None:
    for status in ("failed", "running"):
        record(store, "backtest", status, strategy="crossover", parameters={"sma": 5})
        record(store, "sweep", status, strategy="crossover", space=SPACE)
    record(store, "pipeline", symbols=[])
    assert counted(store, get_strategy("crossover")) == 1


def test_what_was_left_to_the_settings_is_what_was_configured_then(store: Store) -> None:
    recorded = {"strategy": "", "configured": CONFIGURED}
    record(store, "backtest", parameters={}, **recorded)
    assert counted(store, get_strategy("crossover", {"sma": 10}, ["volume(minimum=1.0)"])) == 1
    record(store, "backtest", parameters={"sma": 10}, **recorded)  # its own parameters, and so no filter
    assert counted(store, get_strategy("crossover", {"sma": 10})) == 2
    record(store, "sweep", space={"sma": [10, 20]}, **recorded)  # the filter, and defaults beside the space
    assert counted(store, get_strategy("crossover", {"sma": 20}, ["volume(window=20, minimum=1)"])) == 3
    record(store, "sweep", space={"ema": [40, 50]}, **recorded)  # the configured sma at each of its points
    assert counted(store, get_strategy("crossover", {"sma": 10, "ema": 40}, ["volume(minimum=1.0)"])) == 4


def test_a_training_is_two_looks_and_the_same_two_when_it_is_made_again(store: Store) -> None:
    configured = {"name": "crossover", "parameters": {}, "filters": []}
    asked = {"strategy": "", "features": ["rsi(14)"], "horizon": 20, "configured": configured}
    record(store, "train", **asked, model="trend", run="1")
    assert counted(store) == 2
    record(store, "train", **asked, model="again", run="2")
    assert counted(store) == 2
    record(store, "train", **(asked | {"features": ["rsi(14)", "roc(20)"]}), model="trend", run="3")
    assert counted(store) == 4
    record(store, "train", **(asked | {"strategy": "breakout"}), model="trend", run="4")
    assert counted(store) == 6


def test_more_runs_than_a_page_shows_are_all_counted(store: Store) -> None:
    for sma in range(2, 42):
        record(store, "backtest", strategy="crossover", parameters={"sma": sma})
    assert counted(store) == 40


def test_a_sweep_of_a_billion_points_is_not_written_down() -> None:
    space = {name: list(range(10, 1010)) for name in ("sma", "ema", "rsi")}
    other = space | {"rsi": [14, 2000]}
    rows = [{"strategy": "crossover", "space": each} for each in (space, other)]
    runs = pd.DataFrame(
        {"notebook": "sweep.ipynb", "status": "succeeded", "parameters": map(json.dumps, rows)}
    )
    assert count_trials(runs, []) == 10**9 + 10**6


few = st.sets(st.integers(0, 4), min_size=1).map(tuple)


@given(st.lists(st.tuples(few, few, few), max_size=6))
def test_the_count_is_that_of_all_points_written_down(boxes) -> None:
    listed = {point for box in boxes for point in product(*box)}
    assert _distinct(set(boxes)) == len(listed) <= sum(prod(map(len, box)) for box in boxes)
