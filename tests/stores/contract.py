"""The contract of a store, as one class that every engine passes with the fixture `url` only."""

import contextlib
import json
import multiprocessing
import os
import select
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradebot.config import UserError
from tradebot.db_models import TABLES
from tradebot.engine import StoreError, Written
from tradebot.prices import actions_frame
from tradebot.store import Store, open_store

TESTS = Path(__file__).resolve().parent.parent
NO_INPUTS = pd.DataFrame(columns=["symbol", "recipe", "digest", "bars"])

# Children that have imported everything start in a hundredth of a second, so they can be killed often.
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["pandas", "duckdb", "psycopg2", "stores.contract"])


def some_bars(symbols: int = 2, sessions: int = 5, start: str = "2012-01-02") -> pd.DataFrame:
    """Bars whose prices tell their place: symbol n, session t closes at 100 n + t."""
    index = pd.MultiIndex.from_product(
        [[f"S{n:03d}" for n in range(symbols)], pd.bdate_range(start, periods=sessions)],
        names=["symbol", "timestamp"],
    )
    close = 100.0 * np.repeat(np.arange(1, symbols + 1), sessions) + np.tile(np.arange(sessions), symbols)
    return pd.DataFrame(
        {"open": close, "high": close + 1, "low": close - 1, "close": close, "volume": 1000.0}, index=index
    )


def one_signal(details: dict, when: object = "2012-01-03", side: str = "buy") -> pd.DataFrame:
    return pd.DataFrame(
        {"symbol": ["S000"], "timestamp": [pd.Timestamp(when)], "signal_type": [side], "details": [details]}
    )


