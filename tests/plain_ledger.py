"""The fill contract of ARCHITECTURE.md once more: dictionaries, exact decimals and no engine, to check the backtest by."""

import math
from dataclasses import dataclass, field
from decimal import Decimal
from fractions import Fraction

from tradebot.risk import limit_price, scale_order, shares_to_buy


@dataclass
class Order:
    symbol: str
    created: object
    side: str
    quantity: int
    limit: float | None
    status: str = "open"
    reason: str = "at the end"

    def __post_init__(self):
        self.sent = (self.quantity, self.limit)  # before any split


@dataclass
class Book:
    cash: Decimal
    held: dict = field(default_factory=dict)  # symbol -> shares
    cost: dict = field(default_factory=dict)  # symbol -> average cost of a share
    last: dict = field(default_factory=dict)  # symbol -> price to carry it at
    orders: list = field(default_factory=list)
    fills: list = field(default_factory=list)
    sessions: list = field(default_factory=list)  # (cash, equity)
    positions: dict = field(default_factory=dict)  # (day, symbol) -> shares
    decisions: list = field(default_factory=list)


def replay(bars, actions, signals, days, capital, buffer):
    """The Book after trading `signals`, sorted by timestamp and symbol, over the sessions `days`."""
    book = Book(Decimal(str(capital)))
    rows = {day: {} for day in days}
    for (symbol, day), bar in zip(bars.index, bars.itertuples(index=False), strict=True):
        rows[day][symbol] = bar
    outcomes = []
    for day in days:
        corporate_actions(book, actions[actions["timestamp"] == day])
        open_orders = [order for order in book.orders if order.status == "open"]
        for order in sorted(open_orders, key=lambda order: (order.side == "buy", order.symbol)):
            fill(book, order, rows[day].get(order.symbol), day)
        today = signals[signals["timestamp"] == day]
        outcomes += decide(book, today, rows[day], buffer)
        book.last |= {symbol: bar.close for symbol, bar in rows[day].items()}
        worth = sum(Decimal(str(book.last[symbol])) * shares for symbol, shares in book.held.items())
        book.sessions.append((book.cash, book.cash + worth))
        book.positions |= {(day, symbol): shares for symbol, shares in book.held.items()}
    book.decisions = [
        (item.status, item.reason) if isinstance(item, Order) else ("skipped", item) for item in outcomes
    ]
    return book


def corporate_actions(book, actions):
    ratios = {}
    for split in actions[actions["kind"] == "split"].itertuples():
        ratios[split.symbol] = ratios.get(split.symbol, Fraction(1)) * Fraction(
            split.value
        ).limit_denominator(100)
    for paid in actions[actions["kind"] == "dividend"].itertuples():
        new_shares = book.held.get(paid.symbol, 0) * ratios.get(paid.symbol, 1)
        book.cash += Decimal(str(paid.value)) * new_shares.numerator / new_shares.denominator
    for symbol, ratio in ratios.items():
        if symbol in book.last:
            book.last[symbol] /= float(ratio)
        if symbol in book.held:
            # zipline counts old shares for one new, and pays a fraction at the average cost; both are rounded to the cent.
            old_for_new = math.nextafter(1 / float(ratio), 0)
            shares = book.held[symbol] * ratio // 1
            fraction = book.held[symbol] / old_for_new % 1
            book.cost[symbol] = round(book.cost[symbol] * old_for_new, 2)
            book.cash += Decimal(str(round(fraction * book.cost[symbol], 2)))
            book.held[symbol] = int(shares)
            if not shares:
                del book.held[symbol], book.cost[symbol]
        for order in book.orders:
            if order.status == "open" and order.symbol == symbol:
                shares, limit = scale_order(order.quantity, order.limit, float(ratio))
                order.limit = None if limit is None else float(limit)
                if shares:
                    order.quantity = shares
                else:
                    order.status, order.reason = "expired", "no whole share left by a split"


def fill(book, order, bar, day):
    traded = bar is not None and bar.volume > 0
    if order.side == "sell":
        if traded:
            book.cash += Decimal(str(bar.open)) * order.quantity
            book.held[order.symbol] -= order.quantity
            if not book.held[order.symbol]:
                del book.held[order.symbol], book.cost[order.symbol]
            close_order(book, order, day, bar.open, "at the open")
    elif traded and bar.low <= order.limit:
        price, reason = (
            (bar.open, "at the open") if bar.open <= order.limit else (order.limit, "at the limit")
        )
        before = book.held.get(order.symbol, 0)
        paid = book.cost.get(order.symbol, 0.0) * before + order.quantity * price
        book.cash -= Decimal(str(price)) * order.quantity
        book.held[order.symbol] = before + order.quantity
        book.cost[order.symbol] = paid / book.held[order.symbol]
        close_order(book, order, day, price, reason)
    else:
        order.status, order.reason = "expired", "limit not reached" if traded else "no trading in the session"


def close_order(book, order, day, price, reason):
    order.status, order.reason = "filled", reason
    book.fills.append((order.symbol, day, order.side, order.quantity, price))


def decide(book, signals, bars, buffer):
    "An Order, or the reason for none, for each signal of a close; sells are sent before buys."
    outcomes, free = {}, book.cash
    for signal in sorted(signals.itertuples(), key=lambda signal: signal.signal_type == "buy"):
        symbol = signal.symbol
        selling = any(o.status == "open" and o.side == "sell" and o.symbol == symbol for o in book.orders)
        if signal.signal_type == "buy" and selling:
            order = "a sell of it is open"
        elif signal.signal_type == "buy":
            limit = limit_price(bars[symbol].close, buffer)
            shares = shares_to_buy(round(free, 6), limit)
            order = Order(symbol, signal.timestamp, "buy", shares, float(limit)) if shares else "no cash"
            free -= shares * limit
        elif selling:
            order = "already selling"
        else:
            shares = book.held.get(symbol, 0)
            order = Order(symbol, signal.timestamp, "sell", shares, None) if shares else "nothing held"
        outcomes[signal.Index] = order
        if isinstance(order, Order):
            book.orders.append(order)
    return [outcomes[number] for number in signals.index]
