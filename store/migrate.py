"""The schema: alembic from Python, for `netwright migrate`, the tests and the supervisor."""

from importlib.util import find_spec
from pathlib import Path

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Engine

from store.database import engine_for


def alembic_config(database_url: str) -> Config:
    spec = find_spec("migrations")
    assert spec is not None
    assert spec.submodule_search_locations is not None
    config = Config()
    config.set_main_option("script_location", str(Path(next(iter(spec.submodule_search_locations)))))
    config.attributes["database_url"] = database_url
    return config


def upgrade(database_url: str) -> None:
    """Bring the schema to the newest revision. Safe to run from several processes at once: they take turns."""
    command.upgrade(alembic_config(database_url), "head")


def pending(engine: Engine) -> tuple[str | None, str | None]:
    """(revision of the database, newest revision of the code); equal when nothing is to be done."""
    head = ScriptDirectory.from_config(alembic_config("")).get_current_head()
    with engine.connect() as connection:
        return MigrationContext.configure(connection).get_current_revision(), head


def is_current(database_url: str) -> bool:
    engine = engine_for(database_url, pooled=False)
    current, head = pending(engine)
    return current == head
