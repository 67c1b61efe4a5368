"""Policy: what a person asks of a stream; PolicyDocument: what is asked of all streams of a tenant.

A stream's policy is made of all entries whose pattern fits its name, in their order, and of its own entry last: what a
later one says replaces what an earlier one said, but tags join, a later one's value winning, and so do gates and what
is quiet.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Annotated, Any, Final, Self

import msgspec
from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, model_validator

from gatewatch.models.detectors.budget_loop import LEAST
from gatewatch.service.doors.door import STREAM_NAME
from gatewatch.service.errors import InvalidPolicies, first_of
from gatewatch.service.incidents.rules import ActiveWindow, Rules
from gatewatch.service.policies.gates import Duration, Gate
from gatewatch.service.policies.patterns import Patterns, compiled
from gatewatch.service.policies.quiet import MOST_QUIET, Fault, Quiet, with_label
from gatewatch.service.policies.windows import MOST_WINDOWS, WINDOW_NAME, Window
from gatewatch.service.serving.remembered import Remembered
from gatewatch.service.serving.shared_document import Numbered

MOST_PATTERNS: Final = 1000
MOST_STREAMS: Final = 10_000
MOST_TAGS: Final = 16
MOST_GATES: Final = 64
MOST_PATTERN_GATES: Final = 4096
"""Of all patterns together: all of them may fit one stream, and each of its anomalies is held against those."""

MOST_PATTERN_LABELS: Final = 4096
MOST_PATTERN_TAGS: Final = 256
"""The same of what was labelled, and of names of tags, which each incident has."""

MOST_IGNORED: Final = 64

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
StreamName = Annotated[str, StringConstraints(pattern=f"^(?:{STREAM_NAME.pattern})$", max_length=128)]
TagName = Annotated[str, StringConstraints(pattern="^[A-Za-z_][A-Za-z0-9_]{0,31}$")]
TagValue = Annotated[str, StringConstraints(pattern=r"^[^\x00-\x1f\x7f]{1,128}$")]


class Policy(BaseModel):
    """What is asked of a stream. What is not said is as the model has it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tags: Annotated[dict[TagName, TagValue], Field(max_length=MOST_TAGS)] = Field(
        default_factory=dict, description="what the stream belongs to, as site, line or unit"
    )
    sensitivity: float | None = Field(
        None,
        strict=True,
        ge=0.05,
        le=20,
        allow_inf_nan=False,
        description="a factor on the score: 0.5 halves it, so that only what is twice as strange is anomalous",
    )
    gates: Annotated[list[Gate], Field(max_length=MOST_GATES)] = Field(
        default_factory=list, description="which anomalies matter, by channel; those of all entries that fit count"
    )
    minimum: Duration | None = Field(None, description="for so long an anomaly lasts before it is an incident")
    merge: Duration | None = Field(None, description="anomalies with less than this between them are one incident")
    cool_off: Duration | None = Field(
        None, description="for so long after an incident nobody is told of another one of the stream"
    )
    false_alarm_rate: float | None = Field(
        None,
        strict=True,
        gt=0,
        le=0.1,
        allow_inf_nan=False,
        description="share of normal readings that may be judged anomalous",
    )
    alerts_per_week: float | None = Field(
        None,
        strict=True,
        gt=0,
        le=10_000,
        allow_inf_nan=False,
        description="false alerts of the stream that are allowed in a week",
    )
    hold_budget: bool | None = Field(
        None,
        strict=True,
        description="a factor on the score follows the stream's alerts, within bounds, so that they stay near "
        "alerts_per_week; without that it does nothing",
    )
    ignore: Annotated[list[Pattern], Field(max_length=MOST_IGNORED)] = Field(
        default_factory=list, description="channels, by name or pattern, that are kept and not looked at"
    )
    quiet: Annotated[list[Quiet], Field(max_length=MOST_QUIET)] = Field(
        default_factory=list, description="what was labelled a false alarm: its like is no incident; see labels"
    )
    faults: Annotated[list[Fault], Field(max_length=MOST_QUIET)] = Field(
        default_factory=list, description="what was labelled true while hold_budget was on: its like is never held back"
    )
    muted: bool = Field(
        default=False,
        strict=True,
        description="its readings are scored and its incidents kept, but nobody is told of them",
    )
    hold: bool = Field(
        default=False,
        strict=True,
        description="an incident stays open until a person closes it, however long; meanwhile nothing is learned",
    )

    def __eq__(self, other: object) -> bool:
        """Whether both say the same: a default that is said replaces what an earlier entry says, silence does not."""
        said = other.model_fields_set if isinstance(other, Policy) else None
        return super().__eq__(other) and self.model_fields_set == said

    __hash__ = None  # type: ignore[assignment]

    def ignores(self, channel: str) -> bool:
        """Whether a channel is not looked at."""
        return any(compiled(pattern).match(channel) for pattern in self.ignore)

    @property
    def scores_otherwise(self) -> bool:
        """Whether its streams are scored otherwise than their model says."""
        return bool({"sensitivity", "false_alarm_rate", "alerts_per_week", "ignore"} & self.model_fields_set)

    @property
    def held(self) -> float | None:
        """Alerts a week near which the loop is to hold its streams; None where it is not."""
        return self.alerts_per_week if self.hold_budget else None

    @property
    def least_factor(self) -> float:
        """The lowest factor of the loop: with it, what is like a true alarm still alerts."""
        return max((one.factor for one in self.faults), default=LEAST)

    @model_validator(mode="after")
    def _has_one_budget(self) -> Self:
        if self.false_alarm_rate is not None and self.alerts_per_week is not None:
            raise ValueError("expected a false_alarm_rate or alerts_per_week, and not both")
        if self.false_alarm_rate is not None and self.hold_budget:
            raise ValueError("hold_budget holds alerts_per_week; expected that in place of a false_alarm_rate")
        return self


