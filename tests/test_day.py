"""The day's page over a driven paper broker: all well on a normal evening, and each kind of trouble named."""

import json
from collections.abc import Callable, Iterator
from datetime import timedelta
from decimal import Decimal
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from markets import frames
from nbformat.v4 import new_code_cell, new_notebook
from servers.webhook import Webhook
from test_cli import ROOT, home, tradebot

from tradebot import signal_engine
from tradebot.alpaca import get_broker
from tradebot.config import Config, Environment, Execution, Risk, Strategy, UserError, load_config
from tradebot.day import needs_nobody, needs_of, parts, summary
from tradebot.dues import notice
from tradebot.evening import Evening, find_day, read_evening, session_bars, slippage
from tradebot.exchange import Exchange, Market
from tradebot.executor import Executor
from tradebot.kill_switch import turn_on
from tradebot.paper_broker import Desk, Journal, Owner, served, wind
from tradebot.pipeline import configured_strategy, update_signals
from tradebot.prices import actions_frame
from tradebot.runs import write_html
from tradebot.schedules import due_between, load_schedules
from tradebot.sessions import completed_at, exchange_calendar, labels_between, sessions_between
from tradebot.signal_engine import Rules
from tradebot.store import Store, open_store
from tradebot.transfer import copy_store

__all__ = ["home"]  # the fixture

# Monday to Tuesday of the week after, over Thanksgiving (the 22nd) and the half day after it.
DAYS = sessions_between(pd.Timestamp("2012-11-19"), pd.Timestamp("2012-11-27"))
WEDNESDAY, FRIDAY, MONDAY, TUESDAY = DAYS[2:6]
FLAT, DEAR = (10.0, 10.0, 10.0, 10.0), (20.0, 20.0, 20.0, 20.0)
RISEN = (10.5, 10.6, 10.4, 10.5)
# A is bought at Friday's open, four cents above the close that its signal had; B is never had at its limit of 20.10.
A = [FLAT, FLAT, FLAT, (10.04, 10.6, 9.9, 10.5), RISEN, RISEN]
B = [DEAR, DEAR, DEAR, DEAR, (20.4, 20.6, 20.3, 20.5), (20.5, 20.5, 20.5, 20.5)]
BUYS = {"A": WEDNESDAY, "B": FRIDAY}


class World:
    """A store, the executor and a broker over HTTP, taken from evening to evening."""

    def __init__(self, folder: Path, a: list = A, actions: list[tuple] | None = None):
        self.bars, self.actions = frames({"A": a, "B": B}, DAYS), actions_frame(actions or [])
        self.config = Config(
            home=folder,
            data={"universe": ("A", "B"), "provider": "csv"},
            strategy=Strategy(name="crossover"),
            risk=Risk(sizing="fraction", fraction=0.5),
            environment=Environment(database_url=f"duckdb:///{folder}/data"),
        )
        self.store = open_store(self.config.database_url)
        evening = completed_at(DAYS[0]) + pd.Timedelta(seconds=1)
        self.exchange = Exchange(Market(self.bars, self.actions), evening.to_pydatetime(), Decimal(100_000))
        self.desk = Desk(self.exchange, Journal(None), driven=True)
        self.day = 0

    def serve(self, url: str) -> None:
        self.config = self.config.model_copy(update={"execution": Execution(url=url)})
        self.executor = Executor(self.config, self.store, get_broker(self.config), settle=0.02)

    def learn(self) -> None:
        """The session's bars and actions into the store, and its signals."""
        day = DAYS[self.day]
        self.store.write_bars(self.bars[self.bars.index.get_level_values("timestamp") == day])
        if (now := self.actions["timestamp"] == day).any():
            self.store.write_actions(self.actions[now])
        update_signals(self.store, configured_strategy(self.config))

    def trade(self) -> None:
        self.executor.turn() if self.day else self.executor.once()

    def until(self, day: pd.Timestamp, *, trade: bool = True) -> "World":
        """Each evening up to that of a day: bars, signals, orders; without the last one's orders if it isn't to trade."""
        while True:
            self.learn()
            if DAYS[self.day] == day:
                if trade:
                    self.trade()
                return self
            self.trade()
            wind(self.config, "close")
            self.day += 1

    def evening(self, day: str = "", **changes) -> Evening:
        config = self.config.model_copy(update=changes)
        return read_evening(self.store, config, day, pd.Timestamp(self.exchange.now))

    def needs(self, **changes) -> list[str]:
        return needs_of(parts(self.evening(**changes)))

    def sql(self, text: str, area: str = "ledger", **values) -> None:
        with self.store.engine.transaction(area, write=True) as transaction:
            transaction.rows(text, **values)


