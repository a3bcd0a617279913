"""The stream over real sockets: every client ends with every signal exactly once, whatever dies."""

import asyncio
import json
import multiprocessing
import random
from pathlib import Path

import pandas as pd
import pytest
from servers.web import WebServer
from websockets.asyncio.client import connect
from websockets.exceptions import WebSocketException

from tradebot.store import open_store

PROCESSES = multiprocessing.get_context("spawn")


@pytest.fixture(params=["embedded", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"duckdb:///{tmp_path}/data"


@pytest.fixture
def server(url: str, tmp_path: Path):
    started = WebServer(tmp_path, DATABASE_URL=url)
    yield started
    if started.process.poll() is None:
        started.kill()


def commit(url: str, writer: int, count: int, pause: float = 0.0) -> None:
    """In a process of its own: signals of a symbol of its own, one commit each."""
    store, days = open_store(url), pd.bdate_range("2000-01-03", periods=count)
    for day in days:
        rows = {
            "symbol": [f"S{writer}"],
            "timestamp": [day],
            "signal_type": "buy",
            "details": [{"price": 1.0}],
        }
        store.write_signals("s", pd.DataFrame(rows))
        threading_pause(pause)


def threading_pause(seconds: float) -> None:
    import time

    time.sleep(seconds)


def writing(url: str, writers: int, count: int, pause: float) -> list:
    started = [
        PROCESSES.Process(target=commit, args=(url, number, count, pause)) for number in range(writers)
    ]
    for process in started:
        process.start()
    return started


async def follow(address: str, heard: list[int], total: int) -> None:
    """A client that comes back with the id of the last signal it has, until it has them all."""
    while len(heard) < total:
        try:
            last = heard[-1] if heard else 0
            async with connect(f"{address}?last_id={last}", open_timeout=60, proxy=None) as socket:
                while len(heard) < total:
                    heard += [one["id"] for one in json.loads(await socket.recv())]
        except (OSError, WebSocketException):
            await asyncio.sleep(random.uniform(0.05, 0.5))


@pytest.mark.timeout(300)
def test_a_thousand_clients_hear_every_signal_once_though_the_server_is_killed(
    url: str, server: WebServer
) -> None:
    total, heard = 3 * 60, [[] for _ in range(1000)]
    address = server.url.replace("http", "ws") + "/ws"

    async def play() -> None:
        clients = [asyncio.create_task(follow(address, one, total)) for one in heard]
        while any(not one for one in heard[:10]):
            await asyncio.sleep(0.05)
        for _ in range(2):
            await asyncio.to_thread(server.kill)
            await asyncio.sleep(0.3)
            await asyncio.to_thread(server.start)
            await asyncio.sleep(1.0)
        async with asyncio.timeout(120):
            await asyncio.gather(*clients)

    writers = writing(url, 3, 60, 0.1)
    asyncio.run(play())
    for writer in writers:
        writer.join()
    expected = open_store(url).signals_after(0)["id"].tolist()
    assert len(expected) == total
    assert all(one == expected for one in heard)
