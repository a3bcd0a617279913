"""alpaca-py's own clients, unmodified, against the local paper broker: each row of what Alpaca promises, and of what it means."""

import threading
import time
from datetime import date
from typing import Any

import pytest
from alpaca.common.exceptions import APIError
from alpaca.data.requests import StockBarsRequest, StockLatestQuoteRequest, StockLatestTradeRequest
from alpaca.data.timeframe import TimeFrame
from alpaca.trading.enums import OrderSide, OrderStatus, QueryOrderStatus, TimeInForce
from alpaca.trading.requests import (
    ClosePositionRequest,
    GetCalendarRequest,
    GetOrdersRequest,
    LimitOrderRequest,
    MarketOrderRequest,
)
from alpaca.trading.stream import TradingStream

BUY, SELL, DAY, GTC = OrderSide.BUY, OrderSide.SELL, TimeInForce.DAY, TimeInForce.GTC


def market(symbol: str, qty: float, side: OrderSide = BUY, **more: Any) -> MarketOrderRequest:
    return MarketOrderRequest(symbol=symbol, qty=qty, side=side, time_in_force=DAY, **more)


def limit(symbol: str, qty: float, price: float, side: OrderSide = BUY, **more: Any) -> LimitOrderRequest:
    return LimitOrderRequest(symbol=symbol, qty=qty, side=side, time_in_force=DAY, limit_price=price, **more)


def refusal(call, *words: Any) -> APIError:
    with pytest.raises(APIError) as refused:
        call(*words)
    return refused.value


# The calls


def test_the_account(client, owner) -> None:
    account = client.get_account()
    assert (account.status, account.currency, account.multiplier) == ("ACTIVE", "USD", "4")
    assert (account.cash, account.equity, account.last_equity) == ("100000", "100000", "100000")
    assert account.id == client.get_account().id
    assert account.account_number.startswith("PA")


def test_an_order_for_the_market_fills_while_it_is_open(client) -> None:
    order = client.submit_order(market("IBM", 10, client_order_id="mine"))
    assert (order.client_order_id, order.symbol, order.side, order.qty) == ("mine", "IBM", BUY, "10")
    assert (order.time_in_force, order.extended_hours, order.asset_class) == (DAY, False, "us_equity")
    found = client.get_order_by_id(order.id)
    assert (found.status, found.filled_qty) == (OrderStatus.FILLED, "10")
    assert float(found.filled_avg_price) * 10 == pytest.approx(100_000 - float(client.get_account().cash))
    assert found.submitted_at == found.created_at <= found.filled_at == found.updated_at


@pytest.mark.parametrize("price", [12.34, "12.34"])
def test_a_price_may_be_a_number_or_a_string(owner, price) -> None:
    body = {"symbol": "IBM", "qty": "3", "side": "buy", "type": "limit", "time_in_force": "day"}
    answer = owner.raw("POST", "/orders", {**body, "limit_price": price})
    assert (answer.status_code, answer.json()["limit_price"], answer.json()["status"]) == (
        200,
        "12.34",
        "new",
    )


def test_an_order_of_dollars_is_refused(owner) -> None:
    body = {"symbol": "IBM", "notional": 100, "side": "buy", "type": "market", "time_in_force": "day"}
    answer = owner.raw("POST", "/orders", body)
    assert (answer.status_code, answer.json()["code"]) == (422, 42210000)


def test_an_order_is_found_by_its_client_s_id(client) -> None:
    order = client.submit_order(limit("IBM", 1, 1.0, client_order_id="one"))
    assert client.get_order_by_client_id("one").id == order.id
    missing = refusal(client.get_order_by_client_id, "two")
    assert (missing.status_code, missing.code) == (404, 40410000)


def test_an_order_that_nobody_knows_is_not_found(client) -> None:
    missing = refusal(client.get_order_by_id, "11111111-1111-1111-1111-111111111111")
    assert (missing.status_code, missing.code) == (404, 40410000)


