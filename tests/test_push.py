"""Notifications: encrypted for one browser, signed by us, to a push service on a real socket; whoever is gone is forgotten."""

import base64
import json
import os
import threading
import time
from collections.abc import Iterator
from decimal import Decimal
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import http_ece
import pandas as pd
import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from py_vapid import Vapid02
from starlette.testclient import TestClient

from tradebot.app import create_app
from tradebot.config import Config, UserError
from tradebot.push import MOST, Subscription, get_pusher, new_key, subscribe, subscriptions
from tradebot.service import Service
from tradebot.store import Store, open_store

NOW = pd.Timestamp("2024-01-02").to_pydatetime()


def plain(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).rstrip(b"=").decode()


class PushService:
    """Takes notifications for one browser, whose private key it holds; `status` is its answer."""

    def __init__(self) -> None:
        self.status, self.heard, self.tokens = 201, [], []
        self._key, self._auth = ec.generate_private_key(ec.SECP256R1()), os.urandom(16)
        service = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                told = http_ece.decrypt(body, private_key=service._key, auth_secret=service._auth)
                service.tokens.append(self.headers["Authorization"])
                service.heard.append({**json.loads(told), "ttl": self.headers["TTL"]})
                self.send_response(service.status)
                self.end_headers()

            def log_message(self, *words: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        point = self._key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
        self.browser = Subscription(
            f"http://127.0.0.1:{self._server.server_address[1]}/one", plain(point), plain(self._auth)
        )

    def stop(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@pytest.fixture
def service() -> Iterator[PushService]:
    started = PushService()
    yield started
    started.stop()


def configured(home: Path, **more: str) -> Config:
    environment = {
        "database_url": f"duckdb:///{home}/data",
        "tradebot_vapid_key": new_key(),
        "polling_interval": "0.2",
    }
    return Config(home=home, serve={"contact": "mailto:me@desk.example"}, environment={**environment, **more})


def remember(store: Store, *browsers: Subscription) -> None:
    """Past the check of the address, which is ours here."""
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.upsert(
            "subscriptions", pd.DataFrame([{**one._asdict(), "created": NOW} for one in browsers])
        )


def commit(store: Store, *symbols: str, day: str = "2024-01-02") -> None:
    rows = {
        "symbol": symbols,
        "timestamp": pd.Timestamp(day),
        "signal_type": "buy",
        "details": [{"price": 9.5, "rule": "r"}] * len(symbols),
    }
    store.write_signals("s", pd.DataFrame(rows))


def fill(store: Store, symbol: str) -> None:
    row = {
        "execution_id": symbol, "order_id": 1, "account": "x", "symbol": symbol, "side": "sell", "timestamp": NOW,
        "quantity": Decimal(3), "price": Decimal("4.25"),
    }  # fmt: skip
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.upsert("executions", pd.DataFrame([row]))


def eventually(holds, seconds: float = 60.0) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "it never came"
        time.sleep(0.02)


def test_new_signals_and_fills_reach_the_browser_and_nobody_else_can_read_them(
    tmp_path: Path, service: PushService
) -> None:
    config = configured(tmp_path)
    store = open_store(config.database_url)
    commit(store, "OLD", day="2024-01-01")
    remember(store, service.browser)
    pusher = get_pusher(config, Service(config, store))
    pusher.start()
    commit(store, "AAPL")
    eventually(lambda: service.heard)
    fill(store, "IBM")
    eventually(lambda: len(service.heard) == 2)
    pusher.stop()
    first, second = service.heard
    assert (first["title"], first["body"], first["url"]) == (
        "buy signal: AAPL",
        "r at 9.50",
        "/dashboard?page=chart&symbol=AAPL",
    )
    assert (second["title"], second["body"]) == ("sold: 3 IBM", "at 4.25")
    assert first["ttl"] == "14400"
    scheme, token = service.tokens[0].split(" ", 1)
    assert scheme == "vapid"
    assert Vapid02.verify(service.tokens[0])
    assert pusher.public_key in token


def test_many_at_once_are_one_notification(tmp_path: Path, service: PushService) -> None:
    config = configured(tmp_path)
    store = open_store(config.database_url)
    remember(store, service.browser)
    pusher = get_pusher(config, Service(config, store))
    pusher.start()
    commit(store, *(f"S{number:02d}" for number in range(40)))
    eventually(lambda: service.heard)
    pusher.stop()
    assert [one["title"] for one in service.heard] == ["40 signals"]


@pytest.mark.parametrize(("status", "left"), [(404, 0), (410, 0), (201, 1), (429, 1), (500, 1)])
def test_a_browser_that_is_gone_is_forgotten_and_a_busy_service_is_not(
    tmp_path: Path, service: PushService, status: int, left: int
) -> None:
    config = configured(tmp_path)
    store = open_store(config.database_url)
    remember(store, service.browser, service.browser._replace(endpoint="http://127.0.0.1:9/closed"))
    service.status = status
    pusher = get_pusher(config, Service(config, store))
    pusher.start()
    commit(store, "A")
    eventually(lambda: service.heard)
    eventually(lambda: len(subscriptions(store)) == 1 + left)
    pusher.stop()


def test_browsers_subscribe_through_the_api(tmp_path: Path) -> None:
    config = configured(tmp_path)
    with TestClient(create_app(config), base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        assert len(client.get("/push/key").json()["key"]) == 87
        keys = {"p256dh": "B", "auth": "x"}
        good = {"endpoint": "https://fcm.googleapis.com/fcm/send/1", "keys": keys}
        assert [client.post("/push/subscribe", json=good).status_code for _ in range(2)] == [204, 204]
        store = open_store(config.database_url)
        assert subscriptions(store) == [Subscription(good["endpoint"], "B", "x")]
        refused = client.post("/push/subscribe", json={**good, "endpoint": "https://evil.example/"})
        assert (refused.status_code, refused.json()["code"]) == (409, "refused")
        assert client.post("/push/unsubscribe", json={"endpoint": good["endpoint"]}).status_code == 204
        assert subscriptions(store) == []
    silent = create_app(configured(tmp_path, tradebot_vapid_key=""))
    with TestClient(silent, base_url="http://127.0.0.1", client=("127.0.0.1", 50000)) as client:
        assert client.get("/push/key").json() == {"key": None}


@pytest.mark.parametrize(
    "endpoint",
    ["http://fcm.googleapis.com/x", "https://127.0.0.1/x", "https://fcm.googleapis.com.evil.example/x", "https://evil.example/?fcm.googleapis.com",
     "https://fcm.googleapis.com@evil.example/", "file:///etc/passwd", "", "https://[::1"],
)  # fmt: skip
def test_we_send_nothing_to_addresses_that_are_no_push_service(store: Store, endpoint: str) -> None:
    with pytest.raises(UserError, match="no push service"):
        subscribe(store, Subscription(endpoint, "B", "x"), NOW)


def test_there_is_an_end_to_subscriptions(store: Store) -> None:
    remember(
        store, *(Subscription(f"https://fcm.googleapis.com/{number}", "B", "x") for number in range(MOST))
    )
    with pytest.raises(UserError, match="devices are notified already"):
        subscribe(store, Subscription("https://fcm.googleapis.com/more", "B", "x"), NOW)
    subscribe(store, Subscription("https://fcm.googleapis.com/1", "C", "y"), NOW)


def test_half_a_configuration_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="TRADEBOT_VAPID_KEY is no key"):
        get_pusher(configured(tmp_path, tradebot_vapid_key="nonsense"), None)
    silent = configured(tmp_path).model_copy(update={"serve": Config(home=tmp_path).serve})
    with pytest.raises(UserError, match=r"\[serve\] contact"):
        get_pusher(silent, None)
    assert get_pusher(configured(tmp_path, tradebot_vapid_key=""), None) is None
