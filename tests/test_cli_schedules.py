"""`tradebot schedule`: the shipped files are right, one is asked for, and every mistake is one line."""

import re
import shutil
from pathlib import Path

import pytest
from test_cli import ROOT, home, tradebot

__all__ = ["home"]  # the fixture


@pytest.fixture
def scheduled(home: Path) -> Path:
    shutil.copytree(ROOT / "schedules", home / "schedules")
    return home


def test_the_shipped_schedules_are_right_and_none_that_trades_is_on(scheduled: Path) -> None:
    checked = tradebot(scheduled, "schedule", "check")
    assert checked.returncode == 0, checked.stderr
    names = "daily, day, evidence, execution (off), intraday (off), monthly-sweep, nightly-replay (off), weekly-backtest"
    assert checked.stdout == f"right: {names}\n"
    coming = tradebot(scheduled, "schedule", "next", "-n", "20").stdout.splitlines()
    assert len(coming) == 20
    assert coming == sorted(coming)
    assert not re.search("execution|intraday|replay", "".join(coming))
    asked = tradebot(scheduled, "schedule", "next", "execution", "-n", "2").stdout.splitlines()
    assert len(asked) == 2, "of one that is off it is told when it would be"


def test_a_schedule_is_asked_for_listed_and_asked_for_again_when_it_was_parked(scheduled: Path) -> None:
    once = tradebot(scheduled, "schedule", "once", "daily")
    assert once.returncode == 0, once.stderr
    page = Path(once.stdout.splitlines()[-1].strip())
    assert page.exists()
    assert "-daily-" in page.parent.name
    failed = tradebot(scheduled, "schedule", "once", "execution", "--due", "2024-11-29T14:15")
    assert failed.returncode == 1
    assert "BrokerDown" in failed.stderr
    listed = tradebot(scheduled, "schedule", "list")
    assert listed.returncode == 1, "one is parked"
    assert re.search(r"daily +close \+ 20min .* succeeded ", listed.stdout)
    assert re.search(r"execution +open - 15min +off +2024-11-29 14:15 +parked +-", listed.stdout)
    assert "execution: BrokerDown" in listed.stdout
    again = tradebot(scheduled, "schedule", "once", "execution", "--due", "2024-11-29T14:15")
    assert again.returncode == 1
    assert len(tradebot(scheduled, "schedule", "list").stdout.splitlines()) == len(listed.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["once", "dayly"], "there is no schedule dayly; there are daily, day, evidence, execution"),
        (["next", "dayly"], "there is no schedule dayly"),
        (["once", "daily", "--due", "soon"], "'soon' is not a moment such as '2024-11-29 18:30'"),
        (["run", "--workers", "0"], "--workers must be at least 1"),
    ],
)
def test_mistakes_are_one_line(scheduled: Path, words: list[str], says: str) -> None:
    answer = tradebot(scheduled, "schedule", *words)
    assert answer.returncode == 2
    assert says in answer.stderr
    assert len(answer.stderr.splitlines()) == 1


def test_wrong_files_are_told_with_their_lines_before_anything_runs(scheduled: Path) -> None:
    daily, sweep = scheduled / "schedules" / "daily.toml", scheduled / "schedules" / "monthly-sweep.toml"
    daily.write_text(daily.read_text().replace('"close"', '"noon"'))
    sweep.write_text(sweep.read_text().replace("sweep.ipynb", "swept.ipynb"))
    for words in (["check"], ["list"], ["run"], ["once", "daily"]):
        answer = tradebot(scheduled, "schedule", *words)
        assert answer.returncode == 2, words
        assert "daily.toml:3: trigger.event: Input should be 'open' or 'close'" in answer.stderr
        assert "monthly-sweep.toml:2: " in answer.stderr
        assert "No such file" in answer.stderr
    assert not (scheduled / "reports").exists()


def test_no_schedules_at_all_is_said(home: Path) -> None:
    answer = tradebot(home, "schedule", "run")
    assert (answer.returncode, len(answer.stderr.splitlines())) == (2, 1)
    assert "there are no schedules in " in answer.stderr
