"""A stream's model is its pin, or the first pattern that fits its name, or the default."""

from __future__ import annotations

import json
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.errors import InvalidRules
from gatewatch.service.serving.rules import Assigned, Assignment, Chosen, Rule, Rules, fits, literal_prefix, rules_in

NAME = st.text(st.sampled_from("ab-1"), min_size=1, max_size=8)
PATTERN = st.text(st.sampled_from("ab-1*?"), min_size=1, max_size=6)


def assigned(rules: Rules) -> Assigned:
    chosen = Chosen(version=1, sha256="ab" * 32, revision=1)
    return Assigned(Assignment(number=1, rules=rules, versions=dict.fromkeys(rules.references(), chosen)))


def test_a_pin_goes_before_patterns_and_patterns_go_in_order() -> None:
    found = assigned(
        Rules(
            rules=[
                Rule(pattern="pump-1*", model="old@3"),
                Rule(pattern="pump-*", model="pumps"),
                Rule(pattern="*-test", model="default"),
                Rule(pattern="fan-??", model="fans@challenger"),
            ],
            pins={"pump-17": "pumps@2", "fan-01": "default"},
        )
    )
    names = ("pump-17", "pump-18", "pump-2", "pump-test", "x-test", "fan-01", "fan-02", "fan-002", "Pump-2", "other")
    assert [found.reference_of(name) for name in names] == [
        "pumps@2", "old@3", "pumps@champion", "pumps@champion", "default", "default", "fans@challenger", "default",
        "default", "default",
    ]  # fmt: skip
    assert found.version_of("other") is None


@given(patterns=st.lists(PATTERN, min_size=1, max_size=5, unique=True), names=st.lists(NAME, max_size=5))
def test_the_first_pattern_that_fits_is_found(patterns: list[str], names: list[str]) -> None:
    found = assigned(Rules(rules=[Rule(pattern=p, model=f"m{at}@1") for at, p in enumerate(patterns)]))
    for name in names:
        expected = next((f"m{at}@1" for at, pattern in enumerate(patterns) if fits(pattern, name)), "default")
        assert found.reference_of(name) == expected


def test_forks_that_met_an_outage_make_room_and_give_back_what_was_pinned() -> None:
    """Each left its token, as Redis was away when it was to be taken away."""
    stream, known = StreamKey("default", "pump-1"), Assignment(number=1)
    known = known.with_rules(Rules(pins={"pump-1": "default"}))
    for token in range(100):
        known = known.with_fork(stream, str(token), "default")
    assert list(known.forked["pump-1"].wanted) == [str(token) for token in range(84, 100)]
    for token in range(84, 100):
        known = known.without_fork(stream, str(token))
    assert (known.forked, known.rules.pins) == ({}, {"pump-1": "default"})


@given(pattern=PATTERN, name=NAME)
def test_a_name_that_fits_begins_as_its_pattern_does(pattern: str, name: str) -> None:
    assert not fits(pattern, name) or name.startswith(literal_prefix(pattern))


def test_no_pattern_takes_long_for_any_name() -> None:
    """Of backtracking, it would take longer than the universe is old."""
    found = assigned(Rules(rules=[Rule(pattern="*a" * 40 + "*b", model="pumps")]))
    began = time.process_time()
    assert found.reference_of("a" * 128) == "default"
    assert time.process_time() - began < 10


def test_rules_survive_their_round_trip() -> None:
    before = assigned(Rules(rules=[Rule(pattern="p*", model="pumps")], pins={"a": "pumps@2"})).assignment
    assert Assignment.model_validate_json(before.model_dump_json()) == before


@pytest.mark.parametrize(
    ("sent", "words"),
    [
        ("[]", "body: "),
        ("{", "body: Invalid JSON"),
        ({"rules": [{"pattern": "p*"}]}, "rules.0.model: Field required"),
        ({"rules": [{"pattern": "p*", "model": "Pumps"}]}, "rules.0.model: .*'Pumps' names no model"),
        ({"rules": [{"pattern": "p*", "model": "pumps@"}]}, "names no model"),
        ({"rules": [{"pattern": "", "model": "pumps"}]}, "rules.0.pattern: "),
        ({"rules": [], "pin": {}}, "pin: "),
        ({"pins": {"a": "b c"}}, "pins: "),
        ({"pins": {"": "pumps"}}, "pins.*"),
        ({"rules": [{"pattern": f"{at}", "model": "pumps"} for at in range(1001)]}, "rules: "),
        ({"pins": {f"{at}": "pumps" for at in range(10_001)}}, "pins: "),
    ],
)
def test_what_are_no_rules_is_refused_by_name(sent: object, words: str) -> None:
    with pytest.raises(InvalidRules, match=words):
        rules_in(sent if isinstance(sent, str) else json.dumps(sent))
