"""Loops under load, killed at random moments."""

import os
import random
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

from execution.world import World
from tradebot.config import load_config
from tradebot.executor import Calendar

SESSIONS, KILLS = 5, 10


def test_ten_loops_killed_at_random_moments(world: World) -> None:
    chance = random.Random(1)
    world.settings = {"TRADEBOT_RISK_SIZING": "fraction", "TRADEBOT_RISK_FRACTION": "0.15"}
    world.broker.ask("POST", "/settings", {"partial": 0.5, "seed": 1})
    loops = [world.worker(way="loop"), world.worker(way="loop")]
    killed = 0
    for session in range(SESSIONS):
        world.broker.ask("POST", "/clock", {"to": "close"})
        bar = Calendar(load_config(world.home, world.environment)).labels(clock(world))[1]
        for symbol in chance.sample("ABCDEFGH", 8):
            world.signal(chance.choice(["buy", "buy", "sell"]), symbol, bar=bar)
            if chance.random() < KILLS / (SESSIONS * 8):
                time.sleep(chance.random() * 0.6)
                loops.pop(chance.randrange(2)).kill()
                killed += 1
                world.check()
                loops.append(world.worker(way="loop"))
        if session % 2:  # in the other sessions the market opens while they are still at it
            until_decided(world)
        world.broker.ask("POST", "/clock", {"to": "open"})
        world.broker.ask("POST", "/prices", {name: chance.randint(97, 101) for name in "ABCDEFGH"})
        world.check()
    while killed < KILLS:
        time.sleep(chance.random() * 0.3)
        loops.pop(0).kill()
        killed += 1
        loops.append(world.worker(way="loop"))
    for loop in loops:
        loop.kill()
    world.settle()
    # Past the session that an order of unknown fate could still have reached.
    for to in ("close", "open", "close"):
        world.broker.ask("POST", "/clock", {"to": to})
    world.broker.ask("POST", "/clock", {"seconds": 1000})
    world.settle()
    assert {state for _, state, _ in world.signals()} <= {"EXECUTED", "SKIPPED", "EXPIRED"}
    assert len(world.ours) >= 6


def until_decided(world: World) -> None:
    "A sell may have to wait: for a buy of its symbol whose sender was killed, until the session that it could reach is over."
    deadline, new_buys = (
        time.monotonic() + 60,
        "SELECT 1 FROM signals WHERE state = 'NEW' AND signal_type = 'buy'",
    )
    while world.rows(new_buys):
        assert time.monotonic() < deadline, "the loops don't get on"
        time.sleep(0.05)


def clock(world: World) -> datetime:
    return datetime.fromisoformat(world.broker.state["clock"]["timestamp"]).replace(tzinfo=None)


def test_the_command_s_loop_does_not_wait_for_the_poll_and_ends_with_ctrl_c(world: World) -> None:
    world.open_books()
    (world.home / "settings.ini").touch()
    environment = {
        **os.environ,
        **world.environment,
        "TRADEBOT_HOME": str(world.home),
        "POLLING_INTERVAL": "30",
    }
    command = [Path(sys.executable).with_name("tradebot"), "execute", "--loop"]
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=environment, **pipes) as loop:
        try:
            trade_and_interrupt(world, loop)
        finally:
            loop.kill()
    world.check(quiet=True)


def trade_and_interrupt(world: World, loop: subprocess.Popen) -> None:
    assert "waiting for signals of crossover" in loop.stderr.readline()
    looks = len(world.broker.requests)
    while len(world.broker.requests) < looks + 6:
        time.sleep(0.01)
    time.sleep(0.5)
    name = world.signal("buy")
    committed = time.monotonic()
    while not world.ours:
        assert time.monotonic() - committed < 20.0, "the signal waited for the next poll"
    while world.order(name).status != "FILLED":
        assert time.monotonic() - committed < 25.0, "the stream's hint was not heard"
    assert any("claimed" in line for line in loop.stdout)
    loop.send_signal(signal.SIGINT)
    out, err = loop.communicate(timeout=60)
    assert loop.returncode == 130
    assert "Traceback" not in err + out
