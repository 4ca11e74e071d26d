"""Alembic's entry: online only, one transaction, under a lock so that two starting processes take turns."""

from alembic import context
from sqlalchemy import text

from store.database import engine_for
from store.settings import load_settings
from store.tables import Base

database_url = context.config.attributes.get("database_url") or load_settings().require_database_url()
engine = engine_for(database_url, pooled=False)
with engine.connect() as connection, connection.begin():
    connection.execute(text("SELECT pg_advisory_xact_lock(hashtextextended('netwright.migrate', 0))"))
    context.configure(connection=connection, target_metadata=Base.metadata, compare_server_default=True)
    context.run_migrations()
