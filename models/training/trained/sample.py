"""Which readings calibrate: all of them, or of many so many as memory and time allow."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from gatewatch.models.recordings.recording import Source
from gatewatch.models.training.trained.calibration import Split
from gatewatch.models.training.trained.windows import held_out_row

MOST_VALUES = 2_000_000
"""Values of all channels that calibrate: some 400 bytes each while they do."""

LEAST_ROWS = 2_000
"""Rather fewer recordings than shorter ends of them."""


def splits_to_calibrate(recordings: Sequence[Source], held_out: float) -> list[Split]:
    """Each recording, or its end; of very many recordings some, evenly spread over their order. Now in memory."""
    most = max(MOST_VALUES // len(recordings[0].channels), LEAST_ROWS)
    if sum(map(len, recordings)) > most:
        places = np.linspace(0, len(recordings) - 1, min(len(recordings), most // LEAST_ROWS))
        recordings = [recordings[at] for at in places.round().astype(int)]
    rows = _share([len(recording) for recording in recordings], most)
    splits = []
    for recording in recordings:
        left_out = max(0, len(recording) - rows)
        splits.append(Split(recording.rows(left_out), max(0, held_out_row(recording, held_out) - left_out)))
    return splits


def _share(lengths: Sequence[int], most: int) -> int:
    """The largest number of rows that each recording may give, if it has them, so that all together give `most`."""
    for at, length in enumerate(sorted(lengths)):
        share = most // (len(lengths) - at)
        if length > share:
            return share
        most -= length
    return max(lengths)
