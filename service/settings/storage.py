"""Redis: where it is, and how it is asked."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, BaseModel, BeforeValidator, Field, field_validator

from gatewatch.service.settings.urls import can_be_used
from gatewatch.service.settings.words import a_word


class StorageSettings(BaseModel):
    """Redis: where it is, and how it is asked."""

    redis_url: str | None = Field(
        None,
        description="redis://, rediss://, unix://, redis+sentinel:// or redis+cluster://; without it, a private one is "
        "started",
    )
    data_dir: Path = Field(Path("gatewatch-data"), description="where the private server keeps its append-only file")
    durability: Annotated[Literal["fast", "strict"], BeforeValidator(a_word)] = Field(
        "fast",
        description="strict: an answer leaves after Redis has it on disk; fast: a power cut may cost two seconds",
    )
    tenant: str = Field("default", pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$", description="prefix of all Redis keys")
    store_timeout_ms: int = Field(
        350,
        ge=10,
        le=600_000,
        description="longest wait for a connection to Redis, or for an answer while it answers nothing else either, "
        "milliseconds",
    )
    store_replicas: int = Field(
        0, ge=0, le=16, description="replicas of Redis that must have what is saved before it is answered; 0 for none"
    )
    slot_buckets: int = Field(
        64,
        ge=1,
        le=16_384,
        description="buckets that streams are kept in, each in a slot of a Cluster; what a Redis began with stays",
    )
    record_cache_bytes: int = Field(
        64 * 2**20,
        ge=0,
        validation_alias=AliasChoices("GATEWATCH_RECORD_CACHE_BYTES", "GATEWATCH_REMEMBERED_BYTES"),
        description="most bytes of stream records that a process caches, so as not to load them; 0 for no cache",
    )
    save_attempts: int = Field(
        20, ge=1, description="compare-and-set attempts when other processes write the same stream"
    )

    @field_validator("redis_url")
    @classmethod
    def _is_redis_url(cls, url: str | None) -> str | None:
        if url is not None and not can_be_used(url):
            raise ValueError(
                "expected redis://[user:password@]host:port/db, rediss://..., unix://path, "
                "redis+sentinel://host:port,host:port/master or redis+cluster://host:port,host:port, with options of "
                "redis-py; @ : / ? # in a password are written %40 %3A %2F %3F %23"
            )
        return url


def repository_in(data_dir: Path) -> Path:
    """Where the models of a service with a private Redis are, if its settings name no repository."""
    return data_dir / "models"
