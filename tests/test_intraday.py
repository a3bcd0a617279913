"""Five-minute bars from a provider's server to an order: sessions on a driven clock, with bars in progress, late and corrected."""

from collections.abc import Callable, Iterator
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook
from servers.alpaca_data import KEY, SECRET, AlpacaDataStandIn

from tradebot.alpaca import get_broker
from tradebot.cli import main
from tradebot.config import UserError, load_config
from tradebot.data_fetch import fetch_universe, plan_pages
from tradebot.dues import Claim, dues_frame
from tradebot.exchange import Exchange, Market, Settings
from tradebot.executor import Executor, cash_proof
from tradebot.indicators import compute
from tradebot.paper_broker import Desk, Journal, served
from tradebot.pipeline import (
    configured_features,
    configured_strategy,
    update_features,
    update_signals,
)
from tradebot.prices import actions_frame, bars_frame
from tradebot.providers import PROVIDERS, AlpacaProvider
from tradebot.risk import limit_price
from tradebot.runs import Leash
from tradebot.scheduler import Scheduler, notebook_work
from tradebot.schedules import Schedule, next_due
from tradebot.sessions import bar_after, completed_at, in_session, labels_between, last_complete
from tradebot.store import open_store

FIVE, NONE = pd.Timedelta("5min"), actions_frame()
SYMBOLS = ("AAPL", "IBM")
INTRADAY = (Path(__file__).parents[1] / "schedules" / "intraday.toml").read_text()


def at(text: str) -> pd.Timestamp:
    return pd.Timestamp(text)


def walk(first: str, last: str, symbols: tuple[str, ...] = SYMBOLS, seed: int = 1) -> pd.DataFrame:
    """Random bars of every five minutes of the sessions from `first` to `last`, in cents."""
    chance, labels, rows = np.random.default_rng(seed), labels_between(at(first), at(last), "5m"), []
    for symbol in symbols:
        closes = (100 * np.exp(chance.normal(0, 0.002, len(labels)).cumsum())).round(2)
        opens = (np.append(100.0, closes[:-1]) + chance.integers(-5, 6, len(labels)) / 100).round(2)
        high, low = np.maximum(opens, closes) + 0.05, np.minimum(opens, closes) - 0.05
        prices = {"open": opens, "high": high.round(2), "low": low.round(2), "close": closes}
        volume = chance.integers(1, 9999, len(labels))
        rows.append(pd.DataFrame({"symbol": symbol, "timestamp": labels, **prices, "volume": volume}))
    return bars_frame(pd.concat(rows))


class Tape:
    """What a provider's server has at a moment: bars that are over, the one in progress, and those outside the session."""

    def __init__(self, server: AlpacaDataStandIn, bars: pd.DataFrame):
        self.server, self.bars = server, bars
        self.late: dict[tuple[str, pd.Timestamp], pd.Timestamp] = {}  # not served before
        self.closes: dict[tuple[str, pd.Timestamp], float] = {}  # served instead

    def over(self, now: pd.Timestamp) -> pd.DataFrame:
        """The bars that are over at a moment and served, as they were first."""
        over = self.bars[self.bars.index.get_level_values("timestamp") + FIVE <= now]
        return over.drop([key for key, served in self.late.items() if served > now and key in over.index])

    def show(self, now: pd.Timestamp) -> None:
        """The server's clock is at this moment."""
        over, day = self.over(now), now.normalize()
        self.server.now = now.timestamp()
        around = pd.date_range(day + pd.Timedelta("9h"), now, freq=FIVE)
        rumours = around[~in_session(around) | (around + FIVE > now)]
        close = 115.0 if now.minute % 10 else 85.0
        extra = pd.DataFrame(
            [[100.0, 120.0, 80.0, close, 7.0]] * len(rumours), rumours, over.columns, dtype="float64"
        )
        for (symbol, label), close in self.closes.items():
            if (symbol, label) in over.index:
                over.loc[(symbol, label), ["high", "low", "close"]] = [200.0, 50.0, close]
        for symbol in self.bars.index.levels[0]:
            self.server.intraday[symbol, "5m"] = pd.concat([over.xs(symbol), extra]).sort_index()


