"""Who may do what: every route of the real application, and every way past the guard that we could think of."""

import asyncio
import http.client
import json
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pandas as pd
import pytest
from itsdangerous import URLSafeTimedSerializer
from servers.web import WebServer
from starlette.routing import Mount, WebSocketRoute
from starlette.testclient import TestClient, WebSocketDenialResponse
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed, InvalidStatus

from tradebot.app import create_app
from tradebot.config import Config, UserError
from tradebot.executor import utc_now
from tradebot.guard import COOKIE, OPEN, Throttle, check_binding
from tradebot.keys import Keys, create_key, revoke_key
from tradebot.store import Store, open_store

SECRET = "0123456789abcdef" * 4
ME = {"base_url": "http://127.0.0.1", "client": ("127.0.0.1", 50000), "follow_redirects": False}


def configured(home: Path, **serve) -> Config:
    environment = {"database_url": f"duckdb:///{home}/data", "tradebot_session_secret": SECRET}
    return Config(home=home, serve=serve, environment=environment)


def store_of(home: Path) -> Store:
    return open_store(f"duckdb:///{home}/data")


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home")


@pytest.fixture(scope="module")
def keys(home: Path) -> dict[str, str]:
    """A key of each kind."""
    store = store_of(home)
    made = {name: create_key(store, name, "read", utc_now()) for name in ("read", "revoked")}
    made["trade"] = create_key(store, "trade", "trade", utc_now())
    revoke_key(store, "revoked", utc_now())
    return {**made, "wrong": made["read"][:-1] + ("a" if made["read"][-1] != "a" else "b"), "nonsense": "é"}


@pytest.fixture(scope="module")
def closed(home: Path, keys: dict) -> Iterator[TestClient]:
    """The application where reading needs a key, too."""
    app = create_app(configured(home, open_reading=False))
    with TestClient(app, **ME) as client:
        yield client


@pytest.fixture(scope="module")
def real(home: Path, keys: dict) -> Iterator[WebServer]:
    """The same as a process of its own."""
    server = WebServer(home, DATABASE_URL=f"duckdb:///{home}/data", TRADEBOT_SERVE_OPEN_READING="false")
    yield server
    server.kill()


def flat(routes) -> Iterator:
    """Routes, those of included routers among them."""
    for route in routes:
        if included := getattr(route, "original_router", None):
            yield from flat(included.routes)
        else:
            yield route


def routes(app) -> list[tuple[str, str]]:
    """(method, path) of every route, with something in the place of each parameter; WS for a socket."""
    found = []
    for route in flat(app.routes):
        path = (
            getattr(route, "path", "").replace("{run}", "r").replace("{name}", "n").replace("{symbol}", "A")
        )
        if isinstance(route, WebSocketRoute) or not hasattr(route, "methods"):
            found.append(("GET", f"{path}/x") if isinstance(route, Mount) else ("WS", path))
        else:
            found += [(method, path) for method in route.methods or ()]
    return [*found, ("GET", "/dashboard"), ("WS", "/dashboard/ws"), ("GET", "/static/js/bokeh.min.js")]


def is_open(path: str) -> bool:
    return path in OPEN or path.startswith(("/assets/", "/oidc/"))


@pytest.mark.parametrize("who", [None, "wrong", "revoked", "nonsense"])
def test_every_route_that_is_not_named_as_open_needs_a_valid_key(closed: TestClient, keys: dict, who) -> None:
    tried = 0
    for method, path in routes(closed.app):
        headers = {"X-API-Key": keys[who].encode()} if who else {}
        if method == "WS":
            with (
                pytest.raises(WebSocketDenialResponse) as refused,
                closed.websocket_connect(f"ws://127.0.0.1{path}", headers=headers),
            ):
                pass
            assert refused.value.status_code in (401, 429), path
        else:
            answer = closed.request(method, path, headers=headers)
            if is_open(path):
                assert path == "/login" or answer.status_code not in (401, 403), (method, path)
                continue
            assert answer.status_code in (401, 429), (method, path)
            assert method == "HEAD" or answer.json()["code"] in ("unauthorized", "too_many_failures")
        tried += 1
    assert tried > 20


def test_a_key_that_may_read_changes_nothing(closed: TestClient, keys: dict) -> None:
    tried = 0
    for method, path in routes(closed.app):
        if (
            method in ("POST", "PUT", "PATCH", "DELETE")
            and not is_open(path)
            and not path.startswith("/push/")
        ):
            answer = closed.request(method, path, headers={"X-API-Key": keys["read"]})
            assert (answer.status_code, answer.json()["code"]) == (403, "forbidden"), path
            tried += 1
    assert tried
    assert closed.get("/kill-switch", headers={"X-API-Key": keys["trade"]}).json()["on"] is False


