"""How many shares and whether at all: each rule at its exact boundary, then what holds for every account and rule."""

import math
from dataclasses import replace
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from pydantic import ValidationError

from tradebot.config import Risk
from tradebot.risk import (
    Portfolio,
    blocked,
    limit_price,
    scale_order,
    shares_to_buy,
    size_buy,
    tick,
    with_buy,
    with_sell,
)

D = Decimal


def account(free="1000", equity=None, invested=(), *, day=None, peak=None, orders=0, symbols=5) -> Portfolio:
    equity = D(free if equity is None else equity)
    return Portfolio(
        free=D(free),
        equity=equity,
        day_equity=equity if day is None else D(day),
        peak_equity=equity if peak is None else D(peak),
        invested={symbol: D(value) for symbol, value in dict(invested).items()},
        orders_today=orders,
        symbols=symbols,
    )


def size(portfolio, price="10", symbol="A", **rules):
    return size_buy(symbol, D(price), portfolio, Risk(**rules))


# --------------------------------------------------------------------------------------------------- prices


@pytest.mark.parametrize(
    ("close", "buffer", "limit"),
    [
        ("10.00", "0", "10.00"),
        ("10.00", "0.005", "10.05"),
        ("10.01", "0.005", "10.07"),  # 10.06005
        ("0.5", "0.005", "0.5025"),
        ("0.9999", "0", "0.9999"),
        ("0.9999", "0.0001", "1.00"),  # 0.99999999 to a millionth
        ("0.9999", "0.005", "1.01"),  # past one dollar the step is a cent
        ("0.0001", "0.005", "0.0001"),  # to a millionth, the price is unchanged
        ("0.0001", "0.01", "0.0002"),
        ("0.0001", "0", "0.0001"),
    ],
)
def test_a_limit_is_rounded_up_to_the_tick(close, buffer, limit):
    assert limit_price(D(close), D(buffer)) == D(limit)
    assert limit_price(float(close), float(buffer)) == D(limit)


def test_the_tick_changes_at_one_dollar():
    assert (tick(D("0.9999")), tick(D(1)), tick(1.0)) == (D("0.0001"), D("0.01"), D("0.01"))


# --------------------------------------------------------------------------------------------------- sizing


@pytest.mark.parametrize(
    ("free", "price", "shares"),
    [
        ("30", "10", 3),
        ("29.999999", "10", 2),
        ("9.99", "10", 0),
        ("0", "10", 0),
        ("-5", "10", 0),
        ("0.3", "0.1", 3),
        ("1000000000", "0.0001", 10_000_000_000_000),
        ("999999999.999999", "0.0003", 3_333_333_333_333),
        ("1000000000", "0.9999", 1_000_100_010),
    ],
)
def test_all_cash_buys_what_the_free_cash_pays_for_to_the_last_cent(free, price, shares):
    assert shares_to_buy(D(free), D(price)) == shares
    decision = size(account(free, "1000000000"), price)
    assert decision == (shares, "" if shares else "no cash")


@pytest.mark.parametrize(
    ("price", "free", "shares", "reason"),
    [
        ("25", "1000", 4, ""),
        ("25.01", "1000", 3, ""),
        ("100", "1000", 1, ""),
        ("100.01", "1000", 0, "no room: fraction 0.1 of equity"),
        ("25", "50", 2, ""),  # cash is the tighter of the two
        ("25", "24.99", 0, "no cash"),
    ],
)
def test_a_fraction_is_of_equity_and_never_more_than_is_free(price, free, shares, reason):
    assert size(account(free, "1000"), price, sizing="fraction", fraction=0.1) == (shares, reason)


@pytest.mark.parametrize(
    ("held", "shares", "reason"),
    [
        ("0", 20, ""),
        ("150", 5, ""),
        ("190", 1, ""),
        ("190.01", 0, "no room: its weight is reached"),
        ("200", 0, "no room: its weight is reached"),
        ("260", 0, "no room: its weight is reached"),
    ],
)
def test_equal_weight_fills_a_symbol_up_to_its_part_of_equity(held, shares, reason):
    assert size(account("800", "1000", {"A": held}), sizing="equal_weight") == (shares, reason)