def test_orders_are_listed_by_what_is_asked_for(client, owner) -> None:
    first = client.submit_order(limit("IBM", 1, 1.0))
    owner.ask("POST", "/clock", {"seconds": 60})
    second = client.submit_order(limit("AAPL", 1, 1.0))
    owner.ask("POST", "/clock", {"seconds": 60})
    third = client.submit_order(market("MSFT", 1))

    def listed(**wanted: Any) -> list[Any]:
        return [order.id for order in client.get_orders(GetOrdersRequest(**wanted))]

    every = QueryOrderStatus.ALL
    assert [order.id for order in client.get_orders()] == [second.id, first.id]
    assert listed(status=every) == [third.id, second.id, first.id]
    assert listed(status=QueryOrderStatus.CLOSED) == [third.id]
    assert listed(status=every, direction="asc", limit=2) == [first.id, second.id]
    assert listed(status=every, after=first.created_at) == [third.id, second.id]
    assert listed(status=every, until=second.created_at) == [first.id]
    assert listed(status=every, symbols=["IBM", "MSFT"]) == [third.id, first.id]
    assert listed(status=every, side=SELL) == []


def test_fifty_orders_are_listed_unless_more_are_asked_for(client) -> None:
    for _ in range(51):
        client.submit_order(limit("IBM", 1, 1.0))
    assert len(client.get_orders()) == 50
    assert len(client.get_orders(GetOrdersRequest(limit=500))) == 51


def test_an_order_is_canceled(client) -> None:
    order = client.submit_order(limit("IBM", 1, 1.0))
    client.cancel_order_by_id(order.id)
    assert client.get_order_by_id(order.id).status is OrderStatus.CANCELED
    assert client.get_order_by_id(order.id).canceled_at is not None


def test_all_orders_are_canceled(client) -> None:
    orders = {client.submit_order(limit(symbol, 1, 1.0)).id for symbol in ("IBM", "AAPL")}
    answers = client.cancel_orders()
    assert {answer.id for answer in answers} == orders
    assert {answer.status for answer in answers} == {200}
    assert client.get_orders() == []


def test_positions(client) -> None:
    client.submit_order(market("IBM", 7))
    (held,) = client.get_all_positions()
    one = client.get_open_position("IBM")
    assert (held.symbol, held.qty, held.side, held.asset_class) == ("IBM", "7", "long", "us_equity")
    assert one.asset_id == held.asset_id == client.get_asset("IBM").id
    assert float(one.cost_basis) == pytest.approx(7 * float(one.avg_entry_price))
    assert float(one.market_value) == pytest.approx(7 * float(one.current_price))
    assert refusal(client.get_open_position, "AAPL").status_code == 404


def test_a_position_is_closed_in_part_and_whole(client) -> None:
    client.submit_order(market("IBM", 7))
    assert client.close_position("IBM", ClosePositionRequest(qty="3")).qty == "3"
    assert client.get_open_position("IBM").qty == "4"
    client.close_position("IBM")
    assert client.get_all_positions() == []


def test_all_positions_are_closed_and_their_orders_canceled(client) -> None:
    client.submit_order(market("IBM", 7))
    waiting = client.submit_order(limit("IBM", 2, 500.0, SELL))
    (answer,) = client.close_all_positions(cancel_orders=True)
    assert (answer.symbol, answer.status) == ("IBM", 200)
    assert client.get_order_by_id(waiting.id).status is OrderStatus.CANCELED
    assert client.get_all_positions() == []


def test_the_clock(client, owner) -> None:
    clock = client.get_clock()
    assert (clock.is_open, f"{clock.timestamp:%F %T}") == (True, "2005-02-25 17:00:00")
    assert (f"{clock.next_close:%F %T}", f"{clock.next_open:%F %T}") == (
        "2005-02-25 21:00:00",
        "2005-02-28 14:30:00",
    )
    owner.ask("POST", "/clock", {"to": "close"})
    assert client.get_clock().is_open is False


def test_the_calendar_knows_holidays_and_half_days(client) -> None:
    week = client.get_calendar(GetCalendarRequest(start=date(2005, 11, 23), end=date(2005, 11, 28)))
    assert [f"{each.date:%d} {each.open:%H:%M}-{each.close:%H:%M}" for each in week] == [
        "23 09:30-16:00",
        "25 09:30-13:00",
        "28 09:30-16:00",
    ]


def test_assets(client) -> None:
    assert {"AAPL", "IBM"} <= {asset.symbol for asset in client.get_all_assets()}
    asset = client.get_asset("AAPL")
    assert (asset.tradable, asset.fractionable, asset.status) == (True, False, "active")
    assert refusal(client.get_asset, "NOTHING").status_code == 404


