"""What buys is what was promoted: the same strategy, parameters, code and packages, on evidence that is there, fresh and unaltered."""

from collections.abc import Callable
from datetime import datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pandas as pd
import pytest

from tradebot.alpaca import get_broker
from tradebot.config import Config, Risk, UserError
from tradebot.exchange import Position
from tradebot.executor import Executor, utc_now
from tradebot.identity import NAMES, Check, Identity, identify
from tradebot.paper_broker import open_desk, served
from tradebot.pipeline import configured_strategy
from tradebot.prices import bars_frame
from tradebot.promotion import (
    GOOD_FOR,
    PAPER_PERIOD,
    paper_period,
    promote,
    record_evidence,
    standing,
    unpromoted,
)
from tradebot.provenance import environment_digest, verify
from tradebot.sessions import last_complete, sessions_between
from tradebot.signal_engine import get_strategy
from tradebot.store import Store

DAY = datetime(2026, 1, 5)
PASSED = [Check(name, True, "well", {"figure": float("nan")}) for name in NAMES]
PERIOD = Check(PAPER_PERIOD, True, "well", {})


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path)


@pytest.fixture
def own() -> Identity:
    return identify(get_strategy("crossover"), "packages")


def on_paper(store: Store, config: Config, own: Identity, now: datetime = DAY) -> None:
    record_evidence(store, config, own, PASSED, "a-run", now)
    promote(store, config, own, "paper", "ann", now)


def test_each_stage_asks_for_what_it_needs_and_the_one_before(
    config: Config, store: Store, own: Identity
) -> None:
    with pytest.raises(
        UserError, match=r"lacks causality \(missing\).*run: tradebot run nbs/pipelines/evidence"
    ):
        promote(store, config, own, "paper", "ann", DAY)
    with pytest.raises(UserError, match="crossover is in research; paper comes before live"):
        promote(store, config, own, "live", "ann", DAY)
    on_paper(store, config, own)
    with pytest.raises(
        UserError, match=r"lacks paper period \(missing\); run: tradebot replay START END --recorded"
    ):
        promote(store, config, own, "live", "ann", DAY)
    record_evidence(store, config, own, [PERIOD], "b-run", DAY)
    assert promote(store, config, own, "live", "ann", DAY).stage == "live"
    assert [unpromoted(store, config, own, mode, DAY) for mode in ("local", "paper", "live")] == ["", "", ""]
    assert promote(store, config, own, "research", "ann", DAY + timedelta(1)).stage == "research"
    assert "not promoted to paper" in unpromoted(store, config, own, "local", DAY)


@pytest.mark.parametrize("name", NAMES)
def test_evidence_that_failed_since_stops_buying(
    config: Config, store: Store, own: Identity, name: str
) -> None:
    on_paper(store, config, own)
    record_evidence(store, config, own, [Check(name, False, "ill", {})], "c-run", DAY + timedelta(1))
    assert f"was promoted, but {name} is failed" in unpromoted(
        store, config, own, "paper", DAY + timedelta(1)
    )
    record_evidence(store, config, own, [Check(name, True, "well", {})], "d-run", DAY + timedelta(2))
    assert unpromoted(store, config, own, "paper", DAY + timedelta(2)) == ""


def test_evidence_grows_old_and_is_renewed(config: Config, store: Store, own: Identity) -> None:
    on_paper(store, config, own)
    late = DAY + GOOD_FOR + timedelta(seconds=1)
    assert unpromoted(store, config, own, "paper", DAY + GOOD_FOR) == ""
    assert "causality is stale" in unpromoted(store, config, own, "paper", late)
    record_evidence(store, config, own, PASSED, "e-run", late)
    assert unpromoted(store, config, own, "paper", late) == ""


@pytest.mark.parametrize(
    ("changed", "says"),
    [
        ({"data": {"universe": "IBM"}}, "under another universe"),
        ({"risk": Risk(commission=0.001)}, "under another risk"),
    ],
)
def test_research_under_other_conditions_is_stale(
    tmp_path: Path, config: Config, store: Store, own: Identity, changed: dict, says: str
) -> None:
    on_paper(store, config, own)
    found = standing(store, Config(home=tmp_path, **changed), own, DAY)
    assert {item.state for item in found.items if item.name in NAMES} == {"stale"}
    assert says in found.items[0].words


OTHERS: dict[str, tuple[Callable[[], Identity], str]] = {
    "parameters": (
        lambda: identify(get_strategy("crossover", {"sma": 10}), "packages"),
        "its parameters changed",
    ),
    "a filter": (
        lambda: identify(get_strategy("crossover", filters=["volume(minimum=1.0)"]), "packages"),
        "its parameters, code changed",
    ),
    "packages": (lambda: identify(get_strategy("crossover"), "later packages"), "its packages changed"),
    "code": (
        lambda: Identity(**vars(identify(get_strategy("crossover"), "packages")) | {"code": "0"}),
        "its code changed",
    ),
}


@pytest.mark.parametrize(("other", "says"), OTHERS.values(), ids=OTHERS)
def test_what_is_changed_is_another_strategy(
    config: Config, store: Store, own: Identity, other: Callable[[], Identity], says: str
) -> None:
    on_paper(store, config, own)
    assert other().key != own.key
    assert says in unpromoted(store, config, other(), "paper", DAY)


