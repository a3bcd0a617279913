"""The stream over real sockets: every client ends with every signal exactly once, whatever dies."""

import asyncio
import json
import multiprocessing
import random
import signal
import time
from pathlib import Path

import pandas as pd
import pytest
from servers.web import WebServer
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, WebSocketException

from tradebot.store import open_store

PROCESSES = multiprocessing.get_context("spawn")


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
        time.sleep(pause)


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


def commit_long_ones(url: str, count: int) -> list[int]:
    """Signals with ten thousand letters each, fifty a commit; their ids."""
    store, days = open_store(url), pd.bdate_range("2000-01-03", periods=count)
    for first in range(0, count, 50):
        some = days[first : first + 50]
        rows = {
            "symbol": "LONG",
            "timestamp": some,
            "signal_type": "buy",
            "details": [{"why": "x" * 10_000}] * len(some),
        }
        store.write_signals("s", pd.DataFrame(rows))
    return store.signals_after(0)["id"].tolist()


async def until_closed(socket) -> list[int]:
    """The ids that come until the server closes."""
    heard = []
    try:
        while True:
            heard += [one["id"] for one in json.loads(await socket.recv())]
    except ConnectionClosed:
        return heard


def test_a_client_that_reads_nothing_is_closed_with_a_reason_and_delays_nobody(
    url: str, server: WebServer
) -> None:
    address = server.url.replace("http", "ws") + "/ws?last_id=0"

    async def play() -> tuple[list[int], list[int], list[int]]:
        quick: list[int] = []
        async with connect(address, max_queue=1, proxy=None) as idle:
            following = asyncio.create_task(follow(address.split("?")[0], quick, 2000))
            expected = await asyncio.to_thread(commit_long_ones, url, 2000)
            async with asyncio.timeout(60):
                await following
            await asyncio.sleep(13)  # longer than a message may wait for its client
            heard = await until_closed(idle)
        assert (idle.close_code, idle.close_reason) == (1013, "too slow; come back with last_id")
        async with asyncio.timeout(60):
            await follow(address.split("?")[0], heard, 2000)
        return expected, quick, heard

    expected, quick, heard = asyncio.run(play())
    assert quick == heard == expected


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_a_server_that_is_ended_tells_its_clients_and_leaves_in_peace(
    server: WebServer, how: signal.Signals
) -> None:
    async def play() -> int:
        async with connect(server.url.replace("http", "ws") + "/ws", proxy=None) as socket:
            code = await asyncio.to_thread(server.kill, how)
            assert await until_closed(socket) == []
            assert socket.close_code == 1012  # the service restarts: come back
        return code

    began = time.monotonic()
    assert asyncio.run(play()) == 0
    assert time.monotonic() - began < 25
    assert "Traceback" not in "".join(server.said)
