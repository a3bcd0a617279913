"""Backfill and update: pages, overlaps, failures, interruptions."""

import subprocess
import sys
import time
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradebot import data_fetch
from tradebot.config import Config, UserError, load_config
from tradebot.data_fetch import fetch, fetch_daily, fetch_universe, plan_pages
from tradebot.prices import actions_frame
from tradebot.providers import Fetched, ProviderDown, SampleProvider
from tradebot.store import Store, open_store

FIRST, LAST = pd.Timestamp("2000-01-01"), pd.Timestamp("2013-03-01")


class Recorded(SampleProvider):
    """The sample, noting what it was asked for, and failing as it is told."""

    def __init__(self, fails: dict[str, Exception] | None = None):
        self.asked: list[tuple[str, pd.Timestamp, pd.Timestamp]] = []
        self.fails = fails or {}

    def fetch(self, symbol: str, start: pd.Timestamp, end: pd.Timestamp, interval: str = "1d") -> Fetched:
        self.asked.append((symbol, start, end))
        if symbol in self.fails:
            raise self.fails[symbol]
        return super().fetch(symbol, start, end, interval)


days = st.dates(min_value=pd.Timestamp("2001-01-01").date(), max_value=pd.Timestamp("2012-12-31").date())


@settings(deadline=None)
@given(span=st.tuples(days, days).map(sorted), covered=st.none() | st.tuples(days, days).map(sorted),
       months=st.sampled_from([1, 6, 12, 120]))  # fmt: skip
def test_pages_cover_the_span_and_coverage_never_has_a_hole(span, covered, months) -> None:
    start, end = map(pd.Timestamp, span)
    covered = covered and tuple(map(pd.Timestamp, covered))
    reach = covered
    for page in plan_pages(start, end, covered, months):
        first, last = page.covered
        assert page.start <= page.end
        if reach is not None:
            assert first <= reach[0]
            assert last >= reach[1]
            assert page.start <= reach[1] + pd.Timedelta(days=1)
            assert page.end >= reach[0] - pd.Timedelta(days=1)
        reach = page.covered
    assert reach is not None
    assert reach[0] <= start
    assert reach[1] >= end
    assert plan_pages(start, end, reach, months) == []


@pytest.mark.parametrize("months", [1, 12, 240])
def test_any_page_size_stores_the_same_bars_and_actions(store: Store, sample, months: int) -> None:
    bars, actions = sample
    fetch(store, SampleProvider(), ["AAPL"], FIRST, LAST, months=months)
    pd.testing.assert_frame_equal(store.bars(), bars.loc[["AAPL"]], check_index_type=False)
    stored = store.actions()
    expected = actions[actions["symbol"] == "AAPL"].reset_index(drop=True)
    pd.testing.assert_frame_equal(stored, expected)


def test_a_second_fetch_asks_for_nothing(store: Store) -> None:
    provider = Recorded()
    fetch(store, provider, ["IBM"], FIRST, LAST, months=60)
    asked = len(provider.asked)
    result = fetch(store, provider, ["IBM"], FIRST, LAST, months=60)
    assert len(provider.asked) == asked
    assert result.loc["IBM", "status"] == "up to date"


def test_an_update_asks_for_the_new_days_and_a_week_of_overlap(store: Store) -> None:
    provider = Recorded()
    fetch(store, provider, ["IBM"], FIRST, pd.Timestamp("2012-06-29"), months=240)
    fetch(store, provider, ["IBM"], FIRST, pd.Timestamp("2012-07-03"), months=240)
    _, start, end = provider.asked[-1]
    assert (start, end) == (pd.Timestamp("2012-06-22"), pd.Timestamp("2012-07-03"))


def test_an_earlier_start_is_filled_in_before_what_is_there(store: Store, sample) -> None:
    fetch(store, SampleProvider(), ["IBM"], pd.Timestamp("2010-01-01"), LAST)
    fetch(store, SampleProvider(), ["IBM"], FIRST, LAST)
    pd.testing.assert_frame_equal(store.bars(), sample[0].loc[["IBM"]], check_index_type=False)


def test_one_bad_symbol_stops_nobody(store: Store) -> None:
    result = fetch(store, SampleProvider(), ["AAPL", "XYZZY", "IBM"], FIRST, LAST, months=240)
    assert result["status"].tolist() == ["updated", "failed", "updated"]
    assert "XYZZY" in result.loc["XYZZY", "error"]
    assert store.symbols() == ["AAPL", "IBM"]


