"""Recovery: a state for a stream whose record is lost, or is not this model's.

What is the stream's (readings applied, order, tag, settings) comes from the record's stream part or, where that is
lost, from the history; what is the model's is carried over where it is the same model under other channels, and else
rebuilt by replaying the history (contract 9, 10 and 17). Records of format 3 are converted on the way: format3.py.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gatewatch.models.detectors.asked import Asked, together
from gatewatch.service.core import format3, history
from gatewatch.service.core import records as state
from gatewatch.service.core.history import Entries
from gatewatch.service.core.layout import Layout, layout_of, of_ring
from gatewatch.service.core.records import Records
from gatewatch.service.core.stepper import Stepper


@dataclass(frozen=True)
class Lost:
    """What is left of a stream.

    Attributes:
        flaw: why its record cannot be used, see `state.unpack`.
        record: what stands under its key.
        seed: where the record's checksum starts.
        ring: its history.
        old_ring: the history that a version before format 4 kept.
        asked: of its scoring; None where that is nothing.
    """

    flaw: str
    record: bytes
    seed: int
    ring: bytes
    old_ring: bytes
    asked: Asked | None = None


@dataclass(frozen=True)
class Recovered:
    """What a stream goes on from.

    Attributes:
        record: (1,) of this model.
        layout: of the stream, under this model.
        kept: its history, in the stream's channels.
        overwritten: a version before format 4 wrote the record after this one had taken the stream over.
        taken_over: it is what the version before had, as it was.
    """

    record: Records
    layout: Layout
    kept: Entries
    overwritten: bool = False
    taken_over: bool = False


def recover(stepper: Stepper, lost: Sequence[Lost]) -> list[Recovered]:
    """Recover B streams; those that have to be replayed are replayed together."""
    recovered: list[Recovered | None] = [None] * len(lost)
    replayed: dict[int, tuple[Records | None, Layout, Entries]] = {}
    converted: dict[int, format3.Converted] = {}
    for at, loss in enumerate(lost):
        part = state.stream_part(loss.record, loss.seed)
        old = None if part else format3.convert(stepper, loss.record, loss.seed, loss.old_ring)
        before = part[1] if part else old.layout if old else None
        layout, kept = _history(stepper, loss, before)
        if old is not None and len(kept):
            converted[at] = old
        elif old is not None:
            kept = history.rearranged(old.kept, old.layout, layout)
            if old.record is not None:
                recovered[at] = Recovered(old.record, layout, kept)
                continue
        elif part is None and not len(kept) and loss.old_ring:
            layout, kept = format3.read_history(stepper, loss.old_ring)
        stream = part[0] if part else old.stream if old is not None and at not in converted else None
        record = _own(stepper, loss, *part) if part else None
        if record is not None and _catches_up(stepper, record, layout, kept, loss.asked):
            recovered[at] = Recovered(record, layout, kept, taken_over=loss.flaw == "format")
        else:
            replayed[at] = stream, layout, kept
    asked = together([lost[at].asked for at in replayed], len(stepper.detector.channels))
    rebuilt = stepper.rebuild([history.gathered(kept, layout) for _, layout, kept in replayed.values()], asked)
    for row, (at, (stream, layout, kept)) in enumerate(replayed.items()):
        record = rebuilt[row : row + 1].copy()
        if stream is not None and not (len(kept) and kept["n"][-1] >= stream["readings"][0]):
            if record["readings"] != stream["readings"]:
                record["present"] = True  # what came with the last time is not known: nothing that did comes twice
            _write_stream_part(record, stream, stepper)
        if at in converted:
            kept = _with_late_writes(stepper, record, layout, kept, converted[at], lost[at].asked)
        recovered[at] = Recovered(record, layout, kept, overwritten=at in converted)
    return [found for found in recovered if found is not None]


def _history(stepper: Stepper, loss: Lost, before: Layout | None) -> tuple[Layout, Entries]:
    """The layout of a stream under this model, and its history in that layout."""
    model = stepper.detector.channels
    names = of_ring(loss.ring) or (before.channels if before else model)
    ring_layout = layout_of(names, names)
    layout = ring_layout.taken_over(model)
    if before is not None and set(before.channels) - set(layout.channels):
        layout = layout_of((*layout.channels, *(c for c in before.channels if c not in layout.channels)), model)
    kept = stepper.read_history(loss.ring, ring_layout, loss.seed)
    return layout, history.rearranged(kept, ring_layout, layout)


def _write_stream_part(record: Records, stream: Records, stepper: Stepper) -> None:
    for name in state.STREAM_FIELDS:
        record[name] = stream[name]
    record["history"] = stepper.slots
    record["earlier"], record["earlier_ms"] = 0, 0  # they are the other model's


def _own(stepper: Stepper, loss: Lost, stream: Records, layout: Layout, model_part: bytes) -> Records | None:
    """(1,) the record itself, where it is this model's and only its history, its channels or its length are others."""
    if loss.flaw == "channels" or (loss.flaw == "format" and state.of_this_version(loss.record)):
        return carried(stepper, stream, layout, model_part, state.tail_in(loss.record))
    if loss.flaw not in ("history", "stale"):
        return None
    record = state.sound([loss.record], stepper.record)
    record["history"] = stepper.slots
    return record


def carried(
    stepper: Stepper, stream: Records, layout: Layout, model_part: bytes, tail: Mapping[str, Any]
) -> Records | None:
    """(1,) record of the same model under other channels; None where it has to be rebuilt.

    Args:
        stream: (1,) its stream part.
        layout, model_part, tail: of the record as it was, see `state.tail_in`.
    """
    present_at = len(stepper.detector.digest)
    state_at = present_at + len(layout.model)
    detector = stepper.detector.carried_over(model_part[state_at:], layout.model)
    if detector is None:
        return None
    record = stepper.fresh(1)
    _write_stream_part(record, stream, stepper)
    record["detector"] = detector
    for name, field in tail.items():
        record[name] = field
    present = dict(zip(layout.model, map(bool, model_part[present_at:state_at]), strict=True))
    record["present"] = [present.get(channel, False) for channel in stepper.detector.channels]
    return record


def _catches_up(stepper: Stepper, record: Records, layout: Layout, kept: Entries, asked: Asked | None) -> bool:
    """Have a (1,) record that was restored from an older copy see the readings that its history has beyond it.

    False where they do not follow from it.
    """
    since = history.gathered(kept[kept["n"] >= record["readings"][0]], layout)
    if not len(since):
        return True
    if since["n"][0] != record["readings"][0]:
        return False
    stepper.replay(record, [since], asked=asked)
    return bool(record["tag"][0] == since["tag"][-1])


def _with_late_writes(
    stepper: Stepper,
    record: Records,
    layout: Layout,
    kept: Entries,
    old: format3.Converted,
    asked: Asked | None,
) -> Entries:
    """Apply what a version before format 4 took after this one: readings it acknowledged, and this history lacks."""
    readings = history.gathered(history.rearranged(old.kept, old.layout, layout), layout)
    numbered = record["last_seq"][0] >= 0
    newer = readings["seq"] > record["last_seq"] if numbered else readings["timestamp_ms"] > record["newest_ms"]
    (more,) = stepper.replay(record, [readings[newer]], asked=asked)
    return np.concatenate([kept, history.spread(more, layout)])[-stepper.slots :]
