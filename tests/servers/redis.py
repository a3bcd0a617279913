"""Redis on loopback, to be stopped and started again on the same port, its messages lost."""

import shutil
import socket
import subprocess
import time
from pathlib import Path


def program() -> str | None:
    """Where the server is, if it is installed."""
    return shutil.which("redis-server")


class RedisServer:
    """A server that keeps nothing on disk."""

    def __init__(self, folder: Path, port: int = 0):
        self._folder = folder
        with socket.create_server(("127.0.0.1", port)) as free:
            self.port = free.getsockname()[1]
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        """Start it, empty, and wait until it answers."""
        words = [
            program(),
            "--port",
            str(self.port),
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ]
        self._process = subprocess.Popen(words, cwd=self._folder, stdout=subprocess.DEVNULL)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 1).close()
            except OSError:
                time.sleep(0.05)
            else:
                return
        raise RuntimeError("redis-server did not start")

    def stop(self) -> None:
        """Kill it."""
        self._process.kill()
        self._process.wait()
