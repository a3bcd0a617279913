"""Fills, cash and accounts of both engines: small frames that can be checked by hand, then an independent ledger."""

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from engines import backtest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from markets import DAYS, HALT, frames, markets, signals_frame
from plain_ledger import replay

from tradebot.backtest import backtest_ranges
from tradebot.config import Risk, UserError
from tradebot.prices import actions_frame, adjust
from tradebot.results import Result, cash_proof, compare


def trade(prices, signals, actions=(), capital=1000.0, rules=None, days=DAYS, end=None) -> Result:
    actions = actions_frame([(symbol, days[day], kind, value) for symbol, day, kind, value in actions])
    return backtest(
        frames(prices, days),
        actions,
        signals_frame(signals, days),
        start=days[0],
        end=days[-1] if end is None else end,
        capital=capital,
        rules=rules or Risk(buffer=0.0),
    )


def fills(result):
    """(symbol, number of the session, side, quantity, price) of each fill."""
    rows = result.fills.itertuples()
    return [(row.symbol, DAYS.get_loc(row.timestamp), row.side, row.quantity, row.price) for row in rows]


def outcomes(result):
    return list(result.signals[["decision", "reason"]].itertuples(index=False, name=None))


FLAT = (10, 10, 10, 10)


# ---------------------------------------------------------------------------------------------------- buys


def test_a_buy_fills_at_the_next_open_when_it_is_below_the_limit():
    result = trade({"A": [FLAT, (9, 11, 8, 10)]}, [("A", 0, "buy")])
    assert fills(result) == [("A", 1, "buy", 100, 9.0)]
    assert outcomes(result) == [("filled", "at the open")]
    assert result.sessions["cash"].tolist() == [1000, 100, 100, 100, 100]
    assert result.sessions["equity"].tolist() == [1000, 1100, 1100, 1100, 1100]


def test_a_buy_fills_at_the_limit_when_the_low_reaches_it():
    result = trade({"A": [FLAT, (11, 12, 10, 12)]}, [("A", 0, "buy")])
    assert fills(result) == [("A", 1, "buy", 100, 10.0)]
    assert outcomes(result) == [("filled", "at the limit")]


def test_a_buy_expires_when_the_session_stays_above_the_limit():
    result = trade({"A": [FLAT, (11, 12, 10.01, 11), FLAT]}, [("A", 0, "buy")])
    assert fills(result) == []
    assert outcomes(result) == [("expired", "limit not reached")]
    assert result.orders["status"].tolist() == ["expired"]


def test_the_buffer_raises_the_limit_and_lowers_the_size():
    result = trade({"A": [FLAT, (10.4, 11, 10, 11)]}, [("A", 0, "buy")], rules=Risk(buffer=0.05))
    assert result.orders[["quantity", "limit"]].to_numpy().tolist() == [[95, 10.5]]
    assert fills(result) == [("A", 1, "buy", 95, 10.4)]


def test_a_gap_up_costs_nothing_and_a_gap_down_is_bought_cheaper():
    up = trade({"A": [FLAT, (20, 20, 20, 20)]}, [("A", 0, "buy")], rules=Risk(buffer=0.005))
    down = trade({"A": [FLAT, (5, 5, 5, 5)]}, [("A", 0, "buy")], rules=Risk(buffer=0.005))
    assert fills(up) == []
    assert up.lowest_cash == 1000
    assert fills(down) == [("A", 1, "buy", 99, 5.0)]
    assert down.lowest_cash == 1000 - 495


def test_a_limit_below_one_dollar_keeps_its_hundredths_of_a_cent():
    result = trade(
        {"A": [(0.5, 0.5, 0.5, 0.5), (0.5024, 0.6, 0.5024, 0.6)]}, [("A", 0, "buy")], rules=Risk(buffer=0.005)
    )
    assert result.orders["limit"].tolist() == [0.5025]
    assert fills(result)[0][-1] == 0.5024


def test_two_buys_of_one_close_share_the_cash_in_symbol_order():
    prices = {"B": [(300, 300, 300, 300)] * 5, "A": [(400, 400, 400, 400)] * 5}
    result = trade(prices, [("B", 0, "buy"), ("A", 0, "buy")], capital=1150.0)
    assert fills(result) == [("A", 1, "buy", 2, 400.0), ("B", 1, "buy", 1, 300.0)]
    assert result.sessions["cash"].iloc[-1] == 50


