"""Learning: leaks are refused or purged away, figures are right, and noise is called noise."""

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import brier_score_loss, log_loss, roc_auc_score

from tradebot import indicators
from tradebot.config import UserError
from tradebot.evidence import Interval
from tradebot.indicators import indicator
from tradebot.labels import Barriers
from tradebot.learning import (
    Contest,
    Examples,
    as_traded,
    auc,
    buys,
    calibration,
    contest,
    cross_validate,
    each_bar,
    examples,
    importance,
    meaningless,
    members,
    plain,
    plain_rule,
    score,
    verdict,
)
from tradebot.models import assembled, probabilities
from tradebot.prices import actions_frame, adjust, bars_frame
from tradebot.sessions import sessions_between
from tradebot.signal_engine import get_strategy

CALLS = ["rsi(14)", "natr(14)", "roc(20)"]
SHORT = Barriers(profit=2.0, stop=2.0, horizon=10, window=20)


@pytest.fixture(autouse=True)
def nothing_registered(monkeypatch) -> None:
    monkeypatch.setattr(indicators, "_OWN", dict(indicators._OWN))


@pytest.fixture(scope="module")
def found(sample) -> Examples:
    """The buys of the built-in strategy on the five stocks."""
    bars, actions = sample
    return examples(bars, actions, buys(bars, actions, get_strategy("crossover")), CALLS, SHORT)


def walk(length: int = 700, symbols: str = "AB", seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    days = sessions_between(pd.Timestamp("2012-01-03"), pd.Timestamp("2018-12-31"))[:length]
    parts = []
    for symbol in symbols:
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.01, length)))
        prices = pd.DataFrame({"open": close * np.exp(rng.normal(0, 0.003, length)), "close": close})
        prices = prices.assign(high=prices.max(axis=1) * 1.004, low=prices.min(axis=1) * 0.996, volume=1e6)
        parts.append(prices.assign(symbol=symbol, timestamp=days))
    return bars_frame(pd.concat(parts))


def refused(call: str, sample, says: str) -> None:
    bars, actions = sample
    with pytest.raises(UserError, match=says) as caught:
        examples(bars, actions, buys(bars, actions, get_strategy("crossover")), ["rsi(14)", call], SHORT)
    assert "\n" not in str(caught.value)


# Leaks


def test_a_feature_that_reads_tomorrow_is_refused_by_name(sample):
    @indicator
    def tomorrow(bars: pd.DataFrame) -> pd.Series:
        return bars["close"].shift(-1) / bars["close"]

    refused("tomorrow()", sample, r"^feature tomorrow\(\) looks ahead: of AAPL on 2000-")


def test_a_centred_mean_is_refused_by_name(sample):
    @indicator
    def smooth(bars: pd.DataFrame, length: int = 5) -> pd.Series:
        return bars["close"] / bars["close"].rolling(length, center=True, min_periods=1).mean()

    refused(
        "smooth(5)",
        sample,
        r"^feature smooth\(5\) looks ahead: .* when the bars end there, and .* once later ones are known",
    )


def test_a_scaling_by_the_whole_sample_is_refused_by_name(sample):
    @indicator
    def ranked(bars: pd.DataFrame) -> pd.Series:
        return bars["close"].pct_change().rank(pct=True)

    refused("ranked()", sample, r"^feature ranked\(\) looks ahead")


def test_a_leak_in_a_single_symbol_is_found(sample):
    @indicator
    def unfair(bars: pd.DataFrame) -> pd.Series:
        young = bars.index[0] > pd.Timestamp("2010-01-01")  # FB alone
        return bars["close"].pct_change().shift(-1 if young else 0)

    refused("unfair()", sample, r"^feature unfair\(\) looks ahead: of FB on 2012-")


@pytest.mark.parametrize("call", ["sma(20)", "macd(12, 26, 9)", "obv()"])
def test_a_feature_in_dollars_or_shares_is_refused_since_the_next_split_changes_it(call, sample):
    name = call.replace("(", r"\(").replace(")", r"\)")
    refused(call, sample, f"^feature {name} changes when prices and volumes are rescaled")


def test_a_model_is_no_feature_of_a_model(sample):
    refused('probability("other")', sample, "a model reads indicators, not models")


