"""Due runs: noticed, taken once, taken over, tried again, parked; on both stores, and by many processes at once."""

import multiprocessing
from collections import Counter
from datetime import datetime, timedelta

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tradebot.config import UserError
from tradebot.dues import (
    Claim,
    ask,
    claim,
    dues_frame,
    extend,
    find_late,
    finish,
    give_back,
    last_success,
    notice,
)
from tradebot.schedules import Schedule
from tradebot.store import Store, open_store

PROCESSES = multiprocessing.get_context("spawn")
MONDAY = datetime(2024, 11, 18, 12)


def hours(count: float) -> datetime:
    return MONDAY + timedelta(hours=count)


def schedule(name: str = "hourly", **more) -> Schedule:
    given = {"notebook": "a.ipynb", "calendar": "XNYS", "trigger": {"cron": "0 * * * *"}, "retries": 1}
    return Schedule(**{"name": name} | given | more)


@pytest.fixture
def store(url: str) -> Store:
    return open_store(url)


def states(store: Store) -> list[str]:
    return dues_frame(store, None).sort_values("due")["state"].tolist()


@pytest.mark.parametrize(
    ("catch_up", "expected"),
    [
        ("latest", ["missed", "missed", "missed", "waiting"]),
        ("all", ["waiting"] * 4),
        ("none", ["missed"] * 4),
    ],
)
def test_what_was_missed_is_caught_up_as_the_file_says(
    store: Store, catch_up: str, expected: list[str]
) -> None:
    one = schedule(catch_up=catch_up)
    assert notice(store, one, hours(0.5)) == 0
    assert notice(store, one, hours(4.5)) == expected.count("waiting")
    assert notice(store, one, hours(4.5)) == 0
    assert states(store) == expected


def test_none_still_runs_what_is_due_now(store: Store) -> None:
    one = schedule(catch_up="none")
    notice(store, one, hours(0.5))
    assert notice(store, one, hours(3) + timedelta(seconds=5)) == 1
    assert states(store) == ["missed", "missed", "waiting"]


@pytest.mark.parametrize(
    ("overlap", "expected"), [("skip", ["running", "skipped"]), ("wait", ["running", "waiting"])]
)
def test_a_due_run_that_comes_while_an_older_one_runs(
    store: Store, overlap: str, expected: list[str]
) -> None:
    one = schedule(overlap=overlap)
    notice(store, one, hours(0.5))
    notice(store, one, hours(1))
    (first,) = claim(store, [one], "a", hours(1), lease=7200)
    notice(store, one, hours(2))
    assert states(store) == expected
    assert claim(store, [one], "b", hours(2)) == []
    assert finish(store, one, first, "r", "", hours(2.1)) == "succeeded"
    assert len(claim(store, [one], "b", hours(2.2))) == (overlap == "wait")


def test_a_failure_is_tried_again_after_a_pause_that_doubles_and_then_parked(store: Store) -> None:
    one = schedule(retries=2, backoff="10min")
    notice(store, one, hours(0.5))
    now = hours(1)
    notice(store, one, now)
    for pause, state in ((10, "waiting"), (20, "waiting"), (0, "parked")):
        (mine,) = claim(store, [one], "a", now)
        assert finish(store, one, mine, "r", 'it\'s "broken" é', now) == state
        assert claim(store, [one], "a", now + timedelta(minutes=pause, seconds=-1)) == []
        now += timedelta(minutes=pause)
    row = dues_frame(store).iloc[0]
    assert (row["state"], row["attempt"], row["error"]) == ("parked", 3, 'it\'s "broken" é')
    assert claim(store, [one], "a", now + timedelta(days=9)) == []
    assert notice(store, one, hours(2)) == 1, "the next one is due as ever"


def test_a_notebook_that_kills_whoever_runs_it_is_parked(store: Store) -> None:
    one, now = schedule(retries=1, backoff="1s"), hours(1)
    notice(store, one, hours(0.5))
    notice(store, one, now)
    for attempt in (1, 2):
        (mine,) = claim(store, [one], f"holder {attempt}", now)
        assert mine.attempt == attempt
        now += timedelta(minutes=5)
        assert claim(store, [one], "next", now) == []
        now += timedelta(seconds=1)
    assert states(store) == ["parked"]
    assert "holder 2 went away" in dues_frame(store)["error"].iloc[0]


