"""Connections, and the rule that messages leave after commit."""

from datetime import datetime

from sqlalchemy import Engine, create_engine, event, func, select
from sqlalchemy.engine import make_url
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from store.queue import Hint, Hints

Sessions = sessionmaker[Session]


def engine_for(database_url: str, *, pooled: bool = True, pool_size: int = 10) -> Engine:
    """An engine on psycopg 3. Unpooled for threads that must notice a restarted Postgres by themselves.

    Pooled connections are checked before use, so a restart of Postgres costs one failed transaction at most.
    """
    url = make_url(database_url)
    if url.drivername in {"postgresql", "postgres"}:
        url = url.set(drivername="postgresql+psycopg")
    connect = {"connect_timeout": 10, "application_name": "netwright"}
    if not pooled:
        return create_engine(url, poolclass=NullPool, connect_args=connect)
    return create_engine(
        url, pool_size=pool_size, max_overflow=pool_size, pool_pre_ping=True, pool_timeout=15, connect_args=connect
    )


def sessions_for(engine: Engine, hints: Hints | None = None) -> Sessions:
    """A session factory. With `hints`, those given to `hint` leave once the transaction has committed."""
    factory = sessionmaker(engine, expire_on_commit=False)
    if hints is not None:

        @event.listens_for(factory, "after_commit")
        def send(session: Session) -> None:
            for waiting in session.info.pop("pending_hints", ()):
                hints.send(waiting)

    @event.listens_for(factory, "after_rollback")
    def forget(session: Session) -> None:
        session.info.pop("pending_hints", None)

    return factory


def hint(session: Session, message: Hint) -> None:
    """Wake a worker after this transaction commits. Losing the message loses nothing: the sweep sends it again."""
    pending = session.info.setdefault("pending_hints", [])
    if message not in pending:
        pending.append(message)


def now(session: Session) -> datetime:
    """The database's clock: the only one that leases are measured by."""
    moment: datetime = session.scalars(select(func.clock_timestamp())).one()
    return moment


def try_lock(session: Session, name: str) -> bool:
    """Whether this transaction got the named lock; it is released when the transaction ends."""
    return bool(session.scalar(select(func.pg_try_advisory_xact_lock(func.hashtextextended(name, 0)))))
