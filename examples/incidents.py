"""The incidents in a file of scores: when each began, how long it lasted, and which channels were furthest off.

gatewatch scan recordings/pump-1.csv --out scores.csv
python examples/incidents.py scores.csv
"""

from __future__ import annotations

import csv
import sys
from collections.abc import Iterator
from pathlib import Path

RESIDUAL = ".residual"


def incidents(rows: list[dict[str, str]]) -> Iterator[list[dict[str, str]]]:
    """The anomalous rows of each incident; an incident begins with the row of its alert."""
    found: list[dict[str, str]] = []
    for row in rows:
        if row["alert"] == "1" and found:
            yield found
            found = []
        if row["status"] == "anomalous":
            found.append(row)
    if found:
        yield found


def furthest_off(rows: list[dict[str, str]]) -> list[str]:
    """Channels by their largest residual in these rows, the largest first."""
    channels = [name.removesuffix(RESIDUAL) for name in rows[0] if name.endswith(RESIDUAL)]
    largest = {name: max(abs(float(row[name + RESIDUAL] or 0)) for row in rows) for name in channels}
    return sorted(channels, key=lambda name: -largest[name])


def main(path: Path) -> None:
    """Print a line for each incident."""
    with path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    for found in incidents(rows):
        score = max(float(row["score"]) for row in found)
        first, last = found[0]["timestamp"], found[-1]["timestamp"]
        print(f"{first} to {last}: {len(found)} readings, score {score:.1f}, {', '.join(furthest_off(found)[:3])}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
