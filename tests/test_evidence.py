"""The numbers of the papers, properties that hold for any returns, searches whose answer is known, and bad input."""

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradebot.config import UserError
from tradebot.evidence import (
    Interval,
    Moments,
    Verdict,
    annual_sharpe,
    annualised,
    bootstrap,
    deflated_sharpe,
    expected_maximum_sharpe,
    judge,
    max_drawdown,
    minimum_track_record,
    moments,
    overfitting,
    probabilistic_sharpe,
    sharpe,
)


def normal(seed: int, *shape: int, mean: float = 0.0) -> np.ndarray:
    return np.random.default_rng(seed).normal(mean, 0.01, shape)


def any_returns(least: int = 4):
    return st.lists(st.integers(-2000, 2000), min_size=least, max_size=60, unique=True).map(
        lambda basis_points: np.array(basis_points) / 10_000
    )


# -------------------------------------------------------------------------------------------- published numbers


def test_the_deflated_sharpe_ratio_of_the_paper():
    """Bailey and López de Prado (2014): annualised 2.5 over five years of 250 days, trials of variance 1/2."""
    best = Moments(2.5 / math.sqrt(250), 1250, skewness=-3, kurtosis=10)
    deviation = math.sqrt(0.5 / 250)
    assert round(expected_maximum_sharpe(100, deviation), 4) == 0.1132
    assert round(best.above(expected_maximum_sharpe(100, deviation)), 4) == 0.9004
    assert round(best.above(expected_maximum_sharpe(46, deviation)), 4) == 0.9505


@pytest.mark.parametrize(("periods", "years"), [(252, 2.73), (52, 2.83), (12, 3.24)])
def test_the_track_records_of_the_paper(periods, years):
    """Bailey and López de Prado (2012): an annualised 2 is above 1 with 95 % confidence after so many years."""
    needed = Moments(2 / math.sqrt(periods), 100).needed(1 / math.sqrt(periods), 0.95)
    assert round(needed / periods, 2) == years


def test_moments_are_those_of_the_sample():
    found = moments([1.0, 1.0, 1.0, 5.0])
    assert found.observations == 4
    assert math.isclose(found.sharpe, 2 / 2)
    assert math.isclose(found.skewness, 2 / math.sqrt(3))
    assert math.isclose(found.kurtosis, 7 / 3)


# -------------------------------------------------------------------------------------------------- properties


@given(any_returns(), st.floats(0.01, 100))
def test_the_tests_do_not_depend_on_the_scale(returns, scale):
    assert math.isclose(sharpe(returns), sharpe(scale * returns), rel_tol=1e-6, abs_tol=1e-9)
    assert math.isclose(probabilistic_sharpe(returns), probabilistic_sharpe(scale * returns), abs_tol=1e-6)


@given(any_returns())
def test_symmetric_returns_around_zero_are_a_coin(returns):
    assert math.isclose(probabilistic_sharpe(np.concatenate([returns, -returns])), 0.5, abs_tol=1e-9)


@given(any_returns(), st.integers(1, 10_000), st.floats(0, 1))
def test_more_trials_never_make_a_result_better(returns, trials, deviation):
    more = deflated_sharpe(returns, trials + 1, deviation)
    assert more <= deflated_sharpe(returns, trials, deviation) <= probabilistic_sharpe(returns)


@given(any_returns(), st.floats(0.6, 0.99))
def test_the_track_record_is_where_the_confidence_is_reached(returns, level):
    found = moments(returns)
    needed = minimum_track_record(returns, level=level)
    if found.sharpe <= 0:
        assert needed == math.inf
    else:
        assert (found.observations >= needed) == (probabilistic_sharpe(returns) >= level)


@given(any_returns())
def test_a_drawdown_is_what_a_loop_finds(returns):
    equity = high = 1.0
    worst = 0.0
    for value in returns:
        equity *= 1 + value
        high = max(high, equity)
        worst = max(worst, 1 - equity / high)
    assert math.isclose(max_drawdown(returns), worst, abs_tol=1e-12)


@pytest.mark.parametrize("trials", [2, 10, 200])
def test_the_expected_maximum_is_that_of_normal_numbers(trials):
    maxima = np.random.default_rng(1).standard_normal((4000, trials)).max(axis=1)
    assert abs(expected_maximum_sharpe(trials, 2.0) / 2 - maxima.mean()) < 0.06


def test_one_trial_has_nothing_to_deflate():
    assert expected_maximum_sharpe(1, 0.3) == 0
    assert deflated_sharpe(normal(1, 50), 1, 0.3) == probabilistic_sharpe(normal(1, 50))


