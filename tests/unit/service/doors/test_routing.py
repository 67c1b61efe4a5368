"""A body with readings of streams of several models is decoded each reading for its own model, in its place."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest

from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.core.outcomes import Refused
from gatewatch.service.doors.door import Context, Decoded, Mixed, StreamNames, by_model, merged
from gatewatch.service.doors.json_results import JsonEncoder
from gatewatch.service.doors.routing import RoutingDecoder
from gatewatch.service.serving.served_model import ServedModel
from tests.support.samples import START_MS, make_artefact
from tests.support.scorer import JSON, LATE_MS, LINES, model_of

NAMES = ("p-1", "f-1", "p-2", "f-2")
FANS = ("speed", "noise", "current")


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> dict[str, ServedModel]:
    """By the first letter of the stream's name."""
    folder = tmp_path_factory.mktemp("models")
    pumps, fans = make_artefact(folder / "p"), make_artefact(folder / "f", channels=FANS)
    return {"p": model_of(TrainedDetector.load(pumps)), "f": model_of(TrainedDetector.load(fans))}


def reading(name: str, at: int, **more: Any) -> dict[str, Any]:
    channels = ("pressure", "flow") if name[0] == "p" else FANS
    values = dict.fromkeys(channels, 1.5 + at)
    return {"stream": name, "seq": at, "timestamp": START_MS / 1000 + at, "values": values, **more}


def decoded(models: dict[str, ServedModel], body: bytes, lines: bool = False) -> list[Decoded | Mixed]:
    door = LINES if lines else JSON
    model_for: Callable[[str], ServedModel] = lambda name: models.get(name[:1], models["p"])  # noqa: E731
    routing = RoutingDecoder(model_for, models["p"].decoder, models["p"].decoder.reading_bytes)
    context = Context(models["p"], StreamNames("t"), None, LATE_MS, routing)
    whole = door.decode(body, context)
    return [whole[0]] if whole else list(door.open(body, context).parts)


def in_order(parts: list[Decoded | Mixed]) -> list[Any]:
    """Of each item in its place: the model, stream, seq and values, or why it was refused."""
    groups = by_model(parts)
    answers: list[list[Any]] = [
        [
            (readings.model, stream.name, seq, values)
            for stream, seq, values in zip(readings.streams, readings.seqs, readings.values, strict=True)
        ]
        for readings in (group.decoded.readings for group in groups)
    ]
    return merged(groups, answers, JsonEncoder())


@pytest.mark.parametrize("lines", [False, True])
@pytest.mark.parametrize("count", [1, 3, 40, 4000])
def test_each_reading_is_decoded_for_its_own_model(models: dict[str, ServedModel], count: int, lines: bool) -> None:
    sent = [reading(NAMES[at % 4], at) for at in range(count)]
    body = b"\n".join(json.dumps(one).encode() for one in sent) if lines else json.dumps(sent).encode()
    found = in_order(decoded(models, body, lines))
    assert [(name, seq) for _, name, seq, _ in found] == [(one["stream"], one["seq"]) for one in sent]
    for (model, _, _, values), one in zip(found, sent, strict=True):
        assert model is models[one["stream"][0]]
        assert values == tuple(one["values"][channel] for channel in model.detector.channels)


def test_what_cannot_be_scored_is_refused_in_its_place_and_by_its_own_model(models: dict[str, ServedModel]) -> None:
    sent = [
        reading("p-1", 0),
        reading("f-1", 1, values={"pressure": 1.0}),
        reading("f-1", 2),
        reading("p-1", 3, values={"speed": 1.0}),
        {"stream": 7, "values": {"flow": 1.0}},
        reading("p-1", 4, timestamp="yesterday"),
        "no reading",
        reading("f-2", 5),
    ]
    found = in_order(decoded(models, json.dumps(sent).encode()))
    assert [at for at, one in enumerate(found) if isinstance(one, Refused)] == [1, 3, 4, 5, 6]
    assert "expected speed, noise, current" in found[1].error
    assert "expected pressure, flow" in found[3].error
    assert [found[at][1] for at in (0, 2, 7)] == ["p-1", "f-1", "f-2"]


def test_a_line_that_is_none_has_its_number(models: dict[str, ServedModel]) -> None:
    lines = [json.dumps(reading("f-1", 0)), '{"stream": "f-1", "values"', json.dumps(reading("p-1", 1))]
    found = in_order(decoded(models, "\n".join(lines).encode(), lines=True))
    assert "line 2" in found[1].error
    assert [found[at][1] for at in (0, 2)] == ["f-1", "p-1"]


def test_numbers_that_are_not_json_are_refused_alone(models: dict[str, ServedModel]) -> None:
    text = json.dumps([reading("f-1", 0), reading("p-1", 1), reading("f-2", 2)]).replace("2.5", "NaN", 1)
    found = in_order(decoded(models, text.encode()))
    assert [isinstance(one, Refused) for one in found] == [False, True, False]


def test_a_body_of_one_model_is_no_mixture(models: dict[str, ServedModel]) -> None:
    body = json.dumps([reading("f-1", 0), reading("f-2", 1)]).encode()
    (whole,) = decoded(models, body)
    assert isinstance(whole, Decoded)
    assert whole.readings.model is models["f"]
