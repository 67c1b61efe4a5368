"""An artefact survives its round trip, and nothing else passes for one."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import pytest

from gatewatch.models.artefact.files import (
    CARD,
    GRAPH,
    MANIFEST,
    WEIGHTS,
    load_artefact,
    manifest_hash,
    save_artefact,
    standing,
)
from gatewatch.models.detectors.trained.detector import TrainedDetector
from gatewatch.models.errors import ArtefactError
from tests.support.samples import CHANNELS, make_artefact


@pytest.fixture
def copy(artefact: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(artefact, tmp_path / "copy"))


def change_manifest(folder: Path, **changes: object) -> None:
    """Change fields of a manifest and its hash with them."""
    manifest = {**json.loads((folder / MANIFEST).read_text()), **changes}
    (folder / MANIFEST).write_text(json.dumps({**manifest, "manifest_sha256": manifest_hash(manifest)}))


def test_an_artefact_survives_its_round_trip(artefact: Path) -> None:
    loaded = load_artefact(artefact)
    assert [channel.name for channel in loaded.manifest.channels] == list(CHANNELS)  # type: ignore[union-attr]
    assert loaded.graph == (artefact / GRAPH).read_bytes()
    assert TrainedDetector(loaded).name == loaded.digest.hex()


@pytest.mark.parametrize("name", [GRAPH, WEIGHTS, CARD])
def test_a_flipped_bit_in_any_file_is_noticed(copy: Path, name: str) -> None:
    content = bytearray((copy / name).read_bytes())
    content[len(content) // 2] ^= 1
    (copy / name).write_bytes(content)
    with pytest.raises(ArtefactError, match=f"{name}: SHA-256 is .*damaged"):
        load_artefact(copy)


def test_a_flipped_bit_in_the_manifest_is_noticed_or_changes_nothing(copy: Path) -> None:
    """Nothing: white space."""
    raw, artefact = (copy / MANIFEST).read_bytes(), load_artefact(copy)
    noticed, unnoticed = 0, []
    for at in range(len(raw)):
        flipped = bytearray(raw)
        flipped[at] ^= 1 << at % 7
        (copy / MANIFEST).write_bytes(flipped)
        try:
            assert load_artefact(copy) == artefact
            unnoticed.append(raw[at : at + 1])
        except ArtefactError as error:
            noticed += MANIFEST in str(error)
    assert noticed + len(unnoticed) == len(raw)
    assert not b"".join(unnoticed).strip(), unnoticed


def test_an_edited_manifest_is_refused_with_both_hashes(copy: Path) -> None:
    text = (copy / MANIFEST).read_text()
    (copy / MANIFEST).write_text(text.replace('"event_threshold": 4.0', '"event_threshold": 9.0'))
    said = json.loads(text)["manifest_sha256"][:12]
    with pytest.raises(ArtefactError, match=f"manifest.json: its SHA-256 is .{{12}}…, it says {said}…: .* edited"):
        load_artefact(copy)
    (copy / MANIFEST).write_text(json.dumps(json.loads(text), indent=7))
    assert load_artefact(copy).manifest.calibration.event_threshold == 4  # type: ignore[union-attr]


def test_another_format_is_refused_with_both_versions(copy: Path) -> None:
    change_manifest(copy, format_version=1)
    with pytest.raises(ArtefactError, match="format version 1; this gatewatch reads 3"):
        load_artefact(copy)


def test_a_manifest_that_makes_no_sense_is_refused_by_field(copy: Path) -> None:
    change_manifest(copy, interval_s=-1)
    with pytest.raises(ArtefactError, match=r"interval_s: .*greater than"):
        load_artefact(copy)
    (copy / MANIFEST).write_text("{")
    with pytest.raises(ArtefactError, match="not JSON"):
        load_artefact(copy)


def test_missing_files_and_folders_are_named(copy: Path, tmp_path: Path) -> None:
    (copy / WEIGHTS).unlink()
    with pytest.raises(ArtefactError, match=f"{WEIGHTS}: cannot be read"):
        load_artefact(copy)
    with pytest.raises(ArtefactError, match="made by gatewatch train"):
        load_artefact(tmp_path / "nowhere")


def test_a_graph_that_does_not_fit_the_manifest_is_refused(artefact: Path, tmp_path: Path) -> None:
    loaded = load_artefact(artefact)
    wrong = loaded.manifest.model_copy(update={"state": {"h": [2, 4], "c": [2, 4]}})
    save_artefact(tmp_path / "wrong", wrong, loaded.graph, b"", "")
    with pytest.raises(ArtefactError, match="does not step as the manifest says"):
        TrainedDetector.load(tmp_path / "wrong")
    save_artefact(tmp_path / "wrong", loaded.manifest, b"no graph", b"", "")
    with pytest.raises(ArtefactError, match="cannot be loaded"):
        TrainedDetector.load(tmp_path / "wrong")


def test_saving_replaces_an_artefact_and_nothing_else(tmp_path: Path) -> None:
    folder = make_artefact(tmp_path / "a", seed=0)
    before = load_artefact(folder).digest
    make_artefact(folder, seed=1)
    assert load_artefact(folder).digest != before
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "cat.jpg").write_text("")
    with pytest.raises(ArtefactError, match="is not an artefact"):
        make_artefact(tmp_path / "photos")


def killed_at(call: int, save: Callable[[], None]) -> bool:
    """Save in a process that is killed before its call number `call` to the file system; False if it ended sooner."""
    process = os.fork()
    if process == 0:
        calls = count()

        def kill_at(event: str, _: tuple[object, ...]) -> None:
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir") and next(calls) == call:
                os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(kill_at)
        try:
            save()
        finally:
            os._exit(0)
    return os.WIFSIGNALED(os.waitpid(process, 0)[1])


def test_a_kill_at_any_point_of_a_replacement_leaves_one_whole_artefact(tmp_path: Path) -> None:
    one, two = (make_artefact(tmp_path / f"made-{seed}", seed) for seed in range(2))
    new, weights = load_artefact(two), (two / WEIGHTS).read_bytes()
    before, seen = load_artefact(one).digest, set()
    for call in count():
        folder = tmp_path / f"killed-{call}" / "a"
        shutil.copytree(one, folder)

        def save(place: Path = folder) -> None:
            save_artefact(place, new.manifest, new.graph, weights, "# Model card\n")

        killed = killed_at(call, save)
        seen.add((load_artefact(folder).digest, folder.exists()))
        if not killed:
            break
        if folder.exists():
            shutil.rmtree(folder)  # by somebody who does not know what the kill has left beside it
            assert not standing(folder).exists() or load_artefact(folder).digest == before
        save()
        assert load_artefact(folder) == new
        assert [path.name for path in folder.parent.iterdir()] == ["a"]
    assert seen == {(before, True), (before, False), (new.digest, True)}


def test_an_artefact_behind_a_link_is_replaced_where_it_lies(tmp_path: Path) -> None:
    made = make_artefact(tmp_path / "made", seed=0)
    (tmp_path / "link").symlink_to(made)
    make_artefact(tmp_path / "link", seed=1)
    assert (tmp_path / "link").is_symlink()
    assert load_artefact(tmp_path / "link") == load_artefact(made)
    assert len(list(tmp_path.iterdir())) == 2
