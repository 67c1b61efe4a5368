"""What is kept of streams, and what may wait to be scored."""

from __future__ import annotations

from pydantic import BaseModel, Field


class ReadingSettings(BaseModel):
    """What is kept of streams, and what may wait to be scored."""

    history_readings: int = Field(128, ge=32, le=65536, description="last readings of a stream kept in Redis")
    stream_days: float | None = Field(
        None,
        gt=0,
        le=36_500,
        allow_inf_nan=False,
        description="days after which a stream that applied no reading is forgotten; never if not set",
    )
    snapshots: int = Field(10, ge=1, le=1000, description="most snapshots of a stream; one more is refused")
    batch_readings: int = Field(1024, ge=1, le=65536, description="most readings scored together")
    waiting_readings: int = Field(
        20_000,
        ge=1,
        description="most readings waiting in a process; more get 429, but of a tenant with less than its share",
    )
    waiting_ms: float = Field(
        500.0, gt=0, description="most time that what waits ahead of a request may take, milliseconds; more gets 429"
    )
    correcting_ms: float = Field(
        2000.0,
        gt=0,
        description="most time that the corrections ahead of a late reading may take, milliseconds; more gets 429",
    )
    future_s: float = Field(
        60.0,
        ge=0,
        le=1e9,
        allow_inf_nan=False,
        description="how far ahead of the service's clock a timestamp may be, seconds",
    )
