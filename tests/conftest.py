"""Real Postgres and Valkey for the whole run, started here and stopped here."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr
from sqlalchemy import Engine, text
from sqlalchemy.orm import Session, sessionmaker

from netwright import engines
from netwright.engines import Engines
from store import migrate
from store.database import Sessions, engine_for
from store.settings import Settings

for variable in [name for name in os.environ if name.startswith("NETWRIGHT_")]:
    del os.environ[variable]  # the suite must not depend on, or touch, a service of the machine it runs on


@pytest.fixture(scope="session")
def servers() -> Iterator[Engines]:
    """Postgres and Valkey of this run alone."""
    with engines.temporary() as running:
        yield running


@pytest.fixture(scope="session")
def database_url(servers: Engines) -> str:
    """A migrated database."""
    migrate.upgrade(servers.database_url)
    return servers.database_url


@pytest.fixture(scope="session")
def engine(database_url: str) -> Iterator[Engine]:
    engine = engine_for(database_url)
    yield engine
    engine.dispose()


@pytest.fixture
def session(engine: Engine) -> Iterator[Session]:
    """A session whose work is rolled back when the test ends; its commits are savepoints."""
    with engine.connect() as connection:
        transaction = connection.begin()
        with Session(connection, expire_on_commit=False, join_transaction_mode="create_savepoint") as session:
            yield session
        transaction.rollback()


@pytest.fixture
def sessions(engine: Engine) -> Iterator[Sessions]:
    """A session factory that really commits; every table is emptied afterwards."""
    yield sessionmaker(engine, expire_on_commit=False)
    with engine.begin() as connection:
        tables = connection.scalars(
            text("SELECT tablename FROM pg_tables WHERE schemaname = 'public' AND tablename <> 'alembic_version'")
        ).all()
        connection.execute(text(f"TRUNCATE {', '.join(tables)} CASCADE"))


@pytest.fixture
def settings(database_url: str, servers: Engines, tmp_path: Path) -> Settings:
    """Settings of a service of this test's own: its own home and objects, the run's database and broker."""
    return Settings(
        home=tmp_path / "home",
        database_url=SecretStr(database_url),
        redis_url=SecretStr(servers.redis_url),
    )
