"""The processes: how many, how they stop, and what they tell."""

from __future__ import annotations

import re
from typing import Annotated, Final, Literal

from pydantic import BaseModel, BeforeValidator, Field, field_validator
from pydantic_settings import NoDecode

from gatewatch.service.settings.words import a_word

_NAME_PATTERN: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}\*?|\*")


class ProcessSettings(BaseModel):
    """The processes: how many, how they stop, and what they tell."""

    workers: int = Field(1, ge=1, le=64, description="processes")
    drain_s: float = Field(
        0.0,
        ge=0,
        le=86_400,
        allow_inf_nan=False,
        description="how long, after SIGTERM, /readyz says 503 while all is still answered, before the stop, seconds",
    )
    shutdown_grace_s: int = Field(
        10, ge=1, le=86_400, description="how long a stop waits for requests in flight, seconds"
    )
    traces: bool = Field(
        False, description="spans of OpenTelemetry go where the OTEL_ variables say; needs the extra `traces`"
    )
    log_level: Annotated[Literal["debug", "info", "warning", "error", "critical"], BeforeValidator(a_word)] = Field(
        "info", description="least severe line logged"
    )
    open_series: int = Field(
        100, ge=0, le=10_000, description="most streams with an open anomaly that /metrics names, highest scores first"
    )
    channel_series: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="streams whose channels have series of value, band and score, with commas between; `pump-*` are "
        "all whose names begin with pump-",
    )
    channel_series_streams: int = Field(
        100, ge=1, le=10_000, description="most streams whose channels have series; of more, the first by name"
    )

    @field_validator("channel_series", mode="before")
    @classmethod
    def _are_patterns(cls, patterns: object) -> object:
        names = tuple(name.strip() for name in patterns.split(",")) if isinstance(patterns, str) else patterns
        if isinstance(names, tuple) and not all(_NAME_PATTERN.fullmatch(str(name)) for name in names):
            raise ValueError("expected names of streams, or beginnings of names with * behind, with commas between")
        return names
