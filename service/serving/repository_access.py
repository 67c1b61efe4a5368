"""RepositoryAccess: the repository of models, as a service asks it, which waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

import structlog

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.errors import ArtefactError, RepositoryAway, RepositoryError

log = structlog.get_logger(__name__)

T = TypeVar("T")

REPOSITORY_S: Final = 30.0
"""The longest wait for the repository."""

THREADS: Final = 4
"""That may wait for the repository; never those that step batches."""


class RepositoryAccess:
    """The repository, asked on threads of its own and for a bounded time.

    Attributes:
        away: why it cannot be reached; empty while it can be.
    """

    def __init__(self, repository: Repository | None, on_look: Callable[[bool], None] = lambda _: None) -> None:
        """`on_look` is told each time that it was asked whether it answered."""
        self.away = ""
        self._repository = repository
        self._on_look = on_look
        self._threads = ThreadPoolExecutor(THREADS, "repository")

    @property
    def given(self) -> bool:
        """Whether there is a repository."""
        return self._repository is not None

    async def ask(self, question: Callable[[Repository], T]) -> T:
        """Ask the repository.

        Raises:
            ArtefactError: as the question does, and RepositoryAway where it cannot be reached. Whoever asks a service
                about a model hears it, so that it names no folder and no address.
        """
        if self._repository is None:
            raise RepositoryError("there is no repository of models: GATEWATCH_MODELS is not set")
        asked = asyncio.get_running_loop().run_in_executor(self._threads, question, self._repository)
        try:
            async with asyncio.timeout(REPOSITORY_S):
                answer = await asked
        except TimeoutError as error:
            away = RepositoryAway(f"the repository did not answer within {REPOSITORY_S:g} s")
            self._looked(str(away))
            raise away from error
        except ArtefactError as error:
            said, url = str(error), self._repository.url
            public = said.replace(f"the repository {url}", "the repository").replace(url, "the repository")
            if isinstance(error, RepositoryAway):
                self._looked(said)
                public = public.partition(" (")[0]  # behind it a library says what it likes
            error.args = (public,)
            raise
        self._looked("")
        return answer

    def _looked(self, away: str) -> None:
        """Note whether it answered, and say so where that is new."""
        url = self._repository.url if self._repository else None
        if away and not self.away:
            log.error("the repository of models is away: streams go on with the models in memory", url=url, error=away)
        elif self.away and not away:
            log.info("the repository of models is there again", url=url)
        self.away = away
        self._on_look(not away)

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)