def test_a_provider_that_stays_down_is_not_asked_for_every_symbol(store: Store) -> None:
    class Down(Recorded):
        def fetch(self, symbol, start, end, interval="1d"):
            self.asked.append((symbol, start, end))
            # An asked-for wait beyond the longest ends the attempts at once.
            error = ProviderDown(f"down: {symbol}: no answer")
            error.retry_after = 1e9
            raise error

    provider = Down()
    symbols = [f"S{n}" for n in range(10)]
    result = fetch(store, provider, symbols, FIRST, LAST)
    assert len(provider.asked) == 3
    assert (result["status"] == "failed").all()
    assert "not tried" in result["error"].iloc[-1]


def test_a_page_that_fails_keeps_the_pages_before_it(store: Store) -> None:
    class Breaks(SampleProvider):
        def fetch(self, symbol, start, end, interval="1d"):
            if end > pd.Timestamp("2005-06-01"):
                raise UserError("breaks: IBM: no more")
            return super().fetch(symbol, start, end, interval)

    result = fetch(store, Breaks(), ["IBM"], FIRST, LAST)
    assert result.loc["IBM", "status"] == "failed"
    assert store.bars().index[-1][1] == pd.Timestamp("2004-12-31")
    resumed = Recorded()
    fetch(store, resumed, ["IBM"], FIRST, LAST)
    assert resumed.asked[0][1] > pd.Timestamp("2004-12-15")
    assert len(store.bars()) == 3270


def test_an_interrupt_while_pages_are_written_loses_none_of_them(store: Store, monkeypatch) -> None:
    write, calls = store.write_fetched, []

    def interrupted(*frames: pd.DataFrame) -> None:
        calls.append(len(frames[0]))
        if len(calls) == 2:
            raise KeyboardInterrupt
        write(*frames)

    monkeypatch.setattr(store, "write_fetched", interrupted)
    monkeypatch.setattr(data_fetch, "GATHER_SECONDS", 0)
    with pytest.raises(KeyboardInterrupt):
        fetch(store, SampleProvider(), ["IBM"], FIRST, pd.Timestamp("2004-12-31"), months=12)
    assert store.bars().index[-1][1] == pd.Timestamp("2001-12-31"), "two pages were fetched"
    assert len(calls) == 3


def test_a_revision_is_reported_and_not_written(store: Store) -> None:
    class Revises(SampleProvider):
        def fetch(self, symbol, start, end, interval="1d"):
            bars, actions = super().fetch(symbol, start, end, interval)
            return Fetched(bars * 1.1, actions)

    fetch(store, SampleProvider(), ["IBM"], FIRST, pd.Timestamp("2012-06-29"), months=240)
    before = store.bars()
    result = fetch(store, Revises(), ["IBM"], FIRST, pd.Timestamp("2012-07-03"), months=240)
    assert result.loc["IBM", "revised"] == 6
    pd.testing.assert_frame_equal(store.bars(end="2012-06-29"), before)
    issues = store.issues()
    assert (issues["rule"] == "revised").sum() == 6
    assert issues["bar"].notna().all()


def test_a_repair_replaces_and_keeps_the_bar_it_replaced(store: Store, sample) -> None:
    fetch(store, SampleProvider(), ["IBM"], FIRST, LAST, months=240)
    wrong = store.bars(["IBM"], "2010-05-06", "2010-05-07") * 2
    store.write_bars(wrong)
    result = fetch(store, SampleProvider(), ["IBM"], FIRST, LAST, months=240, repair=True)
    assert result.loc["IBM", "revised"] == 2
    pd.testing.assert_frame_equal(store.bars(), sample[0].loc[["IBM"]], check_index_type=False)
    kept = store.issues()
    assert kept["rule"].eq("repaired").sum() == 2
    assert str(wrong["close"].iloc[0])[:6] in kept["bar"].iloc[0]


def test_rejected_bars_are_kept_and_listed(store: Store, tmp_path: Path) -> None:
    class Garbles(SampleProvider):
        def fetch(self, symbol, start, end, interval="1d"):
            bars, _ = super().fetch(symbol, start, end, interval)
            bars = bars.copy()
            bars.iloc[3, 1] = bars.iloc[3, 2] - 1
            return Fetched(bars, actions_frame())

    result = fetch(
        store, Garbles(), ["IBM"], pd.Timestamp("2012-01-01"), pd.Timestamp("2012-06-30"), months=240
    )
    assert result.loc["IBM", "rejected"] == 1
    rejected = store.issues().query("rejected")
    assert rejected["symbol"].tolist() == ["IBM"]
    assert rejected["timestamp"].iloc[0] not in store.bars().index.get_level_values("timestamp")
    assert '"high"' in rejected["bar"].iloc[0]


