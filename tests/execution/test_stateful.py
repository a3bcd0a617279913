"""Anything may happen in any order: signals, gaps, splits, parts of fills, cancels, broken answers, crashes, a switch.

A crash here is an exception out of a step, which leaves the database exactly as a killed process would; the real SIGKILLs
are in the fault matrix. The broker is a process of its own.
"""

import contextlib
import itertools
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    invariant,
    rule,
    run_state_machine_as_test,
)

from execution.test_faults import BROKEN, LOOKUP, POST
from execution.world import World
from tradebot.alpaca import get_broker
from tradebot.broker import BrokerDown
from tradebot.config import load_config
from tradebot.executor import Calendar, Executor
from tradebot.kill_switch import turn_off, turn_on
from tradebot.prices import actions_frame
from tradebot.store import open_store

STEPS = (
    "before T1", "in T1", "after T1", "after T2", "before POST", "after POST", "before T3", "after T3", "before T4",
    "in T4", "after T4", "before cancel", "after cancel",
)  # fmt: skip
SYMBOLS = st.sampled_from("ABC")


class Crash(BaseException):
    """The process ends here."""


class Market(RuleBasedStateMachine):
    make: Callable[[], World]

    def __init__(self) -> None:
        super().__init__()
        self.world = self.make()
        self.config = load_config(self.world.home, self.world.environment)
        self.splits: set[tuple[str, datetime]] = set()

    @property
    def now(self) -> datetime:
        return datetime.fromisoformat(self.world.broker.state["clock"]["timestamp"]).replace(tzinfo=None)

    def a_pass(self, crash: str = "", nth: int = 1) -> None:
        left = itertools.count(1)

        def step(name: str) -> None:
            if name == crash and next(left) == nth:
                raise Crash

        store = open_store(self.world.url)
        with contextlib.suppress(Crash, BrokerDown):
            Executor(self.config, store, get_broker(self.config), step=step, settle=0.0).once()

    @rule(symbol=SYMBOLS, side=st.sampled_from(["buy", "sell"]), price=st.integers(20, 300))
    def a_signal(self, symbol: str, side: str, price: int) -> None:
        _, newest = Calendar(self.config).labels(self.now)
        self.world.signal(side, symbol, bar=newest, price=price)

    @rule()
    def traded(self) -> None:
        self.a_pass()

    @rule(step=st.sampled_from(STEPS), nth=st.integers(1, 2))
    def crashed(self, step: str, nth: int) -> None:
        self.a_pass(step, nth)

    @rule(
        row=st.sampled_from(sorted(set(BROKEN) - {"N5 a slow drip"})),
        when=st.sampled_from(["before", "after"]),
        which=st.sampled_from([POST, LOOKUP]),
    )
    def an_answer_breaks(self, row: str, when: str, which: dict) -> None:
        self.world.broker.faults({**which, "when": when, "action": BROKEN[row]})

    @rule(symbol=SYMBOLS, price=st.integers(10, 400))
    def a_gap(self, symbol: str, price: int) -> None:
        self.world.broker.ask("POST", "/prices", {symbol: price})

    @rule(to=st.sampled_from(["open", "close"]))
    def time_passes(self, to: str) -> None:
        self.world.broker.ask("POST", "/clock", {"to": to})

    @rule(symbol=SYMBOLS, ratio=st.sampled_from([2, 3, 0.5]), told=st.booleans())
    def a_split(self, symbol: str, ratio: float, told: bool) -> None:
        day = pd.Timestamp(self.now).normalize()
        if (symbol, day) in self.splits or any(symbol == other for other, _ in self.splits):
            return  # one a symbol is enough; two within a week are for a person to look at
        self.splits.add((symbol, day))
        self.world.store.write_actions(actions_frame([(symbol, day, "split", ratio)]))
        self.world.broker.ask(
            "POST", "/splits", {"symbol": symbol, "ratio": ratio, "line": told or ratio < 1}
        )

    @rule(how=st.sampled_from(["auto", "manual"]), partial=st.sampled_from([0.0, 1.0]))
    def fills_change(self, how: str, partial: float) -> None:
        self.world.broker.ask("POST", "/settings", {"fills": how, "partial": partial})

    @rule(number=st.integers(0, 5), what=st.sampled_from(["fill", "cancel", "reject", "expire"]))
    def the_broker_acts(self, number: int, what: str) -> None:
        waiting = [one for one in self.world.ours if one["status"] in ("new", "accepted", "partially_filled")]
        if waiting and not (what == "reject" and waiting[number % len(waiting)]["filled_qty"] != "0"):
            one = waiting[number % len(waiting)]
            left = int(float(one["qty"]) - float(one["filled_qty"]))
            body = {"qty": max(1, left // 2), "price": one["limit_price"] or "50"} if what == "fill" else None
            self.world.broker.ask("POST", f"/orders/{one['client_order_id']}/{what}", body)

    @rule(amount=st.integers(1, 5000))
    def a_deposit(self, amount: int) -> None:
        self.world.broker.ask("POST", "/cash", {"amount": amount})

    @rule(on=st.booleans())
    def the_switch(self, on: bool) -> None:
        turn = turn_on if on else turn_off
        turn(self.world.store, self.config.kill_file, "test", datetime(2013, 1, 1))

    @invariant()
    def everything_holds(self) -> None:
        self.world.check()

    def teardown(self) -> None:
        self.world.broker.clear()
        turn_off(self.world.store, self.config.kill_file, "", datetime(2013, 1, 1))
        for _ in range(6):
            self.a_pass()
            if self.world.rows("SELECT 1 FROM orders WHERE status IN ('INTENT', 'SUBMITTING', 'UNKNOWN')"):
                now = self.now + timedelta(days=1)
                self.world.broker.ask("POST", "/clock", {"now": now.isoformat()})
        self.world.check(quiet=True)
        with self.world.store.engine.transaction("market", write=True) as transaction:
            transaction.rows("DELETE FROM corporate_actions")


@pytest.mark.parametrize("kind", ["embedded", "postgres"])
def test_whatever_happens_the_books_hold(kind: str, tmp_path: Path, new_world) -> None:
    numbers = itertools.count()

    def make() -> World:
        home = tmp_path / str(next(numbers))
        home.mkdir()
        return new_world(kind, home)

    machine = type("Machine", (Market,), {"make": staticmethod(make)})
    options = {"deadline": None, "suppress_health_check": list(HealthCheck), "print_blob": True}
    options["phases"] = [
        Phase.explicit,
        Phase.generate,
    ]  # a case takes seconds: shrinking it would take hours
    run_state_machine_as_test(machine, settings=settings(max_examples=15, stateful_step_count=25, **options))
