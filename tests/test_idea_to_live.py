"""The whole way of one strategy: research evidence, paper, weeks of trading made again, live; and what ends it."""

import os
import re
import shutil
import subprocess
import sys
from datetime import datetime
from pathlib import Path

import pytest

from tradebot.config import Config, load_config
from tradebot.promotion import configured_identity, promote, withheld
from tradebot.store import open_store

ROOT = Path(__file__).resolve().parent.parent
TO_PAPER = datetime(2012, 7, 8)  # a Sunday; it trades from Monday on


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home with the sample's signals of the trend that the example promotes."""
    shutil.copytree(ROOT / "nbs" / "pipelines", tmp_path / "nbs" / "pipelines")
    (tmp_path / "settings.ini").write_text("[strategy]\nname = trend\n")
    monkeypatch.setenv("TRADEBOT_HOME", str(tmp_path))
    monkeypatch.delenv("DATABASE_URL", raising=False)
    ask(tmp_path, 0, "run", "nbs/pipelines/pipeline.ipynb")
    return tmp_path


def ask(home: Path, code: int, *words: str) -> str:
    """What a command says on both streams; it must end with the code."""
    command = [Path(sys.executable).with_name("tradebot"), *words]
    done = subprocess.run(command, cwd=home, env=dict(os.environ), capture_output=True, text=True)
    assert done.returncode == code, done.stdout + done.stderr
    return done.stdout + done.stderr


def why_not(config: Config, stage: str) -> str:
    return withheld(open_store(config.database_url), config, stage, datetime.now())


def test_a_strategy_goes_from_research_to_live_and_back(project: Path) -> None:
    config = load_config()
    assert "causality (missing)" in ask(project, 2, "promote", "paper")
    ask(project, 0, "run", "nbs/pipelines/evidence.ipynb")
    assert "paper comes before live" in ask(project, 2, "promote", "live")

    # On paper since then: the sessions that are there to be traded lie in the past.
    store, identity = open_store(config.database_url), configured_identity(config)
    promote(store, config, identity, "paper", "ann", TO_PAPER)
    assert why_not(config, "paper") == ""
    assert "not promoted to live" in why_not(config, "live")
    assert "paper period (missing)" in ask(project, 2, "promote", "live")

    trading = ("run", "nbs/pipelines/execute.ipynb", "-p", "sessions=24")
    tradebot = str(Path(sys.executable).with_name("tradebot"))
    ask(project, 0, "broker", "--from", "2012-07-09", "--", tradebot, *trading)
    again = ask(project, 0, "replay", "2012-07-09", "2012-08-09", "--recorded")
    assert re.search(
        r"\d+ sessions on paper from 2012-07-09 .* 0 differences without a known cause", again
    ), again

    assert "live" in ask(project, 0, "promote", "live")
    assert why_not(config, "live") == ""
    order = store.runs().query("notebook == 'execute.ipynb'")["id"].iloc[0]
    with store.engine.transaction("ledger") as transaction:
        ((client_id, run),) = transaction.rows("SELECT client_order_id, run FROM orders ORDER BY id LIMIT 1")
    assert run == order
    told = ask(project, 0, "why", client_id, "--no-open")
    assert "decided by run" in told
    assert "found by run" in told
    assert "all as recorded" in ask(project, 0, "runs", "verify")

    (project / "settings.ini").write_text("[strategy]\nname = trend\nlength = 150\n")
    assert "its parameters changed" in why_not(load_config(), "live")
    assert "research" in ask(project, 1, "promote")
