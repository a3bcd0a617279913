"""The scheduler: weeks on a driven clock, real notebooks, real kills, a store that goes away; each due time once."""

import contextlib
import logging
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import nbformat
import pandas as pd
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from servers.fast_scheduler import BASE
from servers.postgres import PostgresServer

from tradebot.config import Config, UserError
from tradebot.dues import Claim, dues_frame
from tradebot.kernel_pool import Leash
from tradebot.scheduler import Scheduler, notebook_work, standings
from tradebot.schedules import Schedule, next_due
from tradebot.store import Store, open_store


class Desk:
    """A project with schedules, a clock that is set by hand, and notes of what was done and told."""

    def __init__(self, home: Path, store: Store, **schedules: str):
        self.config, self.store = Config(home=home), store
        self.now = datetime(2024, 11, 25, 12)
        self.done: list[tuple[str, datetime]] = []
        self.told: list[tuple[str, str]] = []
        self.fails: Callable[[Claim], str] = lambda claim: ""
        (home / "schedules").mkdir(exist_ok=True)
        self.notebook("idle", "1 + 1")
        for name, text in schedules.items():
            self.file(name, text)

    def file(self, name: str, text: str) -> None:
        notebook = "" if "notebook" in text else 'notebook = "idle.ipynb"\n'
        (self.config.home / "schedules" / f"{name}.toml").write_text(notebook + text)

    def notebook(self, name: str, *cells: str) -> None:
        made = new_notebook(cells=[new_code_cell(cell) for cell in cells])
        nbformat.write(made, self.config.home / f"{name}.ipynb")

    def note(self, schedule: Schedule, claim: Claim, leash: Leash) -> tuple[str, str]:
        if not (error := self.fails(claim)):
            self.done.append((schedule.name, claim.due))
        return "", error

    def tell(self, kind: str, text: str, details: dict) -> None:
        self.told.append((kind, text))

    def scheduler(self, work: Callable | None = None, **more) -> Scheduler:
        return Scheduler(self.config, self.store, work or self.note, lambda: self.now, self.tell, **more)

    def earnest(self, **more) -> Scheduler:
        return self.scheduler(notebook_work(self.config, self.store, self.tell), **more)

    def until(self, end: str, *schedulers: Scheduler) -> None:
        """From one due time to the next, everybody looks."""
        while self.now < datetime.fromisoformat(end):
            for scheduler in schedulers:
                scheduler.look()
                scheduler.settle()
            coming = [next_due(schedule, self.now) for schedule in schedulers[0].schedules]
            self.now = min(pd.Timestamp(end), *coming).to_pydatetime()

    def states(self) -> dict[str, int]:
        return dues_frame(self.store, None)["state"].value_counts().to_dict()


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    return Desk(tmp_path, open_store(f"duckdb:///{tmp_path}/data"))


def at(text: str) -> datetime:
    return datetime.fromisoformat(text)


WEEK = {
    "after-close": 'trigger = { event = "close", offset = "20min" }',
    "before-open": 'trigger = { event = "open", offset = "-15min" }',
    "intraday": 'trigger = { every = "5min" }',
    "evening": 'trigger = { cron = "0 18 * * *" }',
    "london": 'trigger = { event = "close" }\ncalendar = "XLON"',
}


@pytest.mark.timeout(900)
def test_thanksgiving_week_with_two_schedulers(desk: Desk) -> None:
    for name, text in WEEK.items():
        desk.file(name, text)
    desk.until("2024-12-02T12:00", desk.scheduler(), desk.scheduler())
    assert set(Counter(desk.done).values()) == {1}
    assert desk.states() == {"succeeded": len(desk.done)}
    by = {name: [due for which, due in sorted(desk.done) if which == name] for name in WEEK}
    assert by["after-close"] == [
        at("2024-11-25T21:20"), at("2024-11-26T21:20"), at("2024-11-27T21:20"), at("2024-11-29T18:20")
    ]  # fmt: skip
    assert by["before-open"] == [at(f"2024-11-{day}T14:15") for day in (25, 26, 27, 29)]
    assert Counter(due.day for due in by["intraday"]) == {25: 78, 26: 78, 27: 78, 29: 42}
    assert by["intraday"][-1] == at("2024-11-29T18:00")
    assert len(by["evening"]) == 7
    assert by["london"] == [at(f"2024-11-{day}T16:30") for day in (25, 26, 27, 28, 29)]


