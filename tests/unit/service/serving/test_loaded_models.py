"""Models are in memory while they are used, and not more of them than may be."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path

import pytest

from gatewatch.models.artefact.files import GRAPH, Artefact
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.models.errors import ArtefactError, RepositoryAway, RepositoryError
from gatewatch.service.serving import loaded_models
from gatewatch.service.serving.loaded_models import SESSION_BYTES, LoadedModels
from gatewatch.service.serving.repository_access import RepositoryAccess
from gatewatch.service.serving.rules import Chosen
from tests.support.asynchronous import asynchronous
from tests.support.samples import make_artefact


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A repository with four versions of one model."""
    place = tmp_path_factory.mktemp("models")
    repository = Repository(str(place / "repository"), verify)
    for seed in range(4):
        repository.add("pumps", make_artefact(place / str(seed), seed=seed), "ann")
    return place / "repository"


class Loads:
    """Counts what was loaded, and how much is in memory."""

    def __init__(self, folder: Path | None, most: int = 10, most_bytes: int = 2**30) -> None:
        repository = None if folder is None else Repository(str(folder), verify)
        self.made: list[str] = []
        self.counts: list[tuple[int, int]] = []
        self.access = RepositoryAccess(repository)
        self.models = LoadedModels(self.access, self._make, most, most_bytes, lambda *count: self.counts.append(count))

    def _make(self, artefact: Artefact) -> str:
        self.made.append(artefact.digest.hex())
        return artefact.digest.hex()


def versions(folder: Path) -> list[Chosen]:
    model = Repository(str(folder), verify).log.model("pumps")
    return [Chosen.of(model, str(version.version)) for version in model.versions]


@asynchronous
async def test_a_model_is_loaded_once_however_many_want_it(folder: Path) -> None:
    loads, chosen = Loads(folder), versions(folder)[0]
    assert loads.models.at_hand(chosen) is None
    found = await asyncio.gather(*(loads.models.get(chosen) for _ in range(5)))
    assert found == [chosen.digest.hex()] * 5
    assert loads.made == [chosen.digest.hex()]
    assert loads.models.at_hand(chosen) == chosen.digest.hex()


@asynchronous
async def test_of_more_than_there_may_be_the_longest_unused_is_dropped(folder: Path) -> None:
    loads, (a, b, c, _) = Loads(folder, most=2), versions(folder)
    for chosen in (a, b, a, c):
        await loads.models.get(chosen)
    assert [loads.models.at_hand(chosen) is not None for chosen in (a, b, c)] == [True, False, True]
    assert max(count for count, _ in loads.counts) == 2


@asynchronous
async def test_models_take_no_more_memory_than_they_may_but_one_is_always_there(folder: Path) -> None:
    room = Loads(folder, most_bytes=2 * SESSION_BYTES + 2**18)
    for chosen in versions(folder):
        await room.models.get(chosen)
    assert max(room.counts)[0] == 2
    narrow = Loads(folder, most_bytes=1)
    for chosen in versions(folder):
        assert await narrow.models.get(chosen)
    assert narrow.counts[-1][0] == 1


@asynchronous
async def test_what_no_rule_names_is_dropped_once_it_is_unused(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    loads, (a, b, *_) = Loads(folder), versions(folder)
    await loads.models.get(a)
    await loads.models.get(b)
    loads.models.keep_only({a.sha256})
    assert loads.counts[-1][0] == 2
    monkeypatch.setattr(loaded_models, "UNUSED_S", 0.0)
    loads.models.keep_only({a.sha256, b.sha256})
    assert loads.counts[-1] == (0, 0)


@asynchronous
async def test_a_model_of_the_rules_stays_while_the_repository_is_away(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place = tmp_path / "models"
    shutil.copytree(folder, place)
    loads, (a, b, *_) = Loads(place), versions(folder)
    await loads.models.get(a)
    await loads.models.get(b)
    place.rename(tmp_path / "away")
    with pytest.raises(RepositoryAway):
        await loads.access.ask(lambda repository: repository.log.revisions())
    monkeypatch.setattr(loaded_models, "UNUSED_S", 0.0)
    loads.models.keep_only({a.sha256})
    assert (loads.models.has(a), loads.models.has(b)) == (True, False)
    (tmp_path / "away").rename(place)
    await loads.access.ask(lambda repository: repository.log.revisions())
    loads.models.keep_only({a.sha256})
    assert not loads.models.has(a)


@asynchronous
async def test_a_damaged_model_is_refused_and_a_new_try_is_made_when_asked_for(folder: Path) -> None:
    loads, chosen = Loads(folder), versions(folder)[3]
    graph = folder / "artefacts" / chosen.sha256 / GRAPH
    whole = graph.read_bytes()
    try:
        graph.write_bytes(whole[:100])
        for _ in range(3):
            with pytest.raises(ArtefactError, match=r"model.onnx: SHA-256"):
                await loads.models.get(chosen)
    finally:
        graph.write_bytes(whole)
    with pytest.raises(ArtefactError, match=r"model.onnx: SHA-256"):  # a broken one is not read for every reading
        await loads.models.get(chosen)
    await loads.models.verify(chosen)
    assert loads.made == [chosen.digest.hex()]


@asynchronous
async def test_without_a_repository_no_model_is_loaded(folder: Path) -> None:
    with pytest.raises(RepositoryError, match="GATEWATCH_MODELS is not set"):
        await Loads(None).models.get(versions(folder)[0])
