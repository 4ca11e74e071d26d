"""The database for commands that are run beside the service, or without it."""

from collections.abc import Iterator
from contextlib import contextmanager

from netwright import engines
from store import migrate
from store.database import Sessions, engine_for, sessions_for
from store.settings import Settings


@contextmanager
def database_url(settings: Settings) -> Iterator[str]:
    """The database that is set, else the embedded one, started for the length of the command when it does not run."""
    if settings.database_url is not None:
        yield settings.require_database_url()
    else:
        with engines.borrow(settings.home, folder=settings.postgres_bin) as server:
            yield server.url


@contextmanager
def sessions(settings: Settings) -> Iterator[Sessions]:
    """Sessions on a database whose schema is current."""
    with database_url(settings) as url:
        migrate.upgrade(url)
        engine = engine_for(url, pooled=False)
        try:
            yield sessions_for(engine)
        finally:
            engine.dispose()
