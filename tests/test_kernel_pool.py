"""A kernel that waited is like one that has just been started, serves one run, and leaves nothing behind."""

import os
import signal
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import nbformat
import pytest
from nbformat.v4 import new_code_cell, new_notebook
from test_scheduler import alive, wait_until

from tradebot.config import Config
from tradebot.kernel_pool import KernelPool
from tradebot.runs import Run, run
from tradebot.store import Store


@pytest.fixture
def pool(tmp_path: Path) -> Iterator[KernelPool]:
    with closing(KernelPool(tmp_path)) as pool:
        yield pool


@pytest.fixture
def ask(tmp_path: Path, store: Store, pool: KernelPool):
    """Runs a notebook that says which process it is, where, for which project, and what was left in it."""
    cell = "import os\nprint(os.getpid(), os.getcwd(), os.environ['TRADEBOT_HOME'], globals().get('left'), sep='\\n')\nleft = 1"
    made = new_notebook(cells=[new_code_cell(cell, metadata={"tags": ["summary"]})])
    nbformat.write(made, tmp_path / "ask.ipynb")

    def asked() -> Run:
        return run(tmp_path / "ask.ipynb", {}, Config(home=tmp_path), store, pool=pool)

    return asked


def test_each_run_has_a_process_of_its_own_at_home_in_its_folder(
    ask, pool: KernelPool, tmp_path: Path
) -> None:
    processes = []
    for _ in range(3):
        pool.warm()
        done = ask()
        process, folder, home, left = done.summary.splitlines()
        assert (Path(folder), Path(home), left) == (
            tmp_path / "reports" / ".staging" / done.id,
            tmp_path,
            "None",
        )
        assert nbformat.read(done.folder / "notebook.ipynb", 4).cells[0].execution_count == 1
        processes.append(int(process))
    assert len(set(processes)) == 3
    assert not any(map(alive, processes))


def test_one_that_died_while_it_waited_is_replaced(ask, pool: KernelPool) -> None:
    pool.warm()
    waiting = pool._waiting.process
    os.killpg(waiting.pid, signal.SIGKILL)
    wait_until(lambda: not alive(waiting.pid))
    assert ask().succeeded


def test_what_waits_ends_with_the_pool_and_runs_go_on_without(ask, pool: KernelPool) -> None:
    pool.warm()
    waiting = pool._waiting.process
    pool.close()
    assert not alive(waiting.pid)
    pool.warm()
    assert pool._waiting is None
    assert ask().succeeded


def test_a_kernel_that_cannot_start_is_a_failed_run_and_one_line(
    ask, pool: KernelPool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "share" / "kernels" / "python3"
    folder.mkdir(parents=True)
    (folder / "kernel.json").write_text(
        '{"argv": ["/no/such/python"], "display_name": "x", "language": "python"}'
    )
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "share"))
    done = ask()
    assert not done.succeeded
    assert "No such file or directory: '/no/such/python'" in done.error
    assert "\n" not in done.error
