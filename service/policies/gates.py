"""Gate and Duration: what a person says of which anomalies matter; and what rules make of it."""

from __future__ import annotations

import math
from functools import lru_cache
from typing import Annotated, Final, Literal
from zoneinfo import ZoneInfo, available_timezones

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

from gatewatch.service.incidents.rules import ChannelGate, Hours, Span
from gatewatch.service.policies.patterns import compiled

Day = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
DAYS: Final[tuple[Day, ...]] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")

_CLOCK: Final = r"(?:[01]\d|2[0-3]):[0-5]\d"


@lru_cache(1)
def zone_names() -> frozenset[str]:
    """The names of time zones that this machine knows."""
    return frozenset(available_timezones())


def _minutes(clock: str) -> int:
    hours, minutes = clock.split(":")
    return int(hours) * 60 + int(minutes)


def _known_zone(name: str) -> str:
    if name not in zone_names():
        raise ValueError(f"{name!r} is no time zone; expected a name as Europe/Berlin or UTC")
    return name


Zone = Annotated[str, Field(max_length=64), AfterValidator(_known_zone)]
HoursText = Annotated[str, StringConstraints(pattern=f"^{_CLOCK}-(?:{_CLOCK}|24:00)$")]
Days = Annotated[list[Day], Field(min_length=1, max_length=7)]
Size = Annotated[float, Field(strict=True, gt=0, le=1e300, allow_inf_nan=False)]
Limit = Annotated[float, Field(strict=True, ge=-1e300, le=1e300, allow_inf_nan=False)]


class Hourly(BaseModel):
    """Hours of some days of the week, by the clocks of a time zone."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    hours: HoursText | None = Field(None, description="as 06:00-22:00; 22:00-06:00 goes on until the next morning")
    days: Days | None = Field(None, description="of the week on which the hours begin; all if not given")
    zone: Zone | None = Field(None, description="time zone of the hours and days, as Europe/Berlin; UTC if not given")

    @property
    def compiled(self) -> Hours | None:
        """None where there are neither hours nor days."""
        if self.hours is None and self.days is None:
            return None
        begin, end = map(_minutes, (self.hours or "00:00-24:00").split("-"))
        days = frozenset(map(DAYS.index, self.days or DAYS))
        return Hours(ZoneInfo(self.zone or "UTC"), days, begin, end)


class Gate(Hourly):
    """Which deviations of some channels matter. The score stays as it is."""

    channel: Annotated[str, StringConstraints(min_length=1, max_length=256)] = Field(
        "*", description="pattern of the channels it is for"
    )
    direction: Literal["above", "below"] | None = Field(
        None, description="only what is on this side of what was expected matters"
    )
    absolute: Size | None = Field(None, description="smallest deviation that matters, in the channel's unit")
    relative: Size | None = Field(None, description="the same as a part of what was expected: 0.1 is 10 %")
    low: Limit | None = Field(None, description="a value below this is always an incident")
    high: Limit | None = Field(None, description="a value above this is always an incident")

    @model_validator(mode="after")
    def _asks_something(self) -> Gate:
        if not self.model_fields_set - {"channel", "zone"}:
            raise ValueError("asks nothing; expected direction, absolute, relative, low, high, hours or days")
        if self.low is not None and self.high is not None and self.low > self.high:
            raise ValueError(f"low is {self.low:g} and high {self.high:g}: every value would be outside")
        return self

    def means(self, channel: str) -> bool:
        """Whether it is for a channel."""
        return compiled(self.channel).match(channel) is not None

    @property
    def gate(self) -> ChannelGate:
        """As rules take it."""
        return ChannelGate(
            compiled(self.channel),
            self.direction,
            self.absolute or 0.0,
            self.relative or 0.0,
            -math.inf if self.low is None else self.low,
            math.inf if self.high is None else self.high,
            self.compiled,
        )


class Duration(BaseModel):
    """How long: in readings of the stream, or in seconds by their times."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    readings: int | None = Field(None, strict=True, ge=1, le=1_000_000)
    seconds: float | None = Field(None, strict=True, gt=0, le=366 * 86_400, allow_inf_nan=False)

    @model_validator(mode="after")
    def _one_of_both(self) -> Duration:
        if (self.readings is None) == (self.seconds is None):
            raise ValueError("expected readings or seconds, one of both")
        return self

    @property
    def span(self) -> Span:
        """As rules take it."""
        return Span(self.readings, self.seconds)
