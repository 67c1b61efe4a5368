"""What comes back for bad input about models, channels and states; and that the neighbours are none the worse.

    python -m tests.faults.bad_models

One service in this process, over a Redis of its own. Each line of the table is what was done, what came back, and what
was seen afterwards; a line whose outcome is not the one that is expected ends the run.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from redis import Redis
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import CANARY, FORMAT_VERSION, GRAPH, MANIFEST, load_artefact, manifest_hash
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import Change, Model, Version
from gatewatch.models.detectors.canary import canary_of, verify
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from gatewatch.service.storage.private_redis import start_private_redis
from tests.support.bench import Bench, Line
from tests.support.samples import make_artefact, post, readings

PUMPS = {"rules": [{"pattern": "pump-*", "model": "pumps"}]}


def edited(folder: Path, **changes: Any) -> Path:
    """An artefact with another manifest, whose hash is right."""
    manifest = {**json.loads((folder / MANIFEST).read_text()), **changes}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "manifest_sha256": manifest_hash(manifest)}))
    return folder


def with_another_canary(folder: Path) -> Path:
    """An artefact whose canary says other scores, and whose hashes are right."""
    made = load_artefact(folder)
    canary = json.loads(canary_of(made.manifest, made.graph) or b"")
    content = json.dumps({**canary, "scores": [2 * score for score in canary["scores"]]}).encode()
    (folder / CANARY).write_bytes(content)
    files = json.loads((folder / MANIFEST).read_text())["files"]
    return edited(folder, files={**files, CANARY: hashlib.sha256(content).hexdigest()})


def added(repository: Repository, folder: Path) -> int:
    """Have a version of `pumps` in the repository that no Repository.add takes; its number."""
    sha256 = json.loads((folder / MANIFEST).read_text())["manifest_sha256"]
    for file in folder.iterdir():
        repository._place.create(f"artefacts/{sha256}/{file.name}", file.read_bytes())

    def entry(model: Model, at: str) -> tuple[int, Change | None]:
        number = len(model.versions) + 1
        version = Version(version=number, sha256=sha256, added_at=at, added_by="somebody")
        after = model.model_copy(update={"versions": [*model.versions, version]})
        return number, Change(at=at, by="somebody", action="add", version=number, after=after)

    return repository.log.change("pumps", entry)


class Models(Bench):
    """A service, its repository, and a neighbour that sends on."""

    def __init__(self, client: TestClient, repository: Repository, folder: Path, redis_pid: int) -> None:
        super().__init__(client)
        self.repository, self.folder, self.redis_pid = repository, folder, redis_pid

    def neighbours(self) -> str:
        """Post a reading of a stream of the champion, and of one of the general model: both are scored."""
        found = post(self.client, [readings(name, 1, start=self.sent)[0] for name in ("pump-1", "other")])
        self.sent += 1
        assert {one["status"] for one in found} <= {"warming_up", "normal", "anomalous"}, found
        champion = self.repository.log.model("pumps").named("champion").digest
        assert found[0]["model"] == champion, (found, champion)
        return "neighbours scored"


def models(bench: Models) -> Iterator[Line]:
    """Promotions and rules."""
    client, repository = bench.client, bench.repository
    other = repository.add("pumps", make_artefact(bench.folder / "other", channels=("speed", "flow")), "ann").version
    bad = added(repository, with_another_canary(make_artefact(bench.folder / "canary", seed=7)))
    newer = added(repository, edited(make_artefact(bench.folder / "newer", seed=8), format_version=FORMAT_VERSION + 1))
    half = repository.add("pumps", make_artefact(bench.folder / "half", seed=9), "ann")
    (Path(repository.url) / "artefacts" / half.sha256 / GRAPH).unlink()
    for what, version, words in (
        ("whose channels are not those of its streams", other, "lacks pressure and has speed besides"),
        ("that fails its canary", bad, "canary.json"),
        ("of a newer format", newer, "it is from a newer gatewatch"),
        ("that is half copied", half.version, "was copied in part"),
    ):
        reply = client.post("/v1/models/pumps/promote", json={"version": version})
        yield bench.asked(f"a version is promoted {what}", reply, 422, words)
    reply = client.put("/v1/rules", json={"rules": [*PUMPS["rules"], {"pattern": "nothing-*", "model": "pumps"}]})
    assert reply.json()["warnings"] == ["no stream fits nothing-* yet"]
    yield "a rule whose pattern fits nothing", f"200, warnings: {reply.json()['warnings']}", bench.neighbours()
    reply = client.put("/v1/rules", json={"rules": [{"pattern": "*", "model": "nobody"}]})
    yield bench.asked("a rule to a model that is not there", reply, 422, "there is no model nobody")
    seen = {"if-match": f'"{repository.log.model("pumps").revision}"'}
    with ThreadPoolExecutor(2) as pool:
        promoted = [
            pool.submit(client.post, "/v1/models/pumps/promote", json={"version": n}, headers=seen) for n in (2, 3)
        ]
        statuses = sorted(one.result().status_code for one in promoted)
        lost = next(one.result() for one in promoted if one.result().status_code != 200)
    assert statuses == [200, 412], statuses
    yield bench.asked("two admins promote at once, both having seen the same revision", lost, 412)


def channels(bench: Models) -> Iterator[Line]:
    """Names alike, and lists that change."""
    client = bench.client
    client.post("/v1/streams/odd/readings", json=[{"values": {"flow": 1.0}}, {"values": {"Flow": 1.0}}])
    known = client.get("/v1/streams/odd").json()
    assert known["alike"] == [["flow", "Flow"]]
    yield "a channel named like another with other case", f"taken, `alike`: {known['alike']}", bench.neighbours()
    (result,) = client.post("/v1/streams/odd/readings", json=[{"values": {" flow": 1.0}}]).json()
    assert result["status"] == "rejected"
    yield "a channel with a space before its name", f"rejected: {result['error']}", bench.neighbours()
    attack = [{"stream": "attack", "seq": at, "values": {f"c{at}": 1.0}} for at in range(200)]
    answers = client.post("/v1/readings", json=attack).json()
    counts = {word: sum(one["status"] == word for one in answers) for word in ("warming_up", "rejected")}
    assert counts["rejected"] == 200 - 64, counts
    assert len(client.get("/v1/streams/attack").json()["channels"]) == 64
    said = f"64 channels joined, then {counts['rejected']} rejected: {answers[-1]['error'][:105]}..."
    yield "a stream whose channels change at every reading, 200 of them", said, bench.neighbours()


def states(bench: Models) -> Iterator[Line]:
    """Imports, and a past."""
    client = bench.client
    post(client, readings("kept", 40))
    file = client.get("/v1/streams/kept/state").content
    foreign = bench.folder / "foreign"
    with start_private_redis(bench.folder / "elsewhere") as private:
        model = str(make_artefact(foreign, seed=77))
        with TestClient(create_app(Settings(redis_url=private.url, model=model, log_level="critical"))) as elsewhere:
            post(elsewhere, readings("kept", 40))
            of_model = elsewhere.get("/v1/streams/kept/state").content
    old = file.replace(b"gatewatch-state 1", b"gatewatch-state 9")
    flipped = file[:200] + bytes([file[200] ^ 1]) + file[201:]
    for what, stream, content, words in (
        ("of another model", "kept", of_model, "which is not known here"),
        ("of another format", "kept", old, "the state has version 9; expected 1"),
        ("of another stream", "new", file, "the state is of stream kept; expected one of new"),
        ("with a byte flipped", "kept", flipped, "the state is damaged"),
        ("cut off", "kept", file[:-100], "the state is damaged"),
        ("that is none", "kept", b"[1]", "expected a state as GET"),
    ):
        yield bench.asked(
            f"import of a state {what}", client.put(f"/v1/streams/{stream}/state", content=content), 422, words
        )
    past = readings("past", 1000)
    reply = client.post("/v1/streams/past/warm-up", json=past)
    assert reply.json()["taken"] == 1000
    twin = post(client, [{**one, "stream": "twin"} for one in past])[-1]
    states = [client.get(f"/v1/streams/{name}").json() for name in ("past", "twin")]
    assert states[0]["tag"] == states[1]["tag"]
    assert states[0]["score"] == twin["score"]
    yield "a warm-up of 1,000 readings, the history keeps 128", "200: taken 1,000", "stands as if sent live: tag, score"


def away(bench: Models) -> Iterator[Line]:
    """The repository, and Redis."""
    client, there = bench.client, Path(bench.repository.url)
    hidden = there.with_name("hidden")
    there.rename(hidden)
    there.mkdir()
    reply = client.post("/v1/models/pumps/promote", json={"version": 1})
    assert (reply.status_code, "is it mounted?" in reply.json()["detail"]) == (503, True), reply.text
    found = post(client, readings("pump-1", 1, start=bench.sent))[0]
    bench.sent += 1
    assert found["status"] in ("warming_up", "normal", "anomalous")
    there.rmdir()
    hidden.rename(there)
    yield "the repository goes away in the middle", f"503: {reply.json()['detail']}", "streams go on"
    now = bench.repository.log.model("pumps").named("champion").version
    with ThreadPoolExecutor(1) as pool:
        os.kill(bench.redis_pid, signal.SIGSTOP)
        try:
            reply = client.post("/v1/models/pumps/promote", json={"version": 1 if now != 1 else 2})
            readings_then = pool.submit(client.post, "/v1/readings", json=readings("pump-1", 1, start=bench.sent))
            status = readings_then.result().status_code
        finally:
            os.kill(bench.redis_pid, signal.SIGCONT)
    assert (reply.status_code, status) == (503, 503), (reply.text, status)
    bench.sent += 1  # it may be applied all the same
    time.sleep(3)
    yield bench.asked("Redis hangs in the middle of a swap", reply, 503, "streams move there once this is mended")


def at_the_start(folder: Path, redis_url: str) -> Iterator[Line]:
    """A service whose repository is not there when it starts."""
    given = Settings(redis_url=redis_url, models=str(folder / "gone"), model="general", log_level="critical")
    with TestClient(create_app(given)) as client:
        reply = client.post("/v1/models/pumps/promote", json={"version": 1})
        of_model = client.post("/v1/readings", json=readings("pump-1", 1, start=900))
        other = post(client, readings("other", 1, start=900))[0]["status"]
    assert (reply.status_code, of_model.status_code) == (503, 503)
    assert other in ("warming_up", "normal", "anomalous")
    detail = reply.json()["detail"]
    yield "the repository is not there at the start", f"503: {detail}", "its streams 503, others scored"


def main() -> None:
    """Print the table."""
    print("| what was done | what came back | then |\n|---|---|---|")
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        repository = Repository(str(folder / "models"), verify)
        for seed in range(3):
            repository.add("pumps", make_artefact(folder / str(seed), seed=seed), "ann")
        repository.promote("pumps", "1", "ann")
        with start_private_redis(folder / "redis") as private:
            with Redis.from_url(private.url) as database:
                pid = int(database.info("server")["process_id"])
            given = Settings(redis_url=private.url, models=repository.url, model="general", log_level="critical")
            with TestClient(create_app(given)) as client:
                client.put("/v1/rules", json=PUMPS).raise_for_status()
                bench = Models(client, repository, folder, pid)
                parts: list[Callable[[Models], Iterator[Line]]] = [models, channels, states, away]
                for part in parts:
                    for line in part(bench):
                        print("| " + " | ".join(words.replace("|", "/").replace(scratch, "") for words in line) + " |")
            shutil.rmtree(folder / "gone", ignore_errors=True)
            for line in at_the_start(folder, private.url):
                print("| " + " | ".join(words.replace(scratch, "") for words in line) + " |")


if __name__ == "__main__":
    main()
