"""Rules: which model each stream has; a pin, or else the first pattern that fits its name, or else the default.

Rules are one document with a number that rises with each change. It also says which version each alias means, so that
all processes of a service go from one version to the next at one number: an alias that is moved in the repository
counts once the document says so. A document never changes.
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, ValidationError, field_validator, model_validator

from gatewatch.models.artefact.versions import REFERENCE, Model, Reference
from gatewatch.models.errors import UnknownModel
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import InvalidRules, first_of
from gatewatch.service.serving.remembered import Remembered
from gatewatch.service.serving.shared_document import Numbered

DEFAULT: Final = "default"
"""In place of a model: the one of GATEWATCH_MODEL, which also scores what no rule is for."""

MOST_RULES: Final = 1000
MOST_PINS: Final = 10_000
MOST_SHADOWS: Final = 16
MOST_FORKS: Final = 16
"""Forks to one name that are known at once: one that met an outage is not taken away, and makes room for the next."""

REMEMBERED_NAMES: Final = 65_536
"""Streams whose rule a process remembers; it takes 1 to 100 us to look for it."""

Pattern = Annotated[str, StringConstraints(min_length=1, max_length=256)]
StreamName = Annotated[str, StringConstraints(min_length=1, max_length=128)]


ModelReference = Annotated[str, Field(json_schema_extra={"pattern": f"^(?:{REFERENCE.pattern})$"})]


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Rule(_Kept):
    """The streams whose name fits a pattern (`*`, `?`, `[abc]`), and their model."""

    pattern: Pattern
    model: ModelReference = Field(
        description="as pumps, pumps@champion or pumps@3; default: the model of GATEWATCH_MODEL"
    )

    @field_validator("model")
    @classmethod
    def _is_a_reference(cls, text: str) -> str:
        return reference(text)


class Rules(_Kept):
    """What an operator says of models: pins of streams, and rules in order."""

    rules: Annotated[list[Rule], Field(max_length=MOST_RULES)] = []
    pins: Annotated[dict[StreamName, ModelReference], Field(max_length=MOST_PINS)] = {}

    @field_validator("pins")
    @classmethod
    def _are_references(cls, pins: dict[str, str]) -> dict[str, str]:
        return {stream: reference(text) for stream, text in pins.items()}

    def references(self) -> list[str]:
        """The models that are named, each once, but for the default."""
        named = [*(rule.model for rule in self.rules), *self.pins.values()]
        return sorted(set(named) - {DEFAULT})


class Chosen(_Kept):
    """The version that a model named in rules has.

    Attributes:
        sha256: of its manifest.
        revision: of the model in the repository when the alias was moved there, 0 of a number; a later choice is
            never replaced by an earlier one.
    """

    version: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$")
    revision: int = Field(ge=0)

    @classmethod
    def of(cls, model: Model, word: str) -> Chosen:
        """The version that an alias or a number means now. Raises UnknownModel."""
        version, alias = model.named(word), model.aliases.get(word)
        return cls(version=version.version, sha256=version.sha256, revision=alias.revision if alias else 0)

    @property
    def digest(self) -> bytes:
        """8 bytes, as records and replies carry them."""
        return bytes.fromhex(self.sha256)[:8]


class Shadow(_Kept):
    """A version that scores a share of a model's streams beside whatever scores them, and decides nothing.

    Attributes:
        share: of the streams, chosen by a hash of their names.
        number: of the assignment with which it began; its figures are kept under it.
        at, by: when it began, and by whom.
    """

    chosen: Chosen
    share: float = Field(gt=0, le=1, allow_inf_nan=False)
    number: int = Field(ge=1)
    at: str
    by: str


class Forked(_Kept):
    """A pin that forks made for a stream; it goes with the stream.

    Several forks to one name may be under way at once, of which one becomes the stream. Each takes away what it wanted
    itself, and nobody else's.

    Attributes:
        tenant: of the stream.
        wanted: the model that each fork wants, by its token; the last one is the pin. Up to MOST_FORKS.
        before: the pin that somebody had made, which is there again if none of them becomes the stream.
    """

    tenant: str
    wanted: Annotated[Mapping[str, ModelReference], Field(min_length=1)]
    before: ModelReference | None = None

    @property
    def pin(self) -> str:
        """The model that the stream has meanwhile."""
        return list(self.wanted.values())[-1]


class Assignment(Numbered):
    """A document of rules, the version that each model named in it has, and the shadows of models.

    Attributes:
        versions: of each reference.
        shadows: of models by name.
        forked: streams whose pin a fork made.
    """

    rules: Rules = Rules()
    versions: Mapping[str, Chosen] = {}
    shadows: Annotated[Mapping[str, Shadow], Field(max_length=MOST_SHADOWS)] = {}
    forked: Annotated[Mapping[StreamName, Forked], Field(max_length=MOST_PINS)] = {}

    def as_kept(self) -> bytes:
        """As it is kept; without shadows and forks where there are none, which versions before them can read."""
        empty = {name for name in ("shadows", "forked") if not getattr(self, name)}
        return self.model_dump_json(exclude=empty).encode()

    def with_rules(self, rules: Rules) -> Assignment:
        """The same with other rules: a fork's pin that stays as it is goes on being one."""
        known = self.rules.pins
        forked = {name: one for name, one in self.forked.items() if rules.pins.get(name) == known[name]}
        return self.model_copy(update={"rules": rules, "forked": forked})

    def with_fork(self, stream: StreamKey, token: str, model: str) -> Assignment:
        """The same with a pin for a stream that a fork is to become. Raises ValidationError for one pin too many."""
        known, name = self.forked.get(stream.name), stream.name
        wanted = dict([*(known.wanted.items() if known else ()), (token, reference(model))][-MOST_FORKS:])
        before = known.before if known else self.rules.pins.get(name)
        return self._with_pin(name, model, Forked(tenant=stream.tenant, wanted=wanted, before=before))

    def without_fork(self, stream: StreamKey, token: str) -> Assignment:
        """The same once a fork did not become the stream; itself where somebody changed the pin since."""
        known, name = self.forked.get(stream.name), stream.name
        if known is None or token not in known.wanted:
            return self
        wanted = {one: model for one, model in known.wanted.items() if one != token}
        if not wanted:
            return self._with_pin(name, known.before, None)
        left = known.model_copy(update={"wanted": wanted})
        return self._with_pin(name, left.pin, left)

    def with_stream(self, stream: StreamKey, token: str) -> Assignment:
        """The same once a fork became the stream: the pin is its own, whatever others want; see `without_fork`."""
        known, name = self.forked.get(stream.name), stream.name
        if known is None or token not in known.wanted or (len(known.wanted) == 1 and known.before is None):
            return self
        model = known.wanted[token]
        alone = known.model_copy(update={"wanted": {token: model}})
        return self._with_pin(name, model, alone if known.before is None else None)

    def _with_pin(self, name: str, model: str | None, fork: Forked | None) -> Assignment:
        """The same but for one pin and what is known of it as a fork's; not yet with its version."""
        pins = {one: pinned for one, pinned in self.rules.pins.items() if one != name}
        forked = {one: known for one, known in self.forked.items() if one != name}
        rules = Rules(rules=self.rules.rules, pins=pins if model is None else {**pins, name: model})
        return self.model_copy(update={"rules": rules, "forked": forked if fork is None else {**forked, name: fork}})

    def without_forks(self, gone: Iterable[StreamKey]) -> Assignment:
        """The same without the pins that forks made for streams that are gone; itself where there are none."""
        known = self.forked
        names = {one.name for one in gone if one.name in known and known[one.name].tenant == one.tenant}
        if not names:
            return self
        pins = {name: model for name, model in self.rules.pins.items() if name not in names}
        after = self.with_rules(Rules(rules=self.rules.rules, pins=pins))
        named = set(after.rules.references())
        return after.model_copy(update={"versions": {n: one for n, one in self.versions.items() if n in named}})

    def in_use(self) -> set[str]:
        """The SHA-256 of every version that scores."""
        return {one.sha256 for one in [*self.versions.values(), *(shadow.chosen for shadow in self.shadows.values())]}

    @model_validator(mode="after")
    def _knows_its_versions(self) -> Assignment:
        if set(self.versions) != set(self.rules.references()):
            raise ValueError("expected the version of each model that is named, and no other")
        if any(self.rules.pins.get(name) != one.pin for name, one in self.forked.items()):
            raise ValueError("expected the pin of each stream that a fork pinned")
        return self


