"""ModelLog: what was done to the models of a repository, and how they stand since.

    log/pumps.00000007.json     what was done to the model `pumps`, by whom, and how it stands since: its seventh change

A change is a new file of the next number; of two admins who change a model at once, one finds that number taken, looks
again and decides anew. The log is the audit trail.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Final, TypeVar

from pydantic import ValidationError

from gatewatch.models.artefact.files import LARGEST_MANIFEST
from gatewatch.models.artefact.place import Place
from gatewatch.models.artefact.versions import MODEL_NAME, Change, Model, require_name
from gatewatch.models.errors import ChangedMeanwhile, RepositoryAway, RepositoryError, UnknownModel
from gatewatch.models.text import listed

ATTEMPTS: Final = 20
"""Changes of others in a row that one change waits for."""

T = TypeVar("T")

_LOG_NAME: Final = re.compile(rf"({MODEL_NAME.pattern})\.([0-9]{{8}})\.json")


class ModelLog:
    """The log of a repository; several processes may write it at once.

    Nothing is ever taken away from a repository: one that is empty, and was not before, is away.

    Attributes:
        has_models: whether it is known to have any: it was seen, or whoever has it knows from elsewhere.
    """

    def __init__(self, place: Place, for_service: bool) -> None:
        """`for_service`: a folder is away too where the one that it would be in does not exist."""
        self.has_models = False
        self._place = place
        self._for_service = for_service

    def revisions(self) -> dict[str, int]:
        """The number of each model's last change, by its name. One listing: whoever waits for changes asks this."""
        last: dict[str, int] = {}
        for name, number in self._entries():
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
            raise UnknownModel(f"there is no model {name} in {self._place.url}; there are: {there}")
        return model

    def history(self, name: str, most: int = 100) -> list[Change]:
        """What was done to a model, by whom and when, the last first."""
        last = self.model(name).revision
        return [self._read(name, number) for number in range(last, max(0, last - most), -1)]

    def as_seen(self, name: str, revision: int | None) -> Model:
        """How a model stands. Raises ChangedMeanwhile where it has not the revision that was looked at."""
        model = self.model(name)
        if revision not in (None, model.revision):
            raise ChangedMeanwhile(
                f"the model {name} has revision {model.revision} by now, not {revision}: look at it, and do it again"
            )
        return model

    def change(self, name: str, decide: Callable[[Model, str], tuple[T, Change | None]]) -> T:
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
        require_name(name)
        last = max((number for model, number in self._entries() if model == name), default=0)
        return self._read(name, last).after if last else Model(model=name, revision=0)

    def _entries(self) -> Iterator[tuple[str, int]]:
        files = self._place.names("log")
        self.require(files, self.has_models)
        self.has_models = bool(files)
        for file in files:
            if found := _LOG_NAME.fullmatch(file):
                yield found[1], int(found[2])

    def require(self, files: Sequence[str], has_models: bool) -> None:
        """Raise RepositoryAway where the log has no files, and should have or is not there at all."""
        if files:
            return
        if has_models and not self._place.is_there:
            raise RepositoryAway(f"the repository {self._place.url} is not there: is it mounted?")
        if self._for_service and not self._place.has_room:
            raise RepositoryAway(
                f"the repository {self._place.url} is not there, nor is the folder that it would be in: is it mounted?"
            )
        if has_models:
            raise RepositoryAway(
                f"the repository {self._place.url} is empty, and had models: is it mounted? Nothing is ever taken away "
                "there"
            )

    def _read(self, name: str, number: int) -> Change:
        file = _log_name(name, number)
        try:
            change = Change.model_validate_json(self._place.read(file, LARGEST_MANIFEST))
        except ValidationError as error:
            first = error.errors()[0]
            raise RepositoryError(
                f"{self._place.url}/{file}: {'.'.join(map(str, first['loc']))}: {first['msg']}; it is damaged, or of a "
                "newer gatewatch"
            ) from error
        if (change.after.model, change.after.revision) != (name, number):
            raise RepositoryError(f"{self._place.url}/{file}: it is the entry of another model or number")
        return change


def _log_name(name: str, number: int) -> str:
    return f"log/{name}.{number:08d}.json"
