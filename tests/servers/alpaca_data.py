"""A stand-in for Alpaca's market data API: bars and corporate actions, in pages."""

from typing import Any

import pandas as pd

from .market import stocks
from .stand_in import Request, StandIn

KEY, SECRET = "the-key", "the-secret"
TIMEFRAMES = {"1Day": "1d", "30Min": "30m", "15Min": "15m", "5Min": "5m", "1Min": "1m"}


class AlpacaDataStandIn(StandIn):
    """Serves at most `page_size` rows a page. `intraday` holds bars in UTC by (symbol, interval)."""

    def __init__(self, page_size: int = 1_000):
        super().__init__()
        self.page_size = page_size
        self.stocks = stocks()
        self.intraday: dict[tuple[str, str], pd.DataFrame] = {}

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def answer(self, request: Request) -> tuple[int, Any]:
        headers = {name.lower(): value for name, value in request.headers.items()}
        if (headers.get("apca-api-key-id"), headers.get("apca-api-secret-key")) != (KEY, SECRET):
            return 401, {"message": "unauthorized."}
        if not request.query["symbols"].replace(".", "").isalpha():
            return 400, {"message": f"invalid symbol: {request.query['symbols']}"}
        if request.path == "/v2/stocks/bars":
            return 200, self._bars(request.query)
        if request.path == "/v1/corporate-actions":
            return 200, self._actions(request.query)
        return 404, {"message": "endpoint not found."}

    def _page(self, rows: list[Any], query: dict[str, str]) -> tuple[list[Any], str | None]:
        first = int(query.get("page_token", 0))
        last = first + min(self.page_size, int(query["limit"]))
        return rows[first:last], str(last) if last < len(rows) else None

    def _bars(self, query: dict[str, str]) -> dict[str, Any]:
        symbol, interval = query["symbols"], TIMEFRAMES[query["timeframe"]]
        assert query["adjustment"] == "raw"
        if symbol not in self.stocks:
            return {"bars": {}, "next_page_token": None}
        bars = self.stocks[symbol].bars if interval == "1d" else self.intraday[symbol, interval]
        # A daily bar is stamped at midnight in New York.
        bars = bars.tz_localize("America/New_York" if interval == "1d" else "UTC").tz_convert("UTC")
        start, end = (
            pd.Timestamp(query.get(name, default)) for name, default in (("start", "1990"), ("end", "2100"))
        )
        bars = bars.loc[_utc(start) : _utc(end)]
        page, token = self._page(list(zip(bars.index, bars.itertuples(index=False), strict=True)), query)
        rows = [
            {
                "t": f"{at:%Y-%m-%dT%H:%M:%SZ}",
                "o": bar.open,
                "h": bar.high,
                "l": bar.low,
                "c": bar.close,
                "v": int(bar.volume),
            }
            for at, bar in page
        ]
        return {"bars": {symbol: rows} if rows else {}, "next_page_token": token}

    def _actions(self, query: dict[str, str]) -> dict[str, Any]:
        symbol, rows = query["symbols"], []
        stock = self.stocks[symbol]
        for day, ratio in stock.splits.items():
            kind, rates = (
                ("forward_splits", (ratio, 1)) if ratio > 1 else ("reverse_splits", (1, round(1 / ratio)))
            )
            rows.append(
                (day, kind, {"new_rate": rates[0], "old_rate": rates[1], "ex_date": f"{day:%Y-%m-%d}"})
            )
        for day, amount in stock.dividends.items():
            # It is processed on the day that it is paid, weeks after the ex-date, and searched for by that day.
            processed = day + pd.Timedelta(days=30)
            rows.append(
                (
                    processed,
                    "cash_dividends",
                    {"rate": amount, "ex_date": f"{day:%Y-%m-%d}", "special": False},
                )
            )
        wanted = {f"{kind}s" for kind in query["types"].split(",")}
        start, end = pd.Timestamp(query["start"]), pd.Timestamp(query["end"])
        rows = [
            row for row in sorted(rows, key=lambda row: row[0]) if start <= row[0] <= end and row[1] in wanted
        ]
        page, token = self._page(rows, query)
        groups: dict[str, list[Any]] = {}
        for processed, kind, row in page:
            groups.setdefault(kind, []).append(
                {"symbol": symbol, "process_date": f"{processed:%Y-%m-%d}", **row}
            )
        return {"corporate_actions": groups, "next_page_token": token}


def _utc(at: pd.Timestamp) -> pd.Timestamp:
    return at.tz_localize("UTC") if at.tzinfo is None else at.tz_convert("UTC")
