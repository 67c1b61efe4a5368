"""What is sent to the endpoints of what streams stand at, and what they tell of snapshots."""

from __future__ import annotations

from typing import Final

import msgspec
from pydantic import BaseModel, ConfigDict, Field

SNAPSHOT_NAME: Final = r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


class SnapshotRequest(BaseModel):
    """How a snapshot is to be called."""

    model_config = ConfigDict(extra="forbid")

    name: str = Field(pattern=SNAPSHOT_NAME, description="letters, digits, . _ -; at most 64")


class SnapshotDetails(msgspec.Struct):
    """A snapshot: when it was taken, what the stream stood at then, and its size in bytes."""

    name: str
    taken_at: str
    readings: int
    last_timestamp: str | None
    model: str
    tag: str
    bytes: int
