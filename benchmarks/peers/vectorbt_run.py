"""vectorbt's side of bench_simulate.py, in an environment of its own: reads bars, prints one line of JSON.

python vectorbt_run.py FOLDER SYMBOLS (run | loop | once) REPEATS
"""

import json
import resource
import sys
import time
from pathlib import Path

began = time.perf_counter()
import numpy as np
import pandas as pd
import vectorbt as vbt

imported = time.perf_counter() - began
folder, symbols, work, repeats = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
names = [f"S{number:04d}" for number in range(symbols)]


def frame(field: str) -> pd.DataFrame:
    values = np.ascontiguousarray(np.load(folder / f"{field}.npy")[:, :symbols])
    return pd.DataFrame(values, index=pd.DatetimeIndex(np.load(folder / "days.npy")), columns=names)


close, opened = frame("close"), frame("open")
SMA, EMA = list(range(5, 55, 5)), list(range(60, 160, 10))


def account(entries: pd.DataFrame, exits: pd.DataFrame, group_by) -> np.ndarray:
    "Market orders at the next open, whole shares, one cash account: end equity."
    portfolio = vbt.Portfolio.from_signals(
        close
        if group_by is True
        else close.vbt.tile(len(group_by) // symbols, keys=range(len(group_by) // symbols)),
        entries.vbt.fshift(1, False),
        exits.vbt.fshift(1, False),
        price=opened if group_by is True else np.tile(opened.to_numpy(), (1, len(group_by) // symbols)),
        size_granularity=1,
        init_cash=1e6,
        cash_sharing=True,
        group_by=group_by,
        call_seq="auto",
        freq="1D",
    )
    return portfolio.value().to_numpy()


def run(sma: int = 20, ema: int = 50) -> np.ndarray:
    "From prices to equity."
    fast, slow = vbt.MA.run(close, sma), vbt.MA.run(close, ema, ewm=True)
    strength = vbt.RSI.run(close, 14, ewm=True)
    buy = fast.ma_crossed_above(slow.ma).to_numpy() | strength.rsi_crossed_below(30).to_numpy()
    sell = fast.ma_crossed_below(slow.ma).to_numpy() | strength.rsi_crossed_above(70).to_numpy()
    both = buy & sell
    entries, exits = (pd.DataFrame(side & ~both, index=close.index, columns=names) for side in (buy, sell))
    return account(entries, exits, True)


def loop() -> list[float]:
    "A hundred pairs, one after the other."
    return [float(run(sma, ema)[-1]) for sma in SMA for ema in EMA]


def once() -> list[float]:
    "A hundred pairs as five thousand columns."
    pairs = [(sma, ema) for sma in SMA for ema in EMA]
    fast = vbt.MA.run(close, [sma for sma, _ in pairs])
    slow = vbt.MA.run(close, [ema for _, ema in pairs], ewm=True)
    strength = vbt.RSI.run(close, 14, ewm=True)
    above, below = fast.ma_crossed_above(slow.ma).to_numpy(), fast.ma_crossed_below(slow.ma).to_numpy()
    low = np.tile(strength.rsi_crossed_below(30).to_numpy(), (1, len(pairs)))
    high = np.tile(strength.rsi_crossed_above(70).to_numpy(), (1, len(pairs)))
    buy, sell = above | low, below | high
    both = buy & sell
    entries, exits = (pd.DataFrame(side & ~both, index=close.index) for side in (buy, sell))
    groups = np.repeat(np.arange(len(pairs)), symbols)
    return account(entries, exits, groups)[-1].tolist()


seconds = []
for _ in range(repeats):
    start = time.perf_counter()
    {"run": run, "loop": loop, "once": once}[work]()
    seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import": imported, "seconds": seconds, "peak": peak}))
