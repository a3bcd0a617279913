"""Schedules: due times against the exchange's own calendar, and files that are wrong."""

from itertools import pairwise
from pathlib import Path

import exchange_calendars
import nbformat
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tradebot.config import Config, UserError
from tradebot.schedules import Schedule, due_between, filled, load_schedules, next_due


def schedule(trigger: dict, **more) -> Schedule:
    return Schedule(**{"name": "s", "notebook": "a.ipynb", "calendar": "XNYS", "trigger": trigger} | more)


def new_york(moments: list[pd.Timestamp]) -> list[str]:
    return [
        f"{moment.tz_localize('UTC').tz_convert('America/New_York'):%m-%d %H:%M:%S}" for moment in moments
    ]


def test_thanksgiving_week_has_three_whole_days_and_a_half_one() -> None:
    span = pd.Timestamp("2024-11-25"), pd.Timestamp("2024-12-01")
    closes = due_between(schedule({"event": "close", "offset": "15min"}), *span)
    assert new_york(closes) == ["11-25 16:15:00", "11-26 16:15:00", "11-27 16:15:00", "11-29 13:15:00"]
    opens = due_between(schedule({"event": "open", "offset": "-10min"}), *span)
    assert new_york(opens) == ["11-25 09:20:00", "11-26 09:20:00", "11-27 09:20:00", "11-29 09:20:00"]
    every = due_between(schedule({"every": "1h"}), *span)
    assert new_york(every)[-3:] == ["11-29 10:30:00", "11-29 11:30:00", "11-29 12:30:00"]


@pytest.mark.parametrize(("first", "hours"), [("2024-03-08", [21, 20]), ("2024-11-01", [20, 21])])
def test_a_change_of_the_clock_moves_utc_and_not_the_exchange(first: str, hours: list[int]) -> None:
    start = pd.Timestamp(first)
    for trigger in ({"event": "close"}, {"cron": "0 16 * * mon-fri"}):
        found = due_between(schedule(trigger), start, start + pd.Timedelta("3d18h") + pd.Timedelta("6h"))
        assert [moment.hour for moment in found] == hours


def test_cron_in_the_hour_that_is_missing_or_there_twice_is_due_once_a_day() -> None:
    for first in ("2024-03-09", "2024-11-02"):
        start = pd.Timestamp(first, tz="America/New_York").tz_convert(None)
        found = due_between(schedule({"cron": "30 1 * * *"}), start, start + pd.Timedelta("72h"))
        assert len(found) == len(set(found)) == 3


@settings(deadline=None)
@given(
    st.sampled_from(
        [
            {"event": "open", "offset": "-1h"},
            {"event": "close", "offset": "3d"},
            {"every": "7min"},
            {"cron": "5 4 * * *"},
        ]
    ),
    st.lists(st.integers(0, 60 * 24 * 40), min_size=2, max_size=6),
)
def test_spans_that_follow_each_other_have_what_the_whole_has(trigger: dict, minutes: list[int]) -> None:
    one, start = schedule(trigger), pd.Timestamp("2024-10-20")
    marks = [start + pd.Timedelta(minutes=minute) for minute in sorted(minutes)]
    parts = [due for after, until in pairwise(marks) for due in due_between(one, after, until)]
    whole = due_between(one, marks[0], marks[-1])
    assert parts == whole
    assert whole == sorted(set(whole))
    after = next_due(one, marks[0])
    assert after > marks[0]
    assert not whole or whole[0] == after


def test_every_close_of_ten_years_is_due() -> None:
    exchange = exchange_calendars.get_calendar("XNYS", start="2010-01-04", end="2019-12-31")
    found = due_between(
        schedule({"event": "close"}), pd.Timestamp("2010-01-04"), pd.Timestamp("2019-12-31 23:00")
    )
    assert found == list(exchange.closes.dt.tz_localize(None))