def test_the_account_s_configuration(client) -> None:
    settings = client.get_account_configurations()
    assert (settings.max_margin_multiplier, settings.no_shorting) == ("4", False)
    settings.max_margin_multiplier, settings.no_shorting = "1", True
    client.set_account_configurations(settings)
    again = client.get_account_configurations()
    assert (again.max_margin_multiplier, again.no_shorting) == ("1", True)
    account = client.get_account()
    assert (account.multiplier, account.shorting_enabled) == ("1", False)
    assert account.buying_power == account.cash


def test_two_settings_can_be_changed_alone(client) -> None:
    client.patch("/account/configurations", {"max_margin_multiplier": "1", "no_shorting": True})
    assert client.get_account_configurations().fractional_trading is False
    unknown = refusal(client.patch, "/account/configurations", {"leverage": 9})
    assert unknown.status_code == 422


def test_fills_are_in_the_statement(client, owner) -> None:
    order = client.submit_order(market("IBM", 7))
    (line,) = client.get("/account/activities/FILL")
    assert (line["activity_type"], line["order_id"], line["symbol"]) == ("FILL", str(order.id), "IBM")
    assert (line["side"], line["qty"], line["cum_qty"], line["leaves_qty"]) == ("buy", "7", "7", "0")
    owner.ask("POST", "/cash", {"amount": 12.5})
    assert [line["activity_type"] for line in client.get("/account/activities")] == ["CSD", "FILL"]
    assert client.get("/account/activities", {"activity_types": "CSD"})[0]["net_amount"] == "12.5"


def test_the_statement_comes_in_pages(client, owner) -> None:
    for number in range(1, 6):
        owner.ask("POST", "/cash", {"amount": number})
    words, amounts = {"page_size": 2, "direction": "asc"}, []
    while page := client.get("/account/activities", words):
        amounts += [line["net_amount"] for line in page]
        words["page_token"] = page[-1]["id"]
    assert amounts == ["1", "2", "3", "4", "5"]


def test_bars_come_in_pages_and_end_with_the_last_complete_session(data, owner, sample) -> None:
    wanted = {"timeframe": TimeFrame.Day, "start": date(2005, 1, 3), "end": date(2005, 3, 3)}
    got = data.get_stock_bars(StockBarsRequest(symbol_or_symbols=["AAPL", "IBM"], **wanted)).df
    bars, _ = sample
    for symbol in ("AAPL", "IBM"):
        ours = bars.loc[symbol].loc["2005-01-03":"2005-02-24"]
        theirs = got.loc[symbol]
        assert theirs.index.tz_convert("America/New_York").strftime("%F").tolist() == list(
            ours.index.strftime("%F")
        )
        assert theirs["close"].tolist() == ours["close"].tolist()
        assert theirs["volume"].tolist() == ours["volume"].tolist()
    page = owner.raw("GET", "/stocks/bars?symbols=AAPL&timeframe=1Day&start=2005-01-03&limit=30").json()
    assert (len(page["bars"]["AAPL"]), page["next_page_token"]) == (30, "30")


def test_the_latest_quote_and_trade(data) -> None:
    quote = data.get_stock_latest_quote(StockLatestQuoteRequest(symbol_or_symbols="IBM"))["IBM"]
    trade = data.get_stock_latest_trade(StockLatestTradeRequest(symbol_or_symbols="IBM"))["IBM"]
    assert quote.bid_price < trade.price < quote.ask_price
    assert f"{quote.timestamp:%F %T}" == "2005-02-25 17:00:00"


def test_the_stream_tells_of_orders_and_fills_in_binary_frames(client, owner) -> None:
    heard: list[Any] = []
    stream = TradingStream("key", "secret", url_override=owner.url.replace("http", "ws") + "/stream")

    async def handle(update: Any) -> None:
        heard.append(update)

    stream.subscribe_trade_updates(handle)
    thread = threading.Thread(target=stream.run, daemon=True)
    thread.start()
    deadline = time.monotonic() + 60
    while not (stream._ws and stream._running):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    time.sleep(0.5)
    order = client.submit_order(market("IBM", 7))
    while len(heard) < 2:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    stream.stop()
    thread.join(60)
    new, fill = heard
    assert (new.event, fill.event) == ("new", "fill")
    assert (fill.order.id, fill.order.status, fill.qty, fill.position_qty) == (
        order.id,
        OrderStatus.FILLED,
        7.0,
        7.0,
    )
    (line,) = client.get("/account/activities/FILL")
    assert line["id"].endswith(f"::{fill.execution_id}")