def test_equal_weight_looks_at_what_is_held_of_this_symbol_alone():
    assert size(account("800", "1000", {"B": "200"}), sizing="equal_weight").shares == 20


@pytest.mark.parametrize(
    ("sizing", "fraction"), [("fraction", None), ("all_cash", 0.1), ("equal_weight", 0.1)]
)
def test_a_fraction_and_the_sizing_of_that_name_belong_together(sizing, fraction):
    with pytest.raises(ValidationError, match="belong together"):
        Risk(sizing=sizing, fraction=fraction)


# --------------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("price", "shares", "reason"),
    [("300", 1, ""), ("300.01", 0, "no room: max_order is 300"), ("150", 2, ""), ("150.01", 1, "")],
)
def test_max_order_is_the_dollars_of_one_order(price, shares, reason):
    assert size(account(), price, max_order=300) == (shares, reason)


@pytest.mark.parametrize(
    ("held", "shares", "reason"),
    [
        ("0", 30, ""),
        ("290", 1, ""),
        ("290.01", 0, "no room: max_position is 300"),
        ("300", 0, "no room: max_position is 300"),
        ("400", 0, "no room: max_position is 300"),
    ],
)
def test_max_position_counts_what_is_held_already(held, shares, reason):
    assert size(account("1000", "1500", {"A": held}), max_position=300) == (shares, reason)


def test_max_positions_stops_a_new_symbol_and_lets_a_held_one_grow():
    two = account("1000", "1500", {"A": "100", "B": "100"})
    assert size(two, symbol="C", max_positions=3).shares == 100
    assert size(two, symbol="C", max_positions=2) == (0, "2 positions, max_positions is 2")
    assert size(two, symbol="B", max_positions=2).shares == 100


def test_max_orders_per_day_counts_buys_and_sells():
    assert size(account(orders=1), max_orders_per_day=2).shares == 100
    assert size(account(orders=2), max_orders_per_day=2) == (0, "2 orders today, max_orders_per_day is 2")
    busy = with_sell(with_buy(account(), "A", 1, D(10)))
    assert blocked(busy, Risk(max_orders_per_day=2)) == "2 orders today, max_orders_per_day is 2"
    assert blocked(busy, Risk(max_orders_per_day=3)) == ""


@pytest.mark.parametrize(
    ("equity", "stopped"), [("970.01", False), ("970", True), ("900", True), ("1100", False)]
)
def test_max_daily_loss_stops_at_its_very_fraction(equity, stopped):
    decision = size(account("500", equity, day="1000"), max_daily_loss=0.03)
    loss = 1 - D(equity) / 1000
    assert decision == ((0, f"loss today of {loss:.1%}, max_daily_loss is 3.0%") if stopped else (50, ""))


@pytest.mark.parametrize(("equity", "stopped"), [("1600.01", False), ("1600", True), ("1000", True)])
def test_max_drawdown_is_measured_from_the_peak(equity, stopped):
    decision = size(account("500", equity, day=equity, peak="2000"), max_drawdown=0.2)
    depth = 1 - D(equity) / 2000
    assert decision == ((0, f"drawdown of {depth:.1%}, max_drawdown is 20.0%") if stopped else (50, ""))


def test_an_account_that_never_had_a_dollar_has_no_loss():
    assert blocked(account("0"), Risk(max_daily_loss=0.01, max_drawdown=0.01)) == ""


def test_the_tightest_rule_decides_and_is_named():
    rules = {"sizing": "fraction", "fraction": 0.5, "max_order": 400, "max_position": 300}
    portfolio = account("1000", "1000", {"A": "250"})
    assert size(portfolio, "50", **rules) == (1, "")
    assert size(portfolio, "51", **rules) == (0, "no room: max_position is 300")
    assert size(portfolio, "401", **(rules | {"max_position": 5000})) == (0, "no room: max_order is 400")


# ----------------------------------------------------------------------------------- what holds for every account

