"""What the door in front of the tables lets through, turns away and remarks on."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradebot.prices import BAR_COLUMNS, actions_frame
from tradebot.providers import SampleProvider
from tradebot.quality import ISSUE_TYPES, check, summary
from tradebot.sessions import labels_between, sessions_between

NONE = actions_frame()
GOOD = (10.0, 11.0, 9.0, 10.5, 1000.0)


def bars_of(*rows):
    "Rows of (date, open, high, low, close, volume)."
    index = pd.DatetimeIndex([row[0] for row in rows], name="timestamp").as_unit("ns")
    return pd.DataFrame([row[1:] for row in rows], index=index, columns=BAR_COLUMNS, dtype="float64")


def closes(*values, first="2024-01-02"):
    "Daily bars that only differ in their close."
    days = sessions_between(pd.Timestamp(first), pd.Timestamp(first) + pd.Timedelta(days=60))[: len(values)]
    return bars_of(
        *((day, close, close, close, close, 1000.0) for day, close in zip(days, values, strict=True))
    )


def found(checked):
    "(day of the month, rule, rejected) of each issue."
    issues = checked.issues
    return list(zip(issues["timestamp"].dt.day, issues["rule"], issues["rejected"], strict=True))


def test_good_bars_pass_unchanged_and_unremarked():
    bars = bars_of(("2024-01-02", *GOOD), ("2024-01-03", *GOOD))
    checked = check("XYZ", bars, NONE, labels=sessions_between(bars.index[0], bars.index[-1]))
    pd.testing.assert_frame_equal(checked.bars, bars)
    assert checked.issues.empty


def test_issues_have_the_same_columns_with_and_without_rows():
    for bars in (bars_of(("2024-01-02", *GOOD)), bars_of(("2024-01-02", -1, 1, 1, 1, 1)), bars_of()):
        issues = check("XYZ", bars, NONE).issues
        assert {name: str(kind) for name, kind in issues.dtypes.items()} == {
            **ISSUE_TYPES,
            "symbol": "object",
            "rule": "object",
            "detail": "object",
        }


def test_no_bars_are_no_trouble():
    checked = check("XYZ", bars_of(), NONE, labels=pd.DatetimeIndex(["2024-01-02"]), previous_close=10.0)
    assert len(checked.bars) == len(checked.issues) == 0


def test_a_copy_is_dropped_and_reported():
    checked = check("XYZ", bars_of(("2024-01-02", *GOOD), ("2024-01-02", *GOOD), ("2024-01-02", *GOOD)), NONE)
    assert found(checked) == [(2, "duplicate", True), (2, "duplicate", True)]
    assert len(checked.bars) == 1


def test_a_copy_of_a_bad_bar_does_not_save_it():
    checked = check(
        "XYZ", bars_of(("2024-01-02", np.nan, 11, 9, 10, 1), ("2024-01-02", np.nan, 11, 9, 10, 1)), NONE
    )
    assert found(checked) == [(2, "duplicate", True), (2, "price", True)]


def test_of_two_different_bars_at_one_time_neither_is_believed():
    other = (10.0, 11.0, 9.0, 10.6, 1000.0)
    checked = check(
        "XYZ",
        bars_of(("2024-01-02", *GOOD), ("2024-01-02", *other), ("2024-01-02", *GOOD), ("2024-01-03", *GOOD)),
        NONE,
    )
    assert found(checked) == [(2, "duplicate", True), (2, "conflict", True), (2, "conflict", True)]
    assert list(checked.bars.index.day) == [3]
    assert [bar["close"] for bar in checked.issues["bar"]] == [10.5, 10.5, 10.6]


def test_disorder_is_repaired_and_reported_once():
    checked = check("XYZ", bars_of(*((f"2024-01-0{day}", *GOOD) for day in (2, 5, 3, 4))), NONE)
    assert found(checked) == [(3, "order", False)]
    assert checked.issues["detail"].item() == "2 bars come after a later one; sorted"
    assert list(checked.bars.index.day) == [2, 3, 4, 5]


def test_a_session_without_a_bar_is_reported():
    "Monday the 15th was Martin Luther King's day."
    bars = bars_of(("2024-01-11", *GOOD), ("2024-01-17", *GOOD))
    checked = check(
        "XYZ", bars, NONE, labels=sessions_between(pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-31"))
    )
    assert found(checked) == [(12, "missing", False), (16, "missing", False)]


def test_a_session_whose_bar_was_rejected_is_not_called_missing():
    bars = bars_of(("2024-01-02", *GOOD), ("2024-01-03", 0, 0, 0, 0, 0), ("2024-01-04", *GOOD))
    checked = check("XYZ", bars, NONE, labels=sessions_between(bars.index[0], bars.index[-1]))
    assert found(checked) == [(3, "price", True)]


def test_a_stray_bar_of_1970_does_not_make_half_a_century_missing():
    bars = bars_of(("1970-01-01", *GOOD), ("2024-01-02", *GOOD))
    checked = check(
        "XYZ", bars, NONE, labels=sessions_between(pd.Timestamp("1970-01-01"), pd.Timestamp("2024-01-31"))
    )
    assert list(checked.issues["rule"]) == ["session"]


@pytest.mark.parametrize("day", ["2024-01-06", "2024-01-15", "2024-01-16 05:00"])
def test_a_daily_bar_that_is_no_session_is_rejected(day):
    sessions = sessions_between(pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-31"))
    checked = check("XYZ", bars_of((day, *GOOD)), NONE, labels=sessions)
    assert list(checked.issues["rule"]) == ["session"]
    assert checked.bars.empty
    assert len(check("XYZ", bars_of((day, *GOOD)), NONE).bars) == 1, (
        "without sessions no calendar is consulted"
    )


def test_an_intraday_bar_that_no_session_has_is_rejected():
    labels = labels_between(pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-31"), "5m")
    moments = (
        "2024-01-05 20:55",
        "2024-01-05 21:00",
        "2024-01-06 15:00",
        "2024-01-08 14:30",
        "2024-01-08 14:32",
    )
    bars = bars_of(*((moment, *GOOD) for moment in moments))
    checked = check("XYZ", bars, NONE, labels=labels)
    assert found(checked) == [(5, "session", True), (6, "session", True), (8, "session", True)]
    assert list(checked.bars.index) == [pd.Timestamp("2024-01-05 20:55"), pd.Timestamp("2024-01-08 14:30")]


@pytest.mark.parametrize("column", ["open", "high", "low", "close"])
@pytest.mark.parametrize("value", [0.0, -1.0, np.nan, np.inf, -np.inf])
def test_a_price_that_is_none_is_rejected_and_named(column, value):
    bars = bars_of(("2024-01-02", *GOOD), ("2024-01-03", *GOOD))
    bars.loc["2024-01-03", column] = value
    checked = check("XYZ", bars, NONE)
    assert found(checked) == [(3, "price", True)]
    assert checked.issues["detail"].item() == f"{column} {value:g}"
    assert checked.issues["symbol"].item() == "XYZ"
    np.testing.assert_equal(checked.issues["bar"].item()[column], value)


@pytest.mark.parametrize("value", [-1.0, np.nan, np.inf])
def test_a_volume_that_is_none_is_rejected(value):
    checked = check("XYZ", bars_of(("2024-01-02", 10, 11, 9, 10.5, value)), NONE)
    assert found(checked) == [(2, "volume", True)]


def test_a_day_without_trades_is_reported():
    checked = check("XYZ", bars_of(("2024-01-02", 10, 10, 10, 10, 0)), NONE)
    assert found(checked) == [(2, "no volume", False)]
    assert len(checked.bars) == 1


@pytest.mark.parametrize(
    ("prices", "rejected"),
    [
        ((10.0, 11.0, 9.0, 10.5), False),
        ((10.0, 9.0, 11.0, 10.0), True),  # high below low
        ((10.0, 9.999, 10.0, 10.0), True),
        ((8.98, 11.0, 9.0, 10.0), True),  # opened below the low
        ((10.0, 11.0, 9.0, 11.02), True),  # closed above the high
        ((10.0, 11.0, 9.0, 11.005), False),  # by half a cent: a rounded price
        ((1.0, 1.13, 1.0, 1.135), False),  # 1.13 + 0.005 is less than 1.135 in binary
        ((10.0, 11.0, 9.0, 11.006), True),
        ((8.995, 11.0, 9.0, 10.0), False),
        ((0.5, 0.6, 0.4, 0.60005), False),  # below a dollar a tick is a hundredth of a cent
        ((0.5, 0.6, 0.4, 0.601), True),
    ],
)
def test_open_and_close_lie_between_low_and_high(prices, rejected):
    checked = check("XYZ", bars_of(("2024-01-02", *prices, 1000)), NONE)
    assert found(checked) == ([(2, "range", True)] if rejected else [])


class TestJumps:
    @pytest.mark.parametrize(
        ("second", "jumps"), [(80.0, 0), (79.9, 1), (125.0, 0), (125.1, 1), (50.0, 1), (200.0, 1)]
    )
    def test_a_quarter_up_or_a_fifth_down_is_reported_and_let_through(self, second, jumps):
        checked = check("XYZ", closes(100.0, second), NONE)
        assert found(checked) == [(3, "jump", False)] * jumps
        assert len(checked.bars) == 2

    def test_it_says_from_where_to_where(self):
        assert (
            check("XYZ", closes(100.0, 50.0), NONE).issues["detail"].item()
            == "close 50 after 100: no split or dividend explains it"
        )

    @pytest.mark.parametrize(
        ("ratio", "second", "jumps"),
        [(2.0, 50.0, 0), (0.1, 1000.0, 0), (2.0, 100.0, 1), (3.0, 50.0, 1), (2.0, 40.1, 0), (2.0, 39.9, 1)],
    )
    def test_a_split_explains_its_own_jump_and_no_other(self, ratio, second, jumps):
        split = actions_frame([("XYZ", "2024-01-03", "split", ratio)])
        assert len(check("XYZ", closes(100.0, second), split).issues) == jumps

    def test_a_large_dividend_explains_a_fall(self):
        special = actions_frame([("XYZ", "2024-01-03", "dividend", 40.0)])
        assert check("XYZ", closes(100.0, 60.0), special).issues.empty
        assert len(check("XYZ", closes(100.0, 100.0), special).issues) == 1

    def test_a_dividend_on_the_day_of_a_split_is_paid_on_the_new_shares(self):
        both = actions_frame([("XYZ", "2024-01-03", "split", 2.0), ("XYZ", "2024-01-03", "dividend", 20.0)])
        assert check("XYZ", closes(100.0, 30.0), both).issues.empty
        assert len(check("XYZ", closes(100.0, 40.0), both).issues) == 1

    def test_a_dividend_above_the_price_explains_nothing(self):
        absurd = actions_frame([("XYZ", "2024-01-03", "dividend", 100.0)])
        assert len(check("XYZ", closes(100.0, 99.0), absurd).issues) == 1

    @pytest.mark.parametrize(("day", "jumps"), [("2024-01-02", 1), ("2024-01-04", 2), ("2024-01-05", 1)])
    def test_an_action_explains_the_bar_of_its_date_alone(self, day, jumps):
        split = actions_frame([("XYZ", day, "split", 2.0)])
        assert len(check("XYZ", closes(100.0, 50.0, 50.0), split).issues) == jumps

    def test_an_action_of_a_day_without_a_bar_belongs_to_the_next(self):
        bars = closes(100.0, 100.0, 50.0).drop(pd.Timestamp("2024-01-03"))
        split = actions_frame([("XYZ", "2024-01-03", "split", 2.0)])
        assert check("XYZ", bars, split).issues.empty

    def test_another_symbols_split_explains_nothing(self):
        split = actions_frame([("ABC", "2024-01-03", "split", 2.0)])
        assert len(check("XYZ", closes(100.0, 50.0), split).issues) == 1

    def test_a_rejected_bar_is_not_what_the_next_is_compared_with(self):
        bars = closes(100.0, 1.0, 101.0)
        bars.loc["2024-01-03", "volume"] = -1
        assert list(check("XYZ", bars, NONE).issues["rule"]) == ["volume"]

    def test_the_first_bar_is_compared_with_the_last_close_that_is_known(self):
        assert check("XYZ", closes(50.0), NONE).issues.empty
        assert found(check("XYZ", closes(50.0), NONE, previous_close=100.0)) == [(2, "jump", False)]
        split = actions_frame([("XYZ", "2024-01-02", "split", 2.0)])
        assert check("XYZ", closes(50.0), split, previous_close=100.0).issues.empty

    def test_an_intraday_split_applies_from_the_first_bar_of_its_day(self):
        bars = closes(100.0, 50.0, 50.0).set_axis(
            pd.DatetimeIndex(["2024-01-02 20:55", "2024-01-03 14:30", "2024-01-03 14:35"])
        )
        split = actions_frame([("XYZ", "2024-01-03", "split", 2.0)])
        assert check("XYZ", bars, split).issues.empty


def test_a_bar_is_rejected_by_the_first_rule_that_it_breaks():
    checked = check(
        "XYZ", bars_of(("2024-01-06", -1, 11, 12, 10, -5)), NONE, labels=pd.DatetimeIndex(["2024-01-05"])
    )
    assert found(checked) == [(6, "price", True)]


def test_the_sample_is_clean_but_for_a_day_that_was_real():
    span = pd.Timestamp("2000-03-01"), pd.Timestamp("2013-03-01")
    sessions = sessions_between(*span)
    issues = [
        check(name, *SampleProvider().fetch(name, *span), labels=sessions).issues
        for name in ("AAPL", "FB", "GOOG", "IBM", "MSFT")
    ]
    seen = pd.concat(issues)
    assert seen[["symbol", "timestamp", "rule"]].to_numpy().tolist() == [
        ["AAPL", pd.Timestamp("2000-09-29"), "jump"]
    ]


def test_a_summary_counts_by_symbol_and_rule():
    issues = check(
        "XYZ", bars_of(("2024-01-02", *GOOD), ("2024-01-02", *GOOD), ("2024-01-03", 1, 1, 1, -1, 1)), NONE
    ).issues
    assert summary(issues).to_dict("records") == [
        {"symbol": "XYZ", "rule": "duplicate", "rejected": True, "count": 1},
        {"symbol": "XYZ", "rule": "price", "rejected": True, "count": 1},
    ]
    assert summary(issues.iloc[:0]).empty


price = st.one_of(
    st.floats(8, 12).map(lambda value: round(value, 2)),
    st.sampled_from([0.0, -1.0, np.nan, np.inf, 0.5, 1e6]),
)
volume = st.sampled_from([0.0, 1.0, 1000.0, -1.0, np.nan, np.inf])
days = st.sampled_from(pd.date_range("2024-01-01", "2024-01-17").tolist())
frames = st.lists(st.tuples(days, price, price, price, price, volume), max_size=25).map(
    lambda rows: bars_of(*rows)
)
with_copies = st.tuples(frames, st.integers(0, 3)).map(
    lambda drawn: pd.concat([drawn[0], drawn[0].head(drawn[1])])
)
SESSIONS = sessions_between(pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-31"))


def counted(bars):
    "How often each row occurs, with NaN equal to itself."
    rows = zip(bars.index, *(bars[name] for name in BAR_COLUMNS), strict=True)
    return pd.Series([str(row) for row in rows], dtype=str).value_counts().to_dict()


@given(bars=with_copies, sessions=st.sampled_from([None, SESSIONS]))
def test_accepted_bars_keep_the_promise_whatever_came_in(bars, sessions):
    accepted = check("XYZ", bars, NONE, labels=sessions).bars
    assert accepted.index.is_monotonic_increasing
    assert accepted.index.is_unique
    assert np.isfinite(accepted.to_numpy()).all()
    assert (accepted[["open", "high", "low", "close"]] > 0).all(axis=None)
    assert (accepted["volume"] >= 0).all()
    assert (accepted["low"] <= accepted["high"]).all()
    for name in ("open", "close"):
        assert (accepted[name] - accepted["high"]).max() <= 0.0051 or accepted.empty
        assert (accepted["low"] - accepted[name]).max() <= 0.0051 or accepted.empty
    if sessions is not None:
        assert accepted.index.isin(sessions).all()


@given(bars=with_copies, sessions=st.sampled_from([None, SESSIONS]))
def test_every_bar_is_either_accepted_or_kept_in_the_issues(bars, sessions):
    accepted, issues = check("XYZ", bars, NONE, labels=sessions)
    turned_away = issues[issues["rejected"]]
    kept = bars_of(
        *(
            (at, *(bar[name] for name in BAR_COLUMNS))
            for at, bar in zip(turned_away["timestamp"], turned_away["bar"], strict=True)
        )
    )
    assert counted(pd.concat([accepted, kept])) == counted(bars)
    assert issues.loc[~issues["rejected"], "bar"].isna().all()


@given(bars=with_copies, sessions=st.sampled_from([None, SESSIONS]))
def test_a_second_look_rejects_nothing(bars, sessions):
    once = check("XYZ", bars, NONE, labels=sessions)
    again = check("XYZ", once.bars, NONE, labels=sessions)
    pd.testing.assert_frame_equal(again.bars, once.bars)
    assert not again.issues["rejected"].any()


@given(bars=with_copies, order=st.randoms(use_true_random=False))
def test_the_order_of_the_bars_does_not_matter(bars, order):
    shuffled = bars.iloc[order.sample(range(len(bars)), len(bars))]
    pd.testing.assert_frame_equal(check("XYZ", shuffled, NONE).bars, check("XYZ", bars, NONE).bars)
