"""What trust costs: the chain's entry for each run, the gate on each pass of the executor, `runs verify`, `why`, and kept versions of bars.

A store with 2,000 recorded runs, each with a page of 300 KB and a notebook of 60 KB, six pieces of evidence renewed ten times, and
a promotion; embedded, and on a PostgreSQL server of its own. Peers of the same run: the row of a run alone, a transaction that reads
one row, `sha256sum` over the same files, and bars read without a date.
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
from universe import universe

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers.postgres import binaries, own_server

from tradebot.config import Config
from tradebot.db_models import TABLES
from tradebot.identity import NAMES, Check, Identity, identify
from tradebot.promotion import promote, record_evidence, unpromoted
from tradebot.provenance import left_in, verify
from tradebot.signal_engine import get_strategy
from tradebot.store import Store, open_store
from tradebot.why import trace

RUNS, ROUNDS, DAY = 2000, 15, datetime(2026, 1, 5)


def milliseconds(work: Callable[[], object], rounds: int = ROUNDS) -> float:
    "The median."
    times = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return 1000 * statistics.median(times)


def pages(home: Path) -> list[dict]:
    "A folder for each run, and its record."
    rng, runs = np.random.default_rng(1), []
    for number in range(RUNS):
        name = f"20260105T{number:06d}-pipeline-{number % 65536:04x}"
        folder = home / "reports" / name
        folder.mkdir(parents=True)
        (folder / "notebook.html").write_bytes(rng.bytes(300_000))
        (folder / "notebook.ipynb").write_bytes(rng.bytes(60_000))
        started = DAY + timedelta(minutes=number)
        run = {"notebook": "pipeline.ipynb", "parameters": {"start": "", "end": ""}, "status": "succeeded"}
        runs.append(
            run | {"id": name, "started": started, "output": name, "files": json.dumps(left_in(folder))}
        )
    return runs


def row_alone(store: Store, run: dict) -> None:
    row = dict.fromkeys(TABLES["runs"].columns) | run | {"parameters": json.dumps(run["parameters"])}
    frame = pd.DataFrame([row]).astype({"started": "datetime64[us]", "ended": "datetime64[us]"})
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.upsert("runs", frame)


def one_row(store: Store) -> None:
    with store.engine.transaction("ledger") as transaction:
        transaction.rows("SELECT id FROM promotions LIMIT 1")


def fill(store: Store, config: Config, own: Identity, runs: list[dict]) -> tuple[float, float]:
    "Milliseconds of a run with its entry, and of its row alone."
    alone, chained = [], []
    for number, run in enumerate(runs):
        chained.append(milliseconds(lambda run=run: store.write_run(**run), 1))
        if number % 20 == 0:
            other = run | {"id": f"alone-{number}"}
            alone.append(milliseconds(lambda other=other: row_alone(store, other), 1))
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.rows("DELETE FROM runs WHERE starts_with(id, 'alone-')")
    for again in range(10):
        checks = [Check(name, True, "well", {}) for name in NAMES]
        record_evidence(store, config, own, checks, runs[again]["id"], DAY)
    promote(store, config, own, "paper", "ann", DAY)
    return statistics.median(chained), statistics.median(alone)


def trusted(url: str, home: Path, runs: list[dict]) -> dict[str, tuple[float, float]]:
    "Milliseconds of ours and of the peer."
    store, config, own = open_store(url), Config(home=home), identify(get_strategy("crossover"), "packages")
    found = {"a run recorded, its row alone": fill(store, config, own, runs)}
    signal = {"symbol": ["A"], "timestamp": [pd.Timestamp("2026-01-02")], "signal_type": ["buy"]}
    store.write_signals("crossover", pd.DataFrame(signal | {"details": [{"price": 1.0}]}), run=runs[7]["id"])
    one = milliseconds(lambda: one_row(store))
    assert unpromoted(store, config, own, "paper", DAY) == ""
    found["the gate on a pass, one row read"] = (
        milliseconds(lambda: unpromoted(store, config, own, "paper", DAY)),
        one,
    )
    found["`why` of a signal, one row read"] = (milliseconds(lambda: trace(store, config.reports, "1")), one)
    found["the chain and the rows, one row read"] = (
        milliseconds(lambda: verify(store, config.reports, files=False), 3),
        one,
    )
    files = [str(path) for path in sorted(config.reports.rglob("notebook.*"))]

    def summed() -> None:
        subprocess.run(
            ["xargs", "-0", "sha256sum"], input="\0".join(files).encode(), check=True, capture_output=True
        )

    assert verify(store, config.reports).wrong == []
    found[f"`runs verify`, {len(files):,} files, `sha256sum`"] = (
        milliseconds(lambda: verify(store, config.reports), 3),
        milliseconds(summed, 3),
    )
    return found | versions(store)


def versions(store: Store) -> dict[str, tuple[float, float]]:
    bars = universe(100)
    store.write_bars(bars, lambda: DAY)
    changed = bars[::100] * 1.01
    changed = changed.assign(high=changed[["open", "high", "low", "close"]].max(axis=1))
    began = time.perf_counter()
    store.write_bars(changed, lambda: DAY + timedelta(1))
    once = 1000 * (time.perf_counter() - began)
    same = milliseconds(lambda: store.write_bars(changed, lambda: DAY + timedelta(2)), 3)
    then = DAY + timedelta(hours=1)
    pd.testing.assert_frame_equal(store.bars(known=then), bars, check_freq=False)
    return {
        f"{len(changed):,} of {len(bars):,} bars revised, found unchanged": (once, same),
        "all bars as known before, as they are": (
            milliseconds(lambda: store.bars(known=then), 5),
            milliseconds(store.bars, 5),
        ),
    }


def main() -> None:
    print(f"{RUNS:,} runs; {os.cpu_count()} processors, Python {sys.version.split()[0]}")
    with tempfile.TemporaryDirectory() as scratch:
        runs = pages(Path(scratch))
        with own_server(binaries()) as server:
            urls = f"duckdb:///{scratch}/data", server.database()
            found = [trusted(url, Path(scratch), runs) for url in urls]
    print("\n| what, and its peer | embedded, ms | peer, ms | times | PostgreSQL, ms | peer, ms | times |")
    print("|---|---|---|---|---|---|---|")
    for name in found[0]:
        cells = [
            f"{own:,.1f} | {peer:,.1f} | {own / peer:,.1f}" for own, peer in (each[name] for each in found)
        ]
        print(f"| {name} | {' | '.join(cells)} |")


if __name__ == "__main__":
    main()
