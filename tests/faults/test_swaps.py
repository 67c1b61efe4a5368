"""Promotions and rollbacks under load, in short; `python -m tests.faults.swaps` is the long form."""

from __future__ import annotations

from pathlib import Path

from tests.faults import swaps


def test_no_reading_is_lost_or_goes_back_while_versions_are_swapped(tmp_path: Path) -> None:
    """Two services, both asked to promote, and both following what is promoted past them."""
    done = swaps.run(tmp_path, swaps=4, processes=2, streams=8, senders=2, pause_s=0.5)
    assert done.load.wrong == []
    assert done.moves >= 8  # a run in which no stream moved proves nothing
