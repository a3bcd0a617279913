"""Every record of a run that was altered, taken away or put in is named, and so is every file that it left."""

import json
import subprocess
import threading
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from hypothesis import given
from hypothesis import strategies as st
from nbformat.v4 import new_code_cell, new_notebook

from tradebot.chain import Entry, append, broken_links
from tradebot.config import Config
from tradebot.provenance import (
    blob_id,
    environment_digest,
    installed,
    package_revision,
    recorded_run,
    verify,
    verify_run,
)
from tradebot.runs import command_run, run
from tradebot.store import Store
from tradebot.why import trace, trace_lines

MOMENT = datetime(2026, 1, 5, 21, 30)


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path)


@pytest.fixture
def recorded(config: Config, store: Store) -> Store:
    """A store with three runs of a notebook, the last of them failed."""
    cells = [new_code_cell("divisor = 1", metadata={"tags": ["parameters"]}), new_code_cell("1 / divisor")]
    nbformat.write(new_notebook(cells=cells), config.home / "ratio.ipynb")
    for divisor in (1, 2, 0):
        run(config.home / "ratio.ipynb", {"divisor": divisor}, config, store)
    assert verify(store, config.reports).wrong == []
    return store


def change(store: Store, sql: str) -> None:
    with store.engine.transaction("ledger", write=True) as transaction:
        transaction.rows(sql)


def folder(config: Config) -> Path:
    """The folder of the first run."""
    return sorted(path for path in config.reports.iterdir() if path.is_dir() and path.name[0] == "2")[0]


def test_a_run_says_what_made_it_and_what_it_left(config: Config, recorded: Store) -> None:
    row = recorded.runs().iloc[-1]
    assert row["blob"] == blob_id(config.home / "ratio.ipynb")
    assert (row["package"], row["environment"]) == (package_revision(), environment_digest())
    assert recorded.environment(row["environment"]) == installed()
    assert sorted(json.loads(row["files"])) == ["notebook.html", "notebook.ipynb"]


def test_the_blob_is_the_name_that_git_gives(tmp_path: Path) -> None:
    path = tmp_path / "x.ipynb"
    path.write_bytes(b'{"cells": []}\n')
    told = subprocess.run(["git", "hash-object", path], capture_output=True, text=True, check=True)
    assert blob_id(path) == told.stdout.strip()


