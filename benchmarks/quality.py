"""Detection quality on labelled recordings: `gatewatch scan` as a user would run it, one setting for all files.

    python -m benchmarks.quality DATA --eval EVAL --out OUT [--sets skab,nab]

DATA holds `skab/` (train/, test/, labels.json) and `nab/` (data/<category>/<file>.csv, labels/combined_windows.json);
EVAL holds the scorers `multi_eval.py` and `nab_score.py`. SKAB trains on each stream's train file and scans its test
file with the state carried over; NAB trains on each file's probation rows (15 %, at most 750) and scans the file.
"""

from __future__ import annotations

import argparse
import csv
import json
import subprocess
import sys
import time
from pathlib import Path


def scan(*arguments: str | Path) -> None:
    """Run the command as a user would; its errors end the benchmark."""
    subprocess.run(
        [sys.executable, "-m", "service.cli", "scan", *map(str, arguments)], check=True, stdout=subprocess.DEVNULL
    )


def skab(data: Path, out: Path) -> list[str]:
    """Scan all of SKAB in one command; returns the scorer's arguments."""
    scan(data / "test", "--train", data / "train", "--out", out / "raw")
    for path in sorted((out / "raw").glob("*.csv")):
        rows = read(path)
        write(
            out / "scores" / "skab" / path.name,
            ("score", "flag"),
            [(r["score"], int(r["status"] == "anomalous")) for r in rows],
        )
    return ["--data", str(data.parent), "--scores", str(out / "scores"), "--datasets", "skab"]


def nab(data: Path, out: Path) -> None:
    """Scan each NAB file with its own probation rows; writes results by alert and by score."""
    for path in sorted((data / "data").rglob("*.csv")):
        name = path.relative_to(data / "data")
        rows = len(read(path))
        scan(path, "--train-rows", str(min(rows * 15 // 100, 750)), "--out", out / "raw" / name)
        scored = read(out / "raw" / name)
        stamps = [row["timestamp"] for row in read(path)]
        for kind in ("alert", "score"):
            values = [float(row[kind]) for row in scored]
            squashed = values if kind == "alert" else [value / (1 + value) for value in values]
            write(out / kind / name, ("timestamp", "anomaly_score"), list(zip(stamps, squashed, strict=True)))


def read(path: Path) -> list[dict[str, str]]:
    """A CSV as one dictionary a row."""
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def write(path: Path, header: tuple[str, ...], rows: list[tuple[object, ...]]) -> None:
    """Rows as a CSV, its folder made."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def main() -> None:
    """Scan, score, print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--eval", type=Path, required=True, help="folder of multi_eval.py and nab_score.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sets", default="skab,nab")
    options = parser.parse_args()
    for name in options.sets.split(","):
        out = options.out / name
        started = time.monotonic()
        if name == "skab":
            arguments = skab(options.data / "skab", out)
            scored = run_scorer(options.eval / "multi_eval.py", *arguments)
            report = json.loads(scored)["skab"]
            print(f"SKAB, {report['streams']} streams, {time.monotonic() - started:.0f} s")
            flags = report["pointwise"]
            print(f"  F1 {flags['f1']:.3f} at FAR {flags['far_pct']:.1f} %, MAR {flags['mar_pct']:.1f} %")
            print(f"  AUC-PR {report['auc_pr']:.3f}, VUS-PR {report['vus_pr']:.3f}")
        else:
            nab(options.data / "nab", out)
            print(f"NAB, {time.monotonic() - started:.0f} s")
            labels = options.data / "nab" / "labels" / "combined_windows.json"
            for kind in ("alert", "score"):
                print(f"  by {kind}:")
                print(run_scorer(options.eval / "nab_score.py", "--results", str(out / kind), "--labels", str(labels)))


def run_scorer(script: Path, *arguments: str) -> str:
    """What a scorer prints."""
    return subprocess.run([sys.executable, str(script), *arguments], check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    main()
