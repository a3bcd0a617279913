"""The study runs on a filled store, and a copy of it with one edited cell becomes a strategy that the backtest runs."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.executable).parent


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project, whose own package is the one that is imported, with the sample fetched."""
    for name in ("nbs", "tradebot"):
        shutil.copytree(
            ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__", ".ipynb_*")
        )
    for name in ("settings.ini", "pyproject.toml"):
        shutil.copy(ROOT / name, tmp_path)
    assert tradebot(tmp_path, "fetch").returncode == 0
    return tmp_path


def surroundings(project: Path) -> dict[str, str]:
    return os.environ | {
        "TRADEBOT_HOME": str(project),
        "PYTHONPATH": str(project),
        "DATABASE_URL": "duckdb:///data",
    }


def tradebot(project: Path, *words: str) -> subprocess.CompletedProcess:
    code = "import sys; from tradebot.cli import main; sys.exit(main(sys.argv[1:]))"
    command = [sys.executable, "-c", code, *words]
    return subprocess.run(command, cwd=project, env=surroundings(project), capture_output=True, text=True)


def test_the_study_runs_from_the_first_cell_to_the_backtest(project: Path) -> None:
    done = tradebot(project, "run", "nbs/research/breakout.ipynb")
    assert done.returncode == 0, done.stderr
    reports = [folder.name for folder in (project / "reports").iterdir() if not folder.name.startswith(".")]
    assert any("backtest" in name for name in reports)
    assert any("breakout" in name for name in reports)


def test_a_copy_with_one_edited_cell_is_a_strategy(project: Path) -> None:
    text = (project / "nbs" / "research" / "breakout.ipynb").read_text()
    text = text.replace("strategies.breakout", "strategies.mine").replace("def breakout(", "def mine(")
    text = text.replace("def highest(", "def top(").replace("def lowest(", "def bottom(")
    text = text.replace("highest({entry})", "top({entry})").replace("lowest({exit})", "bottom({exit})")
    (project / "nbs" / "research" / "mine.ipynb").write_text(text)
    subprocess.run([BIN / "nbdev-export"], cwd=project, check=True, capture_output=True)
    done = tradebot(
        project, "backtest", "--strategy", "mine", "--set", "entry=40", "--range", "2005-01-01:2006-12-31"
    )
    assert done.returncode == 0, done.stderr
    assert re.search(r"mine\(entry=40\): \d+ signals, none stored yet", done.stdout)
    unknown = tradebot(project, "backtest", "--strategy", "yours")
    assert (
        "there is no strategy 'yours'; there is breakout, change_point, classifier, crossover, dip, mine, trend"
        in unknown.stderr
    )