class House:
    """A project on five-minute bars, whose pipeline runs in this process, and whose clock is set by hand."""

    def __init__(self, home: Path, url: str, tape: Tape, **settings: str):
        self.tape, self.store, self.now = tape, open_store(url), datetime(2024, 1, 1)
        environ = {
            "DATABASE_URL": url,
            "TRADEBOT_DATA_PROVIDER": "alpaca",
            "TRADEBOT_DATA_UNIVERSE": ",".join(tape.bars.index.levels[0]),
            "TRADEBOT_DATA_INTERVAL": "5m",
            "TRADEBOT_DATA_START": f"{tape.bars.index.levels[1][0]:%Y-%m-%d}",
            "TRADEBOT_STRATEGY_SMA": "3",
            "TRADEBOT_STRATEGY_EMA": "8",
            **settings,
        }
        self.environ, self.config = environ, load_config(home, environ)
        self.strategy, self.calls = configured_strategy(self.config), configured_features(self.config)
        (home / "schedules").mkdir(parents=True)
        (home / "schedules" / "intraday.toml").write_text(INTRADAY.replace("enabled = false", ""))
        pipeline = home / "nbs" / "pipelines" / "pipeline.ipynb"
        pipeline.parent.mkdir(parents=True)
        nbformat.write(new_notebook(cells=[new_code_cell("1 + 1")]), pipeline)

    def pipeline(self, now: pd.Timestamp) -> pd.DataFrame:
        """What the notebook does."""
        fetched = fetch_universe(self.store, self.config, now)
        well = list(fetched.index[fetched["status"] != "failed"])
        update_features(self.store, self.calls, well, daily=False)
        update_signals(self.store, self.strategy, well, daily=False)
        return fetched

    def work(self, schedule: Schedule, claim: Claim, leash: Leash) -> tuple[str, str]:
        self.fetched = self.pipeline(pd.Timestamp(claim.due))
        return "", ""

    def ticks(self, begin: str, end: str, work: Callable | None = None) -> Iterator[pd.Timestamp]:
        """The schedule's due times from one moment to another, each after its run."""
        self.now = datetime.fromisoformat(begin)
        told: list[str] = []
        scheduler = Scheduler(
            self.config,
            self.store,
            work or self.work,
            lambda: self.now,
            lambda kind, text, more: told.append(text),
        )
        scheduler.look()
        while (due := next_due(scheduler.schedules[0], self.now)) <= at(end):
            self.now = due.to_pydatetime()
            self.tape.show(due)
            scheduler.look()
            scheduler.settle()
            assert not told
            yield due

    def bars(self) -> pd.DataFrame:
        return self.store.bars(daily=False)

    def signals(self) -> list[tuple]:
        return told(self.store.signals(self.strategy.label))

    def batch(self, bars: pd.DataFrame) -> list[tuple]:
        """The signals of these bars, found in one go."""
        from tradebot.signal_engine import generate

        return told(generate(bars, NONE, self.strategy).signals)

    def check_bars(self, now: pd.Timestamp) -> pd.DataFrame:
        bars = self.tape.over(now)
        pd.testing.assert_frame_equal(self.bars(), bars, check_index_type=False, check_freq=False)
        return bars

    def check(self, now: pd.Timestamp, seen: set[tuple] | None = None) -> None:
        """Bars, features and signals are those of all bars that are over, computed in one go.

        With `seen`, signals of earlier moments that late bars have taken away since are there, too.
        """
        bars = self.check_bars(now)
        batch = compute(bars, self.calls)
        stored = self.store.features(list(batch.columns))
        pd.testing.assert_frame_equal(stored, batch, rtol=1e-9, check_index_type=False, check_names=False)
        found = self.batch(bars)
        if seen is not None:
            seen |= set(found)
        assert self.signals() == sorted(found if seen is None else seen)


