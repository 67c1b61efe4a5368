"""Hits, misses and false alarms over several sets, drawn by chance: pictures to look at, and a list to write down what
was seen.

    python -m benchmarks.quality.gallery OUT DATA FOLDER [--each 20] [--sets asd,gecco] [--detectors general]

OUT is what `benchmarks.quality` wrote. Of each kind so many are drawn, the same number from each set as far as it has
them, and from each series in turn. FOLDER gets one PNG each, sheets of ten with the channel that tells most, and
list.md. The same seed and scores give the same pictures.
"""

from __future__ import annotations

import argparse
import itertools
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from rich.progress import track

from benchmarks.quality.plots import Finding, draw, draw_panel, findings, load_scores
from benchmarks.quality.report import markdown
from benchmarks.quality.series import SETS, read_set

DEFAULT_SETS = "asd,gecco,tep,motes,hvac,smap_msl"
KINDS = {"detection": "hit", "miss": "miss", "false alarm": "false alarm"}
"""As `plots` calls them, and as they are called here."""

ON_A_SHEET = 10


@dataclass(frozen=True)
class Shown:
    """A finding, the set that it is of, the detector that was asked, and what that said of the series."""

    set_name: str
    detector: str
    finding: Finding
    scored: pd.DataFrame


def main() -> None:
    """Draw them, and write the list."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--each", type=int, default=20, help="of each kind")
    parser.add_argument("--sets", default=DEFAULT_SETS, help=f"of {', '.join(SETS)}")
    parser.add_argument(
        "--detectors", default="general-target,general", help="the first that OUT has of a set is shown"
    )
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    found = [
        shown
        for name in options.sets.split(",")
        for shown in of_set(options.out, options.data, name, options.detectors.split(","))
    ]
    rows = []
    options.folder.mkdir(parents=True, exist_ok=True)
    for kind, title in KINDS.items():
        chosen = by_chance([one for one in found if one.finding.kind == kind], options.each, options.seed)
        for number, one in enumerate(track(chosen, title), 1):
            series, (first, last) = one.finding.series, one.finding.rows
            name = f"{title.replace(' ', '-')}-{number:02d}"
            about = f"{name}: {one.set_name}, {series.name}, rows {first} to {last}, {one.detector}"
            draw(series, one.scored, options.folder / f"{name}.png", about, one.finding.rows)
            highest = float(one.scored["score"].iloc[first : last + 1].max())
            rows.append([name, one.set_name, series.name, f"{first} to {last}", f"{highest:.3g}", one.detector, ""])
        for start in range(0, len(chosen), ON_A_SHEET):
            sheet(
                chosen[start : start + ON_A_SHEET],
                start,
                options.folder / f"sheet-{title.replace(' ', '-')}-{start}.png",
            )
    header = ["picture", "set", "series", "rows", "highest score", "detector", "what is seen"]
    (options.folder / "list.md").write_text(markdown(header, rows))
    print(f"{len(rows)} pictures and list.md in {options.folder}")


def of_set(out: Path, data: Path, name: str, detectors: list[str]) -> list[Shown]:
    """All that is to be said of a set by the first of the detectors that it was measured with; nothing if by none."""
    measured = [one for one in detectors if (out / one / name / "measured.json").exists()]
    if not measured:
        return []
    shown = []
    for one in read_set(data, name, out):
        scored = load_scores(out, measured[0], name, one)
        shown += [Shown(name, measured[0], found, scored) for found in findings(one, scored)]
    return shown


def by_chance(found: Iterable[Shown], count: int, seed: int) -> list[Shown]:
    """So many of them, taking sets in turn, and in each set series in turn, each in an order of chance."""
    rng = np.random.default_rng(seed)
    by_set: dict[str, dict[str, list[Shown]]] = defaultdict(lambda: defaultdict(list))
    for one in found:
        by_set[one.set_name][one.finding.series.name].append(one)
    queues = []
    for series in by_set.values():
        shuffled = [[of[at] for at in rng.permutation(len(of))] for of in series.values()]
        queues.append(_in_turn([shuffled[at] for at in rng.permutation(len(shuffled))]))
    return _in_turn(queues)[:count]


def _in_turn(queues: list[list[Shown]]) -> list[Shown]:
    """The first of each, then the second of each, and so on."""
    return [one for row in itertools.zip_longest(*queues) for one in row if one is not None]


def sheet(chosen: list[Shown], before: int, path: Path) -> None:
    """Ten on one picture: the channel that tells most, and the score."""
    figure = Figure(figsize=(16, 3 * ((len(chosen) + 1) // 2)), layout="constrained")
    panels = figure.subplots((len(chosen) + 1) // 2, 2, squeeze=False).ravel()
    for at, (axes, one) in enumerate(zip(panels, chosen, strict=False)):
        draw_panel(axes, one.finding.series, one.scored, one.finding.rows)
        axes.set_title(f"{before + at + 1}: {one.set_name}, {one.finding.series.name}", fontsize=8)
    figure.savefig(path, dpi=70)


if __name__ == "__main__":
    main()
