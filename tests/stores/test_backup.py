"""Backups: of either store into either store, at one moment, complete or not there, and never over what has lived on."""

import json
import os
import shutil
import subprocess
import sys
import threading
from datetime import datetime
from pathlib import Path

import pandas as pd
import pytest

from stores.contract import in_process, one_signal, some_bars, write_as_before_versions
from stores.test_transfer import filled
from tradebot import engine
from tradebot.backup import MANIFEST, backup, restore
from tradebot.config import UserError
from tradebot.db_models import MIGRATIONS
from tradebot.engine import StoreError
from tradebot.keys import create_key
from tradebot.models import contents, place
from tradebot.store import Store, open_store
from tradebot.transfer import copy_store

NOW = datetime(2026, 11, 24, 3)


@pytest.fixture
def store(url: str) -> Store:
    return filled(open_store(url))


@pytest.mark.parametrize("kind", ["DuckDB", "PostgreSQL"])
def test_what_is_restored_is_what_was_there(store: Store, request, tmp_path: Path, kind: str) -> None:
    rows = backup(store, tmp_path / "saved", NOW)
    assert (rows > 0).all(), "a table that the backup could not have lost"
    expected = copy_store(store, open_store(f"duckdb:///{tmp_path}/compared"))["checksum"]
    if kind == "PostgreSQL" and store.engine.name.startswith("postgresql"):
        with store.engine.transaction(
            "market", write=True
        ) as everything:  # the only database here: it is lost, and new
            everything.rows("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
        target = open_store(request.getfixturevalue("postgres_url"))
    else:
        target = open_store(
            request.getfixturevalue("postgres_url") if kind == "PostgreSQL" else f"duckdb:///{tmp_path}/new"
        )
    restored = restore(tmp_path / "saved", target)
    assert restored["rows"].to_dict() == rows.to_dict()
    assert restored["checksum"].equals(expected)
    before = target.signals_after(0)["id"].max()
    target.write_signals("s", one_signal({}, "2012-02-01"))
    assert target.signals_after(before)["id"].gt(before).all(), "an id was given twice"


def test_a_backup_is_a_store(store: Store, tmp_path: Path) -> None:
    backup(store, tmp_path / "saved", NOW)
    pd.testing.assert_frame_equal(open_store(f"duckdb:///{tmp_path}/saved").bars(), store.bars())
    manifest = json.loads((tmp_path / "saved" / MANIFEST).read_text())
    assert manifest["taken"] == "2026-11-24T03:00:00Z"
    assert manifest["of"] == store.engine.name
    assert (tmp_path / "saved").stat().st_mode & 0o077 == 0, "others could read it"


def test_a_backup_beside_writers_is_of_one_moment(url: str, tmp_path: Path) -> None:
    """A writer keeps two tables alike, row for row; a backup in between must hold as many of each."""
    store, stop = open_store(url), threading.Event()

    def write() -> None:
        n = 0
        while not stop.is_set():
            n += 1
            with store.engine.transaction("ledger", write=True) as ledger:
                names = {"name": [f"n{n}"], "timing": ["close"], "since": [pd.Timestamp(NOW)]}
                ledger.upsert("schedules", pd.DataFrame(names))
                switch = {"name": [f"n{n}"], "is_on": [True], "reason": ["r"], "changed": [pd.Timestamp(NOW)]}
                ledger.upsert("switches", pd.DataFrame(switch))

    writer = threading.Thread(target=write)
    writer.start()
    try:
        taken = [backup(store, tmp_path / f"saved{n}", NOW) for n in range(5)]
    finally:
        stop.set()
        writer.join()
    assert all(rows["schedules"] == rows["switches"] for rows in taken)
    assert taken[-1]["schedules"] > taken[0]["schedules"], "nothing was written meanwhile"


def test_a_backup_that_is_killed_never_was(url: str, tmp_path: Path) -> None:
    open_store(url).write_bars(some_bars(3, 20))
    code = (
        "import os, signal\nfrom tradebot import backup as it\nfrom tradebot.store import open_store\n"
        "from datetime import datetime\nfrom pathlib import Path\n"
        "it._seal = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        f"it.backup(open_store({url!r}), Path({str(tmp_path / 'saved')!r}), datetime(2026, 11, 24))"
    )
    assert in_process(code).wait() == -9
    assert not (tmp_path / "saved").exists()
    rows = backup(open_store(url), tmp_path / "saved", NOW)
    assert rows["raw_prices"] == 60
    assert [path.name for path in tmp_path.glob("saved*")] == ["saved"]


@pytest.mark.parametrize("harm", ["changed", "cut", "gone"])
def test_a_damaged_backup_is_refused_before_anything_is_written(
    store: Store, tmp_path: Path, harm: str
) -> None:
    backup(store, tmp_path / "saved", NOW)
    file = tmp_path / "saved" / "ledger.duckdb"
    content = bytearray(file.read_bytes())
    content[5000] ^= 1
    file.write_bytes(content if harm == "changed" else content[:-4096])
    if harm == "gone":
        file.unlink()
    target = open_store(f"duckdb:///{tmp_path}/new")
    with pytest.raises(
        StoreError, match=r"ledger\.duckdb is missing or not as it was written: this backup is damaged"
    ):
        restore(tmp_path / "saved", target)
    assert target.bars().empty


def test_a_store_that_has_lived_on_is_not_restored_over(store: Store, tmp_path: Path) -> None:
    backup(store, tmp_path / "saved", NOW)
    assert restore(tmp_path / "saved", store)["copied"].sum() == 0
    with store.engine.transaction("ledger", write=True) as ledger:
        ledger.rows("UPDATE account SET cash = cash - 1")
    with pytest.raises(
        StoreError, match="already holds rows of account, and they differ; a backup is restored into a new"
    ):
        restore(tmp_path / "saved", store)
    store.write_signals("s", one_signal({}, "2012-02-01"))
    with pytest.raises(
        StoreError, match="holds 1 rows of signals that the other store lacks; a backup is restored into"
    ):
        restore(tmp_path / "saved", store)


def test_a_store_that_holds_anything_of_its_own_is_refused_before_anything_is_written(
    store: Store, tmp_path: Path
) -> None:
    backup(store, tmp_path / "saved", NOW)
    target = open_store(f"duckdb:///{tmp_path}/other")
    create_key(target, "laptop", "read", NOW)
    with pytest.raises(StoreError, match="holds 1 rows of api_keys that the other store lacks"):
        restore(tmp_path / "saved", target)
    assert target.bars().empty
    assert target.runs().empty


def test_an_interrupted_restore_goes_on(store: Store, tmp_path: Path) -> None:
    backup(store, tmp_path / "saved", NOW)
    target = open_store(f"duckdb:///{tmp_path}/new")

    def interrupted(table: str, rows: int) -> None:
        if table == "coverage":
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore(tmp_path / "saved", target, interrupted)
    result = restore(tmp_path / "saved", target)
    assert result.loc["raw_prices", "copied"] == 0
    assert result.loc["orders", "copied"] == 2


def test_an_old_backup_restores_into_a_new_version(tmp_path: Path, sample, monkeypatch) -> None:
    bars = sample[0].loc[["IBM"]]
    with monkeypatch.context() as then:
        then.setattr(engine, "MIGRATIONS", MIGRATIONS[:5])
        old = open_store(f"duckdb:///{tmp_path}/old")
        write_as_before_versions(old, bars)
        backup(old, tmp_path / "saved", NOW)
    content = {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()}
    target = open_store(f"duckdb:///{tmp_path}/new")
    assert restore(tmp_path / "saved", target).loc["raw_prices", "rows"] == len(bars)
    pd.testing.assert_frame_equal(target.bars(), bars, check_index_type=False)
    assert {path.name: path.read_bytes() for path in (tmp_path / "saved").iterdir()} == content


def test_a_store_that_is_behind_can_be_backed_up_before_it_is_upgraded(
    url: str, tmp_path: Path, monkeypatch
) -> None:
    with monkeypatch.context() as then:
        then.setattr(engine, "MIGRATIONS", MIGRATIONS[:5])
        store = open_store(url)
        write_as_before_versions(store, some_bars(3, 20))
    if url.startswith("duckdb"):
        assert backup(store, tmp_path / "saved", NOW)["raw_prices"] == 60
    else:
        with pytest.raises(
            StoreError, match="take the backup with that version of tradebot, or upgrade them first"
        ):
            backup(store, tmp_path / "saved", NOW)
        assert not list(tmp_path.glob("saved*"))


def test_a_full_disk_is_told_and_leaves_nothing(store: Store, tmp_path: Path) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", disk], capture_output=True)
    if mounted.returncode:
        pytest.skip("only root may mount a small disk")
    try:
        with pytest.raises((UserError, StoreError), match=r"No space left|the disk is full"):
            backup(store, disk / "saved", NOW)
        assert not list(disk.iterdir())
    finally:
        subprocess.run(["umount", disk], check=True)


MODELS = {"trend.json": b"its card", "trend.skops": b"its trees"}


@pytest.fixture
def saved(store: Store, tmp_path: Path) -> Path:
    """A backup of a home with a model."""
    place(MODELS, tmp_path)
    backup(store, tmp_path / "saved", NOW, home=tmp_path)
    return tmp_path / "saved"


def test_models_come_along_and_those_that_the_backup_lacks_stay(saved: Path, tmp_path: Path) -> None:
    home = tmp_path / "other"
    place({"mine.skops": b"newer"}, home)
    restore(saved, open_store(f"duckdb:///{home}/data"), home=home)
    assert contents(home) == MODELS | {"mine.skops": b"newer"}
    assert len(open_store(f"duckdb:///{saved}").bars()), "it still is a store"


@pytest.mark.parametrize("name", MODELS)
def test_a_model_that_was_trained_again_is_not_restored_over(
    saved: Path, store: Store, tmp_path: Path, name: str
) -> None:
    place({name: b"trained again"}, tmp_path)
    target = open_store(f"duckdb:///{tmp_path}/new")
    with pytest.raises(UserError, match=rf"models/{name} is another than the backup's; move that model away"):
        restore(saved, target, home=tmp_path)
    assert contents(tmp_path) == MODELS | {name: b"trained again"}
    assert target.bars().empty, "nothing was written before"


@pytest.mark.parametrize("harm", ["changed", "gone"])
def test_a_model_that_is_not_as_it_was_saved_is_not_restored(saved: Path, tmp_path: Path, harm: str) -> None:
    file = saved / "models" / "trend.skops"
    file.write_bytes(b"its bees!") if harm == "changed" else file.unlink()
    home = tmp_path / "other"
    with pytest.raises(StoreError, match=r"models/trend\.skops is missing or not as it was written"):
        restore(saved, open_store(f"duckdb:///{home}/data"), home=home)
    assert not contents(home)


def test_what_somebody_put_into_a_backup_is_not_restored(saved: Path, tmp_path: Path) -> None:
    (saved / "models" / "other.skops").write_bytes(b"foreign")
    home = tmp_path / "other"
    restore(saved, open_store(f"duckdb:///{home}/data"), home=home)
    assert contents(home) == MODELS


def test_models_are_written_where_the_store_was_restored_and_they_were_not(
    saved: Path, tmp_path: Path
) -> None:
    home = tmp_path / "other"
    home.mkdir()
    (home / "models").write_text("in the way")
    with pytest.raises(
        UserError, match=r"the models of .* cannot be written: File exists; the store is restored"
    ):
        restore(saved, open_store(f"duckdb:///{home}/data"), home=home)
    (home / "models").unlink()
    assert restore(saved, open_store(f"duckdb:///{home}/data"), home=home)["copied"].sum() == 0
    assert contents(home) == MODELS


def test_what_is_no_backup_and_what_would_be_written_over_is_one_line(store: Store, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"no/such is no backup: it has no backup\.json that can be read"):
        restore(tmp_path / "no/such", store)
    (tmp_path / "mine").mkdir()
    with pytest.raises(UserError, match="mine exists; a backup goes into a new folder"):
        backup(store, tmp_path / "mine", NOW)


def test_the_commands_say_what_they_did(tmp_path: Path) -> None:
    tradebot = Path(sys.executable).parent / "tradebot"
    environment = {**os.environ, "TRADEBOT_HOME": str(tmp_path)}

    def run(*words: str, **more: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [tradebot, "db", *words], capture_output=True, text=True, env=environment | more, cwd=tmp_path
        )

    missing = run("backup")
    assert missing.returncode == 2
    assert missing.stderr.endswith("does not exist; `tradebot db init` creates it\n")
    filled(open_store(f"duckdb:///{tmp_path}/data"))
    place(MODELS, tmp_path)
    taken = run("backup")
    assert taken.returncode == 0, taken.stderr
    (folder,) = (tmp_path / "backups").iterdir()
    assert taken.stdout.endswith(f"models: trend\nduckdb:///{tmp_path}/data is in {folder}\n")
    shutil.rmtree(tmp_path / "data")
    shutil.rmtree(tmp_path / "models")
    back = run("restore", str(folder))
    assert back.returncode == 0, back.stderr
    assert back.stdout.endswith(f"models: trend\nduckdb:///{tmp_path}/data holds what {folder} does\n")
    assert contents(tmp_path) == MODELS
    refused = run("restore", str(tmp_path))
    assert (refused.returncode, refused.stderr.count("\n")) == (2, 1)