class PolicyOfPattern(Policy):
    """What is asked of the streams whose name fits a pattern (`*`, `?`, `[abc]`)."""

    pattern: Pattern


class Policies(BaseModel):
    """What is asked of streams: by patterns, in order, and of single ones."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    policies: Annotated[list[PolicyOfPattern], Field(max_length=MOST_PATTERNS)] = []
    streams: Annotated[dict[StreamName, Policy], Field(max_length=MOST_STREAMS)] = {}

    def written(self) -> dict[str, Any]:
        """As JSON has them; see `written`."""
        return {
            "policies": list(map(written, self.policies)),
            "streams": {stream: written(policy) for stream, policy in self.streams.items()},
        }

    @model_validator(mode="after")
    def _has_not_too_many_gates(self) -> Self:
        gates = sum(len(policy.gates) for policy in self.policies)
        if gates > MOST_PATTERN_GATES:
            raise ValueError(f"the patterns have {gates} gates; at most {MOST_PATTERN_GATES} are taken")
        return self


WindowName = Annotated[str, StringConstraints(pattern=f"^(?:{WINDOW_NAME.pattern})$")]


class PolicyDocument(Numbered):
    """All policies of a tenant, and its maintenance windows by name."""

    asked: Policies = Policies()
    windows: Annotated[dict[WindowName, Window], Field(max_length=MOST_WINDOWS)] = Field(default_factory=dict)

    def as_kept(self) -> bytes:
        """As Redis has it. What a policy does not say must not come back as said: it would replace what others say."""
        return msgspec.json.encode(
            {
                "number": self.number,
                "at": self.at,
                "by": self.by,
                "asked": self.asked.written(),
                "windows": {name: written(window) for name, window in self.windows.items()},
            }
        )


def written(model: BaseModel) -> msgspec.Raw:
    """What a model says, and no defaults. One after the other, so that other threads have their turn between."""
    return msgspec.Raw(model.model_dump_json(exclude_unset=True).encode())


NOTHING_ASKED: Final = Policy()

_ALL_DEFAULTS: Final = dict(NOTHING_ASKED)
"""Pydantic takes 0.2 ms to make them anew."""

OTHER_BUDGET: Final = {"false_alarm_rate": "alerts_per_week", "alerts_per_week": "false_alarm_rate"}

REMEMBERED_NAMES: Final = 65_536
"""Streams whose policy a process remembers; it takes some microseconds to make one of 1,000 patterns."""


class PolicyFinder:
    """Finds the policy of a stream in a document; of many streams it remembers what it found.

    Attributes:
        document: where it looks.
        has_rules: some streams have rules.
        active: the maintenance windows by name, as rules take them.
    """

    def __init__(self, document: PolicyDocument) -> None:
        self.document = document
        self._entries = document.asked.policies
        self._patterns = Patterns(entry.pattern for entry in self._entries)
        self.active = {name: document.windows[name].active(name) for name in sorted(document.windows)}
        self._windows = Patterns(document.windows[name].stream for name in self.active)
        self._names_of_windows = list(self.active)
        self._known = Remembered(self._find, REMEMBERED_NAMES)
        self._merged: dict[tuple[int, ...], Policy] = {}
        self._rules = Remembered(self._make_rules, REMEMBERED_NAMES)
        self._made: dict[tuple[int, tuple[str, ...]], tuple[Policy, Rules | None]] = {}
        policies = (*self._entries, *document.asked.streams.values())
        self.has_rules = bool(document.windows) or any(RULED & policy.model_fields_set for policy in policies)

    @property
    def asks_nothing(self) -> bool:
        """Whether no stream has a policy."""
        return not (self._entries or self.document.asked.streams)

    def of(self, stream: str) -> Policy:
        """The policy of a stream."""
        return self._known[stream]

    def rules(self, stream: str) -> Rules | None:
        """The rules of a stream's incidents; None where nothing is asked of them."""
        return self._rules[stream]

    def windows(self, stream: str) -> list[str]:
        """The names of the windows that a stream has, in their order."""
        windows = self.document.windows
        fitting = [self._names_of_windows[at] for at in self._windows.fitting(stream)]
        return [name for name in fitting if windows[name].has_tags(self.of(stream).tags)]

    def _find(self, stream: str) -> Policy:
        """Those of which the same patterns fit have one policy, so that it is in memory once."""
        fitting = tuple(self._patterns.fitting(stream))
        own = self.document.asked.streams.get(stream)
        if own is not None:
            return merged([*(self._entries[at] for at in fitting), own])
        if fitting not in self._merged:
            if len(self._merged) >= REMEMBERED_NAMES:
                self._merged.clear()
            self._merged[fitting] = merged(self._entries[at] for at in fitting)
        return self._merged[fitting]

    def _make_rules(self, stream: str) -> Rules | None:
        policy, windows = self.of(stream), tuple(self.windows(stream))
        key = (id(policy), windows)
        if key not in self._made:
            if len(self._made) >= REMEMBERED_NAMES:
                self._made.clear()
            active = tuple(self.active[name] for name in windows)
            self._made[key] = policy, rules_of(policy, active)  # the policy too, so that its id stays its own
        return self._made[key][1]


