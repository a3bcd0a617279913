"""docker-compose.yml as far as ours goes: variables, services, volumes; each service of the image as a container."""

import re
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import yaml

from .image import Container, Stage


def filled(text: str, environment: Mapping[str, str]) -> str:
    """The file with its variables filled in. Raises KeyError, with the file's own words, for one that has to be given."""

    def value(match: re.Match) -> str:
        name, how, rest = match.groups()
        if given := environment.get(name):
            return given
        if how == ":?":
            raise KeyError(f"{name}: {rest}")
        return rest or ""

    return re.sub(r"\$\{(\w+)(?:(:[-?])([^}]*))?\}", value, text)


class Stack:
    """The services of a compose file in `project`, run from an image's stage; volumes and logs lie below `folder`."""

    def __init__(self, project: Path, stage: Stage, folder: Path, environment: Mapping[str, str]):
        self._project, self._stage, self._folder = project, stage, folder
        text = filled((project / "docker-compose.yml").read_text(), environment)
        self.services: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
        self.up: dict[str, Container] = {}
        hosts = "".join(f"127.0.0.1 {name}\n" for name in ("localhost", *self.services))
        (stage.root / "etc" / "hosts").write_text(hosts)

    def ours(self) -> list[str]:
        """The services that run our image."""
        return [name for name, service in self.services.items() if "build" in service]

    def container(self, name: str, command: list[str] | None = None) -> Container:
        """Start a service, with another command if one is given, as `docker compose run` does."""
        service = self.services[name]
        words = [*service.get("entrypoint", []), *(command or service.get("command") or self._stage.command)]
        environment = {key: str(value) for key, value in service["environment"].items()}
        mounts = {target: self._source(source, target) for source, target in map(_mount, service["volumes"])}
        assert service["read_only"], name
        return Container(
            self._stage, words, self._folder / f"{name}.log", environment, mounts, service["tmpfs"]
        )

    def start(self, name: str) -> Container:
        """Start a service that stays."""
        self.up[name] = self.container(name)
        return self.up[name]

    def run(self, name: str, *command: str, seconds: float = 120.0) -> int:
        """Run a service to its end; its exit code."""
        return self.container(name, list(command)).wait(seconds)

    def _source(self, source: str, target: str) -> Path:
        "The folder behind a mount; a new volume begins as what the image has there."
        if source.startswith("."):
            return self._project / source
        volume = self._folder / "volumes" / source
        if not volume.exists():
            volume.parent.mkdir(exist_ok=True)
            subprocess.run(["cp", "-a", f"{self._stage.root}{target}", volume], check=True)
        return volume

    def volume(self, name: str) -> Path:
        """Where a named volume lies."""
        return self._folder / "volumes" / name

    def well(self, name: str, seconds: float = 120.0) -> None:
        """Wait until the service's health check passes."""
        test = self.services[name].get("healthcheck", {}).get("test")
        check = test[1:] if test else self._stage.health
        self.until(name, lambda: self.up[name].run(check).returncode == 0, seconds)

    def until(self, name: str, true: Callable[[], bool], seconds: float = 120.0) -> None:
        """Wait until something is true of a service that is up."""
        end, container = time.monotonic() + seconds, self.up[name]
        while not true():
            if time.monotonic() > end or container.ended is not None:
                raise AssertionError(f"{name}, exit code {container.ended}:\n{self.said(name)[-4000:]}")
            time.sleep(0.5)

    def said(self, name: str) -> str:
        """What a service wrote."""
        path = self._folder / f"{name}.log"
        return path.read_text() if path.exists() else ""

    def end(self) -> None:
        """Kill what is still up, and forget the volumes."""
        for container in self.up.values():
            container.kill()
        shutil.rmtree(self._folder / "volumes", ignore_errors=True)


def _mount(text: str) -> tuple[str, str]:
    source, target, *_ = text.split(":")
    return source, target
