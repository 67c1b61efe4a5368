"""Scores, statuses, alerts, chain tags and words are those of the golden file."""

from __future__ import annotations

from tests.golden import differences, replies, scans

MOST_SHOWN = 10


def test_scans_say_what_they_said() -> None:
    assert differences(scans(), "scan ")[:MOST_SHOWN] == []


def test_the_service_replies_as_it_did() -> None:
    assert differences(replies(), "reply ")[:MOST_SHOWN] == []