cash = st.decimals(0, 10**9, places=2)
prices = st.one_of(
    st.integers(1, 9999).map(lambda n: n * D("0.0001")), st.integers(100, 10**7).map(lambda n: n * D("0.01"))
)
dollars_of_a_limit = st.none() | st.integers(1, 10**9).map(float)
fractions = st.none() | st.integers(1, 99).map(lambda n: n / 100)
counts = st.none() | st.integers(1, 5)


@st.composite
def rule_sets(draw):
    sizing = draw(st.sampled_from(["all_cash", "fraction", "equal_weight"]))
    return Risk(
        sizing=sizing,
        fraction=draw(st.integers(1, 100)) / 100 if sizing == "fraction" else None,
        max_order=draw(dollars_of_a_limit),
        max_position=draw(dollars_of_a_limit),
        max_positions=draw(counts),
        max_orders_per_day=draw(counts),
        max_daily_loss=draw(fractions),
        max_drawdown=draw(fractions),
    )


@st.composite
def accounts(draw):
    invested = draw(st.dictionaries(st.sampled_from("ABCDE"), st.decimals("0.01", 10**8, places=2)))
    free = draw(cash)
    return Portfolio(
        free=free,
        equity=free + sum(invested.values()),
        day_equity=draw(cash),
        peak_equity=draw(cash),
        invested=invested,
        orders_today=draw(st.integers(0, 6)),
        symbols=5,
    )


@given(accounts(), prices, rule_sets())
def test_no_buy_costs_more_than_is_free_or_breaks_a_limit(portfolio, price, rules):
    shares, reason = size_buy("A", price, portfolio, rules)
    cost, held = shares * price, portfolio.invested.get("A", D(0))
    assert shares >= 0
    assert bool(shares) != bool(reason)
    assert cost <= portfolio.free
    if not shares:
        return
    assert rules.fraction is None or cost <= D(str(rules.fraction)) * portfolio.equity
    assert rules.sizing != "equal_weight" or (held + cost) * portfolio.symbols <= portfolio.equity
    assert rules.max_order is None or cost <= D(rules.max_order)
    assert rules.max_position is None or held + cost <= D(rules.max_position)
    after = with_buy(portfolio, "A", shares, price)
    assert rules.max_positions is None or held or len(after.invested) <= rules.max_positions
    assert rules.max_orders_per_day is None or after.orders_today <= rules.max_orders_per_day
    assert after.free == portfolio.free - cost
    assert after.invested["A"] == held + cost


@given(accounts(), prices, rule_sets(), st.decimals(0, 10**6, places=2))
def test_more_free_cash_never_buys_less(portfolio, price, rules, more):
    richer = replace(portfolio, free=portfolio.free + more)
    assert size_buy("A", price, richer, rules).shares >= size_buy("A", price, portfolio, rules).shares


@given(accounts(), prices)
def test_without_rules_a_buy_takes_all_the_cash(portfolio, price):
    shares = size_buy("A", price, portfolio, Risk()).shares
    assert shares == math.floor(Fraction(portfolio.free) / Fraction(price))


@given(prices, st.integers(0, 9999).map(lambda n: n * D("0.0001")))
def test_a_limit_is_the_first_tick_that_is_not_below_the_price_with_its_buffer(price, buffer):
    limit = limit_price(price, buffer)
    exact = price * (1 + buffer)
    assert limit % tick(exact) == 0
    # A price is known to a millionth of a dollar.
    assert limit >= exact - D("0.0000005")
    assert limit - tick(exact) < exact + D("0.0000005")


ratios = st.tuples(st.integers(1, 50), st.integers(1, 50)).map(lambda two: Fraction(*two))


@given(st.integers(1, 10**6), prices, ratios)
def test_a_split_never_raises_what_an_order_has_reserved(shares, limit, ratio):
    assume(limit <= 10**4)
    scaled, lower = scale_order(shares, limit, float(ratio))
    assert scaled == math.floor(shares * ratio)
    assert scaled * lower <= shares * limit
    assert scale_order(shares, None, float(ratio)) == (scaled, None)