# What the broker's answers mean


@pytest.mark.parametrize("state", ["waiting", "filled", "canceled", "rejected"])
def test_a_client_s_id_is_taken_once_for_ever(client, owner, state) -> None:
    if state == "filled":
        client.submit_order(market("IBM", 1, client_order_id="mine"))
    else:
        client.submit_order(limit("IBM", 1, 1.0, client_order_id="mine"))
    if state in ("canceled", "rejected"):
        owner.ask("POST", f"/orders/mine/{state.removesuffix('ed')}")
    again = refusal(client.submit_order, market("AAPL", 1, client_order_id="mine"))
    assert (again.status_code, again.code, again.message) == (
        422,
        40010001,
        "client_order_id must be unique",
    )


def test_a_client_s_id_has_at_most_128_characters(client) -> None:
    client.submit_order(limit("IBM", 1, 1.0, client_order_id="x" * 128))
    longer = refusal(client.submit_order, limit("IBM", 1, 1.0, client_order_id="x" * 129))
    assert (longer.status_code, longer.code) == (422, 40010001)


def test_too_little_buying_power(client) -> None:
    refused = refusal(client.submit_order, limit("IBM", 5000, 92.0))
    assert (refused.status_code, refused.code, refused.message) == (
        403,
        40310000,
        "insufficient buying power",
    )


def test_selling_more_than_is_held_says_what_is_available(client, owner) -> None:
    client.submit_order(market("IBM", 10))
    client.submit_order(limit("IBM", 4, 500.0, SELL))
    body = {"symbol": "IBM", "qty": "7", "side": "sell", "type": "market", "time_in_force": "day"}
    answer = owner.raw("POST", "/orders", body)
    told = answer.json()
    assert (answer.status_code, told["code"]) == (403, 40310000)
    assert (told["available"], told["existing_qty"], told["held_for_orders"]) == ("6", "10", "4")


def test_an_order_against_an_open_one_is_a_wash_trade(client) -> None:
    client.submit_order(market("IBM", 10))
    client.submit_order(limit("IBM", 4, 500.0, SELL))
    refused = refusal(client.submit_order, market("IBM", 1))
    assert (refused.status_code, refused.code) == (403, 40310000)
    assert "wash trade" in refused.message


def test_a_fraction_of_a_share_is_refused(client) -> None:
    refused = refusal(client.submit_order, market("IBM", 1.5))
    assert (refused.status_code, refused.code) == (403, 40310000)
    assert "not fractionable" in refused.message


@pytest.mark.parametrize("price", [90.001, 0.12345])
def test_a_price_between_ticks_is_refused(client, price) -> None:
    refused = refusal(client.submit_order, limit("IBM", 1, price))
    assert (refused.status_code, refused.code) == (422, 42210000)


def test_a_price_below_a_dollar_has_four_digits(client) -> None:
    assert client.submit_order(limit("IBM", 1, 0.1234)).limit_price == "0.1234"


def test_a_filled_order_cannot_be_canceled(client) -> None:
    order = client.submit_order(market("IBM", 1))
    refused = refusal(client.cancel_order_by_id, order.id)
    assert (refused.status_code, refused.code) == (422, 42210000)


def test_a_symbol_that_is_not_traded(client) -> None:
    assert refusal(client.submit_order, market("NOTHING", 1)).status_code == 422


def test_a_new_account_lends_four_dollars_for_one(client) -> None:
    account = client.get_account()
    assert (account.buying_power, account.shorting_enabled) == ("400000", True)
    assert float(account.non_marginable_buying_power) == 100_000


def test_open_buys_lower_the_buying_power_and_not_the_cash(client) -> None:
    order = client.submit_order(limit("IBM", 100, 50.0))
    assert client.get_account().cash == "100000"
    assert float(client.get_account().buying_power) == 395_000
    client.cancel_order_by_id(order.id)
    assert float(client.get_account().buying_power) == 400_000


