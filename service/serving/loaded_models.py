"""LoadedModels: the models that this process has in memory; loaded when first used, bounded, dropped when unused."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final, Generic, TypeVar

import structlog

from gatewatch.models.artefact.files import Artefact
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import Version
from gatewatch.models.errors import ArtefactError
from gatewatch.service.serving.repository_access import RepositoryAccess
from gatewatch.service.serving.rules import Chosen

log = structlog.get_logger(__name__)

M = TypeVar("M")

SESSION_BYTES: Final = 420 * 2**10
"""What a session takes beside its weights (measured with 1,000 of them, LSTMs of 2 x 32)."""

UNUSED_S: Final = 600.0
"""After so long a model that scored nothing is dropped."""

REFUSED_S: Final = 10.0
"""A model that could not be loaded is not tried again before."""


@dataclass
class _Loaded(Generic[M]):
    model: M
    size: int
    used_at: float


class LoadedModels(Generic[M]):
    """Models by the SHA-256 of their manifests."""

    def __init__(
        self,
        access: RepositoryAccess,
        make: Callable[[Artefact], M],
        most: int,
        most_bytes: int,
        on_count: Callable[[int, int], None],
    ) -> None:
        """Begin with none.

        Args:
            make: from an artefact whose hashes are right; it verifies the canary, and raises ArtefactError where the
                artefact cannot be served.
            most, most_bytes: of models together; the one that was unused for longest goes first. One is always kept.
            on_count: is told how many there are and their bytes, whenever that changes.
        """
        self._access = access
        self._make = make
        self._most = most
        self._most_bytes = most_bytes
        self._on_count = on_count
        self._loaded: OrderedDict[str, _Loaded[M]] = OrderedDict()
        self._loading: dict[str, asyncio.Task[M]] = {}
        self._refused: dict[str, tuple[float, ArtefactError]] = {}

    def at_hand(self, chosen: Chosen) -> M | None:
        """A model if it is in memory, which counts as a use."""
        loaded = self._loaded.get(chosen.sha256)
        if loaded is None:
            return None
        self._loaded.move_to_end(chosen.sha256)
        loaded.used_at = time.monotonic()
        return loaded.model

    def has(self, chosen: Chosen) -> bool:
        """Whether a model is in memory."""
        return chosen.sha256 in self._loaded

    def error_of(self, chosen: Chosen) -> ArtefactError | None:
        """Why a model could not be loaded the last time; None where it could, or was not asked for."""
        refused = self._refused.get(chosen.sha256)
        return refused[1] if refused else None

    async def get(self, chosen: Chosen) -> M:
        """A model, loaded and verified if need be; who wants it meanwhile waits for the same.

        Raises:
            ArtefactError: it cannot be loaded; said again for REFUSED_S without another try.
        """
        at_hand = self.at_hand(chosen)
        if at_hand is not None:
            return at_hand
        refused = self._refused.get(chosen.sha256)
        if refused is not None and time.monotonic() < refused[0]:
            raise refused[1]
        loading = self._loading.get(chosen.sha256)
        if loading is None:
            loading = self._loading[chosen.sha256] = asyncio.create_task(self._load(chosen), name="load a model")
        return await asyncio.shield(loading)  # whoever hangs up takes it from nobody

    async def verify(self, chosen: Chosen) -> None:
        """See whether a model can be served, with a new try if it could not be before. Raises ArtefactError."""
        self._refused.pop(chosen.sha256, None)
        await self.get(chosen)

    def keep_only(self, sha256s: Collection[str]) -> None:
        """Drop what is not among these and has been unused for a minute, and what has long been unused.

        What is among these stays while it could not be loaded again.
        """
        now = time.monotonic()
        for sha256, loaded in list(self._loaded.items()):
            wanted = sha256 in sha256s
            if now - loaded.used_at > (UNUSED_S if wanted else UNUSED_S / 10) and not (wanted and self._access.away):
                self._drop(sha256, "unused")
        self._refused = {sha256: refused for sha256, refused in self._refused.items() if sha256 in sha256s}

    async def _load(self, chosen: Chosen) -> M:
        try:
            model, size = await self._access.ask(lambda repository: self._made(repository, chosen))
        except ArtefactError as error:
            log.error("model not loaded", model=chosen.digest.hex(), version=chosen.version, error=str(error))
            self._refused[chosen.sha256] = time.monotonic() + REFUSED_S, error
            raise
        finally:
            del self._loading[chosen.sha256]
        self._refused.pop(chosen.sha256, None)
        self._loaded[chosen.sha256] = _Loaded(model, size, time.monotonic())
        while len(self._loaded) > 1 and (len(self._loaded) > self._most or self._bytes() > self._most_bytes):
            self._drop(next(iter(self._loaded)), "no room")
        self._on_count(len(self._loaded), self._bytes())
        log.info("model loaded", model=chosen.digest.hex(), version=chosen.version)
        return model

    def _made(self, repository: Repository, chosen: Chosen) -> tuple[M, int]:
        """Runs on a thread of the repository's."""
        version = Version(version=chosen.version, sha256=chosen.sha256, added_at="", added_by="")
        repository.log.has_models = True  # the rules name this one
        artefact = repository.artefacts.artefact(version)
        return self._make(artefact), len(artefact.graph) + SESSION_BYTES

    def _bytes(self) -> int:
        return sum(loaded.size for loaded in self._loaded.values())

    def _drop(self, sha256: str, why: str) -> None:
        del self._loaded[sha256]
        self._on_count(len(self._loaded), self._bytes())
        log.info("model dropped", model=sha256[:16], why=why)
