"""Both stores on 2.5 million bars: bulk writes, features, one new day, readers beside a writer, signals as they are committed.

The embedded store, and PostgreSQL on a server of its own with its settings as they come (so commits reach the disk).
Peers of the same run: psycopg2's `execute_values` for writing and a `json.loads` loop for reading on PostgreSQL, both on
every fifth symbol; and for sharing a DuckDB file among processes, connecting again and again until it is free.
"""

import json
import multiprocessing
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import numpy as np
import pandas as pd
import psycopg2
from psycopg2.extras import execute_values
from tenacity import retry, retry_if_exception_type, wait_random_exponential
from universe import universe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers.postgres import PostgresServer, binaries

from tradebot.indicators import compute
from tradebot.store import Store, open_store

SIX = ["sma(20)", "sma(50)", "ema(20)", "ema(50)", "rsi(14)", "atr(14)"]
NO_INPUTS = pd.DataFrame(columns=["symbol", "recipe", "digest", "bars"])
PROCESSES = multiprocessing.get_context("spawn")


def seconds(work: Callable[[], object]) -> float:
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def rate(rows: int, work: Callable[[], object]) -> float:
    "Thousand rows a second."
    return rows / seconds(work) / 1000


# Bulk


def bulk(store: Store, bars: pd.DataFrame, features: pd.DataFrame) -> dict[str, float]:
    rows, names = len(bars), list(features.columns)
    measured = {
        "bars written, new": rate(rows, lambda: store.write_bars(bars)),
        "bars written, unchanged": rate(rows, lambda: store.write_bars(bars)),
        "bars read": rate(rows, store.bars),
        "six features written": rate(rows, lambda: store.write_features(features, NO_INPUTS)),
        "six features read": rate(rows, lambda: store.features(names)),
    }
    pd.testing.assert_frame_equal(store.bars(), bars, check_exact=True, check_freq=False)
    pd.testing.assert_frame_equal(store.features(names), features, check_exact=True, check_freq=False)
    return measured


def peer_bulk(url: str, bars: pd.DataFrame, names: list[str]) -> dict[str, float]:
    "What one writes first for PostgreSQL: execute_values, and a loop of json.loads."
    connection = psycopg2.connect(url)
    cursor = connection.cursor()
    cursor.execute("CREATE TABLE peer (LIKE raw_prices INCLUDING ALL)")
    values = ", ".join(f'"{name}" = EXCLUDED."{name}"' for name in bars.columns)
    insert = (
        'INSERT INTO peer (symbol, "timestamp", open, high, low, close, volume) VALUES %s '
        f'ON CONFLICT (symbol, "timestamp") DO UPDATE SET {values}'
    )

    def write() -> None:
        rows = bars.reset_index().itertuples(index=False, name=None)
        execute_values(cursor, insert, rows, page_size=1000)
        connection.commit()

    def read_features() -> None:
        symbols = list(bars.index.get_level_values(0).unique())
        cursor.execute(
            'SELECT symbol, "timestamp", "values"::text FROM indicators WHERE symbol = ANY(%s) ORDER BY 1, 2',
            [symbols],
        )
        rows = cursor.fetchall()
        index = pd.MultiIndex.from_arrays([[row[0] for row in rows], [row[1] for row in rows]])
        pd.DataFrame([json.loads(row[2]) for row in rows], index=index, columns=names)

    measured = {
        "bars written, new": rate(len(bars), write),
        "bars written, unchanged": rate(len(bars), write),
        "six features read": rate(len(bars), read_features),
    }
    cursor.execute("DROP TABLE peer")
    connection.commit()
    connection.close()
    return measured


def one_new_day(store: Store, url: str, bars: pd.DataFrame, rounds: int = 15) -> float:
    "Milliseconds from the call that writes one bar of 500 symbols until another connection has read them back; median."
    other, taken = open_store(url), []
    last = bars.groupby(level="symbol").tail(1)
    for day in range(1, rounds + 1):
        moment = last.index.levels[1][-1] + pd.Timedelta(days=day)
        fresh = last.reset_index().assign(timestamp=moment).set_index(["symbol", "timestamp"])
        start = time.perf_counter()
        store.write_bars(fresh)
        taken.append(time.perf_counter() - start)
        assert len(other.bars(start=moment)) == 500
    return statistics.median(taken) * 1000


# Readers beside a writer


def signal(step: int, **details: float) -> pd.DataFrame:
    moment = pd.Timestamp("2012-01-03") + pd.Timedelta(seconds=step)
    return pd.DataFrame(
        {"symbol": ["S0000"], "timestamp": [moment], "signal_type": ["buy"], "details": [details]}
    )


def keep_writing(url: str, end: float) -> None:
    store, step = open_store(url), 0
    while time.time() < end:
        store.write_signals("busy", signal(step))
        step += 1


# The advice one finds: open the file, and if somebody else has it, try again after a pause that grows.
until_free = retry(
    retry=retry_if_exception_type(duckdb.IOException), wait=wait_random_exponential(multiplier=0.01, max=1)
)


