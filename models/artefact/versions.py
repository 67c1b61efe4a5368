"""Versions: how a model of a repository stands, what was done to it, and how it is named."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final, Literal

from pydantic import BaseModel, ConfigDict, Field

from gatewatch.models.artefact.files import SHIPPED_AS
from gatewatch.models.errors import UnknownModel
from gatewatch.models.text import listed

CHAMPION: Final = "champion"
"""The alias that is meant where a reference has none."""

RESERVED: Final = frozenset({*SHIPPED_AS, "default"})
"""What means a model without a repository: those that come with gatewatch, and in rules the one of GATEWATCH_MODEL."""

MODEL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
ALIAS_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
REFERENCE: Final = re.compile(rf"({MODEL_NAME.pattern})(?:@({ALIAS_NAME.pattern}|[1-9][0-9]{{0,8}}))?")


class _Kept(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Version(_Kept):
    """One version of a model; it never changes."""

    version: int = Field(ge=1)
    sha256: str = Field(pattern="^[0-9a-f]{64}$", description="of its manifest, which covers all of its files")
    added_at: str
    added_by: str
    note: str = ""

    @property
    def digest(self) -> str:
        """What replies call the model: the beginning of the SHA-256."""
        return self.sha256[:16]


class Alias(_Kept):
    """Where a word points.

    Attributes:
        revision: of the model, when the word was moved there.
        before: where it pointed before, the last first.
    """

    version: int
    revision: int
    before: list[int] = []


class Model(_Kept):
    """How a model stands.

    Attributes:
        revision: number of its last change, 0 of one that is not there yet.
    """

    model: str
    revision: int
    versions: list[Version] = []
    aliases: dict[str, Alias] = {}

    def version(self, number: int) -> Version:
        """Raises UnknownModel."""
        for version in self.versions:
            if version.version == number:
                return version
        there = listed([str(version.version) for version in self.versions]) or "none"
        raise UnknownModel(f"the model {self.model} has no version {number}; there are: {there}")

    def named(self, word: str) -> Version:
        """The version of an alias, or of a number. Raises UnknownModel."""
        if word.isdecimal():
            return self.version(int(word))
        if word not in self.aliases:
            there = listed(sorted(self.aliases)) or "none"
            raise UnknownModel(
                f"the model {self.model} has no alias {word}; there are: {there} (gatewatch models promote sets one)"
            )
        return self.version(self.aliases[word].version)


class Change(_Kept):
    """One entry of a model's log: what was done, and how the model stands since."""

    format: Literal[1] = 1
    at: str
    by: str
    action: Literal["add", "promote", "rollback"]
    version: int
    alias: str = ""
    was: int | None = Field(None, description="the version that the alias pointed to before")
    note: str = ""
    after: Model


@dataclass(frozen=True)
class Reference:
    """A model and which of its versions: `pumps`, `pumps@champion`, `pumps@3`."""

    model: str
    word: str = CHAMPION

    @classmethod
    def of(cls, text: str) -> Reference:
        """Raises UnknownModel where the text is none."""
        found = REFERENCE.fullmatch(text)
        if found is None:
            raise UnknownModel(
                f"{text[:80]!r} names no model; expected one as pumps, pumps@champion or pumps@3 (small letters, "
                "digits, - and _)"
            )
        return cls(found[1], found[2] or CHAMPION)

    def __str__(self) -> str:
        """As it is written in rules."""
        return f"{self.model}@{self.word}"


def require_name(name: str) -> None:
    """Raise UnknownModel where a model cannot have this name."""
    if not MODEL_NAME.fullmatch(name):
        raise UnknownModel(f"{name[:80]!r} is no name of a model; expected small letters, digits, - and _")
    if name in RESERVED:
        raise UnknownModel(f"{name} means a model that is there already; give yours another name")
