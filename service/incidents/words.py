"""Words: what people say of an incident. Kept beside it, and changed one at a time."""

from __future__ import annotations

from typing import Final, Literal

import msgspec
from pydantic import BaseModel, ConfigDict, Field

MOST_NOTES: Final = 100
"""Kept of an incident; of more, the first and the latest."""

Label = Literal["true", "false_alarm", "expected"]


class Said(msgspec.Struct, frozen=True):
    """Who said something, and when.

    Attributes:
        by: a name, as it was given; may be empty.
        at_ms: Unix milliseconds.
    """

    by: str
    at_ms: int


class Note(msgspec.Struct, frozen=True):
    """A remark, by whom and when."""

    text: str
    by: str
    at_ms: int


class Words(msgspec.Struct, frozen=True):
    """All that was said of an incident.

    Attributes:
        acknowledged: who first said that he has seen it.
        label: what it turned out to be.
        labelled: who said so last.
        notes: in the order in which they were written.
        closed: who ended it, of one that was held open.
    """

    acknowledged: Said | None = None
    label: Label | None = None
    labelled: Said | None = None
    notes: list[Note] = []
    closed: Said | None = None


def decode(kept: bytes) -> Words:
    """What is kept; nothing where that cannot be read."""
    try:
        return msgspec.msgpack.decode(kept, type=Words) if kept else Words()
    except (msgspec.MsgspecError, RecursionError):
        return Words()


def acknowledge(words: Words, said: Said) -> Words:
    """The first who acknowledges stays: who comes later sees that it was done."""
    return words if words.acknowledged else msgspec.structs.replace(words, acknowledged=said)


def close(words: Words, said: Said) -> Words:
    """The first who closes it stays."""
    return words if words.closed else msgspec.structs.replace(words, closed=said)


def label(words: Words, value: Label, said: Said) -> Words:
    """The last label counts."""
    return msgspec.structs.replace(words, label=value, labelled=said)


def note(words: Words, text: str, said: Said) -> Words:
    """One more remark."""
    notes = [*words.notes, Note(text, said.by, said.at_ms)]
    return msgspec.structs.replace(words, notes=notes if len(notes) <= MOST_NOTES else [notes[0], *notes[2:]])


class Answer(BaseModel):
    """Who says it."""

    model_config = ConfigDict(extra="forbid")
    by: str = Field("", max_length=64, description="a name, as others shall read it")


class LabelAnswer(Answer):
    """What an incident turned out to be."""

    label: Label


class NoteAnswer(Answer):
    """A remark."""

    text: str = Field(min_length=1, max_length=1000)
