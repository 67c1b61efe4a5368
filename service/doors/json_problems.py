"""What is wrong with a reading: the slow path, for bodies that the types in reading_decoder.py do not accept.

Every message names the field, what came, and what was expected.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np

from gatewatch.service.core.outcomes import SHOWN, clip
from gatewatch.service.core.readings import LARGEST_SEQ
from gatewatch.service.errors import BadRequest

LARGEST_VALUE: Final = float(np.finfo(np.float32).max)
LATEST_S: Final = 1e15
"""Unix seconds that can still be milliseconds in 64 bits; the clock's own bound is far below."""

_TIMESTAMP = re.compile(r"\d{4}-\d\d-\d\d[Tt ]\d\d:\d\d:\d\d(\.\d+)?([Zz]|[+-]\d\d:\d\d)")

_MOST_DIGITS = 1000
"""Of an integer; what Python takes to read it grows with their square. A float32 has 39."""

TOO_LARGE = "more than a float32 can hold; expected at most 3.4e38"


class _NotJson(float):
    """A number JSON does not have (NaN, Infinity, or 1e400), kept by name so that the reading can say so."""

    name: str


def _constant(name: str) -> _NotJson:
    number = _NotJson(math.nan)
    number.name = name
    return number


def _number(text: str) -> float:
    number = float(text)
    return number if math.isfinite(number) else _constant(text[:SHOWN])


def _integer(text: str) -> int | _NotJson:
    return int(text) if len(text) <= _MOST_DIGITS else _constant(f"a number of {len(text)} digits")


NOT_READ: Final = (msgspec.MsgspecError, UnicodeDecodeError, RecursionError)
"""What msgspec raises of bytes that are not what it was told to expect, or are nested too deeply even to be skipped."""

TOO_DEEP = "the body is nested too deeply; expected an array of readings"

_DECODER = json.JSONDecoder(parse_constant=_constant, parse_float=_number, parse_int=_integer)
SCAN: Final[Callable[[str, int], tuple[Any, int]]] = _DECODER.scan_once  # type: ignore[attr-defined]
"""JSON as Python reads it, with NaN and infinities kept apart, so that only their readings are rejected. One value in a
text, and where it ends; raises StopIteration, ValueError or RecursionError."""


def lenient_json(body: bytes) -> Any:
    """A whole text that SCAN reads."""
    try:
        return _DECODER.decode(body.decode("utf-8", "surrogatepass"))
    except RecursionError:
        raise BadRequest(TOO_DEEP) from None
    except json.JSONDecodeError as error:
        if error.msg == "Extra data":
            raise BadRequest(
                "there is more than one JSON value; send readings as an array, or one in each line "
                "with content-type application/x-ndjson"
            ) from None
        raise BadRequest(f"the body is not JSON: {error}") from None
    except ValueError as error:  # also UnicodeDecodeError
        raise BadRequest(f"the body is not JSON: {error}") from None


def problem_of(content: Any, channels: tuple[str, ...] | None) -> str | None:
    """What is wrong with one decoded item, or None if it is a reading; `channels`: that it may have, None for any."""
    if not isinstance(content, dict):
        return f"a reading is an object; this is {kind(content)}"
    if "values" not in content:
        return "values is absent; expected an object of channels, or a number"
    unknown = sorted(set(content) - {"stream", "timestamp", "seq", "values"})
    if unknown:
        return f"{show(unknown[0])} is not a field of a reading; expected stream, timestamp, seq, values"
    seq = content.get("seq")
    problem = (
        _field_problem("stream", content.get("stream"), (str,), "text")
        or _field_problem(
            "timestamp", content.get("timestamp"), (str, int, float, type(None)), "RFC 3339 text or Unix seconds"
        )
        or _field_problem("seq", seq, (int, type(None)), "a whole number or null")
        or _values_problem(content["values"], channels)
    )
    timestamp = content.get("timestamp")
    if problem is None and isinstance(timestamp, int) and not 0 <= timestamp < LATEST_S:
        return f"timestamp is {show(timestamp)}; expected Unix seconds, 0 or later"
    if problem is None and seq is not None and not 0 <= seq <= LARGEST_SEQ:
        return f"seq is {seq!s:.64}; expected 0 to 2^53"
    return problem


def _field_problem(name: str, value: Any, types: tuple[type, ...], expected: str) -> str | None:
    if name == "stream" and value is None:
        return None
    if isinstance(value, _NotJson):
        return f"{name} is {value.name}, which is no number in JSON; expected {expected}"
    if isinstance(value, bool) or not isinstance(value, types):
        return f"{name} is {kind(value)}; expected {expected}"
    return None


def _values_problem(values: Any, channels: tuple[str, ...] | None) -> str | None:
    if values is None:
        return "values is null; expected an object of channels, or a number"
    named = values.items() if isinstance(values, dict) else [("", values)]
    for channel, value in named:
        name = f"values.{clip(channel)}" if channel else "values"
        if isinstance(values, dict) and channels is not None and channel not in channels:
            return f"{name} is not a channel of this model; expected {listed(channels)}"
        types = (int, float, type(None)) if channel else (int, float)
        problem = _field_problem(name, value, types, "a number or null")
        if problem is None and isinstance(value, int) and abs(value) > LARGEST_VALUE:
            problem = f"{name} is {TOO_LARGE}"
        if problem:
            return problem
    return None


def too_far(moment: object, moment_ms: Any, now_ms: int, future_ms: int) -> str:
    return (
        f"timestamp is {show(moment)}, {(moment_ms - now_ms) / 1000:.0f} s ahead of this service's clock; at most "
        f"{future_ms / 1000:g} s are taken (milliseconds sent as seconds, or a wrong clock?)"
    )


def unix_ms(timestamp: str | float) -> int | str:
    """Unix milliseconds, or what is wrong with the timestamp."""
    if isinstance(timestamp, str):
        if len(timestamp) > SHOWN or not _TIMESTAMP.fullmatch(timestamp):
            return f"timestamp is {show(timestamp)}; expected RFC 3339 with zone (2026-05-04T10:00:00Z) or Unix seconds"
        try:
            seconds = datetime.fromisoformat(timestamp.upper()).timestamp()
        except (ValueError, OverflowError):
            return f"timestamp is {show(timestamp)}; there is no such time"
    else:
        seconds = timestamp
    if not 0 <= seconds < LATEST_S:
        return f"timestamp is {show(timestamp)}; expected Unix seconds, 0 or later"
    return round(seconds * 1000)


def show(value: object) -> str:
    return f"'{clip(value)}'" if isinstance(value, str) else str(value)[:SHOWN]


def listed(channels: Sequence[str]) -> str:
    shown = ", ".join(channels[:12])
    return shown if len(channels) <= 12 else f"{shown}, … ({len(channels)} in all)"


def kind(value: object) -> str:
    names = {dict: "an object", list: "an array", str: "text", bool: "true or false", type(None): "null"}
    shown = "" if isinstance(value, dict | list) or value is None else f" ({show(value)})"
    return names.get(type(value), "a number") + shown
