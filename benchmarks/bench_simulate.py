"""Speed and memory of the compiled engine against vectorbt: the same strategy on the same bars.

    python benchmarks/bench_simulate.py [--vectorbt PYTHON] [--repeats 3]

Prints markdown tables. Each side runs in processes of its own, in turn, so that neither finds the other's memory or caches.
vectorbt needs an environment of its own (its numba differs from pandas-ta's, and its licence forbids selling what is built
on it): it is made in .cache/vectorbt the first time, or PYTHON is one that has it. It trades market orders at the next
open; ours limit orders within cash, splits, dividends and reasons: the bars and the rules are the same, our work is more.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
from universe import universe

HERE = Path(__file__).resolve().parent
VECTORBT = "vectorbt==1.2.0"


def peer_python() -> Path:
    """The interpreter that has vectorbt, made if it is not there."""
    folder = HERE.parent / ".cache" / "vectorbt"
    python = folder / "bin" / "python"
    if not python.exists():
        print(f"installing {VECTORBT} in {folder} ...", file=sys.stderr)
        subprocess.run([sys.executable, "-m", "venv", folder], check=True)
        subprocess.run(
            [python, "-m", "pip", "install", "-q", VECTORBT], check=True, stderr=subprocess.DEVNULL
        )
    return python


def panel(folder: Path, symbols: int = 500, sessions: int = 5040) -> Path:
    """The universe's bars in a folder, for each side as it likes them: (sessions, symbols) a field, and (fields, bars)."""
    bars = universe(symbols, sessions, seed=7)
    np.save(folder / "days.npy", bars.index.levels[1].to_numpy())
    np.save(folder / "bars.npy", np.ascontiguousarray(bars.to_numpy().T))
    for name in ("open", "close"):
        np.save(
            folder / f"{name}.npy", np.ascontiguousarray(bars[name].to_numpy().reshape(symbols, sessions).T)
        )
    return folder


def ran(python: Path | str, script: str, *words: object) -> dict:
    """What a side printed, and the seconds of the whole process."""
    began = time.perf_counter()
    command = [str(python), str(HERE / "peers" / script), *map(str, words)]
    done = subprocess.run(
        command, check=True, capture_output=True, text=True, env=os.environ | {"PYTHONWARNINGS": "ignore"}
    )
    return json.loads(done.stdout.splitlines()[-1]) | {"process": time.perf_counter() - began}


def warm(answers: list[dict]) -> float:
    """The median of all runs but the first of each process."""
    return statistics.median(second for answer in answers for second in answer["seconds"][1:])


def table(rows: list[tuple[str, float, float, str]]) -> None:
    print("| work | peer | ours | ratio |\n|---|---|---|---|")
    for name, peer, ours, unit in rows:
        print(
            f"| {name} | {peer:,.{3 if unit == 's' else 0}f} {unit} | {ours:,.{4 if unit == 's' else 0}f} {unit} | {peer / ours:,.1f}x |"
        )


def bandwidth() -> float:
    """Bytes a second that one core reads from memory into a sum."""
    block = np.ones(1 << 27)
    times = []
    for _ in range(5):
        began = time.perf_counter()
        block.sum()
        times.append(time.perf_counter() - began)
    return block.nbytes / min(times)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--vectorbt", type=Path, help="a Python that has vectorbt")
    parser.add_argument("--repeats", type=int, default=3, help="processes a side")
    options = parser.parse_args()
    peer = options.vectorbt or peer_python()
    with tempfile.TemporaryDirectory() as folder:
        path = panel(Path(folder))
        ran(sys.executable, "simulate_run.py", path, 5, "run", 1)  # compiled code is kept from here on
        sides = {
            name: []
            for name in ("vbt", "ours", "vbt cold", "ours cold", "vbt 50", "ours 50", "loop", "once", "sweep")
        }
        for _ in range(options.repeats):
            sides["vbt"].append(ran(peer, "vectorbt_run.py", path, 500, "run", 6))
            sides["ours"].append(ran(sys.executable, "simulate_run.py", path, 500, "run", 21))
            sides["vbt cold"].append(ran(peer, "vectorbt_run.py", path, 500, "run", 1))
            sides["ours cold"].append(ran(sys.executable, "simulate_run.py", path, 500, "run", 1))
            sides["vbt 50"].append(ran(peer, "vectorbt_run.py", path, 50, "run", 11))
            sides["ours 50"].append(ran(sys.executable, "simulate_run.py", path, 50, "run", 41))
            sides["loop"].append(ran(peer, "vectorbt_run.py", path, 50, "loop", 2))
            sides["once"].append(ran(peer, "vectorbt_run.py", path, 50, "once", 2))
            sides["sweep"].append(ran(sys.executable, "simulate_run.py", path, 50, "sweep", 6))
    report(sides)


def report(sides: dict[str, list[dict]]) -> None:
    cold = {
        name: statistics.median(one["process"] for one in sides[name]) for name in ("vbt cold", "ours cold")
    }
    peak = {name: statistics.median(one["peak"] for one in sides[name]) for name in ("vbt", "ours")}
    first = statistics.median(one["seconds"][0] for one in sides["ours cold"])
    better = min("loop", "once", key=lambda name: warm(sides[name]))
    ours = warm(sides["ours"])
    table(
        [
            ("500 x 5,040, prices to equity", warm(sides["vbt"]), ours, "s"),
            ("the same, the whole process", cold["vbt cold"], cold["ours cold"], "s"),
            ("the same, peak memory", peak["vbt"], peak["ours"], "MB"),
            ("50 x 5,040, prices to equity", warm(sides["vbt 50"]), warm(sides["ours 50"]), "s"),
            (f"100 pairs x 50 x 5,040 (vectorbt: {better})", warm(sides[better]), warm(sides["sweep"]), "s"),
        ]
    )
    bars, speed = 500 * 5040, bandwidth()
    print(f"\nFirst call of a process, compiled code kept: {first:.2f} s beyond imports.")
    print(
        f"{bars / ours / 1e6:,.0f} million bars/s; a core reads {speed / 1e9:.1f} GB/s, so closes alone (8 bytes a bar) would"
    )
    print(f"take {bars * 8 / speed * 1e3:.1f} ms of the {ours * 1e3:.1f} ms.")


if __name__ == "__main__":
    main()
