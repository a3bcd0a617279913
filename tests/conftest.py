"""What all tests share: the real sample in a store of its own, and what to do when a server or a browser is missing."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from hypothesis import settings
from servers.postgres import PostgresServer, binaries, drop_database, new_database, own_server

from tradebot.config import Config
from tradebot.prices import actions_frame, bars_frame
from tradebot.providers import get_provider
from tradebot.store import Store, open_store

# Wherever a red run stops somebody else's work, the same examples are tried every time; at home, new ones.
settings.register_profile("ci", derandomize=True)
if os.environ.get("CI"):
    settings.load_profile("ci")

BROWSER = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-component-update"]
SAMPLE = ("AAPL", "FB", "GOOG", "IBM", "MSFT")


def missing(what: str) -> None:
    """Skip for want of `what` on a user's machine; fail where everything has to be there."""
    if os.environ.get("CI"):
        pytest.fail(f"{what} is missing", pytrace=False)
    pytest.skip(f"{what} is missing")


@pytest.fixture(scope="session")
def sample() -> tuple[pd.DataFrame, pd.DataFrame]:
    """The five real stocks 2000-2013: bars as traded, and their splits and dividends."""
    provider = get_provider("sample", Config(home=Path()))
    fetched = {
        name: provider.fetch(name, pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31")) for name in SAMPLE
    }
    bars = pd.concat([each.bars.reset_index().assign(symbol=name) for name, each in fetched.items()])
    return bars_frame(bars), actions_frame(pd.concat([each.actions for each in fetched.values()]))


@pytest.fixture(scope="module")
def browser() -> Iterator:
    """A headless Chromium."""
    from playwright.sync_api import sync_playwright

    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    if program is None:
        missing("chromium")
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(executable_path=program, args=BROWSER)
        yield started
        started.close()


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """An empty embedded store."""
    return open_store(f"duckdb:///{tmp_path}/data")


@pytest.fixture(scope="session")
def postgres() -> Iterator[PostgresServer]:
    """A PostgreSQL server of our own, to be stopped, restarted and filled up."""
    if (programs := binaries()) is None:
        missing("PostgreSQL's server programs")
    with own_server(programs, "fsync=off") as server:
        yield server


@pytest.fixture
def postgres_url(request: pytest.FixtureRequest) -> Iterator[str]:
    """A new database: on the server of TRADEBOT_TEST_DATABASE_URL, else on our own."""
    if given := os.environ.get("TRADEBOT_TEST_DATABASE_URL"):
        server = admin = given
    else:
        own = request.getfixturevalue("postgres")
        server, admin = own.url(), own.url(user="owner")
    url = new_database(server)
    yield url
    drop_database(url, admin)


@pytest.fixture(params=["embedded", "postgres"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A database of one's own: embedded, and on the server."""
    if request.param == "postgres":
        return request.getfixturevalue("postgres_url")
    return f"duckdb:///{tmp_path}/data"
