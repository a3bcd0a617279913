"""The paper broker's own side: faults on demand, keys, the rate, and a file that outlives a kill."""

import multiprocessing
import socket
import threading
import time
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pytest
import requests
from servers.paper import PaperBroker

from tradebot.config import UserError
from tradebot.exchange import Exchange, Market
from tradebot.paper_broker import Desk, Journal, served

ORDER = {"symbol": "IBM", "qty": 3, "side": "buy", "type": "limit", "time_in_force": "day", "limit_price": 2}
POST = {"method": "POST", "path": "/v2/orders$"}


def count(owner) -> int:
    return len(owner.state["orders"])


# Faults


@pytest.mark.parametrize(("when", "orders"), [("before", 0), ("after", 1)])
def test_a_fault_comes_before_or_after_the_order_exists_and_only_once(owner, when, orders) -> None:
    told = {"status": 503, "body": "<html>", "headers": {"Retry-After": "7"}}
    owner.ask("POST", "/faults", [{**POST, "when": when, "action": told}])
    answer = owner.raw("POST", "/orders", ORDER)
    assert (answer.status_code, answer.text, answer.headers["Retry-After"]) == (503, "<html>", "7")
    assert count(owner) == orders
    assert owner.raw("POST", "/orders", ORDER).status_code == 200


def test_a_fault_waits_for_the_nth_request_and_may_stay_for_ever(owner) -> None:
    owner.ask("POST", "/faults", [{"path": "/v2/clock", "nth": 3, "times": -1, "action": {"status": 500}}])
    told = [owner.raw("GET", "/clock").status_code for _ in range(5)]
    assert told == [200, 200, 500, 500, 500]
    owner.ask("DELETE", "/faults")
    assert owner.raw("GET", "/clock").status_code == 200


def test_a_connection_is_reset(owner) -> None:
    owner.ask("POST", "/faults", [{**POST, "when": "after", "action": {"reset": True}}])
    with pytest.raises(requests.ConnectionError, match="reset"):
        owner.raw("POST", "/orders", ORDER)
    assert count(owner) == 1


def test_an_answer_is_cut_in_the_middle(owner) -> None:
    owner.ask("POST", "/faults", [{**POST, "action": {"truncate": True}}])
    with pytest.raises((requests.exceptions.ChunkedEncodingError, requests.ConnectionError)):
        owner.raw("POST", "/orders", ORDER)


def test_an_answer_is_empty(owner) -> None:
    owner.ask("POST", "/faults", [{**POST, "action": {"empty": True}}])
    answer = owner.raw("POST", "/orders", ORDER)
    assert (answer.status_code, answer.content) == (200, b"")


def test_an_answer_never_comes(owner) -> None:
    owner.ask("POST", "/faults", [{**POST, "action": {"hang": 1.0}}])
    began = time.monotonic()
    with pytest.raises(requests.ConnectionError):
        owner.raw("POST", "/orders", ORDER)
    assert time.monotonic() - began > 0.9
    assert count(owner) == 0


def test_an_answer_comes_late(owner) -> None:
    owner.ask("POST", "/faults", [{**POST, "action": {"delay": 0.3}}])
    began = time.monotonic()
    assert owner.raw("POST", "/orders", ORDER).status_code == 200
    assert time.monotonic() - began > 0.29


def test_a_slow_drip_passes_a_read_s_time_out(owner) -> None:
    "Each byte comes in time; the answer never ends."
    owner.ask("POST", "/faults", [{**POST, "action": {"drip": 0.1}}])
    keys = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
    with requests.post(
        f"{owner.url}/v2/orders", json=ORDER, headers=keys, timeout=0.5, stream=True
    ) as answer:
        began = time.monotonic()
        for _ in answer.iter_content(1):
            if time.monotonic() - began > 1.0:
                break
    assert time.monotonic() - began > 1.0


def test_a_request_arrives_after_its_sender_has_given_up(owner) -> None:
    owner.ask("POST", "/faults", [{**POST, "action": {"late": 0.4}}])
    with pytest.raises(requests.Timeout):
        requests.post(
            f"{owner.url}/v2/orders",
            json=ORDER,
            headers={"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"},
            timeout=0.1,
        )
    assert count(owner) == 0
    deadline = time.monotonic() + 5
    while not count(owner):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def test_an_answer_is_edited(owner) -> None:
    owner.ask("POST", "/faults", [{**POST, "when": "after", "action": {"edit": {"status": "odd", "new": 1}}}])
    told = owner.raw("POST", "/orders", ORDER).json()
    assert (told["status"], told["new"], told["symbol"]) == ("odd", 1, "IBM")
    assert owner.state["orders"][0]["status"] == "new"


def test_what_is_no_json_is_an_error_of_the_sender(owner) -> None:
    assert owner.raw("POST", "/orders", {**ORDER, "qty": "many"}).status_code == 422
    assert owner.raw("POST", "/orders", {**ORDER, "qty": None}).status_code == 422
    assert owner.raw("POST", "/orders", ["no", "object"]).status_code == 400
    assert owner.raw("POST", "/orders").status_code == 400
    assert owner.raw("GET", "/nothing").status_code == 404
    assert count(owner) == 0


