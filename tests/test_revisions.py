"""What a revision does to the past: signals that it turns over, each told of once, and backtests that it cannot reach."""

import json
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest
from servers.webhook import Webhook
from test_cli import TRADEBOT, tradebot  # noqa: F401

from tradebot.backtest import backtest
from tradebot.config import Config, UserError, load_config
from tradebot.data_fetch import fetch_universe
from tradebot.pipeline import compare_signals, configured_strategy, known_moment, update_signals
from tradebot.prices import actions_frame, bars_frame
from tradebot.results import cash_proof
from tradebot.revisions import Data, examine, flip_words, flipped, stored_flips, tell_flips
from tradebot.signal_engine import generate
from tradebot.store import Store, open_store

SYMBOL = "IBM"
FRAMES = ("sessions", "orders", "fills", "positions", "dividends", "signals")


class Case:
    """A stock whose last bar has a signal that another close, within the same day's range, takes away."""

    def __init__(self, bars: pd.DataFrame, day: pd.Timestamp, close: float, was: str):
        self.bars, self.day, self.was = bars, day, was
        self.changed = bars.copy()
        self.changed.loc[day, "close"] = close


@pytest.fixture(scope="module")
def case(sample) -> Case:
    """The first such signal of IBM's from 2009 on; nothing else may differ on the bars up to it."""
    own, strategy = sample[0].loc[[SYMBOL]], configured_strategy(Config(home=Path()))
    given = generate(own, actions_frame(), strategy).signals
    for signal in given[given["timestamp"] > "2009-01-01"].itertuples():
        bars = own[own.index.get_level_values("timestamp") <= signal.timestamp]
        for end in ("low", "high"):
            changed = bars.copy()
            changed.iloc[-1, 3] = changed.iloc[-1][end]
            sides = [generate(each, actions_frame(), strategy).signals for each in (bars, changed)]
            found = compare_signals(*sides)
            if len(found) == 1 and found["found"].iloc[0] == "nothing":
                close = float(changed.iloc[-1, 3])
                price, rule = signal.details["price"], signal.details["rule"]
                words = f"{signal.signal_type} at {price:.2f}: {rule}"
                return Case(own.droplevel("symbol"), signal.timestamp, close, words)
    raise AssertionError("no such signal")


def project(home: Path, case: Case, url: str) -> Path:
    """A project that reads IBM from a file, which ends with the signal."""
    (home / "bars").mkdir()
    (home / "settings.ini").write_text(
        f"[data]\nprovider = csv\ncsv_folder = bars\nuniverse = {SYMBOL}\nstart = 2000-01-01\n"
    )
    (home / ".env").write_text(f"DATABASE_URL={url}\n")
    write(home, case.bars[: case.day])
    return home


@pytest.fixture
def home(tmp_path: Path, case: Case) -> Path:
    return project(tmp_path, case, f"duckdb:///{tmp_path}/data")


@pytest.fixture
def each_home(tmp_path: Path, case: Case, url: str) -> Path:
    """The project on the embedded store, and on the server."""
    return project(tmp_path, case, url)


def write(home: Path, bars: pd.DataFrame) -> None:
    bars.rename_axis("date").to_csv(home / "bars" / f"{SYMBOL}.csv", date_format="%Y-%m-%d")


def config_of(home: Path, **more: str) -> Config:
    return load_config(home, more)


def evening(day: pd.Timestamp, after: int = 0) -> pd.Timestamp:
    """After the close, so many days later."""
    return pd.Timestamp(day) + pd.Timedelta(after, "D") + pd.Timedelta("21h30min")


def fetched(home: Path, case: Case) -> tuple[Store, Config]:
    """The store as it is on the evening of the signal, examined once."""
    config = config_of(home)
    store, now = open_store(config.database_url), evening(case.day)
    fetch_universe(store, config, now)
    update_signals(store, configured_strategy(config))
    assert examine(store, config, now) == 0
    return store, config


def repair(
    store: Store, config: Config, home: Path, case: Case, bars: pd.DataFrame, now: pd.Timestamp
) -> None:
    write(home, bars)
    fetch_universe(store, config, now, end=case.day, repair=True)


