"""The contract of a store, as one class that every engine passes with fixtures only; then the embedded engine's own faults."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradebot.config import UserError
from tradebot.duckdb_engine import DuckEngine
from tradebot.engine import StoreError, Written
from tradebot.prices import actions_frame
from tradebot.store import Store, open_store


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


def one_signal(details: dict, when: str = "2012-01-03", side: str = "buy") -> pd.DataFrame:
    return pd.DataFrame(
        {"symbol": ["S000"], "timestamp": [pd.Timestamp(when)], "signal_type": [side], "details": [details]}
    )


class StoreContract:
    """What every store does. A subclass gives the fixture `url`."""

    @pytest.fixture
    def store(self, url: str) -> Store:
        return open_store(url)

    def test_bars_come_back_to_the_last_bit(self, store: Store, sample) -> None:
        bars, _ = sample
        assert store.write_bars(bars) == Written(inserted=len(bars))
        pd.testing.assert_frame_equal(store.bars(), bars, check_exact=True)

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
        store.write_features(features, pd.DataFrame(columns=["symbol", "recipe", "digest", "bars"]))
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
        store.write_features(features, pd.DataFrame(columns=["symbol", "recipe", "digest", "bars"]))
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
        with pytest.raises(ValueError):
            store.write_fetched(some_bars(), actions_frame(), issues, coverage)
        assert store.bars().empty

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
        ]
        assert columns["indicators"] == ["id", "symbol", "timestamp", "values"]
        assert set(columns["signals"]) == {
            "id", "symbol", "timestamp", "signal_type", "details", "executed", "strategy"
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


class TestEmbedded(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"duckdb:///{tmp_path}/data"


class TestPostgres(StoreContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


# The embedded engine among processes


def in_process(code: str, *arguments: object, **options) -> subprocess.Popen:
    """A Python of its own, running `code` with sys.argv[1:] = arguments."""
    words = [sys.executable, "-c", code, *map(str, arguments)]
    return subprocess.Popen(words, cwd=Path(__file__).parent, text=True, **options)


WRITER = """
import sys, pandas as pd
from test_store import some_bars
from tradebot.store import open_store
store, number, rounds = open_store(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])
for step in range(rounds):
    bars = some_bars(number + 1, 40, start=f"{2000 + step % 20}-01-03").xs(f"S{number:03d}", drop_level=False)
    store.write_bars(bars)
    print(step, flush=True)
