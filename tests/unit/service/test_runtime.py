"""What the C library does with memory that is freed."""

from __future__ import annotations

import subprocess
import sys

PROGRAM = """
import resource
import numpy as np
from gatewatch.service.runtime import keep_freed_memory

def faults():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(20):
        arrays = [np.ones(170_000) for _ in range(4)]
        del arrays
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

if {kept}:
    keep_freed_memory()
faults()
print(faults())
"""


def page_faults(kept: bool) -> int:
    """Of 20 rounds that take and free four arrays of a megabyte, after 20 such rounds."""
    program = [sys.executable, "-c", PROGRAM.format(kept=kept)]
    return int(subprocess.run(program, check=True, capture_output=True, text=True).stdout)


def test_memory_that_a_batch_frees_is_there_for_the_next_one() -> None:
    assert page_faults(kept=True) * 20 < page_faults(kept=False)
