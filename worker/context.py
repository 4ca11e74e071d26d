"""What every task of a worker process works with, made once per process (never shared across a fork)."""

import socket
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from store.database import Sessions, engine_for, sessions_for
from store.objects import Objects
from store.queue import Hints
from store.settings import Settings, load_settings


@dataclass(frozen=True, slots=True)
class Context:
    """settings: of the process. sessions: whose hints leave after commit. cache: fetched objects and scratch files."""

    settings: Settings
    sessions: Sessions
    objects: Objects
    cache: Path

    @classmethod
    def of(cls, settings: Settings) -> "Context":
        engine = engine_for(settings.require_database_url(), pool_size=4)
        cache = settings.home / "cache" / socket.gethostname()
        cache.mkdir(parents=True, exist_ok=True)
        return cls(settings, sessions_for(engine, Hints(settings.require_redis_url())), Objects.of(settings), cache)


@cache
def process_context() -> Context:
    """This process's context, from the environment."""
    return Context.of(load_settings())
