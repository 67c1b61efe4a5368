"""What is sent to the endpoints for models."""

from __future__ import annotations

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from gatewatch.models.artefact.versions import ALIAS_NAME, CHAMPION

VersionWord = Annotated[int, Field(ge=1)] | Annotated[str, Field(pattern=f"^{ALIAS_NAME.pattern}$")]


class Promotion(BaseModel):
    """Which version an alias is to point to."""

    model_config = ConfigDict(extra="forbid")

    version: VersionWord = Field(description="its number, or an alias that points to it")
    alias: str = Field(CHAMPION, pattern=f"^{ALIAS_NAME.pattern}$")
    note: str = Field("", max_length=500, description="why, for the log")
    other_channels: bool = Field(False, description="its channels may differ from those of the version before")
    if_better: bool = Field(
        False, description="only where its last report says that it is better than the version before; else 409"
    )


class ShadowOf(BaseModel):
    """Which version is to score beside a model, and how many of its streams."""

    model_config = ConfigDict(extra="forbid")

    version: VersionWord = Field(description="its number, or an alias that points to it")
    share: float = Field(0.1, gt=0, le=1, allow_inf_nan=False, description="of the model's streams")


class Rollback(BaseModel):
    """Which alias is to go back to where it pointed before."""

    model_config = ConfigDict(extra="forbid")

    alias: str = Field(CHAMPION, pattern=f"^{ALIAS_NAME.pattern}$")
    note: str = Field("", max_length=500, description="why, for the log")
