"""`netwright`: every process and every chore of the service, as one command."""

import os
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, NoReturn

import typer
from pydantic import ValidationError
from rich.console import Console
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from netwright.access import database_url, sessions
from netwright.engines import EngineError
from netwright.supervisor import Started, SupervisorError
from netwright.supervisor import up as supervise
from store import keys, migrate
from store.errors import StoreError
from store.queue import Queue
from store.settings import SettingsError, load_settings

console = Console(highlight=False)
errors = Console(stderr=True, highlight=False)
cli = typer.Typer(
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A self-hosted Cloud AutoML: upload labelled pictures, get the best network for them, served.",
)
key = typer.Typer(no_args_is_help=True, help="API keys: make, list, revoke.")
cli.add_typer(key, name="key")


def main() -> None:
    """The entry point. What the user can mend is one line on stderr and exit code 1, never a traceback."""
    try:
        cli()
    except ValidationError as error:
        wrong = (f"NETWRIGHT_{'_'.join(map(str, one['loc']))}".upper() + f": {one['msg']}" for one in error.errors())
        complain("; ".join(wrong))
    except (EngineError, SupervisorError, SettingsError, StoreError) as error:
        complain(str(error))


def complain(message: str) -> NoReturn:
    errors.print(Text.assemble(("netwright: ", "bold red"), message), soft_wrap=True)
    sys.exit(1)


@cli.command()
def up(
    host: Annotated[str | None, typer.Option(help="Address to listen on.  [default: 127.0.0.1]")] = None,
    port: Annotated[
        int | None, typer.Option(min=0, max=65535, help="Port; 0 takes a free one.  [default: 8000]")
    ] = None,
) -> None:
    """Run the whole service on this machine, until Ctrl-C."""
    changes = {name: value for name, value in (("host", host), ("port", port)) if value is not None}
    supervise(load_settings().model_copy(update=changes), announce, warn)
    console.print("Stopped.")


def announce(started: Started) -> None:
    """Says where the service is. In a terminal with some ceremony, else in plain lines."""
    lines = [("API", started.url), ("Docs", f"{started.url}/docs")]
    if started.admin_key is not None:
        lines.append(("Admin key", f"{started.admin_key}  (shown this once; `netwright key create` makes more)"))
    lines += [(server.name.capitalize(), f"{server.version}, embedded") for server in started.engines]
    lines += [("Workers", ", ".join(started.workers)), ("Data, logs", str(started.home))]
    if not console.is_terminal:
        for name, value in lines:
            print_plain(f"{name}: {value}")
        return
    grid = Table.grid(padding=(0, 2))
    for name, value in lines:
        grid.add_row(Text(name, style="bold"), Text(value, overflow="fold"))
    console.print(Panel(grid, title="Netwright is up", subtitle="Ctrl-C stops it", expand=False))


def warn(message: str) -> None:
    errors.print(Text.assemble(("netwright: ", "yellow"), message), soft_wrap=True)


def print_plain(line: str) -> None:
    """A line as it is, unwrapped, at once: for pipes and logs."""
    console.print(Text(line), soft_wrap=True)
    sys.stdout.flush()


@cli.command()
def api() -> None:
    """Run the control plane alone, on the database and broker of NETWRIGHT_DATABASE_URL and NETWRIGHT_REDIS_URL."""
    from api.app import create_app
    from netwright import server

    settings = load_settings()
    settings.require_redis_url()
    server.run(create_app(settings), settings)


@cli.command()
def serve() -> None:
    """Run the inference runtime alone, on the database of NETWRIGHT_DATABASE_URL."""
    from netwright import server
    from serve.app import create_app

    settings = load_settings()
    server.run(create_app(settings), settings)


@cli.command(hidden=True, name="server")
def both(fd: Annotated[int | None, typer.Option(help="An open listening socket.")] = None) -> None:
    """Run control plane and runtime as one server: what `up` starts."""
    from netwright import server

    settings = load_settings()
    server.run(server.compose(settings), settings, fd)


