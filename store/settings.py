"""The environment, read once. No other module reads an environment variable of ours."""

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from store.uris import Allowed

MIB = 1 << 20
GIB = 1 << 30


def default_home() -> Path:
    """`.netwright` of the checkout one stands in, else the user's data folder."""
    here = Path.cwd()
    if (here / "pyproject.toml").exists() and (here / "netwright").is_dir():
        return here / ".netwright"
    return Path.home() / ".local" / "share" / "netwright"


class Settings(BaseSettings):
    """Every knob of a Netwright process. `NETWRIGHT_` and the upper-case name set it."""

    model_config = SettingsConfigDict(env_prefix="NETWRIGHT_", extra="ignore", frozen=True)

    home: Path = Field(default_factory=default_home, description="where the embedded engines and the objects live")
    database_url: SecretStr | None = Field(None, description="postgresql://…; unset: the embedded Postgres of `up`")
    redis_url: SecretStr | None = Field(None, description="redis://…, rediss://… or redis+socket://…; unset: embedded")
    object_store_url: str | None = Field(None, description="file:///…, s3://…, gs://… or az://…; unset: home/objects")

    postgres_bin: Path | None = Field(None, description="folder of the embedded Postgres's programs; unset: found")
    valkey_bin: Path | None = Field(
        None, description="folder of the embedded valkey-server or redis-server; unset: found"
    )

    host: str = "127.0.0.1"
    port: Annotated[int, Field(ge=0, le=65535)] = 8000
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR", "CRITICAL"] = "INFO"

    upload_max_bytes: Annotated[int, Field(gt=0)] = 20 * GIB
    unpacked_max_bytes: Annotated[int, Field(gt=0)] = 100 * GIB
    object_cache_max_bytes: Annotated[int, Field(gt=0)] = 50 * GIB
    archive_max_entries: Annotated[int, Field(gt=0)] = 5_000_000
    picture_max_pixels: Annotated[int, Field(gt=0)] = 100_000_000
    predict_max_bytes: Annotated[int, Field(gt=0)] = 16 * MIB
    requests_per_minute: Annotated[int, Field(gt=0)] = 6000

    lease_s: Annotated[float, Field(gt=0)] = 15.0
    heartbeat_s: Annotated[float, Field(gt=0)] = 1.0
    sweep_s: Annotated[float, Field(gt=0)] = 2.0
    max_attempts: Annotated[int, Field(ge=1)] = 5
    trial_overrun_s: Annotated[float, Field(gt=0)] = 30.0
    cancel_grace_s: Annotated[float, Field(gt=0)] = 5.0
    checkpoint_s: Annotated[float, Field(gt=0)] = 10.0

    s3_endpoint: str | None = Field(None, description="another S3 than Amazon's, e.g. http://minio:9000")
    batch_sources: str | None = Field(
        None, description="what batch predictions may fetch: hosts and folders of object stores; unset: nothing"
    )

    @field_validator("home")
    @classmethod
    def absolute(cls, home: Path) -> Path:
        return home.expanduser().absolute()

    @field_validator("batch_sources")
    @classmethod
    def listed(cls, sources: str | None) -> str | None:
        Allowed.parse(sources)
        return sources

    @property
    def objects(self) -> str:
        return self.object_store_url or f"file://{self.home / 'objects'}"

    def require_database_url(self) -> str:
        """Raises SettingsError when no database is set."""
        if self.database_url is None:
            raise SettingsError(
                "NETWRIGHT_DATABASE_URL is not set. `netwright up` starts an embedded Postgres and sets it for its "
                "processes; a process started by hand needs one, e.g. postgresql://user:password@host:5432/netwright"
            )
        return self.database_url.get_secret_value()

    def require_redis_url(self) -> str:
        """Raises SettingsError when no broker is set."""
        if self.redis_url is None:
            raise SettingsError(
                "NETWRIGHT_REDIS_URL is not set. `netwright up` starts an embedded Valkey and sets it for its "
                "processes; a process started by hand needs one, e.g. redis://host:6379/0"
            )
        return self.redis_url.get_secret_value()


class SettingsError(RuntimeError):
    """A setting without which this process cannot run."""


def load_settings() -> Settings:
    return Settings()
