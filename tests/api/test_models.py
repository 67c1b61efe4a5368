"""Models and rules over HTTP: which model scores which stream, changed while the service runs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import GRAPH
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.reports import report_on
from tests.support.samples import make_artefact, post, readings
from tests.support.takeover import GENERAL

Make = Callable[..., Settings]

PUMPS = {"rules": [{"pattern": "pump-*", "model": "pumps"}]}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    fans = make_artefact(folder / "fans", seed=9, channels=("speed", "noise", "current"))
    return [*(make_artefact(folder / str(seed), seed=seed) for seed in range(1, 4)), fans]


@pytest.fixture
def repository(made: list[Path], tmp_path: Path) -> Repository:
    """Three versions of `pumps` and one of `fans`, whose channels are others; the first ones are champions."""
    repository = Repository(str(tmp_path / "models"), verify)
    for folder in made[:3]:
        repository.add("pumps", folder, "ann")
    repository.add("fans", made[3], "ann")
    for name in ("pumps", "fans"):
        repository.promote(name, "1", "ann")
    return repository


@pytest.fixture
def service(settings: Make, repository: Repository) -> Iterator[TestClient]:
    with TestClient(create_app(settings(models=repository.url))) as client:
        yield client


def digest(repository: Repository, reference: str) -> str:
    name, _, word = reference.partition("@")
    return repository.log.model(name).named(word or "champion").digest


def fan(count: int, start: int = 0) -> list[dict[str, Any]]:
    sent = readings("fan-1", count, seed=5, start=start)
    return [{**r, "values": {"speed": 3.0 + at % 3, "noise": 2.5, "current": 3.5}} for at, r in enumerate(sent)]


def models_of(results: list[dict[str, Any]]) -> list[str]:
    assert {result["status"] for result in results} <= {"warming_up", "normal", "anomalous"}, results
    return [result["model"] for result in results]


def test_streams_of_several_models_share_a_request(
    service: TestClient, repository: Repository, made: list[Path]
) -> None:
    rules = {"rules": [*PUMPS["rules"], {"pattern": "fan-*", "model": "fans"}], "pins": {"pump-9": "pumps@2"}}
    assert service.put("/v1/rules", json=rules).status_code == 200
    default = service.get("/v1/models").json()["default"]
    sent = [r for name in ("pump-1", "pump-9", "other") for r in readings(name, 10)] + fan(10)
    mixed = sent[::3] + sent[1::3] + sent[2::3]
    results = post(service, mixed)
    assert [(r["stream"], r["seq"]) for r in results] == [(r["stream"], r["seq"]) for r in mixed]
    expected = {
        "pump-1": digest(repository, "pumps"),
        "pump-9": digest(repository, "pumps@2"),
        "fan-1": digest(repository, "fans"),
        "other": default,
    }
    assert {result["stream"]: result["model"] for result in results} == expected
    assert len({*expected.values()}) == 4
    assert set(results[-1]["attribution"]) == {"speed", "noise", "current"}
    one_by_one = [post(service, [{**r, "stream": f"{r['stream']}-b"}])[0] for r in readings("pump-1", 10)]
    assert [r["score"] for r in one_by_one] == pytest.approx(
        [r["score"] for r in sorted(results, key=lambda r: int(r["seq"])) if r["stream"] == "pump-1"], rel=1e-5
    )


def test_a_version_that_must_be_better_is_promoted_by_its_report(service: TestClient, repository: Repository) -> None:
    asked = {"version": 2, "if_better": True, "note": "by night"}
    refused = service.post("/v1/models/pumps/promote", json=asked)
    assert (refused.status_code, refused.json()["title"]) == (409, "Not better")
    assert "there is no report on pumps@2" in refused.json()["detail"]
    repository.reports.add(report_on(2, against=1, better=False))
    refused = service.post("/v1/models/pumps/promote", json=asked)
    assert "pumps@2 is not better than version 1" in refused.json()["detail"]
    assert repository.log.model("pumps").aliases["champion"].version == 1
    repository.reports.add(report_on(2, against=1))
    change = service.post("/v1/models/pumps/promote", json=asked).json()
    assert (change["version"], change["was"]) == (2, 1)
    assert change["note"].startswith("by night; better than version 1 on 193 readings")


def test_a_stream_moves_with_its_next_reading_and_back(service: TestClient, repository: Repository) -> None:
    service.put("/v1/rules", json=PUMPS)
    sent = readings("pump-1", 60)
    found = models_of(post(service, sent[:20]))
    assert service.post("/v1/models/pumps/promote", json={"version": 2}).status_code == 200
    found += models_of(post(service, sent[20:40]))
    assert service.post("/v1/models/pumps/rollback", json={}).status_code == 200
    found += models_of(post(service, sent[40:]))
    first, second = digest(repository, "pumps@1"), digest(repository, "pumps@2")
    assert found == [first] * 20 + [second] * 20 + [first] * 20
    undisturbed = [{**r, "stream": "pump-2"} for r in sent]
    assert [r["score"] for r in post(service, undisturbed)][40:] == pytest.approx(
        [
            r["score"]
            for r in service.get("/v1/streams/pump-1/history").json()
            and [e["result"] for e in service.get("/v1/streams/pump-1/history").json()]
        ][40:],
        rel=1e-5,
    )
    known = service.get("/v1/streams/pump-1").json()
    assert (known["readings"], known["model"]) == (60, first)


def test_two_processes_go_from_one_version_to_the_next_together(settings: Make, repository: Repository) -> None:
    """One hears of the promotion; the other meets a record of the new version before it has looked at the rules."""
    sent, second = readings("pump-1", 40), digest(repository, "pumps@2")
    given = settings(models=repository.url, models_look_s=3600)
    with TestClient(create_app(given)) as one, TestClient(create_app(given)) as other:
        one.put("/v1/rules", json=PUMPS)
        for at in range(20):
            post((one, other)[at % 2], [sent[at]])
        one.post("/v1/models/pumps/promote", json={"version": 2}).raise_for_status()
        found = [models_of(post((one, other)[at % 2], [sent[at]]))[0] for at in range(20, 40)]
    assert found == [second] * 20


def test_a_process_that_starts_later_goes_by_the_rules(settings: Make, repository: Repository) -> None:
    given = settings(models=repository.url)
    with TestClient(create_app(given)) as client:
        client.put("/v1/rules", json=PUMPS)
    with TestClient(create_app(given)) as client:
        assert models_of(post(client, readings("pump-1", 3))) == [digest(repository, "pumps")] * 3


def test_a_rule_that_is_taken_away_gives_streams_the_default_model(service: TestClient) -> None:
    service.put("/v1/rules", json=PUMPS)
    sent = readings("pump-1", 30)
    post(service, sent[:20])
    assert service.put("/v1/rules", json={}).json()["rules"] == []
    default = service.get("/v1/models").json()["default"]
    assert models_of(post(service, sent[20:])) == [default] * 10


def test_the_general_model_and_trained_ones_serve_side_by_side(settings: Make, repository: Repository) -> None:
    sent = readings("pump-1", 60)
    with TestClient(create_app(settings(**GENERAL, models=repository.url))) as client:
        general = models_of(post(client, sent[:40]))[0]
        client.put("/v1/rules", json=PUMPS).raise_for_status()
        results = post(client, [r for pair in zip(sent[40:], readings("x", 20), strict=True) for r in pair])
        assert models_of(results) == [digest(repository, "pumps"), general] * 20
        client.put("/v1/rules", json={}).raise_for_status()
        assert models_of(post(client, readings("pump-1", 5, start=60))) == [general] * 5


def test_a_model_of_other_channels_takes_a_stream_over_and_loses_nothing(
    service: TestClient, repository: Repository, made: list[Path]
) -> None:
    repository.add("pumps", made[3], "ann")
    service.put("/v1/rules", json=PUMPS)
    sent = readings("pump-1", 20)
    first = post(service, sent)
    refused = service.post("/v1/models/pumps/promote", json={"version": 4})
    assert refused.status_code == 422
    assert "lacks pressure, flow and has speed, noise, current besides" in refused.json()["detail"]
    moved = service.post("/v1/models/pumps/promote", json={"version": 4, "other_channels": True})
    assert moved.status_code == 200
    later = [{**r, "stream": "pump-1"} for r in fan(30, start=20)]
    assert models_of(post(service, later[:5])) == [digest(repository, "pumps@4")] * 5
    service.post("/v1/models/pumps/rollback", json={}).raise_for_status()
    assert post(service, sent[10:]) == [{**result, "replayed": True} for result in first[10:]]
    assert service.get("/v1/streams/pump-1").json()["readings"] == 25


def test_a_bad_artefact_is_an_error_to_who_promotes_it_and_nothing_changes(
    service: TestClient, repository: Repository
) -> None:
    service.put("/v1/rules", json=PUMPS)
    sha256 = repository.log.model("pumps").version(2).sha256
    (Path(repository.url) / "artefacts" / sha256 / GRAPH).write_bytes(b"half")
    reply = service.post("/v1/models/pumps/promote", json={"version": 2})
    assert reply.status_code == 422
    assert "model.onnx: SHA-256" in reply.json()["detail"]
    assert repository.url not in reply.text
    assert models_of(post(service, readings("pump-1", 5))) == [digest(repository, "pumps@1")] * 5
    assert "gatewatch_models_refused_total 1.0" in service.get("/metrics").text


def test_an_artefact_that_went_bad_since_it_was_loaded_is_counted_too(
    service: TestClient, repository: Repository, made: list[Path]
) -> None:
    """By a promotion, and by a rollback."""
    repository.add("pumps", made[3], "ann")
    service.put("/v1/rules", json=PUMPS)
    for version in (2, 1):
        service.post("/v1/models/pumps/promote", json={"version": version}).raise_for_status()
    sha256 = repository.log.model("pumps").version(2).sha256
    (Path(repository.url) / "artefacts" / sha256 / GRAPH).unlink()
    for move, asked in (("promote", {"version": 2}), ("rollback", {})):
        reply = service.post(f"/v1/models/pumps/{move}", json=asked)
        assert (reply.status_code, "was copied in part" in reply.json()["detail"]) == (422, True)
        assert repository.url not in reply.text
    assert models_of(post(service, readings("pump-1", 5))) == [digest(repository, "pumps@1")] * 5
    refused = service.post("/v1/models/pumps/promote", json={"version": 4})
    assert refused.status_code == 422  # its channels are others; it could be served
    assert "gatewatch_models_refused_total 2.0" in service.get("/metrics").text


def test_streams_whose_model_is_gone_get_503_and_their_neighbours_are_scored(
    settings: Make, repository: Repository
) -> None:
    given = settings(models=repository.url)
    with TestClient(create_app(given)) as client:
        client.put("/v1/rules", json=PUMPS)
    (Path(repository.url) / "artefacts").rename(Path(repository.url) / "away")
    with TestClient(create_app(given)) as client:
        reply = client.post("/v1/readings", json=readings("pump-1", 3))
        assert reply.status_code == 503
        assert "pumps@champion" in reply.json()["detail"]
        assert "Retry-After" in reply.headers
        assert len(models_of(post(client, readings("other", 3)))) == 3
        assert any("pumps@champion" in warning for warning in client.get("/readyz").json()["warnings"])


def test_rules_without_a_repository_are_not_ignored(settings: Make, repository: Repository) -> None:
    """A process that was started without GATEWATCH_MODELS does not take the streams back."""
    with TestClient(create_app(settings(models=repository.url))) as client:
        client.put("/v1/rules", json=PUMPS)
    with TestClient(create_app(settings())) as client:
        reply = client.post("/v1/readings", json=readings("pump-1", 3))
        assert reply.status_code == 503
        assert "GATEWATCH_MODELS is not set" in reply.json()["detail"]


def test_a_repeat_from_before_the_move_has_its_first_answer(service: TestClient) -> None:
    service.put("/v1/rules", json=PUMPS)
    sent = readings("pump-1", 20)
    first = post(service, sent)
    service.post("/v1/models/pumps/promote", json={"version": 2}).raise_for_status()
    assert post(service, sent) == [{**result, "replayed": True} for result in first]


def test_a_late_reading_takes_its_place_under_the_new_version(service: TestClient, repository: Repository) -> None:
    service.put("/v1/rules", json=PUMPS)
    service.put("/v1/streams/pump-1", json={"reorder_window_s": 3600})
    sent = readings("pump-1", 20)
    post(service, sent[:10] + sent[11:])
    service.post("/v1/models/pumps/promote", json={"version": 2}).raise_for_status()
    (late,) = post(service, [sent[10]])
    assert late["corrected"]
    assert late["model"] == digest(repository, "pumps@2")
    assert service.get("/v1/streams/pump-1").json()["readings"] == 20


def test_models_and_rules_are_shown_with_tags_for_changes(service: TestClient, repository: Repository) -> None:
    service.put("/v1/rules", json=PUMPS)
    listing = service.get("/v1/models").json()
    assert [(m["model"], m["versions"], m["aliases"]) for m in listing["models"]] == [
        ("fans", 1, {"champion": 1}),
        ("pumps", 3, {"champion": 1}),
    ]
    model = service.get("/v1/models/pumps")
    assert model.json()["versions"] == service.get("/v1/models/pumps/versions").json()
    assert model.headers["ETag"] == f'"{model.json()["revision"]}"'
    moved = service.post(
        "/v1/models/pumps/promote", json={"version": 2, "note": "newer"}, headers={"If-Match": model.headers["ETag"]}
    )
    assert (moved.json()["version"], moved.json()["was"], moved.json()["note"]) == (2, 1, "newer")
    late = service.post("/v1/models/pumps/promote", json={"version": 3}, headers={"If-Match": model.headers["ETag"]})
    assert late.status_code == 412
    assert service.get("/v1/models/pumps/history").json()[0] == moved.json()
    rules = service.get("/v1/rules")
    assert rules.json()["versions"]["pumps@champion"]["version"] == 2
    outdated = service.put("/v1/rules", json={}, headers={"If-Match": '"1"'})
    assert outdated.status_code == 412
    assert service.put("/v1/rules", json={}, headers={"If-Match": rules.headers["ETag"]}).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "body", "status", "words"),
    [
        ("GET", "/v1/models/nothing", None, 404, "there is no model nothing"),
        ("GET", "/v1/models/NOTHING", None, 422, "model: "),
        ("POST", "/v1/models/pumps/promote", {"version": 9}, 404, "has no version 9"),
        ("POST", "/v1/models/pumps/promote", {"version": "night"}, 404, "has no alias night"),
        ("POST", "/v1/models/pumps/promote", {}, 422, "version: "),
        ("POST", "/v1/models/pumps/promote", {"version": 0}, 422, "version"),
        ("POST", "/v1/models/pumps/rollback", {}, 404, "there is nothing before"),
        ("PUT", "/v1/rules", {"rules": [{"pattern": "*", "model": "nothing"}]}, 422, "there is no model nothing"),
        ("PUT", "/v1/rules", {"rules": 1}, 422, "rules: "),
        ("PUT", "/v1/rules", {"pins": {"a": "pumps@night"}}, 422, "has no alias night"),
        ("DELETE", "/v1/rules", None, 405, "expected GET or HEAD or PUT"),
    ],
)
def test_what_cannot_be_done_with_models_is_a_problem_document(
    service: TestClient, repository: Repository, method: str, path: str, body: object, status: int, words: str
) -> None:
    """It says nothing of where the models are kept."""
    reply = service.request(method, path, json=body)
    assert reply.status_code == status, reply.text
    assert words in reply.json()["detail"]
    assert repository.url not in reply.text
    assert reply.headers["content-type"] == "application/problem+json"


def test_a_body_that_is_no_json_and_a_tag_that_is_none_are_refused(service: TestClient) -> None:
    json_type = {"content-type": "application/json"}
    assert service.put("/v1/rules", content=b"{", headers=json_type).status_code == 400
    assert service.put("/v1/rules", json={}, headers={"If-Match": "seven"}).status_code == 400
    assert service.put("/v1/rules", content=b" " * 2**23, headers=json_type).status_code == 413


def test_a_repository_that_goes_away_stops_no_stream(
    service: TestClient, repository: Repository, tmp_path: Path
) -> None:
    """Its folder is gone, or the disk is unmounted: the folder is there, and empty."""
    service.put("/v1/rules", json=PUMPS).raise_for_status()
    sent, first = readings("pump-1", 30), digest(repository, "pumps")
    assert models_of(post(service, sent[:10])) == [first] * 10
    there, away = Path(repository.url), tmp_path / "away"
    there.rename(away)
    for at, words in ((10, "is not there: is it mounted?"), (20, "is empty, and had models: is it mounted?")):
        asked = [
            service.get("/v1/models"),
            service.get("/v1/models/pumps"),
            service.post("/v1/models/pumps/promote", json={"version": 2}),
            service.post("/v1/models/pumps/rollback", json={}),
            service.put("/v1/rules", json={"rules": [{"pattern": "fan-*", "model": "fans"}]}),
            service.put("/v1/models/pumps/shadow", json={"version": 2}),
        ]
        assert [reply.status_code for reply in asked] == [503] * len(asked), [reply.text for reply in asked]
        assert all(words in reply.json()["detail"] for reply in asked)
        assert models_of(post(service, sent[at : at + 10])) == [first] * 10
        assert any("is it mounted?" in warning for warning in service.get("/readyz").json()["warnings"])
        assert "gatewatch_repository_up 0.0" in service.get("/metrics").text
        there.mkdir(exist_ok=True)
    assert list(there.iterdir()) == []
    there.rmdir()
    away.rename(there)
    service.post("/v1/models/pumps/promote", json={"version": 2}).raise_for_status()
    assert "gatewatch_repository_up 1.0" in service.get("/metrics").text
    assert "warnings" not in service.get("/readyz").json()


@pytest.mark.parametrize("url", ["gone", "gone/models", "ftp://127.0.0.1:9/models"])
def test_a_service_starts_without_its_repository(
    settings: Make, repository: Repository, tmp_path: Path, url: str
) -> None:
    with TestClient(create_app(settings(models=repository.url))) as client:
        client.put("/v1/rules", json=PUMPS).raise_for_status()
    gone = str(tmp_path / url) if url.startswith("gone") else url
    with TestClient(create_app(settings(models=gone))) as client:
        for reply in (client.get("/v1/models"), client.post("/v1/models/pumps/promote", json={"version": 2})):
            assert (reply.status_code, reply.json()["title"]) == (503, "Model unavailable")
            assert reply.json()["detail"].startswith("the repository ")
            assert gone not in reply.json()["detail"]  # of folders and hosts only who looks after the service hears
        reply = client.post("/v1/readings", json=readings("pump-1", 3))
        assert (reply.status_code, gone in reply.json()["detail"]) == (503, False)
        assert len(models_of(post(client, readings("other", 3)))) == 3
        assert any(gone in warning for warning in client.get("/readyz").json()["warnings"])


def test_where_nothing_was_added_yet_there_is_a_repository_without_models(
    settings: Make, tmp_path: Path, made: list[Path]
) -> None:
    """The first model makes the folder; but not where the folder that it would be in is not there."""
    with TestClient(create_app(settings(models=str(tmp_path / "nowhere" / "models")))) as client:
        reply = client.get("/v1/models/pumps")
        assert (reply.status_code, "nor is the folder" in reply.json()["detail"]) == (503, True)
    with TestClient(create_app(settings(models=str(tmp_path / "models")))) as client:
        assert client.get("/v1/models").json()["models"] == []
        assert "warnings" not in client.get("/readyz").json()
        reply = client.get("/v1/models/pumps")
        assert reply.status_code == 404
        assert "there are: none, and no such folder" in reply.json()["detail"]
        Repository(str(tmp_path / "models"), verify).add("pumps", made[0], "ann")
        assert client.get("/v1/models/pumps").status_code == 200
