"""An incident proved over HTTP, and verified elsewhere: equal to the bit, or where it differs."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import numpy as np
import pytest
from redis import Redis
from starlette.testclient import TestClient

from gatewatch.models.artefact.files import Artefact, load_artefact, model_folder
from gatewatch.models.errors import ArtefactError
from gatewatch.service.app import create_app
from gatewatch.service.proofs import file
from gatewatch.service.proofs.file import DamagedProof
from gatewatch.service.proofs.verifying import Verdict, verify
from gatewatch.service.settings import COMMANDS_KEY, Settings
from gatewatch.service.storage.keys import encode
from tests.api.test_incidents import CALM, FAULT, fault, the_incident
from tests.support.access import add_to_file
from tests.support.cli import gatewatch
from tests.support.samples import START_MS, make_artefact, post, readings
from tests.support.whole_path import serving


def proved(client: TestClient, path: Path, model: Path | None, stream: str = "pump") -> Path:
    incident = the_incident(client, stream=stream)["id"]
    reply = client.get(f"/v1/incidents/{incident}/proof")
    assert reply.status_code == 200, reply.text
    file.write(path, reply.json(), model)
    return path


def verified(path: Path, artefact: Artefact | None = None) -> Verdict:
    read = file.read(path)
    model = artefact or read.artefact
    assert model is not None
    return verify(read, model)


def in_batches(client: TestClient, sent: Sequence[dict[str, Any]], size: int) -> None:
    for start in range(0, len(sent), size):
        post(client, list(sent[start : start + size]))


@pytest.mark.parametrize("size", [1, 7, CALM + FAULT + 60])
def test_an_incident_is_proved_to_the_bit_however_its_readings_came(
    client: TestClient, artefact: Path, tmp_path: Path, size: int
) -> None:
    in_batches(client, fault("pump", count=CALM + FAULT + 60), size)
    verdict = verified(proved(client, tmp_path / "proof", artefact))
    assert (verdict.to_the_bit, verdict.difference, verdict.whole) == (True, None, True)
    assert verdict.first <= CALM < CALM + FAULT <= verdict.last
    assert verdict.other_versions == {}


def test_one_that_is_open_and_one_that_began_in_company_are_proved(
    client: TestClient, artefact: Path, tmp_path: Path
) -> None:
    streams = [fault(f"pump-{number}", pressure=900.0 + number) for number in range(9)]
    for at in range(CALM + FAULT):
        post(client, [of[at] for of in streams])
    for number in range(9):
        verdict = verified(proved(client, tmp_path / f"proof-{number}", artefact, f"pump-{number}"))
        assert (verdict.to_the_bit, verdict.whole) == (True, True), verdict


def test_of_one_longer_than_the_history_the_beginning_is_proved_and_the_rest_said_not_to_be(
    settings: Callable[..., Settings], artefact: Path, tmp_path: Path
) -> None:
    with TestClient(create_app(settings(history_readings=32))) as client:
        sent = readings("pump", 180)
        for at, one in enumerate(sent[CALM:120]):
            one["values"] = {**one["values"], "pressure": 900.0 + 50 * (at % 2)}
        in_batches(client, sent, 1)
        verdict = verified(proved(client, tmp_path / "proof", artefact))
    assert (verdict.to_the_bit, verdict.whole, verdict.first) == (True, False, CALM)


def test_one_that_began_with_a_state_rebuilt_from_history_is_proved(
    settings: Callable[..., Settings], artefact: Path, tmp_path: Path
) -> None:
    other = make_artefact(tmp_path / "other", seed=1)
    sent = fault("pump", count=CALM + FAULT + 60)
    with TestClient(create_app(settings())) as client:
        post(client, sent[:CALM])
    with TestClient(create_app(settings(model=str(other)))) as client:
        post(client, sent[CALM:])
        verdict = verified(proved(client, tmp_path / "proof", other))
        assert (verdict.to_the_bit, verdict.whole) == (True, True)
        with pytest.raises(ArtefactError, match="this is the model"):
            verified(tmp_path / "proof", load_artefact(artefact))


def test_one_that_began_with_a_correction_is_proved(client: TestClient, artefact: Path, tmp_path: Path) -> None:
    client.put("/v1/streams/pump", json={"reorder_window_s": 3600}).raise_for_status()
    sent = fault("pump", count=CALM + FAULT)
    late = sent[CALM]
    post(client, [one for one in sent if one is not late and one["seq"] < CALM + 1])
    post(client, readings("pump", CALM + 9)[CALM + 1 :])
    post(client, [late])
    verdict = verified(proved(client, tmp_path / "proof", artefact))
    assert (verdict.to_the_bit, verdict.difference) == (True, None)


@pytest.mark.parametrize("late", [CALM, CALM - 3])
def test_one_before_whose_first_reading_a_late_one_took_its_place_is_proved_as_it_was_found(
    client: TestClient, artefact: Path, tmp_path: Path, late: int
) -> None:
    """The late reading has the number now that the incident began with, or moved that by one."""
    client.put("/v1/streams/pump", json={"reorder_window_s": 3600}).raise_for_status()
    sent = fault("pump", count=CALM + FAULT)
    in_batches(client, [one for one in sent if one["seq"] != late], 4)
    post(client, [sent[late]])
    verdict = verified(proved(client, tmp_path / "proof", artefact))
    assert (verdict.to_the_bit, verdict.difference) == (True, None)
    assert verdict.last >= CALM - 1


def test_a_sensitivity_is_part_of_the_proof_and_one_that_changed_meanwhile_is_told(
    client: TestClient, artefact: Path, tmp_path: Path
) -> None:
    client.put("/v1/policies", json={"streams": {"pump": {"sensitivity": 2.0}}}).raise_for_status()
    sent = fault("pump", count=CALM + FAULT + 40)
    post(client, sent[: CALM + 3])
    assert verified(proved(client, tmp_path / "proof", artefact)).to_the_bit
    client.put("/v1/policies", json={}).raise_for_status()
    post(client, sent[CALM + 3 :])
    verdict = verified(proved(client, tmp_path / "proof", artefact))
    assert str(verdict.difference).startswith(f"reading {CALM + 3}: score")
    said = file.read(tmp_path / "proof").proof
    assert (said["asked"]["sensitivity"], said["asked_now"]) == (2.0, {})


@pytest.fixture
def general(settings: Callable[..., Settings]) -> Iterator[TestClient]:
    with TestClient(create_app(settings(model="general", alerts_per_week=3.0))) as client:
        yield client


def test_the_general_model_is_proved_with_its_alert_budget_and_without_carrying_the_model(
    general: TestClient, tmp_path: Path
) -> None:
    rng = np.random.default_rng(0)
    for at in range(300):
        strange = 40.0 if 250 <= at < 254 else 0.0
        values = {"flow": 5 + np.sin(at / 7) + 0.1 * rng.normal() + strange}
        if at >= 100:  # a channel that comes later
            values["heat"] = 20 + 0.1 * rng.normal()
        post(general, [{"stream": "any", "timestamp": START_MS / 1000 + 60 * at, "values": values}])
    path = proved(general, tmp_path / "proof", None, "any")
    shipped = load_artefact(model_folder("general"))
    assert file.read(path).artefact is None
    assert file.read(path).proof["model"]["alerts_per_week"] == 3.0
    verdict = verified(path, shipped)
    assert (verdict.to_the_bit, verdict.whole) == (True, True)


@pytest.fixture
def sealed(client: TestClient, artefact: Path, tmp_path: Path) -> Path:
    in_batches(client, fault("pump", count=CALM + FAULT + 40), 1)
    return proved(client, tmp_path / "proof", artefact)


def test_one_flipped_byte_anywhere_is_found_and_its_line_named(sealed: Path) -> None:
    whole = bytearray(sealed.read_bytes())
    line_of = np.repeat(np.arange(whole.count(b"\n")), [len(line) + 1 for line in bytes(whole).splitlines()])
    names = [name for name, _ in json.loads(bytes(whole).splitlines()[-1])["seal"]] + ["seal"]
    rng = np.random.default_rng(0)
    every = sorted({*rng.choice(len(whole), 400, replace=False).tolist(), 0, len(whole) - 1, len(whole) - 2})
    every += [at for at, byte in enumerate(whole) if byte == ord("\n")]
    for at in every:
        bit = 1 << int(rng.integers(8))
        whole[at] ^= bit
        sealed.write_bytes(whole)
        with pytest.raises(DamagedProof) as error:
            file.read(sealed)
        if names[line_of[at]] == "seal":
            assert "seal" in str(error.value)
        elif whole[at] != ord("\n") and bytes(whole).count(b"\n") == len(names):
            assert f"({names[line_of[at]]})" in str(error.value)
        whole[at] ^= bit
    sealed.write_bytes(whole[:-100])
    with pytest.raises(DamagedProof, match="seal"):
        file.read(sealed)


def changed_and_sealed_anew(path: Path, change: Callable[[dict[str, dict[str, Any]]], None]) -> Path:
    lines = path.read_bytes().splitlines()
    names = [name for name, _ in json.loads(lines[-1])["seal"]]
    contents = dict(zip(names, map(json.loads, lines), strict=False))
    change(contents)
    written = [json.dumps(content, separators=(",", ":")).encode() for content in contents.values()]
    seal = [[name, hashlib.sha256(line).hexdigest()] for name, line in zip(contents, written, strict=True)]
    own = hashlib.sha256(json.dumps(seal, separators=(",", ":")).encode()).hexdigest()
    last = json.dumps({"seal": seal, "sha256": own}, separators=(",", ":")).encode()
    path.write_bytes(b"".join(line + b"\n" for line in (*written, last)))
    return path


@pytest.mark.parametrize(
    ("part", "field", "value", "where"),
    [
        (f"reading {CALM + 1}", "score", 0.5, f"reading {CALM + 1}: score"),
        (f"reading {CALM + 2}", "values", [3.0, 3.0], f"reading {CALM + 2}: tag"),
        (f"reading {CALM + 2}", "timestamp_ms", START_MS, f"reading {CALM + 2}: tag"),
        (f"reading {CALM}", "alert", False, f"reading {CALM}: alert"),
        (f"reading {CALM}", "status", "normal", f"reading {CALM}: status"),
        (f"reading {CALM}", "mid", [3.0, 3.1], f"reading {CALM}: mid of pressure"),
        ("state", "tag", "00" * 16, "state: tag"),
        ("proof.incident", "peak_score", 7.0, "incident: peak_score"),
        ("proof.incident", "anomalous", 2, "incident: anomalous"),
    ],
)
def test_what_was_changed_and_sealed_anew_is_named_with_both_numbers(
    sealed: Path, part: str, field: str, value: object, where: str
) -> None:
    def change(contents: dict[str, dict[str, Any]]) -> None:
        of = contents["proof"]["incident"] if part == "proof.incident" else contents[part]
        assert of[field] != value
        of[field] = value

    verdict = verified(changed_and_sealed_anew(sealed, change))
    assert verdict.difference is not None
    assert str(verdict.difference).startswith(where)
    assert not verdict.to_the_bit


@pytest.mark.parametrize("field", ["status", "open", "reason"])
def test_a_verdict_that_was_changed_is_found_where_the_score_stands_at_the_threshold(
    client: TestClient, artefact: Path, tmp_path: Path, field: str
) -> None:
    """A sensitivity above 1 lifts what is normal up to the threshold, and no further."""
    client.put("/v1/policies", json={"streams": {"pump": {"sensitivity": 20.0}}}).raise_for_status()
    in_batches(client, fault("pump", count=CALM + FAULT + 40), 7)
    path = proved(client, tmp_path / "proof", artefact)
    assert verified(path).to_the_bit

    def change(contents: dict[str, dict[str, Any]]) -> None:
        of = next(one for one in contents.values() if one.get("score") == 1.0)
        of[field] = {"status": "anomalous", "reason": "still", "open": not of["open"]}[field]

    verdict = verified(changed_and_sealed_anew(path, change))
    assert verdict.difference is not None
    assert verdict.difference.field == field


def test_another_state_gives_other_scores(sealed: Path) -> None:
    def change(contents: dict[str, dict[str, Any]]) -> None:
        contents["state"]["record"] = contents["state"]["record"][:-40] + "A" * 40

    verdict = verified(changed_and_sealed_anew(sealed, change))
    assert verdict.difference is not None
    assert verdict.difference.where.startswith("reading")


@pytest.mark.parametrize(
    ("part", "field", "value"),
    [
        ("proof", "format", 2),
        ("proof", "channels", ["flow"]),
        ("proof", "incident", {}),
        ("state", "record", "AAAA"),
        ("state", "record", "?"),
        (f"reading {CALM}", "status", "fine"),
        (f"reading {CALM}", "values", ["a", "b"]),
        (f"reading {CALM}", "n", -1),
    ],
)
def test_what_does_not_fit_together_is_said_in_one_line(sealed: Path, part: str, field: str, value: object) -> None:
    def change(contents: dict[str, dict[str, Any]]) -> None:
        contents[part][field] = value

    with pytest.raises(DamagedProof):
        verified(changed_and_sealed_anew(sealed, change))


def test_an_incident_whose_state_is_not_kept_cannot_be_proved(client: TestClient, redis_url: str, tenant: str) -> None:
    post(client, fault("pump"))
    with Redis.from_url(redis_url) as database:
        (key,) = list(database.scan_iter(f"*:{encode(tenant)}.*:incident:{CALM}:state"))
        kept = database.get(key)
        assert isinstance(kept, bytes)
        database.set(key, kept[:40] + bytes([kept[40] ^ 1]) + kept[41:])
        damaged = client.get(f"/v1/incidents/{CALM}.pump/proof")
        database.delete(key)
    gone = client.get(f"/v1/incidents/{CALM}.pump/proof")
    assert (damaged.status_code, gone.status_code) == (404, 404)
    assert "damaged" in damaged.json()["detail"]
    assert "not kept" in gone.json()["detail"]


def test_last_bits_that_differ_are_within_contract_2_and_said_not_to_be_equal(sealed: Path) -> None:
    def change(contents: dict[str, dict[str, Any]]) -> None:
        of = contents[f"reading {CALM + 20}"]
        of["score"] *= 1 + 1e-7
        of["mid"][0] += 1e-8

    verdict = verified(changed_and_sealed_anew(sealed, change))
    assert (verdict.to_the_bit, verdict.difference) == (False, None)
    assert 0 < verdict.largest < 1


def test_the_commands_prove_and_verify_with_a_key_and_say_what_they_found(artefact: Path, tmp_path: Path) -> None:
    shown = add_to_file(tmp_path / "keys.json", "default", "admin")
    given = {"GATEWATCH_KEYS_FILE": str(tmp_path / "keys.json"), "GATEWATCH_OPEN": "never"}

    def run(*command: str) -> tuple[int, str]:
        done = gatewatch(*command, **{COMMANDS_KEY: shown})
        return done.returncode, done.stdout + done.stderr

    proof = str(tmp_path / "proof")
    with serving(artefact, tmp_path / "data", **given) as (url, _):
        sent, authorized = fault("pump"), {"authorization": f"Bearer {shown}"}
        httpx2.post(f"{url}/v1/readings", json=sent, headers=authorized, timeout=30).raise_for_status()
        status, said = run("prove", f"{CALM}.pump", "--out", proof, "--url", url)
        assert (status, "--model" in said) == (0, True), said
        status, said = run("prove", f"{CALM}.nobody", "--out", proof, "--url", url)
        assert (status, "no incident" in said) == (2, True), said
    assert run("verify", proof)[0] == 2
    status, said = run("verify", proof, "--model", str(artefact))
    assert (status, "EQUAL to the bit" in said) == (0, True), said
    changed_and_sealed_anew(Path(proof), lambda contents: contents[f"reading {CALM}"].update(score=0.5))
    status, said = run("verify", proof, "--model", str(artefact))
    assert (status, f"DIFFERS at reading {CALM}: score is 0.5" in said) == (1, True), said
