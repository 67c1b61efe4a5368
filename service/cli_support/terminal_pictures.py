"""Pictures of a scan in the terminal: readings and score in Braille dots, incidents marked below."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.findings import Finding
from gatewatch.models.scores import iso
from gatewatch.models.text import one_line
from gatewatch.service.cli_support.pictures import HIGHEST_SCORE, value_range
from gatewatch.service.cli_support.traces import Trace, drawn

LINES = 4
"""Of a channel; a character has four dots above each other."""

LABEL, WIDEST = 12, 160
DOTS = ((0x01, 0x08), (0x02, 0x10), (0x04, 0x20), (0x40, 0x80))
"""Bits of a Braille character by row and column."""


def in_terminal(trace: Trace, findings: Sequence[Finding], width: int) -> list[str]:
    """Lines with a stream's channels and score in Braille dots, incidents marked below."""
    width = max(20, min(width, WIDEST) - LABEL)
    trace = drawn(trace, 8 * width)
    first, last = int(trace.times_us.min()), int(trace.times_us.max())
    column = ((trace.times_us - first) * (2 * width - 1) // max(1, last - first)).astype(int)
    lines = [one_line(trace.stream)]
    for at, name in enumerate(trace.titles()):
        low, high = value_range(trace, at)
        rows = (np.clip(trace.values[:, at], low, high) - low) / (high - low)
        lines += _dots(column, rows, width, f"{high:.4g}", f"{low:.4g}", one_line(name))
    score = np.sqrt(np.minimum(trace.score, HIGHEST_SCORE) / HIGHEST_SCORE).astype(np.float64)
    lines += _dots(column, score, width, f"{min(HIGHEST_SCORE, float(trace.score.max())):.3g}", "0", "score")
    marks = [" "] * width
    for one in findings:
        if one.stream == trace.stream:
            start, end = ((at - first) * (width - 1) // max(1, last - first) for at in (one.start_us, one.end_us))
            for place in range(max(0, start), min(width, end + 1)):
                marks[place] = "^"
    begin, end_of = iso(first)[:19], iso(last)[:19]
    return [*lines, f"{'incidents':>10}  {''.join(marks)}", f"{'':>12}{begin}{end_of:>{max(1, width - len(begin))}}"]


def _dots(
    column: NDArray[np.int_], height: NDArray[np.float64], width: int, top: str, bottom: str, name: str
) -> list[str]:
    cells = np.zeros((LINES, width), np.int64)
    known = np.isfinite(height)
    rows = ((1 - height[known]) * (4 * len(cells) - 1)).round().astype(int)
    for row, place in set(zip(rows.tolist(), column[known].tolist(), strict=True)):
        cells[row // 4, place // 2] |= DOTS[row % 4][place % 2]
    lines = ["".join(chr(0x2800 + dots) for dots in line) for line in cells.tolist()]
    labels = [top, *[""] * (len(lines) - 2), bottom]
    return [f"{'':>12}{name}", *(f"{label[:10]:>10}  {line}" for label, line in zip(labels, lines, strict=True))]