def test_a_lease_is_kept_by_extending_it_and_lost_for_good(store: Store) -> None:
    one = schedule()
    notice(store, one, hours(0.5))
    notice(store, one, hours(1))
    (mine,) = claim(store, [one], "a", hours(1), lease=60)
    assert extend(store, mine, hours(1) + timedelta(seconds=50), lease=60)
    assert claim(store, [one], "b", hours(1) + timedelta(seconds=100)) == []
    assert claim(store, [one], "b", hours(1.1)) == []
    (theirs,) = claim(store, [one], "b", hours(1.2))
    assert not extend(store, mine, hours(1.2))
    assert finish(store, one, mine, "r", "", hours(1.2)) == ""
    assert finish(store, one, theirs, "s", "", hours(1.2)) == "succeeded"
    assert dues_frame(store)["run"].tolist() == ["s"]


def test_a_clock_that_jumps_ahead_and_back_loses_nothing_that_is_still_to_come(store: Store) -> None:
    one = schedule()
    notice(store, one, hours(0.5))
    assert notice(store, one, hours(24 * 400)) == 1
    (wrong,) = claim(store, [one], "a", hours(24 * 400))
    assert finish(store, one, wrong, "r", "", hours(24 * 400)) == "succeeded"
    assert notice(store, one, hours(1.5)) == 0
    assert notice(store, one, hours(2)) == 1
    assert sorted(states(store)) == ["missed", "succeeded", "waiting"]


def test_shards_of_a_due_time_run_side_by_side_and_the_next_due_time_waits_for_all(store: Store) -> None:
    one = schedule(shards=3, parameters={"symbols": ["A", "B", "C"]}, overlap="wait", backoff="1h")
    notice(store, one, hours(0.5))
    assert notice(store, one, hours(1)) == 1
    assert notice(store, one, hours(2)) == 1
    first = claim(store, [one], "a", hours(2), limit=2)
    rest = claim(store, [one], "b", hours(2))
    assert [mine.shard for mine in first + rest] == [0, 1, 2]
    assert {mine.due for mine in first + rest} == {hours(1)}
    assert claim(store, [one], "c", hours(2)) == []
    assert [finish(store, one, mine, "r", "", hours(2)) for mine in first] == ["succeeded"] * 2
    assert finish(store, one, rest[0], "r", "no", hours(2)) == "waiting"
    assert last_success(store) == {}
    assert claim(store, [one], "c", hours(2.5)) == [], "the second hour waits for a shard of the first"
    (again,) = claim(store, [one], "c", hours(3))
    assert (again.shard, again.attempt) == (2, 2)
    finish(store, one, again, "r", "", hours(3))
    assert last_success(store) == {"hourly": hours(1)}
    assert len(claim(store, [one], "c", hours(3))) == 3


def test_what_is_given_back_is_free_at_once_and_is_no_attempt(store: Store) -> None:
    one = schedule(retries=0)
    notice(store, one, hours(0.5))
    notice(store, one, hours(1))
    (mine,) = claim(store, [one], "a", hours(1))
    give_back(store, mine, hours(1))
    assert finish(store, one, mine, "r", "", hours(1)) == ""
    (theirs,) = claim(store, [one], "b", hours(1))
    assert theirs.attempt == 1
    give_back(store, mine, hours(1))
    assert states(store) == ["running"], "only one's own can be given back"