@pytest.mark.parametrize(
    ("begin", "end", "closes", "evenings"),
    [
        ("2024-03-07T12:00", "2024-03-12T12:00", [21, 21, 20], [23, 23, 23, 22, 22]),
        ("2024-10-31T12:00", "2024-11-05T12:00", [20, 20, 21], [22, 22, 22, 23, 23]),
    ],
)
def test_the_clock_of_the_exchange_changes_and_nothing_is_run_twice_or_left_out(
    desk: Desk, begin: str, end: str, closes: list[int], evenings: list[int]
) -> None:
    desk.file("close", 'trigger = { event = "close" }')
    desk.file("evening", 'trigger = { cron = "0 18 * * *" }')
    desk.file("night", 'trigger = { cron = "30 1 * * *" }')
    desk.now = at(begin)
    desk.until(end, desk.scheduler())
    by = {name: [due for which, due in desk.done if which == name] for name in ("close", "evening", "night")}
    assert [due.hour for due in by["close"]] == closes
    assert [due.hour for due in by["evening"]] == evenings
    assert len({due.date() for due in by["night"]}) == len(by["night"]) == 5


def test_what_fails_is_tried_again_then_parked_and_told_once(desk: Desk) -> None:
    desk.file("close", 'trigger = { event = "close" }\nretries = 2\nbackoff = "10min"\nlate = "5min"')
    desk.fails = lambda claim: "no data"
    schedulers = [desk.scheduler(), desk.scheduler()]
    for _ in range(12 * 60):
        for scheduler in schedulers:
            scheduler.look()
            scheduler.settle()
        desk.now += timedelta(minutes=1)
    assert desk.states() == {"parked": 1}
    assert [kind for kind, _ in desk.told] == ["late", "parked"]
    assert "close of 2024-11-25 21:00 UTC is late: it has not succeeded within 5min" in desk.told[0][1]
    assert "is parked: no data" in desk.told[1][1]
    (standing,) = standings(desk.store, schedulers[0].schedules, desk.now)
    assert (standing.state, standing.attempt, standing.error) == ("parked", 3, "no data")


def test_after_downtime_the_policy_decides(desk: Desk) -> None:
    for policy in ("latest", "all", "none"):
        desk.file(policy, f'trigger = {{ event = "close" }}\ncatch_up = "{policy}"')
    desk.scheduler().look()
    desk.now = at("2024-11-30T12:00")
    late = desk.scheduler()
    for _ in range(8):
        late.look()
        late.settle()
    assert Counter(name for name, _ in desk.done) == {"latest": 1, "all": 4}
    assert ("latest", at("2024-11-29T18:00")) in desk.done


def test_a_clock_that_jumps_ahead_and_is_set_right_runs_everything_once(desk: Desk) -> None:
    desk.file("close", 'trigger = { event = "close" }\nlate = "1d"')
    scheduler = desk.scheduler()
    scheduler.look()
    desk.now = at("2031-05-05T05:05")
    scheduler.look()
    scheduler.settle()
    desk.now = at("2024-11-25T20:59")
    desk.until("2024-11-30T12:00", scheduler)
    due = [due for _, due in desk.done if due.year == 2024]
    assert due == [at(f"2024-11-{text}") for text in ("25T21:00", "26T21:00", "27T21:00", "29T18:00")]


def test_a_file_may_change_while_it_runs_and_a_wrong_one_changes_nothing(
    desk: Desk, caplog: pytest.LogCaptureFixture
) -> None:
    desk.file("close", 'trigger = { event = "close" }')
    scheduler = desk.scheduler()
    scheduler.look()
    desk.file("close", 'trigger = { event = "noon" }')
    desk.until("2024-11-25T23:00", scheduler)
    assert desk.done == [("close", at("2024-11-25T21:00"))]
    assert caplog.text.count("close.toml:2: trigger.event: Input should be 'open' or 'close'") == 1
    desk.file("close", 'trigger = { event = "close", offset = "1h" }')
    desk.file("off", 'trigger = { event = "close" }\nenabled = false')
    scheduler.look()
    desk.until("2024-11-26T23:00", scheduler)
    assert desk.done[1:] == [("close", at("2024-11-26T22:00"))]
    desk.file("close", 'trigger = { event = "noon" }')
    with pytest.raises(UserError, match=r"close.toml:2: trigger.event"):
        desk.scheduler()