def test_an_override_needs_a_reason_is_recorded_and_ends(config: Config, store: Store, own: Identity) -> None:
    found = promote(store, config, own, "live", "ann", DAY, "a customer waits")
    assert (found.stage, found.override) == ("live", "a customer waits")
    assert unpromoted(store, config, own, "live", DAY) == ""
    assert "the override of 2026-01-05" in unpromoted(
        store, config, own, "live", DAY + GOOD_FOR + timedelta(1)
    )
    (entry,) = [entry for entry in store.chain() if entry.kind == "promotion"]
    assert "a customer waits" in entry.content


FORGERIES = [
    "UPDATE promotions SET stage = 'live'",
    "UPDATE promotions SET override = 'none'",
    "UPDATE evidence SET passed = TRUE",
    "UPDATE evidence SET recorded = recorded + INTERVAL '300' DAY",
    "DELETE FROM evidence WHERE NOT passed",
    "DELETE FROM promotions",
    "INSERT INTO promotions SELECT 'mine', identity, strategy, parameters, code, environment, 'live', NULL, '[]', 'eve', "
    "recorded FROM promotions",
    "UPDATE promotions SET stage = 'live'; "
    "UPDATE chain SET content = replace(content, '\"stage\": \"paper\"', '\"stage\": \"live\"')",
    "DELETE FROM chain WHERE subject IN (SELECT id FROM evidence WHERE NOT passed); DELETE FROM evidence WHERE NOT passed",
]  # fmt: skip


@pytest.mark.parametrize("sql", FORGERIES)
def test_what_was_written_by_hand_does_not_count(
    config: Config, store: Store, own: Identity, sql: str
) -> None:
    on_paper(store, config, own)
    if "evidence" in sql:
        record_evidence(store, config, own, [Check("parity", False, "ill", {})], "f-run", DAY)
        record_evidence(store, config, own, [Check("warm-up", True, "well", {})], "f-run", DAY)
    with store.engine.transaction("ledger", write=True) as transaction:
        for statement in sql.split("; "):
            transaction.rows(statement)
    assert unpromoted(store, config, own, "live", DAY + timedelta(99))
    if "INSERT" not in sql:
        assert unpromoted(store, config, own, "paper", DAY + timedelta(99))
    wrong = [
        line
        for line in verify(store, config.reports).wrong
        if line.startswith(("promotion", "evidence", "entr"))
    ]
    assert wrong


def test_a_paper_period_counts_from_the_promotion_and_needs_decisions(
    config: Config, store: Store, own: Identity
) -> None:
    counts = {"signals": 9, "decisions": 7, "orders": 3}

    def period(days: int, checked: dict = counts, unexplained: int = 0) -> Check | None:
        end = pd.Timestamp(DAY) + pd.Timedelta(days=days)
        stands = standing(store, config, own, DAY)
        return paper_period(stands, pd.Timestamp("2020-01-01"), end, "XNYS", checked, unexplained)

    assert period(60) is None, "it is not on paper"
    on_paper(store, config, own)
    assert period(60).passed
    assert "43 sessions on paper from 2026-01-05" in period(60).words
    assert not period(10).passed
    assert not period(-10).passed
    assert not period(60, unexplained=1).passed
    assert not period(60, checked={**counts, "decisions": 0}).passed


@pytest.fixture
def trading(tmp_path: Path, store: Store):
    """A broker on the machine's clock that holds ten B, and fresh signals: buy A, sell B."""
    config = Config(home=tmp_path, data={"universe": "A, B"})
    bar = last_complete(pd.Timestamp(utc_now()), "1d", "XNYS")
    days = sessions_between(bar - pd.Timedelta(days=20), bar, "XNYS")
    rows = [(name, day, 100.0, 100.0, 100.0, 100.0, 1000.0) for name in ("A", "B") for day in days]
    columns = ["symbol", "timestamp", "open", "high", "low", "close", "volume"]
    store.write_bars(bars_frame(pd.DataFrame(rows, columns=columns)))
    found = pd.DataFrame(
        {
            "symbol": ["A", "B"],
            "timestamp": [bar, bar],
            "signal_type": ["buy", "sell"],
            "details": [{"price": 100.0, "rule": "r"}] * 2,
        }
    )
    store.write_signals("crossover", found)
    desk = open_desk(config, store, cash=10_000)
    desk.exchange.positions["B"] = Position(Decimal(10), Decimal(1000))
    with served(desk, port=0, store=store) as addresses:
        execution = config.execution.model_copy(update={"url": addresses.url})
        yield config.model_copy(update={"execution": execution})


def test_an_unpromoted_strategy_sells_and_buys_nothing(trading: Config, store: Store) -> None:
    told: list[str] = []
    executor = Executor(
        trading, store, get_broker(trading), notify=lambda kind, text, details: told.append(f"{kind}: {text}")
    )
    done = executor.once()
    made = {choice.signal.symbol: (choice.state, choice.reason) for choice in done.choices}
    assert made["A"] == ("SKIPPED", "crossover is not promoted to paper; `tradebot promote` shows what lacks")
    assert made["B"][0] == "CLAIMED"
    assert done.unpromoted == made["A"][1]
    assert [line for line in told if "nothing is bought" in line] == [
        f"halt: nothing is bought: {made['A'][1]}"
    ]
    with store.engine.transaction("ledger") as transaction:
        assert transaction.rows("SELECT symbol, side FROM orders") == [("B", "sell")]


def test_a_promoted_strategy_buys(trading: Config, store: Store) -> None:
    own = identify(configured_strategy(trading), environment_digest())
    on_paper(store, trading, own, utc_now())
    done = Executor(trading, store, get_broker(trading)).once()
    assert {choice.signal.symbol: choice.state for choice in done.choices} == {"A": "CLAIMED", "B": "CLAIMED"}
    assert done.unpromoted == ""
