"""What a record looks like goes with its format number."""

from __future__ import annotations

import hashlib

import numpy as np

from gatewatch.service.core import records as state
from gatewatch.service.core.layout import entry_dtype, layout_of
from gatewatch.service.core.records import FORMAT, fixed_bytes, state_dtype

LAID_OUT = {4: "9c8a40f6d1b0647e"}


def test_a_record_that_is_laid_out_otherwise_has_another_format_number() -> None:
    """Else every record that is in Redis would be taken for damaged, and rebuilt from a short history."""
    record, entry = state_dtype(np.dtype([("readings", "<u4")]), 2), entry_dtype(2)
    tailed = state.fresh(record, np.zeros(3, [("readings", "<u4")]), b"modelno1", 128)
    tailed["level"][1], tailed["step_n"][2] = 0.5, 7
    bits = [int.from_bytes(one[12:14], "little") & 0xC000 for one in state.pack(tailed, [LAYOUT] * 3, [1, 2, 3])]
    described = repr((record.descr, fixed_bytes(record), bits, entry.descr, entry.itemsize))
    assert hashlib.sha256(described.encode()).hexdigest()[:16] == LAID_OUT[FORMAT]


LAYOUT = layout_of(("a", "b"), ("a", "b"))
MORE = layout_of(("a", "b", "c"), ("a", "b"))


def test_only_a_stream_that_has_one_has_a_level_or_a_step_in_its_record() -> None:
    """Its neighbours' bytes are as they were before there were any, and all are read back."""
    dtype, model = state_dtype(np.dtype([("readings", "<u4")]), 2), b"modelno1"
    records = state.fresh(dtype, np.zeros(4, [("readings", "<u4")]), model, 128)
    records["detector"]["readings"] = [3, 4, 5, 6]
    layouts, seeds = [LAYOUT, LAYOUT, MORE, MORE], [1, 2, 3, 4]
    plain = state.pack(records, layouts, seeds)
    records["level"] = [0.0, -0.25, 0.125, 0.0]
    records["step_n"], records["step"] = [0, 0, 7, 9], [0.0, 0.0, -np.inf, 0.5]
    packed = state.pack(records, layouts, seeds)
    assert packed[0] == plain[0]
    assert [len(one) - len(other) for one, other in zip(packed, plain, strict=True)] == [0, 8, 40, 40]
    assert [state.level_in(one) for one in packed] == [0.0, -0.25, 0.125, 0.0]
    for one, other, seed in zip(packed, plain, seeds, strict=True):
        whole, without = state.stream_part(one, seed), state.stream_part(other, seed)
        assert whole is not None
        assert without is not None
        assert whole[1:] == without[1:]
        assert state.fence_of(one) == state.fence_of(other)
    unpacked, found, flaws = state.unpack(packed, seeds, dtype, LAYOUT, model, 128)
    assert not flaws
    assert found == layouts
    assert unpacked.tobytes() == records.tobytes() == state.sound(packed, dtype).tobytes()
    assert state.layouts_in(packed, LAYOUT, fixed_bytes(dtype)) == layouts
    damaged = packed[1][:-6] + bytes([packed[1][-6] ^ 1]) + packed[1][-5:]
    assert state.unpack([damaged], [2], dtype, LAYOUT, model, 128)[2] == {0: "corrupt"}


def test_a_level_that_is_no_number_is_none() -> None:
    """A state that was imported may say anything."""
    dtype = state_dtype(np.dtype([("readings", "<u4")]), 2)
    records = state.fresh(dtype, np.zeros(1, [("readings", "<u4")]), b"modelno1", 128)
    for level in (np.nan, np.inf, -np.inf):
        records["level"] = level
        (packed,) = state.pack(records, [LAYOUT], [1])
        assert state.level_in(packed) == 0.0
        assert state.sound([packed], dtype)["level"] == [0.0]
    records["step_n"], records["step"] = 7, np.nan
    found = state.sound(state.pack(records, [LAYOUT], [1]), dtype)
    assert found["step_n"][0] == 0
    assert found["step"][0] == 0.0
