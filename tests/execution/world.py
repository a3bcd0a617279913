"""A store, a paper broker in a process of its own, workers in theirs, and what must be true of all of them at any time."""

import multiprocessing
import os
import resource
import shutil
import signal
import traceback
from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import pandas as pd
from servers.paper import PaperBroker

from tradebot.alpaca import get_broker
from tradebot.book import OPEN, OVER, Book
from tradebot.broker import PREFIX, BrokerDown, BrokerError, client_order_id
from tradebot.config import load_config
from tradebot.engine import StoreError
from tradebot.executor import Executor, cash_proof
from tradebot.sessions import exchange_calendar
from tradebot.store import Store, open_store

PROCESSES = multiprocessing.get_context("forkserver")
exchange_calendar("XNYS")


def start_forkserver() -> None:
    """Import what takes long once, in the process that all workers are forked from."""
    preload = [
        "execution.world",
        "alpaca.trading.client",
        "alpaca.trading.stream",
        "psycopg2",
        "tradebot.paper_broker",
    ]
    PROCESSES.set_forkserver_preload(preload)
    before, os.environ["PYTHONPATH"] = os.environ.get("PYTHONPATH"), str(Path(__file__).parent.parent)
    forkserver.ensure_running()
    if before is None:
        del os.environ["PYTHONPATH"]
    else:
        os.environ["PYTHONPATH"] = before


NOW, BAR = (
    "2013-02-28 15:00:00",
    datetime(2013, 2, 27),
)  # a Thursday, the market is open; the bar of the day before
DOWN, MEND = 3, 4  # exit codes: something did not answer; a person must mend something


def work(environment: dict[str, str], home: str, way: str, pipe: Connection) -> None:
    """In a child: one pass, or a loop; each step is told, and waits until the parent lets it go on."""
    os.environ.update(environment)
    config = load_config(Path(home), environment)
    pauses = environment.get("PAUSES", "").split("|")

    def step(name: str) -> None:
        if name in pauses:
            pipe.send(name)
            pipe.recv()
        if name == environment.get("DISK_FULL"):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1, resource.RLIM_INFINITY))

    try:
        executor = Executor(
            config, open_store(config.database_url), get_broker(config), step=step, settle=0.03
        )
        if way == "loop":
            from threading import Event

            executor.loop(Event())
        executor.once()
    except (BrokerDown, StoreError) as error:
        resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
        print(error)
        os._exit(DOWN)
    except BrokerError as error:
        print(error)
        os._exit(MEND)
    except BaseException:
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


class Worker:
    """A child that trades. It stops at the steps it is told to, until `go`."""

    def __init__(self, world: "World", pauses: Sequence[str] = (), way: str = "once", **settings: str):
        ours, theirs = multiprocessing.Pipe()
        environment = {**world.environment, **settings, "PAUSES": "|".join(pauses)}
        self.process = PROCESSES.Process(
            target=work, args=(environment, str(world.home), way, theirs), daemon=True
        )
        self.process.start()
        theirs.close()
        self._pipe = ours

    def at(self) -> str | None:
        """The step at which it waits; None if it ended before."""
        try:
            return self._pipe.recv() if self._pipe.poll(60) else None
        except EOFError:
            return None

    def go(self) -> None:
        self._pipe.send(None)

    def kill(self) -> None:
        self.process.kill()
        self.process.join()
        self._pipe.close()

    def freeze(self) -> None:
        os.kill(self.process.pid, signal.SIGSTOP)

    def thaw(self) -> None:
        os.kill(self.process.pid, signal.SIGCONT)

    def end(self) -> int:
        """Its exit code; it must have ended by itself within a while."""
        while self.at() is not None:
            self.go()
        self.process.join(60)
        code = self.process.exitcode
        self.process.kill()
        self._pipe.close()
        assert code is not None, "a worker did not end"
        assert code != 1, "a worker raised what it should not (see the output)"
        return code


