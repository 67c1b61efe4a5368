"""Repository: models by name, their versions, and the aliases that say which version is which.

    log/pumps.00000007.json     what was done to the model `pumps`, by whom, and how it stands since: its seventh change
    artefacts/<sha256>/...      artefacts, each under the SHA-256 of its manifest, which covers all of its files
    reports/pumps.3.0002.json   how version 3 of `pumps` stood against the champion when it was looked at the second
                                time; beside it the same for people, .txt

No file is ever written over. A change is a new file of the next number; of two admins who change a model at once, one
finds that number taken, looks again and decides anew. A version is there once the log says so, and the log says so
after its last file was written: a half-copied one is never seen. The log is the audit trail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from gatewatch.models.artefact.files import (
    LARGEST_MANIFEST,
    MANIFEST,
    SHIPPED_AS,
    Artefact,
    GeneralManifest,
    Signed,
    artefact_from,
    read_file,
    standing,
)
from gatewatch.models.artefact.gate_report import GateReport
from gatewatch.models.artefact.place import Place
from gatewatch.models.artefact.signatures import KEY, LARGEST_SIGNATURE, signatures_in
from gatewatch.models.errors import (
    ArtefactError,
    ChangedMeanwhile,
    NotBetter,
    RepositoryAway,
    RepositoryError,
    UnfitModel,
    UnknownModel,
)
from gatewatch.models.text import listed

CHAMPION: Final = "champion"
"""The alias that is meant where a reference has none."""

RESERVED: Final = frozenset({*SHIPPED_AS, "default"})
"""What means a model without a repository: those that come with gatewatch, and in rules the one of GATEWATCH_MODEL."""

MODEL_NAME: Final = re.compile(r"[a-z0-9][a-z0-9_-]{0,63}")
ALIAS_NAME: Final = re.compile(r"[a-z][a-z0-9_-]{0,31}")
REFERENCE: Final = re.compile(rf"({MODEL_NAME.pattern})(?:@({ALIAS_NAME.pattern}|[1-9][0-9]{{0,8}}))?")

ATTEMPTS: Final = 20
"""Changes of others in a row that one change waits for."""

ROLLBACKS: Final = 32
"""Steps that an alias can be rolled back."""

T = TypeVar("T")


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


class Repository:
    """Models under a folder or an fsspec URL; several processes may change it at once.

    Nothing is ever taken away from a repository: one that is empty, and was not before, is away.

    Args:
        verify: raises ArtefactError for an artefact that must not be served, see models/detectors/canary.py.
        trust: who must have signed what is read; None where nobody need.
        for_service: a folder is away too where the one that it would be in does not exist; else `add` makes both.

    Attributes:
        has_models: whether it is known to have any: it was seen, or whoever has it knows from elsewhere.
    """

    def __init__(
        self,
        url: str,
        verify: Callable[[Artefact], object],
        trust: Signed | None = None,
        *,
        for_service: bool = False,
    ) -> None:
        self._trust = trust
        self._for_service = for_service
        self.has_models = False
        self.url = url
        self._place = Place(url)
        self._verify = verify

    def revisions(self) -> dict[str, int]:
        """The number of each model's last change, by its name. One listing: whoever waits for changes asks this."""
        last: dict[str, int] = {}
        for name, number in self._log():
            last[name] = max(last.get(name, 0), number)
        return dict(sorted(last.items()))

    def last_changes(self) -> list[Change]:
        """What was done last to each model, and how it stands since; in the order of their names."""
        return [self._read(name, number) for name, number in self.revisions().items()]

    def model(self, name: str, revision: int | None = None) -> Model:
        """How a model stands. Raises UnknownModel where there is none of this name.

        Args:
            revision: as `revisions` just gave it, which saves a listing.
        """
        model = self._read(name, revision).after if revision else self._standing(name)
        if not model.revision:
            none = "none" if self._place.is_there else "none, and no such folder"
            there = listed(list(self.revisions())) or none
            raise UnknownModel(f"there is no model {name} in {self.url}; there are: {there}")
        return model

    def find(self, reference: Reference) -> Version:
        """The version that a reference means now. Raises UnknownModel."""
        return self.model(reference.model).named(reference.word)

    def history(self, name: str, most: int = 100) -> list[Change]:
        """What was done to a model, by whom and when, the last first."""
        last = self.model(name).revision
        return [self._read(name, number) for number in range(last, max(0, last - most), -1)]

    def artefact(self, version: Version) -> Artefact:
        """A version's artefact, with all of its hashes checked. Raises ArtefactError, RepositoryError."""
        folder = f"artefacts/{version.sha256}/"
        place = f"{self.url}/{folder}"
        trust = self._trust
        trusted = None if trust is None else partial(trust.require_from, partial(self._signature, folder), place)
        artefact = artefact_from(lambda name, most: self._read_file(folder + name, most), place, trusted)
        if artefact.digest.hex() != version.digest:
            raise ArtefactError(f"{self.url}/{folder}{MANIFEST}: it is the manifest of another artefact")
        return artefact

    def _read_file(self, name: str, most: int) -> bytes:
        """A file of an artefact that the log knows. Raises ArtefactError where it is not there."""
        try:
            return self._place.read(name, most)
        except RepositoryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self._require_log(self._place.names("log"), has_models=True)
                raise ArtefactError(
                    f"{self.url}/{name} is not there: the repository was copied in part; copy it again"
                ) from error
            raise

    def _signature(self, folder: str, key: str) -> str | None:
        """The signature of an artefact by a key, None where there is none. Raises RepositoryError."""
        signatures = f"{folder}signatures"
        if key not in self._place.names(signatures):
            return None
        return self._place.read(f"{signatures}/{key}", LARGEST_SIGNATURE).decode("ascii", "replace")

    def verified(self, version: Version) -> Artefact:
        """A version's artefact, with its hashes and its canary checked. Raises ArtefactError, RepositoryError."""
        artefact = self.artefact(version)
        self._verify(artefact)
        return artefact

    def add(self, name: str, folder: Path, by: str, note: str = "") -> Version:
        """Add the artefact of a folder as the next version; one that is there already is given back as it is.

        Raises:
            ArtefactError: the artefact is damaged, of another format, or fails its canary.
            RepositoryError: it cannot be written.
        """
        self.require_name(name)
        contents: dict[str, bytes] = {}

        def read(file: str, most: int) -> bytes:
            contents[file] = read_file(place / file, most)
            return contents[file]

        place = standing(folder)
        artefact = artefact_from(read, f"{place}/")
        self._verify(artefact)
        for key, signature in signatures_in(place).items():
            if KEY.fullmatch(key):
                contents[f"signatures/{key}"] = signature.encode()
        return self._keep(name, artefact, contents, by, note)

    def _keep(self, name: str, artefact: Artefact, contents: dict[str, bytes], by: str, note: str) -> Version:
        sha256 = artefact.manifest.manifest_sha256
        self.revisions()  # one that went away during a training is not begun anew in its place
        for file, content in contents.items():
            self._place.create(f"artefacts/{sha256}/{file}", content)
        written = Version(version=1, sha256=sha256, added_at="", added_by="")
        self.artefact(written)  # what lay there before may be half of it

        def added(model: Model, at: str) -> tuple[Version, Change | None]:
            for version in model.versions:
                if version.sha256 == sha256:
                    return version, None
            number = max((version.version for version in model.versions), default=0) + 1
            version = Version(version=number, sha256=sha256, added_at=at, added_by=by, note=note)
            after = model.model_copy(update={"versions": [*model.versions, version]})
            return version, Change(at=at, by=by, action="add", version=number, note=note, after=after)

        return self._change(name, added)

    def promote(
        self,
        name: str,
        word: str,
        by: str,
        alias: str = CHAMPION,
        note: str = "",
        revision: int | None = None,
        other_channels: bool = False,
        if_better: bool = False,
    ) -> Change:
        """Point an alias to a version, once that was verified.

        Args:
            word: number of the version, or another alias of it.
            revision: of the model, as it was looked at; another one is refused.
            other_channels: the version may have other channels than the one that the alias points to.
            if_better: only where its last report says that it is better than the one that the alias points to; what
                that says goes into the note.

        Raises:
            NotBetter: it is not, or there is no report on it against that version.
            UnknownModel: no such model, version or alias.
            ChangedMeanwhile: the model has another revision, or somebody moved the alias at the same time.
            UnfitModel: its channels are others.
            ArtefactError: the version cannot be served.
        """
        if not ALIAS_NAME.fullmatch(alias):
            raise UnknownModel(f"{alias[:40]!r} is no alias; expected a word of small letters, digits, - and _")
        seen = self._as_seen(name, revision)
        version, was = seen.named(word), seen.aliases.get(alias)
        if if_better and (was is None or was.version != version.version):
            note = "; ".join(filter(None, [note, self._better(seen, version, alias)]))
        artefact = self.verified(version)
        if was is not None and was.version != version.version and not other_channels:
            self._require_same_channels(name, artefact, version, seen.version(was.version))
        before = [] if was is None or was.version == version.version else [was.version]
        before += was.before if was else []
        return self._point(seen, alias, version.version, before[:ROLLBACKS], "promote", by, note)

    def _better(self, model: Model, version: Version, alias: str) -> str:
        """What the last report on a version says of it, with the report's number. Raises NotBetter."""
        name, numbers = f"{model.model}@{version.version}", self.report_numbers(model.model, version.version)
        if not numbers:
            raise NotBetter(
                f"there is no report on {name}: gatewatch models promote --if-better with recordings makes one, and so "
                "does gatewatch retrain"
            )
        number = numbers[-1]
        report = self.report(model.model, version.version, number)
        now = model.aliases[alias].version if alias in model.aliases else None
        if report.against != now:
            points = "to no version" if now is None else f"to version {now}"
            raise NotBetter(
                f"report {number} on {name} holds it against {report.other}, and {model.model}@{alias} points {points} "
                "by now: hold it against that one"
            )
        if not report.better:
            raise NotBetter(f"{name} is {report.line()} (report {number})")
        return f"{report.line()} (report {number})"

    def add_report(self, report: GateReport) -> int:
        """Keep a report on a version beside it; returns its number, 1 for the first on this version."""
        number = max(self.report_numbers(report.model, report.version), default=0) + 1
        for _ in range(ATTEMPTS):
            name = _report_name(report.model, report.version, number)
            if self._place.create(f"{name}.json", report.model_dump_json(indent=1).encode()):
                self._place.create(f"{name}.txt", report.text().encode())
                return number
            number += 1
        raise ChangedMeanwhile(f"others kept adding reports on {report.model}@{report.version}; do it again")

    def report_numbers(self, name: str, version: int) -> list[int]:
        """The numbers of the reports on a version, the first one first."""
        found = (_REPORT_NAME.fullmatch(file) for file in self._place.names("reports"))
        return sorted(int(one[3]) for one in found if one and (one[1], int(one[2])) == (name, version))

    def report(self, name: str, version: int, number: int) -> GateReport:
        """A report on a version. Raises RepositoryError where it cannot be read."""
        file = f"{_report_name(name, version, number)}.json"
        try:
            return GateReport.model_validate_json(self._place.read(file, LARGEST_MANIFEST))
        except ValidationError as error:
            raise RepositoryError(f"{self.url}/{file}: it is damaged, or of a newer gatewatch") from error

    def rollback(
        self, name: str, by: str, alias: str = CHAMPION, note: str = "", revision: int | None = None
    ) -> Change:
        """Point an alias to the version it pointed to before. Raises as `promote`, and UnknownModel without one."""
        seen = self._as_seen(name, revision)
        current, was = seen.named(alias), seen.aliases[alias]
        if not was.before:
            raise UnknownModel(f"{name}@{alias} has pointed to version {current.version} only: there is nothing before")
        self.verified(seen.version(was.before[0]))
        return self._point(seen, alias, was.before[0], was.before[1:], "rollback", by, note)

    def _as_seen(self, name: str, revision: int | None) -> Model:
        """How a model stands. Raises ChangedMeanwhile where it has not the revision that was looked at."""
        model = self.model(name)
        if revision not in (None, model.revision):
            raise ChangedMeanwhile(
                f"the model {name} has revision {model.revision} by now, not {revision}: look at it, and do it again"
            )
        return model

    def _point(
        self,
        seen: Model,
        alias: str,
        version: int,
        before: list[int],
        action: Literal["promote", "rollback"],
        by: str,
        note: str,
    ) -> Change:
        """Write where an alias points, unless somebody moved it since it was seen."""
        was = seen.aliases.get(alias)

        def pointed(model: Model, at: str) -> tuple[Change, Change | None]:
            now = model.aliases.get(alias)
            if now != was:
                where = f"points to version {now.version}" if now else "is gone"
                raise ChangedMeanwhile(
                    f"somebody else moved {seen.model}@{alias} meanwhile, it {where}: look at it, and do it again"
                )
            target = Alias(version=version, revision=model.revision, before=before)
            after = model.model_copy(update={"aliases": {**model.aliases, alias: target}})
            change = Change(
                at=at, by=by, action=action, version=version, alias=alias, was=was.version if was else None, note=note,
                after=after,
            )  # fmt: skip
            return change, change

        return self._change(seen.model, pointed)

    def _require_same_channels(self, name: str, artefact: Artefact, version: Version, before: Version) -> None:
        try:
            new, old = channels_of(artefact), channels_of(self.artefact(before))
        except ArtefactError:  # what cannot be read is the more to be replaced
            return
        lacking, more = [c for c in old if c not in new], [c for c in new if c not in old]
        if lacking or more:
            words = [f"lacks {listed(lacking)}"] * bool(lacking) + [f"has {listed(more)} besides"] * bool(more)
            raise UnfitModel(
                f"version {version.version} of {name} {' and '.join(words)}, against version {before.version}, whose "
                "streams it would take over; promote it with --other-channels if that is meant"
            )

    def _change(self, name: str, decide: Callable[[Model, str], tuple[T, Change | None]]) -> T:
        """Write the next entry of a model's log, decided anew whenever somebody else wrote it first.

        Args:
            decide: from the model, with the revision it will have, and the time, to what is returned and the entry.
        """
        for _ in range(ATTEMPTS):
            model = self._standing(name)
            number = model.revision + 1
            at = datetime.now(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
            result, change = decide(model.model_copy(update={"revision": number}), at)
            if change is None or self._place.create(_log_name(name, number), change.model_dump_json(indent=1).encode()):
                self.has_models = True
                return result
        raise ChangedMeanwhile(f"others kept changing the model {name}; look at it, and do it again")

    def _standing(self, name: str) -> Model:
        self.require_name(name)
        last = max((number for model, number in self._log() if model == name), default=0)
        return self._read(name, last).after if last else Model(model=name, revision=0)

    def _log(self) -> Iterator[tuple[str, int]]:
        files = self._place.names("log")
        self._require_log(files, self.has_models)
        self.has_models = bool(files)
        for file in files:
            if found := _LOG_NAME.fullmatch(file):
                yield found[1], int(found[2])

    def _require_log(self, files: Sequence[str], has_models: bool) -> None:
        """Raise RepositoryAway where the log has no files, and should have or is not there at all."""
        if files:
            return
        if has_models and not self._place.is_there:
            raise RepositoryAway(f"the repository {self.url} is not there: is it mounted?")
        if self._for_service and not self._place.has_room:
            raise RepositoryAway(
                f"the repository {self.url} is not there, nor is the folder that it would be in: is it mounted?"
            )
        if has_models:
            raise RepositoryAway(
                f"the repository {self.url} is empty, and had models: is it mounted? Nothing is ever taken away there"
            )

    def _read(self, name: str, number: int) -> Change:
        file = _log_name(name, number)
        try:
            change = Change.model_validate_json(self._place.read(file, LARGEST_MANIFEST))
        except ValidationError as error:
            first = error.errors()[0]
            raise RepositoryError(
                f"{self.url}/{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; it is damaged, or of a newer "
                "gatewatch"
            ) from error
        if (change.after.model, change.after.revision) != (name, number):
            raise RepositoryError(f"{self.url}/{file}: it is the entry of another model or number")
        return change

    @staticmethod
    def require_name(name: str) -> None:
        """Raise UnknownModel where a model cannot have this name."""
        if not MODEL_NAME.fullmatch(name):
            raise UnknownModel(f"{name[:80]!r} is no name of a model; expected small letters, digits, - and _")
        if name in RESERVED:
            raise UnknownModel(f"{name} means a model that is there already; give yours another name")


_LOG_NAME: Final = re.compile(rf"({MODEL_NAME.pattern})\.([0-9]{{8}})\.json")


_REPORT_NAME: Final = re.compile(rf"({MODEL_NAME.pattern})\.([1-9][0-9]{{0,8}})\.([0-9]{{4,}})\.json")


def _report_name(name: str, version: int, number: int) -> str:
    return f"reports/{name}.{version}.{number:04d}"


def _log_name(name: str, number: int) -> str:
    return f"log/{name}.{number:08d}.json"


def channels_of(artefact: Artefact) -> Sequence[str]:
    """A model's channels; none of a general one, which has none of its own."""
    manifest = artefact.manifest
    return () if isinstance(manifest, GeneralManifest) else [channel.name for channel in manifest.channels]
