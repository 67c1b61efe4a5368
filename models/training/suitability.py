"""What may be odd about recordings, what is said of it to people, and what training does about it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from gatewatch.models.detectors.judged import RUN_ALLOWANCE, RUN_MARGIN
from gatewatch.models.detectors.trained.scaling import STANDARDISED_LIMIT
from gatewatch.models.text import counted
from gatewatch.models.training.trained.calibration import RESTART_INTERVALS

NAMED = 3
"""Channels named in one line for people."""

KINDS = {
    "label": (
        "no channel; it marks {count} readings",
        "left out, since evaluate takes a column of this name for labels; what it marks is learned as normal: cut it "
        "out if it is much",
    ),
    "perhaps a label": (
        "a column of this name with nothing but 0 and 1 in it",
        "taken for a sensor, and so learned; call it label, or leave it out, if it marks what was wrong",
    ),
    "never judged": (
        "no reading will ever be judged: the longest run between restarts is {extent:.0f}, the warm-up {count}",
        "record longer, or without gaps",
    ),
    "rhythm of gaps": (
        "{count} gaps, mostly of {extent:g} s",
        "taken for the stream's own rhythm; live, only one of three times as long restarts it",
    ),
    "too short": ("{count} recordings", "left out"),
    "too little": (
        "{count} readings, {extent:.0f} independent ones are needed",
        "thresholds are raised until they can be trusted, and more is missed; record more, or ask for a higher "
        "--false-alarm-rate",
    ),
    "duplicate time": (
        "{count} readings at the time of the one before",
        "kept in the order of the rows; live, give such readings a seq",
    ),
    "backward time": (
        "{count} steps back, by up to {extent:g} s",
        "kept in the order of the rows; live, such readings are late unless they have a seq",
    ),
    "gap in time": (
        "{count} gaps, of up to {extent:g} s",
        f"learned as they are; live, one of over {RESTART_INTERVALS} intervals restarts a stream, unless they recur",
    ),
    "missing": (
        "{count} values, up to {extent:.0f} in a row",
        f"filled by forecasts, not learned from; live, {RUN_MARGIN} times as many in a row and {RUN_ALLOWANCE} more "
        "raise an alert",
    ),
    "empty": ("no value at all", "nothing can be learned of it; leave it out"),
    "constant": ("always {extent:.12g}", "any other value will be strange; leave it out if it is no sensor"),
    "counter": (
        "moves one way only, {count} times, by {extent:g} in all",
        "live, it leaves all that was learned, and it raises thresholds; record its rate in its place, the difference "
        "from one reading to the next, or leave it out: --leave-out",
    ),
    "stuck": (
        "stood still for up to {extent:.0f} readings",
        f"taken for normal: live, only {RUN_MARGIN} times as many and {RUN_ALLOWANCE} more raise an alert; cut it out "
        "if the sensor was broken",
    ),
    "code": (
        "{extent:.10g} comes {count} times, far from all else",
        "a code for missing? Then leave such cells empty, or name it: --missing",
    ),
    "outlier": (
        "{count} values, up to {extent:.4g} spreads off",
        f"shown to the network as {STANDARDISED_LIMIT:g} spreads off, and weighing little; cut out what was a fault",
    ),
    "spread of outliers": (
        "its spread is {extent:.4g} times what its quartiles say",
        "all else is learned as nearly constant; cut the outliers out",
    ),
    "unit change": (
        "{count} changes of level, by a factor of about {extent:g}",
        "both levels are learned as normal; convert the recordings to one unit",
    ),
}
"""Of each kind of oddity, what is said of it, and what is done about it."""


@dataclass(frozen=True)
class Finding:
    """One kind of oddity of one channel, in all recordings together.

    Attributes:
        kind: one of KINDS.
        channel: its name; "" where it is of whole readings or recordings.
        count: how often it was met.
        extent: how bad the worst was; its unit is in KINDS.
        where: the worst, as stream, row and time, or what it is about.
    """

    kind: str
    channel: str
    count: int
    extent: float
    where: str


@dataclass(frozen=True)
class Suitability:
    """All that was found, in the order of KINDS."""

    recordings: int
    readings: int
    missing_share: float
    findings: list[Finding]

    def lines(self) -> list[str]:
        """For people: what was looked at, and a line for each kind of oddity."""
        of = counted(self.recordings, "recording")
        told = [f"{self.readings} readings of {of}, {self.missing_share:.2%} of values missing"]
        for kind, (words, remedy) in KINDS.items():
            found = sorted((f for f in self.findings if f.kind == kind), key=lambda finding: -abs(finding.extent))
            if found:
                named = [
                    f"{f.channel}{': ' if f.channel else ''}{words.format(count=f.count, extent=f.extent)}"
                    f"{' (' if f.where else ''}{f.where}{')' if f.where else ''}"
                    for f in found[:NAMED]
                ]
                rest = [f"and {len(found) - NAMED} more channels"] if len(found) > NAMED else []
                told.append(f"{kind}: {'; '.join(named + rest)}. {remedy[0].upper()}{remedy[1:]}.")
        return told

    def with_more(self, findings: Sequence[Finding]) -> Suitability:
        """The same with these findings in their places."""
        order = list(KINDS)
        together = sorted([*self.findings, *findings], key=lambda finding: order.index(finding.kind))
        return replace(self, findings=together)

    def as_json(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)

    @classmethod
    def of_json(cls, content: Mapping[str, Any]) -> Suitability:
        """What `as_json` gave."""
        return cls(**{**content, "findings": [Finding(**finding) for finding in content["findings"]]})