@pytest.mark.parametrize("header", ["X-API-Key", "Authorization"])
def test_a_key_opens_what_its_scope_allows(closed: TestClient, keys: dict, header: str) -> None:
    shown = {name: key if header == "X-API-Key" else f"Bearer {key}" for name, key in keys.items()}
    assert closed.get("/latest", headers={header: shown["read"]}).json() == []
    flipped = closed.post(
        "/kill-switch", json={"on": True, "reason": "test"}, headers={header: shown["trade"]}
    )
    assert flipped.json()["on"] is True
    assert flipped.json()["reason"].endswith("UTC: test")
    closed.post("/kill-switch", json={"on": False}, headers={header: shown["trade"]})


@pytest.mark.parametrize(
    "path",
    ["//healthz", "/healthz/../latest", "/%2e%2e/latest", "/assets/../latest", "/assets/..%2flatest", "/HEALTHZ", "/latest/",
     "/healthz/latest", "/login/../latest", "/oidc/../latest", "/assets", "/loginx", "/latest;/healthz", "/latest%00/healthz"],
)  # fmt: skip
def test_no_spelling_of_a_path_slips_past(real: WebServer, path: str) -> None:
    with closing(http.client.HTTPConnection("127.0.0.1", real.port)) as connection:
        connection.putrequest("GET", path, skip_host=True)
        connection.putheader("Host", f"127.0.0.1:{real.port}")
        connection.endheaders()
        assert connection.getresponse().status in (401, 404)


def test_reading_is_open_on_this_machine_and_nowhere_else(home: Path, keys: dict) -> None:
    app = create_app(configured(home))
    with TestClient(app, **ME) as client:
        assert client.get("/latest").status_code == 200
        assert client.post("/kill-switch", json={"on": True}).status_code == 401
        assert client.get("/latest", headers={"X-API-Key": keys["revoked"]}).status_code == 401, (
            "a key was shown"
        )
        for name in ("X-Forwarded-For", "Forwarded", "Via", "X-Real-IP"):
            assert client.get("/latest", headers={name: "127.0.0.1"}).status_code == 401, "through a proxy"
        assert client.get("/latest", headers={"Host": "192.168.0.2"}).status_code == 401
        away = TestClient(app, base_url="http://127.0.0.1", client=("192.168.0.9", 50000))
        assert away.get("/latest").status_code == 401
    bound = create_app(configured(home, host="0.0.0.0"))
    assert TestClient(bound, **ME).get("/latest").status_code == 401


def test_another_name_for_our_address_is_not_answered(home: Path) -> None:
    client = TestClient(create_app(configured(home, hosts="desk.example")), **ME)
    for host in ("evil.example", "127.0.0.1.evil.example", "localhost.evil.example", ""):
        assert client.get("/healthz", headers={"Host": host}).json()["code"] == "unknown_host"
    for host in ("localhost:8000", "[::1]:8000", "127.0.0.1", "desk.example"):
        assert client.get("/healthz", headers={"Host": host}).status_code == 200


def signed_in(app, key: str, **options) -> TestClient:
    client = TestClient(app, **{**ME, **options})
    assert client.post("/login", data={"key": key}).status_code == 303
    return client


def test_a_session_ends_with_its_key_its_week_or_a_touch(home: Path, monkeypatch) -> None:
    app = create_app(configured(home, open_reading=False))
    key = create_key(store_of(home), "browser", "read", utc_now())
    client = signed_in(app, key)
    cookie = client.cookies[COOKIE]
    assert key.split("_")[2] not in cookie
    assert client.get("/latest").status_code == 200
    forged = URLSafeTimedSerializer("another secret, of somebody else", salt="tradebot.session").dumps(
        ["key", key.split("_")[1]]
    )
    kinds = [
        cookie[:-2] + "xx",
        cookie.split(".")[0],
        "",
        "....",
        forged,
        json.dumps(["key", key.split("_")[1]]),
    ]
    person = URLSafeTimedSerializer(SECRET, salt="tradebot.session").dumps(
        ["person", "stranger@desk.example"]
    )
    for other in (*kinds, person):
        assert TestClient(app, **ME, cookies={COOKIE: other}).get("/latest").status_code == 401
    week = 7 * 24 * 3600
    now = time.time()
    with monkeypatch.context() as later:
        later.setattr("itsdangerous.timed.time.time", lambda: now + week + 2)
        assert client.get("/latest").status_code == 401
    revoke_key(store_of(home), "browser", utc_now())
    time.sleep(1.05)
    assert client.get("/latest").status_code == 401


