"""The store on PostgreSQL: the contract, then the faults that only a server has."""

import os
import shutil
import subprocess
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
import pytest
from servers.postgres import PostgresServer, execute, new_database, open_folder, own_server

from stores.contract import StoreContract, one_signal, some_bars, wait_until
from tradebot.engine import StoreError, Written
from tradebot.postgres_engine import PostgresEngine, connection_dsn, public_name
from tradebot.store import Store, open_store

MOMENT = pd.Timestamp("2012-01-03")
ACCOUNT = pd.DataFrame(
    {
        "id": ["x"],
        "mode": ["paper"],
        "cash": [1.0],
        "reserved": [0.0],
        "opened": [MOMENT],
        "updated": [MOMENT],
    }
)
SPLIT = pd.DataFrame(
    {"symbol": ["A"], "timestamp": [pd.Timestamp("2012-01-03")], "kind": ["split"], "value": [2.0]}
)


class TestPostgres(StoreContract):
    @pytest.fixture
    def url(self, postgres_url: str) -> str:
        return postgres_url


@pytest.fixture
def store(postgres_url: str) -> Store:
    return open_store(postgres_url)


# What a person has to mend is said at once


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            lambda server: server.url(password="wrong"),
            "refuses the user or the password; correct DATABASE_URL",
        ),
        (lambda server: server.url(user="nobody"), "refuses the user or the password; correct DATABASE_URL"),
        (
            lambda server: server.url("nothing"),
            "does not exist; create it with createdb, then run `tradebot db init`",
        ),
        (
            lambda server: "postgresql://owner@127.0.0.1:1/x",
            "does not answer .*Connection refused.*is the server running",
        ),
        (
            lambda server: "postgresql://owner@no.such.host.invalid/x",
            "does not answer .*is the server running",
        ),
        (
            lambda server: "postgresql://owner@127.0.0.1:port/x",
            r"says: invalid integer value \"port\"",
        ),
        (lambda server: "postgresql://owner@127.0.0.1/x?what=1", 'DATABASE_URL cannot be read: .*"what"'),
    ],
)
def test_a_url_that_leads_nowhere_is_one_line_at_once(postgres: PostgresServer, change, said: str) -> None:
    begun = time.monotonic()
    with pytest.raises(StoreError, match=said) as caught:
        open_store(change(postgres))
    assert time.monotonic() - begun < 15
    assert "\n" not in str(caught.value)
    assert postgres.password not in str(caught.value)


def test_a_password_is_never_part_of_a_message() -> None:
    url = "postgresql://ann:very%20secret@db.example/trades?sslmode=require"
    assert public_name(url) == "postgresql://ann@db.example:5432/trades"
    with pytest.raises(StoreError) as caught:
        connection_dsn("postgresql://ann:very-secret@db.example/trades?colour=blue")
    assert "secret" not in str(caught.value)


def test_what_the_url_says_of_time_outs_goes_before_ours(postgres_url: str) -> None:
    with open_store(f"{postgres_url}?options=-c%20statement_timeout%3D1234").engine.transaction(
        "market"
    ) as transaction:
        assert transaction.rows("SHOW statement_timeout") == [("1234ms",)]
        assert transaction.rows("SHOW TimeZone") == [("UTC",)]


def test_a_statement_that_takes_too_long_is_ended(postgres_url: str) -> None:
    store = open_store(f"{postgres_url}?options=-c%20statement_timeout%3D200")
    with (
        pytest.raises(StoreError, match="took longer than its statement_timeout"),
        store.engine.transaction("market") as transaction,
    ):
        transaction.rows("SELECT pg_sleep(5)")
    assert store.bars().empty


def test_a_writer_that_stands_still_holds_nobody_up_for_ever(postgres_url: str) -> None:
    store = open_store(f"{postgres_url}?options=-c%20lock_timeout%3D300")
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.upsert("account", ACCOUNT)
        with pytest.raises(StoreError, match="was in use by other writers"), ThreadPoolExecutor(1) as pool:
            pool.submit(_write_account, store).result()


def _write_account(store: Store) -> None:
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.upsert("account", ACCOUNT)


def test_a_read_only_database_is_read_and_says_so_when_written(store: Store, postgres_url: str) -> None:
    store.write_bars(some_bars())
    name = postgres_url.rpartition("/")[2]
    execute(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    read_only = open_store(postgres_url)
    assert len(read_only.bars()) == 10
    with pytest.raises(StoreError, match="is read-only; point DATABASE_URL at the primary server"):
        read_only.write_bars(some_bars())


def test_a_user_without_rights_is_told_what_is_refused(
    postgres: PostgresServer, store: Store, postgres_url: str
) -> None:
    if os.environ.get("TRADEBOT_TEST_DATABASE_URL"):
        pytest.skip("needs a server of the tests' own")
    store.write_bars(some_bars())
    name = postgres_url.rpartition("/")[2]
    execute(
        postgres.url(user="owner"),
        "DROP ROLE IF EXISTS guest",
        f"CREATE ROLE guest LOGIN PASSWORD '{postgres.password}'",
    )
    with pytest.raises(StoreError, match=r"refuses this user: permission denied for table .*GRANT it"):
        open_store(postgres.url(name, user="guest"))


@pytest.fixture
def public() -> Iterator[Path]:
    with open_folder() as folder:
        yield folder


def test_a_full_server_is_one_line_and_loses_nothing(postgres: PostgresServer, public: Path) -> None:
    disk = public / "disk"
    disk.mkdir()
    mounted = os.geteuid() == 0 and shutil.which("mount") and subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m,mode=0777", "tmpfs", disk], capture_output=True
    ).returncode == 0  # fmt: skip
    if not mounted:
        pytest.skip("a disk that can fill up needs the right to mount one")
    (disk / "space").mkdir()
    shutil.chown(disk / "space", "postgres")
    admin = postgres.url(user="owner")
    try:
        execute(
            admin,
            f"CREATE TABLESPACE small LOCATION '{disk}/space'",
            "CREATE DATABASE full_one TABLESPACE small TEMPLATE template0",
        )
        store = open_store(postgres.url("full_one", user="owner"))
        store.write_bars(some_bars())
        with pytest.raises(
            StoreError, match=r"the server's disk is full; free some space, nothing was half-written"
        ):
            store.write_bars(some_bars(300, 800))
        assert store.write_bars(some_bars()) == Written(unchanged=10)
        assert len(store.bars()) == 10
    finally:
        execute(admin, "DROP DATABASE IF EXISTS full_one WITH (FORCE)", "DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", disk], check=True)


