"""Models have versions that never change, and words for them that move whole, one admin at a time."""

from __future__ import annotations

import json
import multiprocessing
import shutil
from itertools import pairwise
from pathlib import Path
from typing import ClassVar

import pytest
from fsspec.implementations.memory import MemoryFileSystem
from fsspec.registry import _registry

from gatewatch.models.artefact.files import FORMAT_VERSION, GRAPH, MANIFEST, manifest_hash
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.artefact.versions import Reference
from gatewatch.models.detectors.canary import verify
from gatewatch.models.errors import (
    ArtefactError,
    ChangedMeanwhile,
    NotBetter,
    RepositoryAway,
    RepositoryError,
    UnfitModel,
    UnknownModel,
)
from tests.support.reports import report_on
from tests.support.samples import make_artefact


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    return [make_artefact(folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture(params=["folder", "memory"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    """A folder, and a store behind fsspec."""
    return str(tmp_path / "models") if request.param == "folder" else f"memory:/{tmp_path}/models"


@pytest.fixture
def repository(url: str) -> Repository:
    return Repository(url, verify)


def test_versions_count_up_and_the_same_artefact_is_the_same_version(repository: Repository, made: list[Path]) -> None:
    numbers = [repository.add("pumps", made[at], "ann").version for at in (0, 1, 0, 2, 1)]
    assert numbers == [1, 2, 1, 3, 2]
    assert [change.action for change in repository.log.history("pumps")] == ["add"] * 3


def test_a_word_points_to_a_version_and_goes_back_step_by_step(repository: Repository, made: list[Path]) -> None:
    for folder in made:
        repository.add("pumps", folder, "ann")
    for word in ("1", "2", "3"):
        repository.promote("pumps", word, "ann")
    found = [repository.find(Reference.of("pumps")).version]
    for _ in range(2):
        repository.rollback("pumps", "bob", note="false alarms")
        found.append(repository.find(Reference.of("pumps@champion")).version)
    assert found == [3, 2, 1]
    with pytest.raises(UnknownModel, match="pumps@champion has pointed to version 1 only"):
        repository.rollback("pumps", "bob")
    last = repository.log.history("pumps", most=1)[0]
    assert (last.action, last.by, last.version, last.was, last.note) == ("rollback", "bob", 1, 2, "false alarms")


def test_who_did_what_and_when_stays(repository: Repository, made: list[Path]) -> None:
    repository.add("pumps", made[0], "ann", note="after the overhaul")
    repository.promote("pumps", "1", "bob", alias="challenger")
    repository.promote("pumps", "challenger", "cem")
    trail = [(c.by, c.action, c.alias, c.version, c.note) for c in repository.log.history("pumps")]
    assert trail == [
        ("cem", "promote", "champion", 1, ""),
        ("bob", "promote", "challenger", 1, ""),
        ("ann", "add", "", 1, "after the overhaul"),
    ]
    assert all(change.at.endswith("Z") for change in repository.log.history("pumps"))


def test_an_artefact_comes_back_as_it_was_added(repository: Repository, made: list[Path]) -> None:
    version = repository.add("pumps", made[0], "ann")
    artefact = repository.artefacts.verified(version)
    assert artefact.graph == (made[0] / GRAPH).read_bytes()
    assert artefact.digest.hex() == version.digest


@pytest.mark.parametrize(
    ("reference", "words"),
    [
        ("pumps@challenger", "the model pumps has no alias challenger; there are: champion"),
        ("pumps@7", "the model pumps has no version 7; there are: 1"),
        ("fans", "there is no model fans in .*; there are: pumps"),
        ("Pumps", "'Pumps' names no model; expected one as pumps, pumps@champion or pumps@3"),
        ("pumps@", "names no model"),
        ("../pumps", "names no model"),
        ("pumps@0", "names no model"),
    ],
)
def test_what_is_not_there_is_said_with_what_is(
    repository: Repository, made: list[Path], reference: str, words: str
) -> None:
    repository.add("pumps", made[0], "ann")
    repository.promote("pumps", "1", "ann")
    with pytest.raises(UnknownModel, match=words):
        repository.find(Reference.of(reference))


def test_a_repository_that_nobody_wrote_to_has_no_models(repository: Repository) -> None:
    assert repository.log.last_changes() == []
    with pytest.raises(UnknownModel, match="there is no model pumps in .*; there are: none"):
        repository.promote("pumps", "1", "ann")


@pytest.mark.parametrize("name", ["general", "demo", "default", "Pumps", "", "a" * 65, "pump.1", "../x"])
def test_a_name_that_a_model_cannot_have_is_refused(repository: Repository, made: list[Path], name: str) -> None:
    with pytest.raises(UnknownModel, match="no name of a model|means a model that is there already"):
        repository.add(name, made[0], "ann")
    assert repository.log.revisions() == {}


def test_a_version_with_other_channels_is_promoted_only_if_that_is_meant(
    repository: Repository, made: list[Path], tmp_path: Path
) -> None:
    repository.add("pumps", made[0], "ann")
    repository.add("pumps", make_artefact(tmp_path / "other", channels=("pressure", "speed")), "ann")
    repository.promote("pumps", "1", "ann")
    with pytest.raises(UnfitModel, match="version 2 of pumps lacks flow and has speed besides, against version 1"):
        repository.promote("pumps", "2", "ann")
    assert repository.find(Reference("pumps")).version == 1
    repository.promote("pumps", "2", "ann", other_channels=True)
    assert repository.find(Reference("pumps")).version == 2


def edited(folder: Path, **changes: object) -> Path:
    manifest = {**json.loads((folder / MANIFEST).read_text()), **changes}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "manifest_sha256": manifest_hash(manifest)}))
    return folder


def test_a_bad_artefact_is_not_added(repository: Repository, made: list[Path], tmp_path: Path) -> None:
    """Half copied, of a newer format, for finished recordings, or not there."""
    half = Path(shutil.copytree(made[0], tmp_path / "half"))
    (half / GRAPH).unlink()
    newer = edited(Path(shutil.copytree(made[0], tmp_path / "newer")), format_version=FORMAT_VERSION + 1)
    recording = make_artefact(tmp_path / "recording", architecture="bilstm")
    for folder, words in (
        (half, "model.onnx: cannot be read"),
        (newer, "this gatewatch reads 3 and 4: it is from a newer gatewatch"),
        (recording, "needs the readings after a reading"),
        (tmp_path / "nowhere", "cannot be read"),
    ):
        with pytest.raises(ArtefactError, match=words) as caught:
            repository.add("pumps", folder, "ann")
        assert "\n" not in str(caught.value)
    assert repository.log.revisions() == {}


def test_a_version_that_was_damaged_in_the_repository_is_not_promoted(made: list[Path], tmp_path: Path) -> None:
    repository = Repository(str(tmp_path), verify)
    versions = [repository.add("pumps", folder, "ann") for folder in made[:2]]
    repository.promote("pumps", "1", "ann")
    graph = tmp_path / "artefacts" / versions[1].sha256 / GRAPH
    for damage in (lambda: graph.write_bytes(graph.read_bytes()[:100]), graph.unlink):
        damage()
        with pytest.raises(ArtefactError, match=r"model.onnx"):
            repository.promote("pumps", "2", "ann")
    assert repository.find(Reference("pumps")).version == 1


def test_files_without_an_entry_in_the_log_are_no_version(made: list[Path], tmp_path: Path) -> None:
    """What a copy that was cut short leaves: it is not seen, and the next one completes it."""
    repository = Repository(str(tmp_path), verify)
    sha256 = json.loads((made[0] / MANIFEST).read_text())["manifest_sha256"]
    (tmp_path / "artefacts" / sha256).mkdir(parents=True)
    shutil.copy(made[0] / GRAPH, tmp_path / "artefacts" / sha256)
    assert repository.log.last_changes() == []
    assert repository.artefacts.verified(repository.add("pumps", made[0], "ann")).digest.hex() == sha256[:16]


def test_a_damaged_entry_of_the_log_is_named(made: list[Path], tmp_path: Path) -> None:
    repository = Repository(str(tmp_path), verify)
    repository.add("pumps", made[0], "ann")
    (tmp_path / "log" / "pumps.00000002.json").write_text("{")
    with pytest.raises(RepositoryError, match=r"log/pumps.00000002.json: .* it is damaged"):
        repository.log.model("pumps")


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("ftp://127.0.0.1:9/models", "the repository ftp://127.0.0.1:9/models cannot be opened"),
        ("nothing://models", r"nothing://models cannot be opened \(Protocol not known: nothing\)"),
        ("dropbox://models", r"dropbox://models: .* \(a package of fsspec\)"),
        ("/dev/null", r"the repository /dev/null cannot be listed \(not a folder\)"),
    ],
)
def test_a_repository_that_cannot_be_reached_is_an_error_of_one_line(url: str, words: str) -> None:
    with pytest.raises(RepositoryError, match=words) as caught:
        Repository(url, verify).log.last_changes()
    assert "\n" not in str(caught.value)


