"""KeptArtefacts: the artefacts of a repository, each under the SHA-256 of its manifest, which covers all of its files.

artefacts/<sha256>/...      its files, and signatures/ beside them
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from gatewatch.models.artefact.files import MANIFEST, Artefact, Signed, artefact_from
from gatewatch.models.artefact.model_log import ModelLog
from gatewatch.models.artefact.place import Place
from gatewatch.models.artefact.signatures import LARGEST_SIGNATURE
from gatewatch.models.artefact.versions import Version
from gatewatch.models.errors import ArtefactError, RepositoryError


class KeptArtefacts:
    """The artefacts that a repository's log names."""

    def __init__(self, place: Place, log: ModelLog, verify: Callable[[Artefact], object], trust: Signed | None) -> None:
        """`verify`, `trust`: as of Repository."""
        self._place = place
        self._log = log
        self._verify = verify
        self._trust = trust

    def artefact(self, version: Version) -> Artefact:
        """A version's artefact, with all of its hashes checked. Raises ArtefactError, RepositoryError."""
        folder = f"artefacts/{version.sha256}/"
        place = f"{self._place.url}/{folder}"
        trust = self._trust
        trusted = None if trust is None else partial(trust.require_from, partial(self._signature, folder), place)
        artefact = artefact_from(lambda name, most: self._read_file(folder + name, most), place, trusted)
        if artefact.digest.hex() != version.digest:
            raise ArtefactError(f"{self._place.url}/{folder}{MANIFEST}: it is the manifest of another artefact")
        return artefact

    def _read_file(self, name: str, most: int) -> bytes:
        """A file of an artefact that the log knows. Raises ArtefactError where it is not there."""
        try:
            return self._place.read(name, most)
        except RepositoryError as error:
            if isinstance(error.__cause__, FileNotFoundError):
                self._log.require(self._place.names("log"), has_models=True)
                raise ArtefactError(
                    f"{self._place.url}/{name} is not there: the repository was copied in part; copy it again"
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

    def keep(self, sha256: str, contents: Mapping[str, bytes]) -> None:
        """Write the files of an artefact, and read it back: what lay there before may be half of it."""
        for file, content in contents.items():
            self._place.create(f"artefacts/{sha256}/{file}", content)
        self.artefact(Version(version=1, sha256=sha256, added_at="", added_by=""))
