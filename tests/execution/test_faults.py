"""The fault matrix: every row by its name, for buys and sells, one worker and two, on each store.

K: the process is killed. N: the network. A: what the broker answers. O: what becomes of an order. S: the stream. D: the
database. C: clocks, workers, numbers. G: guards. After every case the invariants of `World.check` hold.
"""

import shutil
import time
from contextlib import closing
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import psycopg2
import pytest

from execution.world import BAR, DOWN, MEND, World, emptied
from tradebot.store import open_store

SIDES = pytest.mark.parametrize("side", ["buy", "sell"])
WORKERS = pytest.mark.parametrize("workers", [1, 2])

POST = {"method": "POST", "path": "/v2/orders$"}
LOOKUP = {"method": "GET", "path": "by_client_order_id"}
CANCEL = {"method": "DELETE", "path": "/v2/orders/"}


def answered(status: int, body: Any = "", **headers: str) -> dict[str, Any]:
    return {"status": status, "body": body, "headers": headers}


def only_filled(world: World, name: str) -> None:
    """One order at the broker, filled, and a signal that is executed."""
    assert [one["client_order_id"] for one in world.ours] == [name]
    assert world.order(name).status == "FILLED"
    assert world.signals()[-1][1:] == ("EXECUTED", True)


def released(world: World, name: str, status: str) -> None:
    """Nothing at the broker, nothing reserved."""
    order = world.order(name)
    assert (order.status, order.reserved, world.ours) == (status, 0, [])


def sent_once(world: World, name: str, workers: int) -> None:
    """One order was asked for: once, or by workers that started at the same moment, each under the one id.

    A worker that starts sends again what another is sending and the broker does not have yet; the id makes it one order.
    """
    posts = [one["body"]["client_order_id"] for one in world.broker.posts]
    assert set(posts) == {name}
    assert len(posts) <= workers


def until_stale(world: World) -> None:
    """The next close: the signal's bar is no longer the newest."""
    world.broker.ask("POST", "/clock", {"now": "2013-02-28T21:00:01"})


def until_held_no_longer(world: World) -> None:
    """After the session that a late order could still have reached."""
    world.broker.ask("POST", "/clock", {"now": "2013-03-01T21:16:00"})


# K: killed


@SIDES
@WORKERS
@pytest.mark.parametrize(("row", "step"), [("K1", "before T1"), ("K1", "in T1")])
def test_killed_before_anything_is_committed(world: World, side, workers, row, step) -> None:
    name = world.arrange(side)
    world.killed_at(step)
    assert world.order(name) is None
    assert world.signals()[-1][1:] == ("NEW", False)
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["K2"])
def test_killed_with_an_intent(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.killed_at("after T1")
    assert world.order(name).status == "INTENT"
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["K2"])
def test_killed_with_an_intent_that_grows_old(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.killed_at("after T1")
    until_stale(world)
    world.settle(workers)
    released(world, name, "NOT_SENT")


@SIDES
@WORKERS
@pytest.mark.parametrize(("row", "step"), [("K3", "after T2"), ("K3", "before POST")])
def test_killed_before_the_request(world: World, side, workers, row, step) -> None:
    name = world.arrange(side)
    world.killed_at(step)
    assert world.order(name).status == "SUBMITTING"
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["K3"])
def test_killed_before_the_request_and_it_grows_old(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.killed_at("before POST")
    until_stale(world)
    world.run(workers)
    assert world.order(name).reserved > 0, "what may still arrive stays reserved"
    until_held_no_longer(world)
    world.settle(workers)
    released(world, name, "NOT_SENT")


@WORKERS
@pytest.mark.parametrize("row", ["K3"])
def test_a_buy_of_unknown_fate_does_not_hold_up_an_exit(world: World, workers, row) -> None:
    world.hold(shares=10)
    world.open_books()
    bought = world.signal("buy")
    world.killed_at("before POST")
    until_stale(world)
    sold = world.signal("sell", bar=datetime(2013, 2, 28))
    world.run(workers)
    world.broker.ask("POST", "/clock", {"to": "open"})
    world.broker.ask("POST", "/prices", {"A": 100})
    world.run(workers)
    assert (world.order(sold).status, world.order(sold).filled) == ("FILLED", 10)
    assert world.order(bought).reserved > 0
    world.check()
    until_held_no_longer(world)
    world.settle(workers)
    assert world.order(bought).status == "NOT_SENT"


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["K4"])
def test_killed_before_the_answer_is_read(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.broker.faults({**POST, "when": "after", "action": {"hang": 5}})
    worker = world.worker("before POST", TRADEBOT_EXECUTION_DEADLINE="5")
    assert worker.at() == "before POST"
    worker.go()
    while not world.ours:
        pass
    worker.kill()
    world.check()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize(
    ("row", "step"),
    [
        ("K5", "after POST"),
        ("K5", "before T3"),
        ("K6", "after T3"),
        ("K7", "before T4"),
        ("K7", "in T4"),
        ("K7", "after T4"),
    ],
)
def test_killed_after_the_order_exists(world: World, side, workers, row, step) -> None:
    name = world.arrange(side)
    world.killed_at(step, others=workers - 1)
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["K8"])
def test_killed_between_partial_fills(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.run()
    for shares in (7, 11):
        world.broker.ask("POST", f"/orders/{name}/fill", {"qty": shares, "price": 100})
        world.killed_at("after T4")
    assert (world.order(name).status, world.order(name).filled) == ("PARTIALLY_FILLED", 18)
    world.broker.ask("POST", f"/orders/{name}/fill", {"price": 100})
    world.settle(workers)
    only_filled(world, name)


@WORKERS
@pytest.mark.parametrize(("row", "step"), [("K9", "before cancel"), ("K9", "after cancel")])
def test_killed_around_a_cancel(world: World, workers, row, step) -> None:
    name = world.arrange("buy")
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.run()
    world.broker.ask("POST", f"/orders/{name}/fill", {"qty": 5, "price": 100})
    (world.home / "KILL").touch()
    world.killed_at(step)
    world.settle(workers)
    assert (world.order(name).status, world.order(name).filled) == ("CANCELED", 5)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["K10"])