def test_who_looked_at_an_older_revision_is_refused(repository: Repository, made: list[Path]) -> None:
    for folder in made[:2]:
        repository.add("pumps", folder, "ann")
    seen = repository.log.model("pumps").revision
    repository.promote("pumps", "1", "ann", revision=seen)
    with pytest.raises(ChangedMeanwhile, match="has revision 3 by now, not 2"):
        repository.promote("pumps", "2", "bob", revision=seen)
    with pytest.raises(ChangedMeanwhile, match="has revision 3 by now, not 2"):
        repository.rollback("pumps", "bob", revision=seen)


def test_of_two_admins_who_move_a_word_at_once_one_is_refused(url: str, made: list[Path]) -> None:
    """Bob's promotion comes while Ann's is being verified."""

    def bob_is_faster(_: object) -> None:
        Repository(url, verify).promote("pumps", "2", "bob")

    calm = Repository(url, verify)
    for folder in made:
        calm.add("pumps", folder, "ann")
    with pytest.raises(ChangedMeanwhile, match="somebody else moved pumps@champion meanwhile, it points to version 2"):
        Repository(url, bob_is_faster).promote("pumps", "3", "ann")
    assert calm.find(Reference("pumps")).version == 2


def _change_often(url: str, folders: list[Path], who: str) -> None:
    repository = Repository(url, lambda _: None)
    for at in range(12):
        try:
            repository.add("pumps", folders[at % len(folders)], who)
            repository.promote("pumps", str(at % 2 + 1), who, alias=f"of-{who}")
        except (ChangedMeanwhile, UnknownModel):
            pass


