"""The exchange inside the paper broker: what holds whatever is sent to it, and the backtest's ledger on real bars."""

from collections import Counter
from copy import deepcopy
from datetime import timedelta
from decimal import Decimal

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from plain_ledger import replay

from tradebot.exchange import OPEN, Exchange, Market, Refusal, Settings
from tradebot.prices import actions_frame, adjust, bars_frame
from tradebot.sessions import sessions_between

DAYS = sessions_between(pd.Timestamp("2024-06-28"), pd.Timestamp("2024-07-10"))
EVENING = (DAYS[0] + pd.Timedelta(hours=20, seconds=1)).to_pydatetime()
cents = st.integers(50, 3000).map(lambda number: number / 100)


@st.composite
def markets(draw) -> Market:
    """Bars of three symbols over eight sessions: gaps, days without a bar or without volume, splits, dividends."""
    rows = []
    for symbol in "ABC":
        for day in DAYS:
            state = draw(st.sampled_from(["traded"] * 6 + ["missing", "no volume"]))
            if state != "missing" or day == DAYS[0]:
                low, one, two, high = sorted(draw(st.tuples(cents, cents, cents, cents)))
                rows.append((symbol, day, one, high, low, two, 1000.0 * (state == "traded")))
    names = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
    found = draw(
        st.dictionaries(
            st.tuples(st.sampled_from("ABC"), st.integers(1, 7)),
            st.one_of(
                st.tuples(st.just("split"), st.sampled_from([2.0, 3.0, 1.5, 0.5, 0.1])),
                st.tuples(st.just("dividend"), st.integers(1, 99).map(lambda number: number / 100)),
            ),
            max_size=4,
        )
    )
    actions = actions_frame([(symbol, DAYS[day], *action) for (symbol, day), action in found.items()])
    return Market(bars_frame(pd.DataFrame(rows, columns=names)), actions)


