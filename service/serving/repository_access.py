"""RepositoryAccess: the repository of models, as a service asks it, which waits for nobody."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Final, TypeVar

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.errors import ArtefactError, RepositoryError

T = TypeVar("T")

REPOSITORY_S: Final = 30.0
"""The longest wait for the repository."""

THREADS: Final = 4
"""That may wait for the repository; never those that step batches."""


class RepositoryAccess:
    """The repository, asked on threads of its own and for a bounded time."""

    def __init__(self, repository: Repository | None) -> None:
        self._repository = repository
        self._threads = ThreadPoolExecutor(THREADS, "repository")

    @property
    def given(self) -> bool:
        """Whether there is a repository."""
        return self._repository is not None

    async def ask(self, question: Callable[[Repository], T]) -> T:
        """Ask the repository.

        Raises:
            ArtefactError: as the question does, and RepositoryError where it is away. Whoever asks a service about a
                model hears it, so that it names no folder and no address.
        """
        if self._repository is None:
            raise RepositoryError("there is no repository of models: GATEWATCH_MODELS is not set")
        asked = asyncio.get_running_loop().run_in_executor(self._threads, question, self._repository)
        try:
            async with asyncio.timeout(REPOSITORY_S):
                return await asked
        except TimeoutError as error:
            raise RepositoryError(f"the repository did not answer within {REPOSITORY_S:g} s") from error
        except ArtefactError as error:
            error.args = (str(error).replace(self._repository.url, "the repository"),)
            raise

    def close(self) -> None:
        """Wait for nobody."""
        self._threads.shutdown(wait=False, cancel_futures=True)