def test_a_buy_with_less_than_one_share_of_cash_is_skipped():
    result = trade({"A": [FLAT] * 5}, [("A", 0, "buy"), ("A", 2, "buy")])
    assert outcomes(result) == [("filled", "at the open"), ("skipped", "no cash")]


def test_the_dust_of_float_sums_does_not_cost_a_share():
    assert 100.3 - 70.2 < 30.1
    prices = {"A": [(70.2, 70.2, 70.2, 70.2)] * 5, "B": [(30.1, 30.1, 30.1, 30.1)] * 5}
    result = trade(prices, [("A", 0, "buy"), ("B", 2, "buy")], capital=100.3)
    assert fills(result)[1] == ("B", 3, "buy", 1, 30.1)
    assert result.lowest_cash == 0


def test_cash_of_a_buy_that_expired_is_free_again():
    prices = {"A": [FLAT, (11, 11, 11, 11), FLAT, FLAT]}
    result = trade(prices, [("A", 0, "buy"), ("A", 2, "buy")])
    assert outcomes(result) == [("expired", "limit not reached"), ("filled", "at the open")]


# ---------------------------------------------------------------------------------------------- sizing and limits

FALL = [FLAT, FLAT, (9, 9, 9, 9), (9, 9, 9, 9), (8, 8, 8, 8)]
HALF = {"buffer": 0.0, "sizing": "fraction", "fraction": 0.5}


def test_a_fraction_of_equity_is_bought_and_the_rest_stays():
    prices = {"A": [FLAT] * 5, "B": [(300, 300, 300, 300)] * 5}
    rules = Risk(buffer=0.0, sizing="fraction", fraction=0.25)
    result = trade(prices, [("A", 0, "buy"), ("B", 0, "buy"), ("A", 2, "buy")], rules=rules)
    assert fills(result) == [("A", 1, "buy", 25, 10.0), ("A", 3, "buy", 25, 10.0)]
    assert outcomes(result)[1] == ("skipped", "no room: fraction 0.25 of equity")


def test_equal_weight_gives_each_symbol_of_the_universe_its_part():
    prices = {symbol: [FLAT] * 5 for symbol in "ABCD"}
    rules = Risk(buffer=0.0, sizing="equal_weight")
    result = trade(prices, [("A", 0, "buy"), ("A", 2, "buy"), ("B", 2, "buy")], rules=rules)
    assert fills(result) == [("A", 1, "buy", 25, 10.0), ("B", 3, "buy", 25, 10.0)]
    assert outcomes(result)[1] == ("skipped", "no room: its weight is reached")


def test_max_order_caps_each_order():
    prices = {"A": [FLAT] * 5, "B": [(100, 100, 100, 100)] * 5}
    signals = [("A", 0, "buy"), ("B", 0, "buy"), ("A", 2, "buy")]
    result = trade(prices, signals, rules=Risk(buffer=0.0, max_order=95))
    assert fills(result) == [("A", 1, "buy", 9, 10.0), ("A", 3, "buy", 9, 10.0)]
    assert outcomes(result)[1] == ("skipped", "no room: max_order is 95")


def test_max_position_caps_what_is_held_at_its_price_now():
    prices = {"A": [FLAT, FLAT, FLAT, (9, 9, 9, 9), (9, 9, 9, 9)]}
    signals = [("A", day, "buy") for day in (0, 2, 3)]
    result = trade(prices, signals, rules=Risk(buffer=0.0, max_position=300))
    # Thirty shares at 9.00 leave room for three.
    assert fills(result) == [("A", 1, "buy", 30, 10.0), ("A", 4, "buy", 3, 9.0)]
    assert outcomes(result)[1] == ("skipped", "no room: max_position is 300")


def test_max_positions_counts_the_buys_of_the_same_close():
    prices = {"A": [FLAT] * 5, "B": [FLAT] * 5}
    signals = [("A", 0, "buy"), ("B", 0, "buy"), ("A", 1, "sell"), ("B", 1, "buy"), ("B", 2, "buy")]
    result = trade(prices, signals, rules=Risk(buffer=0.0, max_order=100, max_positions=1))
    full = ("skipped", "1 positions, max_positions is 1")
    # A position that is being sold is held until it is sold.
    assert [outcomes(result)[number] for number in (1, 3)] == [full, full]
    assert fills(result)[-1] == ("B", 3, "buy", 10, 10.0)


