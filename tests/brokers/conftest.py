"""A paper broker with two years of the sample's bars, and alpaca-py's own clients of it, as they come."""

from collections.abc import Iterator
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
import requests
from alpaca.data.historical import StockHistoricalDataClient
from alpaca.trading.client import TradingClient

from tradebot.exchange import Exchange, Market
from tradebot.paper_broker import Addresses, Desk, Journal, served

NOON = "2005-02-25T17:00:00"  # a Friday, the market is open; Apple's split is on Monday


@pytest.fixture(scope="session")
def running(sample) -> Iterator[Addresses]:
    bars, actions = sample
    days = bars.index.get_level_values("timestamp")
    market = Market(bars[(days >= "2004-06-01") & (days <= "2006-06-30")], actions)
    exchange = Exchange(market, datetime.fromisoformat(NOON), Decimal(100_000))
    with served(Desk(exchange, Journal(None), driven=True), port=0) as addresses:
        yield addresses


class Owner:
    """The owner's side of the broker, and raw requests of a trader."""

    def __init__(self, addresses: Addresses, session: requests.Session):
        self.url, self._owner, self._session = addresses.url, addresses.owner, session

    def ask(self, method: str, path: str, body: Any = None) -> Any:
        answer = self._session.request(method, f"{self._owner}{path}", json=body, timeout=10)
        assert answer.status_code == 200, answer.text
        return answer.json()

    def raw(self, method: str, path: str, body: Any = None, **headers: str) -> requests.Response:
        keys = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
        return self._session.request(
            method,
            f"{self.url}/v2{path}",
            json=body,
            headers=keys | headers,
            timeout=5,
            allow_redirects=False,
        )

    @property
    def state(self) -> dict[str, Any]:
        return self.ask("GET", "/state")


@pytest.fixture
def owner(running: Addresses) -> Iterator[Owner]:
    with requests.Session() as session:
        session.trust_env = False
        one = Owner(running, session)
        one.ask("POST", "/reset", {"cash": 100_000, "multiplier": 4, "now": NOON})
        yield one


@pytest.fixture
def client(owner: Owner) -> Iterator[TradingClient]:
    one = TradingClient("key", "secret", url_override=owner.url)
    yield one
    one._session.close()


@pytest.fixture
def data(owner: Owner) -> Iterator[StockHistoricalDataClient]:
    one = StockHistoricalDataClient("key", "secret", url_override=owner.url)
    yield one
    one._session.close()