def test_another_site_s_page_can_do_nothing_in_a_reader_s_name(home: Path, keys: dict) -> None:
    app = create_app(configured(home, origins="https://desk.example"))
    client = signed_in(app, keys["trade"])
    for origin in ("https://evil.example", "null", "http://127.0.0.1:9", "https://127.0.0.1.evil.example"):
        answer = client.post("/kill-switch", json={"on": True}, headers={"Origin": origin})
        assert (answer.status_code, answer.json()["code"]) == (403, "foreign_origin")
        assert "access-control-allow-origin" not in client.get("/latest", headers={"Origin": origin}).headers
        with (
            pytest.raises(WebSocketDenialResponse) as refused,
            client.websocket_connect("ws://127.0.0.1/ws", headers={"Origin": origin}),
        ):
            pass
        assert refused.value.status_code == 403
    own = client.post("/kill-switch", json={"on": False}, headers={"Origin": "http://127.0.0.1"})
    assert own.status_code == 200
    listed = client.post("/kill-switch", json={"on": True}, headers={"Origin": "https://desk.example"})
    assert listed.status_code == 401, "its pages may ask with a key, and not with our cookie"


def test_a_listed_site_may_ask_with_a_key(home: Path, keys: dict) -> None:
    client = TestClient(create_app(configured(home, origins="https://desk.example")), **ME)
    asked = {
        "Origin": "https://desk.example",
        "Access-Control-Request-Method": "GET",
        "Access-Control-Request-Headers": "X-API-Key",
    }
    allowed = client.options("/latest", headers=asked)
    assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (
        200,
        "https://desk.example",
    )
    assert "access-control-allow-credentials" not in allowed.headers
    got = client.get("/latest", headers={"Origin": "https://desk.example", "X-API-Key": keys["read"]})
    assert (got.status_code, got.headers["access-control-allow-origin"]) == (200, "https://desk.example")
    assert client.options("/latest", headers={**asked, "Origin": "https://evil.example"}).status_code == 400


def test_guesses_are_throttled_and_valid_keys_are_not(home: Path, keys: dict) -> None:
    client = TestClient(create_app(configured(home, open_reading=False)), **ME)
    statuses = [client.get("/latest", headers={"X-API-Key": f"tb_{n}_x"}).status_code for n in range(7)]
    assert statuses == [401] * 5 + [429] * 2
    assert client.get("/latest", headers={"X-API-Key": keys["read"]}).status_code == 200
    refused = client.post("/login", data={"key": keys["read"]})
    assert refused.status_code == 429
    assert 0 < int(refused.headers["Retry-After"]) <= 60


def test_a_throttle_keeps_few_addresses() -> None:
    throttle = Throttle(lambda: 0.0)
    for number in range(10_050):
        throttle.fail(f"10.0.{number // 256}.{number % 256}")
    assert len(throttle._failed) == 10_000


def test_a_browser_is_led_to_the_sign_in_and_back(home: Path, keys: dict) -> None:
    client = TestClient(create_app(configured(home, open_reading=False)), **ME)
    asked = client.get("/runs?limit=5", headers={"Accept": "text/html,*/*"})
    assert (asked.status_code, asked.headers["location"]) == (303, "/login?next=/runs%3Flimit%3D5")
    page = client.get(asked.headers["location"])
    assert 'action="/login?next=/runs%3Flimit%3D5"' in page.text
    wrong = client.post(asked.headers["location"], data={"key": "tb_1_<script>"})
    assert wrong.status_code == 401
    assert "unknown, or revoked" in wrong.text
    done = client.post(asked.headers["location"], data={"key": f" {keys['read']}\n"})
    assert done.headers["location"] == "/runs?limit=5"
    assert (
        client.post("/login?next=//evil.example", data={"key": keys["read"]}).headers["location"]
        == "/dashboard"
    )
    assert client.post("/login", content=b"key=" + b"x" * 10_000).status_code == 401


def test_cookies_are_secure_where_the_connection_is(home: Path, keys: dict) -> None:
    app = create_app(configured(home))
    answer = TestClient(app, **{**ME, "base_url": "https://127.0.0.1"}).post(
        "/login", data={"key": keys["read"]}
    )
    assert "Secure" in answer.headers["set-cookie"]
    assert "HttpOnly" in answer.headers["set-cookie"]
    assert answer.headers["strict-transport-security"] == "max-age=31536000"
    assert (
        "Secure" not in TestClient(app, **ME).post("/login", data={"key": keys["read"]}).headers["set-cookie"]
    )


def test_every_answer_keeps_a_browser_safe_and_a_report_s_script_out(home: Path, closed: TestClient) -> None:
    (home / "reports" / "r").mkdir(parents=True, exist_ok=True)
    (home / "reports" / "r" / "notebook.html").write_text("<script>fetch('/kill-switch')</script>")
    client = TestClient(create_app(configured(home)), **ME)
    report = client.get("/reports/r/notebook.html").headers["content-security-policy"]
    assert "sandbox allow-scripts" in report
    assert "allow-same-origin" not in report
    for path in (
        "/latest",
        "/nowhere",
        "/login",
        "/assets/chart.js",
        "/dashboard",
        "/reports/r/notebook.html",
    ):
        headers = client.get(path).headers
        assert headers["x-content-type-options"] == "nosniff"
        assert "frame-ancestors 'self'" in headers["content-security-policy"]
        assert len(headers["x-request-id"]) == 16
    assert client.get("/latest").headers["cache-control"] == "no-store"
    assert closed.get("/latest").headers["content-security-policy"]


