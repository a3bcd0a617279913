"""The kill switch on every store: a row or a file stops buying, and so does whatever can't be read."""

from datetime import datetime
from pathlib import Path

import pytest

from tradebot.config import UserError
from tradebot.engine import StoreError
from tradebot.kill_switch import KillState, read_switch, turn_off, turn_on
from tradebot.postgres_engine import PostgresEngine
from tradebot.store import Store, open_store

NOW = datetime(2012, 1, 3, 15, 30)


@pytest.fixture
def store(url: str) -> Store:
    opened = open_store(url)
    opened.engine.upgrade()
    return opened


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "KILL"


def run_sql(store: Store, sql: str) -> None:
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.rows(sql)


def test_a_switch_that_nobody_touched_is_off(store: Store, file: Path) -> None:
    assert read_switch(store, file) == KillState(False)


def test_turning_it_on_says_why_and_another_machine_sees_it(store: Store, url: str, file: Path) -> None:
    turn_on(store, file, "it falls", NOW)
    assert file.read_text() == "2012-01-03 15:30 UTC: it falls\n"
    assert read_switch(open_store(url), file.with_name("elsewhere")) == KillState(True, "it falls")


def test_turning_it_off_needs_both_gone_and_may_be_said_twice(store: Store, file: Path) -> None:
    turn_on(store, file, "it falls", NOW)
    for _ in range(2):
        turn_off(store, file, "it rises", NOW)
        assert not read_switch(store, file).on
    assert not file.exists()


def test_a_file_alone_is_enough(store: Store, file: Path) -> None:
    file.touch()
    assert read_switch(store, file) == KillState(True, f"{file} exists")


def test_a_file_that_was_removed_by_hand_leaves_the_row_on(store: Store, file: Path) -> None:
    turn_on(store, file, "it falls", NOW)
    file.unlink()
    assert read_switch(store, file).on


@pytest.mark.parametrize("target", ["KILL", "nowhere"])
def test_a_link_is_a_file_wherever_it_leads(store: Store, file: Path, target: str) -> None:
    file.symlink_to(file.with_name(target))
    assert read_switch(store, file).on


def test_a_file_that_cannot_be_looked_at_is_on(store: Store, file: Path) -> None:
    file.touch()
    assert read_switch(store, file / "KILL") == KillState(
        True, f"{file / 'KILL'} cannot be read (Not a directory)"
    )


def test_a_row_that_cannot_be_read_is_on_and_stays_so(store: Store, file: Path) -> None:
    run_sql(store, "ALTER TABLE switches RENAME TO gone")
    state = read_switch(store, file)
    assert state.on
    assert state.reason.startswith("its row cannot be read")
    file.touch()
    with pytest.raises(Exception, match="switches"):
        turn_off(store, file, "", NOW)
    assert file.exists()


def test_a_file_that_cannot_be_written_is_an_error_and_the_row_stops_buying(store: Store, file: Path) -> None:
    file.mkdir()
    with pytest.raises(UserError, match="the switch's row stops buying all the same"):
        turn_on(store, file, "it falls", NOW)
    assert read_switch(store, file.with_name("elsewhere")).on


def test_a_file_that_cannot_be_removed_is_an_error_and_stops_buying(store: Store, file: Path) -> None:
    file.mkdir()
    with pytest.raises(UserError, match="buying stays stopped"):
        turn_off(store, file, "", NOW)
    assert read_switch(store, file).on


def test_without_a_database_the_file_stops_buying(postgres, file: Path) -> None:
    store = Store(PostgresEngine(postgres.database(), patience=0.2))
    store.engine.upgrade()
    postgres.stop("fast")
    try:
        assert read_switch(store, file).on
        with pytest.raises(StoreError, match="the file stops buying on this machine") as told:
            turn_on(store, file, "it falls", NOW)
        assert postgres.password not in str(told.value)
        with pytest.raises(StoreError, match="buying stays stopped"):
            turn_off(store, file, "", NOW)
        assert file.exists()
        file.unlink()
        file.mkdir()
        with pytest.raises(StoreError, match="buying may go on"):
            turn_on(store, file, "it falls", NOW)
    finally:
        postgres.start()