@pytest.fixture
def planned(monkeypatch) -> None:
    """A strategy that buys on days that are known beforehand."""

    def plan(bars, **parameters):
        symbol = "B" if bars.close.iloc[0] >= 15 else "A"
        return Rules(buy={"as planned": pd.Series(bars.index == BUYS[symbol], bars.index)}, sell={})

    crossover = signal_engine._STRATEGIES["crossover"]
    monkeypatch.setitem(
        signal_engine._STRATEGIES, "crossover", signal_engine.replace(crossover, function=plan, needs={})
    )


@pytest.fixture
def world(planned, tmp_path: Path) -> Iterator[World]:
    made = World(tmp_path)
    with served(made.desk, port=0) as addresses:
        made.serve(addresses.url)
        yield made


def page(evening: Evening) -> str:
    return "".join(one.html for one in parts(evening).values())


# A normal evening


def test_a_half_day_with_a_fill_is_all_well_and_its_figures_are_those_by_hand(world: World) -> None:
    evening = world.until(FRIDAY).evening()
    told = summary(evening, found := parts(evening))
    assert needs_nobody(told), told
    assert "Friday, 23 November 2012, a half day, the local paper account, as of Fri 23 Nov 13:00 EST" in told
    # floor(50,000 / 10.05) = 4,975 shares, bought at 10.04 and worth 10.50 at the close
    assert "equity $102,288.50 (+$2,288.50)" in told
    orders = found["orders"].html
    assert "Buy 4,975 A at most 10.05" in orders
    assert "signal&#x27;s close 10.00, $199.00 (40.0 bp) lost; open 10.04, nothing lost" in orders
    assert "Commissions: none" in orders
    books = found["books"].html
    assert all(
        words in books for words in ("$100,000.00", "−$49,949.00", "$50,051.00", "The broker says the same")
    )
    signals = found["signals"].html
    assert "Of Wednesday, 21 November, for this session" in signals
    assert "filled at 10.04" in signals
    assert "waits for Mon 26 Nov 09:30 EST" in signals
    assert "Nothing differs" in found["again"].html


def test_the_evening_before_a_holiday_says_when_the_next_session_is(world: World) -> None:
    found = parts(world.until(WEDNESDAY).evening())
    assert "Thursday, 22 November" in found["next"].html
    assert "holiday" in found["next"].html
    assert "09:30 to 13:00 EST, a half day" in found["next"].html


def test_a_limit_that_was_not_reached_needs_nobody_and_says_how_far_away_it_was(world: World) -> None:
    evening = world.until(MONDAY).evening()
    assert needs_nobody(summary(evening, parts(evening)))
    assert "not filled: the session&#x27;s low was 20.30" in page(evening)


def test_fills_that_the_books_lack_are_told_and_are_no_difference(world: World) -> None:
    """As where orders are sent before the open only: in the evening nobody has asked the broker since."""
    evening = world.until(FRIDAY, trade=False).evening()
    told = summary(evening, found := parts(evening))
    assert needs_nobody(told), told
    assert "equity $102,288.50 (+$2,288.50)" in told
    assert "1 fill" in told
    assert "1 line of its statement will be booked by the next" in found["books"].html
    assert "waits; acted on until Mon 26 Nov 16:00 EST" in found["signals"].html
    world.trade()
    again = world.evening()
    assert "equity $102,288.50 (+$2,288.50)" in summary(again, parts(again))


def test_a_day_of_the_past_is_told_as_it_was_that_evening(world: World) -> None:
    then = summary(evening := world.until(FRIDAY).evening(), parts(evening))
    wind(world.config, "close")
    world.day += 1
    now = summary(evening := world.until(TUESDAY).evening("2012-11-23"), found := parts(evening))
    assert now.splitlines()[0] == then.splitlines()[0]
    assert "as of that evening, as far as the books say" in now
    assert "waits for Mon 26 Nov 09:30 EST" in found["signals"].html
    assert "The broker keeps no evenings" in found["books"].html


