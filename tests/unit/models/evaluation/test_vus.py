"""VUS-PR ranks, forgives what is near, and a part drawn twice counts as if it were there twice."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from gatewatch.models.evaluation.vus import runs, vus_pr

Floats = NDArray[np.float64]


def labelled(rows: int = 120, seed: int = 0) -> tuple[NDArray[np.bool_], Floats]:
    """Three events, and scores that tell them badly."""
    label = np.zeros(rows, bool)
    for start in (10, 40, 90):
        label[start : start + 6] = True
    return label, np.random.default_rng(seed).normal(size=rows) + 0.8 * label


def average_precision(label: NDArray[np.bool_], score: Floats) -> float:
    hits = label[np.argsort(-score)].cumsum()
    precision = hits / np.arange(1, len(label) + 1)
    return float(np.diff(hits / hits[-1], prepend=0) @ precision)


def test_scores_that_are_the_labels_have_the_whole_volume() -> None:
    label, _ = labelled()
    assert vus_pr(label, label.astype(float), 0) == pytest.approx(1.0)


def test_without_a_buffer_and_with_events_of_one_row_it_is_the_average_precision() -> None:
    label = np.zeros(120, bool)
    label[[5, 50, 51, 100]] = True
    label[51] = False
    score = np.random.default_rng(1).normal(size=120) + label
    hits = label[np.argsort(-score)].cumsum() / 3
    area = np.diff(hits * hits, prepend=0) @ (label[np.argsort(-score)].cumsum() / np.arange(1, 121))
    assert vus_pr(label, score, 0)[0] == pytest.approx(area)  # recall by row times share of events found
    assert vus_pr(label, score, 0)[0] <= average_precision(label, score)


def test_only_the_order_of_the_scores_counts() -> None:
    label, score = labelled()
    assert vus_pr(label, np.exp(3 * score) + 7, 20) == pytest.approx(vus_pr(label, score, 20))


def test_an_alarm_beside_an_event_counts_for_something_with_a_buffer() -> None:
    label, near, far = np.zeros(200, bool), np.zeros(200), np.zeros(200)
    label[100:110] = True
    near[97], far[20] = 1.0, 1.0
    assert vus_pr(label, near, 0) == pytest.approx(vus_pr(label, far, 0))
    assert vus_pr(label, near, 20)[0] > vus_pr(label, far, 20)[0] + 0.01


def test_a_part_that_is_drawn_twice_counts_as_if_it_were_there_twice() -> None:
    label, score = labelled()
    part = np.repeat([0, 1, 2], 40)
    weights = np.array([[1.0, 1.0, 1.0], [2.0, 1.0, 0.0]])
    drawn = np.concatenate([np.arange(40), np.arange(40), np.arange(40, 80)])
    whole, resampled = vus_pr(label, score, 0, part, weights)
    assert whole == pytest.approx(vus_pr(label, score, 0)[0])
    assert resampled == pytest.approx(vus_pr(label[drawn], score[drawn], 0)[0])


def test_where_no_event_has_any_weight_there_is_no_volume() -> None:
    label, score = labelled()
    assert np.isnan(vus_pr(np.zeros(120, bool), score, 5)).all()
    part = (np.arange(120) >= 100).astype(np.intp)
    assert np.isnan(vus_pr(label, score, 5, part, np.array([[0.0, 1.0]]))).all()


def test_it_is_the_volume_of_its_definition() -> None:
    label, score = labelled()
    areas = []
    for width in range(9):
        distance = np.array([min(abs(row - other) for other in np.flatnonzero(label)) for row in range(120)])
        widened = np.where(distance <= width // 2, np.sqrt(np.maximum(1 - distance / max(width, 1), 0)), 0.0)
        events = [range(first - width // 2, last + width // 2 + 1) for first, last in runs(label)]
        recall, area = 0.0, 0.0
        for threshold in np.sort(score)[::-1]:
            above = score >= threshold
            found = np.mean([any(above[row] for row in event) for event in events])
            mass = (label.sum() + label.sum() + (widened * above * ~label).sum()) / 2
            before, recall = recall, min((widened * above).sum() / mass, 1.0) * found
            area += (recall - before) * (widened * above).sum() / above.sum()
        areas.append(area)
    assert vus_pr(label, score, 8)[0] == pytest.approx(np.mean(areas))


def test_runs_are_found_from_edge_to_edge() -> None:
    assert runs(np.array([True, True, False, True])) == [(0, 1), (3, 3)]
    assert runs(np.zeros(3, bool)) == []
