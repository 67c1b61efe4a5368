"""What columns are called that mark readings: those taken for labels, and those that look like them."""

from __future__ import annotations

import re

COLUMNS = ("label", "anomaly")
"""Taken for the label column where none is named."""

LIKE_LABELS = frozenset(
    {
        "label", "labels", "anomaly", "anomalies", "is_anomaly", "isanomaly", "outlier", "outliers",
        "is_outlier", "isoutlier", "is_fault", "fault", "faulty", "is_attack", "attack", "attack_label",
        "ground_truth", "groundtruth", "is_abnormal", "abnormal", "target", "class", "y_true", "event", "is_event",
    }
)  # fmt: skip
"""Names of columns that mark readings elsewhere; one of nothing but -1, 0 and 1 is spoken of, not left out."""

MARKS = frozenset({-1.0, 0.0, 1.0})

PARTS = ("ground_truth", "groundtruth", "is_anomaly", "anomaly_label", "fault_label", "attack_label")
"""Part of such a name, whatever stands around it."""


def is_like_label(name: str) -> bool:
    """Whether a column may mark readings, by its name; those of COLUMNS do."""
    plain = re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")
    return name not in COLUMNS and (plain in LIKE_LABELS or any(part in plain for part in PARTS))
