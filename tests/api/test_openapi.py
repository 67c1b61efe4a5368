"""The OpenAPI document against the service: requests made from it, right and wrong, each answered as it says."""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import jsonschema_rs
import pytest
import schemathesis
from schemathesis.config import SchemathesisConfig
from schemathesis.engine import Status, events, from_schema

from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.access import add_to_file

REQUESTS = int(os.environ.get("OPENAPI_REQUESTS", "1000"))
SEED = int(os.environ.get("OPENAPI_SEED", "0"))

LINES = "application/x-ndjson"


@schemathesis.serializer(LINES)
def two_lines(_: schemathesis.SerializationContext, value: Any) -> bytes:
    """A generated reading, twice."""
    line = json.dumps(value).encode()
    return line + b"\n" + line


@schemathesis.deserializer(LINES)
def first_line(_: schemathesis.DeserializationContext, response: schemathesis.Response) -> Any:
    """The document gives the schema of a line."""
    return json.loads(response.content.splitlines()[0])


@schemathesis.check
def every_reading_has_its_result(
    context: schemathesis.CheckContext,
    response: schemathesis.Response,
    case: schemathesis.Case[Any],
) -> None:
    """As many results as readings, and `rejected` for each that the document does not allow."""
    if not case.operation.path.endswith("/readings") or response.status_code != 200:
        return
    if response.headers["content-type"] == [LINES]:
        sent = [json.loads(line) for line in cast(bytes, response.request.body).splitlines() if line.strip()]
        results = [json.loads(line) for line in response.content.splitlines()]
    else:
        sent, results = json.loads(cast(bytes, response.request.body)), json.loads(response.content)
        assert isinstance(sent, list) == isinstance(results, list)
        if not isinstance(sent, list):
            sent, results = [sent], [results]
    allowed = jsonschema_rs.validator_for(
        {"$ref": "#/components/schemas/SentReading", **case.operation.schema.raw_schema}
    )
    assert len(sent) == len(results)
    for reading, result in zip(sent, results, strict=True):
        assert allowed.is_valid(reading) or result["status"] == "rejected", reading


class Counted:
    """An app that counts its answers."""

    def __init__(self, app: Any) -> None:
        self._app = app
        self.answers: Counter[int] = Counter()

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted(message: Any) -> None:
            if message["type"] == "http.response.start":
                self.answers[message["status"]] += 1
            await send(message)

        await self._app(scope, receive, counted)


def run(app: Any, seed: int, headers: dict[str, str], examples: int) -> dict[str, str]:
    """All checks of schemathesis, on single requests and on walks along the links; returns what was wrong.

    Policies, windows and exported states may be right by their schema and refused: it does not say which time zones
    there are, that low is below high, that what starts has to end, or what a checksum is. Two are left out elsewhere,
    because a wrong reading, or one of a stream whose name is none, is no error of its request:
    `negative_data_rejection` where readings are posted, see `every_reading_has_its_result`; and
    `positive_data_acceptance` on walks, which may begin with one.
    """
    config = SchemathesisConfig.from_dict(
        {
            "seed": seed,
            "headers": headers,
            "generation": {  # a key that is made up beside the one in `headers` would be two, and 401
                "max-examples": examples,
                "database": "none",
                "no-shrink": True,
                "with-security-parameters": False,
            },
            "checks": {"enabled": True},
            "phases": {"stateful": {"checks": {"positive_data_acceptance": {"enabled": False}}}},
            "operations": [
                {
                    "include-path-regex": "/(readings|warm-up)$",
                    "checks": {"negative_data_rejection": {"enabled": False}},
                },
                {
                    "include-path-regex": "^/v1/(policies|windows/.*|streams/.*/(policy|state))$",
                    "checks": {"positive_data_acceptance": {"enabled": False}},
                },
            ],
        }
    )
    whole = schemathesis.openapi.from_asgi("/openapi.json", app, config=config)
    document = whole.exclude(path="/v1/incidents/stream")  # it has no end; test_incidents.py listens to it
    wrong: dict[str, str] = {}
    for event in from_schema(document).execute():
        if isinstance(event, events.NonFatalError):
            wrong[event.label] = str(event.value)
        elif isinstance(event, events.FatalError):
            raise event.exception
        elif isinstance(event, events.ScenarioFinished):
            for check in (check for checks in event.recorder.checks.values() for check in checks):
                if check.status is Status.FAILURE:
                    failure = check.failure_info.failure  # type: ignore[union-attr]
                    name = f"{event.recorder.label}: {check.name} {failure.title}"
                    wrong.setdefault(name, f"{failure}\n{check.failure_info.code_sample}")  # type: ignore[union-attr]
    return wrong


@pytest.mark.parametrize("closed", [False, True])
def test_every_answer_is_as_the_document_says(
    settings: Callable[..., Settings], tenant: str, tmp_path: Path, closed: bool
) -> None:
    """The long form: OPENAPI_REQUESTS=10000 OPENAPI_SEED=1 python -m pytest tests/api/test_openapi.py"""
    headers = {"Authorization": f"Bearer {add_to_file(tmp_path / 'keys.json', tenant, 'admin')}"} if closed else {}
    app = Counted(create_app(settings(keys_file=tmp_path / "keys.json" if closed else None)))
    seed, wrong = SEED, dict[str, str]()
    while (
        app.answers.total() < REQUESTS / 2 and not wrong
    ):  # a run is some 1,000 requests; routes without input soon end
        wrong = run(app, seed, headers, 5 if closed else 25)  # with a key the answers are the same
        seed += 1
    print(f"OPENAPI_SEED={SEED} to {seed - 1}: {app.answers.total()} answers, {dict(app.answers)}")
    assert not wrong, "\n\n".join(f"{name}\n{shown}" for name, shown in wrong.items())