class Assigned:
    """Finds the model of a stream by an assignment; of many streams it remembers what it found."""

    def __init__(self, assignment: Assignment) -> None:
        self.assignment = assignment
        self._pins = assignment.rules.pins
        self._models = [rule.model for rule in assignment.rules.rules]
        self._patterns = _either([rule.pattern for rule in assignment.rules.rules])
        self._known = Remembered(self._find, REMEMBERED_NAMES)

    def reference_of(self, stream: str) -> str:
        """The model of a stream, as the rules name it."""
        return self._known[stream]

    def version_of(self, stream: str) -> Chosen | None:
        """The version that scores a stream; None: the default model does."""
        return self.assignment.versions.get(self.reference_of(stream))

    def _find(self, stream: str) -> str:
        if stream in self._pins:
            return self._pins[stream]
        found = self._patterns.match(stream) if self._patterns else None
        return self._models[found.lastindex - 1] if found and found.lastindex else DEFAULT


def _either(patterns: Sequence[str]) -> re.Pattern[str] | None:
    """One expression with a group a pattern, of which the first that fits is found; it never goes back over a name."""
    return re.compile("|".join(f"({fnmatch.translate(pattern)})" for pattern in patterns)) if patterns else None


def reference(text: str) -> str:
    """A model as rules keep it, with its alias or number. Raises ValueError where the text names none."""
    if text == DEFAULT:
        return text
    try:
        return str(Reference.of(text))
    except UnknownModel as error:
        raise ValueError(str(error)) from error


def literal_prefix(pattern: str) -> str:
    """What every name that fits a pattern begins with."""
    return re.split(r"[*?\[]", pattern, maxsplit=1)[0]


def fits(pattern: str, stream: str) -> bool:
    """Whether a stream's name fits a pattern; small and large letters differ."""
    return fnmatch.fnmatchcase(stream, pattern)


def rules_in(body: bytes | str) -> Rules:
    """Rules as they are sent. Raises InvalidRules."""
    try:
        return Rules.model_validate_json(body)
    except ValidationError as error:
        raise InvalidRules(first_of(error.errors())) from error
