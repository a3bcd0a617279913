"""Recorded decisions made again: nothing differs until something is changed, and then the cause is the right one."""

import json
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from markets import DAYS, frames

from tradebot import signal_engine
from tradebot.config import Config, Environment, Risk, Strategy, UserError
from tradebot.kill_switch import turn_off, turn_on
from tradebot.ledger import read_record
from tradebot.prices import actions_frame, bars_frame
from tradebot.recheck import Recheck, books_at, recheck
from tradebot.replay import walk
from tradebot.sessions import sessions_between
from tradebot.signal_engine import Rules
from tradebot.store import Store, open_store
from tradebot.universe import universe

SESSIONS = sessions_between(pd.Timestamp("2012-01-03"), pd.Timestamp("2012-07-31"))
START, END = SESSIONS[60], SESSIONS[-1]


def config(home: Path, **changes) -> Config:
    """Two symbols, a short-sighted strategy that trades often, half of the account for each buy."""
    plain = Config(
        home=home,
        data={"universe": ("A", "B")},
        strategy=Strategy(name="crossover", sma="3", ema="8", rsi="5"),
        risk=Risk(sizing="fraction", fraction=0.5, max_daily_loss=0.2),
        environment=Environment(database_url=f"duckdb:///{home}/data"),
    )
    return plain.model_copy(update=changes)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory) -> Path:
    """A home whose store holds four months of trading, over a split, a dividend, and a week with the kill switch on."""
    home, rng = tmp_path_factory.mktemp("recorded"), np.random.default_rng(5)
    rows = []
    for symbol in ("A", "B"):
        close = 50 * np.exp(np.cumsum(rng.normal(0, 0.02, len(SESSIONS))))
        opened = close * np.exp(rng.normal(0, 0.008, len(SESSIONS)))
        spread = 1 + np.abs(rng.normal(0, 0.01, len(SESSIONS)))
        high, low = np.maximum(opened, close) * spread, np.minimum(opened, close) / spread
        four = pd.DataFrame({"open": opened, "high": high, "low": low, "close": close}).round(2)
        rows.append(four.assign(symbol=symbol, timestamp=SESSIONS, volume=1e6))
    bars = bars_frame(pd.concat(rows))
    split = bars.index[(bars.index.get_level_values("timestamp") >= SESSIONS[100])]
    prices = ["open", "high", "low", "close"]
    bars.loc[[key for key in split if key[0] == "A"], prices] = (
        bars.loc[[key for key in split if key[0] == "A"], prices] / 2
    ).round(2)
    actions = actions_frame([("A", SESSIONS[100], "split", 2.0), ("B", SESSIONS[90], "dividend", 0.5)])
    arrays, settings = universe(bars, actions), config(home)

    def switch(done: int, total: int) -> None:
        moment = SESSIONS[59 + done].to_pydatetime()
        store = open_store(settings.database_url)
        if done == 50:
            turn_on(store, settings.kill_file, "a holiday", moment)
        if done == 60:
            turn_off(store, settings.kill_file, "back", moment)

    walk(arrays, settings, SESSIONS[60:], switch)
    return home


@pytest.fixture
def home(recorded: Path, tmp_path: Path) -> Path:
    """A copy of it, to be changed."""
    shutil.copytree(recorded, tmp_path / "home")
    return tmp_path / "home"


def again(home: Path, **changes) -> Recheck:
    settings = config(home, **changes)
    return recheck(open_store(settings.database_url), settings, START, END)


def store_of(home: Path) -> Store:
    return open_store(config(home).database_url)


def test_what_nothing_was_done_to_comes_out_the_same_but_for_the_switch(home: Path) -> None:
    found = again(home)
    assert found.checked["signals"] > 20
    assert found.checked["orders"] > 12
    assert set(found.differences["cause"]) == {"order skipped"}
    assert found.differences["recorded"].str.contains("kill switch").all()
    assert found.differences["today"].str.startswith("buy ").all()


