"""The six questions: each has a strategy that fails it, and a planted look at the future is caught however it is hidden."""

import pandas as pd
import pytest

from tradebot.checks import (
    NAMES,
    causality,
    check,
    cost_stress,
    parity,
    stated_sharpe,
    surroundings,
    walk_forward,
    warm_up,
)
from tradebot.config import Risk
from tradebot.indicators import indicator
from tradebot.signal_engine import Rules, Strategy, get_strategy, strategy
from tradebot.simulate import simulate
from tradebot.statistics import performance
from tradebot.universe import Universe, universe

RULES = Risk()


@pytest.fixture(scope="module")
def market(sample) -> Universe:
    bars, actions = sample
    days = bars.index.get_level_values("timestamp")
    names = ["AAPL", "IBM"]
    chosen = bars[(days >= "2005-01-01") & (days < "2012-01-01")].loc[names]
    return universe(chosen, actions[actions["symbol"].isin(names)], "XNYS")


def leaks() -> dict[str, Strategy]:
    """Strategies that know the future, from plain to well hidden."""

    @indicator
    def smooth(bars: pd.DataFrame) -> pd.Series:
        """A centred mean: half of its window lies ahead."""
        return bars.close.rolling(21, center=True).mean()

    @indicator
    def normalised(bars: pd.DataFrame) -> pd.Series:
        """A score against the mean and deviation of the whole history, the future's included."""
        return (bars.close - bars.close.mean()) / bars.close.std()

    @indicator
    def filled(bars: pd.DataFrame) -> pd.Series:
        """The monthly high, known at the month's end and filled backwards."""
        return bars.high.resample("ME").max().reindex(bars.index, method="bfill")

    @strategy(needs={})
    def leak_shift(bars: pd.DataFrame) -> Rules:
        return Rules(
            buy={"up": bars.close.shift(-1) > bars.close}, sell={"down": bars.close.shift(-1) < bars.close}
        )

    @strategy(needs={"line": "smooth()"})
    def leak_centred(bars: pd.DataFrame) -> Rules:
        return Rules(buy={"above": bars.close > bars.line}, sell={"below": bars.close < bars.line})

    @strategy(needs={"score": "normalised()"})
    def leak_scale(bars: pd.DataFrame) -> Rules:
        return Rules(buy={"low": bars.score < -0.5}, sell={"high": bars.score > 0.5})

    @strategy(needs={"top": "filled()"})
    def leak_month(bars: pd.DataFrame) -> Rules:
        return Rules(buy={"room": bars.close < 0.9 * bars.top}, sell={"there": bars.close > 0.99 * bars.top})

    return {name: get_strategy(name) for name in ("leak_shift", "leak_centred", "leak_scale", "leak_month")}


@pytest.mark.parametrize("name", ["leak_shift", "leak_centred", "leak_scale", "leak_month"])
def test_a_look_at_the_future_is_caught(market: Universe, name: str) -> None:
    answer = causality(market, leaks()[name])
    assert not answer.passed
    assert "once the future is known; first " in answer.words
    assert answer.figures["different"] > 0


def test_a_causal_strategy_is_not_accused(market: Universe) -> None:
    answer = causality(market, get_strategy("crossover"))
    assert answer.passed
    assert answer.words == "up to 60 bars of each of 2 symbols say the same with and without what follows"


def test_a_memory_without_end_has_no_warm_up(market: Universe) -> None:
    @strategy(needs={})
    def every_seventh(bars: pd.DataFrame) -> Rules:
        """Counts from the first bar, so what it says hangs on which one that is."""
        turn = pd.Series(range(len(bars)), bars.index) % 7
        return Rules(buy={"a turn": turn == 3}, sell={"another": turn == 6})

    answer = warm_up(market, get_strategy("every_seventh"))
    assert not answer.passed
    assert "no warm-up that was found" in answer.words
    assert warm_up(market, get_strategy("crossover")).figures["bars"] == 200


def test_engines_that_differ_fail_parity(market: Universe, monkeypatch: pytest.MonkeyPatch) -> None:
    from tradebot import parity as module

    assert parity(market, get_strategy("crossover"), RULES, "XNYS").passed
    dearer = RULES.model_copy(update={"commission": 0.001})
    monkeypatch.setattr(
        module, "simulate", lambda *given, **how: simulate(*given, **{**how, "rules": dearer})
    )
    answer = parity(market, get_strategy("crossover"), RULES, "XNYS")
    assert not answer.passed
    assert "differences in" in answer.words


def test_a_loser_fails_its_walk_and_a_busy_one_its_costs(market: Universe) -> None:
    @strategy(needs={})
    def chaser(bars: pd.DataFrame, *, days: int = 4) -> Rules:
        """Buys what has just risen and sells what has just fallen."""
        move = bars.close / bars.close.shift(days) - 1
        return Rules(buy={"risen": move > 0}, sell={"fallen": move < 0})

    busy = get_strategy("chaser")
    plain = performance(simulate(market, busy, capital=1e5, rules=RULES).sessions["equity"], 1e5)
    dear = cost_stress(market, busy, RULES, cost=0.01)
    assert not dear.passed
    assert dear.figures["plain"] == pytest.approx(plain.cagr)
    assert dear.figures["cagr"] < plain.cagr - 0.1
    ruinous = RULES.model_copy(update={"commission": 0.01})
    lost = walk_forward(market, busy, ruinous, points=4)
    assert not lost.passed
    assert lost.figures["total_return"] < 0


def test_what_luck_would_show_is_stated_with_the_trials(market: Universe) -> None:
    result = simulate(market, get_strategy("crossover"), capital=1e5, rules=RULES)
    one, many = (stated_sharpe(result, trials) for trials in (1, 1000))
    assert one.passed
    assert many.passed
    assert "with 1,000 trials" in many.words
    assert many.figures["deflated"] < one.figures["deflated"]


def test_surroundings_stay_what_a_parameter_can_be() -> None:
    space = surroundings(get_strategy("crossover"))
    assert space["sma"] == [10, 15, 20, 25, 30]
    assert space["oversold"] == [15.0, 22.5, 30.0, 37.5, 45.0]


def test_a_question_that_cannot_be_put_is_failed(sample) -> None:
    bars, actions = sample
    few = universe(bars.loc[["IBM"]].iloc[:50], actions[actions["symbol"] == "IBM"].iloc[:0], "XNYS")
    answers = {each.name: each for each in check(few, get_strategy("crossover"), RULES, trials=1)}
    assert list(answers) == list(NAMES)
    assert not answers["warm-up"].passed
    assert "too few" in answers["walk-forward"].words
    assert not answers["deflated Sharpe"].passed
