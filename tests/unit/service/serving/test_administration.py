"""What operators do with models takes effect whole and everywhere, or changes nothing."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from itertools import permutations, product
from pathlib import Path

import pytest

from gatewatch.models.artefact.files import GRAPH
from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import (
    InvalidRules,
    ModelAway,
    NoRepository,
    NoSuchModel,
    Outdated,
    StoreUnavailable,
    UnusableModel,
)
from gatewatch.service.serving.administration import Administration
from gatewatch.service.serving.assignments import Assignments
from gatewatch.service.serving.loaded_models import LoadedModels
from gatewatch.service.serving.repository_access import RepositoryAccess
from gatewatch.service.serving.rules import Assignment, Rule, Rules
from gatewatch.service.storage.documents import rules_of
from gatewatch.service.storage.store import StateStore
from tests.support.asynchronous import asynchronous
from tests.support.repositories import pumps_in
from tests.support.samples import PATIENT_MS, make_artefact

PUMPS = Rules(rules=[Rule(pattern="pump-*", model="pumps")])


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    folder = tmp_path_factory.mktemp("made")
    return [make_artefact(folder / str(seed), seed=seed) for seed in range(3)]


@pytest.fixture
def repository(made: list[Path], tmp_path: Path) -> Repository:
    """Three versions of `pumps`, the first of which is the champion."""
    return pumps_in(tmp_path / "models", made)


@pytest.fixture
def store(redis_url: str, tenant: str) -> StateStore:
    return StateStore(redis_url, tenant, PATIENT_MS)


@dataclass
class Process:
    """One process of a service, as far as it administers models."""

    administration: Administration
    assignments: Assignments
    refused: list[int]

    @property
    def versions(self) -> dict[str, int]:
        return {name: chosen.version for name, chosen in self.assignments.now.assignment.versions.items()}


def process(store: StateStore, repository: Repository | None) -> Process:
    async def nothing(_: Assignment) -> None: ...

    access, refused = RepositoryAccess(repository), list[int]()
    assignments = Assignments(rules_of(store), nothing)
    loaded = LoadedModels(access, lambda artefact: artefact, 10, 2**30, lambda *_: None)
    return Process(
        Administration(access, assignments, loaded, store, store.tenant, lambda: refused.append(1), 1.0),
        assignments,
        refused,
    )


@asynchronous
async def test_a_promotion_reaches_every_process(store: StateStore, repository: Repository) -> None:
    one, other = process(store, repository), process(store, repository)
    await one.administration.put_rules(PUMPS, "ann", None)
    await one.administration.promote("pumps", "2", "champion", "bob", "better", None, False)
    await other.assignments.look()
    assert other.versions == {"pumps@champion": 2}
    assert other.assignments.now.assignment.by == "bob"
    await other.administration.rollback("pumps", "champion", "cem", "worse", None)
    await one.assignments.look()
    assert one.versions == {"pumps@champion": 1}
    assert [change.by for change in await one.administration.history("pumps", 2)] == ["cem", "bob"]


@asynchronous
async def test_what_is_promoted_past_the_service_is_followed(store: StateStore, repository: Repository) -> None:
    one = process(store, repository)
    await one.administration.put_rules(PUMPS, "ann", None)
    repository.promote("pumps", "3", "ann")
    await one.administration.follow()
    assert one.versions == {"pumps@champion": 3}
    number = one.assignments.number
    await one.administration.follow()
    assert one.assignments.number == number


@asynchronous
async def test_who_looked_at_the_repository_earlier_changes_nothing_back(
    store: StateStore, repository: Repository, tmp_path: Path
) -> None:
    """One process is slow: it sees the repository as it was before the last promotions, back to the same version."""
    repository.promote("pumps", "2", "ann")
    old = Repository(str(shutil.copytree(repository.url, tmp_path / "old")), verify)
    repository.promote("pumps", "1", "ann")
    one, slow = process(store, repository), process(store, old)
    await one.administration.put_rules(PUMPS, "ann", None)
    await slow.assignments.look()
    await slow.administration.follow()
    assert slow.versions == {"pumps@champion": 1}


@asynchronous
async def test_a_bad_artefact_leaves_the_one_before_and_is_an_error_to_who_promoted_it(
    store: StateStore, repository: Repository
) -> None:
    one = process(store, repository)
    await one.administration.put_rules(PUMPS, "ann", None)
    sha256 = repository.log.model("pumps").version(2).sha256
    (Path(repository.url) / "artefacts" / sha256 / GRAPH).write_bytes(b"")
    with pytest.raises(UnusableModel, match=r"model.onnx: SHA-256"):
        await one.administration.promote("pumps", "2", "champion", "bob", "", None, False)
    assert one.versions == {"pumps@champion": 1}
    assert repository.log.model("pumps").aliases["champion"].version == 1
    assert one.refused == [1]


@asynchronous
async def test_a_bad_artefact_that_was_promoted_past_the_service_leaves_the_one_before(
    store: StateStore, repository: Repository
) -> None:
    one = process(store, repository)
    await one.administration.put_rules(PUMPS, "ann", None)
    sha256 = repository.log.model("pumps").version(2).sha256
    Repository(repository.url, lambda _: None).promote("pumps", "2", "ann")
    (Path(repository.url) / "artefacts" / sha256 / GRAPH).unlink()
    await one.administration.follow()
    assert one.versions == {"pumps@champion": 1}
    assert one.refused == [1]
    repository.promote("pumps", "3", "ann")
    await one.administration.follow()
    assert one.versions == {"pumps@champion": 3}


@asynchronous
async def test_rules_for_models_that_are_not_there_are_refused(store: StateStore, repository: Repository) -> None:
    one = process(store, repository)
    for model, words in (
        ("fans", "there is no model fans"),
        ("pumps@9", "the model pumps has no version 9"),
        ("pumps@challenger", "the model pumps has no alias challenger"),
    ):
        with pytest.raises(InvalidRules, match=words):
            await one.administration.put_rules(Rules(rules=[Rule(pattern="*", model=model)]), "ann", None)
    with pytest.raises(InvalidRules, match="there is no model fans"):
        await one.administration.put_rules(Rules(pins={"a": "fans"}), "ann", None)
    assert one.assignments.number == 0


@asynchronous
async def test_of_two_admins_who_change_rules_at_once_one_is_refused(store: StateStore, repository: Repository) -> None:
    one, other = process(store, repository), process(store, repository)
    seen = (await one.administration.rules()).number
    await one.administration.put_rules(PUMPS, "ann", seen)
    with pytest.raises(Outdated, match="the rules have number 1 by now, not 0"):
        await other.administration.put_rules(Rules(pins={"a": "pumps"}), "bob", seen)
    again, _ = await one.administration.put_rules(PUMPS, "ann", seen)  # the answer to the first was lost
    assert again.number == 1


@asynchronous
async def test_of_two_admins_who_promote_at_once_one_is_refused(store: StateStore, repository: Repository) -> None:
    one = process(store, repository)
    seen = (await one.administration.model("pumps")).revision
    await one.administration.promote("pumps", "2", "champion", "ann", "", seen, False)
    with pytest.raises(Outdated, match="has revision 5 by now, not 4"):
        await one.administration.promote("pumps", "3", "champion", "bob", "", seen, False)


@asynchronous
async def test_a_pattern_that_fits_no_stream_is_warned_of(store: StateStore, repository: Repository) -> None:
    one = process(store, repository)
    await store.know_buckets()
    for key in store.keys.of(StreamKey(store.tenant, name) for name in ("fan-1", "pump", "pump-7", "x")):
        await store.ask_one(b"ZADD", key.sets.streams, b"0", key.member)
    patterns = ("pump-*", "pump-*", "pump", "pump-?", "pump-??", "fan-2", "fan-1", "*7", "*8", "[a-f]*", "z*")
    rules = Rules(rules=[Rule(pattern=pattern, model="pumps") for pattern in patterns])
    _, warnings = await one.administration.put_rules(rules, "ann", None)
    assert warnings == ["pump-* stands there twice: the first counts"] + [
        f"no stream fits {pattern} yet" for pattern in ("pump-??", "fan-2", "*8", "z*")
    ]


@asynchronous
async def test_models_that_are_not_there_and_no_repository_are_told_apart(
    store: StateStore, repository: Repository, tmp_path: Path
) -> None:
    one, bare = process(store, repository), process(store, None)
    with pytest.raises(NoSuchModel, match="there is no model fans"):
        await one.administration.model("fans")
    with pytest.raises(NoSuchModel, match="has no version 7"):
        await one.administration.promote("pumps", "7", "champion", "ann", "", None, False)
    with pytest.raises(NoRepository, match="GATEWATCH_MODELS is not set"):
        await bare.administration.model("pumps")
    with pytest.raises(NoRepository):
        await bare.administration.put_rules(PUMPS, "ann", None)
    (tmp_path / "file").write_text("")
    away = process(store, Repository(str(tmp_path / "file"), verify))
    with pytest.raises(ModelAway, match="cannot be listed"):
        await away.administration.model("pumps")


@asynchronous
async def test_a_promotion_without_redis_takes_effect_once_it_is_back(
    store: StateStore, repository: Repository, tmp_path: Path
) -> None:
    one = process(store, repository)
    await one.administration.put_rules(PUMPS, "ann", None)
    nowhere = StateStore(f"unix://{tmp_path}/none.sock", store.tenant, 100)
    away = process(nowhere, repository)
    away.assignments.document, away.assignments.now = one.assignments.document, one.assignments.now
    with pytest.raises(StoreUnavailable, match="pumps@champion points to version 2 in the repository; streams move"):
        await away.administration.promote("pumps", "2", "champion", "ann", "", None, False)
    await nowhere.close()
    await one.administration._look()
    assert one.versions == {"pumps@champion": 2}


@asynchronous
async def test_a_version_that_is_not_whole_yet_is_tried_again(store: StateStore, repository: Repository) -> None:
    """The repository went away between its log and its artefact."""
    one = process(store, repository)
    await one.administration.put_rules(PUMPS, "ann", None)
    repository.promote("pumps", "2", "ann")
    artefact = Path(repository.url) / "artefacts" / repository.log.model("pumps").version(2).sha256
    graph = artefact / GRAPH
    whole = graph.read_bytes()
    graph.unlink()
    graph.mkdir()  # which cannot be read as a file
    await one.administration._look()
    assert one.versions == {"pumps@champion": 1}
    graph.rmdir()
    graph.write_bytes(whole)
    await one.administration._look()
    assert one.versions == {"pumps@champion": 2}


@asynchronous
async def test_what_is_in_use_stays_when_the_repository_is_gone(store: StateStore, repository: Repository) -> None:
    one = process(store, repository)
    await one.administration.put_rules(PUMPS, "ann", None)
    shutil.move(repository.url, f"{repository.url}-away")
    await one.administration._look()
    assert one.versions == {"pumps@champion": 1}
    shutil.move(f"{repository.url}-away", repository.url)
    repository.promote("pumps", "2", "ann")
    await one.administration._look()
    assert one.versions == {"pumps@champion": 2}


@asynchronous
async def test_of_two_forks_to_one_name_the_one_that_becomes_the_stream_has_its_pin(
    store: StateStore, repository: Repository
) -> None:
    """Whichever is pinned first and whichever wins; also where somebody had pinned the name, and both want the same."""
    one, other = process(store, repository), process(store, repository)
    for at, (first_wins, second, before) in enumerate(
        product((True, False), ("pumps@1", "pumps@2"), (None, "pumps@3")),
    ):
        trial = StreamKey(store.tenant, f"trial-{at}")
        pins = {} if before is None else {trial.name: before}
        await one.administration.put_rules(Rules(pins=pins), "ann", None)
        first, late = (
            await one.administration.pin_fork(trial, "pumps@1", "ann"),
            await other.administration.pin_fork(trial, second, "bob"),
        )
        won, lost = (first, late) if first_wins else (late, first)
        await one.administration.keep_fork(trial, won, "ann")
        await other.administration.undo_fork(trial, lost, "bob")
        known = await one.administration.rules()
        assert known.rules.pins == {trial.name: "pumps@1" if first_wins else second}
        assert set(known.forked) == (set() if before else {trial.name})
        await other.administration.forget_forks([trial], "bob")
        assert (trial.name in (await one.administration.rules()).rules.pins) is bool(before)


@asynchronous
async def test_forks_that_all_fail_leave_the_pin_as_it_was(store: StateStore, repository: Repository) -> None:
    """In each order, and though somebody changes the pin between: what that one says stays."""
    one, trial = process(store, repository).administration, StreamKey(store.tenant, "trial")
    for order, before in product(permutations(range(3)), (None, "pumps@3")):
        pins = {} if before is None else {trial.name: before}
        await one.put_rules(Rules(pins=pins), "ann", None)
        tokens = [await one.pin_fork(trial, f"pumps@{1 + n % 2}", "ann") for n in range(3)]
        for n in order:
            await one.undo_fork(trial, tokens[n], "ann")
        assert (await one.rules()).rules.pins == pins
    token = await one.pin_fork(trial, "pumps@1", "ann")
    await one.put_rules(Rules(pins={trial.name: "pumps@2"}), "bob", None)
    await one.undo_fork(trial, token, "ann")
    await one.keep_fork(trial, token, "ann")
    assert (await one.rules()).rules.pins == {trial.name: "pumps@2"}


@asynchronous
async def test_a_fork_that_won_keeps_its_pin_whatever_becomes_of_two_late_ones(
    store: StateStore, repository: Repository
) -> None:
    one, trial = process(store, repository).administration, StreamKey(store.tenant, "trial")
    winner = await one.pin_fork(trial, "pumps@1", "ann")
    await one.keep_fork(trial, winner, "ann")
    late = [await one.pin_fork(trial, model, "bob") for model in ("pumps@2", "pumps@3")]
    for token in late:
        await one.undo_fork(trial, token, "bob")
    assert (await one.rules()).rules.pins == {trial.name: "pumps@1"}
