"""A synthetic universe that every benchmark shares: seeded, built in a second, kept in memory only."""

from functools import lru_cache

import exchange_calendars
import numpy as np
import pandas as pd


@lru_cache(maxsize=2)
def universe(symbols: int = 500, sessions: int = 5040, seed: int = 7) -> pd.DataFrame:
    """Daily bars of `symbols` random walks over the last `sessions` XNYS sessions up to the end of 2024.

    Shaped as every bars frame is: index (symbol, timestamp), float64 open, high, low, close, volume. Prices are whole
    cents of at least one, and open and close lie between low and high. Callers share one frame: do not change it.
    """
    rng = np.random.default_rng(seed)
    shape = (symbols, sessions)
    first = rng.uniform(10, 200, (symbols, 1))
    drift = rng.normal(0.0003, 0.0001, (symbols, 1))
    spread = rng.uniform(0.01, 0.03, (symbols, 1))
    close = first * np.exp(np.cumsum(rng.normal(0, 1, shape) * spread + drift - spread**2 / 2, axis=1))
    start = np.hstack([first, close[:, :-1]]) * np.exp(rng.normal(0, 0.3, shape) * spread)
    start, close = (np.maximum(np.round(prices, 2), 0.01) for prices in (start, close))
    reach = np.exp(np.abs(rng.normal(0, 0.4, (2, *shape))) * spread)
    high = np.maximum(np.round(np.maximum(start, close) * reach[0], 2), np.maximum(start, close))
    low = np.maximum(np.round(np.minimum(start, close) / reach[1], 2), 0.01)
    volume = np.round(rng.lognormal(13, 0.6, shape))
    # One C-contiguous (5, n) block behind the frame: what concatenating or reading a table gives too.
    block = np.stack([start, high, low, close, volume]).reshape(5, -1)
    return pd.DataFrame(
        block.T, index=_index(symbols, sessions), columns=["open", "high", "low", "close", "volume"]
    )


def _index(symbols: int, sessions: int) -> pd.MultiIndex:
    calendar = exchange_calendars.get_calendar("XNYS", start="1990-01-01", end="2024-12-31")
    days = calendar.sessions[-sessions:]
    if len(days) < sessions:
        raise ValueError(f"XNYS had {len(days)} sessions from 1990 to 2024, not {sessions}")
    names = [f"S{number:04d}" for number in range(symbols)]
    codes = [np.repeat(np.arange(symbols), sessions), np.tile(np.arange(sessions), symbols)]
    return pd.MultiIndex(levels=[names, days], codes=codes, names=["symbol", "timestamp"])
