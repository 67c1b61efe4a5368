"""The OpenAPI document: what FastAPI cannot know of the service. tests/api/test_openapi.py holds the service to it."""

from __future__ import annotations

from typing import Any, Final

import msgspec

from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.doors.door import STREAM_NAME
from gatewatch.service.doors.json_results import Result
from gatewatch.service.doors.reading_decoder import SentReading
from gatewatch.service.http.model_requests import Promotion, Rollback
from gatewatch.service.serving.rules import Rules

Described = dict[str, Any]


class Page(msgspec.Struct):
    """Names of streams; `next` is the `after` of the next page, null on the last one."""

    streams: list[str]
    next: str | None
    total: int


class Stream(msgspec.Struct):
    """What is known of a stream."""

    stream: str
    readings: int
    last_timestamp: str | None
    last_seq: int | None
    session: int
    status: str
    score: float | None
    on_gap: str
    reorder_window_s: float
    same_time: str
    model: str
    tag: str


class Kept(msgspec.Struct):
    """One of a stream's last readings: its number, counted from 0, its values, and the answer it got."""

    n: int
    values: dict[str, float | None]
    result: Result


def ref(name: str) -> Described:
    """One of the document's schemas."""
    return {"$ref": f"#/components/schemas/{name}"}


def found(text: str, schema: Described, media: str = "application/json") -> Described:
    """An answer with status 200."""
    return {"description": text, "content": {media: {"schema": schema}}}


def problem_with(text: str, *headers: str) -> Described:
    """A problem document, and the headers that always come with it."""
    answer = found(text, ref("Problem"), "application/problem+json")
    if headers:
        answer["headers"] = {name: {"required": True, "schema": {"type": "string"}} for name in headers}
    return answer


AWAY: Final = problem_with("Redis is away; sending the request again is safe", "Retry-After")
OTHER_METHOD: Final = problem_with("Another method than the path has", "Allow")
NO_BODY: Final[dict[int | str, Described]] = {
    400: problem_with("The body is not JSON, or not what is taken"),
    413: problem_with("The body or the number of readings is over the limit"),
    415: problem_with("A content type or encoding that is not taken"),
}
NO_ROOM: Final = problem_with("Too many readings wait, or too many bytes of them", "Retry-After")
OF_A_STREAM: Final[dict[int | str, Described]] = {
    405: OTHER_METHOD,
    422: problem_with("Not the name of a stream"),
    503: AWAY,
}


def complete(document: Described) -> Described:
    """Add the schemas to FastAPI's document."""
    schemas = msgspec.json.schema_components(
        (SentReading, Result, Page, Stream, Kept), ref_template=ref("{name}")["$ref"]
    )[1]
    for kind in (StreamSettings, Promotion, Rollback, Rules):
        schema = kind.model_json_schema(ref_template=ref("{model}")["$ref"])
        schemas |= {**schema.pop("$defs", {}), kind.__name__: schema}
    document.setdefault("components", {})["schemas"] = {"Problem": _PROBLEM, **schemas}
    return document


def links() -> Described:
    """What else there is of the stream in the path."""
    parameters = {"stream": "$request.path.stream"}
    named = ("get_stream", "put_stream", "delete_stream", "get_history", "reset_stream")
    return {name: {"operationId": name, "parameters": parameters} for name in named}


_PROBLEM = {
    "type": "object",
    "description": "RFC 9457 problem document",
    "properties": {name: {"type": "string"} for name in ("type", "title", "detail")} | {"status": {"type": "integer"}},
    "required": ["type", "title", "status", "detail"],
}


def _one_or_many(item: Described) -> Described:
    return {
        "application/json": {"schema": {"anyOf": [{"type": "array", "items": item}, item]}},
        "application/x-ndjson": {"schema": item},
    }


TAKEN: Final[dict[int | str, Described]] = {
    200: {
        "description": "One result for each reading, in the order and form sent",
        "content": _one_or_many(ref("Result")),
    },
    **NO_BODY,
    405: OTHER_METHOD,
    408: problem_with("The head or the body was not whole in time; the connection is closed"),
    422: problem_with("Every reading was rejected (only with GATEWATCH_ALL_REJECTED_IS_422, else 200)"),
    429: NO_ROOM,
    431: problem_with("URL and headers are over the limit; the connection is closed"),
    503: AWAY,
}
"""What a request with readings gets."""

POST_READINGS: Final[Described] = {"requestBody": {"required": True, "content": _one_or_many(ref("SentReading"))}}
POST_OF_STREAM: Final[Described] = {
    **POST_READINGS,
    "parameters": [
        {
            "name": "stream",
            "in": "path",
            "required": True,
            "schema": {"type": "string", "pattern": f"^{STREAM_NAME.pattern}$", "maxLength": 128},
        }
    ],
}
