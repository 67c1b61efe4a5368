"""Which version of a detector to ship, judged on the sets that it was not chosen on.

    python -m benchmarks.quality.choose SHIPPED CANDIDATE... [--detector general] [--sets nab,asd] [--out FILE.md]

Each argument is an OUT that `benchmarks.quality` wrote with one version. Printed are the figures of each, the paired
differences from the first, with 90 % of a bootstrap over series, and what choosing is worth: for each set the version
that gains most on all *other* sets, by the mean of their differences, and what it gains on the set left out. By the
same measure over all sets, the last line says which version to ship, and whether that is more than chance: in how many
of the bootstraps, over sets and over the series in each, it gains. A set of one series has no interval.
"""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table

from benchmarks.quality.__main__ import load
from benchmarks.quality.measures import MAIN, Counts, figures, resamples
from benchmarks.quality.series import SETS

Float64Array = NDArray[np.float64]

SHOWN = {"alert F1": 3, "FAR %": 2, "false/week": 2, "VUS-PR": 3}
"""Beside each set's first figure of MAIN; with so many places."""


def main() -> None:
    """Print, and write if asked, the two tables."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("versions", type=Path, nargs="+", metavar="OUT", help="the first is what ships today")
    parser.add_argument("--detector", default="general")
    parser.add_argument("--by", help="choose by this figure of every set, not by its own first one, e.g. 'alert F1'")
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--out", type=Path, help="Markdown file for the tables")
    options = parser.parse_args()
    counts = {
        name: found
        for name in options.sets.split(",")
        if (found := counts_of(options.versions, options.detector, name)) is not None
    }
    names = [path.name for path in options.versions]
    by = {name: options.by or MAIN[name][0] for name in counts}
    gained = {name: gains(name, found, by[name]) for name, found in counts.items()}
    tables = [_compared(names, counts, gained, by), _left_out(names, gained)]
    verdict = best_of(names, gained)
    for table in tables:
        Console(width=160).print(table)
    print(verdict)
    if options.out:
        options.out.write_text("\n".join([*map(_markdown, tables), verdict, ""]))


def counts_of(versions: list[Path], detector: str, name: str) -> list[Counts] | None:
    """Counts of each version on a set, over the same series in the same order; None if one of them lacks the set."""
    measured = [load(version / detector / name) for version in versions]
    found = [one.counts for one in measured if one is not None]
    if len(found) < len(versions):
        return None
    series = [one for one in found[0] if all(one in other for other in found)]
    return [{one: counts[one] for one in series} for counts in found]


def gains(name: str, counts: list[Counts], by: str) -> Float64Array:
    """(1 + R, V) by how much a figure of each version beats the first version's; NAB's points in hundredths.

    The first row is of all series, the others of a bootstrap's.
    """
    weights = np.concatenate([np.ones((1, len(counts[0]))), resamples(len(counts[0]))])
    main = np.stack([figures(name, found, weights)[by] for found in counts], axis=1)
    return np.asarray((main - main[:, :1]) / (100 if by == MAIN["nab"][0] else 1))


def left_out(gained: Mapping[str, Float64Array]) -> dict[str, int]:
    """For each set the version that gains most on all others, by the mean."""
    return {
        name: int(np.mean([other[0] for key, other in gained.items() if key != name], axis=0).argmax())
        for name in gained
    }


def best_of(names: list[str], gained: Mapping[str, Float64Array]) -> str:
    """Which version gains most over all sets, and how surely."""
    draws = resamples(len(gained))
    weights = np.concatenate([np.full((1, len(gained)), 1 / len(gained)), draws / len(gained)])
    means = np.einsum("rs,srv->rv", weights, np.stack(list(gained.values())))
    best = int(means[0].argmax())
    low, high = np.quantile(means[1:, best], [0.05, 0.95])
    return (
        f"Over {len(gained)} sets, {names[best]} gains most: {means[0, best]:+.3f} ({low:+.3f} to {high:+.3f}), "
        f"above 0 in {(means[1:, best] > 0).mean():.0%} of the bootstraps."
    )


def _compared(
    names: list[str], counts: Mapping[str, list[Counts]], gained: Mapping[str, Float64Array], by: Mapping[str, str]
) -> Table:
    table = Table("set", "version", "figure", "difference (90 %)", *SHOWN, title="versions")
    for name, found in counts.items():
        for at, version in enumerate(names):
            value = {column: float(of[0]) for column, of in figures(name, found[at]).items()}
            low, high = np.quantile(gained[name][1:, at], [0.05, 0.95])
            table.add_row(
                name if at == 0 else "",
                version,
                f"{by[name]} {value[by[name]]:.{1 if by[name] == MAIN['nab'][0] else 3}f}",
                "" if at == 0 else f"{gained[name][0, at]:+.3f} ({low:+.3f} to {high:+.3f})",
                *(f"{value[column]:.{places}f}" if column in value else "" for column, places in SHOWN.items()),
            )
    return table


def _left_out(names: list[str], gained: Mapping[str, Float64Array]) -> Table:
    table = Table("set", "chosen without it", "gains on it (90 %)", title="each set left out of the choice")
    for name, version in left_out(gained).items():
        low, high = np.quantile(gained[name][1:, version], [0.05, 0.95])
        table.add_row(name, names[version], f"{gained[name][0, version]:+.3f} ({low:+.3f} to {high:+.3f})")
    return table


def _markdown(table: Table) -> str:
    header = [str(column.header) for column in table.columns]
    rows = zip(*(column.cells for column in table.columns), strict=True)
    lines = [header, ["---"] * len(header), *([str(cell) for cell in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


if __name__ == "__main__":
    main()