def test_a_repair_that_turns_a_signal_over_names_exactly_it_and_once(each_home: Path, case: Case) -> None:
    store, config = fetched(each_home, case)
    now = evening(case.day, 1)
    repair(store, config, each_home, case, case.changed[: case.day], now)
    assert examine(store, config, now) == 1
    flips = tell_flips(store, config)
    assert flips[["symbol", "timestamp", "was", "would", "ordered"]].to_numpy().tolist() == [
        [SYMBOL, case.day, case.was, "nothing", False]
    ]
    old, new = (each["close"][case.day] for each in (case.bars, case.changed))
    revision = f"close of {case.day:%Y-%m-%d} {old:.10g}, since {now:%Y-%m-%d %H:%M} UTC {new:.10g}"
    assert flip_words(flips.iloc[0]) == (
        f"{SYMBOL} {case.day:%Y-%m-%d} was {case.was}, would be nothing ({revision})"
    )
    assert examine(store, config, evening(case.day, 2)) == 0
    assert tell_flips(store, config).empty
    assert len(stored_flips(store)) == 1


def test_what_a_provider_says_otherwise_is_told_though_nothing_was_replaced(
    each_home: Path, case: Case
) -> None:
    store, config = fetched(each_home, case)
    write(each_home, case.changed[: evening(case.day, 10)])
    now = evening(case.day, 8)
    fetch_universe(store, config, now)
    assert store.bars()["close"][(SYMBOL, case.day)] == case.bars["close"][case.day]
    examine(store, config, now)
    told = tell_flips(store, config)
    assert (told["was"][told["timestamp"] == case.day] == case.was).all()
    assert "the provider says" in told["revision"].iloc[0]
    fetch_universe(store, config, now)
    assert examine(store, config, now) == 0

    repair(store, config, each_home, case, case.changed, evening(case.day, 9))
    assert case.day in store.revisions()["timestamp"].tolist()
    examine(store, config, now)
    again = tell_flips(store, config)
    assert again[again["timestamp"] == case.day].empty, "the repair told again what the disagreement had told"


def test_an_order_that_was_made_of_it_is_said(each_home: Path, case: Case) -> None:
    store, config = fetched(each_home, case)
    signal = store.signals().iloc[-1]
    assert signal["timestamp"] == case.day
    moment = evening(case.day).to_pydatetime()
    order = {
        "client_order_id": "a", "account": "x", "signal_id": signal["id"], "strategy": signal["strategy"],
        "symbol": SYMBOL, "side": signal["signal_type"], "attempt": 1, "quantity": Decimal(2), "limit_price": None,
        "reserved": Decimal(0), "filled": Decimal(0), "status": "ACKED", "reason": None, "broker_order_id": None,
        "worker": None, "run": "r", "good_until": moment, "hold_until": moment, "created": moment,
        "submitted": None, "updated": moment,
    }  # fmt: skip
    with store.engine.transaction("ledger", write=True) as ledger:
        ledger.upsert("orders", pd.DataFrame([order]))
    now = evening(case.day, 1)
    repair(store, config, each_home, case, case.changed[: case.day], now)
    examine(store, config, now)
    (flip,) = tell_flips(store, config).to_dict("records")
    assert flip_words(flip).endswith("; an order was made of it")


def test_the_alert_leaves_as_one_line_and_two_that_look_at_once_send_one(home: Path, case: Case) -> None:
    store, _ = fetched(home, case)
    with Webhook() as hook:
        config = config_of(home, TRADEBOT_NOTIFY_CHANNELS="webhook", TRADEBOT_WEBHOOK_URL=hook.url)
        now = evening(case.day, 1)
        repair(store, config, home, case, case.changed[: case.day], now)

        def look(_: int) -> None:
            own = open_store(config.database_url)
            examine(own, config, now)
            tell_flips(own, config)

        with ThreadPoolExecutor(4) as pool:
            list(pool.map(look, range(4)))
        (body,) = hook.bodies
    assert json.loads(body)["text"].startswith(
        f"tradebot revision: {SYMBOL} {case.day:%Y-%m-%d} was {case.was}"
    )