def test_killed_at_every_step_of_the_recovery(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    for step in (
        "in T1",
        "after T1",
        "after T2",
        "before POST",
        "before T3",
        "after T3",
        "before T4",
        "in T4",
        "after T4",
    ):
        world.killed_at(step, others=0)
    world.settle(workers)
    only_filled(world, name)


# N: the network


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["N1"])
def test_the_connection_is_refused(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    worker = world.worker("before POST", "after POST")
    assert worker.at() == "before POST"
    world.broker.kill()
    worker.go()
    assert worker.at() == "after POST"
    world.broker.start()
    worker.go()
    worker.end()
    world.settle(workers)
    only_filled(world, name)


BROKEN = {
    "N2 a time-out": {"hang": 2},
    "N5 a reset": {"reset": True},
    "N5 a truncated answer": {"truncate": True},
    "N5 a slow drip": {"drip": 0.05},
    "N6 malformed JSON": answered(200, "{nonsense"),
    "N6 an empty answer": {"empty": True},
    "N6 an empty object": answered(200, {}),
    "N6 a page of HTML": answered(200, "<html>maintenance</html>"),
    "N6 a redirect": answered(301, "", Location="http://127.0.0.1:9/"),
    "A3 500": answered(500, {"message": "internal server error occurred"}),
    "A3 502": answered(502, "<html>bad gateway</html>"),
    "A3 503": answered(503, ""),
    "A3 504": answered(504, {"code": 50410000, "message": "gateway timeout"}),
}


@SIDES
@WORKERS
@pytest.mark.parametrize("when", ["before", "after"])
@pytest.mark.parametrize("row", list(BROKEN))
def test_an_answer_that_says_nothing(world: World, side, workers, when, row) -> None:
    "`after`: the broker has accepted the order; `before`: it never saw it (N3)."
    name = world.arrange(side)
    world.broker.faults({**POST, "when": when, "action": BROKEN[row]})
    assert world.run(workers) == 0
    world.check()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["N4"])
