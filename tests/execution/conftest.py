"""A world for each case, on each store."""

import os
from collections.abc import Iterator
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


@pytest.fixture(params=["embedded", "postgres"])
def world(request: pytest.FixtureRequest, tmp_path: Path, paper: PaperBroker) -> Iterator[World]:
    if request.param == "embedded":
        url = fresh_embedded(request.getfixturevalue("embedded_template"), tmp_path)
        store = open_store(url)
    else:
        url = request.getfixturevalue("shared_database")
        store = open_store(url)
        emptied(store)
    return World(url, tmp_path, paper, store)