def test_many_at_a_time_are_ten_and_a_number_and_what_was_told_is_left_out(
    store: Store, tmp_path: Path
) -> None:
    def found(first: int, count: int) -> None:
        days = pd.bdate_range("2012-01-02", periods=30)[first : first + count]
        row = {
            "strategy": "s",
            "symbol": SYMBOL,
            "was": "buy at 1.00: x",
            "would": "nothing",
            "revision": "close",
        }
        flips = pd.DataFrame({"timestamp": days}).assign(**row, as_of=days[0], ordered=False, told=False)
        with store.engine.transaction("market", write=True) as market:
            market.upsert("flips", flips)

    with Webhook() as hook:
        settings = {"TRADEBOT_NOTIFY_CHANNELS": "webhook", "TRADEBOT_WEBHOOK_URL": hook.url}
        config = load_config(tmp_path, settings)
        found(0, 13)
        assert len(tell_flips(store, config)) == 13
        found(10, 5)
        assert tell_flips(store, config)["timestamp"].tolist() == list(
            pd.bdate_range("2012-01-19", periods=2)
        )
        texts = [json.loads(body)["text"] for body in hook.bodies]
    assert len(texts) == 11 + 2
    assert (
        texts[10] == "tradebot revision: 3 more signals would be others; `tradebot data revisions` lists them"
    )


def test_a_run_that_died_after_a_repair_is_made_up_for_by_the_next(home: Path, case: Case) -> None:
    store, config = fetched(home, case)
    repair(store, config, home, case, case.changed[: case.day], evening(case.day, 1))
    # Nobody looked. A week later somebody does, from a moment at which all of it was over.
    assert examine(store, config, evening(case.day, 7)) == 1


def test_a_changed_action_is_a_revision(store: Store, sample, tmp_path: Path) -> None:
    bars, actions = (each for each in (sample[0].loc[["AAPL"]], sample[1].query("symbol == 'AAPL'")))
    config = Config(home=tmp_path)
    split = actions[actions["kind"] == "split"]
    store.write_bars(bars, lambda: datetime(2013, 3, 2))
    store.write_actions(split.iloc[:-1], lambda: datetime(2013, 3, 2))
    assert examine(store, config, pd.Timestamp("2013-03-02 12:00")) == 0
    store.write_actions(split, lambda: datetime(2013, 3, 3))
    late = store.revisions()
    assert late[["what", "old", "new"]].to_numpy().tolist() == [["split", 1.0, 2.0]]
    found = examine(store, config, pd.Timestamp("2013-03-03"))
    strategy = configured_strategy(config)
    data = [Data(bars, split.iloc[:-1]), Data(bars, split)]
    assert found == len(flipped(*data, strategy)) > 0


def test_where_nothing_was_revised_the_strategy_is_not_run(home: Path, case: Case, monkeypatch) -> None:
    store, config = fetched(home, case)
    monkeypatch.setattr("tradebot.revisions.generate", lambda *_: pytest.fail("it was run"))
    write(home, case.bars[: evening(case.day, 5)])
    fetch_universe(store, config, evening(case.day, 4))
    assert examine(store, config, evening(case.day, 4)) == 0


def test_a_pinned_backtest_is_the_one_that_was_run_before_the_repair(home: Path, case: Case) -> None:
    store, config = fetched(home, case)
    traded, known = backtested(store, config), store.first_known() + pd.Timedelta("1h")
    repair(store, config, home, case, worse(case.bars), evening(case.day, 1))
    repaired, pinned = backtested(store, config), backtested(store, config, known)
    assert repaired.sessions["equity"].iloc[-1] != traded.sessions["equity"].iloc[-1]
    for name in FRAMES:
        pd.testing.assert_frame_equal(getattr(pinned, name), getattr(traded, name), check_exact=True)
    cash_proof(pinned)


