"""What comes back for bad input about incidents, windows, gates and webhooks; and that neighbours are none the worse.

    python -m tests.faults.bad_incidents

Services in this process, over Redis servers of their own, and receivers of webhooks that behave badly. Each line of the
table is what was done, what came back, and what was seen afterwards; a line whose outcome is not the one that is
expected ends the run.
"""

from __future__ import annotations

import os
import signal
import socket
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from redis import Redis
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.bench import Bench, Line
from tests.support.receiver import SECRET, Delivery, receiving
from tests.support.samples import KEPT_DAYS, make_artefact

CALM: Final = 40
ROUNDS: Final = 20
FLOOD: Final = 64
SLOW: Final = "answers after 0.7 s"
PATIENT: Final = ("takes all", SLOW)
"""Receivers that take all in the end."""


def steady(stream: str, seq: int, moment: float, pressure: float = 3.0) -> dict[str, Any]:
    """A reading of a stream of the tests' model, strange where its pressure is 900."""
    return {
        "stream": stream,
        "seq": seq,
        "timestamp": moment,
        "values": {"pressure": pressure, "flow": 3.0 + seq % 3 * 0.1},
    }


class Incidents(Bench):
    """A service, and a neighbour that sends on."""

    def post(self, sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
        """Readings and their results."""
        reply = self.client.post("/v1/readings", json=sent)
        assert reply.status_code == 200, reply.text
        results: list[dict[str, Any]] = reply.json()
        return results

    def neighbours(self) -> str:
        """Post a reading of another stream: it is scored."""
        (found,) = self.post([steady("neighbour", self.sent, 1_700_000_000 + 60 * self.sent)])
        self.sent += 1
        assert found["status"] in ("warming_up", "normal"), found
        return "the neighbour is scored"

    def incident(self, stream: str, calm: int = CALM) -> str:
        """Have a stream begin an incident; its id."""
        began = time.time() - 60 * (calm + 2)
        self.post([steady(stream, at, began + 60 * at) for at in range(calm)])
        self.post([steady(stream, calm, began + 60 * calm, 900.0)])
        (found,) = self.client.get("/v1/incidents", params={"stream": stream, "state": "open"}).json()["incidents"]
        return str(found["id"])


def windows(bench: Incidents) -> Iterator[Line]:
    """Windows that are none, that overlap, and those across a change of clocks."""

    def put(body: dict[str, Any]) -> Any:
        return bench.client.put("/v1/windows/w", json=body)

    for what, body, words in (
        ("ends before it starts", {"start": "2026-05-04T12:00:00Z", "end": "2026-05-04T08:00:00Z"}, "is not after"),
        ("ends as it starts", {"start": "2026-05-04T12:00:00Z", "end": "2026-05-04T14:00:00+02:00"}, "is not after"),
        ("has a zone that is none", {"hours": "22:00-06:00", "zone": "Mars/Olympus"}, "is no time zone"),
        ("has a path as its zone", {"hours": "22:00-06:00", "zone": "../../etc/passwd"}, "is no time zone"),
        ("has hours that are none", {"hours": "25:00-06:00"}, "hours"),
        ("has times without an offset", {"start": "2026-05-04T12:00:00", "end": "2026-05-04T14:00:00"}, "timezone"),
        ("has neither times nor hours", {}, "expected start and end"),
    ):  # fmt: skip
        yield bench.asked(f"a window {what}", put(body), 422, words)
    assert bench.client.get("/v1/windows").json() == {"windows": {}}
    zone = {"hours": "02:30-03:30", "zone": "Europe/Berlin", "stream": "clock-*", "skip": "judging"}
    assert put(zone).status_code == 200
    for season, first, expected in (
        ("spring: 02:30 is not there", datetime(2026, 3, 29, 0, 0, tzinfo=UTC), "01:00-01:15"),
        ("autumn: 02:30 comes twice", datetime(2026, 10, 25, 0, 0, tzinfo=UTC), "00:30-00:45 01:30-02:15"),
    ):
        stream = f"clock-{season[:6]}"
        moments = [first.timestamp() + 900 * at for at in range(-CALM, 16)]
        results = bench.post([steady(stream, at, moment) for at, moment in enumerate(moments)])[CALM:]
        inside = [result["timestamp"][11:16] for result in results if result.get("gate") == "window"]
        wanted = [time for part in expected.split() for time in _quarters(*part.split("-"))]
        assert inside == wanted, (season, inside, wanted)
        said = f"in it, by UTC: {', '.join(inside)}"
        yield f"a window 02:30-03:30 by the clocks of Berlin, {season}", said, bench.neighbours()
    began = time.time() - 60 * (CALM + 2)
    bench.post([steady("lap", at, began + 60 * at) for at in range(CALM)])
    days = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
    overlapping: list[tuple[str, dict[str, Any]]] = [
        ("a", {"start": "2020-01-01T00:00:00Z", "end": "2099-01-01T00:00:00Z", "stream": "lap*", "skip": "judging"}),
        ("b", {"days": days, "stream": "*", "skip": "learning"}),
    ]
    for name, body in overlapping:
        bench.client.put(f"/v1/windows/{name}", json=body).raise_for_status()
    (strange,) = bench.post([steady("lap", CALM, began + 60 * CALM, 900.0)])
    (found,) = bench.client.get("/v1/incidents", params={"stream": "lap"}).json()["incidents"]
    assert (strange["gate"], found["window"], found["told"]) == ("window", "a", False)
    for name in ("w", "a", "b"):
        bench.client.delete(f"/v1/windows/{name}").raise_for_status()
    yield (
        "two windows overlap: one skips judging, one learning",
        "gate: window; kept under a, told: false",
        bench.neighbours(),
    )


def _quarters(first: str, last: str) -> list[str]:
    begin, end = (int(clock[:2]) * 60 + int(clock[3:]) for clock in (first, last))
    return [f"{minute // 60:02d}:{minute % 60:02d}" for minute in range(begin, end + 1, 15)]


def people(bench: Incidents) -> Iterator[Line]:
    """What is said of incidents that are closed, unknown or expired; by several at once."""
    client = bench.client
    reply = client.put("/v1/streams/gated/policy", json={"gates": [{"channel": "presure", "direction": "above"}]})
    assert reply.json()["gates_without_channel"] == ["presure"]
    id_ = bench.incident("gated")
    yield (
        "a gate for a channel that is not there",
        "200, `gates_without_channel`: ['presure']",
        f"it gates nothing: {id_} begins",
    )
    yield bench.asked(
        "a label of an incident that is unknown",
        client.post("/v1/incidents/7.nobody/label", json={"label": "true"}),
        404,
        "no incident",
    )
    yield bench.asked(
        "a label that is none", client.post(f"/v1/incidents/{id_}/label", json={"label": "maybe"}), 422, "label"
    )
    with ThreadPoolExecutor(8) as pool:
        names = [f"person-{at}" for at in range(8)]
        replies = list(pool.map(lambda by: client.post(f"/v1/incidents/{id_}/acknowledge", json={"by": by}), names))
    said = {reply.json()["acknowledged"]["by"] for reply in replies}
    assert len(said) == 1, said
    yield "eight people acknowledge at once", "200 for each", "all read the same name, the first one's"
    with ThreadPoolExecutor(8) as pool:
        labels = ["true", "false_alarm"] * 10
        replies = list(pool.map(lambda label: client.post(f"/v1/incidents/{id_}/label", json={"label": label}), labels))
    counts, label = Counter(reply.status_code for reply in replies), client.get(f"/v1/incidents/{id_}").json()["label"]
    quiet = client.get("/v1/streams/gated/policy").json()["asked"].get("quiet", [])
    assert set(counts) <= {200, 503}, counts
    assert bool(quiet) == (label == "false_alarm"), (label, quiet)
    yield (
        "20 labels at once, true and false_alarm in turn",
        f"{dict(counts)}",
        f"in the end {label}, and quiet as that says",
    )
    client.post("/v1/streams/gated/reset?what=state").raise_for_status()
    reply = client.post(f"/v1/incidents/{id_}/label", json={"label": "false_alarm"})
    yield bench.asked("a label of an incident that went with its stream", reply, 404, "no incident")
    closed = bench.incident("closed")
    client.post(f"/v1/incidents/{closed}/close", json={"by": "Ada"}).raise_for_status()
    again = client.post(f"/v1/incidents/{closed}/close", json={"by": "Bob"})
    assert (again.status_code, again.json()["closed"]["by"]) == (200, "Ada")
    reply = client.post(f"/v1/incidents/{closed}/label", json={"label": "expected"})
    assert (reply.status_code, reply.json()["label"]) == (200, "expected")
    yield (
        "an incident that a person closed is closed again, and labelled",
        "200, by the first one; the label is kept",
        bench.neighbours(),
    )


def clocks(bench: Incidents) -> Iterator[Line]:
    """A sender whose clock steps back, in the middle of an incident."""
    client, began = bench.client, time.time() - 7200
    bench.post([steady("stepped", at, began + 60 * at) for at in range(CALM)])
    (first,) = bench.post([steady("stepped", CALM, began + 60 * CALM, 900.0)])
    back = bench.post([steady("stepped", CALM + at, began - 86_400 + 60 * at, 900.0) for at in range(1, 4)])
    after = bench.post([steady("stepped", CALM + at, began - 86_400 + 60 * at) for at in range(4, 44)])
    statuses = Counter(one["status"] for one in (first, *back, *after))
    (found,) = client.get("/v1/incidents", params={"stream": "stepped"}).json()["incidents"]
    assert statuses["late"] == statuses["rejected"] == 0, statuses
    assert found["state"] == "ended", found
    assert found["start"] <= found["last"], found
    shown = f"{dict(statuses)}"
    yield (
        "the sender's clock steps back by a day, with `seq`",
        shown,
        f"one incident, ended; last {found['last'][11:19]} is not before start",
    )
    bench.post(
        [{k: v for k, v in steady("unnumbered", at, began + 60 * at).items() if k != "seq"} for at in range(CALM)]
    )
    (late,) = bench.post([{k: v for k, v in steady("unnumbered", 0, began - 86_400, 900.0).items() if k != "seq"}])
    assert late["status"] == "late"
    listed = client.get("/v1/incidents", params={"stream": "unnumbered"}).json()["incidents"]
    assert listed == []
    yield "the same without `seq`", f"late: {late['error'][:120]}", "no incident"


def away(bench: Incidents, redis_pid: int) -> Iterator[Line]:
    """Redis hangs between a reading and its incident."""
    client, statuses = bench.client, Counter[int]()
    began = time.time() - 60 * (CALM + 2)
    alerts = _alerts(client)
    for number in range(ROUNDS):
        stream = f"gone-{number}"
        bench.post([steady(stream, at, began + 60 * at) for at in range(CALM)])
        with ThreadPoolExecutor(1) as pool:
            sent = pool.submit(client.post, "/v1/readings", json=[steady(stream, CALM, began + 60 * CALM, 900.0)])
            time.sleep(0.0005 * number)
            os.kill(redis_pid, signal.SIGSTOP)
            time.sleep(0.4)
            os.kill(redis_pid, signal.SIGCONT)
            reply = sent.result()
        while reply.status_code != 200:
            statuses[reply.status_code] += 1
            time.sleep(0.2)
            reply = client.post("/v1/readings", json=[steady(stream, CALM, began + 60 * CALM, 900.0)])
        statuses[200] += 1
        assert reply.json()[0]["status"] == "anomalous"
    found = [
        len(client.get("/v1/incidents", params={"stream": f"gone-{number}"}).json()["incidents"])
        for number in range(ROUNDS)
    ]
    assert found == [1] * ROUNDS, found
    deadline = time.monotonic() + 30
    while _alerts(client) - alerts != ROUNDS and time.monotonic() < deadline:
        time.sleep(0.5)
    assert _alerts(client) - alerts == ROUNDS, (_alerts(client), alerts)
    yield (
        f"Redis hangs for 0.4 s as a reading is saved that begins an incident, {ROUNDS} times, and it is sent again",
        str(dict(statuses)),
        f"{ROUNDS} incidents, each once, {ROUNDS} alerts counted",
    )


def _alerts(client: TestClient) -> int:
    lines = client.get("/metrics").text.splitlines()
    return sum(int(float(line.split()[-1])) for line in lines if line.startswith("gatewatch_alerts_total{"))


@contextmanager
def hanging() -> Iterator[str]:
    """An address where connections are never accepted, once a few wait."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen(0)
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"


def webhooks(folder: Path, artefact: Path) -> Iterator[Line]:
    """Receivers that behave badly, while incidents begin and a neighbour sends."""
    (folder / "secret").write_bytes(SECRET)
    loopback = ("127.0.0.0/8",)
    answers = {"takes all": 204, "answers 500": 500, "redirects": 302, "hangs up": 0, "never answers": -1}
    for what, status in answers.items():
        with receiving() as receiver:
            receiver.answer = partial(_answered, status)
            yield _with_webhook(folder, artefact, what, receiver.url, loopback, receiver.deliveries)
            assert receiver.other == []  # no redirect was followed
    with receiving() as receiver:

        def slowly(_: int) -> int:
            time.sleep(0.7)
            return 204

        receiver.answer = slowly
        yield _with_webhook(folder, artefact, SLOW, receiver.url, loopback, receiver.deliveries)
        yield _with_webhook(
            folder, artefact, "is at a private address that is not named", receiver.url, (), receiver.deliveries[:0]
        )
    with hanging() as url:
        yield _with_webhook(folder, artefact, "accepts no connection", url, loopback, [])
    yield _with_webhook(folder, artefact, "has a name that means nothing", "http://nobody.invalid/", loopback, [])


def _answered(status: int, _: int) -> int:
    return status


def _with_webhook(
    folder: Path, artefact: Path, what: str, url: str, networks: tuple[str, ...], deliveries: list[Delivery]
) -> Line:
    patient = what in PATIENT
    with start_private_redis(folder / f"redis-{what[:8].replace(' ', '-')}-{time.monotonic_ns()}") as private:
        given = Settings(
            redis_url=private.url, model=str(artefact), log_level="critical", incident_days=KEPT_DAYS,
            webhook_url=url, webhook_secret_file=folder / "secret", webhook_networks=networks,
            webhook_timeout_s=5.0 if patient else 1.0, webhook_retry_s=3600.0 if patient else 4.0,
            store_timeout_ms=10_000,
        )  # fmt: skip
        with TestClient(create_app(given)) as client:
            began, names = time.time() - 60 * (CALM + 2), [f"s-{number}" for number in range(FLOOD)]
            for at in range(CALM):
                client.post(
                    "/v1/readings", json=[steady(name, at, began + 60 * at) for name in names]
                ).raise_for_status()
            before = _waits(client, 30, "early")
            reply = client.post("/v1/readings", json=[steady(name, CALM, began + 60 * CALM, 900.0) for name in names])
            assert Counter(one["status"] for one in reply.json()) == {"anomalous": FLOOD}
            sent, during = time.monotonic(), _waits(client, 60, "while")
            limit_s = 200 if patient else 12
            while (taken := _taken(deliveries)) < FLOOD and time.monotonic() - sent < limit_s:
                time.sleep(0.1)
            took = time.monotonic() - sent
            letters = client.get("/v1/dead-letters").json()["letters"]
            text = client.get("/metrics").text
            waiting = next(
                line.split()[1] for line in text.splitlines() if line.startswith("gatewatch_webhook_waiting ")
            )
        assert taken == (FLOOD if patient else 0), (what, taken)
        if networks == ():
            assert deliveries == []
        errors = Counter(letter["error"] for letter in letters)
        said = f"taken {taken} of {FLOOD} within {took:.0f} s; waiting {float(waiting):.0f}; dead {dict(errors)}"
        ratio = float(np.quantile(during, 0.5) / np.quantile(before, 0.5))
        return (
            f"a webhook that {what}, {FLOOD} incidents",
            said,
            f"the neighbour's median wait is {ratio:.2f} of that before",
        )


def _taken(deliveries: list[Delivery]) -> int:
    return len({one.id for one in deliveries if 200 <= one.answered < 300})


def _waits(client: TestClient, count: int, name: str) -> list[float]:
    """How long single readings wait, s."""
    waits = list[float]()
    for at in range(count):
        start = time.monotonic()
        client.post("/v1/readings", json=[steady(name, at, 1_700_000_000 + at, 3 + at % 7 / 50)]).raise_for_status()
        waits.append(time.monotonic() - start)
        time.sleep(0.01)
    return waits


def main() -> None:
    """Print the table."""
    print("| what was done | what came back | then |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        artefact = make_artefact(folder / "model")
        with start_private_redis(folder / "redis") as private:
            pid = int(Redis.from_url(private.url).info("server")["process_id"])
            given = Settings(redis_url=private.url, model=str(artefact), log_level="critical", incident_days=KEPT_DAYS)
            with TestClient(create_app(given)) as client:
                bench = Incidents(client)
                for part in (windows(bench), people(bench), clocks(bench), away(bench, pid)):
                    for line in part:
                        print("| " + " | ".join(words.replace("|", "/") for words in line) + " |", flush=True)
        for line in webhooks(folder, artefact):
            print("| " + " | ".join(words.replace("|", "/") for words in line) + " |", flush=True)


if __name__ == "__main__":
    main()
