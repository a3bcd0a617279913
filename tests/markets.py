"""Small markets: by hand, and at random."""

import pandas as pd
from hypothesis import strategies as st

from tradebot.config import Risk
from tradebot.prices import actions_frame, bars_frame
from tradebot.sessions import sessions_between

# Tuesday to Monday; the weekend of 6 January lies between the fourth and the fifth.
DAYS = pd.to_datetime(["2024-01-02", "2024-01-03", "2024-01-04", "2024-01-05", "2024-01-08"])
HALT = None


def frames(prices, days=DAYS):
    """A bars frame from {symbol: [(open, high, low, close) or (..., volume) or None, one a session]}."""
    rows = [
        (symbol, day, *bar[:4], bar[4] if len(bar) > 4 else 1000)
        for symbol, column in prices.items()
        for day, bar in zip(days, column, strict=False)
        if bar is not None
    ]
    return bars_frame(
        pd.DataFrame(rows, columns=["symbol", "timestamp", "open", "high", "low", "close", "volume"])
    )


def signals_frame(rows, days=DAYS):
    """A signals frame from (symbol, number of the session, 'buy' | 'sell')."""
    rows = sorted((days[day], symbol, side) for symbol, day, side in rows)
    frame = pd.DataFrame(rows, columns=["timestamp", "symbol", "signal_type"])
    return frame[["symbol", "timestamp", "signal_type"]].assign(details=[{} for _ in rows])


cents = st.integers(50, 3000).map(lambda n: n / 100)
day_numbers = st.integers(0, 7)


@st.composite
def markets(draw):
    """Bars of two or three symbols over eight sessions, with gaps, halts, late listings and splits; and signals."""
    days = sessions_between(pd.Timestamp("2024-06-28"), pd.Timestamp("2024-07-10"))
    symbols = ["A", "B", "C"][: draw(st.integers(2, 3))]
    rows, signals = [], []
    for symbol in symbols:
        first, last = draw(st.integers(0, 3)), draw(st.integers(5, 7))
        for day in range(first, last + 1):
            state = draw(st.sampled_from(["traded"] * 6 + ["missing", "no volume"]))
            if state == "missing" and first < day:
                continue
            four = sorted(draw(st.tuples(cents, cents, cents, cents)))
            opened, closed = draw(st.permutations(four[1:3]))
            rows.append(
                (symbol, days[day], opened, four[3], four[0], closed, 1000.0 if state == "traded" else 0.0)
            )
            if signal := draw(st.sampled_from(["buy", "buy", "sell", "sell", None])):
                signals.append((symbol, day, signal))
    kinds = st.one_of(
        st.tuples(st.just("split"), st.sampled_from([2.0, 3.0, 1.5, 0.5, 0.1])),
        st.tuples(st.just("dividend"), st.integers(1, 99).map(lambda n: n / 100)),
    )
    found = draw(st.dictionaries(st.tuples(st.sampled_from(symbols), day_numbers), kinds, max_size=4))
    actions = actions_frame([(symbol, days[day], *action) for (symbol, day), action in found.items()])
    bars = bars_frame(
        pd.DataFrame(rows, columns=["symbol", "timestamp", "open", "high", "low", "close", "volume"])
    )
    return bars, actions, signals_frame(signals, days), days


fractions = st.sampled_from([None, 0.01, 0.05, 0.2])
rules = st.builds(
    lambda sizing, fraction, **more: Risk(
        sizing=sizing, fraction=fraction if sizing == "fraction" else None, **more
    ),
    sizing=st.sampled_from(["all_cash", "fraction", "equal_weight"]),
    fraction=st.sampled_from([0.1, 0.25, 0.5, 1.0]),
    buffer=st.sampled_from([0.0, 0.005, 0.1]),
    commission=st.sampled_from([0.0, 0.0, 0.001, 0.02]),
    max_order=st.sampled_from([None, 100.0, 555.5]),
    max_position=st.sampled_from([None, 250.0, 1000.0]),
    max_positions=st.sampled_from([None, 1, 2]),
    max_orders_per_day=st.sampled_from([None, 1, 2]),
    max_daily_loss=fractions,
    max_drawdown=fractions,
)