def test_a_holiday_and_a_weekend_lead_to_the_session_before(world: World) -> None:
    evening = world.until(FRIDAY).evening("2012-11-22")
    told = summary(evening, parts(evening))
    assert (
        "XNYS was closed on Thursday, 22 November; this is the session before it. Wednesday, 21 November 2012"
        in told
    )
    saturday = find_day("2012-11-24", pd.Timestamp("2012-11-24 15:00"))
    assert (saturday.session, saturday.live) == (FRIDAY, True)


def test_without_an_account_the_bars_and_signals_are_told(world: World) -> None:
    world.learn()
    evening = world.evening()
    told = summary(evening, parts(evening))
    assert needs_nobody(told)
    assert "no account yet" in told
    assert "opens its books" in page(evening)
    assert world.until(FRIDAY).evening("2012-11-16").account is None, "it was opened on the 19th"


def test_an_account_that_has_not_traded_yet_is_all_well(world: World) -> None:
    evening = world.until(DAYS[0]).evening()
    told = summary(evening, parts(evening))
    assert told.startswith("All well: equity $100,000.00 ($0.00)"), told
    assert "No order was meant for this session" in page(evening)
    assert "There was nothing to decide" in page(evening)


def test_over_a_split_slippage_and_profit_are_in_the_new_shares(planned, tmp_path: Path) -> None:
    halved = [tuple(price / 2 for price in bar) for bar in A[3:]]
    world = World(tmp_path, [*A[:3], *halved], [("A", FRIDAY, "split", 2.0), ("A", MONDAY, "split", 2.0)])
    world.bars.loc[("A", MONDAY), ["open", "high", "low", "close"]] = [2.625, 2.65, 2.6, 2.625]
    world.exchange.market.add(world.bars, world.actions)
    with served(world.desk, port=0) as addresses:
        world.serve(addresses.url)
        assert world.until(FRIDAY, trade=False).needs() == []
        world.trade()
        evening = world.evening()
        # The order of 4,975 at 10.05 has become 9,950 at 5.025; the close of 10.00 is 5.00 in new shares, the open 5.02.
        assert needs_nobody(summary(evening, found := parts(evening))), summary(evening, found)
        assert "close 5.00, $199.00 (40.0 bp) lost; open 5.02, nothing lost" in found["orders"].html
        assert "A split" in found["data"].html
        wind(world.config, "close")
        world.day += 1
        monday = world.until(MONDAY).evening()
        told = summary(monday, found := parts(monday))
        assert needs_nobody(told), told
        assert "equity $102,288.50 ($0.00)" in told
        assert "19,900 A" in found["books"].html


# Each kind of trouble


def missing(world: World) -> None:
    world.sql(
        "DELETE FROM raw_prices WHERE symbol = 'B' AND \"timestamp\" = $day",
        "market",
        day=FRIDAY.to_pydatetime(),
    )


def note(
    world: World, rule: str, day: pd.Timestamp, *, symbol: str = "B", rejected: bool = True, **bar
) -> None:
    told = {"open": 20.0, "high": 20.0, "low": 20.0, "close": 20.0, "volume": 1000.0, **bar}
    issue = {
        "symbol": symbol,
        "timestamp": day,
        "rule": rule,
        "detail": "open 20, high 1",
        "rejected": rejected,
        "bar": told,
    }
    world.store.write_fetched(
        world.store.bars().head(0),
        actions_frame(),
        pd.DataFrame([issue]),
        world.store.coverage().head(0).reset_index(),
    )


def rejected(world: World) -> None:
    missing(world)
    note(world, "range", FRIDAY)


def books_off(world: World) -> None:
    world.sql("UPDATE account SET cash = cash + 0.01")


def broker_off(world: World) -> None:
    world.exchange.cash += Decimal("0.01")


def holding_gone(world: World) -> None:
    del world.exchange.positions["A"]


def unexplained(world: World) -> None:
    world.sql("UPDATE orders SET limit_price = limit_price + 0.02 WHERE symbol = 'A'")


def halted(world: World) -> None:
    world.executor.book.halt("the broker has another order under its id")


def switched(world: World) -> None:
    turn_on(world.store, world.config.kill_file, "earnings", world.exchange.now)