def test_max_orders_per_day_counts_sells_and_stops_only_buys():
    prices = {symbol: [FLAT] * 5 for symbol in "ABC"}
    signals = [("A", 0, "buy"), ("B", 0, "buy"), ("A", 2, "sell"), ("C", 2, "buy"), ("C", 3, "buy")]
    rules = Risk(buffer=0.0, max_order=100, max_orders_per_day=1)
    result = trade(prices, signals, rules=rules)
    spent = ("skipped", "1 orders today, max_orders_per_day is 1")
    assert [outcomes(result)[number] for number in (1, 3)] == [spent, spent]
    assert [row[:3] for row in fills(result)] == [("A", 1, "buy"), ("A", 3, "sell"), ("C", 4, "buy")]
    two_sells = trade(
        {symbol: [FLAT] * 5 for symbol in "AB"},
        [("A", 0, "buy"), ("B", 1, "buy"), ("A", 2, "sell"), ("B", 2, "sell")],
        rules=rules,
    )
    assert [row[:3] for row in fills(two_sells)][2:] == [("A", 3, "sell"), ("B", 3, "sell")]


def test_max_daily_loss_stops_buys_for_the_session_and_never_sells():
    prices = {"A": FALL, "B": [FLAT] * 5}
    signals = [("A", 0, "buy"), ("A", 2, "sell"), ("B", 2, "buy"), ("B", 3, "buy")]
    result = trade(prices, signals, rules=Risk(**HALF, max_daily_loss=0.05))
    assert result.sessions["equity"].tolist()[:3] == [1000, 1000, 950]
    assert outcomes(result)[1:] == [
        ("filled", "at the open"),
        ("skipped", "loss today of 5.0%, max_daily_loss is 5.0%"),
        ("filled", "at the open"),
    ]
    looser = trade(prices, signals, rules=Risk(**HALF, max_daily_loss=0.0501))
    assert outcomes(looser)[2] == ("filled", "at the open")


def test_max_drawdown_stops_buys_until_equity_is_near_its_peak_again():
    prices = {"A": [FLAT, FLAT, (12, 12, 12, 12), FLAT, (11, 11, 11, 11)], "B": [FLAT] * 5}
    signals = [("A", 0, "buy"), ("B", 2, "buy"), ("B", 3, "buy"), ("B", 4, "buy")]
    rules = Risk(**HALF, max_order=500, max_drawdown=0.09)
    result = trade(prices, signals[:1] + signals[2:], rules=rules)
    assert result.sessions["equity"].tolist() == [1000, 1000, 1100, 1000, 1050]
    assert outcomes(result)[1:] == [
        ("skipped", "drawdown of 9.1%, max_drawdown is 9.0%"),
        ("open", "at the end"),
    ]
    assert outcomes(trade(prices, signals[:2], rules=rules))[1] == ("filled", "at the open")


# --------------------------------------------------------------------------------------------------- sells


def test_a_sell_takes_the_next_open_for_everything_held():
    result = trade({"A": [FLAT, FLAT, FLAT, (7, 9, 6, 8)]}, [("A", 0, "buy"), ("A", 2, "sell")])
    assert fills(result)[1] == ("A", 3, "sell", 100, 7.0)
    assert result.sessions["cash"].tolist() == [1000, 0, 0, 700, 700]
    assert result.positions.index.get_level_values("timestamp").tolist() == [DAYS[1], DAYS[2]]


def test_cash_of_a_sell_is_free_only_once_it_has_filled():
    prices = {"A": [FLAT] * 5, "B": [FLAT] * 5}
    result = trade(prices, [("A", 0, "buy"), ("A", 2, "sell"), ("B", 2, "buy"), ("B", 3, "buy")])
    assert fills(result) == [
        ("A", 1, "buy", 100, 10.0),
        ("A", 3, "sell", 100, 10.0),
        ("B", 4, "buy", 100, 10.0),
    ]
    assert outcomes(result)[2] == ("skipped", "no cash")