def test_a_request_that_arrives_after_a_lookup_found_nothing(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.broker.faults({**POST, "action": {"late": 8}})
    worker = world.worker("before POST", TRADEBOT_EXECUTION_DEADLINE="0.3")
    assert worker.at() == "before POST"
    worker.go()
    while not world.broker.posts:
        pass
    worker.kill()
    until_stale(world)
    world.run(workers)
    order = world.order(name)
    assert (order.status, world.ours) == ("SUBMITTING", [])
    assert order.reserved > 0, "a request may still be on its way"
    while not world.ours:
        pass
    world.broker.ask("POST", "/clock", {"to": "open"})
    world.broker.ask("POST", "/prices", {"A": 100})
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["N7"])
def test_an_unknown_status_and_unknown_fields(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    odd = {"edit": {"status": "held_for_review", "a_field_of_next_year": {"x": [1]}}}
    world.broker.faults({**POST, "when": "after", "action": odd}, {**LOOKUP, "when": "after", "action": odd})
    world.run(workers)
    assert world.order(name).status in ("ACKED", "PARTIALLY_FILLED", "FILLED")
    world.settle(workers)
    only_filled(world, name)


# A: what the broker answers


@SIDES
@WORKERS
@pytest.mark.parametrize(
    ("row", "headers"),
    [
        ("A1 Retry-After", {"Retry-After": "0.3"}),
        ("A1 neither", {}),
        ("A1 Reset", {"X-RateLimit-Reset": "soon"}),
    ],
)
def test_the_rate_is_exceeded(world: World, side, workers, row, headers) -> None:
    name = world.arrange(side)
    if headers.get("X-RateLimit-Reset"):
        headers = {"X-RateLimit-Reset": str(time.time() + 0.3)}
    refusal = answered(429, {"code": 42910000, "message": "too many requests"}, **headers)
    world.broker.faults({**POST, "action": refusal})
    world.run(workers)
    world.settle(workers)
    only_filled(world, name)
    assert len(world.broker.posts) <= 2 + workers


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["A2"])
def test_the_rate_is_exceeded_for_ever(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    refusal = answered(429, {"code": 42910000, "message": "too many requests"}, **{"Retry-After": "0.1"})
    world.broker.faults({**POST, "times": -1, "action": refusal})
    worker = world.worker(way="loop", TRADEBOT_EXECUTION_DEADLINE="0.2")
    while len(world.broker.posts) < 3:
        pass
    posts = len(world.broker.posts)
    time.sleep(0.5)
    assert len(world.broker.posts) - posts <= 6, "it spins"
    world.broker.clear()
    while not world.ours:
        pass
    worker.kill()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["A4 ours"])
def test_our_own_duplicate_is_adopted(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    missing = answered(404, {"code": 40410000, "message": "order not found"})
    # The order exists, its answer is lost, and the first lookup says that it doesn't: it is sent again.
    world.broker.faults({**POST, "when": "after", "action": answered(504)}, {**LOOKUP, "action": missing})
    world.run()
    world.settle(workers)
    only_filled(world, name)
    assert len(world.broker.posts) == 2


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["A4 not ours"])
def test_somebody_elses_order_under_our_id_is_quarantined(world: World, side, workers, row) -> None:
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    if side == "sell":
        world.hold()
    world.open_books()
    name = world.signal(side)
    worker = world.worker("after T2")
    assert worker.at() == "after T2"
    other = {
        "symbol": "A",
        "side": side,
        "qty": "3",
        "type": "market",
        "time_in_force": "day",
        "client_order_id": name,
    }
    world.broker.trade("POST", "/orders", other)
    worker.go()
    worker.end()
    order = world.order(name)
    assert order.status == "QUARANTINED"
    assert "quantity" in order.reason
    assert order.reserved > 0
    (halted,) = world.rows("SELECT halted FROM account")[0]
    assert name in halted
    world.run(workers)
    assert len(world.ours) == 1
    assert world.signals()[-1][1] == "QUARANTINED"


REFUSED = {
    "A5 the code of a duplicate and other words": answered(
        422, {"code": 40010001, "message": "limit price is odd"}
    ),
    "A6 buying power": answered(403, {"code": 40310000, "message": "insufficient buying power"}),
    "A7 oversell": answered(
        403, {"code": 40310000, "message": "insufficient qty available for order", "available": "0"}
    ),
    "A7 wash trade": answered(403, {"code": 40310000, "message": "potential wash trade detected"}),
    "a price between ticks": answered(422, {"code": 42210000, "message": "sub-penny increment"}),
}


@SIDES
@WORKERS
@pytest.mark.parametrize("row", list(REFUSED))
def test_a_refusal_releases_and_is_not_repeated(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.broker.faults({**POST, "times": -1, "action": REFUSED[row]})
    world.run(workers)
    world.settle(workers)
    released(world, name, "REJECTED")
    assert world.signals()[-1][1:] == ("SKIPPED", True)
    sent_once(world, name, workers)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["A8"])
def test_wrong_keys_stop_everything(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.broker.faults(
        {"times": -1, "path": "/v2/orders", "action": answered(401, {"message": "unauthorized."})}
    )
    assert world.run(workers) == MEND
    assert world.order(name) is None or world.order(name).status in ("INTENT", "UNKNOWN", "SUBMITTING")
    world.broker.clear()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["A9"])
