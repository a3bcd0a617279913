"""Copying a store: either way, whole, resumable, refused where something would be lost."""

import signal
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from stores.contract import NO_INPUTS, in_process, one_signal, some_bars
from tradebot.config import Config
from tradebot.db_models import TABLES
from tradebot.engine import StoreError
from tradebot.identity import Check, Identity
from tradebot.prices import actions_frame
from tradebot.promotion import promote, record_evidence
from tradebot.store import Store, open_store
from tradebot.transfer import copy_store

MOMENT = pd.Timestamp("2012-01-03 14:30:00.123456")


def filled(store: Store) -> Store:
    """A store with something in every table."""
    bars = some_bars(3, 20)
    store.write_bars(bars.head(40) + 1)
    store.write_bars(bars)
    for ratio in (3.0, 2.0):
        store.write_actions(
            actions_frame([("S000", "2012-01-04", "split", ratio), ("S001", "2012-01-05", "dividend", 0.1)])
        )
    features = pd.DataFrame({"sma_20": np.linspace(0, 1, 60), "rsi_14": np.nan}, index=bars.index)
    store.write_features(features, NO_INPUTS)
    with store.engine.transaction("market", write=True) as market:
        market.upsert(
            "indicator_inputs", pd.DataFrame({"symbol": ["S000"], "recipe": "r", "digest": "d", "bars": [20]})
        )
        market.upsert(
            "coverage",
            pd.DataFrame(
                {"symbol": ["S000"], "interval": "1d", "provider": "x", "first": [MOMENT], "last": [MOMENT]}
            ),
        )
        flip = {"strategy": ["s"], "symbol": "S000", "timestamp": MOMENT, "was": "buy: é", "would": "nothing"}
        flip |= {"revision": "close 1 → 2", "as_of": MOMENT, "ordered": False, "told": True}
        market.upsert("flips", pd.DataFrame(flip))
        market.upsert("examined", pd.DataFrame({"strategy": ["s"], "until": [MOMENT]}))
        failure = {"provider": ["x"], "symbol": "S009", "failures": 3, "latest": [MOMENT], "error": "no such"}
        market.upsert("provider_errors", pd.DataFrame(failure))
        issue = {
            "symbol": ["S000"],
            "timestamp": [MOMENT],
            "rule": "r",
            "detail": 'it\'s, "so"',
            "rejected": [True],
        }
        market.upsert("data_issues", pd.DataFrame({**issue, "bar": ['{"open": 1.50, "close": null}']}))
    for step, day in enumerate((5, 3, 4)):
        store.write_signals(
            "s", one_signal({"price": 1.5, "why": "é\n", "step": step}, f"2012-01-0{day}"), run="r"
        )
    with store.engine.transaction("ledger", write=True) as ledger:
        ledger.rows("UPDATE signals SET executed = TRUE WHERE id = 2")
        ledger.upsert("orders", pd.DataFrame([order("a", Decimal("3.000001")), order("b", None)]))
        fill = {"execution_id": "e", "order_id": 1, "account": "x", "symbol": "S000", "side": "buy"}
        ledger.upsert(
            "executions",
            pd.DataFrame([{**fill, "timestamp": MOMENT, "quantity": Decimal(2), "price": Decimal("9.99")}]),
        )
        account = {"id": "x", "mode": "local", "cash": Decimal("123456789012.000001"), "reserved": Decimal(0)}
        account |= {"day": None, "day_equity": None, "peak_equity": Decimal("0.5"), "halted": "é"}
        ledger.upsert("account", pd.DataFrame([{**account, "opened": MOMENT, "updated": MOMENT}]))
        position = {"account": "x", "symbol": "S000", "quantity": Decimal("2.5"), "reserved": Decimal(0)}
        ledger.upsert("positions", pd.DataFrame([position]))
        entry = {"account": "x", "entry_id": "d", "timestamp": MOMENT, "kind": "div", "symbol": None}
        entry |= {"quantity": Decimal(0), "amount": Decimal("-0.000001"), "note": None}
        ledger.upsert("entries", pd.DataFrame([entry]))
        switch = {"name": "kill", "is_on": True, "reason": "why", "changed": MOMENT}
        ledger.upsert("switches", pd.DataFrame([switch]))
        key = {"id": "k", "name": "é", "hash": "0" * 64, "scope": "read", "created": MOMENT, "revoked": None}
        ledger.upsert("api_keys", pd.DataFrame([key]))
        device = {"endpoint": "https://fcm.googleapis.com/x", "p256dh": "B", "auth": "s", "created": MOMENT}
        ledger.upsert("subscriptions", pd.DataFrame([device]))
        ledger.upsert("schedules", pd.DataFrame([{"name": "daily", "timing": "close", "since": MOMENT}]))
        due = {
            "schedule": "daily",
            "due": MOMENT,
            "shard": 0,
            "state": "waiting",
            "attempt": 1,
            "ready": MOMENT,
            "holder": None,
        }
        due |= {"lease": None, "run": "r", "error": "é", "told": False, "updated": MOMENT}
        ledger.upsert("dues", pd.DataFrame([due]).astype({"lease": "datetime64[us]"}))
    run = {
        "id": "r",
        "notebook": "n",
        "git_revision": None,
        "parameters": {"b": 1, "a": [1.0, None]},
        "fingerprint": "",
    }
    store.note_environment("e", "duckdb==1\nnumpy==2")
    config, identity = Config(home=Path("/")), Identity("s", "{}", "c", "e")
    record_evidence(store, config, identity, [Check("parity", True, "é", {"rows": 1})], "r", MOMENT)
    promote(store, config, identity, "paper", "ann", MOMENT, "é")
    store.write_run(**run, started=MOMENT, ended=None, status="running", output=None, error=None)
    return store