def test_sells_fill_before_buys_of_the_same_session():
    prices = {"A": [FLAT] * 5, "B": [(10, 10, 10, 10)] * 5}
    result = trade(prices, [("B", 0, "buy"), ("A", 2, "buy"), ("B", 2, "sell")], capital=1005.0)
    assert [row[:3] for row in fills(result)] == [("B", 1, "buy"), ("B", 3, "sell")]
    prices["A"] = [(2, 2, 2, 2)] * 5
    result = trade(prices, [("B", 0, "buy"), ("A", 2, "buy"), ("B", 2, "sell")], capital=1005.0)
    assert [row[:4] for row in fills(result)] == [
        ("B", 1, "buy", 100),
        ("B", 3, "sell", 100),
        ("A", 3, "buy", 2),
    ]


def test_a_sell_of_nothing_is_skipped_and_a_second_sell_adds_nothing():
    prices = {"A": [FLAT, FLAT, (10, 10, 10, 10, 0), (10, 10, 10, 10, 0), FLAT]}
    result = trade(prices, [("A", 0, "sell"), ("A", 0, "buy"), ("A", 1, "sell"), ("A", 2, "sell")])
    assert outcomes(result) == [
        ("filled", "at the open"),
        ("skipped", "nothing held"),
        ("filled", "at the open"),
        ("skipped", "already selling"),
    ]
    assert fills(result)[1] == ("A", 4, "sell", 100, 10.0)


def test_nothing_is_bought_of_a_symbol_whose_sale_still_waits():
    prices = {"A": [FLAT, FLAT, (10, 10, 10, 10, 0), FLAT, FLAT], "B": [FLAT] * 5}
    signals = [("A", 0, "buy"), ("A", 1, "sell"), ("A", 2, "buy"), ("B", 2, "buy"), ("A", 3, "buy")]
    result = trade(prices, signals, capital=1500.0, rules=Risk(max_order=500))
    assert outcomes(result) == [
        ("filled", "at the open"),
        ("filled", "at the open"),
        ("skipped", "a sell of it is open"),
        ("filled", "at the open"),
        ("filled", "at the open"),
    ]


@pytest.mark.parametrize("halted", [HALT, (12, 12, 12, 12, 0)], ids=["no bar", "no volume"])
def test_over_a_halt_a_sell_waits_and_a_buy_expires(halted):
    held = trade({"A": [FLAT, FLAT, halted, halted, (9, 9, 9, 9)]}, [("A", 0, "buy"), ("A", 1, "sell")])
    assert fills(held) == [("A", 1, "buy", 100, 10.0), ("A", 4, "sell", 100, 9.0)]
    missed = trade({"A": [FLAT, halted, (5, 5, 5, 5)]}, [("A", 0, "buy")])
    assert fills(missed) == []
    assert outcomes(missed) == [("expired", "no trading in the session")]


def test_an_order_of_the_last_session_stays_open():
    result = trade({"A": [FLAT] * 5}, [("A", 0, "buy"), ("A", 4, "sell")])
    assert outcomes(result) == [("filled", "at the open"), ("open", "at the end")]
    assert result.orders["status"].tolist() == ["filled", "open"]


# ----------------------------------------------------------------------------------------- corporate actions


def test_a_split_multiplies_shares_and_pays_odd_fractions_in_cash():
    prices = {"A": [(10, 10, 10, 10)] * 2 + [(4, 4, 4, 4)] * 3}
    result = trade(prices, [("A", 0, "buy")], actions=[("A", 2, "split", 2.5)], capital=75.0)
    assert result.positions["quantity"].tolist() == [7, 17, 17, 17]
    # Half a share at the average cost of 4.00.
    assert result.cash_in_lieu["amount"].tolist() == [2.0]
    assert result.sessions["cash"].tolist() == [75, 5, 7, 7, 7]


def test_a_buy_that_waits_over_a_split_is_scaled():
    prices = {"A": [(9.99, 9.99, 9.99, 9.99), (5, 5, 4, 5)]}
    result = trade(prices, [("A", 0, "buy")], actions=[("A", 1, "split", 2.0)])
    # The limit of 9.99 becomes 4.99, rounded down, and 100 shares become 200.
    assert fills(result) == [("A", 1, "buy", 200, 4.99)]
    assert result.sessions["cash"].iloc[-1] == 2


