"""The OpenAPI document: what FastAPI cannot know of the service. tests/api/test_openapi.py holds the service to it."""

from __future__ import annotations

from typing import Annotated, Any, Final

import msgspec

from gatewatch.service.access.audit import Change
from gatewatch.service.access.scopes import needed
from gatewatch.service.core.stream_settings import StreamSettings
from gatewatch.service.doors.door import STREAM_NAME
from gatewatch.service.doors.json_results import Result
from gatewatch.service.doors.reading_decoder import SentReading
from gatewatch.service.http.model_requests import Promotion, Rollback, ShadowOf
from gatewatch.service.http.state_requests import SnapshotDetails, SnapshotRequest
from gatewatch.service.incidents.incident import Share
from gatewatch.service.incidents.outlets.webhook import DeadLetter
from gatewatch.service.incidents.words import Answer, LabelAnswer, NoteAnswer
from gatewatch.service.policies.policy import Policies, Policy
from gatewatch.service.policies.windows import Window
from gatewatch.service.serving.rules import Rules

Described = dict[str, Any]


class Stream(msgspec.Struct):
    """What is known of a stream."""

    stream: str
    readings: int
    channels: list[str]
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
    factor: float | msgspec.UnsetType = msgspec.UNSET
    windows: list[str] | msgspec.UnsetType = msgspec.UNSET
    alike: Annotated[
        list[list[str]] | msgspec.UnsetType,
        msgspec.Meta(description="channels whose names differ in case, spaces or Unicode form alone; only then"),
    ] = msgspec.UNSET


class WarmUp(msgspec.Struct):
    """What became of readings of the past, by number; the first one that was refused; and the stream since.

    `unknown` are channels that the model does not know, the first 16; `without_unknown` readings were taken without.
    """

    sent: int
    taken: int
    replayed: int
    late: int
    conflict: int
    rejected: int
    first_refused: str | None
    without_unknown: int
    unknown: list[str]
    stream: Stream | None


class Page(msgspec.Struct):
    """Names of streams, or what is known of them; `next` is the `after` of the next page, null on the last one.

    `as_of` says when streams that are sorted by score or status stood in this order.
    """

    streams: list[str | Stream]
    next: str | None
    total: int
    as_of: str = ""


class Changes(msgspec.Struct):
    """What was changed, newest first; `next` is the `before` of the next page, null on the last one."""

    changes: list[Change]
    next: str | None


class Kept(msgspec.Struct):
    """One of a stream's last readings: its number, counted from 0, its values, and the answer it got."""

    n: int
    values: dict[str, float | None]
    result: Result


class ExpectedReading(msgspec.Struct):
    """When it is due, null where that is not known; and channel to low, mid and high."""

    timestamp: str | None
    expected: dict[str, list[float | None]]


class Forecast(msgspec.Struct):
    """What is expected of a stream's next readings, as it is after so many readings."""

    stream: str
    model: str
    readings: int
    last_timestamp: str
    step_s: float | None
    forecast: list[ExpectedReading]


class Spoken(msgspec.Struct):
    """Who said something of an incident, and when."""

    by: str
    at: str


class SpokenNote(Spoken):
    """A remark."""

    text: str


class AlertOfIncident(msgspec.Struct):
    """An alert that went out."""

    timestamp: str
    reason: str
    score: float
    channel: str
    direction: str | None
    expected: float | None
    actual: float | None


class Incident(msgspec.Struct):
    """What is anomalous on a stream, from its first reading to its last; what people said of it.

    `onset` is when it was on its way, `start` when the alert went out, `end` its last anomalous reading once it has
    ended. `channels` are as they were at the highest score. `told` whether people are told of it; `untold` why not:
    a maintenance window or a cooling-off. `readings` only where one incident is asked for. With the
    reason `silent` the stream sends no more: it has no channels, and `last` is when it was heard. `group` is the id of
    the group that it belongs to, `tag` what that has in common.
    """

    id: str
    stream: str
    group: str | None
    tag: str | None
    tags: dict[str, str]
    state: str
    model: str
    onset: str
    start: str
    last: str
    end: str | None
    reason: str
    peak_score: float
    peak: str
    last_score: float
    anomalous: int
    judged: int
    channels: list[Share]
    alerts: list[AlertOfIncident]
    told: bool
    untold: str | None
    window: str | None
    gate: str | None
    gated: int
    acknowledged: Spoken | None
    closed: Spoken | None
    label: str | None
    labelled: Spoken | None
    notes: list[SpokenNote]
    readings: list[Kept] | msgspec.UnsetType = msgspec.UNSET


