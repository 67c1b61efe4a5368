"""A look at one column of a sample: how many of its cells are numbers, dates, words, or nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.recordings.dates import is_date
from gatewatch.models.recordings.label_names import MARKS
from gatewatch.models.recordings.values import BOOLEANS, MISSING, SWITCHES, CellStyle, number, unit_behind

MOST_TEXTS = 10_000


@dataclass
class Look:
    """What a column has in the sample."""

    at: int
    name: str
    cells: Sequence[object]
    style: CellStyle
    numbers: int = 0
    missing: int = 0
    dates: int = 0
    booleans: int = 0
    texts: Counter[str] = field(default_factory=Counter)
    unit: str | None = None

    def __post_init__(self) -> None:
        """Count what the cells are."""
        behind: Counter[str] = Counter()
        for cell in self.cells:
            if self._is_missing(cell):
                self.missing += 1
            elif isinstance(cell, bool) or (isinstance(cell, str) and cell.strip().lower() in BOOLEANS):
                self.booleans += 1
            elif _is_number(cell, self.style):
                self.numbers += 1
            elif is_date(cell):
                self.dates += 1
            elif isinstance(cell, str) and (unit := unit_behind(cell)) is not None:
                behind[unit] += 1
            elif len(self.texts) < MOST_TEXTS:
                self.texts[str(cell).strip()] += 1
        found = behind.most_common(1)
        if found and found[0][1] > 2 and 2 * sum(behind.values()) > self.known:
            self.unit = found[0][0]
            self.numbers += found[0][1]
            self.texts.update({f"... {unit}": count for unit, count in behind.items() if unit != self.unit})
        else:
            self.texts.update(behind)

    def _is_missing(self, cell: object) -> bool:
        word = cell.strip().lower() if isinstance(cell, str) else cell
        return word is None or (isinstance(word, str) and (word in MISSING or word in self.style.missing))

    def is_word(self, cell: object) -> bool:
        """Whether a cell is neither a number nor nothing."""
        return not self._is_missing(cell) and not _is_number(cell, self.style)

    @property
    def known(self) -> int:
        """Cells with something in them."""
        return len(self.cells) - self.missing

    @property
    def words(self) -> Mapping[str, float]:
        """For values: those of a switch where the column has both and no other, else true and false."""
        seen = {text.lower() for text in self.texts}
        pair = next((pair for pair in SWITCHES if seen == set(pair)), None)
        return BOOLEANS if pair is None or self.numbers else {pair[0]: 1.0, pair[1]: 0.0}

    @property
    def measures(self) -> bool:
        """Whether it has numbers, or could."""
        values = self.numbers + self.booleans
        return values * 2 >= self.known or (
            values + sum(self.texts.values()) == self.known and self.words is not BOOLEANS
        )

    @cached_property
    def whole(self) -> NDArray[np.float64] | None:
        """(N,) its cells that are not missing as whole numbers; None where one is none."""
        try:
            found = np.array([number(cell) for cell in self.cells if not self._is_missing(cell)])
        except (TypeError, ValueError):
            return None
        return found if len(found) and np.isfinite(found).all() and (found == np.rint(found)).all() else None

    @property
    def marks(self) -> bool:
        """Whether it has nothing but marks: -1, 0 and 1, or true and false."""
        whole = self.whole
        return self.booleans == self.known or (whole is not None and MARKS.issuperset(whole.tolist()))

    @property
    def counts_rows(self) -> bool:
        return self.whole is not None and len(self.whole) > 1 and float(np.median(np.diff(self.whole))) == 1.0

    def different(self) -> set[str]:
        """What stands in it."""
        return {str(cell).strip() for cell in self.cells}


def _is_number(cell: object, style: CellStyle) -> bool:
    if isinstance(cell, datetime):
        return False
    try:
        number(cell, style.decimal)
    except (TypeError, ValueError):
        return False
    return True
