"""Named series: those that carry the name of a stream, which are only of what is open and of what was chosen.

They are made of what Redis holds whenever somebody asks, so every process shows the same; a Tally holds none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OPEN_LABELS: Final = ("stream", "channel", "reason", "direction", "model", "tenant")
CHANNEL_LABELS: Final = ("stream", "channel")

_OF_OPEN: Final = {
    "score": "Score with which an open anomaly began; 1 is the threshold.",
    "value": "What the channel of an open anomaly had when it began.",
    "expected": "What was expected of it then.",
    "begin_seconds": "Time of the reading with which it began, Unix time.",
}
_OF_CHANNEL: Final = {
    "value": "A chosen stream's channel at its last reading.",
    "expected": "What was expected of it.",
    "low": "Lower end of what was expected.",
    "high": "Upper end of what was expected.",
    "score": "Its part in the score of the reading: the score times its share.",
}


class OpenAnomaly(NamedTuple):
    """An alert of a stream whose anomaly is open. Numbers that are not known are None.

    Attributes:
        direction: `above` or `below` what was expected; `none` of a channel that stands still or is absent.
        tenant: whose stream it is; empty, which is as no label, for the service's own.
        begin_s: time of the reading, Unix time in seconds.
    """

    stream: str
    channel: str
    reason: str
    direction: str
    model: str
    tenant: str
    score: float
    value: float | None
    expected: float | None
    begin_s: float


class ChannelBand(NamedTuple):
    """One channel of a chosen stream, at the stream's last reading. Numbers that are not known are None."""

    stream: str
    channel: str
    value: float | None
    expected: float | None
    low: float | None
    high: float | None
    score: float | None


class NamedSeries(Collector):
    """The series with names, of what was found last.

    Attributes:
        open: the alerts that are shown.
        channels: the channels that are shown.
    """

    def __init__(self) -> None:
        self.open: Sequence[OpenAnomaly] = ()
        self.channels: Sequence[ChannelBand] = ()

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client asks for: each series of each kind, those without a number left out."""
        for what, meaning in _OF_OPEN.items():
            field = "begin_s" if what == "begin_seconds" else what
            anomalies = [([getattr(one, label) for label in OPEN_LABELS], getattr(one, field)) for one in self.open]
            yield _family(f"gatewatch_open_anomaly_{what}", meaning, OPEN_LABELS, anomalies)
        for what, meaning in _OF_CHANNEL.items():
            bands = [([one.stream, one.channel], getattr(one, what)) for one in self.channels]
            yield _family(f"gatewatch_channel_{what}", meaning, CHANNEL_LABELS, bands)


def _family(
    name: str, meaning: str, labels: Sequence[str], found: Iterable[tuple[Sequence[str], float | None]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, meaning, labels=labels)
    for values, number in found:
        if number is not None:
            family.add_metric(values, number)
    return family
