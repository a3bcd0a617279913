"""From waiting signals to orders: what is free, in which order signals are decided, and why one is not acted on."""

from datetime import datetime, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tradebot.broker import Account, Quote
from tradebot.config import Execution, Risk
from tradebot.decisions import Books, Facts, Pending, decide, equity, free_cash, portfolio

D = Decimal
BAR = datetime(2024, 1, 2)
NOW = datetime(2024, 1, 3, 15)
UNTIL = datetime(2024, 1, 3, 21)


def dollars(amounts):
    return {symbol: D(amount) for symbol, amount in (amounts or {}).items()}


def our_books(
    cash="1000",
    *,
    reserved="0",
    unacknowledged="0",
    positions=None,
    buys=None,
    sells=None,
    orders=0,
    doubtful=None,
):
    return Books(
        cash=D(cash),
        reserved=D(reserved),
        unacknowledged=D(unacknowledged),
        positions=dollars(positions),
        open_buys=dollars(buys),
        open_sells=dollars(sells),
        orders_today=orders,
        day_equity=D(cash),
        peak_equity=D(cash),
        doubtful=dollars(doubtful),
    )


def told(cash="1000", *, buying_power=None, multiplier="1", foreign="0", values=None, quotes=None, killed=""):
    power = D(cash if buying_power is None else buying_power)
    account = Account("id", "number", D(cash), D(cash), D(cash), power, D(multiplier), "")
    return Facts(NOW, account, dollars(values), D(foreign), quotes or {}, killed)


def pending(side, symbol="A", price="10", *, bar=BAR, until=UNTIL, number=1):
    return Pending(number, "crossover", symbol, bar, side, D(price), until)


def choose(*signals, books=None, facts=None, rules=None, **settings):
    return decide(
        signals, books or our_books(), facts or told(), rules or Risk(buffer=0), Execution(**settings), 5
    )


def verdicts(choices):
    return [(one.signal.side, one.signal.symbol, one.state, one.reason) for one in choices]


# ------------------------------------------------------------------------------------------------ what is free


@pytest.mark.parametrize(
    ("books", "facts", "free"),
    [
        (our_books("1000"), told("1000"), "1000"),
        (our_books("900"), told("1000"), "900"),
        (our_books("1000"), told("900"), "900"),
        (our_books("1000", reserved="300"), told("1000", buying_power="700"), "700"),
        (our_books("1000"), told("1000", buying_power="4000", multiplier="4"), "1000"),
        (our_books("4000"), told("4000", buying_power="4000", multiplier="4"), "1000"),
        (our_books("1000"), told("1000", buying_power="250"), "250"),
        (our_books("1000"), told("1000", buying_power="500", multiplier="0"), "500"),
        (our_books("1000"), told("0", buying_power="4000", multiplier="4"), "0"),
        (our_books("1000"), told("-200", buying_power="4000", multiplier="4"), "0"),
        (our_books("-5"), told("1000"), "0"),
        (our_books("1000"), told("1000", foreign="400"), "600"),
        (our_books("1000"), told("1000", foreign="1400"), "0"),
        # Not yet in the broker's buying power, and so taken from it once more.
        (our_books("1000", reserved="300", unacknowledged="300"), told("1000"), "700"),
        (our_books("1000", reserved="300", unacknowledged="300"), told("1000", buying_power="800"), "500"),
    ],
)
def test_free_is_the_least_that_anyone_says(books, facts, free):
    assert free_cash(books, facts, D(0)) == D(free)


def test_the_pad_is_never_free():
    assert free_cash(our_books(), told(), D("0.01")) == D("999.99")
    assert free_cash(our_books("5"), told(), D(10)) == 0
    (choice,) = choose(pending("buy"), pad=0.01)
    assert choice.shares == 99


def test_the_account_counts_positions_and_what_open_buys_have_reserved():
    books = our_books(
        "500", reserved="100", positions={"A": "3", "C": "1"}, buys={"A": "40", "B": "60"}, orders=2
    )
    facts = told("500", values={"A": "30", "C": "7", "Z": "1000"})
    assert equity(books, facts) == 537
    room = portfolio(books, facts, D(0), 5)
    assert room.invested == {"A": 70, "B": 60, "C": 7}
    assert (room.free, room.equity, room.orders_today, room.symbols) == (400, 537, 2, 5)


