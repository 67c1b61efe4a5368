"""Which models there are, and what they may take."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from pydantic import BaseModel, Field, field_validator
from pydantic_settings import NoDecode


class ModelSettings(BaseModel):
    """Which models there are, and what they may take."""

    model: str = Field(
        "general",
        description="folder of the artefact; or `general`, shipped, for any stream; or `demo`, the pump station",
    )
    trusted_keys: Path | None = Field(
        None, description="PEM file of Ed25519 public keys; a model that none of them has signed is refused"
    )
    channels: Annotated[tuple[str, ...], NoDecode] = Field(
        (),
        description="the only ones that the general model takes, names with commas between; without, it takes what a "
        "stream sends; a trained model has its own",
    )
    stream_channels: int = Field(
        64,
        ge=1,
        le=4096,
        description="most channels of a stream, where GATEWATCH_CHANNELS is not set; a reading of one more is rejected",
    )
    alerts_per_week: float | None = Field(
        None,
        gt=0,
        le=10_000,
        description="of the general model: false alerts that a stream may raise in a week; 1 if not set",
    )
    models: str | None = Field(
        None,
        description="repository of models for rules: a folder, or an fsspec URL as s3://bucket/models; beside a "
        "private Redis the folder `models` in GATEWATCH_DATA_DIR if not set",
    )
    models_look_s: float = Field(
        1.0,
        gt=0,
        le=86_400,
        allow_inf_nan=False,
        description="time between looks at the repository, which notice what was promoted there, seconds",
    )
    loaded_models: int = Field(1000, ge=1, description="most models of the repository that a process has in memory")
    loaded_bytes: int = Field(
        2**30, ge=2**20, description="most memory that they take in a process, bytes; what is longest unused is dropped"
    )
    shadow_streams: int = Field(
        1000, ge=1, description="most streams that shadows of models follow in a process; of more, none is compared"
    )

    @field_validator("channels", mode="before")
    @classmethod
    def _are_names(cls, channels: object) -> object:
        names = tuple(name.strip() for name in channels.split(",")) if isinstance(channels, str) else channels
        if isinstance(names, tuple) and (len(set(names)) < len(names) or "" in names):
            raise ValueError("expected names that differ, with commas between")
        return names
