"""tradebot's side of bench_simulate.py, in a process of its own: reads bars, prints one line of JSON.

python simulate_run.py FOLDER SYMBOLS (run | sweep) REPEATS
"""

import json
import resource
import sys
import time
from pathlib import Path

began = time.perf_counter()
import numpy as np
import pandas as pd

from tradebot.config import Risk
from tradebot.prices import actions_frame
from tradebot.signal_engine import get_strategy
from tradebot.simulate import simulate
from tradebot.sweep import grid, sweep
from tradebot.universe import universe

imported = time.perf_counter() - began
folder, symbols, work, repeats = Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3], int(sys.argv[4])
names, days = [f"S{number:04d}" for number in range(symbols)], pd.DatetimeIndex(np.load(folder / "days.npy"))
kind = np.min_scalar_type(-max(symbols, len(days)))
codes = [
    np.repeat(np.arange(symbols, dtype=kind), len(days)),
    np.tile(np.arange(len(days), dtype=kind), symbols),
]
index = pd.MultiIndex(levels=[names, days], codes=codes, names=["symbol", "timestamp"])
values = np.load(folder / "bars.npy")[:, : len(index)]
fields = ["open", "high", "low", "close", "volume"]
bars = pd.DataFrame(values.T, index=index, columns=fields, copy=False)
arrays, money = universe(bars, actions_frame()), {"capital": 1e6, "rules": Risk()}
POINTS = grid({"sma": range(5, 55, 5), "ema": range(60, 160, 10)})


def run():
    return simulate(arrays, get_strategy("crossover"), **money).sessions


def hundred():
    return sweep(arrays, "crossover", POINTS, **money).table


seconds = []
for _ in range(repeats):
    start = time.perf_counter()
    {"run": run, "sweep": hundred}[work]()
    seconds.append(time.perf_counter() - start)
peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
print(json.dumps({"import": imported, "seconds": seconds, "peak": peak}))