"""


def test_writers_in_several_processes_lose_nothing(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/data"
    store = open_store(url)
    writers = [in_process(WRITER, url, number, 10, stdout=subprocess.DEVNULL) for number in range(4)]
    while any(writer.poll() is None for writer in writers):
        counts = store.bars().groupby(level="symbol").size()
        assert (counts % 40 == 0).all(), "a reader saw half of a transaction"
    assert [writer.wait() for writer in writers] == [0] * 4
    assert store.bars().groupby(level="symbol").size().tolist() == [400] * 4


@pytest.mark.parametrize("delay", [0.0, 0.004, 0.011, 0.023, 0.05])
def test_a_writer_killed_at_any_moment_leaves_whole_transactions(tmp_path: Path, delay: float) -> None:
    url = f"duckdb:///{tmp_path}/data"
    store = open_store(url)
    committed = 0
    for _ in range(3):
        writer = in_process(WRITER, url, 0, 1000, stdout=subprocess.PIPE)
        acknowledged = [int(writer.stdout.readline()) for _ in range(2)]
        time.sleep(delay)
        writer.kill()
        acknowledged += [int(line) for line in writer.stdout.read().split()]
        writer.wait()
        writer.stdout.close()
        committed = max(committed, min(acknowledged[-1] + 1, 20))
        bars = store.bars()
        assert len(bars) % 40 == 0
        assert len(bars) >= 40 * committed, "a committed transaction was lost"
        assert bars.index.is_unique


def test_a_writer_is_not_starved_by_readers(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/data"
    store = open_store(url)
    store.write_bars(some_bars(50, 200))
    reader = (
        "import sys, time\nfrom tradebot.store import open_store\nstore = open_store(sys.argv[1])\n"
        "end = time.monotonic() + 6\nwhile time.monotonic() < end:\n    store.bars()\n"
    )
    readers = [in_process(reader, url) for _ in range(3)]
    time.sleep(2)
    waits = []
    for step in range(5):
        begun = time.monotonic()
        store.write_signals("s", one_signal({"step": step}))
        store.write_bars(some_bars(1, 1, start=f"203{step}-01-02"))
        waits.append(time.monotonic() - begun)
    assert [reader.wait() for reader in readers] == [0] * 3
    assert max(waits) < 5


def test_a_foreign_holder_is_named_by_its_pid(tmp_path: Path) -> None:
    open_store(f"duckdb:///{tmp_path}/data")
    holder = in_process(
        "import sys, duckdb\nconnection = duckdb.connect(sys.argv[1])\nprint('held', flush=True)\nsys.stdin.read()",
        tmp_path / "data" / "market.duckdb",
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdout.readline().strip() == "held"
    with pytest.raises(StoreError, match=rf"market.duckdb is held open by .*\(PID {holder.pid}\)"):
        Store(DuckEngine(tmp_path / "data", patience=0.3)).bars()
    holder.communicate()
    assert Store(DuckEngine(tmp_path / "data")).bars().empty


def test_a_damaged_file_is_named_and_left_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    path = tmp_path / "data" / "market.duckdb"
    path.write_bytes(b"not a database" * 1000)
    with pytest.raises(StoreError, match=r"market.duckdb is damaged; move it away"):
        open_store(f"duckdb:///{tmp_path}/data")
    assert path.read_bytes() == b"not a database" * 1000


def test_a_folder_that_cannot_be_made_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StoreError, match="cannot be created"):
        open_store(f"duckdb:///{tmp_path}/file/data")


def test_an_unknown_kind_of_database_is_one_line() -> None:
    with pytest.raises(UserError, match="DATABASE_URL begins with 'mysql'"):
        open_store("mysql://localhost/x")


def test_a_full_disk_is_one_line_and_loses_nothing(tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", disk], capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("a disk that can fill up needs the right to mount one")
    try:
        store = open_store(f"duckdb:///{disk}/data")
        store.write_bars(some_bars())
        with pytest.raises(StoreError, match="full"):
            store.write_bars(some_bars(300, 400))
        assert len(store.bars()) == 10
        shutil.rmtree(disk / "ballast", ignore_errors=True)
        assert store.write_bars(some_bars()) == Written(unchanged=10)
    finally:
        subprocess.run(["umount", disk], check=True)


def test_an_open_store_is_refused_after_a_fork(tmp_path: Path) -> None:
    store = open_store(f"duckdb:///{tmp_path}/data")
    child = os.fork()
    if child == 0:
        try:
            store.bars()
        except StoreError as error:
            os._exit(7 if "forked" in str(error) else 1)
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 7


def test_tables_made_by_two_processes_at_once_are_made_once(tmp_path: Path) -> None:
    code = "import sys\nfrom tradebot.store import open_store\nopen_store(sys.argv[1])"
    openers = [in_process(code, f"duckdb:///{tmp_path}/data") for _ in range(4)]
    assert [opener.wait() for opener in openers] == [0] * 4


def test_threads_of_one_process_share_a_store(store: Store) -> None:
    from concurrent.futures import ThreadPoolExecutor

    bars = some_bars(8, 30)
    with ThreadPoolExecutor(8) as pool:
        list(
            pool.map(lambda symbol: store.write_bars(bars.xs(symbol, drop_level=False)), bars.index.levels[0])
        )
    pd.testing.assert_frame_equal(store.bars(), bars)


def test_interrupting_a_long_write_rolls_it_back(tmp_path: Path) -> None:
    url = f"duckdb:///{tmp_path}/data"
    store = open_store(url)
    code = (
        "import sys\nfrom test_store import some_bars\nfrom tradebot.store import open_store\n"
        "store, bars = open_store(sys.argv[1]), some_bars(400, 2000)\nprint('go', flush=True)\nstore.write_bars(bars)\n"
    )
    writer = in_process(code, url, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    writer.stdout.readline()
    time.sleep(0.3)
    writer.send_signal(signal.SIGINT)
    writer.wait()
    writer.stdout.close()
    assert len(store.bars()) in (0, 800_000)
    assert store.write_bars(some_bars()) in (Written(inserted=10), Written(updated=10))