# Real notebooks


def wait_until(true: Callable[[], bool], seconds: float = 90.0) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end, "it did not happen"
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] != "Z"
    except FileNotFoundError:
        return False


def test_a_notebook_runs_with_its_parameters_of_that_moment(desk: Desk) -> None:
    cells = [new_code_cell("day = ''\nsymbols = []", metadata={"tags": ["parameters"]})]
    cells.append(new_code_cell("print(day, symbols)", metadata={"tags": ["summary"]}))
    nbformat.write(new_notebook(cells=cells), desk.config.home / "tell.ipynb")
    desk.file(
        "tell",
        'notebook = "tell.ipynb"\ntrigger = { event = "close" }\nshards = 2\noutput = "{session}"\n'
        '[parameters]\nday = "{due:%d %B}"\nsymbols = ["A", "B", "C"]',
    )
    scheduler = desk.earnest(workers=2)
    scheduler.look()
    desk.now = at("2024-11-25T21:00")
    scheduler.look()
    scheduler.settle()
    frame = dues_frame(desk.store).sort_values("shard")
    assert frame["state"].tolist() == ["succeeded"] * 2, frame["error"].tolist()
    printed = [
        nbformat.read(desk.config.reports / run / "notebook.ipynb", 4).cells[-1].outputs[0].text
        for run in frame["run"]
    ]
    assert printed == ["25 November ['A', 'C']\n", "25 November ['B']\n"]
    assert ["-2024-11-25-1-of-2-" in frame["run"].iloc[0], "-2-of-2-" in frame["run"].iloc[1]] == [True] * 2


def test_a_notebook_that_never_ends_is_ended_with_all_it_started(
    desk: Desk, monkeypatch: pytest.MonkeyPatch
) -> None:
    pid = desk.config.home / "pid"

    class Patient(Leash):
        """However long the kernel takes to start, the notebook is ended in the middle of its endless cell."""

        def end(self, why: str) -> None:
            wait_until(lambda: pid.exists() and bool(pid.read_text()))
            super().end(why)

    monkeypatch.setattr("tradebot.scheduler.Leash", Patient)
    desk.notebook(
        "endless",
        f"import os, subprocess\nchild = subprocess.Popen(['sleep', '1000'])\nopen({str(pid)!r}, 'w').write(f'{{os.getpid()}} {{child.pid}}')",
        "while True: pass",
    )
    desk.file(
        "endless", 'notebook = "endless.ipynb"\ntrigger = { event = "close" }\ntimeout = "3s"\nretries = 0'
    )
    scheduler = desk.earnest()
    scheduler.look()
    desk.now = at("2024-11-25T21:00")
    scheduler.look()
    scheduler.settle()
    assert "it took longer than its 3s" in dues_frame(desk.store)["error"][0]
    assert not any(alive(int(each)) for each in pid.read_text().split())
    (run,) = desk.store.runs().to_dict("records")
    assert (run["status"], run["error"]) == ("failed", "it took longer than its 3s")
    assert (desk.config.reports / run["output"] / "notebook.html").exists()


def test_who_lost_the_lease_ends_its_notebook(desk: Desk) -> None:
    desk.notebook("slow", "import time", "time.sleep(1000)")
    desk.file("slow", 'notebook = "slow.ipynb"\ntrigger = { event = "close" }')
    scheduler = desk.earnest(lease=1.0)
    scheduler.look()
    desk.now = at("2024-11-25T21:00")
    scheduler.look()
    with desk.store.engine.transaction("ledger", write=True) as transaction:
        transaction.rows("UPDATE dues SET holder = 'another'")
    scheduler.settle()
    assert desk.store.runs()["error"][0] == "somebody else has taken it over"
    frame = dues_frame(desk.store)
    assert (frame["state"][0], frame["run"][0]) == ("running", None), "the row is the other's"


