"""`tradebot serve` in a process of its own, to be killed and started again on the same port."""

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path


class WebServer:
    """The server of a home folder; `said` is what it wrote."""

    def __init__(self, home: Path, **environment: str):
        self._home, self._environment = home, environment
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        program = str(Path(sys.executable).with_name("tradebot"))
        words = [program, "serve", "--port", str(self.port)]
        surroundings = os.environ | {"TRADEBOT_HOME": str(self._home)} | self._environment
        self.process = subprocess.Popen(words, env=surroundings, stderr=subprocess.PIPE, text=True)
        self.said, started = [], threading.Event()

        def read() -> None:
            for line in self.process.stderr:
                self.said.append(line)
                if "Application startup complete" in line:
                    started.set()
            started.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        assert started.wait(120), "the server did not start"
        assert self.process.poll() is None, "".join(self.said)

    def kill(self, how: int = signal.SIGKILL) -> int:
        """End it; its exit code."""
        self.process.send_signal(how)
        code = self.process.wait(60)
        self._reader.join(5)
        self.process.stderr.close()
        return code