def told(signals: pd.DataFrame) -> list[tuple]:
    prices = [details["price"] for details in signals["details"]]
    return sorted(zip(signals["timestamp"], signals["symbol"], signals["signal_type"], prices, strict=True))


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[AlpacaDataStandIn]:
    with AlpacaDataStandIn() as server:
        monkeypatch.setitem(
            PROVIDERS, "alpaca", lambda config: AlpacaProvider(KEY, SECRET, url=server.url, timeout=5.0)
        )
        yield server


def house(tmp_path: Path, url: str, server: AlpacaDataStandIn, bars: pd.DataFrame, **settings: str) -> House:
    return House(tmp_path, url, Tape(server, bars), **settings)


@pytest.fixture
def thanksgiving(tmp_path: Path, url: str, server: AlpacaDataStandIn) -> House:
    """The last week of November 2024, with two sessions before it and one behind; on the 29th New York closes at one."""
    return house(tmp_path, url, server, walk("2024-11-25", "2024-12-02"))


# Whole sessions


def whole_sessions(house: House, begin: str, end: str, counts: dict[str, int]) -> None:
    requests_before, days = 0, []
    for due in house.ticks(begin, end):
        house.check(due)
        days.append(f"{due:%m-%d}")
        asked = [r.query for r in house.tape.server.requests[requests_before:] if "timeframe" in r.query]
        requests_before = len(house.tape.server.requests)
        if len(days) > 1:
            assert len(asked) == len(SYMBOLS)
            served = {pd.Timestamp(query["start"]).tz_convert(None) for query in asked}
            assert served == {labels_between(*[last_complete(due - FIVE, "5m").normalize()] * 2, "5m")[0]}
    assert {day: days.count(day) for day in days} == counts
    assert set(dues_frame(house.store, None)["state"]) == {"succeeded"}
    assert house.store.issues().empty
    assert len(house.signals()) > 20


def test_a_whole_session(tmp_path: Path, server: AlpacaDataStandIn) -> None:
    made = house(tmp_path, f"duckdb:///{tmp_path}/data", server, walk("2024-11-25", "2024-11-27"))
    whole_sessions(made, "2024-11-27T12:00", "2024-11-27T23:00", {"11-27": 78})


def test_half_a_day_after_a_holiday_and_the_open_after_a_weekend(thanksgiving: House) -> None:
    whole_sessions(
        thanksgiving, "2024-11-27T20:57", "2024-12-02T14:50", {"11-27": 1, "11-29": 42, "12-02": 3}
    )


@pytest.mark.parametrize(
    ("first", "last", "closes_and_opens"),
    [
        ("2024-03-08", "2024-03-11", ["08 21:00:05", "11 13:35:05"]),
        ("2024-11-01", "2024-11-04", ["01 20:00:05", "04 14:35:05"]),
    ],
    ids=["March", "November"],
)
def test_the_weekend_on_which_the_clock_changes(
    tmp_path: Path, server: AlpacaDataStandIn, first: str, last: str, closes_and_opens: list[str]
) -> None:
    made = house(tmp_path, f"duckdb:///{tmp_path}/data", server, walk(first, last))
    close = completed_at(at(first))
    begin, end = f"{close - 4 * FIVE:%Y-%m-%dT%H:%M}", f"{last}T14:50"
    ticks = []
    for due in made.ticks(begin, end):
        made.check(due)
        ticks.append(f"{due:%d %H:%M:%S}")
    assert [tick for tick in ticks if tick in closes_and_opens] == closes_and_opens


# The bar in progress


@pytest.fixture
def wednesday(tmp_path: Path, server: AlpacaDataStandIn) -> House:
    """The 25th to the 29th of November 2024, on the embedded store."""
    return house(tmp_path, f"duckdb:///{tmp_path}/data", server, walk("2024-11-25", "2024-11-29"))