@cli.command()
def worker(
    queue: Annotated[list[Queue] | None, typer.Option(help="Only these queues, in this process.")] = None,
    name: Annotated[str | None, typer.Option(help="What the workers page calls this process.")] = None,
) -> None:
    """Run this machine's workers: one process per GPU (or one for all cores) that trains, one for data, one for control."""
    if not queue:
        from netwright.supervisor import work

        work(load_settings())
        return
    from worker.app import app

    label = name or f"{'-'.join(queue)}-{os.getpid()}"
    arguments = ["--queues", ",".join(queue), "--hostname", f"{label}@%h", "--concurrency", "1", "--pool", "prefork"]
    quiet = ["--without-gossip", "--without-mingle", "--without-heartbeat", "--loglevel", load_settings().log_level]
    app.worker_main(["worker", *arguments, *quiet])


@cli.command(name="migrate")
def migrate_schema() -> None:
    """Bring the database's schema to this version. Safe to run twice, and at once from several machines."""
    with database_url(load_settings()) as url:
        migrate.upgrade(url)
    console.print("The schema is current.")


@cli.command()
def demo(
    data: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="A zip of class folders of yours.")
    ] = None,
    minutes: Annotated[float, typer.Option(min=0.5, help="How long to search.")] = 2.0,
) -> None:
    """Watch the main job run: upload, search, deploy, predict. Starts the service if it does not run, and stops it again."""
    from netwright.demo import DemoError, run

    try:
        run(load_settings(), console, data, minutes)
    except DemoError as error:
        complain(str(error))


@cli.command()
def digits(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Where to write them; made when missing.")] = Path(),
) -> None:
    """Write pictures to try things with: digits.zip, handwritten digits in a folder per label, and seven.png, which is not in it."""
    from netwright.demo.digits import split_digits, write_zip

    try:
        pictures, kept_back = split_digits()
        folder.mkdir(parents=True, exist_ok=True)
        write_zip(pictures, folder / "digits.zip")
        (folder / "seven.png").write_bytes(next(one.data for one in kept_back if one.label == "7"))
    except OSError as error:
        complain(str(error))
    print_plain(
        f"{folder / 'digits.zip'}: {len(pictures):,} pictures. {folder / 'seven.png'}: one that is not among them."
    )


@cli.command()
def doctor() -> None:
    """Say what is missing on this machine and how to mend it. Exit code 1 when something keeps the service from running."""
    from netwright.doctor import Verdict, examine

    findings = examine(load_settings())
    colours = {Verdict.OK: "green", Verdict.NOTE: "yellow", Verdict.BLOCKED: "bold red"}
    for finding in findings:
        console.print(
            Text.assemble(
                (f"{finding.verdict.value:8}", colours[finding.verdict]), f"{finding.subject}: {finding.fact}"
            ),
            soft_wrap=True,
        )
        if finding.mend:
            console.print(Text(f"{'':8}→ {finding.mend}"), soft_wrap=True)
    if any(finding.verdict is Verdict.BLOCKED for finding in findings):
        raise typer.Exit(1)


@key.command(name="create")
def create(
    name: Annotated[str, typer.Argument(help="Who or what it is for.")],
    role: Annotated[keys.Role, typer.Option(help="What it may do.")] = keys.Role.EDITOR,
    days: Annotated[float | None, typer.Option(min=0.001, help="How long it lasts; for ever when left out.")] = None,
) -> None:
    """Make a key and print it, this once."""
    expires = None if days is None else datetime.now(UTC) + timedelta(days=days)
    with sessions(load_settings()) as made, made.begin() as session:
        row, secret = keys.create_key(session, name, role, expires)
        identity = row.id
    if console.is_terminal:
        errors.print(f"{identity}, {role.value}. It is shown this once:")
    print_plain(secret)


@key.command(name="list")
def list_all() -> None:
    """List the keys: their first letters, roles, and when they were used last."""
    table = Table("id", "name", "role", "begins", "state", "last used", box=None)
    with sessions(load_settings()) as made, made.begin() as session:
        for row in keys.list_keys(session):
            expired = row.expires_at is not None and row.expires_at < datetime.now(UTC)
            state = "revoked" if row.revoked_at else "expired" if expired else "valid"
            used = f"{row.last_used_at:%Y-%m-%d %H:%M}" if row.last_used_at else "never"
            table.add_row(row.id, Text(row.name), row.role, f"{row.hint}…", state, used)
    console.print(table)


@key.command()
def revoke(identity: Annotated[str, typer.Argument(metavar="ID", help="As `netwright key list` shows it.")]) -> None:
    """Make a key useless from now on."""
    with sessions(load_settings()) as made, made.begin() as session:
        row = keys.revoke_key(session, identity)
        label = f"{row.name} ({row.id})"
    console.print(f"Revoked {label}.")