class ConditionOfStream(msgspec.Struct):
    """Why a stream is of little use; without a channel as a whole. `since` is the first reading that shows it."""

    stream: str
    condition: str
    channel: str | None
    since: str
    reason: str
    muted: bool


class ConditionPage(msgspec.Struct):
    """Conditions; `next` is the `after` of the next page, null on the last one."""

    conditions: list[ConditionOfStream]
    next: str | None


class DeadLetters(msgspec.Struct):
    """Events that the webhook did not take, the last first."""

    letters: list[DeadLetter]


class IncidentPage(msgspec.Struct):
    """Incidents; `next` is the `after` of the next page, null on the last one."""

    incidents: list[Incident]
    next: str | None


class ProvedIncident(msgspec.Struct):
    """What is proved, by which model, and what it was computed on."""

    format: int
    incident: dict[str, Any]
    model: dict[str, Any]
    channels: list[str]
    asked: dict[str, Any]
    asked_now: dict[str, Any]
    versions: dict[str, str]


class ProofState(msgspec.Struct):
    """The stream's state before the first reading: how many it had seen, its chain tag, and the record in base64."""

    readings: int
    tag: str
    record: str


class ProvedReading(msgspec.Struct):
    """A reading with its verdict; lists are in the order of the proof's channels."""

    n: int
    timestamp_ms: int
    seq: int
    session: int
    values: list[float | None]
    tag: str
    score: float
    status: str
    reason: str
    alert: bool
    open: bool
    corrected: bool
    mid: list[float | None]
    half: list[float | None]
    attribution: list[float | None]
    gate: int | msgspec.UnsetType = msgspec.UNSET


class ProofOfIncident(msgspec.Struct):
    """All that the verdicts of an incident follow from, but for the model."""

    proof: ProvedIncident
    state: ProofState
    readings: list[ProvedReading]


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


OVER_LIMIT: Final = problem_with("More than the tenant may send, as its limits are set", "Retry-After")
UNAUTHORIZED: Final = problem_with("No key, or not one good one", "WWW-Authenticate")
FORBIDDEN: Final = problem_with("The key may not do this; or a page of another site sent the request")

CREDENTIALS: Final = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "a key, or a token of the identity provider"},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key", "description": "a key"},
}


def complete(document: Described, is_open: bool) -> Described:
    """Add the schemas, and what needs which scope, to FastAPI's document.

    Args:
        is_open: whether no key is asked for.
    """
    schemas = msgspec.json.schema_components(
        (
            SentReading,
            Result,
            Page,
            Stream,
            Kept,
            Forecast,
            IncidentPage,
            ConditionPage,
            Incident,
            ProofOfIncident,
            DeadLetters,
            Changes,
            SnapshotDetails,
            WarmUp,
        ),
        ref_template=ref("{name}")["$ref"],
    )[1]
    kinds = (StreamSettings, Promotion, Rollback, Rules, Policies, Policy, Window, Answer, LabelAnswer, NoteAnswer)
    for kind in (*kinds, SnapshotRequest, ShadowOf):
        schema = kind.model_json_schema(ref_template=ref("{model}")["$ref"])
        schemas |= {**schema.pop("$defs", {}), kind.__name__: schema}
    document.setdefault("components", {})["schemas"] = {"Problem": _PROBLEM, **schemas}
    document["components"]["securitySchemes"] = CREDENTIALS
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            _secure(operation, needed(method.upper(), path), is_open)
    return document


def _secure(operation: Described, scope: str | None, is_open: bool) -> None:
    """Say which scope an operation needs, and what it answers without, and beyond the limits of a tenant."""
    operation.pop("security", None)  # of the document as it was before the first key
    answers = {**operation["responses"], "403": FORBIDDEN}
    answers.pop("401", None)
    if scope is not None and scope != "metrics":
        answers = {"429": OVER_LIMIT, **answers}
    if scope is not None and not is_open:
        answers["401"] = UNAUTHORIZED
        operation["security"] = [{name: [scope]} for name in CREDENTIALS]
    operation["responses"] = dict(sorted(answers.items()))


def links() -> Described:
    """What else there is of the stream in the path."""
    parameters = {"stream": "$request.path.stream"}
    named = ("get_stream", "put_stream", "delete_stream", "get_history", "get_forecast", "reset_stream")
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
    422: problem_with("Every reading was rejected (only with GATEWATCH_ALL_REJECTED_IS_422); or not a `dry_run`"),
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
