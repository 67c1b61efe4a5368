"""A body on its way from bytes to answers, past the batches."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.doors.reading_decoder import PART_READINGS
from gatewatch.service.settings import Settings
from tests.support.samples import post

MANY = 5000


def test_others_have_their_turn_between_thousands_of_rejections(settings: Callable[..., Settings]) -> None:
    """10,000 rejections held the event loop for 0.4 s."""

    async def run() -> int:
        ingest = create_app(settings()).state.parts.ingest
        pending, turns = ingest.begin(json.dumps([7] * MANY).encode(), None, "application/json", "tenant"), 0
        while not pending.answers.done():
            await asyncio.sleep(0)
            turns += 1
        assert len(pending.answers.result()) == MANY
        return turns

    assert asyncio.run(run()) >= MANY // PART_READINGS


def test_rejections_keep_their_places_among_the_answers_of_a_body(client: TestClient) -> None:
    """Decoded at once, one by one; and in parts."""
    for count in (1, 2 * PART_READINGS):
        good = [{"stream": f"s{at}", "seq": count, "values": {"flow": 1}} for at in range(count)]
        sent: list[Any] = [7, *good, {"stream": "/", "values": {"flow": 1}}, *good, 7]
        statuses = [result["status"] for result in post(client, sent)]
        scored = ["warming_up"] * count
        again = [result["replayed"] for result in post(client, sent)]
        assert statuses == ["rejected", *scored, "rejected", *scored, "rejected"]
        assert again.count(True) == 2 * count
