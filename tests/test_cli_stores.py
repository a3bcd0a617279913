"""The command line on either store: the same line walked, the same signals found, everything moved and back."""

import re
from pathlib import Path

import pandas as pd
import pytest
from servers.postgres import execute
from test_cli import home, tradebot

from tradebot.db_models import MIGRATIONS
from tradebot.store import open_store

__all__ = ["home"]  # the fixture


def password(url: str) -> str:
    return url.partition("@")[0].rpartition(":")[2]


def test_the_whole_line_finds_the_same_on_either_store(home: Path, postgres_url: str, tmp_path: Path) -> None:
    for url in ("duckdb:///data", postgres_url):
        pipeline = tradebot(home, "run", "nbs/pipelines/pipeline.ipynb", DATABASE_URL=url)
        assert pipeline.returncode == 0, pipeline.stderr
        assert "12,154 bars of 5 symbols" in pipeline.stdout
    backtest = tradebot(home, "backtest", DATABASE_URL=postgres_url)
    assert backtest.returncode == 0, backtest.stderr + backtest.stdout
    assert "equal to the stored ones" in backtest.stdout
    embedded, server = open_store(f"duckdb:///{home}/data"), open_store(postgres_url)
    pd.testing.assert_frame_equal(embedded.bars(), server.bars(), check_exact=True)
    names = ["sma_20", "ema_50", "rsi_14"]
    pd.testing.assert_frame_equal(embedded.features(names), server.features(names), check_exact=True)
    found = [
        store.signals().assign(details=lambda each: [{**row, "run": ""} for row in each["details"]])
        for store in (embedded, server)
    ]
    pd.testing.assert_frame_equal(found[0].drop(columns="id"), found[1].drop(columns="id"))
    left = [path for path in (home / "reports").rglob("*") if path.is_file()]
    assert left
    assert not [path for path in left if password(postgres_url).encode() in path.read_bytes()]


def test_a_store_is_created_looked_at_moved_and_moved_back(home: Path, postgres_url: str) -> None:
    server = {"DATABASE_URL": postgres_url}
    before = tradebot(home, "db", "status", **server)
    assert before.returncode == 0, before.stderr
    newest = max(migration.number for migration in MIGRATIONS if migration.area == "market")
    assert f"market: migration 0 of {newest}; `tradebot db upgrade` takes the rest" in before.stdout
    assert re.search(
        r"market 1, ledger 1, market 2, ledger 2, ledger 3, ledger 4",
        tradebot(home, "db", "init", **server).stdout,
    )
    assert "everything is up to date" in tradebot(home, "db", "upgrade", **server).stdout
    tradebot(home, "fetch", "IBM")
    tradebot(home, "signals", "IBM")
    there = tradebot(home, "db", "copy", "duckdb:///data", postgres_url)
    assert there.returncode == 0, there.stderr
    assert re.search(r"raw_prices\s+3270\s+3270\s+[0-9a-f]{16}", there.stdout)
    back = tradebot(home, "db", "copy", postgres_url, f"duckdb:///{home}/back")
    assert back.returncode == 0, back.stderr
    assert re.findall(r"[0-9a-f]{16}", there.stdout) == re.findall(r"[0-9a-f]{16}", back.stdout)
    status = tradebot(home, "db", "status", **server).stdout
    assert re.search(r"raw_prices\s+3270\s+2000-03-01\s+2013-03-01", status)
    assert re.search(r"PostgreSQL \d+\.\d+.*TimescaleDB", status)
    assert password(postgres_url) not in there.stdout + there.stderr + back.stdout + status
    doctor = tradebot(home, "doctor", **server)
    assert doctor.returncode == 0, doctor.stdout
    assert "database (postgresql)" in doctor.stdout


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["db", "copy", "{url}", "{url}"], 2, "FROM and TO are the same"),
        (["db", "copy", "duckdb:///nowhere", "{url}"], 2, "nowhere holds no tables of this version"),
        (["db", "copy", "{url}", "mysql://x"], 2, "it may be duckdb:///FOLDER or postgresql"),
        (["db", "copy", "{url}"], 2, "the following arguments are required: TO"),
        (["db"], 2, "the following arguments are required: ACTION"),
        (["db", "destroy"], 2, "invalid choice: 'destroy'"),
    ],
)
def test_a_mistake_is_one_line(home: Path, postgres_url: str, words: list[str], code: int, says: str) -> None:
    done = tradebot(home, *(word.format(url=postgres_url) for word in words))
    assert (done.returncode, done.stdout) == (code, "")
    assert says in done.stderr
    assert len(done.stderr.splitlines()) == 1
    assert not (home / "nowhere").exists()


def test_a_server_that_may_not_be_written_is_one_line_and_an_honest_exit(
    home: Path, postgres_url: str
) -> None:
    tradebot(home, "db", "init", DATABASE_URL=postgres_url)
    name = postgres_url.rpartition("/")[2]
    execute(postgres_url, f"ALTER DATABASE {name} SET default_transaction_read_only = on")
    done = tradebot(home, "fetch", DATABASE_URL=postgres_url)
    assert done.returncode == 2
    assert "is read-only; point DATABASE_URL at the primary server" in done.stderr
    assert password(postgres_url) not in done.stderr