def worse(bars: pd.DataFrame) -> pd.DataFrame:
    """Every fiftieth bar closes at its low."""
    changed = bars.copy()
    changed.loc[changed.index[::50], "close"] = changed["low"][::50]
    return changed


def backtested(store: Store, config: Config, known: pd.Timestamp | None = None):
    bars, actions = store.bars(known=known), store.actions(known=known)
    days = bars.index.get_level_values("timestamp")
    return backtest(
        bars,
        actions,
        generate(bars, actions, configured_strategy(config)).signals,
        start=pd.Timestamp("2007-01-01"),
        end=days.max(),
        capital=100_000,
        rules=config.risk,
    )


def test_from_the_command_line_a_repair_tells_and_a_backtest_is_pinned(home: Path, case: Case) -> None:
    import shutil

    shutil.copytree(Path(__file__).parent.parent / "nbs" / "pipelines", home / "nbs" / "pipelines")
    assert tradebot(home, "fetch", "--end", f"{case.day:%Y-%m-%d}").returncode == 0
    known = f"{open_store(config_of(home).database_url).first_known() + pd.Timedelta('1s'):%Y-%m-%d %H:%M:%S}"
    span = ("--range", f"2008-01-01:{case.day:%Y-%m-%d}")
    before = tradebot(home, "backtest", *span)
    write(home, case.changed[: case.day])
    repaired = tradebot(home, "fetch", "--repair", "--end", f"{case.day:%Y-%m-%d}")
    assert f"Revised: {SYMBOL} {case.day:%Y-%m-%d} was {case.was}, would be nothing" in repaired.stderr
    listed = tradebot(home, "data", "revisions").stdout
    assert "replaced" in listed
    assert "1 past signals would be others" in listed
    pinned = tradebot(home, "backtest", *span, "--known", known)
    assert pinned.returncode == 0, pinned.stderr
    assert f"as known at {known} UTC" in pinned.stdout
    figures = [done.stdout.splitlines()[1:10] for done in (before, pinned)]
    assert figures[0] == figures[1]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("yesterday-ish", "is no day or moment in UTC"),
        ("2012-06-30", "not over yet"),
        ("2012-06-30 22:00", "not over yet"),
    ],
)
def test_a_moment_that_cannot_be_pinned_to_is_one_line(text: str, words: str) -> None:
    with pytest.raises(UserError, match=words):
        known_moment(text, pd.Timestamp("2012-06-30 21:30"))


def test_a_day_counts_to_its_end_and_an_offset_is_heeded() -> None:
    now = pd.Timestamp("2012-06-30 21:30")
    assert known_moment("", now) is None
    assert known_moment("2012-06-29", now) == pd.Timestamp("2012-06-29 23:59:59.999999")
    assert known_moment("2012-06-30T17:00-04:00", now) == pd.Timestamp("2012-06-30 21:00")


def test_intraday_signals_are_turned_over_too(store: Store, tmp_path: Path) -> None:
    config = load_config(tmp_path, {"TRADEBOT_DATA_INTERVAL": "1h"})
    hours = pd.date_range("2012-01-03 14:30", periods=400, freq="h")
    close = pd.Series(range(400)).mod(80).sub(40).abs().add(60).astype(float)
    bars = bars_frame(
        pd.DataFrame(
            {"symbol": SYMBOL, "timestamp": hours, "open": close, "high": close + 1, "low": close - 1}
        ).assign(close=close, volume=1.0)
    )
    store.write_bars(bars, lambda: datetime(2012, 2, 1))
    assert examine(store, config, pd.Timestamp("2012-02-01 12:00")) == 0
    signal = generate(bars, actions_frame(), configured_strategy(config)).signals.iloc[-1]
    given, changed = signal["timestamp"], bars.copy()
    changed.loc[(SYMBOL, given), "close"] *= 0.5 if signal["signal_type"] == "buy" else 1.5
    store.write_bars(changed, lambda: datetime(2012, 2, 2))
    assert examine(store, config, pd.Timestamp("2012-02-02")) >= 1
    assert f"{given:%Y-%m-%d %H:%M}" in flip_words(stored_flips(store).iloc[-1])
