"""All processes go by the same rules, and no change of one is lost to another."""

from __future__ import annotations

import asyncio

import pytest

from gatewatch.service.errors import ForeignValue
from gatewatch.service.serving.assignments import Assignments
from gatewatch.service.serving.rules import Assignment, Chosen, Rule, Rules
from gatewatch.service.storage.documents import rules_of
from gatewatch.service.storage.store import StateStore
from tests.support.asynchronous import asynchronous
from tests.support.samples import PATIENT_MS

CHOSEN = Chosen(version=1, sha256="ab" * 32, revision=1)


async def nothing(_: Assignment) -> None:
    """What this process needs for an assignment is there."""


@pytest.fixture
def store(redis_url: str, tenant: str) -> StateStore:
    return StateStore(redis_url, tenant, PATIENT_MS)


def with_rule(before: Assignment, pattern: str) -> Assignment:
    rules = Rules(rules=[*before.rules.rules, Rule(pattern=pattern, model="pumps")])
    return Assignment(rules=rules, versions={"pumps@champion": CHOSEN})


async def add(process: Assignments, pattern: str) -> Assignment:
    async def decide(before: Assignment) -> Assignment | None:
        return with_rule(before, pattern)

    return await process.change(decide)


def patterns(process: Assignments) -> list[str]:
    return [rule.pattern for rule in process.now.assignment.rules.rules]


@asynchronous
async def test_what_one_process_changes_the_others_go_by(store: StateStore) -> None:
    one, other = (Assignments(rules_of(store), nothing) for _ in range(2))
    assert not await other.look()
    await add(one, "a*")
    assert await other.look()
    assert not await other.look()
    assert other.now.assignment == one.now.assignment
    assert other.number == 1


@asynchronous
async def test_of_changes_at_once_none_is_lost(store: StateStore) -> None:
    processes = [Assignments(rules_of(store), nothing) for _ in range(4)]
    await asyncio.gather(*(add(process, f"{at}*") for at, process in enumerate(processes)))
    for process in processes:
        await process.look()
    assert sorted(patterns(processes[0])) == ["0*", "1*", "2*", "3*"]
    assert len({process.now.assignment.model_dump_json() for process in processes}) == 1
    assert processes[0].number == 4


@asynchronous
async def test_a_change_to_what_is_there_changes_nothing(store: StateStore) -> None:
    process = Assignments(rules_of(store), nothing)
    await add(process, "a*")

    async def leave(_: Assignment) -> Assignment | None:
        return None

    assert (await process.change(leave)).number == 1


@asynchronous
async def test_rules_that_redis_forgot_are_written_again_and_never_go_back(store: StateStore) -> None:
    """It was emptied, or restored from an older copy."""
    process, later = (Assignments(rules_of(store), nothing) for _ in range(2))
    await add(process, "a*")
    older = await rules_of(store).read()
    await add(process, "b*")
    assert await rules_of(store).write(2, 1, older)
    await process.look()
    await later.look()
    assert patterns(process) == patterns(later) == ["a*", "b*"]
    assert later.number == 2


@asynchronous
async def test_what_is_needed_is_there_before_a_process_goes_by_new_rules(store: StateStore) -> None:
    seen: list[tuple[int, int]] = []

    async def prepare(assignment: Assignment) -> None:
        seen.append((assignment.number, process.number))

    process = Assignments(rules_of(store), prepare)
    await add(process, "a*")
    await add(process, "b*")
    assert seen == [(1, 0), (2, 1)]


@pytest.mark.parametrize("document", [b"{", b'{"number": 7, "rules": {"later": 1}}', b"\xff"])
@asynchronous
async def test_rules_that_cannot_be_read_are_said_so_and_the_ones_before_stay(
    store: StateStore, document: bytes
) -> None:
    process = Assignments(rules_of(store), nothing)
    await add(process, "a*")
    assert await rules_of(store).write(1, 7, document)
    with pytest.raises(ForeignValue, match="the rules in Redis are none"):
        await process.look()
    assert patterns(process) == ["a*"]