def kill_file(world: World) -> None:
    world.config.kill_file.touch()


def lapsed(world: World) -> None:
    world.desk.driven = False  # only where the clock is driven is a promotion not asked for


def scheduled(world: World) -> None:
    folder = world.config.home / "schedules"
    folder.mkdir()
    cell = new_code_cell("symbols = []", metadata={"tags": ["parameters"]})
    nbformat.write(new_notebook(cells=[cell]), world.config.home / "idle.ipynb")
    (folder / "bars.toml").write_text(
        'notebook = "idle.ipynb"\ntrigger = { event = "close", offset = "-3h" }\n'
    )
    (schedule,) = load_schedules(world.config)
    for moment in (timedelta(hours=4), timedelta(0)):
        notice(world.store, schedule, world.exchange.now - moment)


def parked(world: World) -> None:
    scheduled(world)
    world.sql("UPDATE dues SET state = 'parked', error = 'no bars came'")


def wrong_file(world: World) -> None:
    (world.config.home / "schedules").mkdir()
    (world.config.home / "schedules" / "bars.toml").write_text("notebook =")


def refused(world: World) -> None:
    world.sql("UPDATE orders SET status = 'REJECTED', reason = 'asset is halted' WHERE symbol = 'B'")


def unclear(world: World) -> None:
    world.sql("UPDATE orders SET status = 'UNKNOWN', reason = 'no answer within 10 s' WHERE symbol = 'B'")


def not_stored(world: World) -> None:
    world.sql("DELETE FROM signals WHERE symbol = 'B'")


def missed(world: World) -> None:
    world.sql("DELETE FROM orders WHERE symbol = 'A'")
    world.sql("UPDATE signals SET state = 'NEW', executed = FALSE, decided = NULL WHERE symbol = 'A'")


def jumped(world: World) -> None:
    note(world, "jump", FRIDAY, rejected=False)


def by_hand(world: World) -> None:
    trade = {"symbol": "A", "side": "sell", "qty": 5, "price": 10.5}
    world.exchange.now = world.exchange.now.replace(hour=17, minute=59)
    Owner(world.desk).answer("POST", "/trades", trade)
    world.exchange.now = world.exchange.now.replace(hour=18, minute=0, second=1)


@pytest.mark.parametrize(
    ("trouble", "said"),
    [
        (missing, "B has no bar of this session: the newest is of 2012-11-21; `tradebot fetch B`"),
        (rejected, "B has no bar of this session: what came was rejected (range: open 20, high 1)"),
        (books_off, "our books do not add up"),
        (books_off, "cash is 50,051.01 in our books and 50,051.00 at the broker"),
        (broker_off, "cash is 50,051.00 in our books and 50,051.01 at the broker"),
        (holding_gone, "A: 4975 shares in our books, 0 at the broker"),
        (unexplained, "A buy decision has no known cause"),
        (halted, "trading is halted: the broker has another order under its id"),
        (switched, "the kill switch is on, nothing is bought: 2012-11-23 18:00 UTC: earnings"),
        (kill_file, "the kill switch is on"),
        (lapsed, "nothing is bought: crossover is not promoted to paper"),
        (scheduled, "schedule bars is late; it has not succeeded yet"),
        (parked, "schedule bars is parked: no bars came"),
        (wrong_file, "the schedules cannot be read: "),
        (refused, "Buy 2,490 B at most 20.10 was rejected: asset is halted"),
        (unclear, "is not known: no answer within 10 s"),
        (not_stored, "1 signal of this session not stored (buy B)"),
        (missed, "buy A of 2012-11-21 was missed: nobody decided it in time"),
        (jumped, "B jumped on 2012-11-23"),
        (by_hand, "a fill that tradebot did not order: sell 5 A at 10.50"),
    ],
)
def test_each_trouble_is_named_and_stands_on_the_page(world: World, trouble: Callable, said: str) -> None:
    assert world.until(FRIDAY).needs() == []
    trouble(world)
    evening = world.evening()
    needs = needs_of(found := parts(evening))
    assert any(said in need for need in needs), needs
    assert not needs_nobody(summary(evening, found))
    assert "class=bad" in "".join(one.html for one in found.values())


