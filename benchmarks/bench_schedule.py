"""From due to running: a scheduler beside papermill's command line, a universe shared out among workers, and a scheduler with nothing to do.

    python benchmarks/bench_schedule.py [overhead | shards | idle ...]

The clocks are real. A schedule on a calendar without a night is due every few seconds; each time its notebook's first cell writes
down when it ran. Between two of them papermill's command line runs the same notebook. The peer of the idle scheduler is
APScheduler alone, with as many jobs and nothing to remember.
"""

import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import nbformat
import pandas as pd
from nbformat.v4 import new_code_cell, new_notebook
from universe import universe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers.redis import RedisServer, program

from tradebot.config import load_config
from tradebot.data_fetch import fetch_universe
from tradebot.dues import ask, dues_frame
from tradebot.pipeline import configured_features, configured_strategy, update_features, update_signals
from tradebot.schedules import load_schedules
from tradebot.store import open_store

REPOSITORY, BIN = Path(__file__).resolve().parent.parent, Path(sys.executable).parent
ROUNDS, EVERY = 10, 12  # due times beside each command, and seconds between them
IDLE, JOBS = 60, 1_000


def prepared(home: Path, cells: list[str], **schedules: str) -> None:
    (home / "schedules").mkdir()
    nbformat.write(new_notebook(cells=[new_code_cell(cell) for cell in cells]), home / "notebook.ipynb")
    for name, text in schedules.items():
        (home / "schedules" / f"{name}.toml").write_text(text)


@contextmanager
def tradebot(home: Path, *words: str, **more: str) -> Iterator[subprocess.Popen]:
    with open(home / "logs", "ab") as logs:
        surroundings = os.environ | {"TRADEBOT_HOME": str(home)} | more
        process = subprocess.Popen([BIN / "tradebot", *words], env=surroundings, stderr=logs)
        try:
            yield process
        finally:
            process.terminate()
            process.wait()


# Overhead