def test_a_sell_that_waits_over_a_split_sells_the_new_shares():
    prices = {"A": [FLAT, FLAT, HALT, (5, 5, 5, 5)]}
    signals, split = [("A", 0, "buy"), ("A", 1, "sell")], [("A", 2, "split", 2.0)]
    result = trade(prices, signals, actions=split)
    assert fills(result)[1] == ("A", 3, "sell", 200, 5.0)
    assert result.sessions["equity"].tolist() == [1000] * 5


def test_a_reverse_split_can_leave_no_share_to_trade():
    prices = {"A": [(400, 400, 400, 400), HALT, (4000, 4000, 4000, 4000)]}
    waiting = trade(prices, [("A", 0, "buy")], actions=[("A", 1, "split", 0.1)])
    assert outcomes(waiting) == [("expired", "no whole share left by a split")]
    assert fills(waiting) == []
    prices = {"A": [(400, 400, 400, 400)] * 2 + [(4000, 4000, 4000, 4000)] * 3}
    held = trade(prices, [("A", 0, "buy")], actions=[("A", 2, "split", 0.1)])
    assert held.cash_in_lieu["amount"].tolist() == [800.0]
    assert held.sessions["equity"].tolist() == [1000] * 5


def test_a_dividend_pays_on_the_ex_date_what_was_held_overnight():
    result = trade(
        {"A": [FLAT] * 5}, [("A", 0, "buy")], actions=[("A", 1, "dividend", 0.5), ("A", 2, "dividend", 0.25)]
    )
    assert result.dividends.to_numpy().tolist() == [[DAYS[2], "A", 25.0]]
    assert result.sessions["cash"].tolist() == [1000, 0, 25, 25, 25]


def test_a_dividend_on_the_day_of_a_split_is_paid_on_the_new_shares():
    prices = {"A": [FLAT] * 2 + [(5, 5, 5, 5)] * 3}
    result = trade(prices, [("A", 0, "buy")], actions=[("A", 2, "dividend", 0.1), ("A", 2, "split", 2.0)])
    assert result.dividends["amount"].tolist() == [20.0]
    assert result.positions["quantity"].tolist() == [100, 200, 200, 200]


def test_an_action_dated_on_a_weekend_takes_effect_on_the_next_session():
    prices = {"A": [FLAT] * 5}
    days = DAYS.insert(5, pd.Timestamp("2024-01-06"))
    result = trade(prices, [("A", 0, "buy")], actions=[("A", 5, "dividend", 0.1)], days=days, end=DAYS[-1])
    assert result.dividends["timestamp"].tolist() == [DAYS[4]]


def test_seven_old_shares_for_one_new_leave_whole_shares_whole():
    for old in (3, 7, 11, 49):
        prices = {"A": [(1, 1, 1, 1)] * 2 + [(old, old, old, old)] * 3}
        result = trade(
            prices, [("A", 0, "buy")], actions=[("A", 2, "split", 1 / old)], capital=float(49 * old)
        )
        assert result.positions["quantity"].iloc[-1] == 49
        assert result.cash_in_lieu.empty


# ------------------------------------------------------------------------------- listings, ends, the calendar


def test_a_symbol_may_list_late_and_end_early():
    prices = {"A": [FLAT, FLAT], "B": [HALT, HALT, FLAT, (12, 12, 12, 12), FLAT]}
    result = trade(prices, [("A", 0, "buy"), ("B", 2, "buy")], capital=1500.0, rules=Risk(buffer=0.5))
    assert fills(result) == [("A", 1, "buy", 100, 10.0), ("B", 3, "buy", 33, 12.0)]
    # A is carried at its last price and never sold.
    assert result.positions.xs("A", level="symbol")["price"].tolist() == [10.0] * 4


def test_a_sell_after_the_last_bar_waits_to_the_end():
    result = trade({"A": [FLAT, FLAT], "B": [FLAT] * 5}, [("A", 0, "buy"), ("A", 1, "sell")])
    assert outcomes(result)[1] == ("open", "at the end")


def test_a_position_whose_bars_end_keeps_its_value_over_a_split():
    result = trade({"A": [FLAT, FLAT], "B": [FLAT] * 5}, [("A", 0, "buy")], actions=[("A", 3, "split", 2.0)])
    assert result.positions["quantity"].tolist() == [100, 100, 200, 200]
    assert result.sessions["equity"].tolist() == [1000] * 5