def test_a_broker_that_cannot_be_reached_needs_a_person(world: World) -> None:
    world.until(FRIDAY)
    there = Execution(url="http://127.0.0.1:9")
    told = world.needs(execution=there)
    assert len(told) == 1
    assert "could not be held against the broker's" in told[0]
    assert "cannot be reached" in told[0]


def test_another_account_at_the_broker_is_none_of_ours(world: World) -> None:
    world.until(FRIDAY)
    world.exchange.id = "another"
    assert "it has account another, and our books are of" in world.needs()[0]


def test_a_loss_limit_that_stops_buys_is_told(planned, tmp_path: Path) -> None:
    world = World(tmp_path, [*A[:3], (10.04, 10.1, 7.9, 8.0), *A[4:]])
    with served(world.desk, port=0) as addresses:
        world.serve(addresses.url)
        world.until(FRIDAY)
        limits = {"max_daily_loss": 0.05, "max_drawdown": None}
        assert world.needs() == []
        told = world.needs(risk=world.config.risk.model_copy(update=limits))
        # 4,975 shares from 10.04 to 8.00 are 10,149 dollars
        assert "a loss limit stops buys: loss today of 10.1%, max_daily_loss is 5.0%" in told


def test_changed_prices_of_the_days_before_need_a_person_and_changed_volumes_do_not(world: World) -> None:
    world.until(FRIDAY)
    note(world, "revised", WEDNESDAY, volume=7.0)
    assert world.needs() == []
    note(world, "revised", WEDNESDAY, close=19.0, low=19.0)
    assert len(world.needs()) == 1
    assert "B of 2012-11-21 is told otherwise now" in world.needs()[0]


def test_what_a_switch_skipped_needs_nobody_once_it_is_off(world: World) -> None:
    world.until(DAYS[1])
    switched(world)
    wind(world.config, "close")
    world.day += 1
    world.until(WEDNESDAY)
    world.config.kill_file.unlink()
    world.sql("UPDATE switches SET is_on = FALSE")
    evening = world.evening()
    assert needs_of(found := parts(evening)) == []
    assert "skipped: kill switch" in found["signals"].html
    assert "order skipped" in found["again"].html


def test_a_deposit_is_no_profit(world: World) -> None:
    world.until(FRIDAY, trade=False)
    world.exchange.now -= timedelta(minutes=2)
    world.exchange.pay(Decimal(500))
    world.exchange.now += timedelta(minutes=2)
    evening = world.evening()
    told = summary(evening, found := parts(evening))
    assert needs_nobody(told), told
    assert "equity $102,788.50 (+$2,288.50)" in told
    assert "Deposits" in found["books"].html


# What is asked for


