"""Streams of any channels between processes, on a real Redis."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Sequence
from typing import Any

from gatewatch.models.artefact.files import model_folder
from gatewatch.models.detectors.general.detector import GeneralDetector, load_detector
from gatewatch.service.core.build import Core
from gatewatch.service.core.layout import layout_of
from gatewatch.service.core.stream_channels import LISTS_KEPT, StreamChannels
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.doors.named_readings import NamedReadingDecoder
from gatewatch.service.serving.any_channels import AnyChannels
from gatewatch.service.storage.store import StateStore
from tests.support.scorer import JSON, core_of, read, texts

WRITERS = 4


def any_model() -> AnyChannels:
    detector = load_detector(model_folder("general"), unnamed=True)
    assert isinstance(detector, GeneralDetector)
    return AnyChannels(detector, NamedReadingDecoder(64, 0, 10_000), 128)


def test_processes_that_add_channels_at_once_end_with_all_of_them(redis_url: str, tenant: str) -> None:
    """Each adds one of its own; what comes of it is what the readings one by one, as they were applied, come to."""
    asyncio.run(_add_at_once(redis_url, tenant))


async def _add_at_once(redis_url: str, tenant: str) -> None:
    stores = [StateStore(redis_url, tenant, 2000) for _ in range(WRITERS)]
    cores = [core_of(any_model(), store, 100) for store in stores]
    model, order = any_model(), random.Random(0)

    async def score(core: Core, stream: str, values: dict[str, Any], seq: int) -> dict[str, Any]:
        reading = {"stream": stream, "seq": seq, "timestamp": 1_700_000_000.0 + seq, "values": values}
        answers = await core.scorer.score_batch(read(model, tenant, reading))
        answer: dict[str, Any] = json.loads(texts(answers)[0])
        return answer

    for start in range(0, 40, WRITERS):
        own = [
            (at, core, {"a": at / 7, f"own{(at + at // WRITERS) % WRITERS}": 1.0 * at})
            for at, core in enumerate(cores, start)
        ]
        order.shuffle(own)
        found = await asyncio.gather(*(score(core, "hot", values, at) for at, core, values in own))
        assert {one["status"] for one in found} <= {"warming_up", "normal", "anomalous", "late"}
    kept = await cores[0].inspection.recent(StreamKey(tenant, "hot"), JSON.encoder)
    applied = [(json.loads(entry.answer), entry.values) for entry in kept]
    assert set(applied[-1][1]) == {"a", *(f"own{at}" for at in range(WRITERS))}
    alone = [
        await score(cores[0], "alone", {name: v for name, v in values.items() if v is not None}, answer["seq"])
        for answer, values in applied
    ]
    assert [one["score"] for one in alone] == [answer["score"] for answer, _ in applied]
    known = [await cores[1].inspection.describe(StreamKey(tenant, stream)) or {} for stream in ("hot", "alone")]
    assert known[0]["tag"] == known[1]["tag"]
    for store in stores:
        await store.close()


def test_what_is_kept_of_lists_is_bounded(tenant: str) -> None:
    channels = StreamChannels(64)

    def flood(lists: Sequence[str]) -> int:
        for name in lists:
            channels.learn(StreamKey(tenant, name), layout_of((name,), (name,)))
        return sum(channels.knows(StreamKey(tenant, name)) for name in lists)

    few = [f"few{at}" for at in range(100)]
    assert flood(few) == 100
    assert flood([f"many{at}" for at in range(LISTS_KEPT + 50)]) <= LISTS_KEPT
    assert not any(channels.knows(StreamKey(tenant, name)) for name in few)