orders = st.tuples(
    st.just("order"),
    st.sampled_from("ABC"),
    st.sampled_from(["buy", "sell"]),
    st.integers(1, 60),
    st.one_of(st.none(), st.integers(50, 3000)),
    st.sampled_from(["day", "gtc"]),
    st.integers(0, 12),
)
events = st.lists(
    st.one_of(
        orders,
        orders,
        st.tuples(st.just("hours"), st.integers(1, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("halt"), st.sampled_from("ABC"), st.booleans()),
    ),
    min_size=5,
    max_size=40,
)


def happen(exchange: Exchange, event: tuple) -> None:
    match event:
        case ("order", symbol, side, quantity, limit, good, number):
            # A buy for the market may cost more than there is: that is what limits are for.
            price = limit if limit is not None or side == "sell" else 3000
            limit = None if price is None else Decimal(price) / 100
            exchange.submit(symbol, side, Decimal(quantity), limit, good, f"client-{number}")
        case ("hours", hours):
            exchange.advance(exchange.now + timedelta(hours=hours))
        case ("cancel", number):
            waiting = list(exchange.orders.values())
            if waiting:
                exchange.end(waiting[number % len(waiting)], "canceled")
        case ("halt", symbol, on):
            (exchange.halted.add if on else exchange.halted.discard)(symbol)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(markets(), events, st.sampled_from([0.0, 0.5, 1.0]), st.integers(10, 5000))
def test_whatever_is_sent_cash_and_shares_stay_above_zero_and_add_up(market, sent, partial, capital) -> None:
    exchange = Exchange(market, EVENING, Decimal(capital), Settings(Decimal(1), True, partial=partial))
    over, ids = {}, Counter()
    for event in sent:
        known = set(exchange.by_client)
        try:
            happen(exchange, event)
        except Refusal:
            pass
        else:
            if event[0] == "order":
                assert f"client-{event[6]}" not in known, "a client's id was taken twice"
                ids[f"client-{event[6]}"] += 1
        assert exchange.cash >= 0
        assert all(held.quantity > 0 for held in exchange.positions.values())
        for order in exchange.orders.values():
            assert 0 <= order.filled <= order.quantity
            assert over.get(order.id, order.status) == order.status, "an order that was over goes on"
            if order.status not in OPEN:
                over[order.id] = order.status
    assert exchange.cash == Decimal(capital) + statement(exchange)
    assert max(ids.values(), default=1) == 1


def statement(exchange: Exchange) -> Decimal:
    """What the lines of the statement add up to."""
    total = Decimal(0)
    for line in exchange.activities:
        if line["activity_type"] == "FILL":
            sign = -1 if line["side"] == "buy" else 1
            total += sign * Decimal(line["qty"]) * Decimal(line["price"])
        else:
            total += Decimal(line["net_amount"])
    return total


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(markets(), events, st.integers(0, 39))
def test_kept_and_taken_up_again_it_is_the_same(market, sent, moment) -> None:
    one = Exchange(market, EVENING, Decimal(2000), Settings(Decimal(1), True))
    other = Exchange(market, EVENING, Decimal(1))
    for number, event in enumerate(sent):
        for exchange in (one, other) if number > moment else (one,):
            try:
                happen(exchange, event)
            except Refusal:
                continue
        if number == moment:
            other.restore(*deepcopy((one.snapshot(), list(one.orders.values()), one.activities)))
    if len(sent) > moment:
        assert other.snapshot() == one.snapshot()
        shown = [
            [(o.client_order_id, o.status, o.filled, o.paid) for o in exchange.orders.values()]
            for exchange in (one, other)
        ]
        assert shown[0] == shown[1]


def crossings(bars: pd.DataFrame, actions: pd.DataFrame) -> pd.DataFrame:
    closes = adjust(bars, actions)["close"].unstack("symbol")
    above = (closes.rolling(5).mean() - closes.rolling(20).mean()).stack() > 0
    turned = above[above.astype(int).groupby("symbol").diff().abs() == 1]
    edges = turned.rename("above").reset_index().sort_values(["timestamp", "symbol"], ignore_index=True)
    return edges.assign(signal_type=edges["above"].map({True: "buy", False: "sell"}))


@pytest.mark.parametrize("buffer", [0.0, 0.005])
def test_years_of_real_bars_give_the_ledger_s_cash_and_shares_every_day(sample, buffer) -> None:
    "Around Apple's split, with dividends; the orders are the ledger's, decided after each close."
    bars, actions = sample
    days = sessions_between(pd.Timestamp("2004-02-02"), pd.Timestamp("2006-12-29"))
    signals = crossings(bars, actions)
    when = bars.index.get_level_values("timestamp")
    bars = bars[(when >= days[0]) & (when <= days[-1])]
    book = replay(bars, actions, signals, days, 100_000, buffer)
    evening = (days[0] + pd.Timedelta(hours=21, seconds=1)).to_pydatetime()
    exchange = Exchange(Market(bars, actions), evening, Decimal(100_000), Settings(Decimal(1), True))
    decided: dict[pd.Timestamp, list] = {}
    for order in book.orders:
        decided.setdefault(order.created, []).append(order)
    for day, (cash, _) in zip(days, book.sessions, strict=True):
        if day > days[0]:
            exchange.advance(exchange.close_time() + timedelta(seconds=1))
        assert exchange.now.date() == day.date()
        assert float(exchange.cash) == pytest.approx(float(cash), abs=0.005)
        held = {symbol: shares for (at, symbol), shares in book.positions.items() if at == day}
        assert {symbol: int(one.quantity) for symbol, one in exchange.positions.items()} == held
        for number, order in enumerate(decided.get(day, ())):
            quantity, limit = order.sent
            limit = None if limit is None else Decimal(str(limit))
            good = "day" if order.side == "buy" else "gtc"
            exchange.submit(order.symbol, order.side, Decimal(quantity), limit, good, f"{day:%F}-{number}")
    assert len([line for line in exchange.activities if line["activity_type"] == "FILL"]) > 80
