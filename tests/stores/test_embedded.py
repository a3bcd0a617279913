"""The embedded store: the contract, then the faults that only files have."""

import os
import shutil
import subprocess
from pathlib import Path

import duckdb
import pytest

from stores.contract import PROCESSES, StoreContract, in_process, insert_signal, some_bars, write_signals
from tradebot.config import UserError
from tradebot.db_models import LEDGER_1, MARKET_1
from tradebot.duckdb_engine import DuckEngine
from tradebot.engine import StoreError, Written
from tradebot.store import Store, open_store


class TestEmbedded(StoreContract):
    @pytest.fixture
    def url(self, tmp_path: Path) -> str:
        return f"duckdb:///{tmp_path}/data"


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


def test_a_store_of_the_first_version_is_brought_forward(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    for area, sql in (("market", MARKET_1), ("ledger", LEDGER_1)):
        with duckdb.connect() as connection:
            file = tmp_path / "data" / f"{area}.duckdb"
            connection.execute(f"ATTACH '{file}' AS store (STORAGE_VERSION 'v1.5.0'); USE store")
            connection.execute(
                "CREATE TYPE jsonb AS JSON; CREATE TABLE migrations (number INTEGER PRIMARY KEY)"
            )
            connection.execute(f"INSERT INTO migrations VALUES (1); {sql}")
            if area == "market":
                connection.execute("INSERT INTO raw_prices VALUES (7, 'S000', '2012-01-02', 1, 1, 1, 1, 1)")
            else:
                connection.execute(
                    "INSERT INTO signals (strategy, symbol, timestamp, signal_type, details, executed) "
                    "VALUES ('s', 'S000', '2012-01-02', 'buy', '{}', FALSE)"
                )
    store = open_store(f"duckdb:///{tmp_path}/data")
    assert all(version.taken == version.known > 1 for version in store.engine.versions())
    with store.engine.transaction("market") as transaction:
        assert transaction.rows("SELECT area, number, applied IS NULL FROM migrations ORDER BY number") == [
            ("market", 1, True),
            ("market", 2, False),
            ("market", 3, False),
            ("market", 4, False),
        ]
        assert transaction.rows("SELECT count(*) FROM daily_bars") == [(0,)]
        assert transaction.rows("SELECT id, symbol FROM raw_prices") == [(7, "S000")]
    with store.engine.transaction("ledger") as transaction:
        assert transaction.rows("SELECT id, state, executed FROM signals") == [(1, "NEW", False)]
    assert len(store.bars()) == 1


def test_a_file_that_is_read_in_the_middle_of_a_transaction_costs_nobody_a_commit(tmp_path: Path) -> None:
    # Closing any handle of a file drops the lock that DuckDB holds on it in this process. Ours lies beside the file.
    url = f"duckdb:///{tmp_path}/data"
    store = open_store(url)
    other = PROCESSES.Process(target=write_signals, args=(url, 1, 5))
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.rows(insert_signal("before"))
        store.engine.path("ledger").read_bytes()
        other.start()
        other.join(1.5)
        assert other.is_alive(), "another process wrote into the file in the middle of a transaction"
        transaction.rows(insert_signal("after"))
    other.join(60)
    assert other.exitcode == 0
    assert store.signals()["strategy"].tolist().count("writer 1") == 5
    assert {"before", "after"} <= set(store.signals()["strategy"])


def test_somebody_of_this_very_process_who_holds_the_file_is_named(tmp_path: Path) -> None:
    store = open_store(f"duckdb:///{tmp_path}/data")
    with (
        duckdb.connect(store.engine.path("market")),
        pytest.raises(StoreError, match=r"held open by a duckdb\.connect"),
    ):
        store.write_bars(some_bars())


def test_files_are_written_in_a_format_that_older_versions_read(tmp_path: Path) -> None:
    store = open_store(f"duckdb:///{tmp_path}/data")
    store.write_bars(some_bars())
    with store.engine.transaction("market") as transaction:
        ((tags,),) = transaction.rows("SELECT tags FROM duckdb_databases() WHERE database_name = 'store'")
    assert tags["storage_version"].startswith("v1.5")
