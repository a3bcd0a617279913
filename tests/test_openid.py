"""Signing in through an OpenID provider: those who are listed get in, and no lie of the provider's or the browser's does."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import httpx
import pytest
from joserfc.jwk import RSAKey
from servers.openid import OpenIdProvider
from starlette.testclient import TestClient

from tradebot.app import create_app
from tradebot.config import Config, UserError
from tradebot.guard import COOKIE


@pytest.fixture
def provider() -> Iterator[OpenIdProvider]:
    started = OpenIdProvider()
    yield started
    started.stop()


def configured(home: Path, provider: OpenIdProvider, **serve) -> Config:
    who = {
        "issuer": provider.issuer,
        "client": "tradebot",
        "people": "ann@desk.example=trade\nbob@desk.example=read",
    }
    return Config(
        home=home, serve={**who, "open_reading": False, **serve}, environment={"database_url": f"duckdb:///{home}/data"}
    )  # fmt: skip


def visitor(app) -> TestClient:
    return TestClient(app, base_url="http://127.0.0.1", client=("192.168.0.9", 50000), follow_redirects=False)


@pytest.fixture
def browser(tmp_path: Path, provider: OpenIdProvider) -> TestClient:
    return visitor(create_app(configured(tmp_path, provider)))


def to_provider(browser: TestClient, target: str = "/runs") -> str:
    """Where the provider sends the browser back to."""
    there = browser.get("/oidc/login", params={"next": target})
    assert there.status_code == 302
    back = httpx.get(there.headers["location"], follow_redirects=False)
    url = urlsplit(back.headers["location"])
    return f"{url.path}?{url.query}"


def test_a_listed_person_gets_in_with_their_scope(browser: TestClient, provider: OpenIdProvider) -> None:
    answer = browser.get(to_provider(browser))
    assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
    assert browser.get("/latest").status_code == 200
    assert browser.post("/kill-switch", json={"on": True}).status_code == 200

    provider.claims = {"email": "Bob@Desk.Example"}
    browser.cookies.clear()
    browser.get(to_provider(browser))
    assert browser.get("/latest").status_code == 200
    assert browser.post("/kill-switch", json={"on": False}).status_code == 403


@pytest.mark.parametrize(
    "claims",
    [
        {"email": "eve@desk.example"},
        {"email": None},
        {"email_verified": False},
        {"email_verified": None},
        {"email_verified": "true"},
        {"email": "ann@desk.example=trade"},
        {"aud": "another"},
        {"iss": "http://127.0.0.1:1"},
        {"exp": 1_700_000_000},
        {"nonce": "another"},
        {"nonce": None},
    ],
    ids=str,
)
def test_no_other_word_of_the_provider_lets_anybody_in(
    browser: TestClient, provider: OpenIdProvider, claims: dict
) -> None:
    provider.claims = claims
    answer = browser.get(to_provider(browser))
    assert answer.status_code in (401, 403, 502), answer.text
    assert COOKIE not in browser.cookies
    assert browser.get("/latest").status_code == 401


def test_a_signature_of_another_key_is_refused(browser: TestClient, provider: OpenIdProvider) -> None:
    provider.key = RSAKey.generate_key(2048, {"kid": "one", "use": "sig", "alg": "RS256"})
    assert browser.get(to_provider(browser)).status_code in (401, 502)
    assert COOKIE not in browser.cookies


def test_an_answer_counts_once_and_in_the_browser_that_asked(
    browser: TestClient, tmp_path: Path, provider: OpenIdProvider
) -> None:
    back = to_provider(browser)
    assert visitor(browser.app).get(back).status_code == 401, "another browser"
    assert browser.get(back).status_code == 303
    assert browser.get(back).status_code == 401, "again"
    fresh = to_provider(browser)
    state = parse_qs(urlsplit(fresh).query)["state"][0]
    assert browser.get(fresh.replace(state, "x" * len(state))).status_code == 401
    assert browser.get("/oidc/callback?error=access_denied&error_description=no").status_code == 401


def test_a_sign_in_leads_to_no_other_site(browser: TestClient) -> None:
    assert browser.get(to_provider(browser, "https://evil.example/")).headers["location"] == "/dashboard"


def test_a_provider_that_is_gone_is_told(browser: TestClient, provider: OpenIdProvider) -> None:
    provider._server.shutdown()
    provider._server.server_close()
    answer = browser.get("/oidc/login")
    assert answer.status_code == 502
    assert "cannot be reached" in answer.text


def test_a_person_who_is_no_longer_listed_is_out(tmp_path: Path, provider: OpenIdProvider) -> None:
    secret = {"tradebot_session_secret": "0123456789abcdef" * 2, "database_url": f"duckdb:///{tmp_path}/data"}
    before = configured(tmp_path, provider).model_copy(
        update={"environment": Config(home=tmp_path, environment=secret).environment}
    )
    browser = visitor(create_app(before))
    browser.get(to_provider(browser))
    assert browser.get("/latest").status_code == 200
    listed = before.serve.model_copy(update={"people": ("bob@desk.example=read",)})
    after = visitor(create_app(before.model_copy(update={"serve": listed})))
    after.cookies.update(browser.cookies)
    assert after.get("/latest").status_code == 401


def test_half_a_configuration_is_refused(tmp_path: Path, provider: OpenIdProvider) -> None:
    for missing in ({"client": ""}, {"people": ""}):
        with pytest.raises(UserError, match=r"\[serve\] issuer needs client"):
            create_app(configured(tmp_path, provider, **missing))