def noise(length: int, seed: int) -> Examples:
    """Coin tosses over twenty overlapping sessions, and features that drift without any connection to them."""
    rng = np.random.default_rng(seed)
    days = sessions_between(pd.Timestamp("2012-01-03"), pd.Timestamp("2018-12-31"))[: length + 20]
    tosses = rng.normal(size=length + 20)
    gain = np.array([tosses[place + 1 : place + 21].sum() for place in range(length)])
    places = np.arange(length)
    labels = pd.DataFrame(
        {
            "symbol": "A",
            "timestamp": days[places],
            "entry": days[places + 1],
            "end": days[places + 20],
            "over": days[places + 20],
        }
    ).assign(outcome="time", gain=gain, label=(gain > 0).astype(float))
    features = pd.DataFrame(
        np.cumsum(rng.normal(size=(length, 3)), axis=0).astype(np.float32), columns=list("xyz")
    )
    return Examples(labels, features, days, places, places + 20, places + 20, {})


def test_the_purge_removes_what_overlapping_labels_tell_of_their_neighbours():
    leaking, purged, how = [], [], {"folds": 40, "embargo": 0}  # tests shorter than the labels
    for seed in range(3):
        made = noise(200, seed)
        ones = np.ones((1, len(made.labels)))
        at_once = made._replace(ends=made.begins)  # as if each label were over when it begins
        leaking.append(auc(cross_validate(at_once, **how).probabilities, made.right, ones)[0])
        purged.append(auc(cross_validate(made, **how).probabilities, made.right, ones)[0])
    assert np.mean(leaking) > 0.6
    assert np.mean(purged) < 0.5


def test_no_training_overlaps_its_test_and_each_example_is_judged_once(found):
    judged = cross_validate(found)
    tested = np.concatenate([split.test for split in judged.splits])
    assert sorted(tested) == list(range(len(found.labels)))
    for split in judged.splits:
        first, last = found.begins[split.test].min(), found.ends[split.test].max()
        assert ((found.ends[split.train] < first) | (found.begins[split.train] > last + 5)).all()


# Examples


