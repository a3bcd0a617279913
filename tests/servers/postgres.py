"""A PostgreSQL server of the tests' own, from the binaries that are on the machine."""

import contextlib
import os
import pwd
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from uuid import uuid4

import psycopg2


def binaries() -> Path | None:
    """The folder of PostgreSQL's programs: on PATH, or where Debian puts those of a server."""
    if found := shutil.which("pg_ctl"):
        return Path(found).resolve().parent
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin/pg_ctl"), key=lambda path: int(path.parts[-3]))
    return installed[-1].parent if installed else None


@contextlib.contextmanager
def open_folder() -> Iterator[Path]:
    """A folder that other users may enter: as root we run the server as one.

    Not one of pytest's: every session that starts shuts the folder above all of them to others, also under a running server.
    """
    with tempfile.TemporaryDirectory(prefix="tradebot-test-", ignore_cleanup_errors=True) as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@contextlib.contextmanager
def own_server(programs: Path, *settings: str) -> Iterator["PostgresServer"]:
    """A server for the length of the block."""
    with open_folder() as folder:
        server = PostgresServer(folder / "server", programs, settings)
        try:
            yield server
        finally:
            server.stop()


class PostgresServer:
    """A cluster in a folder, on a free port or the one given. `password` is the superuser's, asked for on TCP."""

    password = "a-secret-of-the-tests"

    def __init__(self, folder: Path, programs: Path, settings: Sequence[str] = (), port: int = 0):
        self._folder, self.programs, self.settings = folder, programs, list(settings)
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", port))
            self.port = probe.getsockname()[1]
        # PostgreSQL refuses to run as root, and containers run their tests as root.
        self._user = "postgres" if os.geteuid() == 0 else None
        folder.mkdir(parents=True)
        secret = folder / "password"
        secret.write_text(self.password)
        if self._user:
            account = pwd.getpwnam(self._user)
            for path in (folder, secret):
                os.chown(path, account.pw_uid, account.pw_gid)
        self._run(
            "initdb",
            "-D",
            folder / "data",
            "-U",
            "owner",
            "-A",
            "scram-sha-256",
            f"--pwfile={secret}",
            "-E",
            "UTF8",
        )
        self.start()
        execute(self.url(user="owner"), f"CREATE ROLE trader LOGIN CREATEDB PASSWORD '{self.password}'")

    def _run(self, program: str, *words: object, check: bool = True) -> None:
        done = subprocess.run(
            [self.programs / program, *map(str, words)],
            user=self._user,
            cwd="/",
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
        )
        if check and done.returncode:
            log = self._folder / "log"
            raise RuntimeError(f"{program}: {done.stderr}{log.read_text()[-2000:] if log.exists() else ''}")

    def start(self) -> None:
        options = [
            f"-p {self.port} -c listen_addresses=127.0.0.1 -c unix_socket_directories={self._folder}",
            "-c deadlock_timeout=5s",  # time for a test to be at its second lock
            *(f"-c {setting}" for setting in self.settings),
        ]
        self._run(
            "pg_ctl",
            "-D",
            self._folder / "data",
            "-l",
            self._folder / "log",
            "-w",
            "-o",
            " ".join(options),
            "start",
        )

    def stop(self, mode: str = "immediate") -> None:
        """`immediate` is a crash: the next start recovers from the log."""
        self._run("pg_ctl", "-D", self._folder / "data", "-m", mode, "-w", "stop", check=False)

    def url(self, database: str = "postgres", user: str = "trader", password: str | None = None) -> str:
        return f"postgresql://{user}:{password or self.password}@127.0.0.1:{self.port}/{database}"

    def database(self) -> str:
        """The URL of a new, empty database."""
        return new_database(self.url())


def new_database(url: str) -> str:
    """The URL of a new, empty database on the server of `url`."""
    name = f"test_{uuid4().hex[:12]}"
    execute(url, f"CREATE DATABASE {name} TEMPLATE template0")
    address, _, query = url.partition("?")
    return f"{address.rpartition('/')[0]}/{name}" + (f"?{query}" if query else "")


def drop_database(url: str, server: str) -> None:
    execute(server, f"DROP DATABASE IF EXISTS {url.partition('?')[0].rpartition('/')[2]} WITH (FORCE)")


def execute(url: str, *statements: str) -> list[tuple]:
    """Run statements one by one outside transactions; what the last one answers."""
    connection = psycopg2.connect(url)
    try:
        connection.autocommit = True
        cursor = connection.cursor()
        for statement in statements:
            cursor.execute(statement)
        return cursor.fetchall() if cursor.description else []
    finally:
        connection.close()
