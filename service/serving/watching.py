"""Who is shown what was scored, as long as there is anything for them to see."""

from __future__ import annotations

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.serving.assignments import Assignments
from gatewatch.service.serving.drift import Drift
from gatewatch.service.serving.registry import Registry
from gatewatch.service.serving.rules import DEFAULT, Assignment
from gatewatch.service.serving.shadow import Shadows


def watch(scorer: Scorer, assignments: Assignments, registry: Registry, shadows: Shadows, drift: Drift) -> None:
    """Have shadows and drift go by every assignment from now on, and the scorer show them what they look at."""
    default = registry.default.detector

    def follow(assignment: Assignment) -> None:
        shadows.follow(assignment)
        names = {chosen.digest: name for name, chosen in sorted(assignment.versions.items(), reverse=True)}
        if isinstance(default, TrainedDetector):
            names.setdefault(default.digest, DEFAULT)
        drift.follow(names)
        scorer.watchers = (*((shadows,) if shadows.any else ()), *((drift,) if names else ()))

    assignments.on_change = follow
    follow(assignments.now.assignment)
