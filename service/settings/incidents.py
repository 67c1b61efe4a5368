"""Incidents: how long they are kept, which belong together, and who is told."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import BaseModel, Field, field_validator, model_validator
from pydantic_settings import NoDecode

from gatewatch.service.settings.urls import split
from gatewatch.service.settings.words import HostNames


class IncidentSettings(BaseModel):
    """Incidents: how long they are kept, which belong together, and who is told."""

    incidents: int = Field(
        10_000, ge=1, description="most incidents kept; of more, the oldest that have ended unanswered go first"
    )
    incident_days: float = Field(90.0, gt=0, description="how long an incident is kept after it began, days")
    incident_write_s: float = Field(
        1.0,
        ge=0,
        le=60,
        description="an incident that goes on is written at most once in so many seconds, unless people would see a "
        "difference; with each reading if 0",
    )
    open_anomaly_s: float = Field(
        3600.0,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="a silent stream's open anomaly stops counting after this, seconds",
    )
    silent_after: float = Field(
        10.0,
        ge=0,
        le=1e6,
        allow_inf_nan=False,
        description="a stream that sends nothing for so many times its usual interval is silent, and an incident; not "
        "within a minute, nor three times the longest pause that it is known for; 0 for never",
    )
    group_by: str | None = Field(
        None,
        pattern="^[A-Za-z_][A-Za-z0-9_]{0,31}$",
        description="tag whose value streams share that belong together, as site: their incidents that begin at about "
        "the same time are one group with one alert",
    )
    group_within_s: float = Field(
        60.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="how far from the beginning of a group an incident may begin that belongs to it, seconds",
    )
    external_url: str | None = Field(
        None, description="address that people reach the service by, http:// or https://, for the links in alerts"
    )
    webhook_url: str | None = Field(
        None, description="where incidents that open and end are posted to, http:// or https://; nowhere if not set"
    )
    webhook_secret_file: Path | None = Field(
        None,
        description="file with the secret that posts are signed with: `whsec_` and base64, or 16 characters and more",
    )
    webhook_hosts: HostNames = Field(
        (), description="hosts that GATEWATCH_WEBHOOK_URL may name, with commas between; any if not set"
    )
    webhook_networks: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="networks that are not public and may be posted to, as 10.1.0.0/16, with commas between"
    )
    webhook_timeout_s: float = Field(
        10.0, gt=0, le=300, allow_inf_nan=False, description="longest time that one post may take in all, seconds"
    )
    webhook_retry_s: float = Field(
        86_400.0,
        ge=0,
        le=30 * 86_400,
        allow_inf_nan=False,
        description="how long what was not taken is posted again before it becomes a dead letter, seconds",
    )
    webhook_dead_letters: int = Field(
        1000, ge=1, le=100_000, description="dead letters kept of a tenant; of more, the last"
    )

    @field_validator("webhook_networks", mode="before")
    @classmethod
    def _are_networks(cls, networks: object) -> object:
        names = tuple(name.strip() for name in networks.split(",")) if isinstance(networks, str) else networks
        for name in names if isinstance(names, tuple) else ():
            try:
                ip_network(name)
            except ValueError as error:
                raise ValueError(f"expected networks as 10.1.0.0/16, with commas between: {error}") from error
        return names

    @field_validator("webhook_url")
    @classmethod
    def _is_posted_to(cls, url: str | None) -> str | None:
        parts = split(url) if url is not None else None
        fits = parts is not None and parts.scheme in ("http", "https") and parts.hostname and "@" not in parts.netloc
        if url is not None and not (fits and parts is not None and parts.hostname and parts.hostname.isascii()):
            raise ValueError("expected http:// or https:// with a host in ASCII, without a user and a password")
        return url

    @model_validator(mode="after")
    def _has_a_whole_webhook(self) -> Self:
        if self.webhook_url is not None:
            host = urlsplit(self.webhook_url).hostname
            if self.webhook_secret_file is None:
                raise ValueError("GATEWATCH_WEBHOOK_URL needs GATEWATCH_WEBHOOK_SECRET_FILE: posts are signed")
            if self.webhook_hosts and host not in {name.lower() for name in self.webhook_hosts}:
                raise ValueError("GATEWATCH_WEBHOOK_URL names a host that is not among GATEWATCH_WEBHOOK_HOSTS")
        return self

    @field_validator("external_url")
    @classmethod
    def _is_web_address(cls, url: str | None) -> str | None:
        parts = split(url) if url is not None else None
        web = parts is not None and parts.scheme in ("http", "https") and bool(parts.hostname) and not parts.query
        if url is not None and not (web and parts is not None and parts.password is None):
            raise ValueError("expected http:// or https:// with a host and perhaps a path, without a password")
        return url.rstrip("/") if url is not None else None
