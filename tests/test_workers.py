"""Celery's workers and beat over a real Redis: killed workers, a broker that goes away, shards on two workers."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import missing
from servers.redis import RedisServer, program
from test_scheduler import Desk, alive, wait_until

from tradebot.config import Config
from tradebot.dues import ask, dues_frame
from tradebot.schedules import load_schedules
from tradebot.store import open_store
from tradebot.workers import Dispatcher

pytestmark = pytest.mark.timeout(600)


@pytest.fixture
def redis(tmp_path: Path) -> Iterator[RedisServer]:
    if program() is None:
        missing("redis-server")
    server = RedisServer(tmp_path)
    yield server
    server.stop()


class Site:
    """A project with a database, a broker, and `tradebot` processes in groups of their own; all end with the test."""

    def __init__(self, home: Path, url: str, redis: RedisServer):
        self.desk, self.redis = Desk(home, open_store(url)), redis
        self._surroundings = os.environ | {
            "TRADEBOT_HOME": str(home),
            "DATABASE_URL": url,
            "REDIS_URL": redis.url,
        }
        self._started: list[subprocess.Popen] = []
        self._logs = home / "logs"

    def start(self, *words: str) -> subprocess.Popen:
        command = [str(Path(sys.executable).with_name("tradebot")), *words]
        with self._logs.open("ab") as logs:
            process = subprocess.Popen(command, env=self._surroundings, stderr=logs, start_new_session=True)
        self._started.append(process)
        return process

    def ask(self, name: str, *dues: datetime) -> None:
        """Have due times run, the scheduler being up or not."""
        (schedule,) = (one for one in load_schedules(self.desk.config) if one.name == name)
        for due in dues:
            ask(self.desk.store, schedule, due, datetime.now(UTC).replace(tzinfo=None))

    def states(self) -> list[str]:
        return dues_frame(self.desk.store, None)["state"].tolist()

    def wait(self, true: Callable[[], bool], seconds: float = 120.0) -> None:
        try:
            wait_until(true, seconds)
        except AssertionError:
            raise AssertionError(f"{self.states()}\n{self._logs.read_text()[-6000:]}") from None

    def kill(self, process: subprocess.Popen) -> None:
        """With all that it started, as a machine does that loses its power."""
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        for process in self._started:
            self.kill(process)


@pytest.fixture
def site(url: str, redis: RedisServer, tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path, url, redis)
    yield site
    site.end()


YEARLY = 'trigger = { cron = "0 0 1 jan *" }\nbackoff = "1s"\n'


def test_a_worker_killed_in_the_middle_of_a_notebook_leaves_it_to_another(site: Site, monkeypatch) -> None:
    mark = site.desk.config.home / "begun"
    site.desk.notebook(
        "slow",
        f"import os, time\nfirst = not os.path.exists({str(mark)!r})\nopen({str(mark)!r}, 'w').write(str(os.getpid()))",
        "time.sleep(1000 if first else 0)",
    )
    site.desk.file("slow", f'notebook = "slow.ipynb"\n{YEARLY}')
    victim = site.start("worker", "--workers", "1")
    site.start("schedule", "run", "--engine", "celery")
    site.ask("slow", datetime(2024, 11, 29, 18))
    site.wait(lambda: mark.exists() and bool(mark.read_text()))
    site.kill(victim)
    site.wait(lambda: not alive(int(mark.read_text())))
    site.start("worker", "--workers", "1")
    with site.desk.store.engine.transaction("ledger", write=True) as transaction:  # as if a minute had passed
        transaction.rows("UPDATE dues SET lease = $at", at=datetime(2024, 11, 29))
    site.wait(lambda: site.states() == ["succeeded"])
    runs = site.desk.store.runs().sort_values("started")
    assert runs["status"].tolist() == ["failed", "succeeded"]
    assert runs["error"].iloc[0] == "the process was killed"
    assert dues_frame(site.desk.store)["attempt"].tolist() == [2]


def test_redis_goes_away_with_its_messages_and_comes_back(site: Site) -> None:
    site.desk.file("idle", YEARLY)
    site.start("schedule", "run", "--engine", "celery")
    worker = site.start("worker", "--workers", "1")
    site.ask("idle", datetime(2024, 1, 1))
    site.wait(lambda: site.states() == ["succeeded"])
    site.redis.stop()
    site.ask("idle", datetime(2024, 1, 2))
    site.wait(lambda: "Redis does not answer" in (site.desk.config.home / "logs").read_text())
    assert worker.poll() is None
    site.redis.start()
    site.wait(lambda: site.states() == ["succeeded"] * 2)
    assert len(site.desk.store.runs()) == 2


def test_shards_are_shared_out_among_workers_and_one_that_fails_stops_no_other(site: Site) -> None:
    import nbformat
    from nbformat.v4 import new_code_cell, new_notebook

    together = (  # two workers of two have room for all four at once; one alone has not
        f"import time\nfrom pathlib import Path\nhere = Path({str(site.desk.config.home)!r})\n"
        "(here / f'shard {symbols[0]}').touch()\nend = time.time() + 100\n"
        "while len(list(here.glob('shard ?'))) < 4:\n    assert time.time() < end, 'alone'\n    time.sleep(0.05)\n"
        "assert 'C' not in symbols, 'no bars of C'\nprint(symbols)"
    )
    cells = [new_code_cell("symbols = []", metadata={"tags": ["parameters"]}), new_code_cell(together)]
    nbformat.write(new_notebook(cells=cells), site.desk.config.home / "shard.ipynb")
    site.desk.file(
        "shard",
        f'notebook = "shard.ipynb"\nshards = 4\nretries = 0\n{YEARLY}[parameters]\nsymbols = ["A", "B", "C", "D", "E"]',
    )
    for _ in range(2):
        site.start("worker", "--workers", "2")
    site.start("schedule", "run", "--engine", "celery")
    site.ask("shard", datetime(2024, 1, 1))
    site.wait(lambda: not {"waiting", "running"} & set(site.states()))
    frame = dues_frame(site.desk.store).sort_values("shard")
    assert frame["state"].tolist() == ["succeeded", "succeeded", "parked", "succeeded"]
    assert "no bars of C" in frame["error"].iloc[2]
    assert len(site.desk.store.runs()) == 4


def test_a_worker_listens_to_its_queues_alone_and_ends_when_told_what_runs_having_ended(site: Site) -> None:
    mark = site.desk.config.home / "begun"
    site.desk.notebook("slow", f"import time\nopen({str(mark)!r}, 'w').write('x')", "time.sleep(4)")
    site.desk.file("here", f'notebook = "slow.ipynb"\nqueue = "here"\n{YEARLY}')
    site.desk.file("there", f'queue = "there"\n{YEARLY}')
    site.start("schedule", "run", "--engine", "celery")
    worker = site.start("worker", "--queue", "here")
    site.ask("here", datetime(2024, 1, 1))
    site.ask("there", datetime(2024, 1, 1))
    site.wait(mark.exists)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(120) == 0
    frame = dues_frame(site.desk.store).set_index("schedule")["state"]
    assert frame.to_dict() == {"here": "succeeded", "there": "waiting"}


def test_word_is_sent_again_only_when_it_must_have_been_lost(tmp_path: Path) -> None:
    desk, sent = Desk(tmp_path, open_store(f"duckdb:///{tmp_path}/data")), []
    desk.file("daily", 'trigger = { event = "close" }\nqueue = "night"')

    def send(name: str, queue: str, good: float) -> None:
        if desk.now.minute == 0:
            raise ConnectionError("no broker")
        sent.append((name, queue, desk.now.minute, desk.now.second))

    dispatcher = Dispatcher(Config(home=tmp_path), desk.store, lambda: desk.now, desk.tell, send)
    dispatcher.look()
    desk.now = datetime(2024, 11, 25, 21)
    for _ in range(26):
        dispatcher.try_look()
        desk.now += timedelta(seconds=5)
    assert sent == [("daily", "night", 1, 0), ("daily", "night", 1, 30), ("daily", "night", 2, 0)]