# --------------------------------------------------------------------------------------------------- the order


def test_sells_come_first_then_buys_by_symbol():
    books = our_books(positions={"S": "2", "T": "1"})
    signals = [pending("buy", "B"), pending("sell", "T"), pending("buy", "A"), pending("sell", "S")]
    choices = choose(*signals, books=books)
    assert [(one.signal.side, one.signal.symbol, one.shares) for one in choices] == [
        ("sell", "S", 2),
        ("sell", "T", 1),
        ("buy", "A", 100),
        ("buy", "B", 0),
    ]
    assert choices[3].reason == "no cash"


def test_what_a_sell_will_bring_is_not_spent():
    books = our_books("5", positions={"S": "100"})
    choices = choose(pending("buy", "A"), pending("sell", "S"), books=books, facts=told(values={"S": "1000"}))
    assert [one.reason for one in choices] == ["sell all", "no cash"]


def test_an_older_bar_is_decided_before_a_newer_one():
    newer = pending("buy", "A", bar=BAR + timedelta(days=1))
    assert [one.signal.symbol for one in choose(newer, pending("buy", "B"))] == ["B", "A"]


def test_orders_of_one_batch_count_towards_the_day():
    rules = Risk(buffer=0, max_order=100, max_orders_per_day=2)
    books = our_books(positions={"S": "2"})
    choices = choose(pending("buy", "A"), pending("buy", "B"), pending("sell", "S"), books=books, rules=rules)
    assert [one.state for one in choices] == ["CLAIMED", "CLAIMED", "SKIPPED"]
    assert choices[2].reason == "2 orders today, max_orders_per_day is 2"


# ------------------------------------------------------------------------------------------------------- buys


def test_a_buy_reserves_its_limit_and_a_market_order_what_it_may_cost_at_most():
    (limited,) = choose(pending("buy"), rules=Risk(buffer=0.005))
    assert (limited.shares, limited.limit, limited.reserve) == (99, D("10.05"), D("994.95"))
    (market,) = choose(pending("buy"), rules=Risk(buffer=0.005), order="market", market_buffer=0.05)
    assert (market.shares, market.limit, market.reserve) == (95, None, D("997.50"))


def test_a_buy_may_be_measured_from_the_ask():
    quotes = {"A": Quote(D("20"), NOW - timedelta(seconds=15))}
    (choice,) = choose(pending("buy"), facts=told(quotes=quotes), reference="ask")
    assert (choice.shares, choice.limit) == (50, D("20.00"))


@pytest.mark.parametrize(
    ("quotes", "reason"),
    [
        ({}, "no quote"),
        ({"B": Quote(D("20"), NOW)}, "no quote"),
        ({"A": Quote(D("20"), NOW - timedelta(seconds=16))}, "the quote is 16 s old, max_quote_age is 15 s"),
    ],
)
def test_without_a_fresh_quote_nothing_is_bought_at_the_ask(quotes, reason):
    choices = choose(pending("buy"), facts=told(quotes=quotes), reference="ask")
    assert verdicts(choices) == [("buy", "A", "SKIPPED", reason)]


def test_a_sell_needs_no_quote():
    choices = choose(pending("sell"), books=our_books(positions={"A": "3"}), reference="ask")
    assert verdicts(choices) == [("sell", "A", "CLAIMED", "sell all")]


def test_a_signal_without_a_price_buys_nothing():
    assert verdicts(choose(pending("buy", price="0"))) == [("buy", "A", "SKIPPED", "the signal has no price")]


def test_a_symbol_that_is_being_sold_is_not_bought():
    books = our_books(positions={"A": "3"}, sells={"A": "3"})
    assert verdicts(choose(pending("buy"), books=books)) == [("buy", "A", "SKIPPED", "a sell of it is open")]


def test_the_reason_of_a_limit_is_the_signals_reason():
    choices = choose(pending("buy"), books=our_books(orders=3), rules=Risk(max_orders_per_day=3))
    assert verdicts(choices) == [("buy", "A", "SKIPPED", "3 orders today, max_orders_per_day is 3")]