def started(home: Path, *words: str, **environment: str) -> subprocess.Popen:
    program = str(Path(sys.executable).with_name("tradebot"))
    surroundings = os.environ | {"TRADEBOT_HOME": str(home)} | environment
    return subprocess.Popen(
        [program, "schedule", "run", *words], env=surroundings, stderr=subprocess.PIPE, text=True
    )


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_stopped_in_the_middle_of_a_notebook_it_gives_it_back(tmp_path: Path, how: int) -> None:
    desk = Desk(tmp_path, open_store(f"duckdb:///{tmp_path}/data"))
    mark = tmp_path / "begun"
    desk.notebook(
        "slow", f"import os, time\nopen({str(mark)!r}, 'w').write(str(os.getpid()))\ntime.sleep(1000)"
    )
    desk.file("slow", 'notebook = "slow.ipynb"\ntrigger = { cron = "* * * * *" }')
    with desk.store.engine.transaction("ledger", write=True) as transaction:
        before = datetime.now(UTC).replace(tzinfo=None) - timedelta(minutes=5)
        transaction.rows(
            "INSERT INTO schedules (name, timing, since) VALUES ('slow', 'cron * * * * *, XNYS', $at)",
            at=before,
        )
    process = started(tmp_path)
    wait_until(lambda: mark.exists() and bool(mark.read_text()))
    process.send_signal(how)
    assert process.wait(90) == 0
    assert "Traceback" not in process.stderr.read()
    process.stderr.close()
    assert not alive(int(mark.read_text()))
    frame = dues_frame(desk.store).query("state == 'waiting'")
    assert frame["attempt"].tolist() == [0]
    assert desk.store.runs()["error"][0] == "the scheduler was stopped"


@pytest.mark.parametrize("where", ["home", "home/reports"])
def test_a_disk_that_is_full_and_then_is_not(
    tmp_path: Path, where: str, caplog: pytest.LogCaptureFixture
) -> None:
    """Store and pages on one disk, or the pages on one of their own: what is due is run as soon as there is room."""
    disk, home = tmp_path / where, tmp_path / "home"
    disk.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=24m", "tmpfs", disk], capture_output=True
    ).returncode:
        pytest.skip("only root may mount a small disk")
    try:
        desk = Desk(home, open_store(f"duckdb:///{home}/data"))
        desk.file("close", 'trigger = { event = "close" }\nbackoff = "1min"\nretries = 5')
        scheduler = desk.earnest()
        scheduler.try_look()
        with contextlib.suppress(OSError), open(disk / "ballast", "wb", buffering=0) as ballast:
            while True:
                ballast.write(bytes(4096))
        desk.now = at("2024-11-25T21:00")
        for _ in range(3):
            scheduler.try_look()
            scheduler.settle()
            desk.now += timedelta(minutes=2)
        assert "succeeded" not in desk.states()
        errors = "".join(str(error) for error in dues_frame(desk.store)["error"]) + caplog.text
        assert re.search("No space left|disk is full", errors), errors
        (disk / "ballast").unlink()
        for _ in range(6):
            scheduler.try_look()
            scheduler.settle()
            desk.now += timedelta(minutes=20)
        assert desk.states() == {"succeeded": 1}
        (done,) = desk.store.runs().query("status == 'succeeded'").to_dict("records")
        assert (desk.config.reports / done["output"] / "notebook.html").exists()
    finally:
        subprocess.run(["umount", disk], check=True)


# Real kills


def test_schedulers_that_are_killed_at_random_run_each_due_time_once(url: str, tmp_path: Path) -> None:
    store, speed, seconds = open_store(url), 120.0, 20
    desk = Desk(tmp_path, store)
    desk.file(
        "minutely",
        'trigger = { every = "1min" }\ncatch_up = "all"\noverlap = "wait"\nretries = 20\nbackoff = "1s"',
    )
    epoch, chance = time.time(), random.Random(7)
    command = [sys.executable, "-m", "servers.fast_scheduler", str(tmp_path), url, str(epoch), str(speed)]
    here = str(Path(__file__).parent)

    def start() -> subprocess.Popen:
        return subprocess.Popen(command, cwd=here, stdout=subprocess.PIPE, text=True)

    running = [start() for _ in range(3)]
    for process in running:
        assert process.stdout.readline() == "up\n"
    kills = 0
    while time.time() < epoch + seconds:
        time.sleep(chance.uniform(0.2, 1.5))
        victim = chance.randrange(3)
        running[victim].send_signal(signal.SIGKILL)
        running[victim].wait()
        running[victim].stdout.close()
        running[victim], kills = start(), kills + 1
    end = BASE + timedelta(minutes=40)
    wait_until(lambda: _all_succeeded(_up_to(store, end), end), 180)
    for process in running:
        process.kill()
        process.wait()
        process.stdout.close()
    rows = _up_to(store, end)
    assert rows["state"].tolist() == ["succeeded"] * len(rows)
    assert rows["due"].sort_values().diff().dropna().eq(pd.Timedelta("1min")).all(), "a due time is lost"
    notes = [line.split() for line in (tmp_path / "notes").read_text().splitlines()]
    attempts = Counter((due, attempt) for what, due, attempt, _ in notes if what == "begin")
    assert set(attempts.values()) == {1}, "an attempt was made by two"
    assert kills >= 8


