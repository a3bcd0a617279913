"""Triple-barrier labels: hand-written bars whose answers a reader can check, and what no market may change."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from markets import DAYS, frames, markets

from tradebot.config import UserError
from tradebot.labels import Barriers, triple_barrier, uniqueness
from tradebot.prices import actions_frame, adjust

FLAT = (100, 100, 100, 100)
# Closes of 100, 101, 100: returns of 1 % and -0.99 %, a deviation of 1.407 %. From an entry at 100 the barriers of one deviation lie
# at 101.407 and 98.593.
PAST = [FLAT, (101, 101, 101, 101), FLAT]
ONE = Barriers(profit=1.0, stop=1.0, horizon=2, window=2)
UP, DOWN = 1 + 0.0140714, 1 - 0.0140714


def label(*future, barriers=ONE, event=2):
    """What becomes of an event at the third bar."""
    days = pd.bdate_range("2024-01-02", periods=3 + len(future))
    bars = frames({"A": [*PAST, *future]}, days)
    found = triple_barrier(bars, pd.DataFrame({"symbol": ["A"], "timestamp": [days[event]]}), barriers)
    return found.iloc[0], days


def test_the_profit_barrier_pays_its_price():
    found, days = label(FLAT, (100, 102, 99, 101))
    assert (found["outcome"], found["label"]) == ("profit", 1)
    assert found["gain"] == pytest.approx(UP - 1, abs=1e-6)
    assert list(found[["entry", "end", "over"]]) == [days[3], days[4], days[4]]


def test_the_stop_costs_its_price():
    found, days = label((100, 101, 98, 101), FLAT)
    assert (found["outcome"], found["label"], found["end"]) == ("stop", 0, days[3])
    assert found["gain"] == pytest.approx(DOWN - 1, abs=1e-6)


def test_the_entry_is_the_next_open_not_the_close_of_the_event():
    # Bought at 110 after a gap, 111 is no profit of a deviation; seen from the event's close at 100 it would be.
    found, _ = label((110, 111, 109.5, 110), (110, 111, 109.5, 110.5))
    assert found["outcome"] == "time"
    assert found["gain"] == pytest.approx(110.5 / 110 - 1)


def test_a_bar_that_touches_both_barriers_is_the_stop():
    found, _ = label((100, 105, 95, 104), FLAT)
    assert found["outcome"] == "stop"


def test_an_open_beyond_a_barrier_ends_it_at_that_open():
    above, _ = label(FLAT, (105, 106, 90, 100))
    assert (above["outcome"], above["gain"]) == ("profit", pytest.approx(0.05))
    below, _ = label(FLAT, (95, 106, 94, 105))
    assert (below["outcome"], below["gain"]) == ("stop", pytest.approx(-0.05))


def test_the_last_session_ends_it_at_its_close_and_its_sign_is_the_label():
    gained, days = label(FLAT, (100, 101, 99, 100.5))
    assert (gained["outcome"], gained["label"], gained["end"]) == ("time", 1, days[4])
    unchanged, _ = label(FLAT, FLAT)
    assert (unchanged["outcome"], unchanged["label"]) == ("time", 0)


def test_an_event_whose_horizon_is_not_over_has_no_label_though_a_barrier_was_met():
    found, _ = label((100, 105, 99.5, 104))
    assert found["outcome"] == "open"
    assert np.isnan(found["label"])
    assert pd.isna(found["end"])


def test_an_event_before_the_volatility_is_known_or_without_any_has_no_label():
    early, _ = label(FLAT, FLAT, event=1)
    assert early["outcome"] == "cold"
    still = frames({"A": [FLAT] * 5})
    events = pd.DataFrame({"symbol": ["A"], "timestamp": [DAYS[2]]})
    assert triple_barrier(still, events, ONE)["outcome"].item() == "cold"


def test_a_split_within_the_horizon_changes_nothing():
    days = pd.bdate_range("2024-01-02", periods=5)
    whole = frames({"A": [*PAST, FLAT, (100, 102, 99, 101)]}, days)
    split = frames({"A": [*PAST, FLAT, (50, 51, 49.5, 50.5)]}, days)
    events = pd.DataFrame({"symbol": ["A"], "timestamp": [days[2]]})
    adjusted = adjust(split, actions_frame([("A", days[4], "split", 2.0)]))
    pd.testing.assert_frame_equal(triple_barrier(adjusted, events, ONE), triple_barrier(whole, events, ONE))


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"profit": 0.0}, "profit = 0.0 has to be above 0"),
        ({"stop": float("nan")}, "stop = nan has to be above 0"),
        ({"horizon": 0}, "horizon = 0 has to be at least 1"),
        ({"window": 1}, "window = 1 has to be at least 2"),
    ],
)
def test_barriers_that_cannot_be_are_a_line(wrong, says):
    with pytest.raises(UserError, match=says):
        label(FLAT, FLAT, barriers=ONE._replace(**wrong))


def test_an_event_of_no_bar_and_of_no_symbol_is_a_line():
    bars = frames({"A": [*PAST, FLAT, FLAT]})
    with pytest.raises(UserError, match="an event of A belongs to none of its bars"):
        triple_barrier(bars, pd.DataFrame({"symbol": ["A"], "timestamp": [pd.Timestamp("2024-01-06")]}), ONE)
    with pytest.raises(UserError, match="there are events of B, and no bars of it"):
        triple_barrier(bars, pd.DataFrame({"symbol": ["B"], "timestamp": [DAYS[2]]}), ONE)


@settings(deadline=None, max_examples=40)
@given(markets(), st.sampled_from([0.5, 1.0, 3.0]), st.integers(1, 4))
def test_a_label_depends_on_no_bar_after_its_horizon_and_its_barriers_on_none_after_the_event(
    market, multiple, horizon
):
    bars, actions, signals, _ = market
    adjusted, barriers = adjust(bars, actions), Barriers(multiple, multiple, horizon, 2)
    whole = triple_barrier(adjusted, signals, barriers)
    for _, one in whole[whole["label"].notna()].iterrows():
        own = adjusted.loc[[one["symbol"]]]
        known = own[own.index.get_level_values("timestamp") <= one["over"]]
        event = pd.DataFrame({"symbol": [one["symbol"]], "timestamp": [one["timestamp"]]})
        again = triple_barrier(known, event, barriers).iloc[0]
        assert again["outcome"] == one["outcome"]
        assert again["gain"] == pytest.approx(one["gain"])
        assert one["timestamp"] < one["entry"] <= one["end"] <= one["over"]


def test_overlapping_labels_of_a_symbol_share_their_days_and_others_do_not():
    labels = pd.DataFrame(
        {
            "symbol": ["A", "A", "A", "B"],
            "entry": [DAYS[0], DAYS[1], DAYS[3], DAYS[0]],
            "end": [DAYS[1], DAYS[2], DAYS[4], DAYS[4]],
        }
    )
    np.testing.assert_allclose(uniqueness(labels, DAYS), [0.75, 0.75, 1.0, 1.0])
