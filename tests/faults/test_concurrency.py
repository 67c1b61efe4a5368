"""Many clients and processes at once, in short; `python -m tests.faults.concurrency` is the long form."""

from __future__ import annotations

import asyncio
from pathlib import Path

from tests.faults import concurrency


def test_every_reading_is_applied_once_whoever_sends_it_to_whom(artefact: Path) -> None:
    ledger = asyncio.run(concurrency.run(artefact, readings=10_000, streams=100, seed=1))
    assert ledger.wrong == []
    assert ledger.answers["replayed"] > 500
    assert ledger.answers["rejected"] > 0  # pieces of the one stream that came too early
