"""How long a person waits for the command line to say its first word, beside an interpreter that does nothing.

Whole processes, medians of several; both take turns in one run.
"""

import statistics
import subprocess
import sys
import time
from pathlib import Path

ROUNDS = 15
TRADEBOT = str(Path(sys.executable).parent / "tradebot")
COMMANDS = {
    "python -c pass": [sys.executable, "-c", "pass"],
    "import tradebot": [sys.executable, "-c", "import tradebot"],
    "tradebot --help": [TRADEBOT, "--help"],
    "import pandas (for scale)": [sys.executable, "-c", "import pandas"],
}


def seconds(command: list[str]) -> float:
    start = time.perf_counter()
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - start


def main() -> None:
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS):
        for name, command in COMMANDS.items():
            times[name].append(seconds(command))
    floor = statistics.median(times["python -c pass"])
    print("| process | ms | of an empty interpreter |")
    print("|---|---|---|")
    for name, values in times.items():
        print(
            f"| {name} | {1000 * statistics.median(values):.0f} | {statistics.median(values) / floor:.1f}x |"
        )


if __name__ == "__main__":
    main()
