"""The server: from a commit to its clients, a thousand clients, requests a second.

    python benchmarks/bench_serve.py [--signals 200]

`tradebot serve` runs in a process of its own over each store in turn, the clients in another, and a third commits. Measured is
from the moment at which the committing process knows that it has committed until a client has the message. Beside it in the same
run: a client that asks for /latest every five seconds, as the specification has it; and a bare FastAPI application that
broadcasts what it is posted, without a store.
"""

import argparse
import asyncio
import http.client
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pandas as pd
from websockets.asyncio.client import connect

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))
from servers.postgres import PostgresServer, binaries
from servers.web import WebServer

from tradebot.store import Store, open_store

HERE = Path(__file__).resolve().parent
PROCESSES = multiprocessing.get_context("spawn")


async def _hear(address: str, heard: list, clock: list, total: int, ready: asyncio.Semaphore) -> None:
    async with connect(address, open_timeout=120, proxy=None) as socket:
        ready.release()
        while len(heard) < total:
            text = await socket.recv()
            now = time.time()
            for one in json.loads(text):
                heard.append(one["id"])
                clock.append(now)


def clients(address: str, count: int, total: int, pipe) -> None:
    """In a process of its own: `count` clients until each has `total` signals; their ids and when they came."""

    async def play() -> None:
        heard, clock, ready = [[] for _ in range(count)], [[] for _ in range(count)], asyncio.Semaphore(0)
        tasks = [
            asyncio.create_task(_hear(address, *one, total, ready)) for one in zip(heard, clock, strict=True)
        ]
        for _ in range(count):
            await ready.acquire()
        pipe.send("ready")
        async with asyncio.timeout(300):
            await asyncio.gather(*tasks)
        pipe.send((heard, clock))

    asyncio.run(play())


def polled(port: int, seen: dict[int, float], stop: threading.Event) -> None:
    """Ask for the newest signals every five seconds."""
    while not stop.is_set():
        connection = http.client.HTTPConnection("127.0.0.1", port)
        connection.request("GET", "/latest?n=1000")
        for one in json.loads(connection.getresponse().read()):
            seen.setdefault(one["id"], time.time())
        stop.wait(5.0)


def commits(store: Store, count: int, pause: float, first: int) -> list[float]:
    """Commit one signal after the other; when each was known to be committed."""
    days, times = pd.bdate_range("2000-01-03", periods=first + count)[first:], []
    for day in days:
        details = [{"price": 1.0, "rule": "sma above ema"}]
        store.write_signals(
            "s", pd.DataFrame({"symbol": ["A"], "timestamp": [day], "signal_type": "buy", "details": details})
        )
        times.append(time.time())
        time.sleep(pause)
    return times


def delays(store: Store, server: WebServer, count: int, signals: int, first: int) -> tuple[np.ndarray, float]:
    """Milliseconds from commit to client, of every signal at every client (clients, signals); polling's median beside it."""
    ours, theirs = PROCESSES.Pipe()
    address = server.url.replace("http", "ws") + "/ws"
    known = store.signals_after(0)["id"].max() if first else 0
    child = PROCESSES.Process(target=clients, args=(address, count, signals, theirs))
    child.start()
    assert ours.recv() == "ready"
    seen, stop = {}, threading.Event()
    poller = threading.Thread(target=polled, args=(server.port, seen, stop))
    poller.start()
    times = commits(store, signals, 0.1, first)
    heard, clock = ours.recv()
    child.join()
    time.sleep(5.5)
    stop.set()
    poller.join()
    expected = store.signals_after(int(known))["id"].tolist()
    assert all(one == expected for one in heard), "a client missed a signal, or has one twice"
    waited = statistics.median(seen[number] - moment for number, moment in zip(expected, times, strict=True))
    return (np.array(clock) - np.array(times)) * 1000, waited * 1000


@contextmanager
def bare() -> Iterator[int]:
    """The bare application on a port of its own."""
    words = [
        sys.executable,
        "-m",
        "uvicorn",
        "peers.bare_fastapi:app",
        "--port",
        "8877",
        "--log-level",
        "error",
        "--no-access-log",
    ]
    with subprocess.Popen(words, cwd=HERE) as process:
        for _ in range(100):
            time.sleep(0.1)
            try:
                http.client.HTTPConnection("127.0.0.1", 8877).request("GET", "/latest")
                break
            except OSError:
                continue
        yield 8877
        process.terminate()


def bare_delays(port: int, count: int, signals: int) -> np.ndarray:
    """Milliseconds from the post to the clients of the bare broadcast."""
    ours, theirs = PROCESSES.Pipe()
    child = PROCESSES.Process(target=clients, args=(f"ws://127.0.0.1:{port}/ws", count, signals, theirs))
    child.start()
    assert ours.recv() == "ready"
    connection, times = http.client.HTTPConnection("127.0.0.1", port), []
    for number in range(signals):
        times.append(time.time())
        connection.request(
            "POST", "/tell", json.dumps([{"id": number, "symbol": "A", "details": {"price": 1.0}}])
        )
        connection.getresponse().read()
        time.sleep(0.1)
    _, clock = ours.recv()
    child.join()
    return (np.array(clock) - np.array(times)) * 1000


async def _ask(port: int, address: str, until: float) -> int:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    request, done = f"GET {address} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\n\r\n".encode(), 0
    while time.perf_counter() < until:
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200"), head
        length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
        await reader.readexactly(length)
        done += 1
    writer.close()
    return done


def requests(port: int, address: str, seconds: float = 5.0, connections: int = 8) -> float:
    """Requests a second over some connections that stay open."""

    async def play() -> int:
        until = time.perf_counter() + seconds
        return sum(await asyncio.gather(*(_ask(port, address, until) for _ in range(connections))))

    return asyncio.run(play()) / seconds


def row(name: str, found: np.ndarray) -> str:
    median, high, worst = np.quantile(found, [0.5, 0.99, 1.0])
    return f"| {name} | {median:.1f} | {high:.1f} | {worst:.1f} |"


def served(url: str, name: str, signals: int) -> tuple[list[str], float]:
    """The rows of one store, and its requests a second."""
    store = open_store(url)
    with tempfile.TemporaryDirectory() as home:
        server = WebServer(Path(home), DATABASE_URL=url, POLLING_INTERVAL="5")
        try:
            hundred, waited = delays(store, server, 100, signals, 0)
            thousand, _ = delays(store, server, 1000, 50, signals)
            rate = requests(server.port, "/latest")
        finally:
            server.kill()
    return [
        row(f"{name}, 100 clients", hundred),
        row(f"{name}, 1,000 clients", thousand),
        f"| {name}, /latest asked for every 5 s | {waited:,.0f} | | |",
    ], rate


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--signals", type=int, default=200)
    signals = parser.parse_args().signals
    rows, rates = [], {}
    with bare() as port:
        rows.append(row("bare broadcast, 100 clients", bare_delays(port, 100, signals)))
        rates["bare route"] = requests(port, "/latest")
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        more, rates["DuckDB"] = served(f"duckdb:///{folder}/data", "DuckDB", signals)
        rows += more
        server = PostgresServer(Path(folder) / "server", binaries())
        more, rates["PostgreSQL"] = served(server.url(user="owner"), "PostgreSQL", signals)
        rows += more
        server.stop()
    print("| commit to client, ms | median | p99 | worst |\n|---|---|---|---|", *rows, sep="\n")
    print("\n| /latest, 50 signals | requests a second |\n|---|---|")
    print(*(f"| {name} | {rate:,.0f} |" for name, rate in rates.items()), sep="\n")


if __name__ == "__main__":
    main()
