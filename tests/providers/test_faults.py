"""What providers make of servers that throttle, hang, hang up and talk nonsense, and how often they ask."""

import time
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime

import pandas as pd
import pytest
from servers.stand_in import drip, drop, hang, hang_up, respond, truncate

from tradebot.config import UserError
from tradebot.providers import (
    AlpacaProvider,
    ProviderDown,
    RateLimited,
    SampleProvider,
    UnknownSymbol,
    fetch_with_retry,
)

SPAN = pd.Timestamp("2005-02-24"), pd.Timestamp("2005-03-01")


@pytest.fixture(params=["yahoo", "alpaca"])
def provider(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def server(provider, yahoo_server, alpaca_server):
    return {"yfinance": yahoo_server, "alpaca": alpaca_server}[provider.name]


@pytest.fixture
def asked(provider, server):
    "The number of requests for data that a good answer takes; Yahoo's time zone is known by then."
    provider.fetch("AAPL", *SPAN)
    count = len(server.data_requests)
    fresh = getattr(provider, "_splits", {})
    fresh.clear()
    server.reset()
    return 2 if provider.name == "yfinance" else count


DOWN = {
    "500": respond(500, "Internal Server Error"),
    "502 in HTML": respond(502, "<html>Bad Gateway</html>"),
    "503 in JSON": respond(
        503, {"chart": {"result": None, "error": {"code": "x", "description": "down"}}, "message": "down"}
    ),
    "HTML for JSON": respond(200, "<html><body>Please accept cookies</body></html>"),
    "an empty body": respond(200),
    "an empty object": respond(200, {}),
    "a list": respond(200, [1, 2, 3]),
    "nothing inside": respond(200, {"chart": None, "bars": None}),
    "half an answer": truncate,
    "hung up": hang_up,
    "no answer": hang,
    "an endless answer": drip,
}


@pytest.mark.parametrize("fault", DOWN)
def test_what_may_pass_is_a_provider_that_is_down(provider, server, fault):
    server.faults.append(DOWN[fault])
    began = time.monotonic()
    with pytest.raises(ProviderDown, match=rf"^{provider.name}: AAPL: [^\n]+; ask again later$"):
        provider.fetch("AAPL", *SPAN)
    assert time.monotonic() - began < 5, "the time limit of one second is for the whole answer"


@pytest.mark.parametrize("fault", DOWN)
def test_it_recovers_as_soon_as_the_server_does(provider, server, asked, fault):
    server.faults.append(DOWN[fault])
    waits = []
    bars, actions = fetch_with_retry(provider, "AAPL", *SPAN, sleep=waits.append)
    assert (len(bars), len(actions), len(waits)) == (4, 1, 1)
    assert len(server.data_requests) == 1 + asked


def test_too_many_requests_without_a_word_about_when(provider, server):
    server.faults.append(respond(429, "Too Many Requests"))
    with pytest.raises(RateLimited, match="AAPL: too many requests; ask again later") as caught:
        provider.fetch("AAPL", *SPAN)
    assert caught.value.retry_after is None
    assert len(server.data_requests) == 1


def test_retry_after_is_honoured_in_seconds(provider, server, asked):
    server.faults.extend([respond(429, "", Retry_After="7"), respond(429, "", Retry_After="11")])
    waits = []
    assert len(fetch_with_retry(provider, "AAPL", *SPAN, sleep=waits.append).bars) == 4
    assert waits == [7, 11]
    assert len(server.data_requests) == 2 + asked


@pytest.mark.parametrize("header", ["Retry_After", "X_RateLimit_Reset"])
def test_retry_after_is_honoured_as_a_time(provider, server, header):
    until = datetime.now(UTC) + timedelta(seconds=30)
    said = format_datetime(until) if header == "Retry_After" else str(int(until.timestamp()))
    server.faults.append(respond(429, "", **{header: said}))
    with pytest.raises(RateLimited) as caught:
        provider.fetch("AAPL", *SPAN)
    assert 25 < caught.value.retry_after <= 30


def test_a_retry_after_that_cannot_be_read_is_none(provider, server):
    server.faults.append(respond(429, "", Retry_After="soon"))
    with pytest.raises(RateLimited) as caught:
        provider.fetch("AAPL", *SPAN)
    assert caught.value.retry_after is None


def test_a_wait_of_an_hour_is_left_to_the_caller(provider, server):
    server.faults.append(respond(429, "", Retry_After="3600"))
    waits = []
    with pytest.raises(RateLimited, match="ask again in 3600 s"):
        fetch_with_retry(provider, "AAPL", *SPAN, sleep=waits.append)
    assert waits == []
    assert len(server.data_requests) == 1


def test_the_last_error_is_raised_after_the_last_attempt(provider, server):
    server.faults.extend([hang_up, hang_up, respond(429), respond(503), respond(502)])
    waits = []
    with pytest.raises(ProviderDown, match="the server failed \\(502\\)"):
        fetch_with_retry(provider, "AAPL", *SPAN, sleep=waits.append)
    assert len(server.data_requests) == 5
    assert len(waits) == 4
    assert all(0 <= wait <= 2**attempt for attempt, wait in enumerate(waits))


def test_waits_are_jittered(provider, server):
    server.faults.extend([respond(503)] * 8)
    waits = []
    for _ in range(2):
        with pytest.raises(ProviderDown):
            fetch_with_retry(provider, "AAPL", *SPAN, attempts=4, sleep=waits.append)
    assert len(set(waits)) == 6


def test_an_unknown_symbol_is_not_asked_for_again(provider, server):
    waits = []
    with pytest.raises(UnknownSymbol):
        fetch_with_retry(provider, "NOPE", *SPAN, sleep=waits.append)
    assert waits == []
    assert len(server.data_requests) == (2 if provider.name == "alpaca" else 1)


def test_404_is_an_unknown_symbol(provider, server):
    server.faults.append(respond(404, {"chart": {"result": None, "error": None}, "message": "not found"}))
    with pytest.raises(UnknownSymbol, match="AAPL: no such symbol"):
        provider.fetch("AAPL", *SPAN)


def test_nothing_is_kept_from_a_failure(provider, server):
    "A client that caches its failures would go on failing."
    for fault in (respond(200, "<html>"), respond(500), hang_up):
        server.faults.append(fault)
        with pytest.raises(ProviderDown):
            provider.fetch("GOOG", pd.Timestamp("2012-01-03"), pd.Timestamp("2012-01-10"))
    assert len(provider.fetch("GOOG", pd.Timestamp("2012-01-03"), pd.Timestamp("2012-01-10")).bars) == 6


def test_a_connection_closed_without_a_word_is_no_end(provider, server, asked):
    "Such as an idle one that was kept open; clients may reopen it unasked, or leave that to us."
    server.faults.append(drop)
    assert len(fetch_with_retry(provider, "AAPL", *SPAN, sleep=lambda seconds: None).bars) == 4
    assert len(server.data_requests) == 1 + asked


class TestYahoo:
    def test_the_splits_of_a_symbol_are_asked_for_once(self, yahoo, yahoo_server):
        for year in (2001, 2002, 2003):
            yahoo.fetch("MSFT", pd.Timestamp(f"{year}-03-01"), pd.Timestamp(f"{year}-06-01"))
        charts = [
            int(request.query["period1"])
            for request in yahoo_server.data_requests
            if "period1" in request.query
        ]
        assert len(charts) == 3 + 1
        assert sum(start < 0 for start in charts) == 1, "only the splits are asked for from the beginning"

    def test_splits_that_cannot_be_had_fail_the_page(self, yahoo, yahoo_server):
        yahoo.fetch("IBM", *SPAN)
        yahoo_server.reset()
        yahoo._splits.clear()
        yahoo_server.faults.extend([None, respond(500)])
        with pytest.raises(ProviderDown):
            yahoo.fetch("IBM", *SPAN)

    @pytest.fixture
    def restate(self, yahoo_server):
        "Gives IBM other splits or dividends for a test."
        stock = yahoo_server.stocks["IBM"]
        yield lambda **events: yahoo_server.stocks.update(IBM=stock._replace(**events))
        yahoo_server.stocks["IBM"] = stock

    def test_a_split_of_today_reaches_a_provider_that_looked_before(self, yahoo, restate):
        "Yahoo restated the page after the look-up; the page itself says so."
        day, span = pd.Timestamp("2013-02-27"), (pd.Timestamp("2013-02-25"), pd.Timestamp("2013-02-28"))
        before = yahoo.fetch("IBM", *span).bars
        restate(splits=pd.Series({day: 2.0}))
        after = yahoo.fetch("IBM", *span)
        pd.testing.assert_frame_equal(after.bars, before)
        assert list(after.actions["timestamp"]) == [day]

    def test_dividends_are_brought_back_over_later_splits(self, yahoo, restate):
        restate(splits=pd.Series({pd.Timestamp("2005-05-31"): 0.25, pd.Timestamp("2013-02-27"): 7.0}))
        span = pd.Timestamp("2000-01-01"), pd.Timestamp("2012-12-31")
        (bars, actions), (expected, dividends) = (
            yahoo.fetch("IBM", *span),
            SampleProvider().fetch("IBM", *span),
        )
        pd.testing.assert_frame_equal(bars, expected, rtol=0, atol=1e-9)
        paid = actions[actions["kind"] == "dividend"].reset_index(drop=True)
        pd.testing.assert_frame_equal(paid, dividends, rtol=0, atol=1e-4)

    def test_a_dividend_of_a_day_that_has_not_traded_makes_no_bar(self, yahoo, restate):
        restate(dividends=pd.Series({pd.Timestamp("2013-03-04"): 0.85}))
        bars, actions = yahoo.fetch("IBM", pd.Timestamp("2013-02-28"), pd.Timestamp("2013-03-05"))
        assert list(bars.index.strftime("%m-%d")) == ["02-28", "03-01"]
        assert actions["value"].tolist() == [0.85]

    def test_what_yahoo_refuses_is_said_in_its_words(self, yahoo, yahoo_server):
        yahoo.fetch("AAPL", *SPAN)
        reason = "1m data not available. The requested range must be within the last 30 days."
        refusal = {
            "chart": {"result": None, "error": {"code": "Unprocessable Entity", "description": reason}}
        }
        yahoo_server.faults.append(respond(422, refusal))
        with pytest.raises(
            UserError, match="yfinance: AAPL: the request was refused \\(422\\): 1m data not available"
        ):
            yahoo.fetch("AAPL", *SPAN)

    @pytest.mark.parametrize(("interval", "days"), [("1m", 30), ("5m", 60), ("30m", 60), ("1h", 730)])
    def test_an_intraday_span_that_yahoo_no_longer_has_is_refused_before_asking(
        self, yahoo, yahoo_server, interval, days
    ):
        start = pd.Timestamp.now("UTC").tz_localize(None) - pd.Timedelta(days=days + 1)
        with pytest.raises(
            UserError, match=f"AAPL: Yahoo keeps {interval} bars for {days} days; start on or after 20"
        ):
            yahoo.fetch("AAPL", start, start + pd.Timedelta(days=1), interval)
        assert yahoo_server.requests == []


class TestAlpaca:
    def test_pages_are_put_together(self, alpaca, alpaca_server, monkeypatch):
        monkeypatch.setattr(alpaca_server, "page_size", 500)
        bars, actions = alpaca.fetch("IBM", pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31"))
        assert (len(bars), len(actions)) == (3270, 52)
        assert len(alpaca_server.data_requests) == 7 + 1

    def test_more_than_a_thousand_actions_are_not_cut_off(self, alpaca, alpaca_server, monkeypatch):
        stock = alpaca_server.stocks["IBM"]
        daily = stock._replace(dividends=pd.Series(0.01, index=stock.bars.index[:1200]))
        monkeypatch.setitem(alpaca_server.stocks, "IBM", daily)
        assert (
            len(alpaca.fetch("IBM", pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31")).actions) == 1200
        )

    def test_a_page_that_fails_fails_the_answer(self, alpaca, alpaca_server, monkeypatch):
        monkeypatch.setattr(alpaca_server, "page_size", 500)
        alpaca_server.faults.extend([None, None, respond(500)])
        with pytest.raises(ProviderDown):
            alpaca.fetch("IBM", pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31"))
        assert len(alpaca_server.data_requests) == 3

    def test_wrong_keys_are_the_users_to_mend_and_are_not_shown(self, alpaca_server):
        provider = AlpacaProvider("wrong-key", "wrong-secret", url=alpaca_server.url)
        with pytest.raises(
            UserError, match=r"alpaca: AAPL: not allowed \(401\): unauthorized.; check ALPACA_API_KEY"
        ) as caught:
            provider.fetch("AAPL", *SPAN)
        assert "wrong" not in str(caught.value)

    def test_a_symbol_that_cannot_be_one_is_unknown(self, alpaca):
        with pytest.raises(UnknownSymbol, match="alpaca: A-1: invalid symbol: A-1"):
            alpaca.fetch("A-1", *SPAN)

    def test_a_plan_that_does_not_cover_the_request_says_so(self, alpaca, alpaca_server):
        alpaca_server.faults.append(
            respond(403, {"message": "subscription does not permit querying recent SIP data"})
        )
        with pytest.raises(
            UserError, match=r"not allowed \(403\): subscription does not permit querying recent SIP data"
        ):
            alpaca.fetch("AAPL", *SPAN)