def test_admins_in_several_processes_lose_no_change_of_another(made: list[Path], tmp_path: Path) -> None:
    """Each entry of the log goes on from the one before: nothing is written over, no number is used twice."""
    url = str(tmp_path / "models")
    context = multiprocessing.get_context("spawn")
    others = [context.Process(target=_change_often, args=(url, made, who)) for who in ("ann", "bob", "cem")]
    for other in others:
        other.start()
    for other in others:
        other.join()
    assert [other.exitcode for other in others] == [0, 0, 0]
    repository = Repository(url, verify)
    changes = repository.log.history("pumps", most=1000)[::-1]
    assert [version.version for version in changes[-1].after.versions] == [1, 2, 3]
    assert [change.after.revision for change in changes] == list(range(1, len(changes) + 1))
    for before, after in pairwise(changes):
        moved = {
            alias for alias in after.after.aliases if before.after.aliases.get(alias) != after.after.aliases[alias]
        }
        assert moved <= {after.alias}
    assert {change.by for change in changes} == {"ann", "bob", "cem"}


def test_a_version_that_must_be_better_is_promoted_by_its_last_report_alone(
    repository: Repository, made: list[Path]
) -> None:
    for folder in made:
        repository.add("pumps", folder, "ann")
    with pytest.raises(NotBetter, match="there is no report on pumps@1"):
        repository.promote("pumps", "1", "ann", if_better=True)
    assert repository.reports.add(report_on(1, against=None)) == 1
    first = repository.promote("pumps", "1", "ann", if_better=True, note="by night")
    assert first.note == (
        "by night; better than the general model on 193 readings: loss 0.5000 against 0.5000 (report 1)"
    )
    assert repository.reports.add(report_on(2, against=1, better=False)) == 1
    with pytest.raises(NotBetter, match="pumps@2 is not better than version 1 .*: not kept: loss"):
        repository.promote("pumps", "2", "ann", if_better=True)
    assert repository.reports.add(report_on(2, against=1)) == 2
    repository.promote("pumps", "3", "bob")
    with pytest.raises(NotBetter, match="holds it against version 1, and pumps@champion points to version 3 by now"):
        repository.promote("pumps", "2", "ann", if_better=True)
    assert repository.reports.numbers("pumps", 2) == [1, 2]
    assert repository.reports.report("pumps", 2, 1) == report_on(2, against=1, better=False)
    assert repository.find(Reference.of("pumps")).version == 3
    repository.promote("pumps", "3", "ann", if_better=True)  # it is there already


