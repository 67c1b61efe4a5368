"""Versions of the shipped detectors with one group of constants changed: what it would cost to be without it.

Each is a detector of `benchmarks.quality` named BASE@VARIANT, run in this process. `chosen_without` says which of them,
or what ships, is the best on all sets but one: what that one gets from it is a figure of a set on which nothing was
chosen.

The trained ones have the last value in the network's place: what is changed is the recipe around the forecast.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import numpy as np

from benchmarks.quality.last_value import scan_by_last_value
from benchmarks.quality.measures import MAIN, Counts, figures
from benchmarks.quality.series import Series
from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general import detector as general_detector
from gatewatch.models.detectors.general.detector import load_detector
from gatewatch.models.detectors.trained import detector as trained_detector
from gatewatch.models.recordings.recording import Recording, joined, read_recordings
from gatewatch.models.scan import Scan, scan_together

GENERAL, LAST = "general", "gatewatch-last"

CHANGES: Final[dict[str, dict[str, dict[str, Any]]]] = {
    GENERAL: {
        "no-repeats": {"detectors.general.alert_budget.REPEATS": 0.0},
        "no-jumps": {"detectors.general.jumps.SETTLING_READINGS": 10**9},
        "no-range": {"detectors.general.runs.RANGE_SLOPE": -1e9},
        "no-lasting-event": {"detectors.general.score.LASTING_FACTOR": 0.0},
        "no-youth": {"detectors.general.alert_budget.YOUNG_NATS": np.zeros(2)},
        "accepts-late": {"detectors.general.tail.ACCEPTED_READINGS": 1000.0},
        "whole-budget": {"detectors.general.score.MORE_NATS": 0.0},
    },
    LAST: {
        "no-switches": {"training.trained.calibration.SWITCH_SHARE": 1.0},
        "thin-tails": {
            "training.trained.calibration.EVENT_TAIL": 0.0,
            "training.trained.calibration.LEVEL_TAIL": 0.0,
        },
        "equal-shares": {"evaluation.threshold.EVENT_SHARE": 0.5, "evaluation.threshold.LEVEL_SHARE": 0.5},
        "sure-levels": {"training.trained.calibration.LEVEL_ERRORS": 0.0},
        "teaches": {"detectors.trained.score.HELD_READINGS": 1.0},
        "forgives": {"detectors.trained.score.FORGIVEN": 1.0},
        "four-blocks": {"evaluation.threshold.BLOCKS": 4},
    },
}
"""By detector, then by name, what is changed: the place of a constant below gatewatch.models, and its other value."""

VARIANTS = tuple(f"{base}@{name}" for base, changes in CHANGES.items() for name in changes)

TOGETHER = 16
"""Most series side by side, for the sake of memory."""


@contextmanager
def changed(variant: str) -> Iterator[None]:
    """A variant's constants in every module that has them; one reading's path in numbers, which has copies, is off."""
    base, name = variant.split("@")
    kept = []
    for place, value in CHANGES[base][name].items():
        room, constant = place.rsplit(".", 1)
        shipped = getattr(sys.modules[f"gatewatch.models.{room}"], constant)
        for module in [of for key, of in sys.modules.items() if key.startswith("gatewatch.models.")]:
            if vars(module).get(constant) is shipped:
                kept.append((module, constant, shipped))
                setattr(module, constant, value)
    for module in (general_detector, trained_detector):
        kept.append((module, "MOST_CHANNELS", vars(module)["MOST_CHANNELS"]))
        vars(module)["MOST_CHANNELS"] = 0
    try:
        yield
    finally:
        for module, constant, value in kept:
            setattr(module, constant, value)


def scan_variant(variant: str, series: list[Series]) -> Iterator[tuple[Series, Scan]]:
    """What a variant says of each series."""
    with changed(variant):
        if variant.startswith(f"{GENERAL}@"):
            yield from scan_by_general(series)
            return
        for one in series:
            assert one.train is not None
            (normal,), (recording,) = read_recordings(one.train), read_recordings(one.path)
            yield one, scan_by_last_value(normal, recording)


def scan_by_general(series: list[Series], targets_only: bool = False) -> Iterator[tuple[Series, Scan]]:
    """Scan series by the general model, the train part first; those of one number of channels side by side."""
    by_width: dict[int, list[tuple[Series, Recording]]] = {}
    for one in series:
        parts = [part for path in (one.train, one.path) if path is not None for part in read_recordings(path)]
        whole = joined([part.only(one.targets) for part in parts] if targets_only else parts)
        by_width.setdefault(len(whole.channels), []).append((one, whole))
    for width, some in by_width.items():
        names = tuple(f"c{at:02d}" for at in range(width))
        detector = load_detector(model_folder("general"), names)
        some.sort(key=lambda one: len(one[1]))
        for start in range(0, len(some), TOGETHER):
            batch = some[start : start + TOGETHER]
            named = [Recording.at_us(of.stream, names, of.times_us, of.values, of.places) for _, of in batch]
            yield from zip((one for one, _ in batch), scan_together(detector, named), strict=True)


def chosen_without(name: str, measured: Mapping[str, Mapping[str, Counts]], base: str) -> str | None:
    """The detector, a base or one of its variants, that is the best on all sets but one; None where none has others.

    The best by the mean over sets of each one's first figure, NAB's points in hundredths. Sets without any
    variant are not looked at, nor variants that were not run on all others.

    Args:
        measured: counts by set, then by detector.
    """
    versions = [base, *(f"{base}@{one}" for one in CHANGES[base])]
    sets = [of for of, found in measured.items() if base in found and any(one in found for one in versions[1:])]
    candidates = [one for one in versions if all(one in measured[of] for of in sets)]
    others = [of for of in sets if of != name]
    if name not in sets or not others or len(candidates) < 2:
        return None

    def mean(variant: str) -> float:
        values = [float(figures(of, measured[of][variant])[MAIN[of][0]][0]) for of in others]
        return float(np.mean([value / 100 if of == "nab" else value for of, value in zip(others, values, strict=True)]))

    return max(candidates, key=mean)
