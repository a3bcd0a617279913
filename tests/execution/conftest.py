"""A world for each case, on each store."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from servers.paper import PaperBroker
from servers.postgres import drop_database, new_database

from execution.world import PROCESSES, World, emptied, fresh_embedded, start_forkserver
from tradebot.store import open_store


@pytest.fixture(scope="session")
def paper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[PaperBroker]:
    start_forkserver()
    broker = PaperBroker(PROCESSES, tmp_path_factory.mktemp("broker") / "broker.sqlite")
    yield broker
    broker.stop()


@pytest.fixture(scope="session")
def embedded_template(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("template") / "data"
    open_store(f"duckdb:///{folder}")
    return folder


@pytest.fixture(scope="session")
def shared_database(request: pytest.FixtureRequest) -> Iterator[str]:
    if given := os.environ.get("TRADEBOT_TEST_DATABASE_URL"):
        server = admin = given
    else:
        own = request.getfixturevalue("postgres")
        server, admin = own.url(), own.url(user="owner")
    url = new_database(server)
    open_store(url)
    yield url
    drop_database(url, admin)


@pytest.fixture
def new_world(request: pytest.FixtureRequest, paper: PaperBroker) -> Callable[[str, Path], World]:
    """Makes a world on a kind of store, in a folder of its own."""

    def make(kind: str, home: Path) -> World:
        if kind == "embedded":
            url = fresh_embedded(request.getfixturevalue("embedded_template"), home)
            return World(url, home, paper, open_store(url))
        url = request.getfixturevalue("shared_database")
        store = open_store(url)
        emptied(store)
        return World(url, home, paper, store)

    return make


@pytest.fixture(params=["embedded", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path, new_world: Callable[[str, Path], World]) -> World:
    return new_world(request.param, tmp_path)