def test_a_person_may_ask_for_a_run_now_or_for_a_parked_one_again(store: Store) -> None:
    one = schedule(retries=0)
    ask(store, one, hours(0.1), hours(0.1))
    (mine,) = claim(store, [one], "a", hours(0.1))
    with pytest.raises(
        UserError, match="hourly of 2024-11-18 12:06 UTC is running at a; it has to end first"
    ):
        ask(store, one, hours(0.11), hours(0.11))
    assert finish(store, one, mine, "r", "no", hours(0.11)) == "parked"
    assert find_late(store, [one], hours(9)) == [], "of what is parked somebody was told"
    ask(store, one, hours(0.1), hours(9))
    (again,) = claim(store, [one], "a", hours(9))
    assert (again.due, again.attempt) == (hours(0.1), 1)
    assert finish(store, one, again, "s", "", hours(9)) == "succeeded"
    frame = dues_frame(store)
    assert frame[["state", "run", "error"]].values.tolist() == [["succeeded", "s", None]]


def test_what_is_late_is_told_once_and_never_before(store: Store) -> None:
    one = schedule(late="2h")
    notice(store, one, hours(0.5))
    notice(store, one, hours(1))
    assert find_late(store, [one], hours(3)) == []
    assert find_late(store, [], hours(4)) == []
    assert find_late(store, [one], hours(4)) == [("hourly", hours(1))]
    assert find_late(store, [one], hours(5)) == []


def race(url: str, holder: str, pipe) -> None:
    """In a process of its own: notice and take until everything has ended; what it took and ended."""
    store, taken, one = open_store(url), [], schedule(catch_up="all", overlap="wait")
    now = hours(40.5)
    pipe.recv()
    idle = 0
    while idle < 20:
        notice(store, one, now)
        got = claim(store, [one], holder, now)
        for mine in got:
            taken.append(mine.due)
            assert finish(store, one, mine, f"by {holder}", "", now) == "succeeded"
        idle = 0 if got else idle + 1
    pipe.send(taken)


def test_six_schedulers_run_each_due_time_once(url: str, store: Store) -> None:
    notice(store, schedule(), hours(0.5))
    pipes, started = [], []
    for number in range(6):
        ours, theirs = PROCESSES.Pipe()
        process = PROCESSES.Process(target=race, args=(url, f"h{number}", theirs))
        process.start()
        pipes.append(ours)
        started.append(process)
    for pipe in pipes:
        pipe.send("go")
    taken = Counter(due for pipe in pipes for due in pipe.recv())
    for process in started:
        process.join()
    assert set(taken.values()) == {1}
    assert states(store) == ["succeeded"] * 40 == ["succeeded"] * len(taken)


STEPS = st.one_of(
    st.tuples(st.just("pass"), st.integers(1, 5000)),
    st.tuples(st.just("take"), st.sampled_from("abc")),
    st.tuples(st.just("end"), st.sampled_from("abc"), st.booleans()),
    st.tuples(st.just("beat"), st.sampled_from("abc")),
)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    st.lists(STEPS, max_size=60),
    st.sampled_from(["latest", "all", "none"]),
    st.sampled_from(["skip", "wait"]),
)
def test_whatever_happens_each_due_time_has_one_end(
    tmp_path_factory, steps: list, catch_up: str, overlap: str
) -> None:
    store = open_store(f"duckdb:///{tmp_path_factory.mktemp('store')}")
    one, now = schedule(catch_up=catch_up, overlap=overlap), hours(0.5)
    held: dict[str, Claim] = {}
    ended: Counter = Counter()
    notice(store, one, now)
    for step, *what in steps:
        if step == "pass":
            now += timedelta(seconds=what[0])
            notice(store, one, now)
        elif step == "take":
            for mine in claim(store, [one], what[0], now):
                held[what[0]] = mine
        elif step == "beat" and what[0] in held:
            extend(store, held[what[0]], now)
        elif step == "end" and what[0] in held:
            mine = held.pop(what[0])
            if finish(store, one, mine, "r", "" if what[1] else "no", now) in ("succeeded", "parked"):
                ended[mine.due] += 1
        frame = dues_frame(store, None)
        assert (frame["state"] == "running").sum() <= 1
        assert frame["attempt"].max() <= one.retries + 1 or frame.empty
        assert not frame["due"].duplicated().any()
    assert all(count == 1 for count in ended.values())
    frame = dues_frame(store, None)
    assert pd.Series(frame["due"]).sort_values().diff().dropna().eq(pd.Timedelta("1h")).all(), (
        "a due time is lost"
    )
