"""The migrations and the tables say the same."""

from alembic import command
from sqlalchemy import Engine, text

from netwright.engines import Engines
from store import migrate


def test_the_migrations_make_exactly_the_tables_of_the_code(database_url: str) -> None:
    command.check(migrate.alembic_config(database_url))


def test_the_schema_can_be_taken_down_and_built_again(servers: Engines, engine: Engine) -> None:
    with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(text("CREATE DATABASE twice"))
    url = engine.url.set(database="twice").render_as_string(hide_password=False)
    config = migrate.alembic_config(url)
    command.upgrade(config, "head")
    command.downgrade(config, "base")
    command.upgrade(config, "head")
    assert migrate.is_current(url)


def test_chunks_of_blobs_are_stored_uncompressed(engine: Engine) -> None:
    with engine.connect() as connection:
        storage = connection.scalar(
            text("SELECT attstorage FROM pg_attribute WHERE attrelid = 'blob_chunks'::regclass AND attname = 'data'")
        )
    assert storage == "e"
