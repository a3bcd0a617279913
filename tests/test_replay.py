"""The real stack over history: equal to the engines on real years and on random markets, and nobody else's house is touched."""

from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markets import DAYS, frames, markets, rules, signals_frame

from tradebot import replay as module
from tradebot.config import Config, Environment, Risk, UserError
from tradebot.kill_switch import turn_on
from tradebot.parity import differences, engines
from tradebot.pipeline import configured_strategy
from tradebot.prices import actions_frame
from tradebot.replay import replay
from tradebot.results import cash_proof
from tradebot.signal_engine import get_strategy
from tradebot.simulate import simulate
from tradebot.store import open_store
from tradebot.universe import universe


@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("start", "end", "risk"),
    [
        ("2005-01-03", "2005-09-30", Risk()),
        (
            "2012-01-03",
            "2012-09-28",
            Risk(sizing="fraction", fraction=0.3, max_positions=3, max_daily_loss=0.03),
        ),
    ],
    ids=["all cash, a split", "fractions and limits, a listing"],
)
def test_real_months_are_what_both_engines_say(sample, start, end, risk) -> None:
    bars, actions = sample
    config = Config(home=Path("nowhere"), risk=risk)
    replayed = replay(bars, actions, config, start, end)
    cash_proof(replayed)
    assert len(replayed.sessions) > 180
    assert len(replayed.fills) > 10
    span, strategy = (pd.Timestamp(start), pd.Timestamp(end)), configured_strategy(config)
    ((fast, slow),) = engines(bars, actions, strategy, [span], capital=100_000.0, rules=risk)
    for engine in (fast, slow):
        found = differences(replayed, engine)
        assert found.empty, found.to_string()


@pytest.mark.timeout(900)  # a failure is made small first, and each try is a replay
@settings(deadline=None, max_examples=15, suppress_health_check=list(HealthCheck))
@given(markets(), rules.filter(lambda one: not one.commission), st.integers(10, 3000))
def test_any_rules_on_any_market(made, risk, capital) -> None:
    "Gaps, halts, days without volume, splits both ways, late listings."
    bars, actions, signals, days = made
    found = replayed_otherwise(
        bars, actions, signals, risk.model_copy(update={"capital": float(capital)}), days
    )
    assert found.empty, found.to_string()


@pytest.mark.parametrize(
    ("ratio", "limit", "status"),
    [(1.5, 4.02, "filled"), (0.5, 12.06, "expired"), (3.0, 2.01, "filled")],
    ids=["one share for one", "none for one", "three for one"],
)
def test_one_share_that_waits_over_a_split(ratio, limit, status) -> None:
    "It has the limit that the split makes of it, also where the split doesn't change how many shares it is for."
    price = 6 / ratio
    bars = frames({"A": [(6, 6, 6, 6), (price, price, price, price), (price, price, price, price)]})
    actions = actions_frame([("A", DAYS[1], "split", ratio)])
    signals = signals_frame([("A", 0, "buy")])
    expected = simulate(universe(bars, actions), signals, capital=10.0, rules=Risk())
    assert list(expected.orders[["limit", "status"]].iloc[0]) == [limit, status]
    found = replayed_otherwise(bars, actions, signals, Risk(capital=10), DAYS[:3])
    assert found.empty, found.to_string()


def replayed_otherwise(bars, actions, signals, risk: Risk, days) -> pd.DataFrame:
    "What a replay of these signals makes otherwise than the compiled engine."
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "update_signals", lambda store, strategy: tell(store, strategy.label, signals))
        patch.setattr(module, "update_features", lambda store, features: None)
        replayed = replay(bars, actions, Config(home=Path("nowhere"), risk=risk), days[0], days[-1])
    span = {"start": days[0], "end": days[-1]}
    arrays = universe(bars, actions, **span)
    return differences(replayed, simulate(arrays, signals, capital=float(risk.capital), rules=risk, **span))


def tell(store, label: str, signals: pd.DataFrame) -> None:
    "Write the signals of the bars that are known by now."
    bars = store.bars()
    keys = pd.MultiIndex.from_frame(signals[["symbol", "timestamp"]])
    own = signals[keys.isin(bars.index)]
    prices = bars["close"].reindex(keys[keys.isin(bars.index)])
    store.write_signals(
        label, own.assign(details=[{"price": float(price), "rule": "told"} for price in prices])
    )


def test_a_later_bar_changes_nothing_before_it(sample) -> None:
    bars, actions = sample
    config, middle = Config(home=Path("nowhere")), pd.Timestamp("2005-02-15")
    whole = replay(bars, actions, config, "2005-01-03", "2005-03-15")
    other = bars.copy()
    other.loc[other.index.get_level_values("timestamp") > middle, ["open", "high", "low", "close"]] *= 0.5
    changed = replay(other, actions, config, "2005-01-03", "2005-03-15")
    assert whole.sessions.loc[:middle].equals(changed.sessions.loc[:middle])
    assert not whole.sessions.equals(changed.sessions)


def test_neither_the_store_nor_the_keys_nor_the_switch_of_its_user_matter(sample, tmp_path) -> None:
    bars, actions = sample
    keys = {"alpaca_api_key": "key", "alpaca_api_secret": "secret", "alpaca_paper": False}
    url = f"duckdb:///{tmp_path}/data"
    config = Config(
        home=tmp_path,
        environment=Environment(database_url=url, **keys),
        execution={"broker": "alpaca", "live_account": "1"},
    )
    turn_on(open_store(url), config.kill_file, "away", pd.Timestamp("2005-01-03").to_pydatetime())
    assert len(replay(bars, actions, config, "2005-01-03", "2005-03-15").fills)
    with open_store(url).engine.transaction("ledger") as transaction:
        assert transaction.rows("SELECT count(*) FROM orders") == [(0,)]


@pytest.mark.parametrize(
    ("changes", "start", "end", "message"),
    [
        ({"risk": Risk(commission=0.001)}, "2005-01-03", "2005-02-01", "the paper broker charges none"),
        ({"data": {"interval": "5m"}}, "2005-01-03", "2005-02-01", "a replay trades daily bars only"),
        ({}, "2005-02-01", "2005-01-03", "before its start"),
        ({}, "2035-01-02", "2035-02-01", "no session"),
        ({}, "2005-01-01", "2005-01-02", "no session"),
    ],
)
def test_what_cannot_be_replayed_is_one_line(sample, changes, start, end, message) -> None:
    with pytest.raises(UserError, match=message):
        replay(*sample, Config(home=Path("nowhere"), **changes), start, end)


def test_a_strategy_is_found_by_its_label_again() -> None:
    from tradebot.signal_engine import strategy_of

    for made in (
        get_strategy("crossover"),
        get_strategy("crossover", {"sma": 5, "oversold": 25.5}, ["volatility(maximum=0.03)", "volume()"]),
        get_strategy("crossover", {}, ["volume(minimum=0.25)"]),
    ):
        assert strategy_of(made.label) == made
