"""Redis dies: what was answered is there. `python -m tests.faults.durability` is the long form, with power cuts."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.faults.durability import FSYNC, trial


@pytest.mark.parametrize("durability", FSYNC)
def test_a_killed_redis_loses_nothing_that_was_answered(artefact: Path, durability: str) -> None:
    """Under `fast` too: what a process wrote outlives its kill, if not a power cut."""
    loss = asyncio.run(trial(artefact, durability, None, 1.0, seed=1))
    assert loss.wrong == []
    assert loss.answered > 100
    assert loss.lost == 0