def test_returns_that_do_not_vary_have_no_ratio():
    assert math.isnan(sharpe([0.01] * 10))
    assert math.isnan(annual_sharpe(np.zeros(10)))


# -------------------------------------------------------------------------------------------------- overfitting


def by_slicing(performance: np.ndarray, blocks: int):
    """The definition, halving by halving."""
    from itertools import combinations

    members = np.array_split(np.arange(len(performance)), blocks)
    logits, known, met = [], [], []
    for chosen in combinations(range(blocks), blocks // 2):
        inside = np.concatenate([members[block] for block in chosen])
        outside = np.setdiff1d(np.arange(len(performance)), inside)
        ratios = [sharpe(trial) for trial in performance[outside].T]
        best = int(np.argmax([sharpe(trial) for trial in performance[inside].T]))
        relative = (1 + sum(ratio < ratios[best] for ratio in ratios)) / (len(ratios) + 1)
        logits.append(math.log(relative / (1 - relative)))
        known.append(sharpe(performance[inside, best]))
        met.append(ratios[best])
    return np.array(logits), np.polyfit(known, met, 1)[0], np.mean(np.array(met) < 0)


@pytest.mark.parametrize("sessions", [60, 65])
def test_block_sums_give_what_slicing_gives(sessions):
    performance = normal(sessions, sessions, 7)
    logits, slope, loss = by_slicing(performance, 6)
    found = overfitting(performance, 6)
    assert np.allclose(found.logits, logits)
    assert math.isclose(found.slope, slope)
    assert found.loss == loss
    assert found.probability == (logits <= 0).mean()


def test_choosing_among_noise_is_a_coin():
    found = [overfitting(normal(seed, 400, 40), 8).probability for seed in range(60)]
    assert abs(np.mean(found) - 0.5) < 0.08


def test_one_trial_with_skill_is_found():
    performance = normal(2, 1000, 40)
    performance[:, 11] += 0.003
    found = overfitting(performance)
    assert len(found.logits) == 12_870
    assert found.probability < 0.01
    assert found.loss < 0.01


def test_what_was_good_in_one_half_only_is_overfitted():
    """Each trial earns as much in some blocks as it loses in the others: whatever half it was chosen on, the rest is bad."""
    performance = normal(3, 1000, 40)
    found = overfitting(performance - performance.mean(axis=0))
    assert found.probability > 0.99
    assert found.loss > 0.99
    assert found.slope < -0.9


def test_a_trial_that_stands_still_has_a_ratio_of_zero():
    performance = np.column_stack([np.zeros(100), -np.abs(normal(4, 100)) - 0.001])
    assert overfitting(performance, 4) == (
        0.0,
        pytest.approx(np.full(6, math.log(2))),
        pytest.approx(math.nan, nan_ok=True),
        0.0,
    )


# ---------------------------------------------------------------------------------------------------- bootstrap


def test_intervals_hold_the_true_ratio_as_often_as_they_say():
    true = annualised(0.08)
    intervals = [
        bootstrap(normal(seed, 250, mean=0.0008), annual_sharpe, draws=200, seed=seed) for seed in range(200)
    ]
    assert 0.90 <= np.mean([interval.low < true < interval.high for interval in intervals]) <= 0.99


def test_returns_that_follow_their_own_past_have_wider_intervals():
    noise = normal(5, 2000)
    persistent = np.convolve(noise, 0.8 ** np.arange(20), "valid")
    shuffled = np.random.default_rng(6).permutation(persistent)
    wide, narrow = (bootstrap(returns, annual_sharpe, draws=400) for returns in (persistent, shuffled))
    assert wide.high - wide.low > 2 * (narrow.high - narrow.low)


def test_the_same_seed_gives_the_same_interval():
    returns = normal(7, 300)
    assert bootstrap(returns, max_drawdown, draws=200, seed=3) == bootstrap(
        returns, max_drawdown, draws=200, seed=3
    )
    assert bootstrap(returns, max_drawdown, draws=200, seed=3) != bootstrap(
        returns, max_drawdown, draws=200, seed=4
    )
    assert judge(returns, 5, draws=200) == judge(returns, 5, draws=200)


def test_a_strategy_that_hardly_trades_has_an_interval():
    returns = np.zeros(200)
    returns[[50, 120]] = 0.02, -0.01
    interval = bootstrap(returns, annual_sharpe, draws=300)
    assert interval.low <= interval.value <= interval.high


@given(any_returns(least=30))
@settings(max_examples=20, deadline=None)
def test_bounds_are_in_order(returns):
    low, _, high = bootstrap(returns, max_drawdown, draws=100)
    assert 0 <= low <= high <= 1


# ------------------------------------------------------------------------------------------------------ verdict

LUCKY = Verdict(Interval(-0.1, 0.7, 1.5), Interval(0.1, 0.2, 0.4), 0.9, 0.95, 0.31, 40)


def words(**changed) -> str:
    return Verdict(**{**LUCKY.__dict__, **changed}).words


def test_words_name_the_reason():
    assert LUCKY.words == (
        "Not distinguishable from luck: with 40 trials the best of them would show a Sharpe of 0.90 by chance alone; "
        "this one shows 0.70."
    )
    assert words(sharpe=Interval(0.1, 1.2, 2.0), deflated=0.8).endswith(
        "this one shows 1.20. That is above, but its deflated Sharpe is 0.800 where 0.95 is asked."
    )
    assert words(sharpe=Interval(-0.1, 1.9, 2.0), deflated=0.96).endswith(
        "this one shows 1.90. That is well above, but its interval (-0.10 to 2.00) reaches zero."
    )
    assert words(sharpe=Interval(1.1, 1.9, 2.7), deflated=0.96) == (
        "Distinguishable from luck: with 40 trials the best of them would show a Sharpe of 0.90 by chance alone; this one "
        "shows 1.90. Its deflated Sharpe is 0.960, its interval (1.10 to 2.70)."
    )
    assert "a single trial without skill shows a Sharpe of zero on average; this one" in words(
        trials=1, chance=0.0
    )


def test_skill_is_told_from_luck():
    search = normal(8, 1500, 60)
    search[:, 5] += 0.0016
    ratios = [sharpe(trial) for trial in search.T]
    assert int(np.argmax(ratios)) == 5
    assert judge(search[:, 5], 60, float(np.std(ratios, ddof=1)), draws=300).distinguishable
    search[:, 5] -= 0.0016
    lucky = search[:, int(np.argmax([sharpe(trial) for trial in search.T]))]
    verdict = judge(lucky, 60, draws=300)
    assert not verdict.distinguishable
    assert verdict.deflated < verdict.probabilistic
    assert math.isclose(verdict.chance, annualised(expected_maximum_sharpe(60, 1 / math.sqrt(1499))))


# ---------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: sharpe([0.01]), r"shape \(1,\); at least 2"),
        (lambda: sharpe([[0.01, 0.02]]), r"shape \(1, 2\)"),
        (lambda: sharpe([0.01, math.nan]), "return 1 is nan"),
        (lambda: moments([0.1, 0.2, 0.3]), "at least 4"),
        (lambda: probabilistic_sharpe([0.0] * 9), "all returns are the same"),
        (lambda: Moments(0.1, 1), "1 observations are too few"),
        (lambda: Moments(0.1, 100, -3, 7), "not its excess over 3"),
        (lambda: minimum_track_record(normal(1, 9), level=1.0), "a confidence of 1 is not"),
        (lambda: expected_maximum_sharpe(0, 0.1), "0 trials cannot be"),
        (lambda: expected_maximum_sharpe(5, -0.1), "a deviation of -0.1 cannot be"),
        (lambda: expected_maximum_sharpe(5, math.nan), "a deviation of nan cannot be"),
        (lambda: max_drawdown([0.1, -1.5]), "a return of -1.5 loses more than everything"),
        (lambda: overfitting(np.zeros((50, 1)), 4), r"shape \(50, 1\)"),
        (lambda: overfitting(np.zeros(50), 4), r"shape \(50,\)"),
        (lambda: overfitting(np.zeros((50, 2)), 5), "5 blocks cannot be halved"),
        (lambda: overfitting(np.zeros((500, 2)), 22), "22 blocks cannot be halved"),
        (lambda: overfitting(np.zeros((20, 2))), "20 sessions are too few for 16 blocks"),
        (lambda: overfitting(np.full((50, 2), math.inf), 4), "trial 0 has returns that are not finite"),
        (lambda: bootstrap(normal(1, 29), sharpe), "at least 30"),
        (lambda: bootstrap(np.zeros(40), sharpe), "all returns are the same"),
        (lambda: bootstrap(normal(1, 40), sharpe, draws=10), "at least 100 draws"),
        (lambda: bootstrap(normal(1, 40), sharpe, level=95), "a level between 0 and 1"),
        (lambda: judge(normal(1, 40), trials=0), "0 trials cannot be"),
        (lambda: judge(np.zeros(40)), "all returns are the same"),
    ],
)
def test_bad_input_is_told_in_one_line(call, message):
    with pytest.raises(UserError, match=message) as told:
        call()
    assert "\n" not in str(told.value)