def in_process(code: str, *arguments: object, **options) -> subprocess.Popen:
    """A Python of its own, running `code` with sys.argv[1:] = arguments."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, cwd=TESTS, text=True, **options)


def write_years(url: str, number: int, rounds: int, said=None) -> None:
    """In a child: forty bars of symbol `number` in each of twenty years, over and over, saying each that is committed."""
    store = open_store(url)
    for step in range(rounds):
        bars = some_bars(number + 1, 40, start=f"{2000 + step % 20}-01-03").xs(
            f"S{number:03d}", drop_level=False
        )
        store.write_bars(bars + 0.01 * (step // 20))
        if said:
            said.send(step)


def write_signals(url: str, number: int, rounds: int) -> None:
    """In a child: one signal after another under a label of its own."""
    store = open_store(url)
    for step in range(rounds):
        store.write_signals(
            f"writer {number}", one_signal({"step": step}, f"2012-01-{step % 27 + 1:02d} 00:{step:02d}")
        )


def read_for_a_while(url: str, seconds: float) -> None:
    """In a child: read everything, again and again."""
    store, end = open_store(url), time.monotonic() + seconds
    while time.monotonic() < end:
        store.bars()


@contextlib.contextmanager
def children(function, *calls: tuple) -> Iterator[list]:
    """Processes running `function` with each of the argument tuples; at the end they must have ended well."""
    started = [PROCESSES.Process(target=function, args=call) for call in calls]
    for child in started:
        child.start()
    yield started
    for child in started:
        child.join(120)
    assert [child.exitcode for child in started] == [0] * len(started)


def write_as_before_versions(store: Store, bars: pd.DataFrame, actions: pd.DataFrame | None = None) -> None:
    """Write as versions of tradebot did whose tables had no `as_of`."""
    given = {"raw_prices": bars.reset_index(), "corporate_actions": actions}
    with store.engine.transaction("market", write=True) as market:
        for name, frame in given.items():
            if frame is not None:
                market.upsert(replace(TABLES[name], filled=("id",), superseded=None), frame)


def at(moment: str):
    """A clock that stands still."""
    return pd.Timestamp(moment).to_pydatetime


MINUTE_0 = pd.Timestamp("2012-02-01")
MOMENTS = "SELECT as_of FROM raw_prices UNION SELECT as_of FROM bar_versions ORDER BY 1"
a_day = st.sampled_from([(symbol, pd.Timestamp(f"2012-01-0{day}")) for symbol in "AB" for day in (3, 4, 5)])
# Minutes since the write before, then closes and split ratios by symbol and day.
a_write = st.tuples(
    st.integers(1, 120),
    st.dictionaries(a_day, st.sampled_from([10.0, 10.5, 11.0]), min_size=1, max_size=4),
    st.dictionaries(a_day, st.sampled_from([2.0, 3.0]), max_size=2),
)


def write_state(store: Store, bars: dict, actions: dict, moment: pd.Timestamp) -> None:
    """Closes by (symbol, day) and split ratios by (symbol, day), as one fetched page."""
    index = pd.MultiIndex.from_tuples(list(bars), names=["symbol", "timestamp"])
    close = np.array(list(bars.values()))
    frame = pd.DataFrame({"open": close, "high": close, "low": close, "close": close, "volume": 1.0}, index)
    splits = actions_frame([(*key, "split", ratio) for key, ratio in actions.items()])
    issues = pd.DataFrame(columns=["symbol", "timestamp", "rule", "detail", "rejected", "bar"])
    coverage = pd.DataFrame(columns=["symbol", "interval", "provider", "first", "last"])
    store.write_fetched(frame.sort_index(), splits, issues, coverage, moment.to_pydatetime)


def repair_again_and_again(url: str, said) -> None:
    """In a child: every bar a little higher, over and over, saying each that is committed, until it is killed."""
    store, bars = open_store(url), some_bars(40, 250)
    step = round(float((store.bars()["close"] - bars["close"]).iloc[0]))
    while True:
        step += 1
        store.write_bars(bars + step)
        said.send(step)


class StoreContract:
    """What every store does. A subclass gives the fixture `url`."""

    @pytest.fixture
    def store(self, url: str) -> Store:
        return open_store(url)

    def test_bars_come_back_to_the_last_bit(self, store: Store, sample) -> None:
        bars, _ = sample
        assert store.write_bars(bars) == Written(inserted=len(bars))
        pd.testing.assert_frame_equal(store.bars(), bars, check_exact=True)

    def test_every_seventh_row_of_a_frame_is_stored_as_it_is(self, store: Store) -> None:
        some = some_bars(3, 50)[::7]
        assert store.write_bars(some) == Written(inserted=len(some))
        pd.testing.assert_frame_equal(store.bars(), some, check_freq=False)
        assert store.write_bars((some * 2)[::-1]) == Written(updated=len(some))
        pd.testing.assert_frame_equal(store.bars(), some * 2, check_freq=False)

    @pytest.mark.parametrize("copy_on_write", [False, True])
    def test_a_frame_that_was_read_belongs_to_its_reader(self, store: Store, copy_on_write: bool) -> None:
        # pandas_ta switches pandas' copy-on-write on for the whole process when it is imported.
        with pd.option_context("mode.copy_on_write", copy_on_write):
            store.write_bars(some_bars())
            read = store.bars()
            read.iloc[0, 3] = 7.0
            assert read.iloc[0, 3] == 7.0

    def test_writing_twice_is_writing_once(self, store: Store) -> None:
        store.write_bars(some_bars())
        assert store.write_bars(some_bars()) == Written(unchanged=10)
        assert len(store.bars()) == 10

    def test_a_bar_that_differs_replaces_and_the_rest_is_left_alone(self, store: Store) -> None:
        bars = some_bars()
        store.write_bars(bars)
        changed = bars.copy()
        changed.iloc[3, 3] += 0.5
        assert store.write_bars(changed) == Written(updated=1, unchanged=9)
        assert store.bars()["close"].iloc[3] == bars["close"].iloc[3] + 0.5

    def test_an_empty_frame_writes_nothing(self, store: Store) -> None:
        assert store.write_bars(some_bars().iloc[:0]) == Written()
        assert store.bars().empty
        assert store.bars().index.names == ["symbol", "timestamp"]

    def test_two_rows_for_one_key_are_refused_and_nothing_is_written(self, store: Store) -> None:
        bars = some_bars()
        with pytest.raises(ValueError, match="two rows for"):
            store.write_bars(pd.concat([bars, bars.iloc[:1]]))
        assert store.bars().empty

    def test_a_range_includes_both_ends(self, store: Store) -> None:
        store.write_bars(some_bars(sessions=5))
        read = store.bars(["S001"], "2012-01-03", "2012-01-05")
        assert list(read["close"]) == [201.0, 202.0, 203.0]

    def test_daily_and_intraday_bars_do_not_mix(self, store: Store) -> None:
        daily, intraday = some_bars(1, 2), some_bars(1, 2)
        intraday.index = intraday.index.set_levels(intraday.index.levels[1] + pd.Timedelta(hours=14), level=1)
        store.write_bars(daily)
        store.write_bars(intraday)
        pd.testing.assert_frame_equal(store.bars(), daily)
        pd.testing.assert_frame_equal(store.bars(daily=False), intraday)

    def test_adjusted_prices_know_only_the_actions_up_to_the_end(self, store: Store) -> None:
        store.write_bars(some_bars(1, 5))
        store.write_actions(actions_frame([("S000", "2012-01-04", "split", 2.0)]))
        assert list(store.bars(adjusted=True)["close"]) == [50.0, 50.5, 102.0, 103.0, 104.0]
        assert list(store.bars(adjusted=True, end="2012-01-03")["close"]) == [100.0, 101.0]
        assert list(store.bars(adjusted=True, start="2012-01-03", end="2012-01-04")["close"]) == [50.5, 102.0]

    def test_features_are_valid_json_without_nan_or_infinity(self, store: Store) -> None:
        bars = some_bars(1, 4)
        features = pd.DataFrame(
            {"a": [np.nan, np.inf, -np.inf, 1.5], "b": [1.0, 2.0, 3.0, 4.0]}, index=bars.index
        )
        store.write_features(features, NO_INPUTS)
        with store.engine.transaction("market") as transaction:
            rows = transaction.rows('SELECT "values" FROM indicators ORDER BY "timestamp"')
        parsed = [
            json.loads(text, parse_constant=pytest.fail) if isinstance(text, str) else text
            for (text,) in rows
        ]
        assert [each["a"] for each in parsed] == [None, None, None, 1.5]
        pd.testing.assert_frame_equal(store.features(["a", "b"]), features.replace([np.inf, -np.inf], np.nan))

    def test_a_feature_that_was_never_stored_reads_as_nan(self, store: Store) -> None:
        features = pd.DataFrame({"a": [1.0]}, index=some_bars(1, 1).index)
        store.write_features(features, NO_INPUTS)
        assert store.features(["other"])["other"].isna().all()

    def test_a_signal_once_given_never_changes(self, store: Store) -> None:
        assert store.write_signals("s", one_signal({"price": 1.0}), "first") == Written(inserted=1)
        assert store.write_signals("s", one_signal({"price": 2.0}), "second") == Written(unchanged=1)
        assert store.signals()["details"].tolist() == [{"price": 1.0, "run": "first"}]

    def test_two_strategies_may_say_the_same(self, store: Store) -> None:
        store.write_signals("one", one_signal({}))
        store.write_signals("two", one_signal({}))
        assert len(store.signals()) == 2
        assert len(store.signals("one")) == 1

    def test_signal_ids_rise_in_the_order_of_writing(self, store: Store) -> None:
        for day in range(2, 7):
            store.write_signals("s", one_signal({}, f"2012-01-0{day}"))
        assert store.signals()["id"].is_monotonic_increasing

    def test_details_that_are_no_json_are_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="JSON"):
            store.write_signals("s", one_signal({"price": float("nan")}))
        assert store.signals().empty

    def test_a_page_is_stored_whole_or_not_at_all(self, store: Store) -> None:
        coverage = pd.DataFrame(
            {
                "symbol": ["S000"],
                "interval": "1d",
                "provider": "x",
                "first": None,
                "last": pd.Timestamp("2012-01-03"),
            }
        ).astype({"first": "datetime64[ns]"})
        issues = pd.DataFrame(columns=["symbol", "timestamp", "rule", "detail", "rejected", "bar"])
        with pytest.raises(ValueError, match=r"(?i)null .*first|first.* null"):
            store.write_fetched(some_bars(), actions_frame(), issues, coverage)
        assert store.bars().empty

    def test_failures_of_a_provider_are_counted_and_the_newest_is_told(self, store: Store) -> None:
        store.write_failures("x", {"AAA": "no such", "BBB": "down\0"}, pd.Timestamp("2012-01-03 21:00"))
        store.write_failures("x", {"BBB": 'it\'s "é"'}, pd.Timestamp("2012-01-04 21:00"))
        store.write_failures("y", {"BBB": "down"}, pd.Timestamp("2012-01-02"))
        told = store.failures().set_index(["provider", "symbol"])
        assert told["failures"].to_dict() == {("x", "AAA"): 1, ("x", "BBB"): 2, ("y", "BBB"): 1}
        assert told["error"].tolist() == ["no such", 'it\'s "é"', "down"]
        assert told["latest"].tolist() == list(
            pd.to_datetime(["2012-01-03 21:00", "2012-01-04 21:00", "2012-01-02 00:00"])
        )

    def test_a_block_that_raises_leaves_nothing_behind(self, store: Store) -> None:
        store.write_bars(some_bars())

        def fail_midway() -> None:
            with store.engine.transaction("market", write=True) as transaction:
                transaction.rows("DELETE FROM raw_prices")
                raise KeyboardInterrupt

        with pytest.raises(KeyboardInterrupt):
            fail_midway()
        assert len(store.bars()) == 10

    def test_the_schema_is_the_specification_s(self, store: Store) -> None:
        with store.engine.transaction("market") as market, store.engine.transaction("ledger") as ledger:
            columns = {
                name: [
                    row[0]
                    for row in transaction.rows(
                        "SELECT column_name FROM information_schema.columns WHERE table_name = $name "
                        "ORDER BY ordinal_position",
                        name=name,
                    )
                ]
                for transaction, name in ((market, "raw_prices"), (market, "indicators"), (ledger, "signals"))
            }
        assert columns["raw_prices"] == [
            "id",
            "symbol",
            "timestamp",
            "open",
            "high",
            "low",
            "close",
            "volume",
            "as_of",
        ]
        assert columns["indicators"] == ["id", "symbol", "timestamp", "values"]
        assert set(columns["signals"]) == {
            "id", "symbol", "timestamp", "signal_type", "details", "executed", "strategy", "state", "reason", "decided"
        }  # fmt: skip

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        values=st.lists(st.floats(min_value=1e-6, max_value=1e9, allow_nan=False), min_size=1, max_size=12)
    )
    def test_any_price_comes_back_as_it_was(self, store: Store, values: list[float]) -> None:
        bars = some_bars(1, len(values))
        bars["close"] = values
        store.write_bars(bars)
        assert store.bars(start=bars.index[0][1], end=bars.index[-1][1])["close"].tolist() == values

    # Versions

    def test_a_bar_that_was_replaced_is_read_as_of_when_it_was_current(self, store: Store) -> None:
        first, second = some_bars(), some_bars()
        second.iloc[3, 3] += 0.25
        store.write_bars(first, at("2012-01-10 10:00"))
        store.write_bars(second, at("2012-01-11 10:00"))
        for moment, expected in (
            ("2012-01-10 10:00", first),
            ("2012-01-11 09:59:59.999999", first),
            ("2012-01-11 10:00", second),
            ("2030-01-01", second),
        ):
            pd.testing.assert_frame_equal(store.bars(known=moment), expected, check_freq=False)
        assert store.bars(["S000"], "2012-01-05", known="2012-01-10 10:00")["close"].tolist() == [
            103.0,
            104.0,
        ]
        assert store.bars(["S000"], "2012-01-05")["close"].tolist() == [103.25, 104.0]

    def test_what_came_later_was_not_known_before(self, store: Store) -> None:
        store.write_bars(some_bars(1, 3), at("2012-01-10 10:00"))
        store.write_bars(some_bars(2, 5), at("2012-01-11 10:00"))
        assert len(store.bars(known="2012-01-10 12:00")) == 3
        assert len(store.bars(known="2012-01-11 12:00")) == 10

    def test_unchanged_values_keep_their_moment(self, store: Store) -> None:
        for hour in (10, 11, 12):
            store.write_bars(some_bars(), at(f"2012-01-10 {hour}:00"))
        with store.engine.transaction("market") as transaction:
            assert transaction.rows("SELECT DISTINCT as_of FROM raw_prices") == [(at("2012-01-10 10:00")(),)]
            assert transaction.rows("SELECT count(*) FROM bar_versions") == [(0,)]

    def test_actions_are_read_as_they_were_known_and_adjust_as_they_did(self, store: Store) -> None:
        store.write_bars(some_bars(1, 5), at("2012-01-10 10:00"))
        for day, ratio in ((11, 2.0), (12, 4.0)):
            store.write_actions(
                actions_frame([("S000", "2012-01-04", "split", ratio)]), at(f"2012-01-{day} 10:00")
            )
        assert store.actions(known="2012-01-10 10:00").empty
        assert store.actions(known="2012-01-11 10:00")["value"].tolist() == [2.0]
        assert store.actions()["value"].tolist() == [4.0]
        closes = [
            store.bars(adjusted=True, known=f"2012-01-{day} 10:00")["close"].iloc[0] for day in (10, 11, 12)
        ]
        assert closes == [100.0, 50.0, 25.0]

    def test_a_moment_before_the_first_is_refused_with_the_first_that_can_be_asked_for(
        self, store: Store
    ) -> None:
        with pytest.raises(UserError, match="nothing in this store says since when it is known"):
            store.bars(known="2012-01-10")
        store.write_bars(some_bars(), at("2012-01-10 10:00"))
        changed = some_bars() + 1
        store.write_bars(changed, at("2012-01-11 10:00"))
        assert store.first_known() == pd.Timestamp("2012-01-10 10:00")
        for read in (store.bars, store.actions):
            with pytest.raises(
                UserError, match="as of 2012-01-10 10:00:00 UTC or later, not as of 2012-01-10"
            ):
                read(known="2012-01-10 09:59:59")

    def test_a_bar_without_a_moment_counts_as_known_always(self, store: Store) -> None:
        store.write_bars(some_bars(1, 3), at("2012-01-10 10:00"))
        with store.engine.transaction("market", write=True) as transaction:
            transaction.rows("UPDATE raw_prices SET as_of = NULL")
        changed = some_bars(1, 3)
        changed.iloc[1, 3] += 1
        store.write_bars(changed, at("2012-01-11 10:00"))
        assert store.before("2012-01-11 10:00")[0]["close"].tolist() == [100.0, 101.0, 102.0]
        assert store.bars(known="2012-01-11 10:00")["close"].tolist() == [100.0, 102.0, 102.0]
        with pytest.raises(UserError, match="before that it kept no versions"):
            store.bars(known="2012-01-11 09:00")

    def test_a_clock_that_was_set_back_never_leaves_two_versions_at_once(self, store: Store) -> None:
        for step, moment in enumerate(["2012-01-11 10:00", "2012-01-10 10:00", "2012-01-11 10:00"]):
            store.write_bars(some_bars(1, 1) + step, at(moment))
        first = pd.Timestamp("2012-01-11 10:00")
        read = [store.bars(known=first + pd.Timedelta(step, "us"))["close"].tolist() for step in range(3)]
        assert read == [[100.0], [101.0], [102.0]]

    @settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
    @given(steps=st.lists(a_write, min_size=1, max_size=8), asked=st.lists(st.integers(0, 900), max_size=4))
    def test_any_history_reads_as_a_list_of_its_states(
        self, store: Store, steps: list[tuple[int, dict, dict]], asked: list[int]
    ) -> None:
        with store.engine.transaction("market", write=True) as transaction:
            for table in ("raw_prices", "corporate_actions", "bar_versions", "action_versions"):
                transaction.rows(f"DELETE FROM {table}")
        states, minute = [], 0
        for later, bars, actions in steps:
            minute += later
            write_state(store, bars, actions, MINUTE_0 + pd.Timedelta(minute, "min"))
            before = states[-1] if states else (0, {}, {})
            states.append((minute, {**before[1], **bars}, {**before[2], **actions}))
        for moment in [minute for minute, *_ in states] + asked:
            known = MINUTE_0 + pd.Timedelta(moment, "min")
            _, bars, actions = ([(0, {}, {})] + [state for state in states if state[0] <= moment])[-1]
            if not bars and not actions:
                continue  # before the first
            assert store.bars(known=known)["close"].to_dict() == bars
            told = store.actions(known=known).set_index(["symbol", "timestamp"])["value"].to_dict()
            assert told == actions
        assert store.bars()["close"].to_dict() == states[-1][1]

    def test_a_writer_that_is_killed_leaves_each_version_whole(self, store: Store, url: str) -> None:
        store.write_bars(some_bars(40, 250), at("2012-01-10 10:00"))
        for attempt in range(6):
            heard, said = PROCESSES.Pipe(duplex=False)
            child = PROCESSES.Process(target=repair_again_and_again, args=(url, said))
            child.start()
            heard.recv()
            time.sleep(0.007 * attempt)
            os.kill(child.pid, signal.SIGKILL)
            child.join()
            with store.engine.transaction("market") as transaction:
                moments = [moment for (moment,) in transaction.rows(MOMENTS)]
            for moment in moments:
                steps = (store.bars(known=moment)["close"] - some_bars(40, 250)["close"]).round(6)
                assert steps.nunique() == 1, f"as of {moment} some bars are repaired and others aren't"
                assert len(steps) == 10_000
        assert len(moments) > 6

    def test_what_was_replaced_is_listed_by_value(self, store: Store) -> None:
        store.write_bars(some_bars(2, 5), at("2012-01-10 10:00"))
        assert store.revisions().empty
        changed = some_bars(2, 5)
        changed.iloc[7, [3, 4]] = [202.25, 900.0]
        store.write_bars(changed, at("2012-01-11 10:00"))
        store.write_actions(actions_frame([("S000", "2012-01-04", "dividend", 0.5)]), at("2012-01-12 10:00"))
        store.write_actions(actions_frame([("S000", "2012-01-07", "dividend", 0.5)]), at("2012-01-12 11:00"))
        told = store.revisions().drop(columns=["applied", "as_of", "timestamp"]).to_numpy().tolist()
        late, close, volume = ["S000", "dividend", 0.0, 0.5], ["S001", "close", 202.0, 202.25], []
        volume = ["S001", "volume", 1000.0, 900.0]
        assert told == [late, close, volume]
        assert len(store.revisions(["S001"])) == 2
        assert len(store.revisions(since="2012-01-11 10:00:01")) == 1

    # What a frame may hold

    @pytest.mark.parametrize("wrong", [np.nan, np.inf, -np.inf])
    def test_a_price_that_is_no_number_is_refused(self, store: Store, wrong: float) -> None:
        bars = some_bars()
        bars.iloc[3, 3] = wrong
        with pytest.raises(ValueError, match=r"raw_prices\.close"):
            store.write_bars(bars)
        assert store.bars().empty

    def test_a_time_with_a_zone_is_refused(self, store: Store) -> None:
        bars = some_bars()
        bars.index = bars.index.set_levels(bars.index.levels[1].tz_localize("America/New_York"), level=1)
        with pytest.raises(ValueError, match="America/New_York"):
            store.write_bars(bars)
        assert store.bars().empty

    @pytest.mark.parametrize("zone", ["America/New_York", "Asia/Tokyo"])
    def test_the_zone_of_the_machine_changes_nothing(self, store: Store, zone: str, monkeypatch) -> None:
        intraday = some_bars(1, 1)
        intraday.index = intraday.index.set_levels(
            intraday.index.levels[1] + pd.Timedelta("14h30min"), level=1
        )
        store.write_bars(intraday)
        monkeypatch.setenv("TZ", zone)
        time.tzset()
        try:
            pd.testing.assert_frame_equal(store.bars(daily=False), intraday)
            assert store.write_bars(intraday) == Written(unchanged=1)
        finally:
            monkeypatch.undo()
            time.tzset()

    def test_microseconds_are_kept(self, store: Store) -> None:
        moment = pd.Timestamp("2012-01-03 14:30:00.123456")
        store.write_signals("s", one_signal({}, moment))
        assert store.signals()["timestamp"].tolist() == [moment]

    def test_one_row_is_written_and_read(self, store: Store) -> None:
        assert store.write_bars(some_bars(1, 1)) == Written(inserted=1)
        pd.testing.assert_frame_equal(store.bars(), some_bars(1, 1))

    def test_two_million_rows_are_written_and_read(self, store: Store) -> None:
        bars = some_bars(400, 5000, start="2000-01-03")
        assert store.write_bars(bars) == Written(inserted=2_000_000)
        pd.testing.assert_frame_equal(store.bars(), bars, check_exact=True, check_freq=False)
        bars.iloc[1_000_000, 3] += 1
        assert store.write_bars(bars) == Written(updated=1, unchanged=1_999_999)

    def test_no_symbols_are_no_bars(self, store: Store) -> None:
        store.write_bars(some_bars())
        assert store.bars([]).empty
        assert store.bars(["NOBODY"]).empty

    def test_symbols_sort_byte_by_byte(self, store: Store) -> None:
        names = ["brk.b", "BRK.A", "Z", "a", "É", "_x", "0700.HK"]
        bars = pd.concat([some_bars(1, 1).rename(index={"S000": name}, level=0) for name in names])
        store.write_bars(bars)
        assert store.symbols() == sorted(names)
        assert list(store.bars().index.get_level_values(0)) == sorted(names)

    @settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        said=st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=30),
        number=st.floats(-1e15, 1e15) | st.integers(-(2**53), 2**53) | st.none() | st.booleans(),
    )
    def test_any_detail_comes_back_as_it_was(self, store: Store, said: str, number: object) -> None:
        with store.engine.transaction("ledger", write=True) as transaction:
            transaction.rows("DELETE FROM signals")
        store.write_signals("s", one_signal({said: number, "text": said}), run=said)
        (details,) = store.signals()["details"]
        assert details == {said: number, "text": said, "run": said}

    def test_a_detail_that_not_every_database_can_keep_is_refused(self, store: Store) -> None:
        with pytest.raises(ValueError, match="NUL"):
            store.write_signals("s", one_signal({"text": "a\0b"}))

    @settings(max_examples=15, deadline=None, suppress_health_check=list(HealthCheck))
    @given(
        values=st.lists(
            st.floats(allow_nan=True, allow_infinity=True)
            | st.sampled_from([0.1, 5e-324, 1.7976931348623157e308]),
            min_size=1,
            max_size=12,
        )
    )
    def test_any_feature_comes_back_as_it_was(self, store: Store, values: list[float]) -> None:
        features = pd.DataFrame({'it\'s 100% "a"': values}, index=some_bars(1, len(values)).index)
        store.write_features(features, NO_INPUTS)
        finite = features.where(np.isfinite(features))
        read = store.features(list(features.columns), start=features.index[0][1], end=features.index[-1][1])
        pd.testing.assert_frame_equal(read, finite, check_exact=True)

    # Among threads and processes

    def test_threads_share_a_store(self, store: Store) -> None:
        bars = some_bars(8, 30)
        with ThreadPoolExecutor(8) as pool:
            list(
                pool.map(
                    lambda symbol: store.write_bars(bars.xs(symbol, drop_level=False)), bars.index.levels[0]
                )
            )
        pd.testing.assert_frame_equal(store.bars(), bars)

    def test_threads_that_write_the_same_rows_agree(self, store: Store) -> None:
        with ThreadPoolExecutor(4) as pool:
            written = sum(pool.map(lambda _: store.write_bars(some_bars(20, 50)), range(8)), Written())
        assert written == Written(inserted=1000, unchanged=7000)

    def test_tables_made_by_several_processes_at_once_are_made_once(self, url: str) -> None:
        with children(open_store, *[(url,)] * 4):
            pass
        with open_store(url).engine.transaction("ledger") as transaction:
            numbers = transaction.rows("SELECT number FROM migrations WHERE area = 'ledger' ORDER BY number")
        known = next(it.known for it in open_store(url).engine.versions() if it.area == "ledger")
        assert numbers == [(number,) for number in range(1, known + 1)]

    def test_writers_in_several_processes_lose_nothing(self, url: str) -> None:
        store = open_store(url)
        with children(write_years, *[(url, number, 10) for number in range(4)]) as writers:
            while any(writer.is_alive() for writer in writers):
                counts = store.bars().groupby(level="symbol").size()
                assert (counts % 40 == 0).all(), "a reader saw half of a transaction"
        assert store.bars().groupby(level="symbol").size().tolist() == [400] * 4

    def test_fifty_writers_killed_at_any_moment_leave_whole_transactions(self, url: str) -> None:
        store, committed = open_store(url), 0
        for killing in range(50):
            hear, say = PROCESSES.Pipe(duplex=False)
            writer = PROCESSES.Process(target=write_years, args=(url, 0, 10_000, say))
            writer.start()
            say.close()
            heard = [hear.recv()]
            time.sleep(0.0007 * killing)
            writer.kill()
            writer.join()
            with contextlib.suppress(EOFError):
                while True:
                    heard.append(hear.recv())
            hear.close()
            committed = max(committed, min(heard[-1] + 1, 20))
            bars = store.bars()
            assert len(bars) % 40 == 0
            assert len(bars) >= 40 * committed, "a committed transaction was lost"
            assert bars.index.is_unique

    def test_a_writer_is_not_starved_by_readers(self, url: str) -> None:
        store, waits = open_store(url), []
        store.write_bars(some_bars(50, 200))
        with children(read_for_a_while, *[(url, 4.0)] * 3):
            time.sleep(1)
            for step in range(5):
                begun = time.monotonic()
                store.write_signals("s", one_signal({"step": step}))
                store.write_bars(some_bars(1, 1, start=f"203{step}-01-02"))
                waits.append(time.monotonic() - begun)
        assert max(waits) < 5

    def test_a_long_look_at_bars_holds_no_signal_up(self, url: str) -> None:
        store, looking, done = open_store(url), threading.Event(), threading.Event()

        def look() -> None:
            with store.engine.transaction("market") as transaction:
                transaction.rows("SELECT count(*) FROM raw_prices")
                looking.set()
                done.wait(20)

        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(look)
            looking.wait(10)
            begun = time.monotonic()
            open_store(url).write_signals("s", one_signal({}))
            waited = time.monotonic() - begun
            done.set()
            held.result()
        assert waited < 5

    def test_a_day_s_work_of_several_processes_ends_whole(self, url: str) -> None:
        store, stop, heard = open_store(url), threading.Event(), []

        def listen() -> None:
            for signals in store.listen(last=0, stop=stop, poll=60):
                heard.extend(signals["id"])

        writers = [
            PROCESSES.Process(target=write_years, args=(url, 0, 40)),
            PROCESSES.Process(target=write_signals, args=(url, 1, 40)),
            PROCESSES.Process(target=read_for_a_while, args=(url, 3.0)),
        ]
        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            for writer in writers:
                writer.start()
            while any(writer.is_alive() for writer in writers):
                store.write_features(some_bars(2, 30)[["close"]], NO_INPUTS)
                with store.engine.transaction("ledger", write=True) as ledger:
                    ledger.rows("UPDATE signals SET executed = TRUE WHERE NOT executed")
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: len(heard) == 40)
            stop.set()
            listening.result()
        assert [writer.exitcode for writer in writers] == [0, 0, 0]
        assert heard == store.signals_after(0)["id"].tolist()
        assert len(heard) == 40
        assert len(store.bars()) == 800
        assert len(store.features(["close"])) == 60

    def test_interrupting_a_long_write_leaves_all_or_nothing(self, url: str) -> None:
        store = open_store(url)
        code = (
            "import sys\nfrom stores.contract import some_bars\nfrom tradebot.store import open_store\n"
            "store, bars = open_store(sys.argv[1]), some_bars(400, 2000)\nprint('go', flush=True)\n"
            "try:\n    store.write_bars(bars)\nexcept KeyboardInterrupt:\n    sys.exit(7)\n"
        )
        writer = in_process(code, url, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        writer.stdout.readline()
        time.sleep(0.3)
        writer.send_signal(signal.SIGINT)
        assert writer.wait() == 7, "it was told by something else than KeyboardInterrupt"
        writer.stdout.close()
        assert len(store.bars()) in (0, 800_000)
        assert store.write_bars(some_bars()) in (Written(inserted=10), Written(updated=10))

    def test_a_notebook_that_is_interrupted_again_and_again_goes_on(self, url: str) -> None:
        open_store(url)
        code = (
            "import sys\nfrom stores.contract import one_signal, some_bars\nfrom tradebot.store import open_store\n"
            "store, step = open_store(sys.argv[1]), 0\n"
            "for interruption in range(41):\n"
            "    try:\n"
            "        print('go', flush=True)\n"
            "        while interruption < 40:\n"
            "            step += 1\n"
            "            store.write_bars(some_bars(3, 50) + step)\n"
            "            assert len(store.bars()) == 150\n"
            "            second = f'2012-01-01 00:{step // 60 % 60:02d}:{step % 60:02d}'\n"
            "            store.write_signals('s', one_signal({}, second))\n"
            "    except KeyboardInterrupt:\n"
            "        pass\n"
        )
        with in_process(code, url, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as notebook:
            try:
                for pause in range(40):
                    if not notebook.stdout.readline():
                        break
                    time.sleep(0.01 + 0.0013 * pause)
                    notebook.send_signal(signal.SIGINT)
                    while not select.select([notebook.stdout], [], [], 5.0)[0]:
                        notebook.send_signal(signal.SIGINT)  # Python drops one that falls into a destructor
                _, said = notebook.communicate(timeout=60)
            finally:
                notebook.kill()
        assert notebook.returncode == 0, said
        assert len(open_store(url).bars()) == 150

    def test_an_open_store_is_refused_after_a_fork(self, store: Store) -> None:
        child = os.fork()
        if child == 0:
            try:
                store.bars()
            except StoreError as error:
                os._exit(7 if "forked" in str(error) else 1)
            os._exit(0)
        assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7

    def test_a_database_that_is_ahead_is_refused(self, store: Store, url: str) -> None:
        with store.engine.transaction("ledger", write=True) as transaction:
            transaction.rows(
                "INSERT INTO migrations (area, number, applied) VALUES ('ledger', 99, '2030-01-01')"
            )
        with pytest.raises(
            StoreError, match=r"is at ledger migration 99, and this version of tradebot knows \d+;"
        ):
            open_store(url)

    def test_old_intraday_bars_are_forgotten_and_daily_ones_never(self, store: Store) -> None:
        daily, intraday = some_bars(2, 10), some_bars(2, 10)
        intraday.index = intraday.index.set_levels(intraday.index.levels[1] + pd.Timedelta(hours=14), level=1)
        store.write_bars(intraday + 1)
        for bars in (daily, intraday):
            store.write_bars(bars)
            store.write_features(bars[["close"]], NO_INPUTS)
        assert store.forget_intraday(pd.Timestamp("2012-01-06 14:00")) == 8
        pd.testing.assert_frame_equal(store.bars(), daily)
        kept = intraday[intraday.index.get_level_values(1) >= "2012-01-06 14:00"]
        pd.testing.assert_frame_equal(store.bars(daily=False), kept, check_freq=False)
        assert len(store.features(["close"])) == len(daily) + len(kept)
        with store.engine.transaction("market") as transaction:
            rows = transaction.rows('SELECT count(*), min("timestamp") FROM bar_versions')
        assert rows == [(len(kept), kept.index[0][1].to_pydatetime())]
        assert store.forget_intraday(pd.Timestamp("2012-01-06 14:00")) == 0

    def test_intraday_bars_add_up_to_days(self, store: Store) -> None:
        hours = pd.date_range("2012-01-03 14:30", periods=3, freq="h")
        index = pd.MultiIndex.from_product([["S000"], hours], names=["symbol", "timestamp"])
        bars = pd.DataFrame(
            {
                "open": [10.0, 11, 12],
                "high": [13.0, 15, 14],
                "low": [9.0, 8, 10],
                "close": [11.0, 12, 13],
                "volume": 5.0,
            },
            index=index,
        )
        store.write_bars(bars)
        store.write_bars(some_bars(1, 5))
        with store.engine.transaction("market") as transaction:
            days = transaction.rows("SELECT open, high, low, close, volume FROM daily_bars")
        assert days == [(10.0, 15.0, 8.0, 13.0, 15.0)]

    # Signals as they are committed

    def test_signals_come_after_an_id_in_the_order_of_their_ids(self, store: Store) -> None:
        for day in (5, 3, 4):
            store.write_signals("s", one_signal({}, f"2012-01-0{day}"))
        first = store.signals_after(0)
        assert [moment.day for moment in first["timestamp"]] == [5, 3, 4]
        assert first["id"].is_monotonic_increasing
        assert len(store.signals_after(int(first["id"].iloc[0]))) == 2

    def test_a_listener_hears_what_it_missed_and_what_comes(self, store: Store, url: str) -> None:
        store.write_signals("s", one_signal({"said": "before"}))
        stop, heard = threading.Event(), []
        for signals in store.listen(last=0, stop=stop, poll=60):
            heard += [details["said"] for details in signals["details"]]
            if heard == ["before"]:
                open_store(url).write_signals("s", one_signal({"said": "after"}, "2012-02-01"))
            else:
                stop.set()
        assert heard == ["before", "after"]

    def test_a_listener_from_now_on_hears_nothing_of_the_past(self, store: Store) -> None:
        store.write_signals("s", one_signal({"said": "before"}))
        stop = threading.Event()
        listener = store.listen(stop=stop, poll=60)
        store.write_signals("s", one_signal({"said": "after"}, "2012-02-01"))
        assert [details["said"] for details in next(listener)["details"]] == ["after"]
        listener.close()

    def test_a_listener_stops_when_told(self, store: Store) -> None:
        stop = threading.Event()
        threading.Timer(0.3, stop.set).start()
        begun = time.monotonic()
        assert list(store.listen(stop=stop, poll=60)) == []
        assert time.monotonic() - begun < 5

    def test_signals_that_are_rolled_back_are_never_heard(self, store: Store) -> None:
        stop = threading.Event()
        listener = store.listen(stop=stop, poll=0.1)

        def fail() -> None:
            with store.engine.transaction("ledger", write=True) as transaction:
                transaction.rows(insert_signal("never"))
                raise KeyError

        with pytest.raises(KeyError):
            fail()
        store.write_signals("said", one_signal({}))
        assert next(listener)["strategy"].tolist() == ["said"]
        listener.close()

    def test_who_draws_an_id_later_is_never_seen_earlier(self, store: Store) -> None:
        stop, begun, release = threading.Event(), threading.Event(), threading.Event()
        heard = []

        def listen() -> None:
            for signals in store.listen(last=0, stop=stop, poll=0.05):
                heard.extend(signals["strategy"])

        def slow_writer() -> None:
            with store.engine.transaction("ledger", write=True) as transaction:
                transaction.rows(insert_signal("drew first"))
                begun.set()
                release.wait(10)

        def quick_writer() -> None:
            with store.engine.transaction("ledger", write=True) as transaction:
                transaction.rows(insert_signal("drew second"))

        with ThreadPoolExecutor(3) as pool:
            listening, slow = pool.submit(listen), pool.submit(slow_writer)
            begun.wait(10)
            quick = pool.submit(quick_writer)
            time.sleep(0.5)
            assert not quick.done(), "it committed past one who drew an id before it"
            assert heard == []
            release.set()
            slow.result()
            quick.result()
            wait_until(lambda: len(heard) == 2)
            stop.set()
            listening.result()
        assert heard == ["drew first", "drew second"]

    def test_a_listener_beside_several_writers_misses_nothing(self, store: Store, url: str) -> None:
        stop, ids = threading.Event(), []

        def listen() -> None:
            for signals in store.listen(last=0, stop=stop, poll=5):
                ids.extend(signals["id"])

        with ThreadPoolExecutor(1) as pool:
            listening = pool.submit(listen)
            with children(write_signals, *[(url, number, 40) for number in range(4)]):
                pass
            with contextlib.suppress(TimeoutError):
                wait_until(lambda: len(ids) == 160)
            stop.set()
            listening.result()
        assert ids == store.signals_after(0)["id"].tolist()
        assert len(ids) == 160


def insert_signal(strategy: str) -> str:
    """SQL as a stranger would write it, past the store's own upsert."""
    return (
        'INSERT INTO signals (strategy, symbol, "timestamp", signal_type, details) '
        f"VALUES ('{strategy}', 'S000', '2012-01-03', 'buy', '{{}}')"
    )


def wait_until(condition, seconds: float = 60.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError
        time.sleep(0.01)
