"""What a record looks like goes with its format number."""

from __future__ import annotations

import hashlib

import numpy as np

from gatewatch.service.core.layout import entry_dtype
from gatewatch.service.core.records import FORMAT, state_dtype

LAID_OUT = {4: "7efa36095adca689"}


def test_a_record_that_is_laid_out_otherwise_has_another_format_number() -> None:
    """Else every record that is in Redis would be taken for damaged, and rebuilt from a short history."""
    record, entry = state_dtype(np.dtype([("readings", "<u4")]), 2), entry_dtype(2)
    described = repr((record.descr, record.itemsize, entry.descr, entry.itemsize))
    assert hashlib.sha256(described.encode()).hexdigest()[:16] == LAID_OUT[FORMAT]
