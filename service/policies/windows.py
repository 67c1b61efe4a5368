"""Window: when something is worked on, so that nobody is told of its streams, or their models learn nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, Final, Literal

from pydantic import AwareDatetime, BeforeValidator, Field, StringConstraints, model_validator

from gatewatch.service.incidents.rules import ActiveWindow
from gatewatch.service.policies.gates import Hourly

MOST_WINDOWS: Final = 1000

MOST_WINDOW_BYTES: Final = 2**20
"""Of all windows of a tenant as they are kept: an eighth of what there is for them with policies and labels."""

_RFC_3339: Final = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d")

WINDOW_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def _written(moment: object) -> object:
    """Text only: a number is no RFC 3339."""
    if isinstance(moment, datetime) or (isinstance(moment, str) and _RFC_3339.match(moment)):
        return moment
    raise ValueError(f"{moment!r:.64} is no time; expected RFC 3339, as 2026-05-04T10:00:00+02:00")


Moment = Annotated[AwareDatetime, BeforeValidator(_written)]


class Window(Hourly):
    """A maintenance window: once, from `start` to `end`; or weekly in these hours and days, within both if given."""

    stream: Annotated[str, StringConstraints(min_length=1, max_length=256)] = Field(
        "*", description="pattern of the streams it is for"
    )
    tags: Annotated[dict[str, str], Field(max_length=16)] = Field(
        default_factory=dict, description="that the streams must have by their policies, all of them"
    )
    start: Moment | None = Field(None, description="begins, RFC 3339 with its offset from UTC")
    end: Moment | None = Field(None, description="ends, RFC 3339 with its offset from UTC")
    skip: Literal["judging", "learning", "both"] = Field(
        "both", description="judging: nobody is told of incidents; learning: the models learn nothing"
    )
    text: Annotated[str, Field(max_length=1000)] = Field("", description="what is done, for people")

    @model_validator(mode="after")
    def _is_some_time(self) -> Window:
        hourly = self.hours is not None or self.days is not None
        if not hourly and (self.start is None or self.end is None):
            raise ValueError("expected start and end, or hours or days of the week")
        if self.start is not None and self.end is not None and self.end <= self.start:
            raise ValueError(f"ends at {_text(self.end)}, which is not after its start at {_text(self.start)}")
        if self.zone is not None and not hourly:
            raise ValueError("zone is of hours and days; start and end say their offset from UTC")
        return self

    def has_tags(self, tags: Mapping[str, str]) -> bool:
        """Whether it is for streams with these tags, as far as they go."""
        return all(tags.get(name) == value for name, value in self.tags.items())

    def active(self, name: str) -> ActiveWindow:
        """As rules take it."""
        return ActiveWindow(
            name,
            self.skip != "learning",
            self.skip != "judging",
            _ms(self.start, -math.inf),
            _ms(self.end, math.inf),
            self.compiled,
        )


def bytes_of(windows: Mapping[str, Window]) -> int:
    """What windows take where they are kept."""
    return sum(len(name) + len(one.model_dump_json().encode()) for name, one in windows.items())


def _ms(moment: datetime | None, otherwise: float) -> float:
    return otherwise if moment is None else moment.timestamp() * 1000


def _text(moment: datetime) -> str:
    return moment.isoformat()