def overhead() -> None:
    """Milliseconds from due, or from the command, until the first cell runs."""
    with tempfile.TemporaryDirectory() as name:
        home, times = Path(name), {"papermill": [], "tradebot run": [], "the scheduler": []}
        tick = f'notebook = "notebook.ipynb"\ncalendar = "24/7"\ntrigger = {{ every = "{EVERY}s" }}\n'
        prepared(
            home, ["import os, time\nopen(os.environ['MARK'], 'w').write(str(time.time()))", "1"], tick=tick
        )
        notebook, mark = home / "notebook.ipynb", home / "mark"
        commands = {
            "papermill": [BIN / "papermill", "-k", "python3", notebook, home / "out.ipynb"],
            "tradebot run": [BIN / "tradebot", "run", notebook],
        }
        with tradebot(home, "schedule", "run", "--workers", "1", MARK=str(mark)):
            time.sleep(EVERY)
            for _ in range(ROUNDS):
                for which, command in commands.items():
                    due = (time.time() // EVERY + 1) * EVERY
                    time.sleep(due - time.time() + EVERY / 3)  # the run, and the next kernel
                    times["the scheduler"].append(float(mark.read_text()) - due)
                    times[which].append(_first_cell(home, command))
        peer = statistics.median(times["papermill"])
        print("| until the first cell runs | median, ms | worst, ms | of papermill's |\n|---|---|---|---|")
        for which, seconds in times.items():
            middle = statistics.median(seconds)
            print(f"| {which} | {1000 * middle:.0f} | {1000 * max(seconds):.0f} | {middle / peer:.2f} |")


def _first_cell(home: Path, command: list[str | Path]) -> float:
    "Seconds from the command until the first cell runs."
    mark, begin = home / "own", time.time()
    surroundings = os.environ | {"TRADEBOT_HOME": str(home), "MARK": str(mark)}
    subprocess.run(command, check=True, capture_output=True, env=surroundings)
    return float(mark.read_text()) - begin


# Shards


def shards() -> None:
    """The daily pipeline of 500 symbols, one new session, by Celery workers."""
    if program() is None:
        print("redis-server is missing: not measured")
        return
    bars = universe(500, 5041)
    days, names = bars.index.levels[1], list(bars.index.levels[0])
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        (home / "csv").mkdir()
        for symbol in names:
            bars.loc[symbol].rename_axis("date").to_csv(home / "csv" / f"{symbol}.csv")
        settings = {
            "TRADEBOT_DATA_PROVIDER": "csv",
            "TRADEBOT_DATA_CSV_FOLDER": str(home / "csv"),
            "TRADEBOT_DATA_UNIVERSE": ",".join(names),
            "TRADEBOT_DATA_START": f"{days[0]:%Y-%m-%d}",
            "YFINANCE_BACKFILL_CHUNK": "10y",
        }
        prepared(home, ["1"])
        shutil.copyfile(REPOSITORY / "nbs/pipelines/pipeline.ipynb", home / "pipeline.ipynb")
        _history(home, settings, days[-2])
        print("| workers, a shard each | s | faster by | efficiency on two processors |\n|---|---|---|---|")
        alone = None
        for workers in (1, 2, 4):
            seconds = _shared_out(home, settings, workers, days[-1])
            alone = alone or seconds
            gain = alone / seconds
            print(f"| {workers} | {seconds:.1f} | {gain:.2f} | {gain / min(workers, 2):.0%} |")


def _history(home: Path, settings: dict[str, str], last: pd.Timestamp) -> None:
    config = load_config(home, settings)
    store = open_store(config.database_url)
    fetch_universe(store, config, last + pd.Timedelta(hours=22))
    update_features(store, configured_features(config))
    update_signals(store, configured_strategy(config))
    (home / "data").rename(home / "history")


def _shared_out(home: Path, settings: dict[str, str], workers: int, day: pd.Timestamp) -> float:
    "Seconds from due until all shards have succeeded."
    shutil.rmtree(home / "data", ignore_errors=True)
    shutil.copytree(home / "history", home / "data")
    text = f'notebook = "pipeline.ipynb"\ntrigger = {{ cron = "0 0 1 jan *" }}\nshards = {workers}\nretries = 0\n'
    (home / "schedules" / "daily.toml").write_text(f'{text}[parameters]\nend = "{day:%Y-%m-%d}"\n')
    config = load_config(home, settings)
    store, (schedule,) = open_store(config.database_url), load_schedules(config)
    redis = RedisServer(home)
    more = settings | {"REDIS_URL": redis.url}
    try:
        with (
            tradebot(home, "worker", "--workers", str(workers), **more),
            tradebot(home, "schedule", "run", "--engine", "celery", **more),
        ):
            time.sleep(15)
            begin, now = time.perf_counter(), datetime.now(UTC).replace(tzinfo=None)
            ask(store, schedule, now.replace(microsecond=0), now)
            while {"waiting", "running"} & set(states := dues_frame(store)["state"]):
                time.sleep(0.1)
            seconds = time.perf_counter() - begin
    finally:
        redis.stop()
    assert list(states) == ["succeeded"] * workers, dues_frame(store)["error"].tolist()
    return seconds


# Idle


def idle() -> None:
    """Processor time and memory of a scheduler whose schedules are due next year."""
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        yearly = 'notebook = "notebook.ipynb"\ntrigger = { cron = "%d %d 1 jan *" }\n'
        prepared(home, ["1"], **{f"one-{n}": yearly % (n % 60, n // 60) for n in range(JOBS)})
        begin = time.perf_counter()
        with tradebot(home, "schedule", "run") as process:
            store = open_store(f"duckdb:///{home}/data")
            while _known(store) < JOBS:
                time.sleep(0.2)
            ready = time.perf_counter() - begin
            time.sleep(10)
            ours = _watched(process.pid)
        command = [sys.executable, "-c", _PEER % JOBS]
        peer_process = subprocess.Popen(command, stdout=subprocess.PIPE)
        peer_process.stdout.readline()
        peer = _watched(peer_process.pid)
        peer_process.kill()
        peer_process.wait()
    print(f"| {JOBS:,} schedules, nothing due | processor | memory, MB |\n|---|---|---|")
    for which, (share, memory) in (("tradebot schedule run", ours), ("APScheduler alone", peer)):
        print(f"| {which} | {share:.2%} | {memory:.0f} |")
    print(f"\n{ready:.1f} s from the command until all {JOBS:,} are noted.")


_PEER = """
import time
from apscheduler.schedulers.background import BackgroundScheduler
from apscheduler.triggers.cron import CronTrigger
scheduler = BackgroundScheduler()
for n in range(%d):
    scheduler.add_job(print, CronTrigger(month=1, day=1, hour=n // 60, minute=n %% 60))
scheduler.start()
print("up", flush=True)
time.sleep(1000)
"""


def _known(store) -> int:
    with store.engine.transaction("ledger") as transaction:
        ((count,),) = transaction.rows("SELECT count(*) FROM schedules")
    return count


def _watched(pid: int) -> tuple[float, float]:
    "The share of a processor over a while, and the memory, of a process and its children."
    pids = [pid, *_children(pid)]
    before = sum(map(_seconds, pids))
    time.sleep(IDLE)
    return (sum(map(_seconds, pids)) - before) / IDLE, sum(map(_memory, pids))


def _children(pid: int) -> list[int]:
    return [
        int(each)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for each in (task / "children").read_text().split()
    ]


def _seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _memory(pid: int) -> float:
    rollup = Path(f"/proc/{pid}/smaps_rollup").read_text()
    return next(int(line.split()[1]) for line in rollup.splitlines() if line.startswith("Pss:")) / 1024


def main(*chosen: str) -> None:
    for work in (overhead, shards, idle):
        if not chosen or work.__name__ in chosen:
            work()
            print()


if __name__ == "__main__":
    main(*sys.argv[1:])
