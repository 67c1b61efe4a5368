"""The series of shadows, with the name of the model that each stands beside."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from prometheus_client import CollectorRegistry, Counter

_SERIES: Final[tuple[tuple[str, str, str | None, dict[str, str]], ...]] = (
    ("readings", "Readings that a model and its shadow both judged.", None, {"readings": ""}),
    (
        "disagreements",
        "Of these, those that one of them alone found anomalous.",
        "anomalous",
        {"champion_only": "champion", "shadow_only": "shadow"},
    ),
    (
        "alerts",
        "Incidents begun, by the model that answers and by its shadow, which raises none.",
        "by",
        {"champion_alerts": "champion", "shadow_alerts": "shadow"},
    ),
    (
        "loss",
        "Sum of the errors of the forecasts of both, in half widths of the band of the model that answers.",
        "by",
        {"champion_loss": "champion", "shadow_loss": "shadow"},
    ),
    ("losses", "How many errors that is the sum of, each of one channel in one reading.", None, {"losses": ""}),
    ("stepped", "Readings that the shadow scored, those of replayed histories among them.", None, {"stepped": ""}),
    ("seconds", "Time that this took.", None, {"seconds": ""}),
    (
        "dropped",
        "Readings of the share that were not compared, as there was no time or no room.",
        None,
        {"dropped": ""},
    ),
)


class Shadowed:
    """Counters of what shadows came to; a model's are there from its shadow's begin, at 0."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._counters = [
            (
                Counter(f"gatewatch_shadow_{name}", text, ["model", *([label] if label else [])], registry=registry),
                figures,
            )
            for name, text, label, figures in _SERIES
        ]

    def count(self, model: str, sums: Mapping[str, float]) -> None:
        """Add a shadow's sums, by the names of its figures."""
        for counter, figures in self._counters:
            for figure, label in figures.items():
                counter.labels(model, *([label] if label else [])).inc(sums.get(figure, 0.0))