def test_examples_are_in_the_order_of_time_with_the_features_of_their_own_bar(found, sample):
    assert found.labels["timestamp"].is_monotonic_increasing
    from tradebot.models import inputs

    whole = inputs(adjust(*sample), CALLS)
    for row in (0, len(found.labels) // 2, -1):
        one = found.labels.iloc[row]
        np.testing.assert_array_equal(found.features.iloc[row], whole.loc[(one["symbol"], one["timestamp"])])


def test_what_is_not_warm_and_what_is_not_over_is_left_out_and_counted():
    bars = walk(400)
    made = examples(bars, actions_frame(), each_bar(bars, 1), ["roc(30)"], SHORT)
    assert made.dropped == {"not warm": 2 * 30, "not over": 2 * 10}
    assert len(made.labels) == 2 * 400 - 2 * 30 - 2 * 10


def test_features_that_are_nothing_or_infinite_are_refused_by_name():
    bars = walk(300)
    day = bars.loc["A"].index[200]

    @indicator
    def void(bars: pd.DataFrame) -> pd.Series:
        return bars["close"] * np.nan

    @indicator
    def endless(bars: pd.DataFrame) -> pd.Series:
        return (bars["close"] / bars["close"].shift(1)).where(bars.index != day, np.inf)

    with pytest.raises(UserError, match=r"feature void\(\) has no value at any event; leave it out"):
        examples(bars, actions_frame(), each_bar(bars, 1), ["void()"], SHORT)
    with pytest.raises(
        UserError, match=rf"feature endless\(\) is infinite for A on {day:%Y-%m-%d}; bound it"
    ):
        examples(bars, actions_frame(), each_bar(bars, 1), ["endless()"], SHORT)


def test_too_few_labels_and_labels_that_are_all_the_same_are_a_line():
    bars = walk(300)
    with pytest.raises(
        UserError, match=r"\d+ labels, \d+ of them gains, are too few to learn from; 100 with 20 of each"
    ):
        examples(bars, actions_frame(), each_bar(bars, 10), ["rsi(14)"], SHORT)
    up = 50 * np.exp(0.01 * np.arange(300) + 0.001 * (np.arange(300) % 2))
    rising = bars.copy()
    rising[["open", "high", "low", "close"]] = np.tile(up[:, None] * [0.995, 1.001, 0.994, 1.0], (2, 1))
    with pytest.raises(UserError, match=r"all \d+ labels are the same, so there is nothing to tell apart"):
        examples(rising, actions_frame(), each_bar(rising, 1), ["roc(5)"], SHORT)
    with pytest.raises(UserError, match="there is nothing to learn from without features"):
        examples(bars, actions_frame(), each_bar(bars, 1), [], SHORT)


def test_a_rule_is_taken_without_the_model_it_may_have(sample):
    rule = get_strategy(
        "crossover", {"sma": 10}, ["volume(minimum=0.5)", 'classifier(model="any", minimum=0.5)']
    )
    assert plain_rule(rule).label == "crossover(sma=10, volume(minimum=0.5, window=20))"
    with pytest.raises(UserError, match="the strategy is a model itself; name the rule"):
        plain_rule(get_strategy("classifier", {"model": "any"}))


# Figures


def test_figures_are_those_of_scikit_learn():
    rng = np.random.default_rng(3)
    said, right = rng.random(200).round(2), rng.integers(0, 2, 200)
    said = said.clip(0.01, 0.99)
    scores = score(said, right, np.full(200, 0.5), np.arange(200), threshold=0.6, block=5, draws=100)
    assert scores["auc"].value == pytest.approx(roc_auc_score(right, said))
    assert scores["brier"].value == pytest.approx(brier_score_loss(right, said))
    assert scores["log_loss"].value == pytest.approx(log_loss(right, said))
    assert scores["precision"].value == pytest.approx(right[said >= 0.6].mean())
    assert scores["brier_skill"].value == pytest.approx(1 - brier_score_loss(right, said) / 0.25)
    weights = rng.integers(0, 4, (3, 200)).astype(float)
    expected = [roc_auc_score(right, said, sample_weight=row) for row in weights]
    np.testing.assert_allclose(auc(said, right, weights), expected)


def test_events_that_share_their_sessions_have_a_wider_interval_than_as_many_on_their_own():
    rng = np.random.default_rng(0)
    right, said = rng.integers(0, 2, 60), rng.random(60)
    alone = score(said, right, np.full(60, 0.5), np.arange(60), threshold=0.5, block=1)["auc"]
    ten = {"threshold": 0.5, "block": 1}
    shared = score(
        np.repeat(said, 10), np.repeat(right, 10), np.full(600, 0.5), np.repeat(np.arange(60), 10), **ten
    )["auc"]
    assert shared.value == pytest.approx(alone.value)
    assert shared.high - shared.low == pytest.approx(alone.high - alone.low, rel=0.05)
    forgotten = score(np.repeat(said, 10), np.repeat(right, 10), np.full(600, 0.5), np.arange(600), **ten)[
        "auc"
    ]
    assert forgotten.high - forgotten.low < 0.5 * (shared.high - shared.low)


def test_without_anything_above_the_threshold_there_is_no_precision():
    scores = score(
        np.full(40, 0.2),
        np.arange(40) % 2,
        np.full(40, 0.5),
        np.arange(40),
        threshold=0.5,
        block=2,
        draws=100,
    )
    assert np.isnan(list(scores["precision"])).all()
    assert scores["share_above"] == (0, 0, 0)


def test_calibration_counts_what_came():
    curve = calibration(
        np.repeat([0.2, 0.8], 50), np.array([1] * 10 + [0] * 40 + [1] * 45 + [0] * 5), groups=2
    )
    assert curve["gains"].tolist() == [0.2, 0.9]
    assert curve["events"].tolist() == [50, 50]
    assert curve["low"].tolist() == pytest.approx(
        [0.112, 0.786], abs=1e-3
    )  # Wilson's interval of 10 in 50 and of 45 in 50
    assert curve["high"].tolist() == pytest.approx([0.330, 0.957], abs=1e-3)


def planted() -> Examples:
    """Coin tosses, one feature that tells them more often than not, and two that don't."""
    made = noise(500, 5)
    rng = np.random.default_rng(1)
    features = pd.DataFrame(
        rng.normal(size=made.features.shape).astype(np.float32), columns=["told", "dull", "empty"]
    )
    features["told"] += (made.right - 0.5).astype(np.float32) * 2
    return made._replace(features=features)


def test_a_feature_that_tells_something_is_found_and_the_others_are_worth_nothing():
    made = planted()
    judged = cross_validate(made)
    assert auc(judged.probabilities, made.right, np.ones((1, 500)))[0] > 0.75
    table = importance(made, judged, repeats=3)
    assert table.index[0] == "told"
    assert table["lost"].iloc[0] > 0.15
    assert (table["lost"].iloc[1:].abs() < 0.05).all()


def test_labels_that_mean_nothing_score_nothing_though_the_own_ones_do():
    made = planted()
    reached = meaningless(made, draws=4)
    assert (reached < 0.7).all()
    assert abs(reached.mean() - 0.5) < 0.1


def test_the_same_examples_give_the_same_classifier(found):
    one, other = cross_validate(found), cross_validate(found)
    np.testing.assert_array_equal(one.probabilities, other.probabilities)


# Through history


def test_no_member_knew_an_event_that_it_judges_or_one_that_was_not_over(found):
    made = members(found, refit=126, embargo=5)
    for member in made:
        known = found.labels["over"] <= member.until
        assert member.labels == known.sum() >= 100
        assert found.sessions.searchsorted(member.since) == found.sessions.searchsorted(member.until) + 6
        assert (found.labels.loc[known, "end"] < member.since).all()
    said, base = as_traded(found, made)
    early = found.labels["timestamp"] < made[0].since
    assert np.isnan(said[early]).all()
    assert np.isnan(base[early]).all()
    assert np.isfinite(said[~early]).all()


@pytest.mark.parametrize("end", ["2008-03-14", "2011-06-30"])
def test_more_history_adds_members_and_changes_nothing_that_was_said(sample, found, end):
    bars, actions = sample
    known = bars[bars.index.get_level_values("timestamp") <= pd.Timestamp(end)]
    past = actions[actions["timestamp"] <= pd.Timestamp(end)]
    then = members(examples(known, past, buys(known, past, get_strategy("crossover")), CALLS, SHORT))
    later = members(found)
    assert [one[:3] for one in then] == [one[:3] for one in later[: len(then)]]
    before = probabilities(assembled("then", CALLS, then), adjust(known, past))
    after = probabilities(assembled("later", CALLS, later), adjust(bars, actions))
    np.testing.assert_array_equal(
        before, after[bars.index.get_level_values("timestamp") <= pd.Timestamp(end)]
    )


def test_a_history_that_is_over_before_a_model_may_speak_is_a_line(found):
    with pytest.raises(UserError, match="the bars end before a first model may speak"):
        members(found, embargo=5000)
    with pytest.raises(UserError, match="refit = 0 has to be at least 1"):
        members(found, refit=0)


# In words


def test_a_contest_is_won_by_an_interval_above_zero_and_told_in_words():
    rng = np.random.default_rng(0)
    market = rng.normal(0, 0.01, 500)
    better = contest("The model", market + rng.normal(0.002, 0.005, 500), "the rule", market)
    assert better.words.startswith("The model beats the rule: a Sharpe ratio of ")
    level = contest("The model", market + rng.normal(0, 0.005, 500), "the rule", market)
    assert "does not beat the rule" in level.words
    assert contest("The model", market, "the rule", market).words.endswith(
        "earned the same in every session."
    )
    worse = contest("The model", market - rng.normal(0.002, 0.005, 500), "the rule", market)
    assert worse.words.endswith("It is worse.")


def test_a_victory_of_a_model_that_tells_nothing_is_doubted():
    won = Contest("The model", "the rule", 0.7, 0.2, Interval(0.1, 0.6, 1.2))
    lost = Contest("The model", "the rule", 0.1, 0.2, Interval(-0.6, -0.1, 0.4))
    coin, good = Interval(0.472, 0.499, 0.525), Interval(0.53, 0.58, 0.63)
    doubt = "But the model's AUC as traded is 0.499 (0.472 to 0.525), not above a coin's 0.5: what is won here is not won by"
    assert doubt in verdict([lost, won], coin)
    assert "But" not in verdict([lost, won], good)
    assert "But" not in verdict([lost], coin)
    assert "AUC as traded is not known" in verdict([won], None)


def test_a_card_holds_plain_values_alone():
    table = pd.DataFrame({"lost": [np.float64(0.1), np.nan]}, index=pd.Index(["a", "b"], name="feature"))
    told = plain(
        {"auc": Interval(0.1, 0.2, float("inf")), "table": table, "count": np.int64(3), "words": "so"}
    )
    assert told == {
        "auc": [0.1, 0.2, None],
        "table": [{"feature": "a", "lost": 0.1}, {"feature": "b", "lost": None}],
        "count": 3,
        "words": "so",
    }
