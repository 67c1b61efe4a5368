"""A stream's policy is what all patterns that fit it ask, the last one counting most, and then what is its own."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from typing import Any

import pytest
from pydantic import ValidationError

from gatewatch.service.errors import InvalidPolicies
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.policies.patterns import compiled
from gatewatch.service.policies.policy import (
    NOTHING_ASKED,
    Policies,
    Policy,
    PolicyDocument,
    PolicyFinder,
    labelled,
    policies_in,
    require_bounds,
)
from gatewatch.service.policies.quiet import MOST_QUIET, Quiet, fault_of
from gatewatch.service.policies.windows import Window

ASKED = Policies.model_validate(
    {
        "policies": [
            {"pattern": "pump-*", "tags": {"site": "north", "unit": "pumps"}, "sensitivity": 0.5},
            {"pattern": "*-7", "tags": {"site": "south"}},
            {"pattern": "fan-?", "sensitivity": 2},
        ],
        "streams": {"pump-7": {"sensitivity": 0.25}, "alone": {"tags": {"line": "3"}}},
    }
)


def test_what_fits_joins_and_what_comes_later_wins() -> None:
    finder = PolicyFinder(PolicyDocument(asked=ASKED))
    found = {name: finder.of(name) for name in ("pump-1", "pump-7", "fan-7", "fan-77", "alone", "other")}
    assert {name: one.sensitivity for name, one in found.items()} == {
        "pump-1": 0.5, "pump-7": 0.25, "fan-7": 2, "fan-77": None, "alone": None, "other": None,
    }  # fmt: skip
    assert {name: one.tags for name, one in found.items() if one.tags} == {
        "pump-1": {"site": "north", "unit": "pumps"},
        "pump-7": {"site": "south", "unit": "pumps"},
        "fan-7": {"site": "south"},
        "alone": {"line": "3"},
    }
    assert found["other"] is found["fan-77"] is NOTHING_ASKED


def test_a_document_is_the_same_after_it_was_kept() -> None:
    """What an entry does not say is still not said: it would take the place of what an earlier one says."""
    entries = [
        {"pattern": "*", "sensitivity": 0.5, "muted": True, "alerts_per_week": 2, "minimum": {"readings": 3}},
        {"pattern": "p*", "tags": {"site": "north"}},
        {"pattern": "*-1", "muted": False},
    ]
    windows = {"w": Window(stream="p*", hours="06:00-22:00")}
    asked = Policies.model_validate({"policies": entries, "streams": {"p-1": {"ignore": ["x"]}}})
    document = PolicyDocument(number=3, asked=asked, windows=windows, by="ann")
    kept = PolicyDocument.model_validate_json(document.as_kept())
    assert kept == document
    assert kept.asked.model_dump(exclude_unset=True) == document.asked.model_dump(exclude_unset=True)
    for name in ("p-1", "p-2", "q-1", "q"):
        policy, again = PolicyFinder(document).of(name), PolicyFinder(kept).of(name)
        assert (again, again.model_fields_set) == (policy, policy.model_fields_set)
        assert (again.sensitivity, again.muted) == (0.5, not name.endswith("-1"))


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        ({"policies": [{"tags": {}}]}, "policies.0.pattern"),
        ({"policies": [{"pattern": "*", "sensitivity": 0}]}, "policies.0.sensitivity"),
        ({"policies": [{"pattern": "*", "sensitivity": 1e9}]}, "policies.0.sensitivity"),
        ({"policies": [{"pattern": "*", "sensitive": 1}]}, "policies.0.sensitive"),
        ({"policies": [{"pattern": "*", "tags": {"a b": "c"}}]}, "policies.0.tags"),
        ({"policies": [{"pattern": "*", "tags": {"a": "c\n"}}]}, "policies.0.tags"),
        ({"streams": {"a/b": {}}}, "streams"),
    ],
)
def test_what_is_no_policy_is_refused_by_name(sent: object, told: str) -> None:
    with pytest.raises(InvalidPolicies) as error:
        policies_in(json.dumps(sent))
    assert told in str(error.value)


def test_a_later_budget_takes_the_place_of_an_earlier_one_of_the_other_kind() -> None:
    asked = Policies.model_validate(
        {
            "policies": [{"pattern": "*", "alerts_per_week": 2}, {"pattern": "a*", "false_alarm_rate": 0.01}],
            "streams": {"ab": {"alerts_per_week": 7}},
        }
    )
    finder = PolicyFinder(PolicyDocument(asked=asked))
    budgets = [(one.alerts_per_week, one.false_alarm_rate) for one in map(finder.of, ("b", "aa", "ab"))]
    assert budgets == [(2, None), (None, 0.01), (7, None)]
    with pytest.raises(InvalidPolicies, match="not both"):
        policies_in('{"policies": [{"pattern": "*", "alerts_per_week": 2, "false_alarm_rate": 0.01}]}')


def test_patterns_have_no_more_gates_in_all_than_a_stream_can_be_held_against() -> None:
    gates = [{"channel": f"c{at}", "low": 0} for at in range(64)]
    policies = [{"pattern": f"s{at}-*", "gates": gates} for at in range(65)]
    assert len(policies_in(json.dumps({"policies": policies[:64]})).policies) == 64
    with pytest.raises(InvalidPolicies, match="4160 gates"):
        policies_in(json.dumps({"policies": policies}))


@pytest.mark.parametrize(
    ("one", "told"),
    [
        (lambda at: {"tags": {f"t{at}_{number}": "v" for number in range(16)}}, "tags of 272 names"),
        (
            lambda at: {
                "quiet": [
                    {
                        "incident": "1.s",
                        "channel": f"c{number}",
                        "direction": None,
                        "deviation": 0,
                        "score": at,
                        "until": 1,
                    }
                    for number in range(64)
                ]
            },
            "4160 quiet and faults",
        ),
    ],
)
def test_patterns_say_no_more_in_all_than_one_stream_may_have(one: Callable[[int], dict[str, Any]], told: str) -> None:
    count = 17 if "tags" in told else 65
    asked = Policies.model_validate({"policies": [{"pattern": f"s{at}-*", **one(at)} for at in range(count)]})
    with pytest.raises(InvalidPolicies, match=told):
        require_bounds(asked)
    require_bounds(Policies(policies=asked.policies[:-1]))


def test_what_fits_a_stream_is_found_without_making_patterns_anew() -> None:
    """A thousand windows, or gates of several thousand channels, took seconds for each stream."""
    gates = [{"channel": f"valve-{at}-*", "low": 0} for at in range(64)]
    windows = {f"w{at}": Window(stream=f"pump-{at}-*", hours="06:00-22:00") for at in range(1000)}
    asked = Policies.model_validate(
        {"policies": [{"pattern": f"pump-{at}*", "gates": gates} for at in range(10)], "streams": {"pump-1-b": {}}}
    )
    finder = PolicyFinder(PolicyDocument(asked=asked, windows=windows))
    assert finder.rules("pump-1-a") is not None
    made = compiled.cache_info().misses
    rules = finder.rules("pump-1-b")
    assert compiled.cache_info().misses == made
    assert rules is not None
    assert ([window.name for window in rules.windows], len(rules.gates)) == (["w1"], 64)


@pytest.mark.parametrize(
    "body",
    [
        '{"sensitivity": true}',
        '{"alerts_per_week": "3"}',
        '{"gates": [{"absolute": true}]}',
        '{"gates": [{"low": "1"}]}',
        '{"minimum": {"seconds": true}}',
        '{"quiet": [{"incident": "a", "channel": "c", "direction": null, "deviation": 1, "score": 2, "until": false}]}',
    ],
)
def test_a_number_is_no_text_and_no_truth_value(body: str) -> None:
    with pytest.raises(ValidationError):
        Policy.model_validate_json(body)
    Policy.model_validate_json(re.sub('true|false|"[0-9]"', "1", body))


def test_a_true_alarm_after_a_long_silence_asks_no_more_than_the_scores_own_bound() -> None:
    week_ms = 7 * 86_400_000
    silent = Incident(1, "pump", "m", 0, 0, 6 * week_ms, None, "event", 3.0, 6 * week_ms, 3.0, 1, 1, [], [])
    assert fault_of(silent, level=0.0, at_ms=0, held=10_000.0).factor == pytest.approx(0.5)


def test_of_a_thousand_labels_of_a_stream_the_latest_are_kept() -> None:
    policy = NOTHING_ASKED
    for n in range(1000):
        like = {"channel": "flow", "direction": "above", "deviation": 1.0, "score": 4.0, "until": 1e9, "readings": 9}
        policy = labelled(policy, f"{n}.pump", [Quiet.model_validate({"incident": f"{n}.pump", **like})], [])
    assert [one.incident for one in policy.quiet] == [f"{n}.pump" for n in range(1000 - MOST_QUIET, 1000)]
    assert Policy.model_validate_json(policy.model_dump_json(exclude_unset=True)) == policy
