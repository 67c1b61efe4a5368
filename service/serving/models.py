"""Models: repository, rules and models in memory, joined; what a service starts and stops of them."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable
from typing import Final

from gatewatch.models.artefact.files import Artefact
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.signatures import trust_of
from gatewatch.models.detectors.canary import verify
from gatewatch.models.errors import ArtefactError
from gatewatch.service.background import Background
from gatewatch.service.errors import StoreUnavailable
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.serving.administration import Administration, Names
from gatewatch.service.serving.assignments import Assignments
from gatewatch.service.serving.loaded_models import LoadedModels
from gatewatch.service.serving.repository_access import RepositoryAccess
from gatewatch.service.serving.rules import Assignment
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.serving.shadow_administration import Figures, ShadowAdministration
from gatewatch.service.serving.shared_document import KeptDocument, look_each_second
from gatewatch.service.settings import Settings

TIDY_S: Final = 30.0


class Models:
    """Which model each stream has, and those that are in memory.

    Attributes:
        assignments: the rules that this process goes by.
        loaded: the models in memory.
        administration: what operators do with both.
        shadows: what they do with shadows.
    """

    def __init__(
        self,
        settings: Settings,
        document: KeptDocument,
        names: Names,
        figures: Figures,
        metrics: Metrics,
        make: Callable[[Artefact], ServedModel],
    ) -> None:
        """Join them; nothing is asked yet.

        Args:
            document: where the rules are kept.
            figures: what shadows came to.
            make: what serves, from a verified artefact; raises ArtefactError.

        Raises:
            ArtefactError: GATEWATCH_MODELS is no URL that can be used.
            GatewatchError: GATEWATCH_TRUSTED_KEYS is no file of public keys.
        """
        self._metrics = metrics
        repository = None
        if settings.models:
            trust = trust_of(settings.trusted_keys, settings.models)
            repository = Repository(settings.models, verify, trust, for_service=True)
        metrics.repository_asked(answered=True)  # until it is
        self._access = RepositoryAccess(repository, metrics.repository_asked)
        self.loaded = LoadedModels(
            self._access, make, settings.loaded_models, settings.loaded_bytes, metrics.models_loaded
        )
        self.assignments = Assignments(document, self._prepare)
        self.administration = Administration(
            self._access,
            self.assignments,
            self.loaded,
            names,
            settings.tenant,
            metrics.model_refused,
            settings.models_look_s,
        )
        self.shadows = ShadowAdministration(self.administration, self.assignments, self.loaded, figures)
        self._background = Background()

    async def start(self) -> None:
        """Know the rules if Redis has them at hand, and look after them from now on."""
        with contextlib.suppress(StoreUnavailable):  # which readiness says
            await self.assignments.look()
        self._background.start(
            {
                "rules": look_each_second(self.assignments.look, "rules"),
                "repository": self.administration.watch(),
                "models": self._tidy(),
            }
        )

    async def stop(self) -> None:
        """Look after nothing any more."""
        await self._background.stop()
        self._access.close()

    def warnings(self) -> list[str]:
        """A repository that is away; models of the rules that could not be loaded, whose streams get 503."""
        errors = {
            name: self.loaded.error_of(chosen) for name, chosen in self.assignments.now.assignment.versions.items()
        }
        away = [f"{self._access.away}; models cannot be changed"] if self._access.away else []
        return away + [f"{name} cannot be loaded: {error}" for name, error in errors.items() if error is not None]

    async def _prepare(self, assignment: Assignment) -> None:
        """Have the new version of each model that is in use in memory, before a stream moves to it."""
        before = self.assignments.now.assignment.versions
        for name, chosen in assignment.versions.items():
            known = before.get(name)
            if known is not None and known.sha256 != chosen.sha256 and self.loaded.has(known):
                with contextlib.suppress(ArtefactError):  # said by LoadedModels; whoever wrote it could load it
                    await self.loaded.get(chosen)
        self._metrics.rules(assignment.number)

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(TIDY_S)
            self.loaded.keep_only(self.assignments.now.assignment.in_use())
