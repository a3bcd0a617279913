"""What is particular to each source of bars: the sample's actions, CSV's mistakes, intraday bars, names, imports."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from servers.market import SYMBOLS, stocks

from tradebot.config import Config, Environment, UserError
from tradebot.prices import adjust, bars_frame
from tradebot.providers import (
    PROVIDERS,
    CsvProvider,
    SampleProvider,
    alpaca_actions,
    as_traded,
    fetch_with_retry,
    get_provider,
    later_splits,
)

ALWAYS = pd.Timestamp("2000-01-01"), pd.Timestamp("2013-12-31")


class TestSample:
    def test_its_splits_are_those_of_history(self):
        actions = pd.concat(SampleProvider().fetch(symbol, *ALWAYS).actions for symbol in SYMBOLS)
        splits = actions[actions["kind"] == "split"]
        assert list(zip(splits["symbol"], splits["timestamp"].astype(str), splits["value"], strict=True)) == [
            ("AAPL", "2000-06-21", 2.0),
            ("AAPL", "2005-02-28", 2.0),
            ("MSFT", "2003-02-18", 2.0),
        ]
        assert (actions["kind"] == "dividend").sum() == 92

    @pytest.mark.parametrize("symbol", SYMBOLS)
    def test_buy_and_hold_of_adjusted_prices_equals_a_ledger(self, symbol):
        "The ledger owns one share, splits it, and puts each dividend into more shares at the last close less the dividend."
        bars, actions = SampleProvider().fetch(symbol, *ALWAYS)
        events = {day: (kind, value) for _, day, kind, value in actions.itertuples(index=False)}
        shares, last = 1.0, None
        for day, close in bars["close"].items():
            kind, value = events.get(day, (None, None))
            if kind == "split":
                shares *= value
            elif kind == "dividend":
                shares += shares * value / (last - value)
            last = close
        adjusted = adjust(bars_frame(bars.assign(symbol=symbol)), actions)["close"]
        assert shares * bars["close"].iloc[-1] / bars["close"].iloc[0] == pytest.approx(
            adjusted.iloc[-1] / adjusted.iloc[0], rel=1e-9
        )


class TestYahoosRestating:
    def test_a_share_becomes_the_product_of_the_splits_after_its_day(self):
        splits = pd.Series(
            {
                pd.Timestamp("2000-06-21"): 2.0,
                pd.Timestamp("2005-02-28"): 2.0,
                pd.Timestamp("2014-06-09"): 7.0,
            }
        )
        days = pd.DatetimeIndex(
            ["2000-06-20", "2000-06-21", "2005-02-27", "2005-02-28", "2014-06-08", "2014-06-09"]
        )
        assert list(later_splits(days, splits)) == [28, 14, 14, 7, 7, 1]

    def test_without_splits_nothing_changes(self):
        days = pd.DatetimeIndex(["2000-06-20", "2000-06-21"])
        assert list(later_splits(days, pd.Series(dtype="float64", index=pd.DatetimeIndex([])))) == [1, 1]

    @pytest.mark.parametrize("symbol", SYMBOLS)
    @pytest.mark.parametrize("factor", [2.0, 1.5, 28.0, 0.05])
    def test_single_precision_comes_back_to_the_cent(self, symbol, factor):
        bars = stocks()[symbol].bars
        restated = (bars / factor).astype("float32").assign(volume=(bars["volume"] * factor).round())
        back = as_traded(restated, np.full(len(bars), factor))
        assert (back.drop(columns="volume") - bars.drop(columns="volume")).abs().to_numpy().max() < 1e-3
        assert (back["volume"] - bars["volume"]).abs().max() <= max(1.0, 1 / factor)


class TestAlpacasActions:
    def test_a_reverse_split_gives_less_than_one_share_for_one(self):
        rows = {"reverse_splits": [{"new_rate": 1, "old_rate": 8, "ex_date": "2021-08-02"}]}
        assert alpaca_actions(rows)[0].to_dict() == {pd.Timestamp("2021-08-02"): 0.125}


GOOD = "Date,Open,High,Low,Close,Volume,Split,Dividend\n2024-01-02,10,11,9,10.5,1000,,\n2024-01-03,5,6,4,5.5,2000,2,0.25\n"
NEW_YEAR = pd.Timestamp("2024-01-01"), pd.Timestamp("2024-01-31")


class TestCsv:
    @pytest.fixture
    def fetch(self, tmp_path):
        def fetch(text, interval="1d", symbol="XYZ"):
            (tmp_path / "XYZ.csv").write_bytes(text if isinstance(text, bytes) else text.encode())
            return CsvProvider(tmp_path).fetch(symbol, *NEW_YEAR, interval)

        return fetch

    def test_it_reads_bars_splits_and_dividends(self, fetch):
        bars, actions = fetch(GOOD)
        assert bars["close"].to_dict() == {pd.Timestamp("2024-01-02"): 10.5, pd.Timestamp("2024-01-03"): 5.5}
        assert actions.to_dict("records") == [
            {"symbol": "XYZ", "timestamp": pd.Timestamp("2024-01-03"), "kind": "dividend", "value": 0.25},
            {"symbol": "XYZ", "timestamp": pd.Timestamp("2024-01-03"), "kind": "split", "value": 2.0},
        ]

    @pytest.mark.parametrize(
        "variant",
        [
            "\ufeff" + GOOD,
            GOOD.upper(),
            GOOD.replace("\n", "\r\n"),
            GOOD.replace("Date", " timestamp "),
            GOOD + "\n\n",
            GOOD.replace("2024-01-02", "2024-01-02 00:00:00-05:00"),
            GOOD.replace(",2,0.25", ",2.0,.25").replace("10.5,1000,,", "10.5,1e3,0,0"),
        ],
    )
    def test_how_it_is_written_does_not_matter(self, fetch, variant):
        for got, expected in zip(fetch(variant), fetch(GOOD), strict=True):
            pd.testing.assert_frame_equal(got, expected)

    def test_columns_may_be_missing_or_too_many_where_they_are_not_needed(self, fetch):
        bars, actions = fetch("note,date,volume,open,high,low,close\nhello,2024-01-02,1000,10,11,9,10.5\n")
        assert bars.loc["2024-01-02"].to_dict() == {
            "open": 10,
            "high": 11,
            "low": 9,
            "close": 10.5,
            "volume": 1000,
        }
        assert actions.empty

    def test_what_is_wrong_with_a_bar_is_left_to_the_quality_door(self, fetch):
        text = "date,open,high,low,close,volume\n2024-01-03,1,1,1,1,1\n2024-01-02,,-1,inf,nan,\n2024-01-02,1,1,1,1,1\n"
        bars, _ = fetch(text)
        assert list(bars.index.day) == [3, 2, 2]
        np.testing.assert_equal(bars.iloc[1].to_numpy(), [np.nan, -1, np.inf, np.nan, np.nan])

    def test_intraday_times_are_brought_to_utc(self, fetch):
        rows = [
            f"{at},10,11,9,10.5,1000"
            for at in ("2024-01-02T09:30:00-05:00", "2024-01-02 14:35", "2024-01-02T14:40:00Z")
        ]
        bars, _ = fetch("timestamp,open,high,low,close,volume\n" + "\n".join(rows), "5m")
        assert list(bars.index.strftime("%H:%M")) == ["14:30", "14:35", "14:40"]

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("", "line 1: one column must be called date or timestamp"),
            (
                "date,open,high,low,close\n",
                "line 1: the column volume is missing; found date, open, high, low, close",
            ),
            (
                "date,timestamp,open,high,low,close,volume\n",
                "line 1: one column must be called date or timestamp",
            ),
            ("date,open,high,low,close,volume,Close\n", "line 1: the column close is there twice"),
            (
                GOOD.replace("10.5", "10_5x"),
                "line 2, column close: '10_5x' is not a number; write it as 1234.56",
            ),
            (GOOD.replace("2000", '"2,000"'), "line 3, column volume: '2,000' is not a number"),
            (GOOD.replace("2,0.25", "2,25c"), "line 3, column dividend: '25c' is not a number"),
            (
                GOOD.replace("2024-01-03", "03/01/2024"),
                "line 3, column date: '03/01/2024' is not a date; write it as 2024-12-31",
            ),
            (GOOD.replace("2024-01-03", ""), "line 3, column date: '' is not a date"),
            (GOOD + "2024-01-04,1,2,3\n", "line 4: 4 cells under 8 column names"),
            (GOOD + "2024-01-04,1,2,3,4,5,6,7,8\n", "line 4: 9 cells under 8 column names"),
            (GOOD.encode("utf-16"), "cannot be read: .*UTF-8"),
            (GOOD.replace("Date", '"a\nDate').replace(",Open", '",date,open'), None),
        ],
    )
    def test_a_mistake_names_file_line_and_column(self, fetch, text, message):
        with pytest.raises(UserError, match=f"^csv: .*XYZ.csv.*{message or ''}") as caught:
            fetch(text)
        if message:
            assert "\n" not in str(caught.value)

    def test_the_line_is_the_files_own_also_behind_a_cell_of_two_lines(self, fetch):
        text = (
            'date,open,high,low,close,volume,note\n2024-01-02,1,1,1,1,1,"two\nlines"\n2024-01-03,1,1,1,x,1,\n'
        )
        with pytest.raises(UserError, match="line 4, column close"):
            fetch(text)

    @pytest.mark.parametrize("symbol", ["../XYZ", "ABC", ""])
    def test_a_symbol_is_a_file_of_the_folder(self, fetch, symbol):
        with pytest.raises(UserError, match="there is no file"):
            fetch(GOOD, symbol=symbol)


def session_bars(day, interval, first="9h30min", last="16h"):
    "Bars of one New York session by opening time in UTC, counting up."
    opened = pd.date_range(
        day + pd.Timedelta(first), day + pd.Timedelta(last), freq=interval, inclusive="left"
    )
    price = 100 + np.arange(len(opened)) / 100
    index = opened.tz_localize("America/New_York").tz_convert("UTC").tz_localize(None)
    return pd.DataFrame(
        {"open": price, "high": price + 0.5, "low": price - 0.5, "close": price, "volume": 1000.0},
        index=index,
    )


class TestIntraday:
    @pytest.fixture
    def days(self):
        from tradebot.sessions import sessions_between

        now = pd.Timestamp.now("UTC").tz_localize(None).normalize()
        return sessions_between(now - pd.Timedelta(days=25), now - pd.Timedelta(days=4))

    def test_yahoos_bars_carry_their_opening_time_in_utc(self, yahoo, yahoo_server, days):
        bars = pd.concat([session_bars(day, "15min") for day in days[:2]])
        yahoo_server.intraday["IBM", "15m"] = bars
        found, actions = yahoo.fetch("IBM", bars.index[3], bars.index[-2], "15m")
        pd.testing.assert_frame_equal(found, bars.iloc[3:-1], check_names=False, check_freq=False)
        assert actions.empty

    def test_a_split_restates_yahoos_intraday_bars_before_its_day(self, yahoo, yahoo_server, days):
        bars = pd.concat([session_bars(day, "15min") for day in days[:2]])
        yahoo_server.intraday["MSFT", "15m"] = bars
        stock = yahoo_server.stocks["MSFT"]
        yahoo_server.stocks["MSFT"] = stock._replace(splits=pd.Series({days[1]: 2.0}))
        try:
            found, actions = yahoo.fetch("MSFT", bars.index[0], bars.index[-1], "15m")
        finally:
            yahoo_server.stocks["MSFT"] = stock
        pd.testing.assert_frame_equal(found, bars, check_names=False, check_freq=False)
        assert actions[["timestamp", "kind", "value"]].to_numpy().tolist() == [[days[1], "split", 2.0]]

    def test_one_minute_bars_come_in_pages_of_seven_days(self, yahoo, yahoo_server, days):
        bars = pd.concat([session_bars(day, "1min", last="9h40min") for day in days])
        yahoo_server.intraday["GOOG", "1m"] = bars
        found, _ = yahoo.fetch("GOOG", bars.index[0], bars.index[-1], "1m")
        pd.testing.assert_frame_equal(found, bars, check_names=False, check_freq=False)
        spans = [
            int(request.query["period2"]) - int(request.query["period1"])
            for request in yahoo_server.data_requests
            if request.query["interval"] == "1m" and "period1" in request.query
        ]
        assert len(spans) >= 3
        assert max(spans) <= 7 * 86_400

    @pytest.mark.parametrize(
        ("clock", "newest"),
        [("14:29:59", "13:30"), ("14:30:00", "14:00"), ("14:31:00", "14:00"), ("20:00:00", "19:30")],
    )
    def test_alpacas_bar_that_is_not_over_by_its_own_clock_is_left_out(
        self, alpaca, alpaca_server, clock, newest
    ):
        alpaca_server.intraday["AAPL", "30m"] = session_bars(pd.Timestamp("2012-07-02"), "30min", "4h", "20h")
        alpaca_server.now = pd.Timestamp(f"2012-07-02 {clock}").timestamp()
        found, _ = alpaca.fetch("AAPL", pd.Timestamp("2012-07-02"), pd.Timestamp("2012-07-06"), "30m")
        assert found.index[-1] == pd.Timestamp(f"2012-07-02 {newest}")


class TestByName:
    @pytest.mark.parametrize("name", ["sample", "csv", "yfinance"])
    def test_a_provider_is_found_by_its_name(self, name, tmp_path):
        assert get_provider(name, Config(home=tmp_path)).name == name

    def test_alpaca_takes_its_keys_from_the_environment(self, tmp_path):
        keys = Environment(alpaca_api_key="a", alpaca_api_secret="b")
        assert get_provider("alpaca", Config(home=tmp_path, environment=keys)).name == "alpaca"

    @pytest.mark.parametrize("keys", [{}, {"alpaca_api_key": "a"}, {"alpaca_api_secret": "b"}])
    def test_missing_keys_are_named(self, tmp_path, keys):
        with pytest.raises(UserError, match="set ALPACA_API_KEY and ALPACA_API_SECRET"):
            get_provider("alpaca", Config(home=tmp_path, environment=Environment(**keys)))

    def test_an_unknown_name_lists_the_known_ones(self, tmp_path):
        with pytest.raises(
            UserError, match="reuters: no such provider; choose from sample, csv, yfinance, alpaca"
        ):
            get_provider("reuters", Config(home=tmp_path))

    def test_every_configurable_provider_exists(self):
        from typing import get_args

        from tradebot.config import Data

        assert set(get_args(Data.model_fields["provider"].annotation)) == set(PROVIDERS)

    def test_csv_files_are_looked_for_below_the_projects_folder(self, tmp_path):
        (tmp_path / "csv").mkdir()
        (tmp_path / "csv" / "XYZ.csv").write_text(GOOD)
        assert len(get_provider("csv", Config(home=tmp_path)).fetch("XYZ", *NEW_YEAR).bars) == 2


def test_a_mistake_of_the_users_is_not_tried_again():
    waits = []
    with pytest.raises(UserError):
        fetch_with_retry(SampleProvider(), "NOPE", *ALWAYS, sleep=waits.append)
    assert waits == []


def test_importing_providers_loads_no_client_and_no_data():
    code = "import sys, tradebot.providers; print([m for m in ('yfinance', 'alpaca', 'bokeh_sampledata', 'tenacity', 'exchange_calendars') if m in sys.modules])"
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        cwd=Path(__file__).parents[2],
    )
    assert done.stdout.strip() == "[]"
