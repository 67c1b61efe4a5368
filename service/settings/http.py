"""Where the service listens, and what a connection and a request may cost."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, Final, Self

from pydantic import BaseModel, Field, ValidationInfo, field_validator, model_validator

from gatewatch.service.settings.words import HostNames

ADDRESS: Final = re.compile(r"(tcp|udp|sctp)://.*")
"""What Kubernetes and Docker put where a port is expected, for a service called gatewatch."""


class HttpSettings(BaseModel):
    """Where the service listens, and what a connection and a request may cost."""

    host: str = Field("127.0.0.1", description="address to listen on")
    port: int = Field(8000, ge=0, le=65535, description="port to listen on")
    allowed_hosts: HostNames = Field(
        (),
        description="names that the service is reached by, with commas between, beside IP addresses, localhost and "
        "names without a dot; a request for another one, which a browser may have been made to send, gets 403",
    )
    tls_cert: Path | None = Field(
        None, description="PEM file of the certificate chain for HTTPS; read again when it changes"
    )
    tls_key: Path | None = Field(None, description="PEM file of its key")
    request_readings: int = Field(10_000, ge=1, description="most readings in one request; more get 413")
    request_bytes: int = Field(
        8 * 2**20, ge=1024, description="largest body, also after decompression; larger gets 413"
    )
    waiting_bytes: int = Field(
        64 * 2**20,
        ge=1024,
        description="most bytes of bodies, beyond 64 KiB of each, in a process; a larger body gets 429",
    )
    head_bytes: int = Field(32_768, ge=1024, description="largest head: URL and headers; larger gets 431")
    head_deadline_s: float = Field(
        5.0, gt=0, description="time for a request's head to arrive, seconds; later gets 408"
    )
    body_deadline_s: float = Field(
        30.0, gt=0, description="time for a body to arrive, or for an answer to be read, seconds; later gets 408"
    )
    keep_alive_s: float = Field(
        75.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="how long a connection may be idle between requests, seconds; longer than those in front keep it",
    )
    connections: int = Field(
        4096,
        ge=1,
        description="most open connections of a process; over it the oldest without a whole request is closed",
    )
    all_rejected_is_422: bool = Field(
        False, description="answer 422, not 200, where every reading of a request was rejected"
    )

    @field_validator("host", mode="before")
    @classmethod
    def _is_bare(cls, host: object) -> object:
        return host[1:-1] if isinstance(host, str) and host.startswith("[") and host.endswith("]") else host

    @field_validator("port", mode="before")
    @classmethod
    def _is_a_number(cls, port: object, field: ValidationInfo) -> Any:
        ours = not (isinstance(port, str) and ADDRESS.fullmatch(port))
        return port if ours else cls.model_fields[str(field.field_name)].default

    @model_validator(mode="after")
    def _has_both_or_none(self) -> Self:
        if (self.tls_cert is None) != (self.tls_key is None):
            raise ValueError("GATEWATCH_TLS_CERT and GATEWATCH_TLS_KEY go together; expected both, or none")
        return self
