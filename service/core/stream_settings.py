"""StreamSettings: what a sender may choose for one stream, over HTTP and in the stream's record."""

from __future__ import annotations

import json
from typing import Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field

LONGEST_WINDOW_S = 7 * 86_400


class StreamSettings(BaseModel):
    """How a stream's readings are taken."""

    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)

    on_gap: Literal["accept", "hold"] = Field(
        "accept",
        description="hold: a reading whose seq is not the next one is rejected until the ones before it have come",
    )
    reorder_window_s: float = Field(
        0.0,
        ge=0,
        le=LONGEST_WINDOW_S,
        description="how late, in seconds behind the newest, a reading may come and still be applied in its place",
    )
    same_time: Literal["follow", "join"] = Field(
        "follow",
        description="readings without seq, of one time and with channels apart: taken one after the other, or those of "
        "one request joined into one reading",
    )

    def encode(self) -> bytes:
        """As it is kept beside the record."""
        return self.model_dump_json().encode()

    @classmethod
    def decode(cls, content: bytes) -> Self:
        """From what was kept; the defaults for what cannot be read, or is of another version."""
        try:
            kept = json.loads(content)
            return cls(**{name: kept[name] for name in cls.model_fields if name in kept})
        except (ValueError, TypeError, RecursionError):
            return cls()

    @classmethod
    def of(cls, record: Any) -> Self:
        """From a stream's record."""
        return cls(
            on_gap="hold" if record["hold"] else "accept",
            reorder_window_s=int(record["reorder_ms"]) / 1000,
            same_time="join" if record["join"] else "follow",
        )

    def write(self, records: Any) -> None:
        """Into records."""
        records["hold"] = self.on_gap == "hold"
        records["join"] = self.same_time == "join"
        records["reorder_ms"] = round(self.reorder_window_s * 1000)
