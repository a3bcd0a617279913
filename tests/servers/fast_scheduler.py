"""A scheduler in a process of its own, on a clock that runs fast, whose work is a line in a file.

python -m servers.fast_scheduler HOME URL EPOCH SPEED: EPOCH is the real time at which the clock stood at BASE.
"""

import os
import random
import sys
import threading
import time
from datetime import datetime, timedelta
from pathlib import Path

from tradebot.config import Config
from tradebot.dues import Claim
from tradebot.kernel_pool import Leash
from tradebot.scheduler import Scheduler
from tradebot.schedules import Schedule
from tradebot.store import open_store

BASE = datetime(2024, 11, 29, 15)


def fast_clock(epoch: float, speed: float) -> datetime:
    """What the time is."""
    return BASE + timedelta(seconds=(time.time() - epoch) * speed)


def main(home: str, url: str, epoch: float, speed: float) -> None:
    """Run until killed."""
    note = os.open(f"{home}/notes", os.O_WRONLY | os.O_APPEND | os.O_CREAT)

    def work(schedule: Schedule, claim: Claim, leash: Leash) -> tuple[str, str]:
        def write(what: str) -> None:
            os.write(note, f"{what} {claim.due.isoformat()} {claim.attempt} {time.time()}\n".encode())

        write("begin")
        time.sleep(random.uniform(0.0, 0.45))
        if random.random() < 0.1:
            return "", "bad luck"
        write("end")
        return "a run", ""

    config, store = Config(home=Path(home)), open_store(url)
    clock = lambda: fast_clock(epoch, speed)
    scheduler = Scheduler(config, store, work, clock, lambda *_: None, workers=1)
    print("up", flush=True)
    scheduler.run(threading.Event())


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], float(sys.argv[3]), float(sys.argv[4]))