@pytest.mark.parametrize(
    ("ours", "theirs", "newest"),
    [
        ("2024-11-27 14:34:57", "2024-11-27 14:34:57", "2024-11-26 20:55"),
        ("2024-11-27 14:35:00", "2024-11-27 14:35:00", "2024-11-27 14:30"),
        ("2024-11-27 14:35:05", "2024-11-27 14:43:00", "2024-11-27 14:30"),
        ("2024-11-27 14:35:05", "2024-11-27 14:34:55", "2024-11-26 20:55"),
        ("2024-11-27 14:41:00", "2024-11-27 14:38:00", "2024-11-27 14:30"),
        ("2024-11-27 20:59:58", "2024-11-27 20:59:58", "2024-11-27 20:50"),
        ("2024-11-27 21:00:05", "2024-11-27 21:00:05", "2024-11-27 20:55"),
        ("2024-11-27 23:59:00", "2024-11-27 23:59:00", "2024-11-27 20:55"),
        ("2024-11-28 15:02:00", "2024-11-28 15:02:00", "2024-11-27 20:55"),
        ("2024-11-29 14:00:00", "2024-11-29 14:00:00", "2024-11-27 20:55"),
        ("2024-11-29 17:59:59", "2024-11-29 17:59:59", "2024-11-29 17:50"),
        ("2024-11-29 18:00:05", "2024-11-29 18:03:00", "2024-11-29 17:55"),
        ("2024-11-30 00:10:00", "2024-11-30 00:10:00", "2024-11-29 17:55"),
    ],
)
def test_a_bar_that_is_not_over_is_no_bar_whoevers_clock_is_wrong(
    wednesday: House, ours: str, theirs: str, newest: str
) -> None:
    wednesday.tape.show(at(theirs))
    wednesday.pipeline(at(ours))
    assert wednesday.bars().index[-1][1] == at(newest)
    wednesday.check(min(at(ours), at(theirs)))
    wednesday.tape.show(at("2024-11-30 12:00"))
    wednesday.pipeline(at("2024-11-30 12:00"))
    wednesday.check(at("2024-11-30 12:00"))
    assert wednesday.store.issues().empty


def test_bars_of_no_session_are_left_out_and_bars_off_the_grid_are_rejected_once(
    tmp_path: Path, server: AlpacaDataStandIn
) -> None:
    bars = walk("2024-11-27", "2024-11-27", ("AAPL",)).xs("AAPL")
    odd = bars.iloc[[0, 0, 0, 0]].set_axis(
        pd.DatetimeIndex([f"2024-11-{text}" for text in ("27 14:25", "27 14:32", "27 21:00", "28 15:00")])
    )
    pd.concat([bars, odd]).sort_index().to_csv(tmp_path / "AAPL.csv", index_label="timestamp")
    settings = {"PROVIDER": "csv", "CSV_FOLDER": str(tmp_path), "UNIVERSE": "AAPL"}
    made = house(
        tmp_path / "house", f"duckdb:///{tmp_path}/data", server, walk("2024-11-27", "2024-11-27", ("AAPL",)),
        **{f"TRADEBOT_DATA_{name}": value for name, value in settings.items()},
    )  # fmt: skip
    for now in ("2024-11-27 14:45", "2024-11-27 14:50", "2024-11-27 21:00", "2024-11-30 00:00"):
        made.pipeline(at(now))
        made.check(at(now))
    issues = made.store.issues()
    assert list(zip(issues["timestamp"], issues["rule"], strict=True)) == [
        (at("2024-11-27 14:32"), "session")
    ]


def test_an_interval_without_a_trade_holds_up_nothing(tmp_path: Path, server: AlpacaDataStandIn) -> None:
    bars = walk("2024-11-25", "2024-11-27")
    label = bars.index.get_level_values("timestamp")
    illiquid = (bars.index.get_level_values("symbol") == "IBM") & (label >= "2024-11-27")
    bars.loc[illiquid & (label == "2024-11-27 15:05"), "volume"] = 0
    bars = bars[~illiquid | label.isin(pd.DatetimeIndex(["2024-11-27 14:45", "2024-11-27 15:05"]))]
    made = house(tmp_path, f"duckdb:///{tmp_path}/data", server, bars)
    made.tape.show(at("2024-11-26 22:00"))
    made.pipeline(at("2024-11-26 22:00"))
    for due in made.ticks("2024-11-27T12:00", "2024-11-27T15:26"):
        made.check(due)
        assert set(made.fetched["status"]) == {"updated"}
        assert set(made.store.coverage("5m")["last"]) == {last_complete(due, "5m")}
    issues = made.store.issues()
    assert list(zip(issues["timestamp"], issues["rule"], strict=True)) == [
        (at("2024-11-27 15:05"), "no volume")
    ]
    assert made.store.failures().empty


