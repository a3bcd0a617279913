"""Notifications over real sockets: delivered, tried again, given up; never waited for, and without a secret in the log."""

import json
import logging
import socket
import ssl
import threading
import time
from pathlib import Path

import pytest
import trustme
from servers.smtp import MailServer
from servers.stand_in import drop, hang, respond
from servers.webhook import Webhook

from tradebot import notify as module
from tradebot.config import Config, UserError
from tradebot.notify import notifying, register


def told(*channels: str, webhook: str = "", smtp: str = "", **more) -> Config:
    return Config(
        home=Path(),
        notify={"channels": channels, **more},
        environment={"tradebot_webhook_url": webhook, "tradebot_smtp_url": smtp},
    )


def mail_to(server: MailServer, password: str = "p%40ss:word") -> Config:
    url = f"smtp://me:{password}@localhost:{server.port}"
    return told("email", smtp=url, email_from="bot@example.com", email_to="me@example.com")


@pytest.fixture
def certificate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ssl.SSLContext:
    """A certificate of localhost from an authority that this process trusts."""
    authority = trustme.CA()
    authority.cert_pem.write_to_path(tmp_path / "authority.pem")
    monkeypatch.setenv("SSL_CERT_FILE", str(tmp_path / "authority.pem"))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(context)
    return context


def test_a_webhook_receives_one_line_as_slack_reads_it() -> None:
    with Webhook() as hook, notifying(told("webhook", webhook=hook.url)) as notify:
        notify("fill", "buy 12 AAPL\nat 444.57", {"symbol": "AAPL"})
        notify("weather", "it rains", {})
    assert [json.loads(body) for body in hook.bodies] == [{"text": "tradebot fill: buy 12 AAPL at 444.57"}]


@pytest.mark.parametrize("fault", [respond(500), drop])
def test_a_delivery_that_fails_is_tried_again(fault, caplog: pytest.LogCaptureFixture) -> None:
    with Webhook() as hook:
        hook.faults.append(fault)
        with notifying(told("webhook", webhook=hook.url)) as notify:
            notify("halt", "cash differs", {})
    assert len(hook.bodies) == 2
    assert not caplog.records


def test_a_webhook_that_never_works_is_given_up_without_its_address(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with Webhook() as hook:
        hook.faults.extend([respond(500)] * 3)
        with notifying(told("webhook", webhook=hook.url)) as notify:
            notify("halt", "cash differs", {})
    assert len(hook.bodies) == 3
    assert "webhook could not be told of halt: HTTPError" in caplog.text
    assert "SECRET" not in caplog.text


def test_nobody_waits_for_a_webhook_that_hangs(
    caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "TIMEOUT", 0.5)
    with Webhook() as hook:
        hook.faults.extend([hang] * 9)
        took = []
        began = time.monotonic()
        with notifying(told("webhook", webhook=hook.url), patience=0.2) as notify:
            for _ in range(100):
                start = time.perf_counter()
                notify("fill", "buy", {})
                took.append(time.perf_counter() - start)
        assert sorted(took)[50] < 0.001
        assert time.monotonic() - began < 1
    assert "webhook: 100 events were not delivered" in caplog.text


def test_a_closed_port_raises_nothing(caplog: pytest.LogCaptureFixture) -> None:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    with notifying(told("webhook", webhook=f"http://127.0.0.1:{port}/SECRET")) as notify:
        notify("reject", "no", {})
    assert "webhook could not be told of reject: ConnectionError" in caplog.text
    assert "SECRET" not in caplog.text


def test_a_full_queue_loses_the_oldest_and_says_how_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "LIMIT", 2)
    heard, busy, go_on = [], threading.Event(), threading.Event()

    def deliver(event) -> None:
        busy.set()
        go_on.wait(5)
        heard.append(event.text)

    monkeypatch.setattr(module, "CHANNELS", {})
    register("slow", lambda config: deliver)
    with notifying(told("slow")) as notify:
        notify("fill", "0", {})
        assert busy.wait(5)
        for number in range(1, 6):
            notify("fill", str(number), {})
        go_on.set()
    assert heard == ["0", "4 (3 events before it were lost)", "5"]


def test_no_event_is_lost_between_threads_and_no_thread_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "CHANNELS", {})
    heard, before = [], threading.active_count()
    register("list", lambda config: heard.append)
    for _ in range(50):
        with notifying(told("list")) as notify:
            senders = [threading.Thread(target=notify, args=("fill", "x", {})) for _ in range(4)]
            for sender in senders:
                sender.start()
            for sender in senders:
                sender.join()
    assert len(heard) == 200
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.01)
    assert threading.active_count() <= before


def test_the_log_takes_details_of_any_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    with notifying(told("log")) as notify:
        notify("fill", "buy", {"name": "AAPL", "message": 1})
    assert [record.getMessage() for record in caplog.records] == ["fill: buy"]


def test_a_mail_is_sent_encrypted_where_that_is_offered(certificate: ssl.SSLContext) -> None:
    with MailServer(certificate) as server, notifying(mail_to(server)) as notify:
        notify("fill", "buy 12 AAPL", {"symbol": "AAPL"})
    assert server.logins == [("me", "p@ss:word", True)]
    assert "Subject: tradebot fill: buy 12 AAPL" in server.mails[0]
    assert "symbol: AAPL" in server.mails[0]


def test_a_mail_server_that_nobody_vouches_for_hears_no_password(
    certificate: ssl.SSLContext, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trustme.CA().cert_pem.write_to_path(tmp_path / "authority.pem")
    with MailServer(certificate) as server, notifying(mail_to(server)) as notify:
        notify("fill", "buy", {})
    assert server.logins == []
    assert server.mails == []
    assert "email could not be told of fill: SSLCertVerificationError" in caplog.text


def test_a_password_that_is_refused_is_not_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    with MailServer() as server, notifying(mail_to(server, "wrong-word")) as notify:
        notify("fill", "buy", {})
    assert "email could not be told of fill: SMTPAuthenticationError" in caplog.text
    assert "wrong-word" not in caplog.text


@pytest.mark.parametrize(
    ("config", "says"),
    [
        (told("webhook"), "TRADEBOT_WEBHOOK_URL"),
        (told("email", smtp="smtp://localhost"), "email_from"),
        (told("email", smtp="smtp://u:SECRET@localhost:many"), "is no address"),
        (told("pigeon"), "channels = pigeon: there are"),
    ],
)
def test_a_channel_without_its_settings_is_one_line(config: Config, says: str) -> None:
    with pytest.raises(UserError, match=says) as error, notifying(config):
        pass
    assert "SECRET" not in str(error.value)
