"""The image that the Dockerfile describes, made and run without a container engine.

Each instruction is carried out as it stands: COPY takes what .dockerignore leaves, RUN has the file's environment and no other, the
last stage starts from nothing but the base. A container is a command of it as process 1 of its own, as the image's user, on a root
that can't be written, with its volumes. What is not as an engine has it:

- The base image is this machine's system, or the one in TRADEBOT_TEST_SYSTEM (a folder that debootstrap filled), read-only, with
  our own Python in the place of the image's; so an instruction that installed Debian packages would fail here.
- RUN learns where this machine keeps its certificates, as an engine tells of a proxy, and its caches are the user's own.
- There are neither layers nor limits, and the network is that of whoever calls.
"""

import json
import os
import re
import shlex
import shutil
import signal
import string
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

SYSTEM = Path(os.environ.get("TRADEBOT_TEST_SYSTEM", "/"))
_CERTIFICATES = ("SSL_CERT_FILE", "PIP_CERT", "UV_SYSTEM_CERTS")
_FOLDERS = ("dev", "etc/ssl", "proc", "root", "run", "sys", "tmp", "usr", "var/tmp", "home")
_USERS = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/false\n",
    "group": "root:x:0:\nnogroup:x:65534:\n",
    "shadow": "root:*:19000::::::\n",
    "gshadow": "",
    "nsswitch.conf": "hosts: files dns\n",
    "hosts": "127.0.0.1 localhost\n",
}


def instructions(text: str) -> Iterator[tuple[str, str]]:
    """Name and words of each instruction."""
    kept = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    for line in re.sub(r"\\\n\s*", "", "\n".join(kept)).splitlines():
        name, _, words = line.partition(" ")
        yield name.upper(), words.strip()


def ignores(patterns: Sequence[str], path: str) -> bool:
    """Whether the lines of a .dockerignore leave a path out; the last one that speaks of it, or of a folder above it, decides."""
    above = ["/".join(path.split("/")[: n + 1]) for n in range(path.count("/") + 1)]
    out = False
    for pattern in patterns:
        wanted = re.compile(_expression(pattern.lstrip("!")))
        if any(wanted.fullmatch(one) for one in above):
            out = not pattern.startswith("!")
    return out


def _expression(pattern: str) -> str:
    return "".join(
        {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}.get(part, re.escape(part))
        for part in re.split(r"(\*\*/|\*\*|\*|\?)", pattern.strip("/"))
    )