def order(key: str, limit: Decimal | None) -> dict:
    return {
        "client_order_id": key, "account": "x", "signal_id": 1, "strategy": "s", "symbol": "S000", "side": "buy",
        "attempt": 1, "quantity": Decimal(2), "limit_price": limit, "reserved": Decimal("6.000002"),
        "filled": Decimal(0), "status": "new", "reason": None, "broker_order_id": None, "worker": None, "run": "r",
        "good_until": MOMENT, "hold_until": MOMENT, "created": MOMENT, "submitted": None, "updated": MOMENT,
    }  # fmt: skip


@pytest.fixture
def embedded(tmp_path: Path) -> str:
    return f"duckdb:///{tmp_path}/from"


@pytest.fixture
def others(tmp_path: Path, postgres_url: str) -> dict[str, str]:
    return {"DuckDB": f"duckdb:///{tmp_path}/to", "PostgreSQL": postgres_url}


@pytest.mark.parametrize("kind", ["DuckDB", "PostgreSQL"])
def test_everything_goes_over_and_comes_back_alike(
    embedded: str, others: dict, tmp_path: Path, kind: str
) -> None:
    source, target = filled(open_store(embedded)), open_store(others[kind])
    there = copy_store(source, target)
    assert (there["rows"] > 0).all(), "a table that the copy could not have lost"
    assert (there["copied"] == there["rows"]).all()
    back = copy_store(target, open_store(f"duckdb:///{tmp_path}/back"))
    assert there["checksum"].equals(back["checksum"])
    pd.testing.assert_frame_equal(target.signals_after(0), source.signals_after(0))
    with target.engine.transaction("ledger") as ledger:
        assert ledger.rows("SELECT cash FROM account") == [(Decimal("123456789012.000001"),)]
        assert ledger.rows("SELECT limit_price FROM orders ORDER BY id") == [(Decimal("3.000001"),), (None,)]


@pytest.mark.parametrize("kind", ["DuckDB", "PostgreSQL"])
def test_copying_again_writes_nothing_and_what_is_new_comes_with_new_ids(
    embedded: str, others: dict, kind: str
) -> None:
    source, target = filled(open_store(embedded)), open_store(others[kind])
    copy_store(source, target)
    assert (copy_store(source, target)["copied"] == 0).all()
    target.write_signals("s", one_signal({}, "2013-01-01"))
    ids = target.signals_after(0)["id"]
    assert ids.is_unique
    assert ids.max() > source.signals_after(0)["id"].max()


def test_what_changed_at_home_is_brought_over(embedded: str, others: dict) -> None:
    source, target = filled(open_store(embedded)), open_store(others["PostgreSQL"])
    copy_store(source, target)
    source.write_bars(some_bars(1, 1) + 1)
    assert copy_store(source, target)["copied"]["raw_prices"] == 1
    pd.testing.assert_frame_equal(source.bars(), target.bars())


@pytest.mark.parametrize("kind", ["DuckDB", "PostgreSQL"])
@pytest.mark.parametrize("what", ["a symbol that the other has too", "a symbol of its own", "a signal"])
def test_a_target_with_rows_of_its_own_is_refused_and_keeps_them(
    embedded: str, others: dict, kind: str, what: str
) -> None:
    source, target = filled(open_store(embedded)), open_store(others[kind])
    if what == "a signal":
        target.write_signals("s", one_signal({"mine": True}, "2013-01-01"))
    else:
        target.write_bars(some_bars(1 if "too" in what else 4, 1, start="2013-01-01"))
    with pytest.raises(
        StoreError, match=r"holds \d+ rows of \w+ that the other store lacks|contradict|has \d+; if something"
    ):
        copy_store(source, target)
    if what == "a signal":
        assert {"mine": True, "run": ""} in list(target.signals()["details"])
    else:
        assert len(target.bars(start="2013-01-01")) >= 1


def test_a_copy_killed_in_the_middle_goes_on(tmp_path: Path, postgres_url: str) -> None:
    url = f"duckdb:///{tmp_path}/from"
    source = filled(open_store(url))
    source.write_bars(some_bars(300, 2000))
    code = (
        "import sys\nfrom tradebot.store import open_store\nfrom tradebot.transfer import copy_store\n"
        "copy_store(open_store(sys.argv[1]), open_store(sys.argv[2]), lambda table, rows: print(table, rows, flush=True))\n"
    )
    copier = in_process(code, url, postgres_url, stdout=subprocess.PIPE)
    copier.stdout.readline()
    time.sleep(0.1)
    copier.send_signal(signal.SIGKILL)
    copier.wait()
    copier.stdout.close()
    target = open_store(postgres_url)
    arrived = len(target.bars())
    assert 0 < arrived < len(source.bars())
    again = copy_store(source, target)
    assert again["copied"]["raw_prices"] <= len(source.bars()) - arrived
    pd.testing.assert_frame_equal(source.bars(), target.bars())


def test_every_table_of_the_schema_is_copied(embedded: str) -> None:
    store, known = open_store(embedded), set()
    for area in ("market", "ledger"):
        with store.engine.transaction(area) as transaction:
            known |= {
                (name, column)
                for name, column in transaction.rows(
                    "SELECT table_name, column_name FROM information_schema.columns WHERE table_name IN "
                    "(SELECT table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE')"
                )
            }
    copied = {(table.name, column) for table in TABLES.values() for column in (*table.columns, *table.filled)}
    assert copied == {(name, column) for name, column in known if name != "migrations"}