@pytest.mark.parametrize(
    ("day", "said"),
    [
        ("tomorrow's", "is not a date"),
        ("2012-11-26", "is not over yet"),
        ("2012-11-25", "is not over yet"),
        ("1950-01-03", "known from"),
        ("2999-01-04", "is not"),
        ("nat", "is not a date"),
    ],
)
def test_a_day_that_cannot_be_told_is_one_line(day: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        find_day(day, pd.Timestamp("2012-11-24 15:00"))


def test_the_evening_lasts_until_the_next_open() -> None:
    for now, session in (
        ("2012-11-23 17:59", WEDNESDAY),
        ("2012-11-23 18:00", FRIDAY),
        ("2012-11-26 20:59", FRIDAY),
    ):
        assert find_day("", pd.Timestamp(now)).session == session
    past = find_day("2012-11-21", pd.Timestamp("2012-11-26 20:59"))
    assert (past.live, past.at) == (False, pd.Timestamp("2012-11-23 14:30"))


def test_slippage_of_a_sell_is_what_a_lower_price_cost() -> None:
    fills = pd.DataFrame(
        {"side": ["sell", "buy"], "quantity": [10.0, 5], "price": [9.9, 20.2], "close": [10.0, 20.0]}
    )
    cost, points = slippage(fills, "close")
    assert (round(cost, 6), round(points, 6)) == (2.0, 100.0)
    assert np.isnan(slippage(fills.assign(close=np.nan), "close")).all()


def test_five_minute_bars_are_told_by_session(tmp_path: Path) -> None:
    labels = labels_between(WEDNESDAY, FRIDAY, "5m")
    config = Config(
        home=tmp_path, data={"universe": ("A",), "provider": "csv", "interval": "5m"},
        environment=Environment(database_url=f"duckdb:///{tmp_path}/data"),
    )  # fmt: skip
    store = open_store(config.database_url)
    bars = frames({"A": [FLAT] * len(labels)}, labels)
    store.write_bars(bars)
    evening = read_evening(store, config, "", pd.Timestamp("2012-11-23 18:30"))
    told = summary(evening, found := parts(evening))
    assert needs_nobody(told), told
    assert "42 5m bars in all" in found["data"].html, "from 9:30 to 13:00"
    assert list(session_bars(bars).loc["A"].index) == [WEDNESDAY, FRIDAY]


def test_five_minute_bars_of_a_traded_account_are_told_with_their_fills(
    planned, monkeypatch, tmp_path: Path
) -> None:
    labels = labels_between(WEDNESDAY, FRIDAY, "5m")
    ten = labels.get_loc(pd.Timestamp("2012-11-23 15:00"))
    monkeypatch.setitem(BUYS, "A", labels[ten])
    world = World(tmp_path)
    world.config = world.config.model_copy(
        update={"data": world.config.data.model_copy(update={"interval": "5m", "universe": ("A",)})}
    )
    world.bars = frames({"A": [*[FLAT] * (ten + 1), A[3], *[RISEN] * (len(labels) - ten - 2)]}, labels)
    world.exchange = Exchange(
        Market(world.bars),
        pd.Timestamp("2012-11-23 15:05:01").to_pydatetime(),
        Decimal(100_000),
        interval="5m",
    )
    world.desk = Desk(world.exchange, Journal(None), driven=True)
    with served(world.desk, port=0) as addresses:
        world.serve(addresses.url)
        world.store.write_bars(world.bars[: ten + 1])
        update_signals(world.store, configured_strategy(world.config), daily=False)
        world.executor.once()
        wind(world.config, "close")
        world.store.write_bars(world.bars)
        for turned in (False, True):
            evening = world.evening()
            told = summary(evening, found := parts(evening))
            assert needs_nobody(told), (turned, told)
            # Within a session the local broker fills at the newest close: 4,975 shares at 10.00 where 10.04 came next.
            assert "equity $102,487.50 (+$2,487.50)" in told
            assert "close 10.00, nothing lost; open 10.04, $199.00 (39.8 bp) gained" in found["orders"].html
            assert "Fri 23 Nov 10:00 EST, as planned" in found["signals"].html
            world.executor.turn()


def test_a_server_tells_the_same_evening(world: World, postgres_url: str) -> None:
    there = summary(evening := world.until(FRIDAY, trade=False).evening(), parts(evening))
    world.store, source = open_store(postgres_url), world.store
    copy_store(source, world.store)
    found = parts(evening := world.evening())
    assert summary(evening, found) == there
    assert "1 line of its statement" in found["books"].html
    note(world, "range", FRIDAY, symbol="A")
    assert "range, rejected" in page(world.evening())


def test_an_empty_store_says_that_no_bars_are_there(tmp_path: Path) -> None:
    config = Config(home=tmp_path, environment=Environment(database_url=f"duckdb:///{tmp_path}/data"))
    evening = read_evening(open_store(config.database_url), config, "", pd.Timestamp("2012-11-23 18:30"))
    (need,) = needs_of(parts(evening))
    assert need.startswith(
        "AAPL, FB, GOOG, IBM, MSFT have no bar of this session: none is stored; `tradebot fetch AAPL FB"
    )


# The notebook, the command and the schedule


@pytest.fixture
def sampled(home: Path) -> Path:
    assert tradebot(home, "fetch").returncode == 0
    assert tradebot(home, "signals").returncode == 0
    return home


def test_the_command_ends_with_one_if_a_person_is_needed_and_its_run_succeeds_all_the_same(
    sampled: Path,
) -> None:
    well = tradebot(sampled, "day")
    assert well.returncode == 0, well.stdout + well.stderr
    assert well.stdout.startswith("All well: no account yet, 5 of 5 symbols with bars")
    assert "Friday, 1 March 2013" in well.stdout, "the sample's last session"
    store = store_of(sampled)
    with store.engine.transaction("market", write=True) as transaction:
        transaction.rows(
            "DELETE FROM raw_prices WHERE symbol = 'IBM' AND \"timestamp\" = TIMESTAMP '2013-02-28'"
        )
    ill = tradebot(sampled, "day", "2013-02-28")
    assert ill.returncode == 1
    assert ill.stdout.startswith("1 thing needs you:\n  1. IBM has no bar of this session")
    assert Path(ill.stdout.splitlines()[-1].strip()).is_file()
    runs = store.runs().query("notebook == 'day.ipynb'")
    assert runs["status"].tolist() == ["succeeded"] * 2
    for words in ("2013-02-30", "2999-01-04"):
        answer = tradebot(sampled, "day", words)
        assert (answer.returncode, len(answer.stderr.splitlines())) == (2, 1)


def store_of(home: Path) -> Store:
    return open_store(f"duckdb:///{home}/data")


def test_somebody_is_told_of_the_newest_session_alone(sampled: Path) -> None:
    (sampled / "KILL").touch()
    notebook = ("run", "nbs/pipelines/day.ipynb", "-p", "now=2013-02-28T22:00")
    with Webhook() as hook:
        there = {"TRADEBOT_NOTIFY_CHANNELS": "webhook", "TRADEBOT_WEBHOOK_URL": hook.url}
        assert tradebot(sampled, *notebook, "-p", "day=2013-02-27", **there).returncode == 0
        assert hook.bodies == []
        told = tradebot(sampled, *notebook, **there)
        assert told.returncode == 0
        assert told.stdout.startswith("1 thing needs you:\n  1. The kill switch is on")
    (body,) = hook.bodies
    assert json.loads(body)["text"].startswith("tradebot day: 1 thing needs you: 1. The kill switch is on")


def test_the_schedule_is_due_once_a_session_after_the_pipeline_half_days_included() -> None:
    schedules = {one.name: one for one in load_schedules(load_config(ROOT, {}))}
    day, daily = schedules["day"], schedules["daily"]
    assert day.enabled
    span = pd.Timestamp("2024-11-25"), pd.Timestamp("2024-12-07")
    dues, closes = (
        due_between(day, *span),
        exchange_calendar("XNYS").closes["2024-11-25":"2024-12-06"].dt.tz_localize(None),
    )
    assert dues == [close + pd.Timedelta("90min") for close in closes]
    assert pd.Timestamp("2024-11-29 19:30") in dues, "the half day after Thanksgiving"
    # Every attempt of the pipeline but those that take long has begun by then.
    tries = daily.trigger.offset + daily.backoff * (2**daily.retries - 1)
    assert tries < day.trigger.offset


# In a browser


@pytest.mark.parametrize("look", ["light", "dark"])
@pytest.mark.parametrize("ill", [False, True], ids=["well", "ill"])
def test_the_page_fits_a_phone_and_begins_with_its_first_line(
    world: World, browser, tmp_path: Path, look: str, ill: bool
) -> None:
    world.until(FRIDAY)
    for trouble in (rejected, broker_off, holding_gone, switched) if ill else ():
        trouble(world)
    evening = world.evening()
    from tradebot.day import first_screen

    html = [first_screen(evening, found := parts(evening)), *(one.html for one in found.values())]
    cells = [nbformat.v4.new_markdown_cell("# The day")]
    for one in html:
        output = nbformat.v4.new_output("display_data", {"text/html": one})
        cells.append(new_code_cell("", outputs=[output]))
    path = tmp_path / "notebook.ipynb"
    nbformat.write(new_notebook(cells=cells), path)
    shown = browser.new_page(viewport={"width": 390, "height": 844}, color_scheme=look, is_mobile=True)
    wrong: list[str] = []
    shown.on(
        "request", lambda asked: None if asked.url.startswith(("file:", "data:")) else wrong.append(asked.url)
    )
    shown.goto(write_html(path).as_uri())
    first = shown.get_by_role("status")
    assert first.inner_text().startswith("5 things need you" if ill else "All well")
    box = first.bounding_box()
    assert box["y"] + box["height"] < 844, "it isn't on the first screen"
    assert shown.evaluate("document.documentElement.scrollWidth <= innerWidth"), "it doesn't fit"
    assert shown.evaluate(
        "[...document.querySelectorAll('.day, .day li, .day dl')].every((e) => e.getBoundingClientRect().right <= innerWidth)"
    )
    assert not wrong
    shown.close()