def test_a_scheduler_killed_in_the_middle_of_a_notebook_leaves_it_to_the_next(
    url: str, tmp_path: Path
) -> None:
    """The notebook's kernel dies with its scheduler; the run is published as failed; the next scheduler runs it again."""
    store = open_store(url)
    desk = Desk(tmp_path, store)
    mark = tmp_path / "begun"
    desk.notebook(
        "slow",
        f"import os, time\nfirst = not os.path.exists({str(mark)!r})\nopen({str(mark)!r}, 'w').write(str(os.getpid()))",
        "time.sleep(1000 if first else 0)",
    )
    desk.file("slow", 'notebook = "slow.ipynb"\ntrigger = { event = "close" }\nbackoff = "1s"')
    code = (
        "import sys; from pathlib import Path; sys.path.insert(0, sys.argv[1]); import test_scheduler as t\n"
        "desk = t.Desk(Path(sys.argv[2]), t.open_store(sys.argv[3]))\n"
        "one = desk.earnest(); one.look(); desk.now = t.at('2024-11-25T21:00'); one.look(); one.settle()"
    )
    there = [sys.executable, "-c", code, str(Path(__file__).parent), str(tmp_path), url]
    victim = subprocess.Popen(there)
    wait_until(lambda: mark.exists() and bool(mark.read_text()))
    victim.send_signal(signal.SIGKILL)
    victim.wait()
    wait_until(lambda: not alive(int(mark.read_text())))
    desk.now, survivor = at("2024-11-25T21:00:30"), desk.earnest()
    survivor.look()
    survivor.settle()
    assert desk.states() == {"running": 1}, "its lease has not ended"
    for later in ("21:01:01", "21:01:05"):
        desk.now = at(f"2024-11-25T{later}")
        survivor.look()
        survivor.settle()
    assert desk.states() == {"succeeded": 1}
    runs = store.runs().sort_values("started")
    assert runs["status"].tolist() == ["failed", "succeeded"]
    assert runs["error"].iloc[0] == "the process was killed"
    assert (desk.config.reports / runs["output"].iloc[0]).is_dir()


def test_a_store_that_goes_away_and_comes_back_is_told_how_it_ended(
    postgres: PostgresServer, postgres_url: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    store = open_store(postgres_url)
    desk = Desk(tmp_path, store)
    desk.file("close", 'trigger = { event = "close" }')
    begun, go_on = threading.Event(), threading.Event()

    def work(schedule: Schedule, claim: Claim, leash: Leash) -> tuple[str, str]:
        begun.set()
        go_on.wait(90)
        return "the run", ""

    scheduler, stop = desk.scheduler(work, lease=600.0), threading.Event()
    thread = threading.Thread(target=scheduler.run, args=(stop,))
    thread.start()
    wait_until(lambda: _known(store, "close"))
    desk.now = at("2024-11-25T21:00")
    assert begun.wait(90)
    postgres.stop()
    go_on.set()
    with caplog.at_level(logging.ERROR):
        wait_until(lambda: "is tried again" in caplog.text)
    postgres.start()
    wait_until(lambda: _state(store) == "succeeded")
    stop.set()
    thread.join(90)
    assert not thread.is_alive()


def _up_to(store: Store, end: datetime) -> pd.DataFrame:
    frame = dues_frame(store, None)
    return frame[frame["due"] <= end]


def _all_succeeded(rows: pd.DataFrame, end: datetime) -> bool:
    return rows["due"].max() == end and set(rows["state"]) == {"succeeded"}


def _known(store: Store, name: str) -> bool:
    with store.engine.transaction("ledger") as transaction:
        return bool(transaction.rows("SELECT 1 FROM schedules WHERE name = $name", name=name))


def _state(store: Store) -> str:
    frame = dues_frame(store)
    return frame["state"].iloc[0] if len(frame) else ""
