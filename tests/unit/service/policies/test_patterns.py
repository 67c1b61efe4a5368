"""Of many patterns those are found that fit a name, as if each was held against it."""

from __future__ import annotations

from fnmatch import fnmatchcase

from hypothesis import example, given
from hypothesis import strategies as st

from gatewatch.service.policies.patterns import Patterns
from gatewatch.service.policies.policy import Policies, PolicyDocument, PolicyFinder

NAMES = st.text("ab-7", max_size=8)
PATTERNS = st.text("ab-7*?[]!", min_size=1, max_size=8)


@given(patterns=st.lists(PATTERNS, max_size=12), names=st.lists(NAMES, max_size=8))
@example(
    patterns=["a*", "a", "*", "a?", "*7", "[ab]7", "[a", "a[", "[!a]*", "a**", "?*?", "a*b*7"],
    names=["a", "ab7", "7", ""],
)
def test_those_patterns_fit_that_fit_by_themselves_in_their_order(patterns: list[str], names: list[str]) -> None:
    index = Patterns(patterns)
    for name in names:
        assert index.fitting(name) == [at for at, pattern in enumerate(patterns) if fnmatchcase(name, pattern)]


def test_what_joins_leaves_the_entries_that_it_is_made_of_as_they_are() -> None:
    entries = [
        {"pattern": "*", "tags": {"a": "1"}, "gates": [{"low": 1.0}]},
        {"pattern": "p*", "tags": {"b": "2"}, "gates": [{"high": 2.0}]},
    ]
    asked = Policies.model_validate({"policies": entries, "streams": {"p-1": {"tags": {"a": "3"}}}})
    finder = PolicyFinder(PolicyDocument(asked=asked))
    assert [finder.of(name).tags for name in ("p-1", "p-2", "q")] == [
        {"a": "3", "b": "2"},
        {"a": "1", "b": "2"},
        {"a": "1"},
    ]
    assert [len(finder.of(name).gates) for name in ("p-1", "p-2", "q")] == [2, 2, 1]
    assert asked.model_dump(mode="json", exclude_unset=True)["policies"] == entries
    assert finder.of("p-2").model_dump() == asked.policies[1].model_copy(
        update={"tags": {"a": "1", "b": "2"}, "gates": [*asked.policies[0].gates, *asked.policies[1].gates]}
    ).model_dump(exclude={"pattern"})