def test_a_browser_that_has_the_dashboard_s_files_is_told_so(home: Path) -> None:
    client = TestClient(create_app(configured(home)), **ME)
    for path in ("/static/js/bokeh.min.js", "/assets/chart.js"):
        first = client.get(path)
        again = client.get(path, headers={"If-None-Match": first.headers["etag"]})
        assert (first.status_code, again.status_code, again.content) == (200, 304, b"")
        assert client.get(path, headers={"If-None-Match": '"another"'}).status_code == 200


def test_a_server_that_others_can_reach_needs_a_key_first(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="tradebot key create NAME"):
        check_binding(configured(tmp_path, host="0.0.0.0"), store_of(tmp_path))
    create_key(store_of(tmp_path), "first", "read", utc_now())
    check_binding(configured(tmp_path, host="0.0.0.0"), store_of(tmp_path))
    revoke_key(store_of(tmp_path), "first", utc_now())
    with pytest.raises(UserError, match="there is no key yet"):
        check_binding(configured(tmp_path, host="::"), store_of(tmp_path))


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    config = Config(
        home=tmp_path,
        environment={"database_url": f"duckdb:///{tmp_path}/data", "tradebot_session_secret": "short"},
    )
    with pytest.raises(UserError, match="TRADEBOT_SESSION_SECRET is short"):
        create_app(config)


def test_many_who_ask_at_once_read_the_table_once(home: Path, keys: dict, monkeypatch) -> None:
    import tradebot.keys

    reads, real = [], tradebot.keys._valid
    monkeypatch.setattr(
        tradebot.keys, "_valid", lambda store: (reads.append(1), time.sleep(0.05), real(store))[2]
    )

    async def ask() -> list:
        known = Keys(store_of(home))
        return await asyncio.gather(*(known.find(keys["read"]) for _ in range(100)))

    assert {user.name for user in asyncio.run(ask())} == {"read"}
    assert len(reads) == 1


def test_what_is_logged_names_the_request_and_never_the_key(home: Path, keys: dict, caplog) -> None:
    client = TestClient(create_app(configured(home, open_reading=False)), **ME)
    with caplog.at_level("INFO", "tradebot.access"):
        client.get("/latest?n=5", headers={"X-API-Key": keys["read"], "X-Request-ID": "from-a-proxy-1"})
        client.get("/latest", headers={"X-API-Key": keys["revoked"], "X-Request-ID": "no\tgood"})
    first, second = (record for record in caplog.records if record.name == "tradebot.access")
    assert (first.getMessage(), first.user, first.status) == ("GET '/latest' 200", "read", 200)
    assert (second.user, second.status) == (None, 401)
    assert not any(key in caplog.text for key in keys.values())


@pytest.mark.timeout(120)
def test_a_real_socket_is_refused_without_a_key_and_closed_when_it_is_revoked(tmp_path: Path) -> None:
    store = store_of(tmp_path)
    key = create_key(store, "socket", "read", utc_now())
    server = WebServer(
        tmp_path, DATABASE_URL=f"duckdb:///{tmp_path}/data", TRADEBOT_SERVE_OPEN_READING="false"
    )
    address = server.url.replace("http", "ws") + "/ws"

    def commit(day: str) -> None:
        frame = {
            "symbol": ["A"],
            "timestamp": pd.Timestamp(day),
            "signal_type": "buy",
            "details": [{"price": 1.0}],
        }
        store.write_signals("s", pd.DataFrame(frame))

    async def play() -> None:
        with pytest.raises(InvalidStatus) as refused:
            await connect(address, proxy=None)
        assert refused.value.response.status_code == 401
        async with connect(address, proxy=None, additional_headers={"X-API-Key": key}) as socket:
            threading.Timer(0.2, commit, ["2024-01-02"]).start()
            assert json.loads(await asyncio.wait_for(socket.recv(), 20))[0]["symbol"] == "A"
            revoke_key(store, "socket", utc_now())
            await asyncio.sleep(1.1)
            threading.Timer(0.2, commit, ["2024-01-03"]).start()
            with pytest.raises(ConnectionClosed) as ended:
                await asyncio.wait_for(socket.recv(), 20)
            assert ended.value.rcvd.code == 4401

    try:
        asyncio.run(play())
    finally:
        server.kill()
