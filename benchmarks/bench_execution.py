"""Signals decided a second, and the time from a signal's commit to its order leaving; beside the loop one writes first:
read what isn't executed, ask for the cash, order, mark."""

import contextlib
import math
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from itertools import count
from pathlib import Path

import numpy as np
import pandas as pd

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers.postgres import PostgresServer, binaries

from tradebot.alpaca import get_broker
from tradebot.config import load_config
from tradebot.exchange import Exchange, Market, Settings
from tradebot.executor import Calendar, Executor, utc_now
from tradebot.paper_broker import Desk, Journal, served
from tradebot.store import Store, open_store

PENDING, SINGLE = 10_000, 200
POLL, POLLED = 5.0, 30  # its pause in seconds, and signals that wait for it


@contextlib.contextmanager
def serving(symbols: list[str]) -> Iterator[str]:
    """A broker in a thread of this process: its time counts for both sides alike."""
    lend_nothing = Settings(multiplier=Decimal(1), no_shorting=True, fills="manual")
    exchange = Exchange(Market(), utc_now(), Decimal(100_000_000), lend_nothing)
    exchange.prices = dict.fromkeys(symbols, Decimal(100))
    desk = Desk(exchange, Journal(None), driven=False)
    desk.rate_limit = None
    with served(desk, port=0) as addresses:
        yield addresses.url


def write(store: Store, symbols: list[str]) -> None:
    _, newest = Calendar(load_config(Path(), {})).labels(utc_now())
    frame = pd.DataFrame({"symbol": symbols, "timestamp": pd.Timestamp(newest), "signal_type": "buy"})
    store.write_signals("crossover", frame.assign(details=[{"price": 100.0}] * len(symbols)))


def configured(url: str, broker: str, home: Path, **more: str):
    told = {"DATABASE_URL": url, "TRADEBOT_EXECUTION_URL": broker, "POLLING_INTERVAL": "60"}
    return load_config(
        home, told | {"TRADEBOT_RISK_SIZING": "fraction", "TRADEBOT_RISK_FRACTION": "0.00001"} | more
    )


def decided_a_second(url: str, home: Path) -> float:
    """Signals through T1 in a second: claimed, sized, reserved, written; nothing is sent."""
    store, symbols = open_store(url), [f"S{number:05d}" for number in range(PENDING)]
    write(store, symbols)
    with serving(symbols) as broker:
        executor = Executor(configured(url, broker, home), store, get_broker(configured(url, broker, home)))
        executor.start()
        facts, began, decided = executor._facts(""), time.perf_counter(), 0
        while more := executor._claim(facts).choices:
            decided += len(more)
        return decided / (time.perf_counter() - began)


def to_the_post(url: str, home: Path) -> np.ndarray:
    """Milliseconds from a signal's commit to its order's arrival at the broker, one signal at a time, in `execute --loop`."""
    store, symbols = open_store(url), [f"S{number:05d}" for number in range(SINGLE)]
    arrived: dict[str, float] = {}
    with serving(symbols) as broker:
        config = configured(url, broker, home)
        at_broker = get_broker(config)
        submit = at_broker.submit
        at_broker.submit = lambda order: (
            arrived.setdefault(order.symbol, time.perf_counter()),
            submit(order),
        )[1]
        executor, stop = Executor(config, store, at_broker), threading.Event()
        thread = threading.Thread(target=executor.loop, args=(stop,))
        thread.start()
        time.sleep(3)
        committed = {}
        for symbol in symbols:
            write(store, [symbol])
            committed[symbol] = time.perf_counter()
            while symbol not in arrived:
                time.sleep(0.0005)
            time.sleep(0.15)
        stop.set()
        thread.join()
    return np.array([arrived[symbol] - committed[symbol] for symbol in symbols]) * 1000