@pytest.mark.parametrize("ratio", [0.5, 1.5, 2.0], ids=["none for one", "one for one", "two for one"])
def test_one_share_that_waited_over_a_split_comes_out_the_same(tmp_path: Path, monkeypatch, ratio) -> None:
    def once(bars, **parameters):
        return Rules(buy={"now": pd.Series(bars.index == DAYS[1], bars.index)}, sell={})

    crossover = signal_engine._STRATEGIES["crossover"]
    monkeypatch.setitem(
        signal_engine._STRATEGIES, "crossover", signal_engine.replace(crossover, function=once, needs={})
    )
    settings = config(tmp_path, risk=Risk(capital=10), strategy=Strategy(name="crossover"))
    bars = frames({"A": [(6.0,) * 4] * 2 + [(6 / ratio,) * 4] * 2, "B": [(6.0,) * 4] * 4})
    actions = actions_frame([("A", DAYS[2], "split", ratio)])
    walk(universe(bars, actions), settings, DAYS[:4])
    found = recheck(open_store(settings.database_url), settings, DAYS[0], DAYS[3])
    assert found.checked["orders"] == 1
    assert found.differences.empty, found.differences.to_string()


def test_the_books_of_any_evening_are_what_they_were(home: Path) -> None:
    settings, store = config(home), store_of(home)
    ((account,),) = rows(store, "SELECT id FROM account")
    record = read_record(store, account)
    last = (END + pd.Timedelta(days=1)).to_pydatetime()
    books = books_at(record, last, pd.Series(1.0, SESSIONS), settings.data.calendar)
    ((cash,),) = rows(store, "SELECT cash FROM account")
    held = dict(rows(store, "SELECT symbol, quantity FROM positions WHERE quantity <> 0"))
    assert books.cash == cash
    assert {symbol: float(shares) for symbol, shares in books.positions.items()} == {
        symbol: float(shares) for symbol, shares in held.items()
    }


def rows(store: Store, sql: str, **values) -> list[tuple]:
    with store.engine.transaction("ledger", write=True) as transaction:
        return transaction.rows(sql, **values)


def repair(home: Path, change: float) -> pd.Timestamp:
    """Repair the bar of a buy that was filled, as `tradebot fetch --repair` does; its date."""
    store = store_of(home)
    ((symbol, day),) = rows(
        store,
        'SELECT s.symbol, s."timestamp" FROM signals s JOIN orders o ON o.signal_id = s.id '
        "WHERE o.status = 'FILLED' AND o.side = 'buy' ORDER BY o.id LIMIT 1 OFFSET 2",
    )
    bars = store.bars([symbol], day, day)
    old = bars.iloc[0].to_dict()
    bars[["open", "high", "low", "close"]] *= change
    issue = {"symbol": symbol, "timestamp": day, "rule": "repaired", "detail": "", "rejected": True}
    coverage = store.coverage()
    store.write_fetched(bars, actions_frame(), pd.DataFrame([issue | {"bar": old}]), coverage.head(0))
    return pd.Timestamp(day)


def test_a_repaired_bar_is_the_cause_of_another_signal_on_it(home: Path) -> None:
    before = again(home).differences
    day = repair(home, 0.8)
    found = again(home).differences
    new = found[~found["today"].isin(before["today"]) | (found["cause"] != "order skipped")]
    gone = new[(new["what"] == "signal") & (new["timestamp"] == day)]
    assert gone["cause"].tolist() == ["data revised"]
    assert (gone["today"] != gone["recorded"]).all()
    assert set(found["cause"]) <= {"data revised", "order skipped"}


def test_another_parameter_is_the_cause_of_other_signals(home: Path) -> None:
    found = again(home, strategy=Strategy(name="crossover", sma="4", ema="8", rsi="5")).differences
    signals = found[found["what"] == "signal"]
    assert len(signals) > 5
    assert set(signals["cause"]) == {"parameters changed"}


def test_changed_code_is_the_cause_where_git_knows_of_a_change(home: Path, monkeypatch) -> None:
    remember(home, run="r1")
    change_the_code(monkeypatch)
    signals = again(home).differences.query("what == 'signal'")
    assert set(signals["cause"]) == {"unexplained"}
    (home / "tradebot" / "strategy.py").write_text("changed = True")
    signals = again(home).differences.query("what == 'signal'")
    assert len(signals) > 5
    assert set(signals["cause"]) == {"code changed"}


def test_changed_settings_are_the_cause_of_another_size(home: Path) -> None:
    remember(home, run="r1")
    risk = Risk(sizing="fraction", fraction=0.25, max_daily_loss=0.2)
    assert set(
        again(home, risk=risk).differences.query("what == 'decision' and recorded.str.startswith('buy')")[
            "cause"
        ]
    ) == {"unexplained"}
    (home / "settings.ini").write_text("[risk]\nsizing = fraction\nfraction = 0.25\n")
    found = again(home, risk=risk).differences
    sized = found[(found["what"] == "decision") & found["recorded"].str.startswith("buy")]
    assert len(sized) > 5
    assert set(sized["cause"]) == {"parameters changed"}


