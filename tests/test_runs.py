"""Runs: parameters checked before anything starts, published whole or as failed, no secret in what is published."""

import json
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from pydantic import SecretStr
from servers.webhook import Webhook

from tradebot.config import Config, UserError, load_config
from tradebot.runs import check_parameters, git_revision, reap, run
from tradebot.store import Store

PARAMETERS = "symbols = []\nend = ''\nbars = 20\nratio = 0.5\nstrict = True\nrun = ''"


def notebook(folder: Path, *cells: str, parameters: str = PARAMETERS) -> Path:
    """A notebook with a parameters cell, some cells, the last of them a summary."""
    made = [new_code_cell(parameters, metadata={"tags": ["parameters"]}), *map(new_code_cell, cells)]
    made[-1].metadata["tags"] = made[-1].metadata.get("tags", []) + (["summary"] if cells else [])
    path = folder / "example.ipynb"
    nbformat.write(new_notebook(cells=made), path)
    return path


@pytest.fixture
def config(tmp_path: Path) -> Config:
    return Config(home=tmp_path)


def test_text_from_the_command_line_takes_the_type_of_the_default(tmp_path: Path) -> None:
    given = {"symbols": "AAPL, IBM", "bars": "5", "ratio": "1", "strict": "False", "end": "2012-01-01"}
    assert check_parameters(notebook(tmp_path), given) == {
        "symbols": ["AAPL", "IBM"], "bars": 5, "ratio": 1.0, "strict": False, "end": "2012-01-01"
    }  # fmt: skip


@pytest.mark.parametrize(
    ("given", "says"),
    [
        ({"symbol": "AAPL"}, "has no parameter 'symbol'; it has symbols, end, bars"),
        ({"bars": "many"}, "bars = 'many' must be int"),
        ({"bars": 2.5}, "bars = 2.5 must be int"),
        ({"bars": True}, "bars = True must be int"),
        ({"strict": "maybe"}, "strict = 'maybe' must be bool"),
    ],
)
def test_a_wrong_parameter_starts_nothing(
    tmp_path: Path, config: Config, store: Store, given: dict, says: str
) -> None:
    with pytest.raises(UserError, match=says):
        run(notebook(tmp_path, "open('ran', 'w')"), given, config, store)
    assert store.runs().empty
    assert not config.reports.exists()


@pytest.mark.parametrize("content", ["", "{}", "[]", "not json"])
def test_a_file_that_is_no_notebook_is_one_line(tmp_path: Path, content: str) -> None:
    path = tmp_path / "x.ipynb"
    path.write_text(content)
    with pytest.raises(UserError, match="is not a notebook"):
        check_parameters(path, {})


def test_a_run_is_recorded_and_published_with_what_it_wrote(
    tmp_path: Path, config: Config, store: Store
) -> None:
    path = notebook(tmp_path, "open('table.csv', 'w').write('a,b')", "print(bars, run)")
    done = run(path, {"bars": 7}, config, store)
    assert done.succeeded
    assert done.summary == f"7 {done.id}"
    assert sorted(each.name for each in done.folder.iterdir()) == [
        "notebook.html",
        "notebook.ipynb",
        "table.csv",
    ]
    record = store.runs().iloc[0]
    assert (record["status"], record["output"], record["id"]) == ("succeeded", done.folder.name, done.id)
    defaults = {"symbols": [], "end": "", "ratio": 0.5, "strict": True}
    assert json.loads(record["parameters"]) == {**defaults, "bars": 7, "run": done.id}
    assert record["started"] <= record["ended"]
    assert list((config.reports / ".staging").iterdir()) == []


@pytest.mark.parametrize("given", ["", "breakout"])
def test_a_record_says_which_strategy_was_configured_if_it_was_left_to_the_settings(
    tmp_path: Path, store: Store, given: str
) -> None:
    chosen = {"name": "crossover", "filters": "volume(minimum=1.0)", "sma": "10"}
    path = notebook(tmp_path, parameters="strategy = ''")
    run(path, {"strategy": given}, Config(home=tmp_path, strategy=chosen), store)
    configured = {"name": "crossover", "parameters": {"sma": 10}, "filters": ["volume(minimum=1.0)"]}
    told = {"strategy": given} if given else {"strategy": "", "configured": configured}
    assert json.loads(store.runs()["parameters"][0]) == told


def test_a_cell_that_raises_publishes_a_failed_run(tmp_path: Path, config: Config, store: Store) -> None:
    done = run(notebook(tmp_path, "x = 1", "1 / 0", "print('never')"), {}, config, store)
    assert not done.succeeded
    assert done.error.startswith("ZeroDivisionError: division by zero (cell 3")
    assert done.folder.name.endswith("-failed")
    assert "ZeroDivisionError" in (done.folder / "notebook.html").read_text()
    assert store.runs()["status"].tolist() == ["failed"]