ALTERATIONS: list[tuple[str, str, str]] = [
    ("a status", "UPDATE runs SET status = 'succeeded' WHERE status = 'failed'", "was altered: status"),
    ("an error", "UPDATE runs SET error = NULL WHERE error IS NOT NULL", "was altered: error"),
    ("a fingerprint", "UPDATE runs SET fingerprint = 'x' WHERE status = 'failed'", "was altered: fingerprint"),
    ("a parameter", "UPDATE runs SET parameters = '{\"divisor\": 3}' WHERE status = 'failed'", "altered: parameters"),
    ("a date", "UPDATE runs SET started = started - INTERVAL 1 DAY WHERE status = 'failed'", "altered: started"),
    ("a run less", "DELETE FROM runs WHERE status = 'failed'", "is missing from its table"),
    (
        "a run more",
        "INSERT INTO runs (id, notebook, parameters, started, status) "
        "VALUES ('better', 'n', '{}', TIMESTAMP '2020-01-01', 'succeeded')",
        "run better is in no entry of the chain",
    ),
    ("an entry less", "DELETE FROM chain WHERE number = 3", "entry 3 of the chain is missing"),
    ("two entries less", "DELETE FROM chain WHERE number IN (2, 3)", "entries 2 to 3 of the chain are missing"),
    ("an entry's content", "UPDATE chain SET content = replace(content, 'failed', 'succeeded')", "6 of the chain (run"),
    ("an entry's hash", "UPDATE chain SET hash = 'x' WHERE number = 2", "entry 2 of the chain"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("sql", "says"), [each[1:] for each in ALTERATIONS], ids=[each[0] for each in ALTERATIONS]
)
def test_a_record_edited_by_hand_is_named(config: Config, recorded: Store, sql: str, says: str) -> None:
    change(recorded, sql)
    assert any(says in line for line in verify(recorded, config.reports).wrong)


FILES: dict[str, tuple[Callable[[Path], object], str]] = {
    "a page altered": (lambda at: (at / "notebook.html").write_text("all is well"), "notebook.html was altered"),
    "a notebook altered": (lambda at: (at / "notebook.ipynb").write_text("{}"), "notebook.ipynb was altered"),
    "a page gone": (lambda at: (at / "notebook.html").unlink(), "notebook.html is gone"),
    "a file more": (lambda at: (at / "tearsheet.html").write_text("rich"), "tearsheet.html was added"),
    "a folder gone": (lambda at: at.rename(at.with_name("elsewhere")), "is gone"),
    "a folder more": (lambda at: at.with_name("20200101T000000-backtest-abcd").mkdir(), "is of no recorded run"),
}  # fmt: skip


@pytest.mark.parametrize(("edit", "says"), FILES.values(), ids=FILES)
def test_what_a_run_left_is_held_against_what_is_there(
    config: Config, recorded: Store, edit: Callable[[Path], object], says: str
) -> None:
    edit(folder(config))
    wrong = verify(recorded, config.reports).wrong
    assert len(wrong) == 1
    assert says in wrong[0]


def test_the_end_of_a_chain_is_held_by_a_head_noted_elsewhere(config: Config, recorded: Store) -> None:
    before = verify(recorded, config.reports).head
    run(config.home / "ratio.ipynb", {}, config, recorded)
    after = verify(recorded, config.reports).head
    assert verify(recorded, config.reports, before).wrong == []
    assert verify(recorded, config.reports, after[:12]).wrong == []
    newest = recorded.runs()["id"][0]
    change(recorded, f"DELETE FROM runs WHERE id = '{newest}'")
    change(recorded, f"DELETE FROM chain WHERE subject = '{newest}'")
    (config.reports / newest).rename(config.reports / "away")
    assert verify(recorded, config.reports).wrong == [], "nothing in the store can tell"
    assert verify(recorded, config.reports, before).wrong == []
    (told,) = verify(recorded, config.reports, after).wrong
    assert "entries were taken off its end" in told


def test_a_quick_look_leaves_the_files_out(config: Config, recorded: Store) -> None:
    (folder(config) / "notebook.html").write_text("all is well")
    assert verify(recorded, config.reports, files=False).wrong == []
    change(recorded, "UPDATE runs SET status = 'failed' WHERE status = 'succeeded'")
    assert verify(recorded, config.reports, files=False).wrong


def test_one_run_is_held_against_its_own_entry(config: Config, recorded: Store) -> None:
    name = recorded.runs()["id"][0]
    assert verify_run(recorded, config.reports, recorded_run(recorded, name))[1] == []
    change(recorded, f"UPDATE chain SET hash = 'x' WHERE subject = '{name}'")
    (_, wrong) = verify_run(recorded, config.reports, recorded_run(recorded, name))
    assert wrong
    assert all("of the chain (run" in line for line in wrong)


def test_a_signal_that_names_an_unrecorded_run_is_named(config: Config, recorded: Store, sample) -> None:
    from tradebot.pipeline import configured_strategy
    from tradebot.signal_engine import generate

    bars, actions = sample
    signals, _ = generate(bars.loc[["IBM"]], actions.query("symbol == 'IBM'"), configured_strategy(config))
    recorded.write_signals("crossover", signals.head(3), run="20200101T000000-pipeline-abcd")
    (told,) = verify(recorded, config.reports).wrong
    assert told == "run 20200101T000000-pipeline-abcd is not recorded, and signal 1 and 2 more name it"


def test_a_command_is_a_run_that_leaves_no_notebook(config: Config, store: Store) -> None:
    with command_run("tradebot signals", config, store) as made:
        assert store.runs()["status"].tolist() == ["running"]
    with pytest.raises(ZeroDivisionError), command_run("tradebot execute --once", config, store):
        1 / 0  # noqa: B018
    rows = store.runs().set_index("notebook")
    assert rows.loc["tradebot signals", ["id", "status"]].tolist() == [made, "succeeded"]
    assert rows.loc["tradebot execute --once", "error"] == "ZeroDivisionError: division by zero"
    assert rows["output"].tolist() == [None, None]
    assert verify(store, config.reports).wrong == []
    assert list((config.reports / ".staging").iterdir()) == []


def test_writers_at_once_make_one_chain(store: Store) -> None:
    def write(worker: int) -> None:
        for number in range(15):
            store.write_run(
                id=f"{worker}-{number}", notebook="n", parameters={}, started=MOMENT, status="running"
            )

    threads = [threading.Thread(target=write, args=(worker,)) for worker in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    entries = store.chain()
    assert [entry.number for entry in entries] == list(range(1, 61))
    assert broken_links(entries) == []


RECORDS = st.lists(
    st.dictionaries(st.text(max_size=5), st.integers() | st.text(max_size=5)), min_size=1, max_size=8
)


@given(records=RECORDS, data=st.data())
def test_any_change_of_any_entry_breaks_the_chain(records: list[dict], data: st.DataObject) -> None:
    entries: list[Entry] = []
    for number, record in enumerate(records):
        entries.append(append(entries[-1] if entries else None, "run", str(number), record))
    assert broken_links(entries) == []
    place = data.draw(st.integers(0, len(entries) - 1))
    field = data.draw(st.sampled_from(["kind", "subject", "content", "hash"]))
    forged = entries[place]._replace(**{field: getattr(entries[place], field) + "x"})
    assert broken_links([*entries[:place], forged, *entries[place + 1 :]])
    if place < len(entries) - 1:
        assert broken_links([*entries[:place], *entries[place + 1 :]])


def test_a_signal_leads_to_the_cell_that_made_it_whatever_became_of_the_files(
    config: Config, store: Store, sample
) -> None:
    from tradebot.pipeline import configured_strategy
    from tradebot.signal_engine import generate

    tagged = new_code_cell("run", metadata={"tags": ["signals"]})
    cells = [new_code_cell("run = ''", metadata={"tags": ["parameters"]}), new_code_cell("1"), tagged]
    nbformat.write(new_notebook(cells=cells), config.home / "find.ipynb")
    done = run(config.home / "find.ipynb", {}, config, store)
    bars, actions = sample
    signals, _ = generate(bars.loc[["IBM"]], actions.query("symbol == 'IBM'"), configured_strategy(config))
    store.write_signals("crossover", signals.head(1), run=done.id)
    found = trace(store, config.reports, "1")
    assert found.found.page == f"{done.id}/notebook.html#cell-id={tagged['id']}"
    assert f'id="cell-id={tagged["id"]}"' in (done.folder / "notebook.html").read_text()
    assert any(line.endswith("as recorded") for line in trace_lines(found))
    (done.folder / "notebook.ipynb").write_text("not json")
    altered = trace(store, config.reports, "1")
    assert altered.found.page == f"{done.id}/notebook.html"
    assert any("notebook.ipynb was altered" in line for line in trace_lines(altered))
