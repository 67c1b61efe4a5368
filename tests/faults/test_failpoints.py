"""The end of a service at every point of its work, in short; `python -m tests.faults.failpoints` is the long form."""

from __future__ import annotations

import subprocess
import sys

from tests.faults.failpoints import POINTS, WAYS


def test_no_end_of_a_service_loses_or_doubles_a_reading() -> None:
    """In a process of its own: it forks, and the test process has threads."""
    command = [sys.executable, "-m", "tests.faults.failpoints", "--times", "1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{len(POINTS) * len(WAYS)} trials" in done.stdout