# Late and corrected


def test_a_late_bar_is_stored_at_the_next_look_and_holds_up_nobody(thanksgiving: House) -> None:
    house, seen = thanksgiving, set()
    late = {"14:45": "14:55:05", "15:00": "15:20:05", "15:05": "15:20:05"}
    house.tape.late = {
        ("IBM", at(f"2024-11-29 {label}")): at(f"2024-11-29 {served}") for label, served in late.items()
    }
    house.tape.late["IBM", at("2024-11-29 17:55")] = at("2024-11-29 18:00:30")
    house.tape.show(at("2024-11-28 12:00"))
    house.pipeline(at("2024-11-28 12:00"))
    for due in house.ticks("2024-11-29T12:00", "2024-11-29T15:31"):
        house.check(due, seen)
        assert house.fetched["new"].tolist()[0] == 1, "Apple's bar is there at its tick"
    assert house.fetched["new"].tolist() == [1, 1]
    for _ in house.ticks("2024-11-29T17:46", "2024-11-29T18:01"):
        pass
    assert ("IBM", at("2024-11-29 17:55")) not in house.bars().index
    house.tape.show(at("2024-11-29 18:20"))
    assert house.pipeline(at("2024-11-29 18:20"))["new"].tolist() == [0, 1], "the look after the close"
    assert house.pipeline(at("2024-11-29 18:20"))["new"].tolist() == [0, 0]
    assert house.bars().index.is_unique
    assert house.store.issues().empty
    stored = set(house.signals())
    assert stored >= set(house.batch(house.bars())), (
        "every signal of the whole day is there, under its own bar's time"
    )


def taken_back(house: House, symbol: str, day: pd.Timestamp) -> tuple[tuple[pd.Timestamp, str], float]:
    """A signal of a day, by bar and side, and another close of its bar with which there would be none."""
    for label, other, side, close in house.batch(house.tape.bars):
        for right in (round(close * 0.997, 2), round(close * 1.003, 2)):
            bars = house.tape.bars.copy()
            bars.loc[(symbol, label), "close"] = right
            left = {one[:3] for one in house.batch(bars)}
            if other == symbol and label > day and (label, symbol, side) not in left:
                return (label, side), right
    raise AssertionError("no such signal")