class PlainLoop:
    """Its loop, word for word: read what isn't executed; floor(cash / price); order; mark; again in five seconds."""

    def __init__(self, store: Store, broker: str):
        from alpaca.trading.client import TradingClient

        self.store, self.client = store, TradingClient("any", "keys", url_override=broker)
        self.posted: dict[str, float] = {}

    def quantity(self, price: float) -> int:
        return min(10, math.floor(float(self.client.get_account().cash) / price))

    def work(self) -> None:
        from alpaca.trading.requests import MarketOrderRequest

        waiting = self.store.signals()
        for row in waiting[~waiting["executed"]].itertuples():
            quantity = self.quantity(row.details["price"])
            self.posted[row.symbol] = time.perf_counter()
            self.client.submit_order(
                MarketOrderRequest(symbol=row.symbol, qty=quantity, side="buy", time_in_force="day")
            )
            with self.store.engine.transaction("ledger", write=True) as transaction:
                transaction.rows("UPDATE signals SET executed = TRUE WHERE id = $id", id=row.id)

    def loop(self, stop: threading.Event) -> None:
        while not stop.wait(POLL):
            self.work()


def plain_loop(url: str, home: Path) -> tuple[float, float, np.ndarray]:
    """Signals that its loop decides a second, and sends a second; milliseconds from commits at random moments to their POST."""
    store, chance = open_store(url), random.Random(1)
    symbols, late = [f"S{number:05d}" for number in range(SINGLE)], [f"T{n:05d}" for n in range(POLLED)]
    write(store, symbols)
    with serving([*symbols, *late]) as broker:
        theirs, stop = PlainLoop(store, broker), threading.Event()
        began = time.perf_counter()
        for _ in symbols:
            theirs.quantity(100.0)
        decided = SINGLE / (time.perf_counter() - began)
        began = time.perf_counter()
        theirs.work()
        sent = SINGLE / (time.perf_counter() - began)
        thread = threading.Thread(target=theirs.loop, args=(stop,))
        thread.start()
        committed = {}
        for symbol in late:
            time.sleep(chance.random() * POLL)
            write(store, [symbol])
            committed[symbol] = time.perf_counter()
        stop.wait(2 * POLL)
        stop.set()
        thread.join()
    return decided, sent, np.array([theirs.posted[one] - committed[one] for one in late]) * 1000


def sent_a_second(url: str, home: Path) -> float:
    """Signals decided, sent and acknowledged in a second."""
    store, symbols = open_store(url), [f"S{number:05d}" for number in range(SINGLE)]
    write(store, symbols)
    with serving(symbols) as broker:
        config = configured(url, broker, home)
        executor = Executor(config, store, get_broker(config))
        executor.start()
        began = time.perf_counter()
        executor.trade()
        return SINGLE / (time.perf_counter() - began)


def measure(store: str, new: Callable[[], str], home: Path) -> None:
    """Measure on stores of one kind; `new` makes an empty one and returns its URL."""
    decided, sent, ours = (work(new(), home) for work in (decided_a_second, sent_a_second, to_the_post))
    their_decided, their_sent, theirs = plain_loop(new(), home)
    (median, worst), (their_median, their_worst) = (np.percentile(one, [50, 99]) for one in (ours, theirs))
    print(f"| {store} | tradebot | the plain loop | ratio |\n|---|---|---|---|")
    print(f"| decided a second | {decided:,.0f} | {their_decided:,.0f} | {decided / their_decided:.1f}x |")
    print(f"| sent and acknowledged a second | {sent:,.0f} | {their_sent:,.0f} | {sent / their_sent:.2f}x |")
    print(
        f"| commit to POST, median, ms | {median:.0f} | {their_median:,.0f} | {their_median / median:.0f}x |"
    )
    print(f"| commit to POST, p99, ms | {worst:.0f} | {their_worst:,.0f} | {their_worst / worst:.0f}x |\n")


def main() -> None:
    os.environ.pop("DATABASE_URL", None)
    with tempfile.TemporaryDirectory() as name:
        folder, numbers = Path(name), count()
        folder.chmod(0o755)
        measure("DuckDB", lambda: f"duckdb:///{folder}/data{next(numbers)}", folder)
        server = PostgresServer(folder / "server", binaries())
        try:
            measure("PostgreSQL", server.database, folder)
        finally:
            server.stop()


if __name__ == "__main__":
    main()
