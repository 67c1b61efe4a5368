"""Who may ask, and how much of it a tenant may."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, Field

from gatewatch.service.settings.words import a_word


class AccessSettings(BaseModel):
    """Who may ask, and how much of it a tenant may."""

    open: Annotated[Literal["loopback", "always", "never"], BeforeValidator(a_word)] = Field(
        "loopback",
        description="who needs no key: loopback: whoever asks on a loopback address, until the first key is made; "
        "always: everybody, for a service behind a proxy that lets in only who may; never: nobody",
    )
    keys_file: Path | None = Field(
        None, description="JSON file with keys, beside those in Redis; read again when it changes"
    )
    oidc_issuer: str | None = Field(
        None,
        pattern=r"^https?://[^\s?#@]+$",
        description="URL of an OpenID Connect provider whose tokens are taken in place of keys; needs the extra `oidc`",
    )
    oidc_audience: str = Field("gatewatch", min_length=1, description="what a token's `aud` must name")
    tenant_new_streams_per_minute: int | None = Field(
        None,
        ge=1,
        le=10**9,
        description="most streams that each tenant may begin in a minute, over all processes; a reading of one more is "
        "rejected; no limit if not set",
    )
    tenant_readings_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most readings a second of each tenant, over all processes; more get 429; no limit if not set",
    )
    tenant_bytes_per_s: float | None = Field(
        None,
        gt=0,
        le=1e12,
        allow_inf_nan=False,
        description="most bytes a second of each tenant's bodies, decompressed, and of the states that it has kept, "
        "copied or gone back to, over all processes; more get 429; no limit if not set",
    )
    tenant_posts_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most requests with readings a second of each tenant, over all processes; more get 429; no limit "
        "if not set",
    )
    tenant_reads_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most requests a second of each tenant that look at something, over all processes; more get 429; "
        "no limit if not set",
    )
    tenant_changes_per_s: float | None = Field(
        None,
        gt=0,
        le=1e9,
        allow_inf_nan=False,
        description="most requests a second of each tenant that change something (policies, rules, windows, labels, "
        "settings, states), over all processes; more get 429; no limit if not set",
    )
    streams: int = Field(2_000_000, ge=1, description="most streams of a tenant; a reading of one more is rejected")
    tenant_channels: int = Field(
        20_000_000,
        ge=1,
        description="most channels that all streams of a tenant have together; a reading that brings more is rejected",
    )
