"""The end of a service at every point of its work, in short; `python -m tests.faults.failpoints` is the long form."""

from __future__ import annotations

import os

from tests.faults.failpoints import POINTS, WAYS
from tests.support import forked


def test_no_end_of_a_service_loses_or_doubles_a_reading() -> None:
    """In a process of its own: it forks, and the test process has threads."""
    done = forked.run(["-m", "tests.faults.failpoints", "--times", "1"], os.environ, within_s=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(POINTS) * len(WAYS)} trials" in done.stdout