def test_a_lookup_that_finds_nothing_at_first(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    missing = answered(404, {"code": 40410000, "message": "order not found"})
    world.broker.faults(
        {**POST, "when": "after", "action": {"hang": 1}}, {**LOOKUP, "times": 2, "action": missing}
    )
    world.run(workers)
    assert world.order(name).status != "NOT_SENT"
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["A10"])
def test_a_lookup_that_fails_concludes_nothing(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.broker.faults(
        {**POST, "when": "after", "action": {"hang": 1}}, {**LOOKUP, "times": -1, "action": answered(500)}
    )
    world.run(workers)
    assert world.order(name).status == "UNKNOWN"
    assert world.order(name).reserved > 0
    world.broker.clear()
    world.broker.ask("POST", f"/orders/{name}/fill", {"price": 100})
    world.settle(workers)
    only_filled(world, name)


# O: what becomes of an order


@SIDES
@WORKERS
@pytest.mark.parametrize(
    ("row", "end", "status"), [("O1", "cancel", "CANCELED"), ("O2", "expire", "EXPIRED")]
)
def test_a_part_is_filled_and_the_rest_is_not(world: World, side, workers, row, end, status) -> None:
    name = world.arrange(side)
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.run(workers)
    world.broker.ask("POST", f"/orders/{name}/fill", {"qty": 13, "price": 100})
    world.broker.ask("POST", f"/orders/{name}/{end}")
    world.settle(workers)
    order = world.order(name)
    assert (order.status, order.filled, order.reserved) == (status, 13, 0)


@WORKERS
@pytest.mark.parametrize("row", ["O3"])
def test_a_cancel_races_a_fill(world: World, workers, row) -> None:
    name = world.arrange("buy")
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.run()
    (world.home / "KILL").touch()
    worker = world.worker("before cancel")
    assert worker.at() == "before cancel"
    world.broker.ask("POST", f"/orders/{name}/fill", {"price": 100})
    worker.go()
    worker.end()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("row", ["O4"])
def test_accepted_and_rejected_later(world: World, side, workers, row) -> None:
    name = world.arrange(side)
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.run(workers)
    world.broker.ask("POST", f"/orders/{name}/reject")
    world.settle(workers)
    assert (world.order(name).status, world.order(name).reserved) == ("REJECTED", 0)
    sent_once(world, name, workers)


@SIDES
@WORKERS
@pytest.mark.parametrize(("row", "how"), [("O5", "overnight"), ("O5", "halted")])
def test_an_order_that_waits_is_not_sent_again(world: World, side, workers, row, how) -> None:
    if how == "overnight":
        world.broker.ask("POST", "/clock", {"now": "2013-02-27T21:01:00"})
    else:
        world.broker.ask("POST", "/halts", {"symbol": "A", "on": True})
    if side == "sell":
        world.hold()
        world.open_books()
    name = world.signal(side)
    for _ in range(3):
        world.run(workers)
    assert world.order(name).status == "ACKED"
    sent_once(world, name, workers)
    world.broker.ask("POST", "/halts", {"symbol": "A", "on": False})
    if how == "overnight":
        world.broker.ask("POST", "/clock", {"to": "open"})
    world.broker.ask("POST", "/prices", {"A": 100})
    world.settle(workers)
    only_filled(world, name)


@WORKERS
@pytest.mark.parametrize("row", ["O6"])
def test_a_gap_beyond_the_limit_costs_nothing(world: World, workers, row) -> None:
    world.broker.ask("POST", "/clock", {"now": "2013-02-27T21:01:00"})
    name = world.signal("buy")
    world.run(workers)
    world.broker.ask("POST", "/prices", {"A": 140})
    world.broker.ask("POST", "/clock", {"to": "open"})
    world.broker.ask("POST", "/prices", {"A": 141})
    world.run(workers)
    assert world.order(name).status == "ACKED"
    world.broker.ask("POST", "/clock", {"to": "close"})
    world.settle(workers)
    assert (world.order(name).status, world.order(name).filled) == ("EXPIRED", 0)


@SIDES
@WORKERS
@pytest.mark.parametrize(("row", "what"), [("O7", "deposit"), ("O7", "manual trade")])
def test_what_the_owner_does_by_hand_is_in_the_statement_and_in_our_books(
    world: World, side, workers, row, what
) -> None:
    name = world.arrange(side)
    world.run(workers)
    if what == "deposit":
        world.broker.ask("POST", "/cash", {"amount": 500})
    else:
        world.broker.ask("POST", "/cash", {"amount": 5000})
        world.broker.ask("POST", "/trades", {"symbol": "B", "side": "buy", "qty": 10, "price": 50})
    world.settle(workers)
    only_filled(world, name)


@WORKERS
@pytest.mark.parametrize("row", ["O7"])
def test_a_price_of_many_digits_adds_up_all_the_same(world: World, workers, row) -> None:
    world.open_books()
    for price in ("10.66666666666666666666", "0.00049999999", "99.9999995"):
        trade = {"symbol": "B", "side": "buy", "qty": 7, "price": price}
        world.broker.ask("POST", "/trades", trade)
    world.run(workers)
    world.settle(workers)
    assert world.rows("SELECT quantity FROM positions WHERE symbol = 'B'") == [(21,)]


@WORKERS
@pytest.mark.parametrize("row", ["O7"])
def test_what_nothing_explains_halts_until_somebody_has_looked(world: World, workers, row) -> None:
    world.open_books()
    world.broker.ask("POST", "/account", {"cash": "9000"})
    name = world.signal("buy")
    world.run(workers)
    ((halted,),) = world.rows("SELECT halted FROM account")
    assert "cash is 10,000.00 here and 9,000.00 there" in halted
    assert world.order(name) is None
    world.broker.ask("POST", "/account", {})
    world.settle(workers)
    only_filled(world, name)


@WORKERS
@pytest.mark.parametrize(("row", "told"), [("O8", True), ("O8", False)])
def test_a_split_multiplies_what_is_held(world: World, workers, row, told) -> None:
    from tradebot.prices import actions_frame

    world.hold(shares=40)
    world.open_books()
    world.store.write_actions(actions_frame([("A", "2013-02-28", "split", 2.0)]))
    world.broker.ask("POST", "/splits", {"symbol": "A", "ratio": 2, "line": told})
    world.settle(workers)
    assert world.rows("SELECT quantity FROM positions WHERE symbol = 'A'") == [(80,)]
    with world.store.engine.transaction("market", write=True) as transaction:
        transaction.rows("DELETE FROM corporate_actions")


@WORKERS
@pytest.mark.parametrize(
    ("row", "ratio", "limit", "status"),
    [("O8", 1.5, 4020, "ACKED"), ("O8", 2.0, 3015, "ACKED"), ("O8", 0.5, 12060, "CANCELED")],
)
def test_a_split_scales_an_order_that_waits(world: World, workers, row, ratio, limit, status) -> None:
    "Of one share: its limit changes, whether or not the split makes it another number of shares."
    from tradebot.prices import actions_frame

    world.broker.ask("POST", "/settings", {"fills": "manual"})
    name = world.signal("buy", price=6000)
    world.run(workers)
    assert (world.order(name).quantity, world.order(name).limit_price) == (1, 6030)
    world.store.write_actions(actions_frame([("A", "2013-02-28", "split", ratio)]))
    world.broker.ask("POST", "/splits", {"symbol": "A", "ratio": ratio})
    world.settle(workers)
    order = world.order(name)
    assert (order.quantity, order.limit_price, order.status) == (max(ratio // 1, 1), limit, status)
    assert order.reserved == (order.quantity * limit if status == "ACKED" else 0)
    with world.store.engine.transaction("market", write=True) as transaction:
        transaction.rows("DELETE FROM corporate_actions")


@WORKERS
@pytest.mark.parametrize("row", ["O8"])
def test_an_order_that_no_known_split_made_so_halts(world: World, workers, row) -> None:
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    name = world.signal("buy")
    world.run(workers)
    world.broker.ask("POST", "/splits", {"symbol": "A", "ratio": 2})
    world.run(workers)
    ((halted,),) = world.rows("SELECT halted FROM account")
    assert halted == f"A: order {name} is 198 shares at 50.25 there, 99 shares at 100.5 here"
    world.check()


# S: the stream


@SIDES
@WORKERS
@pytest.mark.parametrize(
    ("row", "command"),
    [
        ("S1", {"hold": True}),
        ("S2", {"repeat": 3}),
        ("S2", {"reverse": 3}),
        ("S3", {"mute": True}),
        ("S3", {"drop": True}),
        ("S4", {"bad_frame": True}),
    ],
)
def test_whatever_the_stream_does_a_fill_is_booked_once(world: World, side, workers, row, command) -> None:
    name = world.arrange(side)
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    loops = [world.worker(way="loop") for _ in range(workers)]
    while not world.ours:
        pass
    world.broker.ask("POST", "/stream", command)
    world.broker.ask("POST", f"/orders/{name}/fill", {"qty": 9, "price": 100})
    world.broker.ask("POST", "/stream", command)
    world.broker.ask("POST", f"/orders/{name}/fill", {"price": 100})
    deadline = datetime.now() + timedelta(seconds=60)
    while world.order(name).status != "FILLED":
        assert datetime.now() < deadline, "polling did not find the fill"
    for loop in loops:
        loop.kill()
    world.broker.ask("POST", "/stream", {"mute": False, "hold": False})
    world.settle(workers)
    only_filled(world, name)


# D: the database


class Database:
    """The world's database, taken away and given back."""

    def __init__(self, world: World, request: pytest.FixtureRequest):
        self.world, self.embedded = world, world.url.startswith("duckdb")
        if not self.embedded:
            self.admin = request.getfixturevalue("postgres").url(user="owner")
            self.name = world.url.rpartition("/")[2].partition("?")[0]

    def away(self) -> None:
        if self.embedded:
            ledger = Path(self.world.url.removeprefix("duckdb:///")) / "ledger.duckdb"
            ledger.rename(ledger.with_suffix(".away"))
        else:
            from servers.postgres import execute

            stop = (
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity "
                f"WHERE backend_type = 'client backend' AND datname = '{self.name}'"
            )
            execute(self.admin, f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS false", stop)

    def back(self) -> None:
        if self.embedded:
            ledger = Path(self.world.url.removeprefix("duckdb:///")) / "ledger.duckdb"
            ledger.with_suffix(".away").rename(ledger)
        else:
            from servers.postgres import execute

            execute(self.admin, f"ALTER DATABASE {self.name} ALLOW_CONNECTIONS true")
            self.world.store = open_store(self.world.url)


@SIDES
@WORKERS
@pytest.mark.parametrize(
    ("row", "step"), [("D1", "before T1"), ("D1", "after T1"), ("D2", "before T3"), ("D2", "before T4")]
)
def test_the_database_goes_away(world: World, side, workers, row, step, request) -> None:
    name = world.arrange(side)
    database = Database(world, request)
    worker = world.worker(step)
    assert worker.at() == step
    posts = len(world.broker.posts)
    database.away()
    worker.go()
    assert worker.end() == DOWN
    database.back()
    if row == "D1":
        assert len(world.broker.posts) == posts == 0, "a request left without its row"
    world.check()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize(("row", "step"), [("D3", "in T1"), ("D3", "in T4")])
def test_a_commit_whose_fate_nobody_knows(world: World, side, workers, row, step, request) -> None:
    "The connection is cut, or the file taken away, just before the commit."
    name = world.arrange(side)
    database = Database(world, request)
    worker = world.worker(step)
    assert worker.at() == step
    database.away()
    worker.go()
    worker.end()
    database.back()
    world.check()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("world", ["embedded"], indirect=True)
@pytest.mark.parametrize(
    ("row", "step"), [("D4", "before T1"), ("D4", "after T1"), ("D4", "before T3"), ("D4", "before T4")]
)
def test_the_disk_is_full(world: World, side, workers, row, step) -> None:
    "No file of the worker may grow from that step on."
    name = world.arrange(side)
    assert world.worker(DISK_FULL=step).end() == DOWN
    assert len(world.broker.posts) == (0 if step.endswith("T1") else 1)
    world.check()
    world.settle(workers)
    only_filled(world, name)


@SIDES
@WORKERS
@pytest.mark.parametrize("world", ["postgres"], indirect=True)
@pytest.mark.parametrize("row", ["D4"])
def test_a_deadlock_at_the_decision(world: World, side, workers, row) -> None:
    """Somebody locks the signal, then the account; the worker the account, then the signal.

    PostgreSQL ends the one whose `deadlock_timeout` passes while both wait. That is the worker, if
    this test is at its second lock within that time (tests/servers/postgres.py makes it long), but
    well after the worker began to wait: of two that began together a busy machine may look at either.
    """
    name = world.arrange(side)
    worker = world.worker("before T1")
    assert worker.at() == "before T1"
    waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
    with (
        closing(psycopg2.connect(world.url)) as other,
        other.cursor() as cursor,
        closing(psycopg2.connect(world.url)) as watch,
        watch.cursor() as look,
    ):
        watch.autocommit = True  # within a transaction the view would stay as it was first seen
        cursor.execute("SELECT 1 FROM signals FOR UPDATE")
        worker.go()
        while look.execute(waiting) or not look.fetchall():
            time.sleep(0.005)
        time.sleep(2)
        cursor.execute("UPDATE account SET reserved = reserved")
        assert world.broker.posts == []
        other.rollback()
    assert worker.end() == DOWN
    world.settle(workers)
    only_filled(world, name)
    sent_once(world, name, workers)


@SIDES
@WORKERS
@pytest.mark.parametrize(("row", "when"), [("D5", "wiped"), ("D5", "restored old")])
def test_a_database_that_was_lost_buys_nothing_again(
    world: World, side, workers, row, when, tmp_path
) -> None:
    name = world.arrange(side)
    kept = keep(world, tmp_path)
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.run()
    world.broker.ask("POST", f"/orders/{name}/fill", {"qty": 10, "price": 100})
    if when == "wiped":
        emptied(world.store)
        assert world.signal(side) == name
    else:
        bring_back(world, kept)
    world.finals.clear()
    world.run(workers)
    world.broker.ask("POST", f"/orders/{name}/fill", {"price": 100})
    world.settle(workers)
    assert [one["client_order_id"] for one in world.ours] == [name]
    sent_once(world, name, workers)
    assert world.signals()[-1][1:] == ("EXECUTED", True)


def keep(world: World, folder: Path) -> Any:
    if world.url.startswith("duckdb"):
        shutil.copytree(world.url.removeprefix("duckdb:///"), folder / "kept")
        return folder / "kept"
    return {
        table: world.rows(f"SELECT * FROM {table}")
        for table in ("account", "entries", "positions", "signals")
    }


def bring_back(world: World, kept: Any) -> None:
    if world.url.startswith("duckdb"):
        folder = Path(world.url.removeprefix("duckdb:///"))
        shutil.copy(kept / "ledger.duckdb", folder / "ledger.duckdb")
        (folder / "ledger.duckdb.wal").unlink(missing_ok=True)
        return
    import json

    emptied(world.store)
    with world.store.engine.transaction("ledger", write=True) as transaction:
        for table, rows in kept.items():
            for row in rows:
                values = {f"v{n}": json.dumps(v) if isinstance(v, dict) else v for n, v in enumerate(row)}
                transaction.rows(
                    f"INSERT INTO {table} VALUES ({', '.join('$' + name for name in values)})", **values
                )


# C: clocks, workers, numbers


@SIDES
@WORKERS
@pytest.mark.parametrize(
    ("row", "now", "fresh"),
    [
        ("C1 the eve of a half day", "2012-07-03T16:59:00", datetime(2012, 7, 2)),
        ("C1 after a half day", "2012-07-03T17:01:00", datetime(2012, 7, 3)),
        ("C1 a holiday", "2012-07-04T15:00:00", datetime(2012, 7, 3)),
        ("C1 the Monday after daylight saving began", "2012-03-12T13:31:00", datetime(2012, 3, 9)),
        ("C1 before its close at 20:00", "2012-03-12T19:59:00", datetime(2012, 3, 9)),
    ],
)
def test_what_is_news_is_said_by_the_exchange_s_calendar(
    world: World, side, workers, row, now, fresh
) -> None:
    world.broker.reset(cash=10_000, multiplier=1, now=now, prices={"A": 100})
    if side == "sell":
        world.hold()
        world.open_books()
    stale = world.signal(side, bar=fresh - timedelta(days=7))
    early = world.signal(side, bar=fresh + timedelta(days=7))
    name = world.signal(side, bar=fresh)
    world.run(workers)
    world.check(quiet=True)
    assert world.order(name).status in ("ACKED", "FILLED")
    assert world.order(stale) is None
    assert world.order(early) is None
    assert [state for _, state, _ in world.signals()] == ["EXPIRED", "NEW", "EXECUTED"]


@pytest.mark.parametrize(("row", "driven"), [("C1 an hour ahead", False)])
def test_a_clock_that_is_off_blocks(world: World, row, driven) -> None:
    world.broker.reset(cash=10_000, multiplier=1, now="2013-02-28T15:00:00", driven=False, prices={"A": 100})
    name = world.signal("buy")
    assert world.run() == DOWN
    assert world.order(name) is None
    assert world.broker.posts == []
    world.broker.reset(driven=True)


@SIDES
@pytest.mark.parametrize("row", ["C2"])
def test_a_worker_that_stood_still_does_not_send_what_another_has_sent(world: World, side, row) -> None:
    name = world.arrange(side)
    frozen = world.worker("after T2")
    assert frozen.at() == "after T2"
    frozen.freeze()
    assert world.run() == 0
    assert world.order(name).status == "FILLED"
    time.sleep(1.0)
    frozen.thaw()
    frozen.go()
    frozen.end()
    world.settle()
    only_filled(world, name)
    assert len(world.broker.posts) == 1


@SIDES
@pytest.mark.parametrize("row", ["C2"])
def test_a_worker_that_stood_still_does_not_book_what_another_has_booked(world: World, side, row) -> None:
    "It has the lines of the statement in hand; by the time it comes to the second, another has booked both."
    name = world.arrange(side)
    world.broker.ask("POST", "/settings", {"fills": "manual"})
    world.run()
    world.broker.ask("POST", f"/orders/{name}/fill", {"qty": 9, "price": 100})
    world.broker.ask("POST", f"/orders/{name}/fill", {"price": 100})
    slow = world.worker("before T4")
    assert slow.at() == "before T4"
    world.run()
    assert world.order(name).status == "FILLED"
    slow.go()
    assert slow.end() == 0
    world.settle()
    only_filled(world, name)


@pytest.mark.parametrize("row", ["C3"])
def test_four_workers_eight_signals_one_balance(world: World, row) -> None:
    names = [world.signal("buy", symbol) for symbol in "ABCDEFGH"]
    world.settings = {"TRADEBOT_RISK_SIZING": "fraction", "TRADEBOT_RISK_FRACTION": "0.3"}
    world.run(4)
    world.check()
    world.settle(4)
    sent = [name for name in names if world.order(name)]
    assert len(sent) == 4
    assert sum(Decimal(one["filled_qty"]) * 100 for one in world.ours) <= 10_000


@WORKERS
@pytest.mark.parametrize(
    ("row", "shown", "buys"),
    [
        ("C4 four times the equity", {"equity": "40000", "buying_power": "40000"}, True),
        ("C4 no buying power", {"buying_power": "0"}, False),
        ("C4 cash of 0", {"cash": "0"}, False),
        ("C4 negative cash", {"cash": "-500", "buying_power": "0"}, False),
    ],
)
def test_odd_numbers_of_the_broker(world: World, workers, row, shown, buys) -> None:
    world.open_books()
    world.broker.ask("POST", "/account", shown)
    name = world.signal("buy")
    world.run(workers)
    world.check()
    assert (world.order(name) is not None) == buys
    if buys:
        assert world.order(name).quantity * world.order(name).limit_price <= 10_000


# G: guards


@SIDES
@WORKERS
@pytest.mark.parametrize(("row", "step"), [("G1", "after T1"), ("G1", "after T2")])
@pytest.mark.parametrize("how", ["file", "row"])
def test_the_kill_switch_between_decision_and_request(world: World, side, workers, row, step, how) -> None:
    name = world.arrange(side)
    worker = world.worker(step)
    assert worker.at() == step
    if how == "file":
        (world.home / "KILL").touch()
    else:
        from tradebot.kill_switch import turn_on

        turn_on(world.store, world.home / "elsewhere", "test", datetime(2013, 2, 28))
    worker.go()
    worker.end()
    world.settle(workers)
    if side == "buy":
        released(world, name, "NOT_SENT")
        assert world.broker.posts == []
    else:
        only_filled(world, name)


@SIDES
@pytest.mark.parametrize("row", ["G2"])
def test_a_dry_run_asks_nobody_and_changes_nothing(world: World, side, row) -> None:
    from tradebot.config import load_config
    from tradebot.executor import dry_run

    world.arrange(side)
    world.broker.ask("DELETE", "/requests")
    before = world.rows("SELECT * FROM signals")
    done = dry_run(load_config(world.home, world.environment), world.store, datetime(2013, 2, 28, 15))
    assert [(choice.state, choice.signal.side) for choice in done.choices] == [("CLAIMED", side)]
    assert world.broker.requests == []
    assert world.rows("SELECT * FROM signals") == before
    assert world.orders() == []


@WORKERS
@pytest.mark.parametrize("row", ["G3"])
def test_a_loss_limit_reached_inside_a_batch(world: World, workers, row) -> None:
    world.hold("H", 50)
    world.settings = {
        "TRADEBOT_RISK_SIZING": "fraction",
        "TRADEBOT_RISK_FRACTION": "0.1",
        "TRADEBOT_RISK_MAX_DAILY_LOSS": "0.05",
    }
    world.open_books()
    names = [world.signal("buy", symbol) for symbol in "ABC"]
    worker = world.worker("after T3")
    assert worker.at() == "after T3"
    world.broker.ask("POST", "/prices", {"H": 60})
    worker.go()
    worker.end()
    world.settle(workers)
    assert [world.order(name).status for name in names] == ["FILLED", "NOT_SENT", "NOT_SENT"]
    assert "max_daily_loss" in world.order(names[1]).reason


@WORKERS
@pytest.mark.parametrize("row", ["I9"])
def test_ten_years_of_old_signals_send_nothing(world: World, workers, row) -> None:
    for number in range(60):
        world.signal("buy", bar=BAR - timedelta(days=60 * number + 1))
    world.run(workers)
    assert world.broker.posts == []
    assert {state for _, state, _ in world.signals()} == {"EXPIRED"}