def keep_connecting(path: str, end: float) -> None:
    @until_free
    def write(step: int) -> None:
        with duckdb.connect(path) as connection:
            connection.execute("INSERT INTO signals VALUES (?, 'busy', now()::TIMESTAMP)", [step])

    step = 0
    while time.time() < end:
        write(step)
        step += 1


def latencies(
    writer: Callable, address: str, read: Callable[[], object], duration: float = 10.0
) -> np.ndarray:
    "Milliseconds of each read beside a process that writes without a pause."
    busy = PROCESSES.Process(target=writer, args=(address, time.time() + duration + 3))
    busy.start()
    time.sleep(3)
    taken, end = [], time.time() + duration
    while time.time() < end:
        taken.append(seconds(read) * 1000)
        time.sleep(0.01)
    busy.join()
    return np.array(taken)


@until_free
def read_by_retry(path: str) -> None:
    with duckdb.connect(path, read_only=True) as connection:
        connection.execute("SELECT * FROM signals ORDER BY id DESC LIMIT 20").fetchall()


def beside_a_writer(folder: Path) -> dict[str, np.ndarray]:
    url = f"duckdb:///{folder}/shared"
    store = open_store(url)

    def read() -> None:
        with store.engine.transaction("ledger") as transaction:
            transaction.rows("SELECT * FROM signals ORDER BY id DESC LIMIT 20")

    path = str(folder / "retry.duckdb")
    with duckdb.connect(path) as connection:
        connection.execute('CREATE TABLE signals (id BIGINT, strategy TEXT, "timestamp" TIMESTAMP)')
    return {
        "the embedded store": latencies(keep_writing, url, read),
        "connect and retry": latencies(keep_connecting, path, lambda: read_by_retry(path)),
    }


# Signals as they are committed


def write_now_and_then(url: str, begin: float, times) -> None:
    store = open_store(url)
    time.sleep(max(0.0, begin - time.time()))
    for step in range(100):
        store.write_signals("bell", signal(step))
        times.send(time.time())
        time.sleep(0.05)


def heard_after(url: str) -> float:
    "Milliseconds from a commit (the return of the call that wrote) until a listener of another process has the signal."
    store = open_store(url)
    times, say = PROCESSES.Pipe(duplex=False)
    listener = store.listen(last=None, poll=60)
    writer = PROCESSES.Process(target=write_now_and_then, args=(url, time.time() + 3, say))
    writer.start()
    heard: list[float] = []
    while len(heard) < 100:
        fresh = next(listener)
        heard += [time.time()] * len(fresh)
    writer.join()
    committed = [times.recv() for _ in range(100)]
    return statistics.median(np.array(heard) - np.array(committed)) * 1000


def table(title: str, rows: list[list[object]], columns: list[str]) -> None:
    print(f"\n| {title} | {' | '.join(columns)} |\n|{'---|' * (len(columns) + 1)}")
    for name, *values in rows:
        print(f"| {name} | {' | '.join(str(value) for value in values)} |", flush=True)


def main() -> None:
    bars = universe()
    features = compute(bars, SIX)
    some = bars.loc[bars.index.levels[0][::5]]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)
        server = PostgresServer(folder / "server", binaries())
        try:
            urls = {"DuckDB": f"duckdb:///{folder}/data", "PostgreSQL": server.database()}
            stores = {name: open_store(url) for name, url in urls.items()}
            measured = {name: bulk(store, bars, features) for name, store in stores.items()}
            peer = peer_bulk(urls["PostgreSQL"], some, list(features.columns))
            lines = []
            for work, duck in measured["DuckDB"].items():
                server_rate = measured["PostgreSQL"][work]
                by_peer = (
                    [f"{peer[work]:,.0f}", f"{server_rate / peer[work]:.1f}x"] if work in peer else ["", ""]
                )
                lines.append([work, f"{duck:,.0f}", f"{server_rate:,.0f}", *by_peer])
            columns = ["DuckDB", "PostgreSQL", "psycopg2 as one writes it first", "PostgreSQL is faster by"]
            table(f"{len(bars):,} rows, thousand rows a second", lines, columns)
            days = {name: one_new_day(store, urls[name], bars) for name, store in stores.items()}
            table(
                "ms, median",
                [["one new bar of 500 symbols, upserted", *(f"{ms:.0f}" for ms in days.values())]],
                list(days),
            )
            beside = beside_a_writer(folder)
            rows = [
                [name, f"{np.median(ms):.1f}", f"{np.percentile(ms, 95):.1f}", f"{ms.max():.0f}"]
                for name, ms in beside.items()
            ]
            table(
                "reading the ledger beside a writer that never pauses, ms", rows, ["median", "p95", "worst"]
            )
            heard = {name: heard_after(url) for name, url in urls.items()}
            table(
                "ms, median",
                [["from a commit to a listener", *(f"{ms:.1f}" for ms in heard.values())]],
                list(heard),
            )
        finally:
            server.stop()


if __name__ == "__main__":
    main()