LABELLED: Final = ("quiet", "faults")
"""What people's labels come to, among the fields of a policy."""

SPANS: Final = ("minimum", "merge", "cool_off")
RULED: Final = {"gates", "quiet", "hold", *SPANS}
"""What is asked of incidents, among the fields of a policy."""


def rules_of(policy: Policy, windows: tuple[ActiveWindow, ...]) -> Rules | None:
    """The rules that a policy and maintenance windows come to; None for none."""
    spans = {name: None if (asked := getattr(policy, name)) is None else asked.span for name in SPANS}
    if not (policy.gates or policy.quiet or policy.hold or windows or any(spans.values())):
        return None
    return Rules(
        gates=tuple(gate.gate for gate in policy.gates),
        minimum=spans["minimum"],
        merge=spans["merge"],
        cool_off=spans["cool_off"],
        windows=windows,
        quiet=tuple(one.allowance for one in policy.quiet),
        hold=policy.hold,
    )


def merged(policies: Iterable[Policy]) -> Policy:
    """One policy of several, the last of which counts most."""
    said: dict[str, Any] = {}
    for policy in policies:
        for name in policy.model_fields_set - {"pattern"}:
            value = getattr(policy, name)
            if name == "tags":
                said.setdefault(name, {}).update(value)
            elif name in ("gates", *LABELLED):
                said.setdefault(name, []).extend(value)
            else:
                said.pop(OTHER_BUDGET.get(name, ""), None)
                said[name] = value
    return Policy.model_construct(_fields_set=set(said), **{**_ALL_DEFAULTS, **said}) if said else NOTHING_ASKED


def labelled(policy: Policy, incident_id: str, quiet: list[Quiet], faults: list[Fault]) -> Policy:
    """A policy after an incident was labelled, in place of what was said of it before."""
    return _with_labels(
        policy, with_label(policy.quiet, incident_id, quiet), with_label(policy.faults, incident_id, faults)
    )


def with_labels_of(before: Policy, policy: Policy) -> Policy:
    """A stream's policy that replaces another one: what it does not say of labels stays."""
    quiet = policy.quiet if "quiet" in policy.model_fields_set else before.quiet
    return _with_labels(policy, quiet, policy.faults if "faults" in policy.model_fields_set else before.faults)


def _with_labels(policy: Policy, quiet: list[Quiet], faults: list[Fault]) -> Policy:
    """A policy with these labels, and no others."""
    said = {name: getattr(policy, name) for name in policy.model_fields_set - {*LABELLED}}
    if quiet:
        said["quiet"] = quiet
    if faults:
        said["faults"] = faults
    return Policy(**said)


def with_labels(asked: Policies, before: Policies) -> Policies:
    """Policies that replace others, with what people labelled on streams. Raises InvalidPolicies for too many."""
    streams = dict(asked.streams)
    for name, one in before.streams.items():
        if one.quiet or one.faults:
            streams[name] = with_labels_of(one, streams.get(name, NOTHING_ASKED))
    if streams == asked.streams:
        return asked
    if len(streams) > MOST_STREAMS:
        raise InvalidPolicies(
            f"{len(streams)} streams would have policies, with those that have labels; expected up to {MOST_STREAMS}"
        )
    return asked.model_copy(update={"streams": streams})


def require_bounds(asked: Policies) -> None:
    """Raise InvalidPolicies for patterns that ask more of one stream than may be looked through at its anomalies."""
    tags = len({name for policy in asked.policies for name in policy.tags})
    if tags > MOST_PATTERN_TAGS:
        raise InvalidPolicies(f"the patterns have tags of {tags} names; at most {MOST_PATTERN_TAGS} are taken")
    labels = sum(len(policy.quiet) + len(policy.faults) for policy in asked.policies)
    if labels > MOST_PATTERN_LABELS:
        raise InvalidPolicies(f"the patterns have {labels} quiet and faults; at most {MOST_PATTERN_LABELS} are taken")


def policies_in(body: bytes | str) -> Policies:
    """Policies as they are sent. Raises InvalidPolicies."""
    try:
        return Policies.model_validate_json(body)
    except ValidationError as error:
        raise InvalidPolicies(first_of(error.errors())) from error
