"""What comes again after a false alarm was labelled is quiet, as far as it goes no other way."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from gatewatch.models.detectors.detector import ANOMALOUS, NORMAL, REASONS
from gatewatch.models.detectors.incidents import OPEN_READINGS
from gatewatch.service.core.layout import entry_dtype
from gatewatch.service.core.records import OPEN, state_dtype
from gatewatch.service.incidents.likeness import Allowance
from gatewatch.service.incidents.rules import GATES, Rules, gate_of, mark

CHANNELS = ("flow", "pressure")
LABELLED = Allowance("flow", "above", 6.0, 8.0, math.inf, 10)
RECORD = state_dtype(np.dtype([("readings", "<u4")]), 2)

Reading = tuple[float, float, float]
"""Score, and how far flow and pressure are off; a band is 1 wide to each side."""

CALM: Reading = (0.2, 0.1, 0.1)
PULSE: list[Reading] = [(1.8, 4.0, 0.0), (1.5, 0.2, 0.0), (1.4, -0.3, 0.0), (1.6, -4.2, 0.0), (1.2, 0.1, 0.0)]
DOWN: list[Reading] = [(score, -flow, other) for score, flow, other in PULSE]


def told(readings: Sequence[Reading], *quiet: Allowance, reason: str = "event", each_s: float = 1.0) -> list[int]:
    """Which anomalous readings are not like a false alarm."""
    rules, head, found, calm = Rules(quiet=quiet or (LABELLED,)), np.zeros(1, RECORD), [], OPEN_READINGS
    for n, (score, flow, pressure) in enumerate(readings):
        made: Any = np.zeros(1, entry_dtype(2))
        calm = 0 if score > 1 else calm + 1
        made["n"], made["timestamp_ms"], made["score"] = n, 1000 * each_s * n, score
        made["status"] = (ANOMALOUS if score > 1 else NORMAL) | (OPEN if calm < OPEN_READINGS else 0)
        made["mid"], made["half"], made["values"] = (4.0, 2.0), 1.0, (4.0 + flow, 2.0 + pressure)
        part = 0.9 if abs(flow) >= abs(pressure) else 0.1
        made["attribution"], made["reason"] = (part, 1 - part), REASONS.index(reason)
        mark(made, [(0, rules)], [CHANNELS], head)
        if score > 1 and GATES[gate_of(made[0])] != "label":
            found.append(n)
    return found


def test_its_end_to_the_other_side_is_like_it_and_the_same_the_other_way_round_is_not() -> None:
    assert told(PULSE) == []
    assert told(DOWN) == [0, 1, 2, 3, 4]


def test_a_step_before_the_alarm_says_which_way_it_went() -> None:
    slow, other = [(0.9, 4.0, 0.0), *PULSE[1:]], [(0.9, -4.0, 0.0), *DOWN[1:]]
    assert told(slow) == []
    assert told(other) == [1, 2, 3, 4]


def test_an_alarm_before_any_step_is_like_it_until_one_goes_the_other_way() -> None:
    assert told([PULSE[1], *PULSE]) == []
    assert told([DOWN[1], *DOWN]) == [1, 2, 3, 4, 5]


def test_a_larger_step_to_the_other_side_takes_the_place_of_a_smaller_one() -> None:
    assert told([(0.5, -2.0, 0.0), CALM, *PULSE]) == []
    assert told([(0.5, -3.0, 0.0), CALM, *PULSE]) == [2, 3, 4, 5, 6]
    assert told([*PULSE, (1.5, -5.9, 0.0)]) == []
    assert told([(1.5, 3.0, 0.0), (1.5, -5.0, 0.0)]) == [1]


def test_a_step_is_forgotten_once_its_incident_would_have_ended() -> None:
    assert told([(0.5, -4.0, 0.0), *[CALM] * (OPEN_READINGS - 2), *PULSE])
    assert told([(0.5, -4.0, 0.0), *[CALM] * OPEN_READINGS, *PULSE]) == []
    assert told([*DOWN, *[CALM] * (OPEN_READINGS + 1), *PULSE]) == [0, 1, 2, 3, 4]
    assert told([(0.5, -4.0, 0.0), *[CALM] * 2, *PULSE], each_s=3600.0) == []


@pytest.mark.parametrize(
    "unlike", [(1.8, 6.1, 0.0), (9.0, 0.2, 0.0), (1.8, 0.0, 3.0)], ids=["larger", "stranger", "another channel"]
)
def test_what_is_not_like_it_is_told_whole(unlike: Reading) -> None:
    assert told([unlike, *PULSE]) == [0, 1, 2, 3, 4, 5]
    assert told([*PULSE[:3], unlike, *PULSE[3:]]) == [3, 4, 5]


def test_what_lasts_longer_is_told() -> None:
    lasts = [PULSE[0], *[PULSE[1]] * 100]
    assert told(lasts)[0] == 10 + OPEN_READINGS + 1
    assert told(lasts, each_s=3600.0)[0] == 10 + 1 + 1  # an hour apart, a normal reading counts as 25
    assert told(lasts, LABELLED._replace(readings=None)) == []


def test_labels_of_both_sides_make_both_quiet() -> None:
    assert told([*PULSE, *DOWN], LABELLED, LABELLED._replace(direction="below")) == []


def test_what_stands_still_is_like_what_did() -> None:
    still = LABELLED._replace(direction=None)
    assert told([(1.5, -5.0, 0.0)] * 3, still, reason="still") == []
    assert told(PULSE[:1], still) == [0]
    assert told(PULSE[:1], reason="still") == [0]


def test_a_missing_value_is_no_step() -> None:
    assert told([(1.5, math.nan, 0.0), *PULSE]) == [0, 1, 2, 3, 4, 5]
    assert told([(0.5, math.nan, 0.0), *PULSE]) == []


def test_after_its_time_a_label_counts_no_more() -> None:
    late = LABELLED._replace(until_ms=999.0)
    assert told(PULSE, late) == [1, 2, 3, 4]
