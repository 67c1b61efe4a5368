"""Administration: what operators do with models and rules, over HTTP or in the repository itself.

A promotion is written in the repository first, which is the audit trail, and then in the assignment, from where all
processes take it. One that was made with the command, past the service, is noticed by looking at the repository. Either
way the version is loaded and verified here before any stream is given to it; one that cannot be served changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Final, Protocol, TypeVar

import structlog
from pydantic import ValidationError

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import Change, Model, Reference
from gatewatch.models.errors import (
    ArtefactError,
    ChangedMeanwhile,
    NotBetter,
    RepositoryError,
    UnfitModel,
    UnknownModel,
)
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import (
    ForeignValue,
    InvalidRules,
    ModelAway,
    NoBetterModel,
    NoRepository,
    NoSuchModel,
    Outdated,
    ServiceError,
    StoreUnavailable,
    UnusableModel,
    first_of,
)
from gatewatch.service.serving.assignments import Assignments
from gatewatch.service.serving.repository_access import RepositoryAccess
from gatewatch.service.serving.rules import Assignment, Chosen, Forked, Rules, fits, literal_prefix
from gatewatch.service.serving.shared_document import now_text

log = structlog.get_logger(__name__)

T = TypeVar("T")

PIN_ATTEMPTS: Final = 10
"""Changes of others in a row that a pin waits for."""

LOOKED_THROUGH: Final = 10_000
"""Names of streams that a pattern is tried on, to warn of one that fits none."""


class Verifier(Protocol):
    """Takes a version into use, to see whether it can be."""

    async def verify(self, chosen: Chosen) -> None:
        """Load and verify it, unless it is in use. Raises ArtefactError."""


class Names(Protocol):
    """The list of streams."""

    async def list_streams(self, tenant: str, after: str, most: int) -> list[str]:
        """Up to `most` names in alphabetical order, those that come behind `after`. Raises StoreUnavailable."""


class Administration:
    """Rules, promotions and rollbacks of one service."""

    def __init__(
        self,
        access: RepositoryAccess,
        assignments: Assignments,
        verifier: Verifier,
        names: Names,
        tenant: str,
        on_failure: Callable[[], None],
        look_s: float,
    ) -> None:
        """Join what it works with.

        Args:
            tenant: among whose streams a pattern is looked for.
            on_failure: is called for each version that cannot be served.
            look_s: time between looks at the repository.
        """
        self._access = access
        self._assignments = assignments
        self._verifier = verifier
        self._names = names
        self._tenant = tenant
        self._on_failure = on_failure
        self._look_s = look_s
        self._revisions: Mapping[str, int] = {}

    async def models(self) -> list[Change]:
        """The last change of each model, and how it stands since."""
        return await self._ask(lambda repository: repository.log.last_changes())

    async def model(self, name: str) -> Model:
        """How a model stands."""
        return await self._ask(lambda repository: repository.log.model(name))

    async def has(self, digest: bytes) -> bool:
        """Whether the repository has a version with this digest. Raises ModelAway."""
        if not self._access.given:
            return False
        return any(one.digest == digest.hex() for change in await self.models() for one in change.after.versions)

    async def history(self, name: str, most: int) -> list[Change]:
        """What was done to a model, the last first."""
        return await self._ask(lambda repository: repository.log.history(name, most))

    async def promote(
        self,
        name: str,
        word: str,
        alias: str,
        by: str,
        note: str,
        revision: int | None,
        other_channels: bool,
        if_better: bool = False,
    ) -> Change:
        """Verify a version, point an alias to it, and have all processes go by it; see Repository.promote."""
        model = await self.model(name)
        try:
            chosen = Chosen.of(model, word)
        except UnknownModel as error:
            raise as_answer(error) from error
        try:
            await self._verifier.verify(chosen)
        except ArtefactError as error:
            self._refused(name, error)
            raise as_answer(error) from error
        return await self._moved(
            name,
            lambda repository: repository.promote(name, word, by, alias, note, revision, other_channels, if_better),
        )

    async def rollback(self, name: str, alias: str, by: str, note: str, revision: int | None) -> Change:
        """Point an alias to where it pointed before, and have all processes go by it."""
        return await self._moved(name, lambda repository: repository.rollback(name, by, alias, note, revision))

    async def _moved(self, name: str, move: Callable[[Repository], Change]) -> Change:
        """Move an alias in the repository, which may refuse what this process has in memory; all processes follow."""
        try:
            change = await self._ask(move)
        except UnusableModel as error:
            if not isinstance(error.__cause__, UnfitModel):  # that one could be served
                self._refused(name, error)
            raise
        try:
            await self.follow(change.by)
        except StoreUnavailable as error:
            where = f"{change.after.model}@{change.alias} points to version {change.version} in the repository"
            raise StoreUnavailable(f"{where}; streams move there once this is mended: {error}") from error
        return change

    async def rules(self) -> Assignment:
        """The newest assignment."""
        await self._assignments.look()
        return self._assignments.now.assignment

    async def put_rules(
        self, rules: Rules, by: str, number: int | None, forked: Mapping[str, Forked] | None = None
    ) -> tuple[Assignment, list[str]]:
        """Replace the rules; returns the assignment, and what may be wrong with them.

        Args:
            number: of the assignment that was looked at; another one is refused.
            forked: what is known of forks' pins since, where the change is about them.

        Raises:
            InvalidRules: a model that is not there.
            Outdated: the rules have another number.
            UnusableModel: a version that cannot be served.
        """
        known = {rule.pattern for rule in self._assignments.now.assignment.rules.rules}
        chosen = await self._resolve(rules)

        async def decide(before: Assignment) -> Assignment | None:
            changes = forked is not None or before.rules != rules
            if number is not None and before.number != number and changes:
                raise Outdated(
                    f"the rules have number {before.number} by now, not {number}: look at them, and do it again"
                )
            versions = {name: _later(before.versions.get(name), choice) for name, choice in chosen.items()}
            if not changes and before.versions == versions:
                return None
            after = before.with_rules(rules)
            forks = after.forked if forked is None else forked
            changed = {"versions": versions, "forked": forks, "at": now_text(), "by": by}
            return after.model_copy(update=changed)

        assignment = await self._assignments.change(decide)
        patterns = Counter(rule.pattern for rule in rules.rules)
        warnings = [
            f"{pattern} stands there twice: the first counts" for pattern, count in patterns.items() if count > 1
        ]
        new = [pattern for pattern in patterns if pattern not in known]
        warnings += [f"no stream fits {pattern} yet" for pattern in new if not await self._fits_any(pattern)]
        return assignment, warnings

    async def pin_fork(self, fork: StreamKey, model: str, by: str) -> str:
        """Pin a stream that is to be a fork to a model; a token for `undo_fork` or `keep_fork`.

        Raises:
            InvalidRules: no such model.
            UnusableModel: it cannot be served.
            StoreUnavailable: Redis is away, or others kept changing the rules.
        """
        token = secrets.token_hex(8)
        await self._change_forks(lambda known: known.with_fork(fork, token, model), by)
        return token

    async def undo_fork(self, fork: StreamKey, token: str, by: str) -> None:
        """A stream did not become this fork: its pin is as if this one had not been. Raises as `pin_fork`."""
        await self._change_forks(lambda known: known.without_fork(fork, token), by)

    async def keep_fork(self, fork: StreamKey, token: str, by: str) -> None:
        """A stream became this fork: the pin is its own, and goes with it unless somebody had pinned the stream."""
        await self._change_forks(lambda known: known.with_stream(fork, token), by)

    async def _change_forks(self, decide: Callable[[Assignment], Assignment], by: str) -> None:
        for _ in range(PIN_ATTEMPTS):
            known = await self.rules()
            try:
                after = decide(known)
            except ValidationError as error:
                raise InvalidRules(first_of(error.errors())) from error
            if after is known:
                return
            try:
                await self.put_rules(after.rules, by, known.number, after.forked)
            except Outdated:
                continue
            return
        raise StoreUnavailable("others kept changing the rules; send the request again")

    async def forget_forks(self, gone: Collection[StreamKey], by: str) -> None:
        """Take the pins away that forks made for streams that are gone. Raises StoreUnavailable."""

        async def decide(before: Assignment) -> Assignment | None:
            after = before.without_forks(gone)
            return None if after is before else after.model_copy(update={"at": now_text(), "by": by})

        with contextlib.suppress(ForeignValue):  # rules that cannot be read keep no stream from being forgotten
            await self._assignments.change(decide)

    async def follow(self, by: str = "", only: Sequence[str] | None = None) -> None:
        """Have the assignment say what the aliases in the repository say.

        Args:
            only: of the models that the rules name; without it all.

        Raises:
            ModelAway: the repository is away, or gives a version only in part: look again.
            StoreUnavailable: Redis is away.
        """
        known = self._assignments.now.assignment.versions
        chosen, away = await self._read(list(known) if only is None else only), None
        for name, choice in list(chosen.items()):
            if name in known and _later(known[name], choice) == known[name]:
                continue
            try:
                await self._verifier.verify(choice)
            except ArtefactError as error:
                self._refused(name, error)
                del chosen[name]
                away = error if isinstance(error, RepositoryError) else away

        async def decide(before: Assignment) -> Assignment | None:
            versions = {
                name: _later(known, chosen[name]) if name in chosen else known
                for name, known in before.versions.items()
            }
            if versions == before.versions:
                return None
            return before.model_copy(update={"versions": versions, "at": now_text(), "by": by or "the repository"})

        await self._assignments.change(decide)
        if away is not None:
            raise as_answer(away) from away

    async def watch(self) -> None:
        """Look at the repository now and then, until cancelled."""
        wanted = self._access.given
        while True:
            try:
                if wanted:
                    await self._look()
            except Exception as error:  # nobody else would go on looking
                log.error("the repository of models cannot be followed", exc_info=error)
            await asyncio.sleep(self._look_s)
            wanted = bool(self._assignments.now.assignment.versions or self._access.away)

    async def _look(self) -> None:
        try:
            revisions = await self._ask(lambda repository: repository.log.revisions())
            named = {name: Reference.of(name).model for name in self._assignments.now.assignment.versions}
            changed = [name for name, model in named.items() if revisions.get(model, 0) > self._revisions.get(model, 0)]
            if changed:
                await self.follow(only=changed)
                self._revisions = revisions
        except StoreUnavailable as error:
            if not self._access.away:  # which is said once
                log.warning("the repository of models cannot be followed", error=str(error))
        except ServiceError as error:
            log.error("the repository of models cannot be followed", error=str(error))

    def _refused(self, name: str, error: Exception) -> None:
        self._on_failure()
        log.error("the model before goes on: its new version cannot be served", model=name, error=str(error))

    async def _resolve(self, rules: Rules) -> dict[str, Chosen]:
        """The version that each model named in rules has; each that is new here is verified."""
        try:
            chosen = await self._read(rules.references(), strictly=True)
        except NoSuchModel as error:
            raise InvalidRules(str(error)) from error
        known = self._assignments.now.assignment.versions
        for name, choice in chosen.items():
            if name not in known or known[name].sha256 != choice.sha256:
                try:
                    await self._verifier.verify(choice)
                except ArtefactError as error:
                    self._refused(name, error)
                    raise as_answer(error) from error
        return chosen

    async def _read(self, names: Sequence[str], strictly: bool = False) -> dict[str, Chosen]:
        """The version that each model named has now; `strictly`: one that is not there is an error."""

        def find(repository: Repository) -> dict[str, Chosen]:
            revisions, found = repository.log.revisions(), {}
            models: dict[str, Model] = {}
            for name in names:
                reference = Reference.of(name)
                try:
                    if reference.model not in models:
                        models[reference.model] = repository.log.model(reference.model, revisions.get(reference.model))
                    found[name] = Chosen.of(models[reference.model], reference.word)
                except UnknownModel as error:
                    if strictly:
                        raise
                    log.error("a model of the rules is not in the repository any more", error=str(error))
            return found

        return await self._ask(find) if names else {}

    async def _fits_any(self, pattern: str) -> bool:
        begin = literal_prefix(pattern)
        before = f"{begin[:-1]}{chr(ord(begin[-1]) - 1)}\x7f" if begin else ""  # names are ASCII without controls
        after, seen = before, 0
        while seen < LOOKED_THROUGH:
            names = await self._names.list_streams(self._tenant, after, 1000)
            for name in names:
                if fits(pattern, name):
                    return True
                if not name.startswith(begin):
                    return False
            if len(names) < 1000:
                return False
            after, seen = names[-1], seen + len(names)
        return True  # nobody knows

    async def _ask(self, question: Callable[[Repository], T]) -> T:
        if not self._access.given:
            raise NoRepository("there is no repository of models: GATEWATCH_MODELS is not set")
        named = bool(self._assignments.now.assignment.versions)

        def asked(repository: Repository) -> T:
            repository.log.has_models = repository.log.has_models or named
            return question(repository)

        try:
            return await self._access.ask(asked)
        except ArtefactError as error:
            raise as_answer(error) from error


def as_answer(error: ArtefactError) -> ServiceError:
    """What is told to who asked over HTTP."""
    kinds: list[tuple[type[ArtefactError], type[ServiceError]]] = [
        (UnknownModel, NoSuchModel), (ChangedMeanwhile, Outdated), (RepositoryError, ModelAway),
        (NotBetter, NoBetterModel),
    ]  # fmt: skip
    return next((answer for kind, answer in kinds if isinstance(error, kind)), UnusableModel)(str(error))


def _later(known: Chosen | None, choice: Chosen) -> Chosen:
    """The later of two looks at an alias."""
    return choice if known is None or choice.revision > known.revision else known