def test_a_corrected_bar_is_reported_once_and_replaced_only_when_asked(
    thanksgiving: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    house = thanksgiving
    (label, side), right = taken_back(house, "AAPL", at("2024-11-29"))
    wrong = "AAPL", label
    for due in house.ticks("2024-11-29T12:00", f"{label + 6 * FIVE:%Y-%m-%dT%H:%M}"):
        if due > label + 3 * FIVE and wrong not in house.tape.closes:
            house.tape.closes[wrong] = right
            first, corrected = house.bars().loc[wrong], due + FIVE
        house.check(due)
        assert house.fetched.loc["AAPL", "revised"] == (wrong in house.tape.closes and due >= corrected)
    (issue,) = house.store.issues().to_dict("records")
    assert (issue["rule"], issue["timestamp"]) == ("revised", wrong[1])
    assert house.bars().loc[wrong].equals(first)

    before, features = house.signals(), house.store.features(["sma_20", "ema_50", "rsi_14"])
    for name, value in {**house.environ, "TRADEBOT_HOME": str(house.config.home)}.items():
        monkeypatch.setenv(name, value)
    assert main(["fetch", "--repair", "--start", "2024-11-29", "--end", "2024-11-29", "AAPL"]) == 0
    assert house.bars().loc[wrong, "close"] == right
    assert house.store.issues()["rule"].tolist() == ["repaired", "revised"]
    house.pipeline(due)
    after = house.store.features(["sma_20", "ema_50", "rsi_14"])
    changed = (after - features).abs().max(axis=1) > 1e-9
    assert changed.xs("AAPL").any()
    assert not changed.xs("IBM").any()
    pd.testing.assert_frame_equal(
        after, compute(house.bars(), house.calls)[after.columns], check_index_type=False, check_names=False
    )
    found = {one[:3] for one in house.batch(house.bars())}
    assert {one[:3] for one in house.signals()} == {one[:3] for one in before} | found, (
        "what was said stays said"
    )
    assert (label, "AAPL", side) not in found
    assert [one for one in house.signals() if one in before] == before
    assert house.pipeline(due)["revised"].tolist() == [0, 0]


@settings(deadline=None)
@given(
    start=st.integers(0, 300),
    length=st.integers(0, 300),
    more=st.integers(0, 300),
    months=st.sampled_from([1, 12]),
)
def test_a_plan_looks_over_the_session_of_the_newest_bar_and_asks_for_no_other_twice(
    start: int, length: int, more: int, months: int
) -> None:
    labels = labels_between(at("2024-11-25"), at("2024-12-20"), "5m")
    covered = labels[start], labels[start + length]
    end = labels[start + length + more]
    pages = plan_pages(covered[0], end, covered, months, "5m")
    opened = labels[labels.normalize() == covered[1].normalize()][0]
    assert pages[0].start == opened
    assert pages[-1].end == end
    assert [page.covered[1] for page in pages][-1] == end
    assert plan_pages(covered[0], covered[1] - FIVE, covered, months, "5m") == []


def test_one_store_keeps_one_interval_below_a_day(wednesday: House) -> None:
    wednesday.tape.show(at("2024-11-27 15:00"))
    wednesday.pipeline(at("2024-11-27 15:00"))
    other = load_config(wednesday.config.home, {**wednesday.environ, "TRADEBOT_DATA_INTERVAL": "15m"})
    with pytest.raises(UserError, match=r"interval = 15m: this store holds 5m bars"):
        fetch_universe(wednesday.store, other, at("2024-11-27 15:05"))


@pytest.mark.parametrize("end", ["2024-11-29", "2024-11-29 17:55"])
def test_a_day_as_the_end_is_all_of_its_session(wednesday: House, end: str) -> None:
    wednesday.tape.show(at("2024-11-30 12:00"))
    with pytest.raises(
        UserError, match="end 2024-11-29 17:55 UTC is not complete yet; the newest complete bar is"
    ):
        fetch_universe(wednesday.store, wednesday.config, at("2024-11-29 15:00:05"), end=at(end))
    fetch_universe(wednesday.store, wednesday.config, at("2024-11-30 12:00"), end=at(end))
    wednesday.check_bars(at("2024-11-30 12:00"))


# From signal to order


class Floor:
    """The local paper broker over HTTP on the same bars, and an executor; both on the house's clock."""

    def __init__(self, house: House, **execution: str):
        self.house, self.zero = house, Decimal(0)
        self.exchange = Exchange(
            Market(house.tape.bars), datetime(2024, 11, 27, 12), Decimal(10_000), Settings(Decimal(1), True), interval="5m"
        )  # fmt: skip
        self.served = served(Desk(self.exchange, Journal(None), driven=True), port=0)
        self.addresses = self.served.__enter__()
        environ = {**house.environ, "TRADEBOT_EXECUTION_URL": self.addresses.url}
        environ |= {f"TRADEBOT_EXECUTION_{name.upper()}": value for name, value in execution.items()}
        config = load_config(house.config.home, environ)
        self.executor = Executor(config, house.store, get_broker(config), settle=0.02)

    def __enter__(self) -> "Floor":
        return self

    def __exit__(self, *error: object) -> None:
        self.served.__exit__(*error)

    def trade(self, now: pd.Timestamp) -> dict[str, int]:
        """A pass of the executor at a moment: how many signals met which end."""
        session = requests.Session()
        session.trust_env = False
        with (
            session,
            session.post(f"{self.addresses.owner}/clock", json={"now": f"{now.isoformat()}Z"}) as answer,
        ):
            assert answer.status_code == 200, answer.text
        done = self.executor.turn() if self.executor._clock else self.executor.once()
        assert not done.halted
        assert self.exchange.cash >= 0
        assert self.exchange.buying_power >= 0
        ends = {"EXPIRED": done.expired} if done.expired else {}
        for choice in done.choices:
            assert completed_at(pd.Timestamp(choice.signal.bar), "5m") <= now, (
                "a bar in progress led to an order"
            )
            ends[choice.state] = ends.get(choice.state, 0) + 1
        return ends

    def fills(self) -> list[tuple]:
        lines = [line for line in self.exchange.activities if line["activity_type"] == "FILL"]
        return [
            (pd.Timestamp(line["transaction_time"]).tz_convert(None).floor("s"), line["symbol"], line["side"], int(line["qty"]),
             Decimal(line["price"]))
            for line in lines
        ]  # fmt: skip


def plain(
    bars: pd.DataFrame, signals: list[tuple], first: pd.Timestamp, last: pd.Timestamp
) -> tuple[list, Decimal]:
    """Fills and cash of ten thousand dollars that follow the signals of the bars from `first` to `last`.

    An order leaves six seconds after its bar and meets the open of the next one; it fills there, or never.
    """
    cash, held, fills = Decimal(10_000), dict.fromkeys(SYMBOLS, 0), []
    for label in labels_between(first, last, "5m"):
        if not first <= label <= last:
            continue
        following = bar_after(label, 1, "5m")
        within = following - label == FIVE
        when = following + pd.Timedelta("6s") if within else following
        told = sorted((one for one in signals if one[0] == label), key=lambda one: (one[2] == "buy", one[1]))
        free, orders = cash, []
        for _, symbol, side, close in told:
            if side == "sell" and held[symbol]:
                orders.append((symbol, side, held[symbol]))
            elif side == "buy" and not any(one[:2] == (symbol, "sell") for one in orders):
                limit = limit_price(Decimal(str(close)), Decimal("0.005"))
                if shares := int(free // limit):
                    orders.append((symbol, side, shares))
                    free -= shares * limit
        for symbol, side, shares in orders:
            price = Decimal(str(bars.loc[(symbol, following), "open"]))
            sign = 1 if side == "buy" else -1
            cash, held[symbol] = cash - sign * shares * price, held[symbol] + sign * shares
            fills.append((when, symbol, side, shares, price))
    return fills, cash


def test_signals_of_half_a_day_become_fills_at_the_next_open_within_the_cash(
    tmp_path: Path, url: str, server: AlpacaDataStandIn
) -> None:
    house = House(tmp_path, url, Tape(server, walk("2024-11-25", "2024-12-02", seed=21)))
    house.tape.show(at("2024-11-27 22:00"))
    house.pipeline(at("2024-11-27 22:00"))
    with Floor(house) as floor:
        ends = floor.trade(at("2024-11-29 12:00"))  # the last bar's signals wait for the open
        for due in house.ticks("2024-11-29T12:00", "2024-12-02T14:41"):
            for state, count in floor.trade(due + pd.Timedelta("1s")).items():
                ends[state] = ends.get(state, 0) + count
        signals = [one for one in house.signals() if one[0] >= at("2024-11-27 20:55")]
        fills, cash = plain(house.tape.bars, signals, at("2024-11-27 20:55"), at("2024-12-02 14:35"))
        assert floor.fills() == fills
        assert floor.exchange.cash == cash
        assert len(fills) == 12
        assert at("2024-12-02 14:30") in {fill[0] for fill in fills}, "from the last bar of Friday"
        assert sum(ends.values()) - ends.pop("EXPIRED") == len(signals), "every signal is decided at its tick"
        proof = cash_proof(house.store, floor.executor.book.account, floor.executor.broker.account().cash)
        assert proof["end"] == proof["at the broker"] == f"{floor.exchange.cash:,.2f}"
    house.check(due)


@pytest.mark.parametrize(
    ("which", "moment", "max_age", "state"),
    [
        ("within", "5min 6s", "1", "acted on"),
        ("within", "9min 59s", "1", "acted on"),
        ("within", "10min", "1", "EXPIRED"),
        ("within", "10min 6s", "2", "acted on"),
        ("within", "15min", "2", "EXPIRED"),
        ("last", "2024-11-29 18:00:06", "1", "acted on"),
        ("last", "2024-12-02 14:34:59", "1", "acted on"),
        ("last", "2024-12-02 14:35:00", "1", "EXPIRED"),
    ],
)
def test_the_signal_of_a_late_bar_is_acted_on_while_its_bar_is_young_enough(
    tmp_path: Path, server: AlpacaDataStandIn, which: str, moment: str, max_age: str, state: str
) -> None:
    made = house(tmp_path, f"duckdb:///{tmp_path}/data", server, walk("2024-11-25", "2024-12-02", seed=21))
    of_friday = [one for one in made.batch(made.tape.bars) if at("2024-11-29") < one[0] < at("2024-11-30")]
    label, symbol, _, _ = of_friday[-1] if which == "last" else of_friday[0]
    assert (label == at("2024-11-29 17:55")) == (which == "last")
    now = at(moment) if which == "last" else label + pd.Timedelta(moment)
    made.tape.late[symbol, label] = now
    made.tape.show(now)
    made.pipeline(now)
    with Floor(made, max_age=max_age) as floor:
        floor.trade(now)
    with made.store.engine.transaction("ledger") as transaction:
        ((found,),) = transaction.rows(
            'SELECT state FROM signals WHERE symbol = $symbol AND "timestamp" = $label',
            symbol=symbol, label=label.to_pydatetime(),
        )  # fmt: skip
    assert found == state or (state == "acted on" and found in ("EXECUTED", "SKIPPED"))


# The real notebook, and what refuses


@pytest.fixture
def at_home(tmp_path: Path, server: AlpacaDataStandIn, monkeypatch: pytest.MonkeyPatch) -> House:
    """A house with the real notebooks, whose provider are files; kernels and commands find it."""
    settings = {"TRADEBOT_DATA_PROVIDER": "csv", "TRADEBOT_DATA_CSV_FOLDER": "csv"}
    made = house(tmp_path, f"duckdb:///{tmp_path}/data", server, walk("2024-11-27", "2024-11-29"), **settings)
    (tmp_path / "csv").mkdir()
    for notebook in (Path(__file__).parents[1] / "nbs" / "pipelines").glob("*.ipynb"):
        (tmp_path / "nbs" / "pipelines" / notebook.name).write_text(notebook.read_text())
    for name, value in {**made.environ, "TRADEBOT_HOME": str(tmp_path)}.items():
        monkeypatch.setenv(name, value)
    return made


def test_the_notebook_on_a_schedule_that_says_as_of_when(at_home: House) -> None:
    schedule = at_home.config.home / "schedules" / "intraday.toml"
    schedule.write_text(schedule.read_text() + '[parameters]\nnow = "{due}"\n')
    run = notebook_work(at_home.config, at_home.store, lambda kind, text, details: None)

    def work(schedule: Schedule, claim: Claim, leash: Leash) -> tuple[str, str]:
        for (symbol, _), bars in at_home.tape.server.intraday.items():
            bars.to_csv(at_home.config.home / "csv" / f"{symbol}.csv", index_label="timestamp")
        return run(schedule, claim, leash)

    for due in at_home.ticks("2024-11-29T17:51", "2024-11-29T18:01", work):
        assert dues_frame(at_home.store)["error"].tolist()[0] in (None, "")
        at_home.check(due)
    assert due == at("2024-11-29 18:00:05")
    assert at_home.store.runs()["status"].tolist() == ["succeeded", "succeeded"]


@pytest.mark.parametrize(
    "words",
    [["backtest"], ["parity"], ["replay", "2024-11-27", "2024-11-29"], ["sweep", "--over", "sma=3,5"]],
)
def test_what_trades_days_only_says_so(
    at_home: House, words: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    at_home.tape.show(at("2024-11-27 22:00"))
    assert main(words) != 0
    assert "[data] interval = 5m: a" in (error := capsys.readouterr().err)
    assert "daily bars only; set it to 1d" in error
