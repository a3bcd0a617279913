"""A failed run keeps its inputs: the notebook opened there fails again as it did, and touches nothing that is live."""

import logging
from datetime import datetime
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbclient import NotebookClient
from nbclient.exceptions import CellExecutionError
from test_runs import notebook

from tradebot import frozen
from tradebot.backup import restore
from tradebot.config import Config, UserError, load_config
from tradebot.runs import run
from tradebot.store import Store, open_store

SETTINGS = "[data]\nuniverse = AAPL, IBM\n[execution]\nbroker = alpaca\n"
FAILS = """
import pandas as pd
from tradebot.config import load_config
from tradebot.store import open_store
config = load_config()
store = open_store(config.database_url)
close = store.bars(config.data.universe)["close"]
print(f"{len(close)} closes of {config.data.universe}, pad {config.execution.pad}")
store.write_signals("mark", pd.DataFrame(
    {"symbol": ["IBM"], "timestamp": [close.index[-1][1]], "signal_type": ["buy"], "details": [{}]}), run="x")
raise ValueError(f"{close.max():.2f} of {parameter} is too much")
"""


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project's folder; what its environment says beside it."""
    (tmp_path / "settings.ini").write_text(SETTINGS)
    monkeypatch.setenv("TRADEBOT_EXECUTION_PAD", "7.5")
    monkeypatch.setenv("ALPACA_API_KEY", "a-key-of-ours")
    return tmp_path


@pytest.fixture
def config(home: Path, url: str, monkeypatch: pytest.MonkeyPatch) -> Config:
    monkeypatch.setenv("DATABASE_URL", url)
    return load_config(home)


@pytest.fixture
def store(config: Config, sample) -> Store:
    store = open_store(config.database_url)
    store.write_bars(sample[0].loc[["AAPL", "IBM"]])
    return store


def run_all(folder: Path) -> tuple[str, str]:
    """Open the notebook of a run as JupyterLab does, and run all of it; what it printed, and how it failed."""
    opened = nbformat.read(folder / "notebook.ipynb", 4)
    client = NotebookClient(opened, kernel_name="python3", resources={"metadata": {"path": str(folder)}})
    try:
        client.execute()
    except CellExecutionError as error:
        return printed(opened), f"{error.ename}: {error.evalue}"
    return printed(opened), ""


def printed(content: nbformat.NotebookNode) -> str:
    return "".join(out.get("text", "") for cell in content.cells for out in cell.get("outputs", []))


def test_the_models_that_it_may_have_read_are_kept(home: Path, config: Config, store: Store) -> None:
    (home / "models").mkdir()
    (home / "models" / "trend.json").write_text("as it was")
    done = run(notebook(home, FAILS, parameters="parameter = ''"), {"parameter": "a lot"}, config, store)
    (home / "models" / "trend.json").write_text("as it is now")
    assert (done.folder / "frozen" / "models" / "trend.json").read_text() == "as it was"


def test_run_all_fails_as_it_did_after_everything_has_changed(
    home: Path, config: Config, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    done = run(notebook(home, FAILS, parameters="parameter = ''"), {"parameter": "a lot"}, config, store)
    assert done.error.startswith("ValueError: 702.10 of a lot is too much")
    assert not any(
        b"a-key-of-ours" in path.read_bytes() for path in filter(Path.is_file, done.folder.rglob("*"))
    )
    first = printed(nbformat.read(done.folder / "notebook.ipynb", 4))
    assert "pad 7.5" in first

    with store.engine.transaction("market", write=True) as market:
        market.rows("DELETE FROM raw_prices WHERE symbol = 'AAPL'")
    with store.engine.transaction("ledger", write=True) as ledger:
        ledger.rows("DELETE FROM signals")
    (home / "settings.ini").write_text("[data]\nuniverse = TSLA\n")
    monkeypatch.setenv("TRADEBOT_EXECUTION_PAD", "1")
    monkeypatch.setenv("TRADEBOT_HOME", str(home))
    assert run_all(done.folder) == (first, done.error.partition(" (cell")[0])
    assert store.signals_after(0).empty, "it wrote into the live store"


def test_what_is_kept_is_the_store_and_can_be_brought_back(home: Path, config: Config, store: Store) -> None:
    done = run(notebook(home, FAILS, parameters="parameter = ''"), {}, config, store)
    brought = open_store(f"duckdb:///{home}/brought")
    restore(done.folder / "frozen" / "data", brought)
    pd.testing.assert_frame_equal(brought.bars(), store.bars())


def test_a_run_that_succeeds_keeps_nothing(home: Path, config: Config, store: Store) -> None:
    done = run(notebook(home, "print(1)"), {}, config, store)
    assert done.succeeded
    assert not (done.folder / "frozen").exists()


def test_a_notebook_there_cannot_reach_a_broker(home: Path, config: Config, store: Store) -> None:
    asks = "from tradebot.alpaca import get_broker\nfrom tradebot.config import load_config\nget_broker(load_config()).account()"
    done = run(notebook(home, "raise ValueError('first')"), {}, config, store)
    path = done.folder / "notebook.ipynb"
    opened = nbformat.read(path, 4)
    opened.cells[-1].source = asks
    nbformat.write(opened, path)
    _, error = run_all(done.folder)
    assert "127.0.0.1:1" in error


@pytest.mark.parametrize("why", ["too big", "no room"])
def test_inputs_that_cannot_be_kept_cost_nothing_of_the_failure(
    home: Path, config: Config, store: Store, monkeypatch, caplog, why: str
) -> None:
    if why == "too big":
        monkeypatch.setattr(frozen, "FREEZE_ROWS", 10)
        says = "the store holds 6,540 bars and features, and up to 10 are kept"
    else:

        def full(*_: object) -> None:
            raise UserError("data cannot be written: No space left on device")

        monkeypatch.setattr(frozen, "backup", full)
        says = "No space left on device"
    with caplog.at_level(logging.WARNING):
        done = run(notebook(home, "raise ValueError('this one')"), {}, config, store)
    assert done.error.startswith("ValueError: this one")
    assert says in caplog.text
    assert not (done.folder / "frozen").exists()
    assert store.runs()["error"].item() == done.error


def test_only_the_newest_failures_keep_their_inputs(tmp_path: Path) -> None:
    for n in range(frozen.KEPT + 3):
        folder = tmp_path / f"2026010{n // 10}T{n % 10:06}-x-failed" / "frozen"
        folder.mkdir(parents=True)
        (folder / "frozen.env").touch()
    frozen.forget_old(tmp_path)
    kept = sorted(path.parent.name for path in tmp_path.glob("*/frozen"))
    everything = sorted(path.name for path in tmp_path.iterdir())
    assert len(everything) == frozen.KEPT + 3
    assert kept == everything[3:]


def test_surroundings_come_back_however_they_are_written(
    home: Path, config: Config, store: Store, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    odd = 'it\'s "so" = #1 \\ é'
    monkeypatch.setenv("TRADEBOT_SERVE_CONTACT", f"mailto:{odd}")
    folder = tmp_path / "reports" / "x"
    folder.mkdir(parents=True)
    assert frozen.freeze(folder, load_config(home), store, datetime(2026, 1, 1))
    assert load_config(folder / "frozen").serve.contact == f"mailto:{odd}"
