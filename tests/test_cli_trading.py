"""The commands that touch money, as a person meets them: real processes, one line for every mistake."""

# ruff: noqa: F401, F811

import socket
import subprocess
from pathlib import Path

import pytest
from test_cli import TRADEBOT, environment, home, tradebot


@pytest.fixture
def port() -> str:
    """A port that is free, and the one above it."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return str(one.getsockname()[1] - 1)


def one_line(answer: subprocess.CompletedProcess, code: int) -> str:
    assert answer.returncode == code, answer.stderr
    (line,) = answer.stderr.strip().splitlines()
    return line


def test_a_walk_through_the_sample_ends_with_cash_that_adds_up_and_again_sends_nothing(
    home: Path, port: str
) -> None:
    there = {"TRADEBOT_EXECUTION_URL": f"http://127.0.0.1:{port}"}
    assert tradebot(home, "fetch").returncode == 0
    assert tradebot(home, "signals").returncode == 0
    walk = ["broker", "--from", "2013-01-25", "--", str(TRADEBOT), "run", "nbs/pipelines/execute.ipynb"]
    first = tradebot(home, *walk, "-p", "sessions=99", **there)
    assert first.returncode == 0, first.stderr
    assert "MSFT" in first.stdout
    end, broker = (
        line.split()[-1] for line in first.stdout.splitlines() if line.startswith(("end", "at the broker"))
    )
    assert end == broker
    again = tradebot(home, *walk, **there)
    assert "0 new signals" in again.stdout
    assert (
        first.stdout.split("orders")[1].splitlines()[:5] == again.stdout.split("orders")[1].splitlines()[:5]
    )
    account = tradebot(home, "account")
    assert account.returncode == 0
    assert end in account.stdout
    dry = tradebot(home, "execute", "--once", "--dry-run")
    assert "dry run: nothing was sent, nothing was written" in dry.stdout
    recorded = ["replay", "2013-01-01", "2013-12-31", "--recorded"]
    recheck = tradebot(home, *recorded)
    assert recheck.returncode == 0, recheck.stderr
    assert "nothing differs" in recheck.stdout
    other = tradebot(home, *recorded, TRADEBOT_STRATEGY_SMA="5")
    assert other.returncode == 0, other.stderr
    assert "parameters changed" in other.stdout


def test_ten_years_of_signals_send_nothing_and_it_says_so(home: Path, port: str) -> None:
    tradebot(home, "fetch")
    tradebot(home, "signals")
    there = {"TRADEBOT_EXECUTION_URL": f"http://127.0.0.1:{port}"}
    refused = tradebot(home, "broker", "--", str(TRADEBOT), "execute", "--once", **there)
    assert refused.returncode == 1
    assert "NOTHING IS BOUGHT: crossover is not promoted to paper" in refused.stdout
    assert tradebot(home, "promote", "paper").returncode == 2
    assert tradebot(home, "promote", "paper", "--override", "old signals only").returncode == 0
    once = tradebot(home, "broker", "--", str(TRADEBOT), "execute", "--once", **there)
    assert once.returncode == 0, once.stderr
    assert "596 signals were too old to act on" in refused.stdout
    assert once.stdout.count("none") == 3


def test_without_a_broker_it_says_which_one_and_how_to_start_it(home: Path, port: str) -> None:
    answer = tradebot(home, "execute", "--once", TRADEBOT_EXECUTION_URL=f"http://127.0.0.1:{port}")
    line = one_line(answer, 1)
    assert "`tradebot broker`" in line
    assert "cannot be reached" in line


@pytest.mark.parametrize(
    ("words", "more", "said"),
    [
        (["execute"], {}, "one of the arguments --once --loop is required"),
        (["execute", "--once"], {"TRADEBOT_EXECUTION_BROKER": "alpaca"}, "ALPACA_API_KEY"),
        (
            ["execute", "--once"],
            {
                "TRADEBOT_EXECUTION_BROKER": "alpaca",
                "ALPACA_API_KEY": "k",
                "ALPACA_API_SECRET": "s",
                "ALPACA_PAPER": "false",
            },
            "ALPACA_PAPER=false is real money; confirm it with the account's number",
        ),
        (["execute", "--once"], {"TRADEBOT_EXECUTION_URL": "http://example.com:80"}, "[execution] url"),
        (["account"], {}, "no account has been traded"),
        (["account", "adopt"], {}, "--reason"),
        (["kill-switch", "maybe"], {}, "invalid choice"),
        (["broker", "--from", "yesterday"], {}, "is not a date"),
        (["broker", "--from", "1900-01-01"], {}, "has no session on 1900-01-01"),
        (["broker", "--cash", "nan"], {}, "nothing to begin with"),
        (["broker", "--", "no-such-program"], {}, "no-such-program cannot be run"),
        (["execute", "--once"], {"TRADEBOT_NOTIFY_CHANNELS": "pigeon"}, "pigeon"),
        (["execute", "--once"], {"TRADEBOT_RISK_SIZING": "fraction"}, "belong together"),
    ],
)
def test_a_mistake_is_one_line(home: Path, port: str, words: list[str], more: dict, said: str) -> None:
    answer = tradebot(home, *words, **{"TRADEBOT_EXECUTION_URL": f"http://127.0.0.1:{port}"} | more)
    assert answer.returncode == 2
    assert said in answer.stderr
    assert "Traceback" not in answer.stderr


def test_the_switch_turns_without_tables_and_says_how_it_stands(home: Path) -> None:
    tradebot(home, "db", "init")
    assert "kill switch: off" in tradebot(home, "kill-switch", "status").stdout
    on = tradebot(home, "kill-switch", "on", "--reason", "the news")
    assert "ON, nothing is bought" in on.stdout
    assert (home / "KILL").exists()
    (home / "KILL").unlink()
    assert "the news" in tradebot(home, "kill-switch", "status").stdout
    assert "kill switch: off" in tradebot(home, "kill-switch", "off").stdout


def test_a_second_broker_is_refused_in_one_line(home: Path, port: str) -> None:
    tradebot(home, "db", "init")
    there = {"TRADEBOT_EXECUTION_URL": f"http://127.0.0.1:{port}"}
    first = subprocess.Popen(
        [TRADEBOT, "broker"], cwd=home, env=environment(home, **there), stderr=subprocess.PIPE, text=True
    )
    assert "paper broker at" in first.stderr.readline()
    assert "another paper broker" in one_line(tradebot(home, "broker", **there), 2)
    first.terminate()
    assert first.wait(20) == 130
    first.stderr.close()


def test_a_command_s_exit_code_is_the_broker_s(home: Path, port: str) -> None:
    there = {"TRADEBOT_EXECUTION_URL": f"http://127.0.0.1:{port}"}
    assert tradebot(home, "broker", "--", "false", **there).returncode == 1