def test_a_report_is_there_for_people_too(made: list[Path], tmp_path: Path) -> None:
    repository = Repository(str(tmp_path / "models"), verify)
    repository.add("pumps", made[0], "ann")
    repository.reports.add(report_on(1, against=None))
    kept = sorted((tmp_path / "models" / "reports").iterdir())
    assert [path.name for path in kept] == ["pumps.1.0001.json", "pumps.1.0001.txt"]
    assert "[x] its forecasts are no worse: loss 0.5000 against 0.5000" in kept[1].read_text()
    kept[0].write_text("{}")
    with pytest.raises(RepositoryError, match="is damaged, or of a newer gatewatch"):
        repository.reports.report("pumps", 1, 1)


def test_a_repository_that_went_away_is_not_begun_anew_in_its_place(made: list[Path], tmp_path: Path) -> None:
    """Whoever adds has looked before, as `train --into` does, and trained for a day since."""
    place = tmp_path / "models"
    repository = Repository(str(place), verify)
    assert repository.log.revisions() == {}
    repository.add("pumps", made[0], "ann")
    place.rename(tmp_path / "away")
    place.mkdir()
    for asked in (repository.log.revisions, lambda: repository.add("pumps", made[1], "ann")):
        with pytest.raises(RepositoryAway, match="is empty, and had models"):
            asked()
    assert list(place.iterdir()) == []
    place.rmdir()
    (tmp_path / "away").rename(place)
    assert repository.add("pumps", made[1], "ann").version == 2


class Buckets(MemoryFileSystem):  # type: ignore[misc]
    """Like S3: files are in buckets, which the first file makes where the key may, and a listing tells nothing of."""

    protocol = ("gs",)
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]

    @classmethod
    def _strip_protocol(cls, path: str) -> str:
        return "/" + path.removeprefix("gs://").strip("/") if path else ""


@pytest.mark.parametrize("folder", ["", "/models", "/of/all/models"])
def test_a_bucket_that_does_not_exist_is_said_and_never_made(
    folder: str, made: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever is known of the repository; a bucket that is empty has no models yet."""
    monkeypatch.setitem(_registry, "gs", Buckets)
    monkeypatch.setattr(Buckets, "store", {})
    monkeypatch.setattr(Buckets, "pseudo_dirs", [""])
    missing = Repository(f"gs://models-of-ann{folder}", verify)
    for ask in (
        missing.log.revisions,
        lambda: missing.log.model("pumps"),
        lambda: missing.add("pumps", made[0], "ann"),
    ):
        with pytest.raises(RepositoryAway, match="there is no bucket models-of-ann"):
            ask()
    Buckets().mkdir("models-of-ann")
    assert missing.log.revisions() == {}
    assert missing.add("pumps", made[0], "ann").version == 1
    Buckets().rm("models-of-ann", recursive=True)
    with pytest.raises(RepositoryAway, match="there is no bucket models-of-ann"):
        missing.log.revisions()


def test_artefacts_of_a_repository_that_went_away_are_not_copied_in_part(made: list[Path], tmp_path: Path) -> None:
    place = tmp_path / "models"
    version = Repository(str(place), verify).add("pumps", made[0], "ann")
    other = Repository(str(place), verify)
    place.rename(tmp_path / "away")
    with pytest.raises(RepositoryAway):
        other.artefacts.artefact(version)
    shutil.copytree(tmp_path / "away" / "log", place / "log")
    with pytest.raises(ArtefactError, match="was copied in part"):
        other.artefacts.artefact(version)
