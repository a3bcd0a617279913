"""TimescaleDB: half of it on a doctored server, and the real thing where TRADEBOT_TEST_DATABASE_URL has it."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import psycopg2
import pytest
from servers.postgres import PostgresServer, binaries, execute, open_folder, own_server

from stores.contract import NO_INPUTS, StoreContract, some_bars
from tradebot.engine import Written
from tradebot.store import Store, open_store
from tradebot.timescale import look


def doctored_programs(folder: Path) -> Path:
    """PostgreSQL's programs beside a copy of its extensions, to which one is added that acts as TimescaleDB does.

    TimescaleDB's `CREATE EXTENSION` ends the session where its library was not loaded when the server started.
    """
    programs = binaries()
    version = programs.parts[-2]
    copied = folder / "usr" / "lib" / "postgresql" / version / "bin"
    copied.mkdir(parents=True)
    for name in ("postgres", "initdb", "pg_ctl"):
        shutil.copy2(programs / name, copied / name)
    (copied.parent / "lib").symlink_to(programs.parent / "lib")
    share, real = folder / "usr" / "share" / "postgresql" / version, Path("/usr/share/postgresql") / version
    shutil.copytree(real / "extension", share / "extension")
    for path in real.iterdir():
        if path.name != "extension":
            (share / path.name).symlink_to(path)
    (share / "extension" / "timescaledb.control").write_text("default_version = '2.20.0'\ntrusted = true\n")
    (share / "extension" / "timescaledb--2.20.0.sql").write_text(
        "SELECT pg_terminate_backend(pg_backend_pid());\n"
    )
    return copied


@pytest.fixture(scope="module")
def programs(postgres: PostgresServer) -> Iterator[Path]:
    if not str(postgres.programs).startswith("/usr/lib/postgresql/"):
        pytest.skip("PostgreSQL's programs can be doctored where Debian puts them only")
    with open_folder() as folder:
        yield doctored_programs(folder)


@pytest.fixture(scope="module")
def not_preloaded(programs: Path) -> Iterator[PostgresServer]:
    with own_server(programs, "fsync=off") as server:
        yield server


@pytest.fixture(scope="module")
def not_allowed(programs: Path) -> Iterator[PostgresServer]:
    """The library is loaded (its settings are there), but only a superuser may create the extension."""
    control = (
        programs.parents[3]
        / "share"
        / "postgresql"
        / programs.parts[-2]
        / "extension"
        / "timescaledb.control"
    )
    before = control.read_text()
    control.write_text(before.replace("trusted = true", "trusted = false"))
    with own_server(programs, "fsync=off", "timescaledb.max_background_workers=16") as server:
        yield server
    control.write_text(before)


def used(store: Store) -> None:
    assert store.engine.upgrade() == []
    assert store.engine.arrange() == []
    assert store.write_bars(some_bars()) == Written(inserted=10)
    pd.testing.assert_frame_equal(store.bars(), some_bars())


def test_a_server_without_it_is_used_as_it_is(postgres: PostgresServer) -> None:
    store = open_store(postgres.database())
    used(store)
    assert store.engine.about().endswith(", no TimescaleDB")


def test_installed_but_not_preloaded_it_is_left_alone(not_preloaded: PostgresServer) -> None:
    url = not_preloaded.database()
    with pytest.raises(psycopg2.OperationalError):
        execute(url, "CREATE EXTENSION timescaledb")
    store = open_store(url)
    used(store)
    assert store.engine.about().endswith("TimescaleDB installed but not preloaded")


def test_an_owner_who_may_not_create_it_goes_without(not_allowed: PostgresServer) -> None:
    store = open_store(not_allowed.database())
    used(store)
    assert store.engine.about().endswith("TimescaleDB not created in this database")


# The real thing


needs_a_server = pytest.mark.skipif(
    "TRADEBOT_TEST_DATABASE_URL" not in os.environ,
    reason="TRADEBOT_TEST_DATABASE_URL names no server with TimescaleDB",
)


@pytest.fixture
def timescale_url(postgres_url: str) -> str:
    with open_store(postgres_url).engine.transaction("market") as transaction:
        found = look(transaction)
    if not (found.version or found.loaded):
        pytest.skip("the server of TRADEBOT_TEST_DATABASE_URL has no TimescaleDB")
    return postgres_url


@needs_a_server
class TestHypertables(StoreContract):
    """Everything that the contract asks, on hypertables."""

    @pytest.fixture
    def url(self, timescale_url: str) -> str:
        open_store(timescale_url).engine.arrange()
        return timescale_url


@needs_a_server
def test_data_that_were_there_before_are_moved_into_chunks(timescale_url: str) -> None:
    store = open_store(timescale_url)
    bars = some_bars(5, 600, start="2010-01-04")
    store.write_bars(bars)
    done = store.engine.arrange()
    assert done[:2] == ["raw_prices is a hypertable", "indicators is a hypertable"]
    assert store.engine.arrange() == []
    pd.testing.assert_frame_equal(store.bars(), bars, check_freq=False)
    with store.engine.transaction("market") as transaction:
        assert transaction.rows("SELECT count(*) FROM ONLY raw_prices") == [(0,)]
        assert transaction.rows("SELECT count(*) > 4 FROM show_chunks('raw_prices')") == [(True,)]


@needs_a_server
def test_what_was_compressed_is_read_corrected_and_written_again(timescale_url: str) -> None:
    store = open_store(timescale_url)
    store.engine.arrange()
    bars = some_bars(50, 2500, start="2010-01-04")
    features = bars[["close"]].rename(columns={"close": "sma_1"})
    store.write_bars(bars)
    store.write_features(features, NO_INPUTS)
    for table in ("raw_prices", "indicators"):
        execute(timescale_url, f"SELECT count(compress_chunk(chunk)) FROM show_chunks('{table}') chunk")
    pd.testing.assert_frame_equal(store.bars(), bars, check_freq=False)
    assert store.write_bars(bars) == Written(unchanged=len(bars))
    bars.iloc[7, 3] += 1
    assert store.write_bars(bars) == Written(updated=1, unchanged=len(bars) - 1)
    assert store.write_features(features + 1, NO_INPUTS) == Written(updated=len(features))
    pd.testing.assert_frame_equal(store.features(["sma_1"]), features + 1, check_freq=False)


@needs_a_server
def test_days_of_intraday_bars_stay_when_the_bars_are_no_longer_kept(timescale_url: str) -> None:
    store = open_store(timescale_url)
    hours = pd.date_range("2012-01-03 14:30", periods=3, freq="h")
    index = pd.MultiIndex.from_product([["S000"], hours], names=["symbol", "timestamp"])
    store.write_bars(pd.DataFrame({name: 1.0 for name in some_bars().columns}, index=index))
    store.engine.arrange()
    days = "SELECT day, volume FROM daily_bars"
    expected = [(pd.Timestamp("2012-01-03"), 3.0)]
    assert execute(timescale_url, days) == expected
    store.forget_intraday(pd.Timestamp("2012-02-01"))
    assert store.bars(daily=False).empty
    assert execute(timescale_url, days) == expected