@pytest.mark.parametrize(
    ("start", "end", "says"),
    [
        ("2012-06-01", "2012-01-01", "before start"),
        ("2012-06-01", "2099-01-01", "not complete yet"),
    ],
)
def test_a_span_that_cannot_be_is_one_line(store: Store, start: str, end: str, says: str) -> None:
    config = Config(home=Path())
    with pytest.raises(UserError, match=says):
        fetch_universe(
            store, config, pd.Timestamp("2013-03-02"), start=pd.Timestamp(start), end=pd.Timestamp(end)
        )


def test_today_s_unfinished_session_is_not_fetched(store: Store) -> None:
    config = load_config(Path("nowhere"), {"TRADEBOT_DATA_UNIVERSE": "IBM"})
    during = pd.Timestamp("2012-07-03 16:30")  # half an hour before the early close of that day
    fetch_universe(store, config, during)
    assert store.bars().index[-1][1] == pd.Timestamp("2012-07-02")
    fetch_universe(store, config, pd.Timestamp("2012-07-03 17:00"))
    assert store.bars().index[-1][1] == pd.Timestamp("2012-07-03")


def test_fetch_daily_has_a_naive_index_and_both_ends() -> None:
    bars = fetch_daily("MSFT", "2003-02-14", "2003-02-18")
    assert bars.index.tz is None
    assert list(bars.index.strftime("%Y-%m-%d")) == ["2003-02-14", "2003-02-18"]
    with pytest.raises(UserError, match="no bars of MSFT"):
        fetch_daily("MSFT", "1990-02-14", "1990-02-18")


SLOW = """
import sys, time, pandas as pd
from tradebot import data_fetch
from tradebot.data_fetch import fetch
from tradebot.providers import SampleProvider
from tradebot.store import open_store

data_fetch.GATHER_SECONDS = 0.5

class Slow(SampleProvider):
    def fetch(self, *request):
        print("page", flush=True)
        time.sleep(0.05)
        return super().fetch(*request)

fetch(open_store(sys.argv[1]), Slow(), ["AAPL", "IBM"], pd.Timestamp("2000-01-01"), pd.Timestamp("2013-03-01"), months=3)
"""


def test_a_backfill_killed_again_and_again_ends_complete_without_a_duplicate(tmp_path: Path, sample) -> None:
    url = f"duckdb:///{tmp_path}/data"
    store, kills, counts = open_store(url), 0, [0]
    while True:
        process = subprocess.Popen([sys.executable, "-c", SLOW, url], stdout=subprocess.PIPE, text=True)
        for page, _ in enumerate(process.stdout, start=1):
            if page == 26:
                time.sleep(0.003 * kills)
                process.kill()
        process.stdout.close()
        counts.append(len(store.bars()))
        if process.wait() == 0:
            break
        kills += 1
        assert counts[-1] > counts[-2], "a committed page was lost"
    assert kills >= 3
    pd.testing.assert_frame_equal(store.bars(), sample[0].loc[["AAPL", "IBM"]], check_index_type=False)


def test_intraday_bars_that_are_not_over_yet_are_left_for_later(tmp_path: Path) -> None:
    # Independence Day's eve of 2012: the session opened at 13:30 UTC and closed early, at 17:00.
    opened = pd.date_range("2012-07-03 13:30", "2012-07-03 16:55", freq="5min")
    rows = [f"{moment:%Y-%m-%dT%H:%M:%SZ},10,11,9,10.5,100" for moment in opened]
    (tmp_path / "IBM.csv").write_text("\n".join(["timestamp,open,high,low,close,volume", *rows]))
    environ = {
        "TRADEBOT_DATA_PROVIDER": "csv",
        "TRADEBOT_DATA_CSV_FOLDER": str(tmp_path),
        "TRADEBOT_DATA_UNIVERSE": "IBM",
        "TRADEBOT_DATA_INTERVAL": "5m",
        "TRADEBOT_DATA_START": "2012-07-02",
    }
    config, store = load_config(tmp_path, environ), open_store(f"duckdb:///{tmp_path}/data")
    for now, newest, count in (("14:03", "13:55", 6), ("14:05", "14:00", 7), ("23:00", "16:55", 42)):
        fetch_universe(store, config, pd.Timestamp(f"2012-07-03 {now}"))
        bars = store.bars(daily=False)
        assert bars.index[-1][1] == pd.Timestamp(f"2012-07-03 {newest}")
        assert len(bars) == count
    assert store.bars().empty
