"""GateReport: what a version did on the newest readings, beside the version that it is to replace; and the rules.

It is kept in the repository beside the version and never changes. What it says is what `promote --if-better` goes by.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Figures(_Kept):
    """What one model did on the readings that both judged."""

    loss: float | None = Field(description="error of its forecasts, in errors of the last value taken for the next one")
    anomalous: int = Field(ge=0, description="readings of its false alarms")
    false_alarms: int = Field(ge=0, description="of these, those apart from each other")
    found: int = Field(ge=0, description="labelled faults in which it alarmed")


class Rule(_Kept):
    """A rule, whether it was kept, and the figures that say so."""

    rule: str
    kept: bool
    figures: str


class Material(_Kept):
    """The readings that were looked at.

    Attributes:
        origin: files or the URL of a service, for people.
        streams, readings: all that were given.
        left_out: see models.recordings.review.LeftOut; of all.
        trained_on: readings that the new version was trained on, None where others than these were.
        newest: those that neither was trained on, as far as this is known.
        since, until: time of the first and last of these.
        usual: of these, judged by both models and not left out.
        events: labelled faults in these.
    """

    origin: str
    streams: int
    readings: int
    left_out: dict[str, int]
    trained_on: int | None
    newest: int
    since: str
    until: str
    usual: int
    events: int


class GateReport(_Kept):
    """How a version stands against the one that it is to replace.

    Attributes:
        against: that version's number; None for the general model, where the alias pointed to none.
        asked: the rate of false alarms that the version was made for, in words.
    """

    format: Literal[1] = 1
    model: str
    version: int
    alias: str
    against: int | None
    at: str
    by: str
    asked: str
    material: Material
    new: Figures
    before: Figures
    rules: list[Rule]

    @property
    def better(self) -> bool:
        """Whether every rule is kept."""
        return all(rule.kept for rule in self.rules)

    @property
    def other(self) -> str:
        """What it is held against, in words."""
        return "the general model" if self.against is None else f"version {self.against}"

    def line(self) -> str:
        """The decision and its figures in a line, for the log of changes and for errors."""
        figures = "; ".join(f"{'' if rule.kept else 'not kept: '}{rule.figures}" for rule in self.rules)
        verdict = "better than" if self.better else "not better than"
        return f"{verdict} {self.other} on {self.material.usual} readings: {figures}"

    def text(self) -> str:
        """For people."""
        material = self.material
        left_out = ", ".join(f"{count} {name}" for name, count in material.left_out.items() if name != "readings")
        trained = "other readings" if material.trained_on is None else f"{material.trained_on} of these readings"
        rows = [
            f"{self.model}@{self.version} against {self.other}, for {self.model}@{self.alias}",
            f"made {self.at} by {self.by}",
            "",
            f"readings: {material.readings} of {material.streams} streams, {material.origin}",
            f"left out: {left_out}",
            f"trained on: {trained}",
            f"held against: the newest {material.newest}, {material.since} to {material.until}",
            f"judged by both and not left out: {material.usual} of these, and {material.events} labelled faults",
            f"false alarms asked: {self.asked}",
            "",
            *(f"[{'x' if rule.kept else ' '}] {rule.rule}: {rule.figures}" for rule in self.rules),
            "",
            "every rule is kept: better" if self.better else "a rule is not kept: not better",
        ]
        return "\n".join(rows) + "\n"