def test_a_half_day_is_a_session_like_any_other():
    days = pd.to_datetime(["2023-11-22", "2023-11-24", "2023-11-27"])  # Thanksgiving, then an early close
    result = trade({"A": [FLAT, (9, 9, 9, 9), (8, 8, 8, 8)]}, [("A", 0, "buy"), ("A", 1, "sell")], days=days)
    assert result.fills["timestamp"].tolist() == [days[1], days[2]]
    assert result.fills["price"].tolist() == [9.0, 8.0]
    assert result.sessions.index.tolist() == list(days)


def test_other_exchanges_have_other_sessions():
    days = pd.to_datetime(["2024-08-22", "2024-08-23", "2024-08-27"])  # London closes on 26 August
    bars = frames({"VOD": [FLAT, FLAT, (9, 9, 9, 9)]}, days)
    signals = signals_frame([("VOD", 1, "buy")], days)
    span = {"start": days[0], "end": days[-1], "capital": 1000.0, "rules": Risk(buffer=0.0)}
    result = backtest(bars, actions_frame(), signals, calendar="XLON", **span)
    assert result.fills[["timestamp", "price"]].to_numpy().tolist() == [[days[2], 9.0]]


def test_a_session_may_close_before_its_date_has_begun_in_london():
    days = pd.to_datetime(
        ["2023-12-21", "2023-12-22", "2023-12-27"]
    )  # Auckland closes at noon before Christmas
    bars = frames({"FPH": [FLAT, (9, 9, 9, 9), FLAT]}, days)
    signals = signals_frame([("FPH", 0, "buy"), ("FPH", 1, "sell")], days)
    span = {"start": days[0], "end": days[-1], "capital": 1000.0, "rules": Risk(buffer=0.0)}
    result = backtest(bars, actions_frame(), signals, calendar="XNZE", **span)
    assert result.fills[["timestamp", "price"]].to_numpy().tolist() == [[days[1], 9.0], [days[2], 10.0]]
    assert result.orders["created"].tolist() == [days[0], days[1]]


def test_a_symbol_may_have_a_dot():
    prices = {"BRK.B": [FLAT] * 5, "BRKB": [(20, 20, 20, 20)] * 5}
    result = trade(prices, [("BRK.B", 0, "buy"), ("BRKB", 2, "buy")], capital=1010.0)
    assert fills(result) == [("BRK.B", 1, "buy", 101, 10.0)]


# ------------------------------------------------------------------------------------- ranges, results, errors


def test_signals_outside_the_range_are_left_out():
    bars, signals = frames({"A": [FLAT] * 5}), signals_frame([("A", 0, "buy"), ("A", 2, "buy")])
    result = backtest(
        bars, actions_frame(), signals, start=DAYS[1], end=DAYS[3], capital=1000.0, rules=Risk(buffer=0.0)
    )
    assert result.signals["timestamp"].tolist() == [DAYS[2]]
    assert (result.start, result.end, len(result.sessions)) == (DAYS[1], DAYS[3], 3)


def test_no_signals_leave_the_capital_and_empty_frames():
    result = trade({"A": [FLAT] * 5}, [])
    assert result.sessions["equity"].tolist() == [1000] * 5
    assert all(len(frame) == 0 for frame in (result.orders, result.fills, result.positions, result.signals))
    assert list(result.signals.columns) == [
        "symbol",
        "timestamp",
        "signal_type",
        "details",
        "decision",
        "reason",
    ]


def test_a_range_of_one_session_is_a_range():
    result = trade({"A": [FLAT] * 5}, [("A", 0, "buy")], end=DAYS[0])
    assert outcomes(result) == [("open", "at the end")]
    assert len(result.sessions) == 1


def test_ranges_start_anew_and_compare_side_by_side():
    bars = frames({"A": [FLAT, FLAT, (20, 20, 20, 20), (20, 20, 20, 20), (10, 10, 10, 10)]})
    signals = signals_frame([("A", 0, "buy"), ("A", 2, "buy")])
    ranges = [(DAYS[0], DAYS[2]), (DAYS[2], DAYS[4])]
    results = backtest_ranges(bars, actions_frame(), signals, ranges, capital=1000.0, rules=Risk(buffer=0.0))
    table = compare(results)
    assert table.index.tolist() == ["2024-01-02 to 2024-01-04", "2024-01-04 to 2024-01-08"]
    assert table["total return"].tolist() == [1.0, -0.5]
    assert table["max drawdown"].tolist() == [0.0, -0.5]
    assert table["fills"].tolist() == [1, 1]
    assert table["lowest cash"].tolist() == [0.0, 0.0]


