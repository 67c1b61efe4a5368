"""Whatever is sent, in whatever order: each answer and each stream is what a plain model of the contract says.

The model keeps a stream as a list of readings, and scores it anew from the first one when one comes late. Longer:
MACHINE_EXAMPLES=1000 python -m pytest tests/laws/test_state_machine.py -o timeout=0
"""

from __future__ import annotations

import hashlib
import itertools
import os
import struct
import tempfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
    run_state_machine_as_test,
)
from starlette.testclient import TestClient

from gatewatch.models.detectors.detector import STATUSES
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.samples import CHANNELS, START_MS, make_artefact

HISTORY = 32
_tenants = itertools.count()
value = st.one_of(st.none(), st.sampled_from([0.0, -0.0, 1.5, 3.0, 4.25, 1e30]), st.floats(-10, 10, width=32))
values = st.tuples(value, value)


@dataclass
class Stream:
    """What the contract says of one stream.

    Attributes:
        numbered: its readings carry seq; place k is seq k, else the k-th minute.
        hold: it waits at gaps.
        window: minutes within which a late reading takes its place.
        places: of the readings applied, ascending.
        values: place to values.
        scores: place to the score that its reading has now.
    """

    name: str
    numbered: bool
    hold: bool
    window: int
    places: list[int] = field(default_factory=list)
    values: dict[int, tuple[float, ...]] = field(default_factory=dict)
    scores: dict[int, tuple[float, str]] = field(default_factory=dict)
    state: Any = None

    def expect(self, place: int, sent: tuple[float | None, ...], detector: TrainedDetector) -> tuple[str, bool]:
        """Apply the reading, or not; its status (`scored` for one that has a score) and whether it is a replay."""
        row = tuple(np.nan if v is None else v + 0.0 for v in sent)
        kept = self.places[-HISTORY:]
        if place in self.values:
            if place not in kept:
                return "late", False
            same = all(
                mine == kept or (mine != mine and (kept != kept or not self.numbered))  # without seq, part of a reading
                for mine, kept in zip(row, self.values[place], strict=True)
            )
            return ("scored", True) if same else ("conflict", False)
        if self.places and place < self.places[-1]:
            if self.window == 0 or place < self.places[-1] - self.window:
                return "late", False
            if self.hold and self.numbered and place + 1 != self.places[0]:  # there is no gap, so it is ahead of all
                return "rejected", False
        elif self.hold and self.numbered and self.places and place != self.places[-1] + 1:
            return "rejected", False
        self.values[place] = row
        if self.state is None or (self.places and place < self.places[-1]):
            self.places, self.state = sorted(self.values), detector.initial(1)
            self._score(detector, self.places)
        else:
            self.places.append(place)
            self._score(detector, [place])
        return "scored", False

    def _score(self, detector: TrainedDetector, places: list[int]) -> None:
        for place in places:
            row = np.array([self.values[place]])
            step = detector.advance(row, np.array([START_MS + 60_000 * place]), self.state)
            self.scores[place] = float(step.score[0]), STATUSES[step.status[0]]

    def tag(self) -> str:
        """The chain tag, as docs/http-api.md defines it."""
        tag = bytes(16)
        for place in self.places:
            there = sorted((c, v) for c, v in zip(CHANNELS, self.values[place], strict=True) if v == v)
            named = b"".join(struct.pack("<I", len(name)) + name.encode() for name, _ in there)
            link = struct.pack("<qq", place if self.numbered else -1, START_MS + 60_000 * place)
            link += hashlib.blake2b(named, digest_size=16).digest()
            link += b"".join(struct.pack("<d", v) for _, v in there)
            tag = hashlib.blake2b(tag + link, digest_size=16).digest()
        return tag.hex()


