"""Where the engines' files lie, whom the engines run as, and what is remembered of them."""

import fcntl
import json
import os
import pwd
import secrets
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom

from netwright.engines.errors import EngineError
from netwright.engines.process import MYSELF, Account

ACCOUNTS = ("netwright", "postgres", "nobody")  # whom root steps down to: the first that the system has
SERVICE = Path("/var/lib/netwright")  # for homes that such an account cannot enter, like one below /root
OWNER = "home"  # the file in such a place that names the home it belongs to
PORTS = range(15000, 30000)  # above the well-known ones, below those that outgoing connections draw from


@dataclass(frozen=True, slots=True)
class Place:
    """The engines of one home. `root` is a folder that `account` can enter."""

    home: Path
    root: Path
    account: Account

    def log(self, name: str) -> Path:
        return self.home / "logs" / f"{name}.log"

    def folder(self, name: str) -> Path:
        """A folder of the account's own, mode 0700, made when missing."""
        path = self.root / name
        if not path.exists():
            path.mkdir(mode=0o700)
            self.give(path)
        return path

    def give(self, path: Path) -> None:
        """Makes the account the owner of `path`."""
        if self.account.uid is not None and self.account.gid is not None:
            os.chown(path, self.account.uid, self.account.gid)

    def secret(self, name: str) -> str:
        """The remembered password of an engine, drawn at the first call."""
        state = read_state(self.home)
        password = state.get(f"{name}_password")
        if not isinstance(password, str):
            password = secrets.token_urlsafe(24)
            write_state(self.home, {**state, f"{name}_password": password})
        return password

    def port(self, name: str) -> int | None:
        """The remembered port of an engine."""
        port = read_state(self.home).get(f"{name}_port")
        return port if isinstance(port, int) else None

    def free_port(self, name: str) -> int:
        """The remembered port when it is free, else another, remembered from now on.

        Ports lie below the range of outgoing connections: a client that keeps knocking at a port of that range while
        nobody listens is at some time connected to itself, and then holds the port against its owner.
        """
        state = read_state(self.home)
        port = self.port(name)
        if port is None or not is_free(port):
            others = {value for value in state.values() if isinstance(value, int)}
            port = next(candidate for candidate in candidates() if candidate not in others and is_free(candidate))
            write_state(self.home, {**state, f"{name}_port": port})
        return port


def locate(home: Path) -> Place:
    """The place of `home`, made when missing. Raises EngineError when the engines could not work there."""
    as_root = os.geteuid() == 0
    make(home, 0o711 if as_root else 0o700)
    if not os.access(home, os.R_OK | os.W_OK | os.X_OK):
        raise EngineError(
            f"NETWRIGHT_HOME {home} belongs to uid {home.stat().st_uid} and this is uid {os.geteuid()}: "
            "set NETWRIGHT_HOME to a folder of yours, or run as its owner"
        )
    state = read_state(home)
    root = home / "engines"
    if "place" in state:
        root = Path(str(state["place"]))
    if not as_root:
        make(root, 0o700)
        return Place(home, root, MYSELF)
    account = lesser_account(root)
    if not root.exists() and not reaches(account, home):
        make(SERVICE, 0o755)
        root = SERVICE / secrets.token_hex(6)
        write_state(home, {**state, "place": str(root)})
        make(root, 0o711)
        (root / OWNER).write_text(str(home))
    make(root, 0o711)
    if not reaches(account, root):
        raise EngineError(
            f"Postgres refuses to run as root, and {account.name} cannot enter {root}: "
            "set NETWRIGHT_HOME to a folder below folders of mode 755, like /srv/netwright"
        )
    return Place(home, root, account)


def abandoned() -> list[Path]:
    """Places below SERVICE whose home is gone, or has another place by now; nothing uses what lies there."""
    if not os.access(SERVICE, os.R_OK | os.X_OK):
        return []
    return [mark.parent for mark in SERVICE.glob(f"*/{OWNER}") if not belongs(mark.parent, Path(mark.read_text()))]


def belongs(root: Path, home: Path) -> bool:
    try:
        return read_state(home).get("place") == str(root)
    except EngineError:
        return True  # the home is there and cannot be read by this user


def make(folder: Path, mode: int) -> None:
    """Makes a folder with exactly this mode, whatever the umask; one that exists keeps its own."""
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        if not folder.exists():
            folder.mkdir()
            folder.chmod(mode)
    except OSError as error:
        raise EngineError(
            f"{folder} cannot be made ({error.strerror}); set NETWRIGHT_HOME to a folder of yours"
        ) from error


def lesser_account(root: Path) -> Account:
    """Whom root steps down to: the owner of what is there already, else the first of ACCOUNTS."""
    with_data = [folder for folder in (root / "postgres", root / "valkey") if folder.exists()]
    owners = {folder.stat().st_uid for folder in with_data} - {0}
    for entry in pwd.getpwall():
        if entry.pw_uid in owners:
            return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    for name in ACCOUNTS:
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, entry.pw_name)
    raise EngineError(
        f"Postgres refuses to run as root, and the system has none of the users {', '.join(ACCOUNTS)}: "
        "run as a normal user, or add one with `useradd --system netwright`"
    )


def reaches(account: Account, folder: Path) -> bool:
    """Whether the account may pass through every folder down to `folder`, by their mode bits."""
    for step in (folder, *folder.parents):
        status = step.stat()
        shift = 6 if status.st_uid == account.uid else 3 if status.st_gid == account.gid else 0
        if not status.st_mode >> shift & 1:
            return False
    return True


def read_state(home: Path) -> dict[str, str | int]:
    """What is remembered: place, ports and passwords."""
    path = home / "engines.json"
    if not path.exists():
        return {}
    try:
        return dict(json.loads(path.read_text()))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read ({error}); it holds the passwords of the embedded engines") from error


def write_state(home: Path, state: dict[str, str | int]) -> None:
    """Replaces what is remembered, at once or not at all, in a file that only this user reads."""
    path = home / "engines.json"
    fresh = path.with_suffix(f".{os.getpid()}.new")
    with os.fdopen(os.open(fresh, os.O_CREAT | os.O_WRONLY | os.O_TRUNC, 0o600), "w") as stream:
        json.dump(state, stream, indent=1)
        stream.flush()
        os.fsync(stream.fileno())
    fresh.replace(path)


@contextmanager
def starting(home: Path) -> Iterator[None]:
    """Holds off other processes that would start engines of the same home."""
    with (home / "engines.lock").open("a") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def candidates() -> Iterator[int]:
    draw = SystemRandom()
    for _ in range(1000):
        yield draw.choice(PORTS)
    raise EngineError(f"no free TCP port between {PORTS.start} and {PORTS.stop} on 127.0.0.1")


def is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the engines do: TIME_WAIT is no neighbour
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True
