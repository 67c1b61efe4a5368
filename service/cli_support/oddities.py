"""What a command says of a recording before it is scored."""

from __future__ import annotations

import shlex
from collections.abc import Sequence

import numpy as np

from gatewatch.models.recordings.codes import Code, find_codes
from gatewatch.models.recordings.recording import Recording
from gatewatch.models.recordings.survey import ChannelLook
from gatewatch.models.text import listed
from gatewatch.service.cli_support.terminal import warn

MOST_NAMED = 4
"""Channels named in one line."""


def by_value(codes: Sequence[Code]) -> dict[str, list[Code]]:
    """Codes that may stand for missing values, by their value as an option takes it; the rarest first."""
    found: dict[str, list[Code]] = {}
    for code in sorted(codes, key=lambda one: one.count):
        found.setdefault(f"{code.value:.10g}", []).append(code)
    return found


def say_what_is_odd(recording: Recording) -> None:
    """Say on standard error what would be scored otherwise than its owner may think."""
    for value, codes in by_value(find_codes([recording])).items():
        channels = listed([code.channel for code in codes][:MOST_NAMED]) + ", ..." * (len(codes) > MOST_NAMED)
        often = codes[0] if len(codes) == 1 else f"{value} comes {codes[0].count} times and more"
        warn(f"{recording.stream}, {channels}: {often}, far from all else: a code for missing? --missing {value}")
    for name in _counters(recording):
        warn(f"{recording.stream}, {name}: only rises: a counter? --leave-out {shlex.quote(name)}")
    if recording.micros is not None:
        shared = int((np.diff(recording.timestamps_ms) == 0).sum())
        order = (
            f"; {shared} of {len(recording)} readings share one with the reading before, and are taken in their order"
        )
        warn(
            f"{recording.stream}: times finer than a millisecond: written as they are, scored by the millisecond"
            + (order if shared else "")
        )


def _counters(recording: Recording) -> list[str]:
    looks = [ChannelLook(name) for name in recording.channels]
    for look, values in zip(looks, recording.values.T, strict=True):
        look.take(values)
    return [look.name for look in looks if look.only_rises]
