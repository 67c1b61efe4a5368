"""JsonEncoder: what a sender gets back for each reading, as JSON text; a request's reply is its answers joined."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Annotated, Any, Final

import msgspec
import numpy as np
import orjson
from numpy.typing import NDArray

from gatewatch.models.detectors.detector import ANOMALOUS, REASONS, STATUSES, expected_band
from gatewatch.service.core.history import Entries
from gatewatch.service.core.outcomes import Outcomes, Refused, format_time
from gatewatch.service.core.records import CORRECTED, GATE_BITS, REASON_BITS, STATUS_BITS
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.rules import GATES

_BAND = {"type": "array", "items": {"type": ["number", "null"]}, "minItems": 3, "maxItems": 3}


class Result(msgspec.Struct):
    """What became of one reading."""

    stream: str | None
    timestamp: str | None
    seq: int | None
    status: Annotated[str, msgspec.Meta(extra_json_schema={"enum": [*STATUSES, "late", "conflict", "rejected"]})]
    score: Annotated[float | None, msgspec.Meta(description="0 or more; above 1 is anomalous")] = None
    expected: Annotated[
        Any,
        msgspec.Meta(
            description="channel to [low, mid, high]; null of a channel never seen",
            extra_json_schema={"type": ["object", "null"], "additionalProperties": _BAND},
        ),
    ] = None
    attribution: Annotated[
        Any,
        msgspec.Meta(
            description="channel to its share in the score",
            extra_json_schema={"type": ["object", "null"], "additionalProperties": {"type": "number"}},
        ),
    ] = None
    reason: Annotated[str | None, msgspec.Meta(extra_json_schema={"enum": [*REASONS, None]})] = None
    gate: Annotated[
        str | msgspec.UnsetType,
        msgspec.Meta(
            description="which rule decided about it: one that closed, a limit or a maintenance window; only then",
            extra_json_schema={"enum": sorted({*GATES} - {""})},
        ),
    ] = msgspec.UNSET
    model: str | None = None
    replayed: bool = False
    corrected: bool = False
    error: str | None = None
    unknown: Annotated[
        list[str] | msgspec.UnsetType,
        msgspec.Meta(description="channels of the reading that its model does not know, left out; only then"),
    ] = msgspec.UNSET


_encoder = msgspec.json.Encoder()

TEXTS_KEPT: Final = 2048
"""Lists of channels; an answer to readings of another one takes some microseconds more."""


class JsonEncoder:
    """Writes each answer once, for all doors whose results are JSON."""

    def encode(self, outcomes: Outcomes) -> list[str]:
        """The answers of readings that were applied."""
        return _write(outcomes.streams, outcomes.entries, outcomes.channels, outcomes.replayed)

    def refusal(self, refused: Refused) -> str:
        """The answer to one that was not."""
        result = Result(refused.stream, refused.timestamp, refused.seq, refused.status, error=refused.error)
        return _encoder.encode(result).decode()

    def with_unknown(self, answer: str, channels: Sequence[str]) -> str:
        """The answer to one that was applied without these channels."""
        return f'{answer[:-1]},"unknown":{_encoder.encode(channels).decode()}}}'


@lru_cache(TEXTS_KEPT)
def _pieces(channels: tuple[str, ...]) -> list[str]:
    """What stands in every answer to readings of these channels, with a gap after each piece but the last."""
    names = [_encoder.encode(channel).decode() for channel in channels]
    pieces = ['{"stream":"', '","timestamp":"', '","seq":', ',"status":"', '","score":', ',"expected":{']
    pieces[-1] += f"{names[0]}:["
    pieces += [f"],{name}:[" for name in names[1:]]
    pieces.append(f']}},"attribution":{{{names[0]}:')
    pieces += [f",{name}:" for name in names[1:]]
    pieces += ['},"reason":', ',"model":"', '","replayed":', ',"corrected":', ',"error":null}']
    gaps: list[str] = [""] * (2 * len(pieces) - 1)
    gaps[::2] = pieces
    return gaps


def _write(
    streams: Sequence[StreamKey], entries: Entries, channels: Sequence[tuple[str, ...]], replayed: bool
) -> list[str]:
    """The answers of B applied readings, all with as many channels.

    Numbers are the shortest decimals that mean the same float32, or float64 where an expectation needs it. The
    score is written as the float64 that equals it, as `gatewatch scan` does.
    """
    if not len(entries):
        return []
    texts, times = [], _Times()
    named, pieces = channels[0], _pieces(channels[0]).copy()
    again = "true" if replayed else "false"
    for stream, names, moment, seq, status, score, bands, shares, reason, model in zip(
        streams,
        channels,
        entries["timestamp_ms"].tolist(),
        entries["seq"].tolist(),
        entries["status"].tolist(),
        _numbers(entries["score"].astype(np.float64))[1:-1].split(","),
        _bands(entries["mid"], entries["half"]),
        _numbers(entries["attribution"])[2:-2].split("],["),
        entries["reason"].tolist(),
        _names(entries["model"]),
        strict=True,
    ):
        if names is not named:
            named, pieces = names, _pieces(names).copy()
        pieces[1::2] = (
            stream.name,
            times[moment],
            "null" if seq < 0 else str(seq),
            STATUSES[status & STATUS_BITS],
            score,
            *bands.split("],["),
            *shares.split(","),
            _reason(reason, status & STATUS_BITS == ANOMALOUS),
            model,
            again,
            "true" if status & CORRECTED else "false",
        )
        texts.append("".join(pieces))
    return texts


def _reason(reason: int, anomalous: bool) -> str:
    """Why a reading is anomalous, and which gate decided about it, if one did."""
    text = f'"{REASONS[reason & REASON_BITS]}"' if anomalous else "null"
    return f'{text},"gate":"{GATES[(reason & GATE_BITS) >> 4]}"' if reason & GATE_BITS else text


FINE: Final = 2.0**-12
"""Of a band's half width: what is left out where an expectation is written as float32."""


def _bands(mid: NDArray[np.float64], half: NDArray[np.float32]) -> list[str]:
    """(B, C) each to B texts of low, mid and high of each channel; as float64 in a reading whose place needs it."""
    bands = expected_band(mid, half)
    with np.errstate(over="ignore", invalid="ignore"):
        single = bands.astype(np.float32)
        coarse = np.abs(single - bands) > FINE * half[:, :, None]  # not where either is no number
    texts = _numbers(single)[3:-3].split("]],[[")
    if np.count_nonzero(coarse):
        for at in np.flatnonzero(coarse.any(axis=(1, 2))).tolist():
            texts[at] = _numbers(bands[at])[2:-2]
    return texts


class _Times(dict[int, str]):
    """Unix milliseconds to text, each written once."""

    def __missing__(self, moment: int) -> str:
        self[moment] = text = format_time(moment)
        return text


def _names(models: NDArray[np.void]) -> list[str]:
    """Model digests as text; mostly they are all one."""
    digests = models.tolist()
    return [digests[0].hex()] * len(digests) if len(set(digests)) == 1 else [digest.hex() for digest in digests]


def _numbers(values: NDArray[Any]) -> str:
    """An array as JSON, written by orjson straight from memory: no Python number for any of them."""
    return orjson.dumps(np.ascontiguousarray(values), option=orjson.OPT_SERIALIZE_NUMPY).decode()
