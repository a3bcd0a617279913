"""Every schema there has been is brought forward with real data in it, and nothing of it is lost."""

from datetime import datetime

import pandas as pd
import pytest

from stores.contract import write_as_before_versions
from tradebot import engine
from tradebot.config import Config, UserError
from tradebot.db_models import MIGRATIONS
from tradebot.pipeline import configured_strategy, update_signals
from tradebot.prices import fingerprint
from tradebot.provenance import verify
from tradebot.signal_engine import generate
from tradebot.store import Store, connect, open_store
from tradebot.transfer import copy_store

SCHEMAS = range(2, len(MIGRATIONS))  # after so many steps; the first two make the tables of an area each
MOMENT = datetime(2012, 1, 3, 21, 30)


def filled(store: Store, bars: pd.DataFrame, actions: pd.DataFrame, signals: pd.DataFrame) -> None:
    """Two stocks' bars, splits, dividends and signals, and a run, as any version could write them."""
    write_as_before_versions(store, bars, actions)
    store.write_signals("crossover", signals, run="r")
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.rows(
            "INSERT INTO runs (id, notebook, git_revision, parameters, fingerprint, started, ended, status, output) "
            "VALUES ('r', 'pipeline.ipynb', 'abc', '{\"symbols\": [\"IBM\"]}', 'f', $at, $at, 'succeeded', 'r')",
            at=MOMENT,
        )


@pytest.mark.parametrize("steps", SCHEMAS)
def test_a_store_of_every_schema_is_brought_forward_whole(
    url: str, sample, monkeypatch, tmp_path, steps: int
) -> None:
    bars, actions = sample[0].loc[["AAPL", "IBM"]], sample[1].query("symbol in ('AAPL', 'IBM')")
    strategy = configured_strategy(Config(home=tmp_path))
    signals, _ = generate(bars, actions, strategy)
    with monkeypatch.context() as then:
        then.setattr(engine, "MIGRATIONS", MIGRATIONS[:steps])
        filled(open_store(url), bars, actions, signals)
    behind = [version.area for version in connect(url).versions() if version.taken < version.known]
    assert behind, "nothing was left to do"

    store = open_store(url)
    assert all(version.taken == version.known for version in store.engine.versions())
    assert fingerprint(store.bars(), store.actions()) == fingerprint(bars, actions.reset_index(drop=True))
    pd.testing.assert_frame_equal(
        store.runs()[["id", "status"]], pd.DataFrame({"id": ["r"], "status": ["succeeded"]})
    )
    assert len(store.signals_after(0)) == len(signals)

    new = open_store(f"duckdb:///{tmp_path}/new")
    filled(new, bars, actions, signals)
    copied = copy_store(store, open_store(f"duckdb:///{tmp_path}/copy"))["checksum"]
    assert copied.equals(copy_store(new, open_store(f"duckdb:///{tmp_path}/other"))["checksum"])

    written, _ = update_signals(store, strategy)
    assert written.inserted == written.updated == 0

    store.write_run(id="s", notebook="pipeline.ipynb", parameters={}, started=MOMENT, status="running")
    assert [entry.subject for entry in store.chain()] == ["r", "s"], "the runs of before begin the chain"
    assert [line for line in verify(store, tmp_path).wrong if "altered" in line or "missing" in line] == []
    with pytest.raises(UserError, match="nothing in this store says since when"):
        store.bars(known=MOMENT)
    repaired = bars.copy()
    repaired.iloc[100, 3] += 0.01
    assert store.write_bars(repaired, lambda: MOMENT).updated == 1
    pd.testing.assert_frame_equal(store.bars(known=MOMENT), repaired)
    pd.testing.assert_frame_equal(store.before(MOMENT)[0], bars)


def test_an_upgrade_that_fails_changes_nothing_and_the_next_one_goes_through(
    url: str, sample, monkeypatch
) -> None:
    bars = sample[0].loc[["IBM"]]
    with monkeypatch.context() as then:
        then.setattr(engine, "MIGRATIONS", MIGRATIONS[:2])
        write_as_before_versions(open_store(url), bars)
    with monkeypatch.context() as broken:
        steps = [step for step in MIGRATIONS if step.area == "market"]
        wrong = engine.MIGRATIONS[0].__class__(
            "market", 9, "DELETE FROM raw_prices; SELECT no_such_column FROM raw_prices"
        )
        broken.setattr(engine, "MIGRATIONS", (*MIGRATIONS[:2], *steps[1:], wrong))
        with pytest.raises(Exception, match="no_such_column"):
            open_store(url)
    assert [version.taken for version in connect(url).versions()] == [1, 1]
    assert len(open_store(url).bars()) == len(bars)
