"""ShadowAdministration: what operators do with the shadow of a model, and what it came to."""

from __future__ import annotations

from typing import Any, Final, Protocol

from gatewatch.models.artefact.versions import Model, Reference
from gatewatch.models.errors import ArtefactError, UnknownModel
from gatewatch.service.errors import NoShadow, NoSuchModel, UnusableModel
from gatewatch.service.serving.administration import Administration, as_answer
from gatewatch.service.serving.assignments import Assignments
from gatewatch.service.serving.loaded_models import LoadedModels
from gatewatch.service.serving.rules import MOST_SHADOWS, Assignment, Chosen, Shadow
from gatewatch.service.serving.served_model import ServedModel
from gatewatch.service.serving.shared_document import now_text

WEEK_MS: Final = 7 * 86_400_000


class Figures(Protocol):
    """What shadows came to."""

    async def read(self, model: str, number: int) -> dict[str, float]:
        """The sums of a shadow. Raises StoreUnavailable."""


class ShadowAdministration:
    """Begins and ends shadows, and reads their figures."""

    def __init__(
        self,
        administration: Administration,
        assignments: Assignments,
        loaded: LoadedModels[ServedModel],
        figures: Figures,
    ) -> None:
        self._administration = administration
        self._assignments = assignments
        self._loaded = loaded
        self._figures = figures

    async def begin(self, name: str, word: str, share: float, by: str) -> dict[str, Any]:
        """Have a version score a share of a model's streams from now on, its figures beginning at 0.

        Raises:
            NoSuchModel: there is no such model or version.
            UnusableModel: it cannot be served, its channels are others, it is the one that scores, or there are
                MOST_SHADOWS.
        """
        model = await self._administration.model(name)
        try:
            chosen = Chosen.of(model, word)
        except UnknownModel as error:
            raise NoSuchModel(str(error)) from error
        try:
            await self._loaded.verify(chosen)
            await self._check(model, chosen)
        except ArtefactError as error:
            raise as_answer(error) from error

        async def decide(before: Assignment) -> Assignment:
            if name not in before.shadows and len(before.shadows) >= MOST_SHADOWS:
                raise UnusableModel(f"{MOST_SHADOWS} models have a shadow, which is the most: end one of them first")
            shadow = Shadow(chosen=chosen, share=share, number=before.number + 1, at=now_text(), by=by)
            return before.model_copy(update={"shadows": {**before.shadows, name: shadow}, "at": now_text(), "by": by})

        await self._assignments.change(decide)
        return await self.look(name)

    async def end(self, name: str, by: str) -> dict[str, Any]:
        """Have no shadow score beside a model any more; returns what it came to. Raises NoShadow."""
        figures = await self.look(name)

        async def decide(before: Assignment) -> Assignment | None:
            if name not in before.shadows:
                return None
            shadows = {other: shadow for other, shadow in before.shadows.items() if other != name}
            return before.model_copy(update={"shadows": shadows, "at": now_text(), "by": by})

        await self._assignments.change(decide)
        return figures

    async def look(self, name: str) -> dict[str, Any]:
        """The shadow of a model, and what it came to, summed over all processes. Raises NoShadow."""
        await self._assignments.look()
        shadow = self._assignments.now.assignment.shadows.get(name)
        if shadow is None:
            raise NoShadow(f"the model {name} has no shadow")
        return {
            "model": name,
            "version": shadow.chosen.version,
            "digest": shadow.chosen.digest.hex(),
            "share": shadow.share,
            "began_at": shadow.at,
            "began_by": shadow.by,
            **figures_of(await self._figures.read(name, shadow.number)),
        }

    async def _check(self, model: Model, chosen: Chosen) -> None:
        """Raise UnusableModel where there is nothing to compare a version with."""
        versions = self._assignments.now.assignment.versions
        scoring = [one for reference, one in versions.items() if Reference.of(reference).model == model.model]
        if not scoring:
            raise UnusableModel(f"no rule gives streams to {model.model}: there is nothing to stand beside")
        if all(one.sha256 == chosen.sha256 for one in scoring):
            raise UnusableModel(f"version {chosen.version} is the one that scores: there is nothing to compare it with")
        shadow = await self._loaded.get(chosen)
        for one in scoring:
            champion = await self._loaded.get(one)
            if shadow.any_channels or champion.any_channels:
                continue
            if set(champion.detector.channels) != set(shadow.detector.channels):
                raise UnusableModel(
                    f"version {chosen.version} has the channels {', '.join(shadow.detector.channels)}, and version "
                    f"{one.version}, which scores, {', '.join(champion.detector.channels)}"
                )


def figures_of(sums: dict[str, float]) -> dict[str, Any]:
    """What a shadow's sums mean.

    `readings`: that both judged. `alerts_per_week`: of a stream, None as long as no time has passed.
    `loss`: mean error of the forecast, in half widths of the champion's band, each at most 10; None without any.
    """
    weeks, losses = sums.get("stream_ms", 0.0) / WEEK_MS, sums.get("losses", 0.0)

    def of_both(name: str, by: float) -> dict[str, float | None]:
        return {who: sums.get(f"{who}_{name}", 0.0) / by if by > 0 else None for who in ("champion", "shadow")}

    count = {name: int(sums.get(name, 0)) for name in ("readings", "champion_only", "shadow_only", "both", "dropped")}
    return {
        "readings": count["readings"],
        "stream_weeks": weeks,
        "anomalous": {name: count[name] for name in ("both", "champion_only", "shadow_only")},
        "alerts": {who: int(sums.get(f"{who}_alerts", 0)) for who in ("champion", "shadow")},
        "alerts_per_week": of_both("alerts", weeks),
        "loss": of_both("loss", losses),
        "microseconds": 1e6 * sums["seconds"] / sums["stepped"] if sums.get("stepped") else None,
        "dropped": count["dropped"],
    }