def test_more_threads_than_connections_take_turns(postgres_url: str) -> None:
    open_store(postgres_url)
    store = Store(PostgresEngine(postgres_url, size=2))
    with ThreadPoolExecutor(12) as pool:
        assert sum(pool.map(lambda _: len(store.bars()), range(60))) == 0
    assert execute(
        postgres_url,
        "SELECT count(*) <= 3 FROM pg_stat_activity WHERE application_name = 'tradebot' AND datname = current_database()",
    ) == [(True,)]


def test_a_thread_that_waits_too_long_for_a_connection_is_told(postgres_url: str) -> None:
    open_store(postgres_url)
    store = Store(PostgresEngine(postgres_url, patience=0.2, size=1))
    with (
        store.engine.transaction("market"),
        ThreadPoolExecutor(1) as pool,
        pytest.raises(StoreError, match=r"all connections of this process .* were busy for 0.2 s"),
    ):
        pool.submit(store.bars).result()


# What comes back by itself is waited for


@pytest.fixture(scope="module")
def fragile(postgres: PostgresServer) -> Iterator[PostgresServer]:
    """A server of its own, to be crashed without disturbing the others."""
    with own_server(postgres.programs) as server:
        yield server


def kill_connections(url: str) -> None:
    execute(
        url,
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() "
        "AND backend_type = 'client backend' AND pid <> pg_backend_pid()",  # not autovacuum, which is no user's to end
    )


def test_connections_that_were_cut_are_replaced(store: Store, postgres_url: str) -> None:
    with ThreadPoolExecutor(6) as pool:
        list(pool.map(lambda _: store.bars(), range(24)))
    kill_connections(postgres_url)
    begun = time.monotonic()
    assert store.write_bars(some_bars()) == Written(inserted=10)
    assert time.monotonic() - begun < 15


def test_a_transaction_that_is_cut_in_the_middle_leaves_nothing_and_says_so(
    store: Store, postgres_url: str
) -> None:
    def cut_off() -> None:
        with store.engine.transaction("market", write=True) as transaction:
            transaction.rows("DELETE FROM raw_prices")
            kill_connections(postgres_url)
            transaction.rows("SELECT 1")

    store.write_bars(some_bars())
    with pytest.raises(StoreError, match="does not answer"):
        cut_off()
    assert len(store.bars()) == 10


def test_a_commit_whose_answer_is_lost_says_that_nobody_knows(store: Store, postgres_url: str) -> None:
    def lose_the_answer() -> None:
        with store.engine.transaction("market", write=True) as transaction:
            transaction.upsert("corporate_actions", SPLIT)
            kill_connections(postgres_url)

    with pytest.raises(
        StoreError, match=r"was lost while it committed .* running the same command again is safe"
    ):
        lose_the_answer()
    with store.engine.transaction("market", write=True) as transaction:
        assert transaction.upsert("corporate_actions", SPLIT) in (Written(inserted=1), Written(unchanged=1))


def test_a_server_that_crashes_is_waited_for_and_has_lost_nothing(fragile: PostgresServer) -> None:
    store = open_store(new_database(fragile.url()))
    for number in range(3):
        store.write_bars(some_bars(1, 10, start=f"201{number}-01-03"))
        fragile.stop("immediate")
        threading.Timer(1.0, fragile.start).start()
        assert len(store.bars()) == 10 * (number + 1)


def test_a_listener_outlives_the_server(fragile: PostgresServer) -> None:
    url = new_database(fragile.url())
    store, stop, heard = open_store(url), threading.Event(), []

    def listen() -> None:
        for signals in store.listen(last=0, stop=stop, poll=60):
            heard.extend(details["step"] for details in signals["details"])

    with ThreadPoolExecutor(1) as pool:
        listening = pool.submit(listen)
        store.write_signals("s", one_signal({"step": 1}))
        wait_until(lambda: heard == [1])
        fragile.stop("immediate")
        fragile.start()
        open_store(url).write_signals("s", one_signal({"step": 2}, "2012-02-01"))
        wait_until(lambda: heard == [1, 2])
        stop.set()
        listening.result()


def test_the_first_connection_waits_for_a_server_that_is_starting_up_only(fragile: PostgresServer) -> None:
    fragile.stop("immediate")
    begun = time.monotonic()
    with pytest.raises(StoreError, match="is the server running"):
        open_store(fragile.url())
    assert time.monotonic() - begun < 15
    fragile.start()