@dataclass
class Stage:
    """A stage as far as it is made."""

    root: Path
    python: Path  # what is at /usr/local
    environment: dict[str, str] = field(
        default_factory=lambda: {"PATH": "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}
    )
    folder: str = "/"
    user: str = "0:0"
    command: list[str] = field(default_factory=list)
    health: list[str] = field(default_factory=list)
    read_only: bool = False


class Image:
    """The last stage of the Dockerfile in `context`, made below `folder`; what was done stands in `log`."""

    def __init__(self, context: Path, folder: Path, log: Path, **arguments: str):
        self._context, self._folder, self._log, self._arguments = context, folder, log, arguments
        self._ignored = [
            line for line in (context / ".dockerignore").read_text().splitlines() if line and line[0] != "#"
        ]
        self._stages: dict[str, Stage] = {}
        self._known: dict[str, str] = {}  # arguments of the stage
        for name, words in instructions((context / "Dockerfile").read_text()):
            getattr(self, f"_{name.lower()}")(words)
        self.stage = self._stage
        self.stage.read_only = True

    def _from(self, words: str) -> None:
        _, _, name = words.partition(" AS ")
        self._stage = _base(self._folder, name or "last")
        self._stages[name or "last"], self._known = self._stage, {}

    def _filled(self, text: str) -> str:
        return string.Template(text).substitute(self._stage.environment | self._known)

    def _arg(self, words: str) -> None:
        name, _, default = words.partition("=")
        self._known[name] = self._arguments.get(name, default)

    def _env(self, words: str) -> None:
        for pair in shlex.split(words):
            name, _, value = pair.partition("=")
            self._stage.environment[name] = self._filled(value)

    def _workdir(self, words: str) -> None:
        self._stage.folder = self._filled(words)
        (self._stage.root / words.strip("/")).mkdir(parents=True, exist_ok=True)

    def _user(self, words: str) -> None:
        self._stage.user = self._filled(words)

    def _cmd(self, words: str) -> None:
        self._stage.command = json.loads(words)

    def _healthcheck(self, words: str) -> None:
        self._stage.health = json.loads(words.partition("CMD ")[2])

    def _label(self, words: str) -> None:
        pass

    _expose = _label

    def _copy(self, words: str) -> None:
        flags, paths = _flags(words)
        *sources, target = paths.split()
        into = self._stage.root / os.path.join(self._stage.folder, target).strip("/")
        if "from" in flags:
            (source,) = (
                sources  # moved: no later stage of ours asks for it again, and it is a hundred thousand files
            )
            os.rename(self._stages[flags["from"]].root / source.strip("/"), into)
            return
        for source in sources:
            for path in self._below(source):
                inside = into if len(sources) == 1 and not target.endswith("/") else into / source
                to = (
                    inside / path.relative_to(self._context / source)
                    if path != self._context / source
                    else inside
                )
                to.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(path, to)
                os.chown(to, 0, 0)

    def _below(self, source: str) -> Iterator[Path]:
        "Files of the context that are a source, or below it, and not ignored."
        start = self._context / source
        for path in [start] if start.is_file() else sorted(start.rglob("*")):
            if path.is_file() and not ignores(self._ignored, path.relative_to(self._context).as_posix()):
                yield path

    def _run(self, words: str) -> None:
        flags, script = _flags(words)
        known = {name: os.environ[name] for name in _CERTIFICATES if name in os.environ}
        environment = self._stage.environment | self._known | known | {"UV_SYSTEM_CERTS": "1"}
        mounts = {}
        if mount := flags.get("mount"):
            target = dict(part.split("=") for part in mount.split(","))["target"]
            mounts[target] = Path(os.environ.get("UV_CACHE_DIR", Path.home() / ".cache" / "uv"))
            mounts[target].mkdir(parents=True, exist_ok=True)
        words_ = entering(self._stage, ["/bin/sh", "-c", script], environment, mounts)
        with self._log.open("ab") as log:
            log.write(f"RUN {script}\n".encode())
            log.flush()
            done = subprocess.run(words_, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise RuntimeError(f"RUN {script}: {done.returncode}\n{self._log.read_text()[-3000:]}")


def _flags(words: str) -> tuple[dict[str, str], str]:
    flags = {}
    while words.startswith("--"):
        flag, _, words = words.partition(" ")
        name, _, flags[name[2:]] = flag.partition("=")
    return flags, words.strip()


def _base(folder: Path, name: str) -> Stage:
    "What stands in for the base image: users and folders of a new system, the rest mounted when something runs."
    root, python = folder / name, folder / f"{name}.local"
    for one in _FOLDERS:
        (root / one).mkdir(parents=True)
    for one in ("tmp", "var/tmp"):
        (root / one).chmod(0o1777)
    for one in ("bin", "sbin", "lib", "lib64"):
        if (SYSTEM / one).is_symlink():
            (root / one).symlink_to(os.readlink(SYSTEM / one))
    for one, text in _USERS.items():
        (root / "etc" / one).write_text(text)
    for one in ("ld.so.conf", "ld.so.conf.d", "login.defs"):
        if (SYSTEM / "etc" / one).exists():
            subprocess.run(["cp", "-aL", SYSTEM / "etc" / one, root / "etc"], check=True)
    subprocess.run(["cp", "-aL", "/etc/ssl/certs", root / "etc/ssl"], check=True, stderr=subprocess.DEVNULL)
    shutil.copy("/etc/resolv.conf", root / "etc")
    subprocess.run(["cp", "-a", "--link", _python(folder / "python"), python], check=True)
    stage = Stage(root, python)
    subprocess.run(entering(stage, ["/sbin/ldconfig"], stage.environment), check=True)
    return stage


def _python(folder: Path) -> Path:
    "A copy of our own Python, as if it had been installed at /usr/local."
    if not folder.exists():
        left = shutil.ignore_patterns("test", "tests", "idlelib", "tkinter")
        shutil.copytree(sys.base_prefix, folder, symlinks=True, ignore=left)
        for script in (folder / "bin").iterdir():
            if (
                script.is_file()
                and not script.is_symlink()
                and (text := script.read_bytes()).startswith(b"#!/")
            ):
                script.write_bytes(re.sub(rb"^#!.*/bin/python[\d.]*\n", b"#!/usr/local/bin/python3\n", text))
    return folder


def entering(
    stage: Stage,
    command: Sequence[str],
    environment: Mapping[str, str],
    mounts: Mapping[str, Path] | None = None,
    memory: Sequence[str] = (),
) -> list[str]:
    """The words that run a command in a stage as process 1 of its own, with folders mounted, and folders in memory."""
    root = shlex.quote(str(stage.root))

    def bound(source: Path, target: str) -> str:
        there = f"{root}{shlex.quote(target)}"
        made = f"[ -e {there} ] || mkdir -p {there}; " if not stage.read_only else ""
        return f"{made}mount --bind {shlex.quote(str(source))} {there}"

    lines = ["set -e", f"mount --bind {root} {root}"]
    lines += [f"mount -o remount,bind,ro {root}"] if stage.read_only else []
    lines += [bound(SYSTEM / "usr", "/usr"), f"mount -o remount,bind,ro {root}/usr"]
    lines += [bound(stage.python, "/usr/local")]
    lines += [f"mount -o remount,bind,ro {root}/usr/local"] if stage.read_only else []
    lines += [bound(source, target) for target, source in (mounts or {}).items()]
    lines += [f"mount -t tmpfs -o mode=1777 tmpfs {root}{shlex.quote(target)}" for target in memory]
    lines += [
        f"mount -t proc proc {root}/proc",
        f"mount --rbind /dev {root}/dev",
        f"mount --rbind /sys {root}/sys",
    ]
    inside = ["/bin/sh", "-c", 'cd "$0" && exec "$@"', stage.folder, *command]
    given = [f"{name}={value}" for name, value in environment.items()]
    limited = ["setpriv", "--no-new-privs"] if stage.user != "0:0" else []
    chroot = ["chroot", f"--userspec={stage.user}", str(stage.root), "/usr/bin/env", "-i", *given, *inside]
    lines += [f"exec {shlex.join([*limited, *chroot])}"]
    own = ["unshare", "--mount", "--propagation", "private", "--pid", "--fork", "--kill-child"]
    return [*own, "/bin/sh", "-c", "\n".join(lines)]


class Container:
    """A command of an image at work; what it says goes to `log`."""

    def __init__(
        self,
        stage: Stage,
        command: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        mounts: Mapping[str, Path],
        memory: Sequence[str] = (),
    ):
        self.log = log
        self._words = (stage, {**stage.environment, **environment}, mounts, memory)
        with log.open("ab") as opened:
            self._process = subprocess.Popen(self._entering(command), stdout=opened, stderr=opened)

    def _entering(self, command: Sequence[str]) -> list[str]:
        stage, environment, mounts, memory = self._words
        return entering(stage, command, environment, mounts, memory)

    def run(self, command: Sequence[str], seconds: float = 60.0) -> subprocess.CompletedProcess:
        """Another command with the same user, environment and volumes."""
        words = self._entering(command)
        return subprocess.run(words, capture_output=True, text=True, timeout=seconds, check=False)

    @property
    def pid(self) -> int | None:
        """Its process 1, as we see it."""
        path = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children")
        with suppress(FileNotFoundError):
            return next(map(int, path.read_text().split()), None)
        return None

    @property
    def ended(self) -> int | None:
        """Its exit code, if it has ended."""
        return self._process.poll()

    def wait(self, seconds: float) -> int:
        """Its exit code, once it ends by itself."""
        return self._process.wait(seconds)

    def stop(self, seconds: float = 30.0) -> int:
        """SIGTERM to process 1, as `docker stop` does; the exit code."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """End it at once, and whatever it has started."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
        self._process.wait()
