"""Named series: those that carry the name of a stream, which are only of what is open and of what was chosen.

They are made of what Redis holds whenever somebody asks, so every process shows the same; a Tally holds none of them.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Final, NamedTuple

from prometheus_client.core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

OPEN_LABELS: Final = ("stream", "channel", "reason", "direction", "model", "tenant", "group", "tags")
GROUP_LABELS: Final = ("group", "tag", "tenant")
FIRST_LABELS: Final = (*GROUP_LABELS, "stream", "channel", "reason", "direction")
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
        channel: empty where the stream sends no more.
        tenant: whose stream it is; empty, which is as no label, for the service's own.
        group: the id of the group that it belongs to; empty where it belongs to none.
        tags: of the stream, when the anomaly began, as `line=3,site=north`; empty where it had none.
        begin_s: time of the reading, Unix time in seconds.
    """

    stream: str
    channel: str
    reason: str
    direction: str
    model: str
    tenant: str
    group: str
    tags: str
    score: float
    value: float | None
    expected: float | None
    begin_s: float


class OpenGroup(NamedTuple):
    """A group of incidents with one that is open.

    Attributes:
        group: its id.
        tag: what its streams have in common, as site=north; may be empty.
        stream, channel, reason, direction: of the incident with the earliest onset, whether it is open or not.
        streams: how many have an open incident of the group.
        begin_s: the onset, Unix time in seconds.
    """

    group: str
    tag: str
    tenant: str
    stream: str
    channel: str
    reason: str
    direction: str
    streams: int
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
        groups: the groups that are shown.
        channels: the channels that are shown.
    """

    def __init__(self) -> None:
        self.open: Sequence[OpenAnomaly] = ()
        self.groups: Sequence[OpenGroup] = ()
        self.channels: Sequence[ChannelBand] = ()

    def collect(self) -> Iterator[Metric]:
        """What prometheus-client asks for: each series of each kind, those without a number left out."""
        for what, meaning in _OF_OPEN.items():
            field = "begin_s" if what == "begin_seconds" else what
            anomalies = [([getattr(one, label) for label in OPEN_LABELS], getattr(one, field)) for one in self.open]
            yield _family(f"gatewatch_open_anomaly_{what}", meaning, OPEN_LABELS, anomalies)
        sizes = [([getattr(one, label) for label in GROUP_LABELS], one.streams) for one in self.groups]
        meaning = "Streams with an open incident of a group of incidents that began about the same time."
        yield _family("gatewatch_open_group_streams", meaning, GROUP_LABELS, sizes)
        firsts = [([getattr(one, label) for label in FIRST_LABELS], one.begin_s) for one in self.groups]
        meaning = "Time at which the first incident of the group began, Unix time; its labels say which that is."
        yield _family("gatewatch_open_group_begin_seconds", meaning, FIRST_LABELS, firsts)
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
