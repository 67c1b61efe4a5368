"""The layout of states that versions before STATE_VERSION 2 wrote, so that the service can take them over."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from gatewatch.models.detectors.clock import NEVER
from gatewatch.models.detectors.detector import Records

Tensors = Mapping[str, tuple[int, ...]]

_HEAD: list[Any] = [("last_ms", "<i8"), ("readings", "<u4"), ("calm", "<u2"), ("stuck", "?")]


def trained_dtype_1(channels: int, tensors: Tensors) -> np.dtype[Any]:
    """States of a trained model with so many channels."""
    many = (channels,)
    single = [(name, "<f4") for name in ("event", "plain", "usual", "unrest", "accepted")]
    each = [(name, "<f4", many) for name in ("noise", "level", "lively", "value")]
    runs = [(name, "<u4", many) for name in ("still", "absent")]
    return np.dtype([*_HEAD, *single, *each, *runs, *((name, "<f4", shape) for name, shape in tensors.items())])


def general_dtype_1(channels: int, tensors: Tensors) -> np.dtype[Any]:
    """States of the general model with so many channels."""
    many = (channels,)
    scales = ("last", "center", "spread", "step", "recent", "low", "high", "reach")
    runs = ("still", "absent", "longest_still", "longest_absent")
    lasting = ("level", "home", "drift", "activity", "usual", "unrest")
    return np.dtype(
        [
            *_HEAD,
            ("inside", "<u2"),
            ("between_ms", "<f4"),
            ("pace_ms", "<f4"),
            ("first_ms", "<i8"),
            ("shown_ms", "<i8"),
            ("interval_ms", "<f4"),
            ("count", "<u4", many),
            ("moves", "u1", many),
            ("lesson", "<f4", (channels, 9)),
            *((name, "<f4", many) for name in scales),
            ("table", "<f4", (channels, 48)),
            ("visits", "<u2", (channels, 48)),
            ("ahead", "<f4", (channels, 44)),
            ("miss", "<f4", (channels, 5)),
            ("misses", "<u4", (channels, 5)),
            ("surprise", "<f4", many),
            ("lasting", "<f4"),
            ("counted", "<f4", (3, 48)),
            *((name, "<u4", many) for name in runs),
            *((name, "<f4", many) for name in lasting),
            *((name, "<f4", (channels, *shape)) for name, shape in tensors.items()),
        ]
    )


def taken_over(before: Records, states: Records) -> Records:
    """`states`, with every field that `before`, of version 1, has of the same name; an open incident stays open."""
    names = set(before.dtype.names or ())
    for name in states.dtype.names or ():
        if name in names:
            states[name] = before[name]
    states["channel_calm"], states["told"] = before["calm"][:, None], before["calm"]
    states["last_ms"][before["readings"] == 0] = NEVER
    return states