# ------------------------------------------------------------------------------------------------------ sells


@pytest.mark.parametrize(
    ("positions", "sells", "shares", "reason"),
    [
        ({}, {}, 0, "nothing held"),
        ({"A": "0.5"}, {}, 0, "nothing held"),
        ({"A": "3"}, {}, 3, "sell all"),
        ({"A": "3.7"}, {}, 3, "sell all"),
        ({"A": "3"}, {"A": "2"}, 1, "sell all"),
        ({"A": "3"}, {"A": "3"}, 0, "already selling"),
    ],
)
def test_a_sell_takes_every_whole_share_that_is_not_being_sold(positions, sells, shares, reason):
    (choice,) = choose(pending("sell"), books=our_books(positions=positions, sells=sells))
    assert (choice.shares, choice.limit, choice.reserve, choice.reason) == (shares, None, shares, reason)
    assert choice.state == ("CLAIMED" if shares else "SKIPPED")


def test_a_sell_waits_until_an_open_buy_is_canceled():
    books = our_books(positions={"A": "3"}, buys={"A": "20"})
    assert verdicts(choose(pending("sell"), books=books)) == [
        ("sell", "A", "WAITING", "an open buy of it is canceled first")
    ]


@pytest.mark.parametrize(
    ("held", "doubtful", "verdict"),
    [
        ("3", "20", ("CLAIMED", "sell all")),
        ("3", "5", ("WAITING", "an open buy of it is canceled first")),
        ("0", "20", ("WAITING", "nothing held, and a buy of it may still fill")),
    ],
)
def test_a_buy_that_nobody_can_cancel_does_not_hold_up_an_exit(held, doubtful, verdict):
    books = our_books(positions={"A": held}, buys={"A": "20"}, doubtful={"A": doubtful})
    (choice,) = choose(pending("sell"), books=books)
    assert (choice.state, choice.reason) == verdict


def test_two_sells_of_one_batch_sell_once():
    later = pending("sell", bar=BAR + timedelta(days=1), number=2)
    choices = choose(pending("sell"), later, books=our_books(positions={"A": "3"}), max_age=2)
    assert [(one.shares, one.reason) for one in choices] == [(3, "sell all"), (0, "already selling")]


def test_a_sell_after_a_buy_of_the_same_batch_waits_for_it():
    later = pending("sell", bar=BAR + timedelta(days=1), number=2)
    assert [one.state for one in choose(pending("buy"), later, max_age=2)] == ["CLAIMED", "WAITING"]


def test_a_buy_after_a_sell_of_the_same_batch_is_skipped():
    choices = choose(pending("buy"), pending("sell"), books=our_books(positions={"A": "3"}))
    assert [one.reason for one in choices] == ["sell all", "a sell of it is open"]


# --------------------------------------------------------------------------------- the kill switch, and age


def test_the_kill_switch_stops_buys_and_lets_sells_through():
    books = our_books(positions={"S": "2"})
    choices = choose(
        pending("buy"), pending("sell", "S"), books=books, facts=told(killed="kill switch: by hand")
    )
    assert verdicts(choices) == [
        ("sell", "S", "CLAIMED", "sell all"),
        ("buy", "A", "SKIPPED", "kill switch: by hand"),
    ]


@pytest.mark.parametrize("side", ["buy", "sell"])
@pytest.mark.parametrize(("until", "expired"), [(NOW, True), (NOW + timedelta(microseconds=1), False)])
def test_a_signal_expires_at_the_moment_it_is_good_until(side, until, expired):
    (choice,) = choose(pending(side, until=until), books=our_books(positions={"A": "3"}))
    assert (choice.state == "EXPIRED") == expired
    assert not expired or (choice.reason, choice.shares) == ("too old since 2024-01-03 15:00", 0)


def test_every_stop_there_is_lets_a_sell_through():
    books = our_books("-100", reserved="50", unacknowledged="50", positions={"A": "3"}, orders=9)
    rules = Risk(
        max_order=1,
        max_position=1,
        max_positions=1,
        max_orders_per_day=1,
        max_daily_loss=0.01,
        max_drawdown=0.01,
    )
    facts = told("-100", foreign="500", killed="kill switch: by hand")
    (choice,) = choose(pending("sell"), books=books, facts=facts, rules=rules, pad=1000.0)
    assert (choice.state, choice.shares) == ("CLAIMED", 3)