def test_exposure_is_the_invested_part_of_equity():
    result = trade({"A": [FLAT] * 5}, [("A", 0, "buy")], capital=1005.0)
    assert result.sessions["exposure"].tolist() == [0.0] + [1000 / 1005] * 4


def test_the_cash_proof_notices_a_missing_cent():
    result = trade({"A": [FLAT] * 5}, [("A", 0, "buy")])
    assert cash_proof(result)["end cash"] == 0
    result.fills.loc[0, "price"] -= 0.0001
    with pytest.raises(RuntimeError, match=r"explain a cash of 0\.01, the account holds 0\.00"):
        cash_proof(result)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"start": "2024-01-08", "end": "2024-01-02"}, "ends on 2024-01-02, before its start on 2024-01-08"),
        ({"start": "2024-01-06", "end": "2024-01-07"}, "XNYS has no session from 2024-01-06 to 2024-01-07"),
        ({"start": "2023-01-03", "end": "2023-12-29"}, "no bars .* they run from 2024-01-02 to 2024-01-08"),
        ({"bars": frames({})}, "there are no bars .* fetch some first"),
        ({"signals": signals_frame([("Z", 0, "buy")])}, "Z has a signal, and no bars at all"),
        (
            {"signals": signals_frame([("A", 1, "buy")])},
            "A has a signal on 2024-01-03, but no bar on that day",
        ),
        ({"calendar": "XXXX"}, "no such exchange"),
        ({"calendar": "24/7"}, "24/7 closes at midnight"),
    ],
)
def test_mistakes_are_told_in_one_line(change, message):
    arguments = {
        "bars": frames({"A": [FLAT, HALT, FLAT, FLAT, FLAT]}),
        "actions": actions_frame(),
        "signals": signals_frame([]),
        "start": DAYS[0],
        "end": DAYS[-1],
        "capital": 1000.0,
        "rules": Risk(buffer=0.0),
    }
    with pytest.raises(UserError, match=message) as caught:
        backtest(**(arguments | change))
    assert "\n" not in str(caught.value)


def test_a_bar_on_a_day_without_a_session_is_refused():
    days = pd.to_datetime(["2024-01-05", "2024-01-06", "2024-01-08"])
    with pytest.raises(UserError, match="A has a bar at 2024-01-06 00:00, which is no session of XNYS"):
        trade({"A": [FLAT] * 3}, [], days=days)


# ------------------------------------------------------------------------------------ the independent ledger


def assert_same(result: Result, bars, actions, signals, buffer):
    book = replay(bars, actions, signals, result.sessions.index, result.capital, buffer)
    orders = result.orders.replace({"limit": {np.nan: None}})
    assert list(orders.drop(columns="id").itertuples(index=False, name=None)) == [
        (order.symbol, order.created, order.side, order.quantity, order.limit, order.status)
        for order in book.orders
    ]
    assert (
        list(result.fills.drop(columns=["order_id", "commission"]).itertuples(index=False, name=None))
        == book.fills
    )
    assert result.positions["quantity"].to_dict() == book.positions
    for day, (cash, equity) in zip(result.sessions.itertuples(), book.sessions, strict=True):
        assert day.cash == pytest.approx(float(cash), abs=0.005)
        assert day.equity == pytest.approx(float(equity), abs=0.005)
    assert outcomes(result) == book.decisions
    assert result.lowest_cash >= 0


def crossings(bars, actions):
    closes = adjust(bars, actions)["close"].unstack("symbol")
    above = (closes.rolling(5).mean() - closes.rolling(20).mean()).stack() > 0
    turned = above.astype(int).groupby("symbol").diff().abs() == 1
    edges = (
        above[turned].rename("above").reset_index().sort_values(["timestamp", "symbol"], ignore_index=True)
    )
    return edges.assign(signal_type=edges["above"].map({True: "buy", False: "sell"}), details=None).drop(
        columns="above"
    )


