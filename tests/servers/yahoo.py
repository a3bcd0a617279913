"""A stand-in for Yahoo's chart API, over TLS: it restates history after splits and serves single precision, as Yahoo does."""

from typing import Any

import numpy as np
import pandas as pd

from .market import Stock, stocks
from .stand_in import Request, StandIn

HOSTS = [
    f"{name}.yahoo.com" for name in ("query1.finance", "query2.finance", "fc", "guce", "consent", "finance")
]
ZONE = "America/New_York"


class YahooStandIn(StandIn):
    """Chart, cookie and crumb. `intraday` holds bars in UTC by (symbol, interval)."""

    def __init__(self, certificate: Any):
        super().__init__(certificate)
        self.stocks = stocks()
        self.intraday: dict[tuple[str, str], pd.DataFrame] = {}

    def is_data(self, path: str) -> bool:
        return path.startswith("/v8/")

    def answer(self, request: Request) -> tuple[int, Any]:
        if request.path == "/v1/test/getcrumb":
            return 200, "a.crumb"
        if not self.is_data(request.path):
            return 404, ""
        symbol = request.path.rpartition("/")[2]
        if symbol not in self.stocks:
            return 404, _refused("Not Found", "No data found, symbol may be delisted")
        return self._chart(symbol, request.query)

    def _chart(self, symbol: str, query: dict[str, str]) -> tuple[int, Any]:
        stock, interval = self.stocks[symbol], query["interval"]
        bars = stock.bars if interval == "1d" else self.intraday[symbol, interval]
        opened = (
            (bars.index.tz_localize(ZONE) + pd.Timedelta("9h30min"))
            if interval == "1d"
            else bars.index.tz_localize("UTC")
        )
        seconds = opened.tz_convert("UTC").as_unit("s").asi8
        start, end = int(query.get("period1", seconds[-1])), int(query.get("period2", seconds[-1] + 1))
        if end <= seconds[0] or start > seconds[-1]:
            return 400, _refused(
                "Bad Request", f"Data doesn't exist for startDate = {start}, endDate = {end}"
            )
        inside = (seconds >= start) & (seconds < end)
        meta = _meta(symbol, interval, seconds, opened)
        result = {"meta": meta, "indicators": {"quote": [{}], "adjclose": [{}]}}
        if inside.any():
            result |= _quotes(stock, bars, seconds, inside, start, end)
        return 200, {"chart": {"result": [result], "error": None}}


def _refused(code: str, description: str) -> dict[str, Any]:
    return {"chart": {"result": None, "error": {"code": code, "description": description}}}


def _quotes(
    stock: Stock, bars: pd.DataFrame, seconds: np.ndarray, inside: np.ndarray, start: int, end: int
) -> dict[str, Any]:
    shares = stock.shares(bars.index.normalize())
    restated = {name: (bars[name] / shares).astype("float32") for name in ("open", "high", "low", "close")}
    quote = {name: [float(value) for value in values[inside]] for name, values in restated.items()}
    quote["volume"] = [round(value) for value in (bars["volume"] * shares)[inside]]
    events: dict[str, dict[str, Any]] = {"dividends": {}, "splits": {}}
    for kind, values in (("dividends", stock.dividends), ("splits", stock.splits)):
        for day, value in values.items():
            second = int((day.tz_localize(ZONE) + pd.Timedelta("9h30min")).timestamp())
            later = float(stock.shares(pd.DatetimeIndex([day]))[0])
            split = {"numerator": value, "denominator": 1, "splitRatio": f"{value:g}:1"}
            if start <= second < end:
                amount = {"amount": round(value / later, 6)}
                events[kind][str(second)] = {"date": second} | (split if kind == "splits" else amount)
    indicators = {"quote": [quote], "adjclose": [{"adjclose": quote["close"]}]}
    return {"timestamp": seconds[inside].tolist(), "events": events, "indicators": indicators}


def _meta(symbol: str, interval: str, seconds: np.ndarray, opened: pd.DatetimeIndex) -> dict[str, Any]:
    def period(day: pd.Timestamp) -> dict[str, Any]:
        start, end = (
            (day + pd.Timedelta(clock)).tz_localize(ZONE).timestamp() for clock in ("9h30min", "16h")
        )
        return {"timezone": "EST", "start": int(start), "end": int(end), "gmtoffset": -18000}

    days = opened.tz_convert(ZONE).tz_localize(None).normalize().unique()
    meta = {
        "currency": "USD",
        "symbol": symbol,
        "instrumentType": "EQUITY",
        "firstTradeDate": int(seconds[0]),
        "regularMarketTime": int(seconds[-1]),
        "gmtoffset": -18000,
        "timezone": "EST",
        "exchangeTimezoneName": ZONE,
        "priceHint": 2,
        "currentTradingPeriod": {name: period(days[-1]) for name in ("pre", "regular", "post")},
        "dataGranularity": interval,
        "validRanges": ["1d", "5d", "1mo", "max"],
    }
    return meta if interval == "1d" else meta | {"tradingPeriods": [[period(day)] for day in days]}