def test_a_kernel_that_dies_is_a_failed_run(tmp_path: Path, config: Config, store: Store) -> None:
    done = run(notebook(tmp_path, "import os; os._exit(9)"), {}, config, store)
    assert not done.succeeded
    assert "died" in done.error.lower()
    assert store.runs()["status"].tolist() == ["failed"]


def test_no_secret_reaches_what_is_published(
    tmp_path: Path, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ALPACA_API_SECRET", 'sk-"quoted"-secret')
    environment = {"alpaca_api_secret": SecretStr('sk-"quoted"-secret')}
    config = Config(home=tmp_path, environment=environment)
    leak = (
        "import os; print(os.environ['ALPACA_API_SECRET']); raise ValueError(os.environ['ALPACA_API_SECRET'])"
    )
    done = run(notebook(tmp_path, leak), {}, config, store)
    assert not done.succeeded
    for path in filter(Path.is_file, done.folder.rglob("*")):
        assert b"quoted" not in path.read_bytes(), path
    assert all("***" in (done.folder / name).read_text() for name in ("notebook.ipynb", "notebook.html"))
    assert "quoted" not in f"{done.error} {store.runs()['error'].tolist()}"


def test_the_page_of_a_run_asks_nobody_for_anything(tmp_path: Path, config: Config, store: Store) -> None:
    import re

    done = run(notebook(tmp_path, "import pandas as pd; pd.DataFrame({'a': [1]})"), {}, config, store)
    page = (done.folder / "notebook.html").read_text()
    assert not re.findall(r"""(?:src|href)=["']https?://[^"']+""", page)


CHILD = """
import sys
from pathlib import Path
from tradebot.config import Config
from tradebot.runs import run
from tradebot.store import open_store
home = Path(sys.argv[1])
run(home / "example.ipynb", {}, Config(home=home), open_store(f"duckdb:///{home}/data"))
"""


@pytest.fixture
def running(tmp_path: Path):
    """A run in a process of its own that has reached its sleeping cell."""
    from tradebot.store import open_store

    store = open_store(f"duckdb:///{tmp_path}/data")
    notebook(tmp_path, "open('here', 'w').close(); import time; time.sleep(60)", "1")
    process = subprocess.Popen([sys.executable, "-c", CHILD, tmp_path], stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list((tmp_path / "reports" / ".staging").glob("*/here")):
        assert time.monotonic() < deadline
        assert process.poll() is None
        time.sleep(0.05)
    yield store, process
    process.kill()
    process.wait()


def test_a_run_that_was_killed_is_published_as_failed_by_the_next(tmp_path: Path, running) -> None:
    store, process = running
    assert reap(store, tmp_path / "reports", datetime(2026, 1, 1)) == [], (
        "a living run was taken for a dead one"
    )
    process.kill()
    process.wait()
    assert store.runs()["status"].tolist() == ["running"]
    (reaped,) = reap(store, tmp_path / "reports", datetime(2026, 1, 1))
    record = store.runs().iloc[0]
    assert (record["id"], record["status"], record["error"]) == (reaped, "failed", "the process was killed")
    assert (tmp_path / "reports" / f"{reaped}-failed").is_dir()
    assert reap(store, tmp_path / "reports", datetime(2026, 1, 1)) == []


def test_an_interrupted_run_is_published_as_failed(tmp_path: Path, running) -> None:
    store, process = running
    process.send_signal(signal.SIGINT)
    process.wait(timeout=60)
    record = store.runs().iloc[0]
    assert record["status"] == "failed"
    assert "nterrupt" in record["error"]
    assert (tmp_path / "reports" / record["output"]).is_dir()


def test_the_revision_says_when_files_differ_from_it(tmp_path: Path) -> None:
    assert git_revision(tmp_path) is None
    for command in (
        ["init", "-q"], ["config", "user.email", "a@b.c"], ["config", "user.name", "x"],
        ["commit", "-q", "--allow-empty", "-m", "first"],
    ):  # fmt: skip
        subprocess.run(["git", "-C", tmp_path, *command], check=True)
    clean = git_revision(tmp_path)
    assert clean
    assert not clean.endswith("-dirty")
    (tmp_path / "file").write_text("")
    subprocess.run(["git", "-C", tmp_path, "add", "file"], check=True)
    assert git_revision(tmp_path) == f"{clean}-dirty"


def test_a_run_that_fails_tells_somebody(tmp_path: Path, store: Store) -> None:
    with Webhook() as hook:
        environment = {"TRADEBOT_WEBHOOK_URL": hook.url, "TRADEBOT_NOTIFY_CHANNELS": "webhook"}
        config = load_config(tmp_path, environment)
        done = run(notebook(tmp_path, "raise ValueError('no bars today')"), {}, config, store)
    assert not done.succeeded
    (told,) = (body.decode() for body in hook.bodies)
    assert "example.ipynb failed" in told
    assert "no bars today" in told
