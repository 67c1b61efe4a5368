"""Detection quality of Gatewatch and of peers on labelled recordings, one setting for all files.

    python -m benchmarks.quality DATA --eval EVAL --out OUT [--sets nab,skab] [--detectors gatewatch,persistence]

DATA holds `nab/` (data/<category>/<file>.csv, labels/combined_windows.json) and `skab/`, `smap_msl/`, `smd/` and others
(train/, test/, labels.json); `injected` and `cycles` are made, see there. EVAL holds the scorers `multi_eval.py` and
`nab_score.py`. Detectors are listed in `detectors.py`, `benchmarks/peers.py` and `variants.py`; peers flag what exceeds
the 0.999 quantile of their scores on the train part. What is named is run and kept under OUT/<detector>/<set>/, and not
run again while it lies there, so that a run that was broken off goes on where it was, and sets can be run one by one;
`--anew` runs it again. The tables, printed and in OUT/table.md, show all that OUT has of the sets, what ships and what
was chosen without each set: `--detectors ""` runs nothing. `--sample 6` takes six series of each set, for a first
impression in minutes: give it an OUT of its own.

To choose between versions of Gatewatch, run each into an OUT of its own and compare them with `choose.py`.
"""

from __future__ import annotations

import argparse
import itertools
import json
import shutil
from dataclasses import asdict
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from benchmarks.peers import PEERS
from benchmarks.quality.detectors import DETECTORS, TELEMANOM, covers, run
from benchmarks.quality.measures import Scorers
from benchmarks.quality.report import Measured, report
from benchmarks.quality.series import SETS, Series, read_set
from benchmarks.quality.variants import LAST, VARIANTS

DEFAULT = ("gatewatch", "gatewatch-target", "general", "general-target", LAST, *PEERS, *TELEMANOM)


def main() -> None:
    """Run what is asked for, then show everything there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--eval", type=Path, required=True, help="folder of multi_eval.py and nab_score.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default=",".join(SETS))
    parser.add_argument("--detectors", default=",".join(DEFAULT), help=f"of {', '.join(DETECTORS)}")
    parser.add_argument("--variants", action="store_true", help="run the versions of variants.py, too")
    parser.add_argument("--anew", action="store_true", help="run what OUT has already, too")
    parser.add_argument("--sample", type=int, help="series of each set, evenly chosen; all by default")
    parser.add_argument(
        "--compare",
        default="gatewatch-gatewatch-last,lstm-persistence,gatewatch-persistence,gatewatch-lstm,gatewatch-target-lstm",
        help="pairs a-b for the difference of their figures over the same series",
    )
    options = parser.parse_args()
    sets = _chosen(parser, options.sets, SETS)
    detectors = [*_chosen(parser, options.detectors, DETECTORS), *(VARIANTS if options.variants else ())]
    pairs = [_pair(parser, text) for text in options.compare.split(",") if text]
    scorers = Scorers(options.eval)
    for name in sets:
        series = read_set(options.data, name, options.out, options.sample)
        for detector in detectors:
            if covers(detector, name) and (options.anew or load(options.out / detector / name) is None):
                measure(detector, name, series, scorers, options.out / detector / name)
    kept = {name: {d: found for d in DETECTORS if (found := load(options.out / d / name))} for name in sets}
    report({name: found for name, found in kept.items() if found}, pairs, options.out / "table.md")


def measure(detector: str, name: str, series: list[Series], scorers: Scorers, folder: Path) -> None:
    """Run a detector over a set; its scores and counts replace what `folder` held."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns) as progress:
        task = progress.add_task(f"{name}: {detector}", total=len(series))
        for _, done in run(detector, name, series, folder.with_name(f"{name}-scratch")):
            progress.update(task, completed=len(done.scored))
    shutil.rmtree(folder, ignore_errors=True)  # not before: a run that fails leaves what there was
    for one, scored in done.scored.items():
        path = folder / f"{one}.csv"
        path.parent.mkdir(parents=True, exist_ok=True)
        scored.to_csv(path, index=False)
    scored = {one: table.reset_index(drop=True) for one, table in done.scored.items()}
    found = Measured(done.seconds, done.state_bytes, scorers.count(name, series, scored))
    (folder / "measured.json").write_text(json.dumps(asdict(found), indent=1))


def load(folder: Path) -> Measured | None:
    """What was measured earlier, if anything."""
    path = folder / "measured.json"
    return Measured(**json.loads(path.read_text())) if path.exists() else None


def _chosen(parser: argparse.ArgumentParser, text: str, known: tuple[str, ...]) -> list[str]:
    names = [name for name in text.split(",") if name]
    for name in names:
        if name not in known:
            parser.error(f"{name!r} is not one of {', '.join(known)}")
    return names


def _pair(parser: argparse.ArgumentParser, text: str) -> tuple[str, str]:
    """`a-b` as two detectors; their names may hold dashes themselves."""
    found = next((pair for pair in itertools.permutations(DETECTORS, 2) if text == "-".join(pair)), None)
    return found or parser.error(f"{text!r} is not a-b with a and b of {', '.join(DETECTORS)}")


if __name__ == "__main__":
    main()
