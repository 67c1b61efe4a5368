"""A model that does not run here as it did where it was made is noticed before it serves."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gatewatch.models.artefact.files import CANARY, Artefact, load_artefact, model_folder, save_artefact
from gatewatch.models.detectors.canary import canary_of, verify
from gatewatch.models.errors import ArtefactError
from tests.support.samples import make_artefact


@pytest.fixture(params=["trained", "general", "one channel of many"])
def artefact(request: pytest.FixtureRequest, tmp_path: Path) -> Artefact:
    channels = tuple(f"c{at}" for at in range(600)) if request.param == "one channel of many" else ("pressure", "flow")
    folder = model_folder("general") if request.param == "general" else make_artefact(tmp_path / "a", channels=channels)
    bare = load_artefact(folder)
    return replace(bare, canary=canary_of(bare.manifest, bare.graph))


def test_a_model_scores_its_canary_as_it_did(artefact: Artefact) -> None:
    assert verify(artefact) == len(json.loads(artefact.canary or b"")["scores"])
    assert canary_of(artefact.manifest, artefact.graph) == artefact.canary


def test_a_canary_has_verdicts_beyond_the_warm_up(tmp_path: Path) -> None:
    bare = load_artefact(make_artefact(tmp_path / "a"))
    statuses = set(json.loads(canary_of(bare.manifest, bare.graph) or b"")["statuses"])
    assert statuses == {"warming_up", "normal", "anomalous"}


def test_weights_that_were_exchanged_fail_the_canary(tmp_path: Path) -> None:
    """Though every hash is right."""
    first, other = (load_artefact(make_artefact(tmp_path / str(seed), seed=seed)) for seed in (1, 2))
    forged = replace(first, graph=other.graph, canary=canary_of(first.manifest, first.graph))
    with pytest.raises(ArtefactError, match=r"canary.json: reading \d+ scores .*; where the model was made it was"):
        verify(forged)


def test_scores_may_differ_in_the_last_bits_only(artefact: Artefact) -> None:
    kept = json.loads(artefact.canary or b"")

    def with_scores(factor: float) -> Artefact:
        moved = {**kept, "scores": [score * factor for score in kept["scores"]]}
        return replace(artefact, canary=json.dumps(moved).encode())

    assert verify(with_scores(1 + 1e-7)) == len(kept["scores"])
    with pytest.raises(ArtefactError, match="does not run here as it did there"):
        verify(with_scores(1 + 1e-3))


@pytest.mark.parametrize(
    "change",
    [
        {"scores": []}, {"statuses": ["well"]}, {"values": [[1.0]]}, {"timestamps_ms": "now"}, {"more": 1},
        {"timestamps_ms": [10**30] * 160},
    ],
)  # fmt: skip
def test_what_is_no_canary_is_refused(tmp_path: Path, change: dict[str, Any]) -> None:
    bare = load_artefact(make_artefact(tmp_path / "a"))
    broken = {**json.loads(canary_of(bare.manifest, bare.graph) or b""), **change}
    with pytest.raises(ArtefactError, match="it is no canary"):
        verify(replace(bare, canary=json.dumps(broken).encode()))


def test_a_model_for_finished_recordings_has_no_canary_and_is_not_served(tmp_path: Path) -> None:
    bare = load_artefact(make_artefact(tmp_path / "a", architecture="bilstm"))
    assert canary_of(bare.manifest, bare.graph) is None
    with pytest.raises(ArtefactError, match="needs the readings after a reading"):
        verify(bare)


def test_a_canary_is_covered_by_the_hashes_of_its_artefact(tmp_path: Path) -> None:
    bare = load_artefact(make_artefact(tmp_path / "bare"))
    folder = tmp_path / "whole"
    save_artefact(folder, bare.manifest, bare.graph, b"", "", canary_of(bare.manifest, bare.graph))
    assert verify(load_artefact(folder)) > 0
    content = (folder / CANARY).read_bytes()
    (folder / CANARY).write_bytes(content.replace(b"normal", b"anomal", 1))
    with pytest.raises(ArtefactError, match="canary.json: SHA-256 is"):
        load_artefact(folder)
    (folder / CANARY).unlink()
    with pytest.raises(ArtefactError, match="canary.json: cannot be read"):
        load_artefact(folder)