class World:
    """One case: an account of ten thousand dollars, a store, and workers."""

    def __init__(self, url: str, home: Path, broker: PaperBroker, store: Store):
        self.url, self.home, self.broker, self.store = url, home, broker, store
        self.settings: dict[str, str] = {}
        self.finals: dict[str, str] = {}
        broker.reset(
            cash=10_000, multiplier=1, no_shorting=True, now=NOW, prices={name: 100 for name in "ABCDEFGH"}
        )

    @property
    def environment(self) -> dict[str, str]:
        return {
            "DATABASE_URL": self.url,
            "TRADEBOT_EXECUTION_URL": self.broker.url,
            "TRADEBOT_EXECUTION_DEADLINE": "0.8",
            "TRADEBOT_DATA_UNIVERSE": "A,B,C,D,E,F,G,H",
            "POLLING_INTERVAL": "0.2",
            **self.settings,
        }

    @property
    def account(self) -> str:
        return self.broker.state["account"]["id"]

    # Signals

    def signal(self, side: str, symbol: str = "A", bar: datetime = BAR, price: float = 100.0) -> str:
        """A signal of the configured strategy; the client id that its order will have."""
        row = {"symbol": [symbol], "timestamp": [pd.Timestamp(bar)], "signal_type": [side]}
        self.store.write_signals("crossover", pd.DataFrame({**row, "details": [{"price": price}]}))
        return client_order_id(self.account, "crossover", symbol, bar, side)

    def hold(self, symbol: str = "A", shares: int = 40) -> None:
        """Shares that were bought before tradebot came."""
        self.broker.ask("POST", "/trades", {"symbol": symbol, "side": "buy", "qty": shares, "price": 100})

    def arrange(self, side: str, symbol: str = "A") -> str:
        """What a signal of this side needs, and the signal."""
        if side == "sell":
            self.hold(symbol)
            self.open_books()
        return self.signal(side, symbol)

    def open_books(self) -> None:
        assert self.run() == 0

    # Workers

    def worker(self, *pauses: str, way: str = "once", **settings: str) -> Worker:
        return Worker(self, pauses, way, **settings)

    def run(self, count: int = 1, **settings: str) -> int:
        """Passes of `count` workers at the same time; the worst exit code."""
        workers = [self.worker(**settings) for _ in range(count)]
        return max(worker.end() for worker in workers)

    def settle(self, count: int = 1, passes: int = 4) -> None:
        """Passes until nothing is in flight; then everything must add up."""
        for _ in range(passes):
            code = self.run(count)
            if not self.rows("SELECT 1 FROM orders WHERE status IN ('INTENT', 'SUBMITTING', 'UNKNOWN')"):
                break
        assert code == 0
        self.check(quiet=True)

    def killed_at(
        self, step: str, others: int = 0, before: Callable[[], None] = lambda: None, **settings: str
    ) -> None:
        """A worker is killed at this step, `others` run beside it."""
        worker = self.worker(step, **settings)
        assert worker.at() == step, f"the worker never came to {step!r}"
        beside = [self.worker() for _ in range(others)]
        before()
        worker.kill()
        for other in beside:
            other.end()
        self.check()

    # What is true

    def rows(self, sql: str, **parameters: Any) -> list[tuple]:
        with self.store.engine.transaction("ledger") as transaction:
            return transaction.rows(sql, **parameters)

    def orders(self) -> list[Any]:
        return Book(self.store, self.account, datetime.now).orders(*OPEN, *OVER)

    def order(self, client_id: str) -> Any:
        return Book(self.store, self.account, datetime.now).by_client_id(client_id)

    def signals(self) -> list[tuple]:
        return self.rows("SELECT symbol, state, executed FROM signals ORDER BY id")

    @property
    def ours(self) -> list[dict[str, Any]]:
        """Orders at the broker that have our mark."""
        return [one for one in self.broker.state["orders"] if one["client_order_id"].startswith(PREFIX)]

    def check(self, *, quiet: bool = False) -> None:
        """I1 to I8; with `quiet`, also that our books and the broker's are the same."""
        # The broker first, then the books: workers may be at work, and a row is written before it is sent.
        state, posts = self.broker.state, self.broker.posts
        orders = {order.client_order_id: order for order in self.orders()}
        ours = [one for one in state["orders"] if one["client_order_id"].startswith(PREFIX)]
        # I1: one order a signal and attempt; the id is made of them.
        ids = [one["client_order_id"] for one in ours]
        assert len(ids) == len(set(ids)) <= len(self.signals())
        # I2: money.
        cash = Decimal(state["account"]["cash"])
        worst = sum(
            (Decimal(one["qty"]) - Decimal(one["filled_qty"])) * Decimal(one["limit_price"] or 100)
            for one in state["orders"]
            if one["side"] == "buy" and one["status"] in ("new", "accepted", "partially_filled")
        )
        assert cash - worst >= 0
        # I3: shares.
        assert all(Decimal(shares) >= 0 for shares in state["positions"].values())
        # I4 and I8: whatever reached the broker was written down as about to be sent.
        for one in posts:
            name = one["body"]["client_order_id"]
            if name.startswith(PREFIX):
                assert name in orders, "an order was sent without a row"
                assert orders[name].submitted is not None, "an order was sent before its row said so"
        assert set(ids) <= set(orders)
        # I6 and I7: what is over stays over, what was written stays.
        for name, status in self.finals.items():
            assert orders[name].status == status
        self.finals |= {name: order.status for name, order in orders.items() if order.status in OVER}
        self._check_books()
        if quiet:
            self._check_agreement(state, orders, ours)

    def _check_books(self) -> None:
        "In one snapshot: workers may be at work."
        with self.store.engine.transaction("ledger") as transaction:
            account = transaction.rows("SELECT cash, reserved FROM account WHERE id = $id", id=self.account)
            orders = transaction.rows("SELECT status, side, symbol, reserved FROM orders")
            positions = transaction.rows("SELECT symbol, quantity, reserved FROM positions")
        if not account:
            return
        ((cash, reserved),) = account
        promised = {("sell", symbol): shares for symbol, _, shares in positions}
        held: dict[Any, Decimal] = {}
        for status, side, symbol, amount in orders:
            assert amount == 0 or status in OPEN or status == "QUARANTINED"
            key = "buy" if side == "buy" else (side, symbol)
            held[key] = held.get(key, Decimal(0)) + amount
        assert reserved == held.pop("buy", 0)
        assert 0 <= reserved <= cash
        assert {key: amount for key, amount in held.items() if amount} == {
            key: amount for key, amount in promised.items() if amount
        }
        assert all(0 <= shares <= quantity for _, quantity, shares in positions)
        cash_proof(self.store, self.account)

    def _check_agreement(
        self, state: dict[str, Any], orders: dict[str, Any], ours: list[dict[str, Any]]
    ) -> None:
        "I5: at rest our books are the broker's."
        filled = {one["client_order_id"]: Decimal(one["filled_qty"]) for one in ours}
        for name, order in orders.items():
            assert order.filled == filled.get(name, 0)
        ((cash, halted),) = self.rows("SELECT cash, halted FROM account WHERE id = $id", id=self.account)
        assert halted is None
        assert abs(cash - Decimal(state["account"]["cash"])) < Decimal("0.01")
        held = self.rows(
            "SELECT symbol, quantity FROM positions WHERE account = $id AND quantity <> 0", id=self.account
        )
        assert {symbol: quantity for symbol, quantity in held} == {
            symbol: Decimal(shares) for symbol, shares in state["positions"].items()
        }


TABLES = ("signals", "orders", "executions", "account", "positions", "entries", "switches", "runs")


def fresh_embedded(template: Path, folder: Path) -> str:
    shutil.copytree(template, folder / "data")
    return f"duckdb:///{folder / 'data'}"


def emptied(store: Store) -> None:
    with store.engine.transaction("ledger", write=True) as transaction:
        for table in TABLES:
            transaction.rows(f"TRUNCATE {table}")
