"""What must hold of a stream when a run is over, beside a sequential replay of its readings in plain Python."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import msgspec
import numpy as np

from gatewatch.service.core.outcomes import format_time
from gatewatch.service.core.records import sound
from gatewatch.service.core.stepper import Stepper
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.doors.json_results import Result
from tests.simulation.fold import After, Fold, Sent, replay
from tests.simulation.redis import Redis
from tests.simulation.senders import REFUSED, SCORED, Plan

STEPPER = Stepper(Fold(), 1)


def check(redis: Redis, slots: int, plan: Plan, last: dict[tuple[str, int], str]) -> list[str]:
    """Compare a stream's state, history and answers with what they should be; returns what is wrong.

    Args:
        redis: the server, all writes done.
        slots: readings that a history holds.
        plan: what was sent, and what was answered.
        last: the answers to every reading when it was sent again after everything.
    """
    packed = redis.values.get((plan.key, "state"))
    if packed is None:
        return [f"{plan.stream} has no state"]
    record = sound([packed], STEPPER.record)[0]
    log = _log(plan.key, redis.journal)
    lost = {_identity(plan, sent) for sent in _sent(list(_entries(plan.key, redis.lost)))}
    count = int(record["readings"])
    if sorted(log) != list(range(count)):
        return [f"{plan.stream} has a state after {count} readings and a history of {sorted(log)}"]
    applied = _sent([log[n] for n in range(count)])
    afters = replay(applied)
    wrong = _wrong_state(plan, record, log, applied, afters)
    place = {_identity(plan, sent): n for n, sent in enumerate(applied)}
    for at in [*range(len(plan.readings)), *plan.rivals]:
        reading, answers = plan.sent(at), plan.answers[at]
        n = place.get(_identity(plan, reading))
        scored = answers - set(REFUSED)
        was_lost = _identity(plan, reading) in lost
        is_first = at < len(plan.readings)
        if n is None or applied[n].value != reading.value:
            if n is None and plan.mode in ("hold", "window"):
                wrong.append(f"{reading} is not applied")
            if scored and not was_lost:
                wrong.append(f"{reading} was acknowledged and is lost: {scored}")
            if is_first and not answers:
                wrong.append(f"{reading} was never answered")
            continue
        is_kept = count - n <= slots
        if plan.mode == "anew" and "late" in answers:
            continue  # it came ahead of the first of its session, and was taken for one of the session before
        if answers & set(REFUSED) and is_kept and not lost:
            wrong.append(f"{reading} was answered {answers}, and is applied")
        again = msgspec.json.decode(last[plan.stream, at], type=Result) if is_first else None
        if again and is_kept and not again.replayed and not lost:
            wrong.append(f"{reading} was applied, and sent again it is answered {again}")
        if plan.mode == "window":
            # a repeat in one batch with a lost reading is answered as before that one took its place again
            if again and not lost and not _is_right(again, applied[n], afters[n]):
                wrong.append(f"{reading} is answered {again} in the end; expected {afters[n]}")
        elif plan.mode == "hold" or not lost:
            if len(scored) > 1:
                wrong.append(f"{reading} has {len(scored)} different answers: {scored}")
            wrong += [
                f"{reading} is answered {text}; expected {afters[n]}"
                for text in scored
                if not _is_right(msgspec.json.decode(text, type=Result), applied[n], afters[n])
            ]
    return [f"{plan.stream} ({plan.mode}): {what}" for what in wrong]


def _wrong_state(plan: Plan, record: Any, log: dict[int, Any], applied: list[Sent], afters: list[After]) -> list[str]:
    """What is wrong with the state and the history themselves."""
    wrong = []
    identities = [_identity(plan, sent) for sent in applied]
    order = (
        [(int(log[n]["session"]), sent.seq) for n, sent in enumerate(applied)] if plan.mode == "anew" else identities
    )
    if sorted(set(order)) != order or len(set(identities)) < len(identities):  # type: ignore[type-var]
        wrong.append(f"the readings were applied as {identities}, in the order {order}")
    planned = [*plan.readings, *plan.rivals.values()]
    arrival = {replace(reading, ms=-1) for reading in planned if reading.ms == -1}
    for n, sent in enumerate(applied):
        if sent not in planned and replace(sent, ms=-1) not in arrival:
            wrong.append(f"{sent} was applied; sent was {planned}")
        if log[n]["tag"].tobytes() != afters[n].tag or float(log[n]["score"]) != afters[n].score:
            wrong.append(f"the history of {sent} is not that of a sequential replay")
    end = (record["tag"].tobytes(), int(record["detector"]["hash"])) if applied else (bytes(16), 0)
    if end != ((afters[-1].tag, afters[-1].hashed) if applied else (bytes(16), 0)):
        wrong.append(f"the state after {len(applied)} readings is not that of a sequential replay")
    return wrong


def _is_right(result: Result, sent: Sent, after: After) -> bool:
    """Whether an answer says what the replay says."""
    if result.status in REFUSED:
        return True  # looked at elsewhere
    said = (result.status, result.score, result.timestamp)
    return said == (after.status, after.score, format_time(sent.ms)) and result.status in SCORED


def _log(stream: StreamKey, journal: list[tuple[StreamKey, bytes]]) -> dict[int, Any]:
    """Reading n of a stream as it was written last, for every n."""
    return {int(entry["n"]): entry for entry in _entries(stream, journal)}


def _entries(stream: StreamKey, journal: list[tuple[StreamKey, bytes]]) -> Any:
    header = STEPPER.usual.ring_header
    pieces = [piece for name, piece in journal if name == stream and piece != header]
    return np.frombuffer(b"".join(pieces), STEPPER.entry)


def _sent(entries: list[Any]) -> list[Sent]:
    return [Sent(int(e["seq"]), int(e["timestamp_ms"]), float(e["values"][0])) for e in entries]


def _identity(plan: Plan, sent: Sent) -> int:
    return sent.seq if plan.mode in ("hold", "seq") else sent.ms