def remember(home: Path, run: str) -> None:
    """Let every signal be of a run at a commit of the home."""
    (home / "tradebot").mkdir()
    (home / "tradebot" / "strategy.py").touch()
    (home / "settings.ini").touch()
    git = ["git", "-C", str(home), "-c", "user.name=x", "-c", "user.email=x@example.org"]
    for words in (["init", "-q"], ["add", "tradebot", "settings.ini"], ["commit", "-q", "-m", "first"]):
        subprocess.run([*git, *words], check=True)
    revision = subprocess.run(
        [*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True
    ).stdout.strip()
    store = store_of(home)
    store.write_run(
        id=run, notebook="pipeline.ipynb", git_revision=revision, parameters={}, fingerprint="", started=START, ended=END,
        status="succeeded", output="", error=None,
    )  # fmt: skip
    for number, details in rows(store, "SELECT id, details FROM signals"):
        told = (json.loads(details) if isinstance(details, str) else details) | {"run": run}
        rows(
            store, "UPDATE signals SET details = $details WHERE id = $id", details=json.dumps(told), id=number
        )


def change_the_code(monkeypatch) -> None:
    def other(bars, **parameters):
        return Rules(
            buy={"sma above ema": bars.fast > bars.slow * 1.004},
            sell={"sma below ema": bars.fast < bars.slow},
        )

    crossover = signal_engine._STRATEGIES["crossover"]
    monkeypatch.setitem(
        signal_engine._STRATEGIES, "crossover", signal_engine.replace(crossover, function=other)
    )


def test_a_strategy_that_no_longer_exists_is_changed_code(home: Path, monkeypatch) -> None:
    rows(store_of(home), "UPDATE signals SET strategy = 'forgotten'")
    found = again(home).differences
    assert found.loc[found["what"] == "signal", "cause"].tolist() == ["code changed"]
    assert "there is no strategy 'forgotten'" in found.iloc[0]["today"] + found.iloc[-1]["today"]


def test_a_worse_price_is_told_with_what_it_cost(home: Path) -> None:
    store = store_of(home)
    ((number, quantity, side),) = rows(
        store, "SELECT id, quantity, side FROM executions ORDER BY id DESC LIMIT 1"
    )
    sign = 1 if side == "buy" else -1
    rows(store, "UPDATE executions SET price = price + $change WHERE id = $id", change=sign * 0.05, id=number)
    found = again(home)
    fill = found.differences[found.differences["cause"] == "fill price"]
    assert fill["dollars"].round(2).tolist() == [round(float(quantity) * 0.05, 2)]
    assert found.causes.loc["fill price", "differences"] == 1


def test_an_order_that_was_refused_is_told_with_the_broker_s_words(home: Path) -> None:
    store = store_of(home)
    ((order,),) = rows(store, "SELECT id FROM orders WHERE status = 'FILLED' ORDER BY id DESC LIMIT 1")
    rows(store, "DELETE FROM executions WHERE order_id = $id", id=order)
    rows(
        store,
        "UPDATE orders SET status = 'REJECTED', filled = 0, reason = 'asset is halted' WHERE id = $id",
        id=order,
    )
    found = again(home).differences
    fill = found[(found["what"] == "fill")]
    assert fill["cause"].tolist() == ["order skipped"]
    assert "asset is halted" in fill["recorded"].iloc[0]


@pytest.mark.parametrize(
    ("start", "end", "message"),
    [
        ("2011-01-03", "2011-12-30", "nothing was decided"),
        ("2012-12-03", "2012-12-31", "nothing was decided"),
    ],
)
def test_a_period_without_decisions_is_one_line(home: Path, start, end, message) -> None:
    settings = config(home)
    with pytest.raises(UserError, match=message):
        recheck(store_of(home), settings, start, end)


def test_a_store_without_an_account_is_one_line(tmp_path: Path) -> None:
    settings = config(tmp_path)
    with pytest.raises(UserError, match="no account has been traded"):
        recheck(open_store(settings.database_url), settings, START, END)
