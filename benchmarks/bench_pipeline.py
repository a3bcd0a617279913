"""From CSV files to stored signals: 500 symbols x 5,040 bars, beside a straightforward ORM version, and one evening later.

Both read the same files, one a symbol, and end with the same tables filled: prices, three indicators as JSON, signals.
The straightforward version is what one writes first: pandas-ta symbol by symbol and a SQLAlchemy object a row, into
SQLite. It is timed on a few symbols and scaled, since it works through them one by one. Whole pipeline, one run each.
"""

import json
import logging
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pandas_ta
from sqlalchemy import JSON, Boolean, DateTime, Float, Integer, String, create_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column
from universe import universe

from tradebot.config import load_config
from tradebot.data_fetch import fetch_universe
from tradebot.pipeline import configured_features, configured_strategy, update_features, update_signals
from tradebot.store import open_store

SUBSET = 10


class Base(DeclarativeBase):
    pass


class Price(Base):
    __tablename__ = "raw_prices"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    symbol: Mapped[str] = mapped_column(String, index=True)
    timestamp: Mapped[object] = mapped_column(DateTime)
    open: Mapped[float] = mapped_column(Float)
    high: Mapped[float] = mapped_column(Float)
    low: Mapped[float] = mapped_column(Float)
    close: Mapped[float] = mapped_column(Float)
    volume: Mapped[float] = mapped_column(Float)


class Indicator(Base):
    __tablename__ = "indicators"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    symbol: Mapped[str] = mapped_column(String, index=True)
    timestamp: Mapped[object] = mapped_column(DateTime)
    values: Mapped[dict] = mapped_column(JSON)


class Signal(Base):
    __tablename__ = "signals"
    id: Mapped[int] = mapped_column(Integer, primary_key=True)
    symbol: Mapped[str] = mapped_column(String, index=True)
    timestamp: Mapped[object] = mapped_column(DateTime)
    signal_type: Mapped[str] = mapped_column(String)
    details: Mapped[dict] = mapped_column(JSON)
    executed: Mapped[bool] = mapped_column(Boolean, default=False)


def straightforward(folder: Path, symbols: list[str], url: str) -> int:
    """Prices, indicators and signals of each symbol, a row at a time; the number of signals."""
    engine, count = create_engine(url), 0
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        for symbol in symbols:
            frame = pd.read_csv(folder / f"{symbol}.csv", parse_dates=["date"]).set_index("date")
            for moment, row in frame.iterrows():
                session.add(Price(symbol=symbol, timestamp=moment.to_pydatetime(), **row.to_dict()))
            session.commit()
            frame["sma_20"] = pandas_ta.sma(frame["close"], 20, talib=False)
            frame["ema_50"] = pandas_ta.ema(frame["close"], 50, talib=False)
            frame["rsi_14"] = pandas_ta.rsi(frame["close"], 14, talib=False)
            names = ["sma_20", "ema_50", "rsi_14"]
            for moment, row in frame[names].iterrows():
                values = {name: None if pd.isna(value) else value for name, value in row.items()}
                session.add(Indicator(symbol=symbol, timestamp=moment.to_pydatetime(), values=values))
            session.commit()
            before = None
            for moment, row in frame[names].dropna().iterrows():
                if before is not None:
                    buy = (
                        row.sma_20 > row.ema_50 and before.sma_20 <= before.ema_50
                    ) or row.rsi_14 < 30 <= before.rsi_14
                    sell = (
                        row.sma_20 < row.ema_50 and before.sma_20 >= before.ema_50
                    ) or row.rsi_14 > 70 >= before.rsi_14
                    if buy != sell:
                        side = "buy" if buy else "sell"
                        details = json.loads(row.to_json())
                        session.add(
                            Signal(
                                symbol=symbol,
                                timestamp=moment.to_pydatetime(),
                                signal_type=side,
                                details=details,
                            )
                        )
                        count += 1
                before = row
            session.commit()
    return count


def timed(work: Callable[[], object]) -> tuple[float, object]:
    start = time.perf_counter()
    answer = work()
    return time.perf_counter() - start, answer


def write_files(folder: Path, bars: pd.DataFrame) -> list[str]:
    for symbol in bars.index.levels[0]:
        bars.loc[symbol].rename_axis("date").to_csv(folder / f"{symbol}.csv")
    return list(bars.index.levels[0])


def main(symbols: int = 500, sessions: int = 5040) -> None:
    logging.disable(logging.WARNING)
    with tempfile.TemporaryDirectory() as name:
        home = Path(name)
        bars = universe(symbols, sessions + 1)
        days = bars.index.levels[1]
        (home / "csv").mkdir()
        names = write_files(home / "csv", bars)
        environ = {
            "TRADEBOT_DATA_PROVIDER": "csv",
            "TRADEBOT_DATA_CSV_FOLDER": str(home / "csv"),
            "TRADEBOT_DATA_UNIVERSE": ",".join(names),
            "TRADEBOT_DATA_START": f"{days[0]:%Y-%m-%d}",
            "YFINANCE_BACKFILL_CHUNK": "10y",
        }
        config = load_config(home, environ)
        features, strategy = configured_features(config), configured_strategy(config)
        store = open_store(config.database_url)

        def walk(last: pd.Timestamp) -> dict[str, float]:
            now = last + pd.Timedelta(hours=22)
            steps = {
                "fetch and store bars": lambda: fetch_universe(store, config, now),
                "compute and store indicators": lambda: update_features(store, features),
                "find and store signals": lambda: update_signals(store, strategy),
            }
            return {step: timed(work)[0] for step, work in steps.items()}

        first = walk(days[-2])
        evening = walk(days[-1])
        again = walk(days[-1])
        subset = names[: min(SUBSET, symbols)]
        slow, count = timed(lambda: straightforward(home / "csv", subset, f"sqlite:///{home}/orm.db"))
        scaled = slow * symbols / len(subset)
        ours = len(store.signals(symbols=subset))
        print(f"| {symbols} symbols x {sessions:,} bars | first run, s | one new day, s | nothing new, s |")
        print("|---|---|---|---|")
        for step in first:
            print(f"| {step} | {first[step]:.2f} | {evening[step]:.2f} | {again[step]:.2f} |")
        total = [sum(run.values()) for run in (first, evening, again)]
        print(f"| **all** | **{total[0]:.2f}** | **{total[1]:.2f}** | **{total[2]:.2f}** |")
        print(f"| straightforward, {len(subset)} symbols scaled to {symbols} | {scaled:.0f} | | |")
        print(f"| **ratio** | **{scaled / total[0]:.1f}x** | | |")
        print(f"\nSignals of the subset: {ours} ours, {count} straightforward.")


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