# ------------------------------------------------------------------------------------- what holds for every batch

symbols = st.sampled_from("ABCD")
money = st.decimals(-100, 10**5, places=2)
positive = st.decimals(0, 10**5, places=2)
shares = st.dictionaries(symbols, st.integers(0, 500).map(lambda n: D(n) / 10), max_size=4)


@st.composite
def batches(draw):
    quoted = st.builds(
        Quote, st.decimals("0.01", 500, places=2), st.sampled_from([NOW, NOW - timedelta(hours=1)])
    )
    positions = draw(shares)
    books = Books(
        cash=draw(money),
        reserved=draw(positive),
        unacknowledged=draw(positive),
        positions=positions,
        open_buys=draw(st.dictionaries(symbols, positive, max_size=1)),
        open_sells={symbol: held // 2 for symbol, held in positions.items() if draw(st.booleans())},
        orders_today=draw(st.integers(0, 3)),
        day_equity=draw(positive),
        peak_equity=draw(positive),
    )
    cash, power = draw(money), draw(positive)
    account = Account("id", "number", cash, cash, cash, power, draw(st.sampled_from([D(1), D(2), D(4)])), "")
    values = draw(st.dictionaries(symbols, positive, max_size=4))
    killed = draw(st.sampled_from(["", "", "", "killed"]))
    facts = Facts(NOW, account, values, draw(positive), draw(st.dictionaries(symbols, quoted)), killed)
    signal = st.builds(
        pending,
        st.sampled_from(["buy", "buy", "sell"]),
        symbols,
        st.decimals("0.01", 500, places=2),
        bar=st.sampled_from([BAR, BAR + timedelta(days=1)]),
        until=st.sampled_from([UNTIL, UNTIL, NOW]),
    )
    drawn = draw(st.lists(signal, max_size=8))
    return [one._replace(id=number) for number, one in enumerate(drawn)], books, facts


modes = st.builds(
    Execution,
    order=st.sampled_from(["limit", "market"]),
    reference=st.sampled_from(["close", "ask"]),
    pad=st.sampled_from([0.0, 12.5]),
)
rule_sets = st.sampled_from(
    [
        Risk(),
        Risk(sizing="fraction", fraction=0.3, max_positions=2),
        Risk(sizing="equal_weight", max_orders_per_day=3),
        Risk(max_order=500, max_position=800, max_drawdown=0.5, max_daily_loss=0.5),
    ]
)


@given(batches(), rule_sets, modes)
def test_no_batch_takes_more_than_is_free_or_sells_more_than_is_held(batch, rules, settings):
    signals, books, facts = batch
    choices = decide(signals, books, facts, rules, settings, 5)
    assert sorted(one.signal.id for one in choices) == list(range(len(signals)))
    claimed = [one for one in choices if one.state == "CLAIMED"]
    buys = [one for one in claimed if one.signal.side == "buy"]
    assert sum(one.reserve for one in buys) <= free_cash(books, facts, D(str(settings.pad)))
    assert not (buys and facts.killed)
    for symbol in "ABCD":
        sold = sum(one.shares for one in claimed if (one.signal.side, one.signal.symbol) == ("sell", symbol))
        left = books.positions.get(symbol, D(0)) - books.open_sells.get(symbol, D(0))
        assert not sold or sold <= left
    for one in choices:
        assert one.reason
        assert (one.shares > 0) == (one.state == "CLAIMED")
        assert one.shares == one.shares // 1
        assert one.limit is None or one.reserve == one.shares * one.limit
        assert one.state != "WAITING" or one.signal.side == "sell"
        assert (one.state == "EXPIRED") == (one.signal.good_until <= NOW)


@given(batches(), rule_sets, modes)
def test_decisions_do_not_depend_on_the_order_in_which_signals_arrive(batch, rules, settings):
    signals, books, facts = batch
    unique = list({(one.bar, one.side, one.symbol): one for one in signals}.values())
    assert decide(unique, books, facts, rules, settings, 5) == decide(
        unique[::-1], books, facts, rules, settings, 5
    )