class Machine(RuleBasedStateMachine):
    """Streams of all kinds, and senders of all manners."""

    client: TestClient
    detector: TrainedDetector

    @initialize()
    def begin(self) -> None:
        self.prefix = f"m{next(_tenants)}"
        self.streams: list[Stream] = []

    @precondition(lambda self: len(self.streams) < 3)
    @rule(numbered=st.booleans(), hold=st.booleans(), window=st.sampled_from([0, 0, 3, 8]))
    def open(self, numbered: bool, hold: bool, window: int) -> None:
        stream = Stream(f"{self.prefix}-{len(self.streams)}", numbered, hold, window)
        self.streams.append(stream)
        body = {"on_gap": "hold" if hold else "accept", "reorder_window_s": 60 * window}
        assert self.client.put(f"/v1/streams/{stream.name}", json=body).status_code == 200

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 2), step=st.integers(-12, 4), sent=values)
    def send(self, which: int, step: int, sent: tuple[float | None, ...]) -> None:
        """A reading near the end of a stream: the next one, one too early, one sent before, one too late."""
        stream = self.streams[which % len(self.streams)]
        place = max(0, (stream.places[-1] if stream.places else 0) + step)
        if not stream.numbered and sent[0] is None:  # channels apart are two readings of one time, see test_same_time
            sent = (3.0, sent[1])
        self._send([(stream, place, sent)])

    @precondition(lambda self: any(stream.places for stream in self.streams))
    @rule(which=st.integers(0, 2), back=st.integers(0, 40))
    def send_again(self, which: int, back: int) -> None:
        """Exactly what was sent before."""
        stream = self.streams[which % len(self.streams)]
        if stream.places:
            place = stream.places[-1 - back % len(stream.places)]
            self._send([(stream, place, tuple(None if v != v else v for v in stream.values[place]))])

    @precondition(lambda self: self.streams)
    @rule(count=st.integers(2, 50), seed=st.integers(0, 9))
    def send_many(self, count: int, seed: int) -> None:
        """The next readings of all streams, in any order, some of them twice."""
        rng = np.random.default_rng(seed)
        sent: list[tuple[Stream, int, tuple[float | None, ...]]] = []
        for stream in self.streams:
            first = stream.places[-1] + 1 if stream.places else 0
            places = range(first, first + count // len(self.streams) + 1)
            sent += [(stream, place, tuple(rng.normal(3, 1, 2).round(2).tolist())) for place in places]
        sent += [sent[at] for at in rng.integers(0, len(sent), 3)]
        self._send([sent[at] for at in rng.permutation(len(sent))])

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 2), bad=st.sampled_from([{"values": {"speed": 1}}, {"values": True}, {"seq": -1}, {}]))
    def send_nonsense(self, which: int, bad: dict[str, Any]) -> None:
        stream = self.streams[which % len(self.streams)]
        (result,) = self.client.post("/v1/readings", json=[{"stream": stream.name, **bad}]).json()
        assert result["status"] == "rejected"

    @precondition(lambda self: self.streams)
    @rule(which=st.integers(0, 2))
    def delete(self, which: int) -> None:
        stream = self.streams.pop(which % len(self.streams))
        reply = self.client.delete(f"/v1/streams/{stream.name}")
        assert reply.status_code == 204, reply.text
        self.prefix += "d"  # names are not used again: settings are gone too

    def _send(self, sent: list[tuple[Stream, int, tuple[float | None, ...]]]) -> None:
        body = []
        for stream, place, row in sent:
            reading: dict[str, Any] = {
                "stream": stream.name,
                "timestamp": START_MS / 1000 + 60 * place,
                "values": dict(zip(CHANNELS, row, strict=True)),
            }
            body.append({**reading, "seq": place} if stream.numbered else reading)
        reply = self.client.post("/v1/readings", json=body)
        assert reply.status_code == 200, reply.text
        in_order = sorted(range(len(sent)), key=lambda at: sent[at][1])
        expected = {at: sent[at][0].expect(sent[at][1], sent[at][2], self.detector) for at in in_order}
        for at, result in enumerate(reply.json()):
            stream, place, _ = sent[at]
            status, replayed = expected[at]
            assert (result["stream"], result["replayed"]) == (stream.name, replayed), result
            if status == "scored":
                assert (result["score"], result["status"]) == stream.scores[place], result
            else:
                assert result["status"] == status, result

    @invariant()
    def each_stream_is_what_was_applied(self) -> None:
        for stream in getattr(self, "streams", []):
            known = self.client.get(f"/v1/streams/{stream.name}").json()
            assert known["readings"] == len(stream.places)
            assert known["tag"] == stream.tag()
            if stream.places:
                assert (known["score"], known["status"]) == stream.scores[stream.places[-1]]


def test_every_answer_is_what_the_contract_says(redis_url: str, tenant: str) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        artefact = make_artefact(Path(scratch) / "tiny")
        options = Settings(
            model=str(artefact),
            redis_url=redis_url,
            tenant=tenant,
            history_readings=HISTORY,
            store_timeout_ms=5000,
        )
        with TestClient(create_app(options)) as client:
            Machine.client, Machine.detector = client, TrainedDetector.load(artefact)
            examples = int(os.environ.get("MACHINE_EXAMPLES", "25"))
            run_state_machine_as_test(
                Machine,
                settings=settings(
                    max_examples=examples,
                    stateful_step_count=50,
                    deadline=None,
                    suppress_health_check=list(HealthCheck),
                ),
            )