@pytest.mark.parametrize("buffer", [0.0, 0.005])
def test_thirteen_years_of_real_stocks_equal_the_plain_ledger(sample, buffer):
    bars, actions = sample
    signals = crossings(bars, actions)
    span = {"start": pd.Timestamp("2000-03-01"), "end": pd.Timestamp("2013-03-01")}
    result = backtest(bars, actions, signals, capital=100_000.0, rules=Risk(buffer=buffer), **span)
    assert len(result.fills) > 400
    assert_same(result, bars, actions, signals, buffer)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(markets(), st.sampled_from([0.0, 0.005, 0.3]), st.integers(10, 3000))
def test_any_market_equals_the_plain_ledger_and_never_overspends(made, buffer, capital):
    bars, actions, signals, days = made
    span = {"start": days[0], "end": days[-1]}
    result = backtest(bars, actions, signals, capital=float(capital), rules=Risk(buffer=buffer), **span)
    assert_same(result, bars, actions, signals, buffer)


def test_stock_zipline_overspends_where_the_backtest_does_not(sample):
    from zipline import api

    from tradebot.universe import universe
    from tradebot.zipline_data import market
    from tradebot.zipline_engine import Record, SimulationBlotter, data_portal, run

    bars, actions = sample
    signals, (start, end) = crossings(bars, actions), (pd.Timestamp("2005-01-03"), pd.Timestamp("2006-12-29"))
    days = {day: list(rows.itertuples()) for day, rows in signals.groupby("timestamp")}

    def buy_at_todays_close(context, data):
        free = context.portfolio.cash
        for signal in days.get(data.current_session, ()):
            asset, close = api.symbol(signal.symbol), data.current(api.symbol(signal.symbol), "close")
            shares = int(max(free, 0) // close) if signal.signal_type == "buy" else 0
            free -= shares * close
            if shares:
                api.order(asset, shares)
            elif signal.signal_type == "sell":
                api.order_target(asset, 0)

    stock = Record()
    with data_portal(market(universe(bars, actions, start=start, end=end))) as portal:
        run(portal, start, end, 1e5, SimulationBlotter(), stock, lambda context: None, buy_at_todays_close)
    ours = backtest(bars, actions, signals, start=start, end=end, capital=1e5, rules=Risk(buffer=0.0))
    assert min(cash for _, _, cash in stock.sessions) < 0 <= ours.lowest_cash


# -------------------------------------------------------------------------------------------------- processes


def test_importing_the_backtest_does_not_import_zipline():
    code = "import sys, tradebot.backtest, tradebot.zipline_data; assert not {'zipline', 'empyrical'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_backtest_writes_nothing_to_the_home_folder(tmp_path):
    code = (
        "import sys; sys.path.insert(0, 'tests'); from test_backtest import FLAT, trade;"
        "assert len(trade({'A': [FLAT] * 5}, [('A', 0, 'buy')]).fills) == 1"
    )
    environment = {key: value for key, value in os.environ.items() if key != "ZIPLINE_ROOT"} | {
        "HOME": str(tmp_path)
    }
    subprocess.run([sys.executable, "-c", code], check=True, env=environment, cwd=Path(__file__).parents[1])
    assert list(tmp_path.rglob("*")) == []


# ---------------------------------------------------------------------------------------------------- zipline


@pytest.mark.parametrize(
    ("start", "end"),
    [("2005-02-22", "2005-03-04"), ("2012-08-01", "2012-08-14")],
    ids=["a split on 28 February 2005", "a dividend on 9 August 2012"],
)
def test_history_in_zipline_is_adjusted_as_the_indicators_see_it(sample, start, end):
    from zipline import api

    from tradebot.universe import universe
    from tradebot.zipline_data import market
    from tradebot.zipline_engine import LimitBlotter, Record, data_portal, run

    bars, actions = sample
    start, end, seen = pd.Timestamp(start), pd.Timestamp(end), {}

    def look_back(context, data):
        seen[data.current_session] = data.history(api.symbol("AAPL"), "close", 20, "1d")

    with data_portal(market(universe(bars, actions, start=start, end=end))) as portal:
        run(portal, start, end, 1e5, LimitBlotter(), Record(), lambda context: None, look_back)
    for day, history in seen.items():
        known = adjust(
            bars.loc[(slice("AAPL", "AAPL"), slice(None, day)), :], actions[actions["timestamp"] <= day]
        )
        assert history.to_numpy() == pytest.approx(known["close"].to_numpy()[-20:], abs=0.0005)
        assert history.index[-1] == day
