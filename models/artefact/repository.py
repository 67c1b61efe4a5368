"""Repository: models by name, their versions, and the aliases that say which version is which.

    log/            what was done to each model, see model_log.py
    artefacts/      each under the SHA-256 of its manifest, see kept_artefacts.py
    reports/        how versions stood against the champion, see kept_reports.py

No file is ever written over. A version is there once the log says so, and the log says so after its last file was
written: a half-copied one is never seen.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Final, Literal

from gatewatch.models.artefact.files import (
    Artefact,
    GeneralManifest,
    Signed,
    artefact_from,
    read_file,
    standing,
)
from gatewatch.models.artefact.kept_artefacts import KeptArtefacts
from gatewatch.models.artefact.kept_reports import KeptReports
from gatewatch.models.artefact.model_log import ModelLog
from gatewatch.models.artefact.place import Place
from gatewatch.models.artefact.signatures import KEY, signatures_in
from gatewatch.models.artefact.versions import (
    ALIAS_NAME,
    CHAMPION,
    Alias,
    Change,
    Model,
    Reference,
    Version,
    require_name,
)
from gatewatch.models.errors import ArtefactError, ChangedMeanwhile, UnfitModel, UnknownModel
from gatewatch.models.text import listed

ROLLBACKS: Final = 32
"""Steps that an alias can be rolled back."""


class Repository:
    """Models under a folder or an fsspec URL; several processes may change it at once.

    Nothing is ever taken away from a repository: one that is empty, and was not before, is away.

    Attributes:
        log: what was done to each model, and how it stands since.
        artefacts: of versions.
        reports: on versions.

    Args:
        verify: raises ArtefactError for an artefact that must not be served, see models/detectors/canary.py.
        trust: who must have signed what is read; None where nobody need.
        for_service: a folder is away too where the one that it would be in does not exist; else `add` makes both.
    """

    def __init__(
        self,
        url: str,
        verify: Callable[[Artefact], object],
        trust: Signed | None = None,
        *,
        for_service: bool = False,
    ) -> None:
        self.url = url
        self._verify = verify
        self._place = Place(url)
        self.log = ModelLog(self._place, for_service)
        self.artefacts = KeptArtefacts(self._place, self.log, verify, trust)
        self.reports = KeptReports(self._place)

    def find(self, reference: Reference) -> Version:
        """The version that a reference means now. Raises UnknownModel."""
        return self.log.model(reference.model).named(reference.word)

    def add(self, name: str, folder: Path, by: str, note: str = "") -> Version:
        """Add the artefact of a folder as the next version; one that is there already is given back as it is.

        Raises:
            ArtefactError: the artefact is damaged, of another format, or fails its canary.
            RepositoryError: it cannot be written.
        """
        require_name(name)
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
        self.log.revisions()  # one that went away during a training is not begun anew in its place
        self.artefacts.keep(sha256, contents)

        def added(model: Model, at: str) -> tuple[Version, Change | None]:
            for version in model.versions:
                if version.sha256 == sha256:
                    return version, None
            number = max((version.version for version in model.versions), default=0) + 1
            version = Version(version=number, sha256=sha256, added_at=at, added_by=by, note=note)
            after = model.model_copy(update={"versions": [*model.versions, version]})
            return version, Change(at=at, by=by, action="add", version=number, note=note, after=after)

        return self.log.change(name, added)

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
        seen = self.log.as_seen(name, revision)
        version, was = seen.named(word), seen.aliases.get(alias)
        if if_better and (was is None or was.version != version.version):
            note = "; ".join(filter(None, [note, self.reports.better(seen, version, alias)]))
        artefact = self.artefacts.verified(version)
        if was is not None and was.version != version.version and not other_channels:
            self._require_same_channels(name, artefact, version, seen.version(was.version))
        before = [] if was is None or was.version == version.version else [was.version]
        before += was.before if was else []
        return self._point(seen, alias, version.version, before[:ROLLBACKS], "promote", by, note)

    def rollback(
        self, name: str, by: str, alias: str = CHAMPION, note: str = "", revision: int | None = None
    ) -> Change:
        """Point an alias to the version it pointed to before. Raises as `promote`, and UnknownModel without one."""
        seen = self.log.as_seen(name, revision)
        current, was = seen.named(alias), seen.aliases[alias]
        if not was.before:
            raise UnknownModel(f"{name}@{alias} has pointed to version {current.version} only: there is nothing before")
        self.artefacts.verified(seen.version(was.before[0]))
        return self._point(seen, alias, was.before[0], was.before[1:], "rollback", by, note)

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

        return self.log.change(seen.model, pointed)

    def _require_same_channels(self, name: str, artefact: Artefact, version: Version, before: Version) -> None:
        try:
            new, old = channels_of(artefact), channels_of(self.artefacts.artefact(before))
        except ArtefactError:  # what cannot be read is the more to be replaced
            return
        lacking, more = [c for c in old if c not in new], [c for c in new if c not in old]
        if lacking or more:
            words = [f"lacks {listed(lacking)}"] * bool(lacking) + [f"has {listed(more)} besides"] * bool(more)
            raise UnfitModel(
                f"version {version.version} of {name} {' and '.join(words)}, against version {before.version}, whose "
                "streams it would take over; promote it with --other-channels if that is meant"
            )


def channels_of(artefact: Artefact) -> Sequence[str]:
    """A model's channels; none of a general one, which has none of its own."""
    manifest = artefact.manifest
    return () if isinstance(manifest, GeneralManifest) else [channel.name for channel in manifest.channels]