def test_a_sell_replenishes_the_buying_power(client, owner) -> None:
    owner.ask("POST", "/reset", {"cash": 10_000, "multiplier": 1})
    client.submit_order(market("IBM", 100))
    before = float(client.get_account().buying_power)
    client.submit_order(market("IBM", 100, SELL))
    assert before < 1000
    assert float(client.get_account().buying_power) == 10_000


def test_a_market_order_may_cost_more_than_the_last_price(client, owner) -> None:
    "Its price is the next open, whatever that is."
    owner.ask("POST", "/reset", {"cash": 50_000, "multiplier": 1, "now": "2005-02-25T22:00:00"})
    client.submit_order(market("AAPL", 500))
    owner.ask("POST", "/clock", {"to": "open"})
    line = client.get("/account/activities/FILL")[0]
    assert line["transaction_time"].startswith("2005-02-28T14:30:00")


def test_while_the_market_is_closed_a_day_order_is_accepted_and_waits(client, owner) -> None:
    owner.ask("POST", "/clock", {"to": "close"})
    order = client.submit_order(market("IBM", 5))
    assert order.status is OrderStatus.ACCEPTED
    owner.ask("POST", "/clock", {"to": "open"})
    assert client.get_order_by_id(order.id).status is OrderStatus.FILLED


def test_a_day_order_expires_at_the_close_and_another_stays(client, owner) -> None:
    today = client.submit_order(limit("IBM", 5, 1.0))
    longer = LimitOrderRequest(symbol="IBM", qty=5, side=BUY, time_in_force=GTC, limit_price=1.0)
    longer = client.submit_order(longer)
    owner.ask("POST", "/clock", {"to": "close"})
    assert client.get_order_by_id(today.id).status is OrderStatus.EXPIRED
    assert client.get_order_by_id(today.id).expired_at is not None
    assert client.get_order_by_id(longer.id).status is OrderStatus.NEW


def test_an_order_of_a_halted_symbol_is_accepted_and_not_filled(client, owner) -> None:
    owner.ask("POST", "/halts", {"symbol": "IBM", "on": True})
    order = client.submit_order(market("IBM", 5))
    assert client.get_order_by_id(order.id).filled_qty == "0"
    owner.ask("POST", "/halts", {"symbol": "IBM", "on": False})
    owner.ask("POST", "/prices", {"IBM": 92})
    assert client.get_order_by_id(order.id).filled_avg_price == "92"


def test_parts_are_filled_as_often_as_it_is_told(client, owner) -> None:
    owner.ask("POST", "/settings", {"partial": 1.0, "seed": 3})
    client.submit_order(market("IBM", 100))
    lines = client.get("/account/activities/FILL", {"direction": "asc"})
    assert [line["type"] for line in lines] == ["partial_fill", "fill"]
    assert sum(int(line["qty"]) for line in lines) == 100
    assert lines[-1]["cum_qty"] == "100"


def test_a_split_multiplies_shares_and_orders(client, owner) -> None:
    "Apple, two for one on 28 February 2005."
    client.submit_order(market("AAPL", 30))
    order = client.submit_order(
        LimitOrderRequest(symbol="AAPL", qty=10, side=SELL, time_in_force=GTC, limit_price=500.0)
    )
    before = float(client.get_open_position("AAPL").current_price)
    owner.ask("POST", "/clock", {"to": "open"})
    assert (client.get_open_position("AAPL").qty, client.get_order_by_id(order.id).qty) == ("60", "20")
    assert float(client.get_open_position("AAPL").current_price) == pytest.approx(before / 2, rel=0.05)
    assert client.get("/account/activities/SPLIT")[0]["qty"] == "30"


def test_a_dividend_is_paid_on_what_is_held_overnight(client, owner) -> None:
    owner.ask("POST", "/reset", {"cash": 10_000, "multiplier": 1, "now": "2005-02-04T22:00:00"})
    client.submit_order(market("IBM", 100))
    for _ in range(4):
        owner.ask("POST", "/clock", {"to": "open"})
    (line,) = client.get("/account/activities/DIV")
    assert (line["symbol"], line["qty"], line["date"]) == ("IBM", "100", "2005-02-08")
    assert float(line["net_amount"]) == pytest.approx(100 * float(line["per_share_amount"]))
    assert float(line["per_share_amount"]) == pytest.approx(0.18, abs=0.001)