def test_half_a_request_is_no_request(owner) -> None:
    before = len(owner.ask("GET", "/requests"))
    host, port = owner.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))) as one:
        one.sendall(b"POST /v2/orders HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{")
        time.sleep(0.1)
    time.sleep(0.1)
    assert len(owner.ask("GET", "/requests")) == before


# Keys and the rate


def a_desk() -> Desk:
    return Desk(Exchange(Market(), datetime(2013, 2, 28, 15), Decimal(1000)), Journal(None), driven=True)


def test_without_keys_or_with_wrong_ones_nothing_is_told() -> None:
    with served(a_desk(), port=0, keys=("key", "secret")) as addresses:
        url = f"{addresses.url}/v2/account"
        for keys in ({}, {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "other"}):
            answer = requests.get(url, headers=keys, timeout=5)
            assert (answer.status_code, answer.json()) == (401, {"message": "unauthorized."})
        right = {"APCA-API-KEY-ID": "key", "APCA-API-SECRET-KEY": "secret"}
        assert requests.get(url, headers=right, timeout=5).status_code == 200


def test_every_trading_answer_says_how_many_requests_are_left(owner) -> None:
    owner.ask("POST", "/rate", {"limit": 3})
    answers = [owner.raw("GET", "/clock") for _ in range(5)]
    assert [answer.status_code for answer in answers] == [200, 200, 200, 429, 429]
    assert [answer.headers["X-RateLimit-Remaining"] for answer in answers] == ["2", "1", "0", "0", "0"]
    assert {answer.headers["X-RateLimit-Limit"] for answer in answers} == {"3"}
    assert 50 < int(answers[-1].headers["X-RateLimit-Reset"]) - time.time() < 65
    assert answers[-1].json()["code"] == 42910000
    owner.ask("POST", "/rate", {"limit": None})
    assert "X-RateLimit-Limit" not in owner.raw("GET", "/clock").headers


# The file


@pytest.fixture
def broker(tmp_path: Path):
    one = PaperBroker(multiprocessing.get_context("forkserver"), tmp_path / "broker.sqlite")
    one.reset(cash=10_000, multiplier=1, prices={"IBM": 100, "A": 50})
    yield one
    one.stop()


def test_whatever_was_answered_outlives_a_kill(broker: PaperBroker) -> None:
    order = {**ORDER, "limit_price": 99, "client_order_id": "waits"}
    broker.trade("POST", "/orders", order)
    broker.trade("POST", "/orders", {**ORDER, "limit_price": 101, "client_order_id": "fills"})
    broker.ask("POST", "/halts", {"symbol": "A", "on": True})
    before = broker.state
    broker.kill()
    broker.start()
    assert broker.state == before
    with pytest.raises(AssertionError, match="client_order_id must be unique"):
        broker.trade("POST", "/orders", order)


def test_killed_while_orders_pour_in_it_keeps_each_that_it_answered(broker: PaperBroker) -> None:
    answered: list[str] = []

    def pour() -> None:
        number = 0
        while True:
            name = f"order-{number}"
            number += 1
            try:
                broker.trade("POST", "/orders", {**ORDER, "qty": 1, "client_order_id": name})
            except (requests.RequestException, AssertionError):
                return
            answered.append(name)

    thread = threading.Thread(target=pour)
    thread.start()
    time.sleep(0.5)
    broker.kill()
    thread.join()
    broker.start()
    kept = [one["client_order_id"] for one in broker.state["orders"]]
    assert len(answered) > 20
    assert set(answered) <= set(kept)
    assert len(kept) == len(set(kept)) <= len(answered) + 1


def test_a_file_has_one_broker_at_a_time(broker: PaperBroker, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="in use by another paper broker"):
        Journal(tmp_path / "broker.sqlite")


def test_a_file_that_is_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("these are notes\n" * 100)
    with pytest.raises(UserError, match="not a paper broker's file"):
        Journal(tmp_path / "notes.txt")
    assert (tmp_path / "notes.txt").read_text().startswith("these are notes")


def test_the_file_is_for_its_owner_alone(broker: PaperBroker, tmp_path: Path) -> None:
    assert (tmp_path / "broker.sqlite").stat().st_mode & 0o077 == 0


def test_a_port_that_is_taken_is_said_in_a_line() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with (
            pytest.raises(UserError, match=f"ports {port} and {port + 1} cannot be had"),
            served(a_desk(), port=port),
        ):
            pass


def test_it_listens_at_one_address_of_this_machine_alone() -> None:
    with served(a_desk(), port=0) as addresses:
        port = int(addresses.url.rpartition(":")[2])
        with pytest.raises(ConnectionError), socket.create_connection(("127.0.0.2", port), 1):
            pass