def test_a_calendar_does_not_end_while_a_process_lives() -> None:
    far = pd.Timestamp.now().normalize() + pd.Timedelta(days=3 * 366)
    assert next_due(schedule({"event": "close"}), far) < far + pd.Timedelta("8d")


def test_parameters_and_output_are_filled() -> None:
    one = schedule(
        {"event": "close"}, parameters={"end": "{session}", "n": 3}, output="{schedule}-{due:%Y%m%d}"
    )
    assert filled(one, pd.Timestamp("2024-11-28 12:00")) == ({"end": "2024-11-27", "n": 3}, "s-20241128")
    assert filled(one, pd.Timestamp("2024-11-27 14:30"))[0]["end"] == "2024-11-27"
    assert filled(one, pd.Timestamp("2024-11-27 14:29"))[0]["end"] == "2024-11-26"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "schedules").mkdir()
    cell = nbformat.v4.new_code_cell("symbols = []\nend = ''", metadata={"tags": ["parameters"]})
    nbformat.write(nbformat.v4.new_notebook(cells=[cell]), tmp_path / "a.ipynb")
    return tmp_path


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        (
            'notebook = "a.ipynb"\n[trigger]\nevent = "noon"',
            3,
            "trigger.event: Input should be 'open' or 'close'",
        ),
        ('notebook = "a.ipynb"\ntrigger = {}', 2, "a trigger is one of event, every and cron"),
        (
            'notebook = "a.ipynb"\ntrigger = {event = "open", cron = "0 0 * * *"}',
            2,
            "one of event, every and cron",
        ),
        ('notebook = "a.ipynb"\n[trigger]\ncron = "0 25 * * *"', 2, "25"),
        ('notebook = "a.ipynb"\n[trigger]\ncron = "0 5 * * 6"', 2, "write weekdays as names"),
        ('notebook = "a.ipynb"\n[trigger]\nevery = "5 parsecs"', 3, "not a duration"),
        ('notebook = "b.ipynb"\n[trigger]\nevent = "open"', 1, "No such file"),
        ('notebook = "a.ipynb"\nretires = 3\n[trigger]\nevent = "open"', 2, "retires"),
        ('notebook = "a.ipynb"\ncalendar = "XMOON"\n[trigger]\nevent = "open"', 2, "no such exchange"),
        (
            'notebook = "a.ipynb"\n[trigger]\nevent = "open"\n[parameters]\nsymbol = "A"',
            4,
            "no parameter 'symbol'",
        ),
        (
            'notebook = "a.ipynb"\n[trigger]\nevent = "open"\n[parameters]\nend = "{today}"',
            1,
            "nothing is called 'today'",
        ),
        ('notebook = "a.ipynb"\n[trigger\nevent = "open"', 2, "line 2"),
        ('[trigger]\nevent = "open"', 1, "notebook: Field required"),
    ],
)
def test_a_wrong_file_is_refused_with_its_line(home: Path, text: str, line: int, words: str) -> None:
    (home / "schedules" / "wrong.toml").write_text(text)
    (home / "schedules" / "zz.toml").write_text('notebook = "a.ipynb"\n[trigger]\nevent = "dusk"')
    with pytest.raises(UserError) as told:
        load_schedules(Config(home=home))
    first, second = str(told.value).splitlines()
    assert first.startswith(f"{home}/schedules/wrong.toml:{line}: ")
    assert words in first
    assert "zz.toml:3" in second


def test_a_right_file_is_read(home: Path) -> None:
    (home / "schedules" / "daily.toml").write_text(
        'notebook = "a.ipynb"\nretries = 3\nbackoff = "30s"\n[trigger]\nevent = "close"\noffset = "15min"\n[parameters]\nend = "{session}"'
    )
    (one,) = load_schedules(Config(home=home))
    assert (one.name, one.calendar, one.retries, one.backoff) == ("daily", "XNYS", 3, pd.Timedelta("30s"))
