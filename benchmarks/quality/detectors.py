"""The detectors of the comparison, and how each is run over a set: scores, flags and alerts of every row.

A detector here is either a command line of `gatewatch scan` (COMMANDS, to be edited) or a peer (`benchmarks.peers`).
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray

from benchmarks.peers import PEERS, standardise
from benchmarks.quality import telemanom
from benchmarks.quality.last_value import scan_by_last_value
from benchmarks.quality.measures import first_of_incident
from benchmarks.quality.series import SETS, Series
from benchmarks.quality.variants import LAST, VARIANTS, scan_variant
from gatewatch.models.detectors.detector import ANOMALOUS
from gatewatch.models.detectors.general.features import HORIZONS
from gatewatch.models.recordings.recording import read_recordings
from gatewatch.models.scan import Scan

QUANTILE = 0.999
"""A peer flags what is above this quantile of its scores on the train rows, in all sets."""

TRAINED = {"nab": ("--train-rows", "{probation}")} | dict.fromkeys(SETS[1:], ("--train", "{train}"))
UNTRAINED: dict[str, tuple[str, ...]] = dict.fromkeys(SETS, ())
PERSISTENT = dict.fromkeys(SETS, ("--model", "{persistence}"))


@dataclass(frozen=True)
class Command:
    """`gatewatch scan FILES --out OUT` with more arguments.

    Attributes:
        arguments: by set; a set that is not there is left out. `{train}` becomes the folder of train files,
            `{persistence}` an artefact that forecasts the last value, `{probation}` a file's rows to learn from: such
            files are scanned one by one, others all in one command.
        targets_only: scan copies with only the channels that the labels are about.
        history: scan copies that begin with the rows of the train file, and judge the rest only.
    """

    arguments: dict[str, tuple[str, ...]]
    targets_only: bool = False
    history: bool = False


COMMANDS: dict[str, Command] = {
    "gatewatch": Command(TRAINED),  # type: ignore[arg-type]
    "gatewatch-target": Command(dict[str, tuple[str, ...]](smap_msl=TRAINED["smap_msl"]), targets_only=True),
    "general": Command(UNTRAINED, history=True),
    "general-target": Command({"smap_msl": ()}, targets_only=True, history=True),
    "general-persistence": Command(PERSISTENT, history=True),  # type: ignore[arg-type]
    "general-persistence-target": Command(
        dict[str, tuple[str, ...]](smap_msl=PERSISTENT["smap_msl"]), targets_only=True, history=True
    ),
    "general-cold": Command(dict.fromkeys(SETS[1:], ())),
}

TELEMANOM = {"telemanom": telemanom.WHOLE, "telemanom-causal": telemanom.CAUSAL}
"""For SMAP and MSL: as published, and without looking at rows that are yet to come."""

DETECTORS = (*COMMANDS, LAST, *PEERS, *TELEMANOM, *VARIANTS)
"""LAST is the recipe of trained models with the last value in the network's place, for the sets with a train part."""


@dataclass
class Run:
    """What a detector said of a set's series: by name, columns score, flag and alert, one row per row of the file."""

    seconds: float
    state_bytes: int | None = None
    scored: dict[str, pd.DataFrame] = field(default_factory=dict)


def covers(detector: str, set_name: str) -> bool:
    """Whether the table has the detector for this set."""
    if detector.startswith(LAST):
        return set_name != "nab"
    if detector in TELEMANOM:
        return set_name == telemanom.SET
    if detector in VARIANTS:
        return True
    return detector in PEERS or set_name in COMMANDS[detector].arguments


def run(detector: str, set_name: str, series: list[Series], scratch: Path) -> Iterator[tuple[str, Run]]:
    """Run one detector over one set; yields after each step with its name, the last time with everything scored."""
    if detector in PEERS:
        yield from _run_peer(detector, series)
    elif detector == LAST:
        yield from _run_last_value(series)
    elif detector in TELEMANOM:
        yield from _run_telemanom(detector, series, scratch.parents[1])
    elif detector in VARIANTS:
        yield from _run_variant(detector, series)
    else:
        shutil.rmtree(scratch, ignore_errors=True)
        yield from _run_command(COMMANDS[detector], set_name, series, scratch)
        shutil.rmtree(scratch)


def _run_peer(detector: str, series: list[Series]) -> Iterator[tuple[str, Run]]:
    done = Run(0.0, 0)
    for one in series:
        values, train = filled(one.values), one.train_rows
        started = time.monotonic()
        scores, state_bytes = PEERS[detector](standardise(values, train), train)
        done.seconds += time.monotonic() - started
        done.state_bytes = max(done.state_bytes or 0, state_bytes)
        scores = scores / max(float(np.quantile(scores[:train], QUANTILE)), 1e-9)  # 1.0 is the threshold
        flag = scores > 1.0
        flag[:train] = False
        table = pd.DataFrame({"score": scores, "flag": flag.astype(int), "alert": first_of_incident(flag).astype(int)})
        done.scored[one.name] = table.iloc[-one.rows :]
        yield one.name, done


def filled(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """(N, C) with the last value known where one is missing, and 0 before the first: no peer knows what missing is."""
    return np.asarray(pd.DataFrame(values).ffill().fillna(0.0).to_numpy())


def _run_telemanom(detector: str, series: list[Series], out: Path) -> Iterator[tuple[str, Run]]:
    done, started = Run(0.0), time.monotonic()
    for one in series:
        done.scored[one.name] = telemanom.scored(one, TELEMANOM[detector], out)
        done.seconds = time.monotonic() - started
        yield one.name, done


def _run_variant(variant: str, series: list[Series]) -> Iterator[tuple[str, Run]]:
    done, started = Run(0.0), time.monotonic()
    for one, found in scan_variant(variant, series):
        done.scored[one.name] = _table(found).iloc[-one.rows :]
        done.seconds = time.monotonic() - started
        yield one.name, done


def _table(found: Scan) -> pd.DataFrame:
    flag = (found.status == ANOMALOUS).astype(int)
    return pd.DataFrame({"score": found.score, "flag": flag, "alert": found.alert.astype(int)})


def _run_last_value(series: list[Series]) -> Iterator[tuple[str, Run]]:
    done = Run(0.0)
    for one in series:
        assert one.train is not None
        (normal,), (recording,) = read_recordings(one.train), read_recordings(one.path)
        started = time.monotonic()
        found = scan_by_last_value(normal, recording)
        done.seconds += time.monotonic() - started
        done.scored[one.name] = _table(found)
        yield one.name, done


def _run_command(command: Command, set_name: str, series: list[Series], scratch: Path) -> Iterator[tuple[str, Run]]:
    files, train = _inputs(command, set_name, series, scratch)
    arguments, raw = command.arguments[set_name], scratch / "raw"
    one_by_one = any("{probation}" in argument for argument in arguments)
    done = Run(0.0)
    persistence = scratch / "persistence"
    if any("{persistence}" in argument for argument in arguments):
        save_persistence(persistence)
    for some in [[one] for one in series] if one_by_one else [series]:
        given = [
            argument.format(train=train, probation=some[0].probation, persistence=persistence) for argument in arguments
        ]
        started = time.monotonic()
        if one_by_one:
            _scan(_file(files, some[0]), "--out", raw / f"{some[0].name}.csv", *given)
        else:
            _scan(files, "--out", raw, *given)
        done.seconds += time.monotonic() - started
        for one in some:
            said = pd.read_csv(raw / f"{one.name}.csv", usecols=["score", "status", "alert"])
            said["flag"] = (said["status"] == "anomalous").astype(int)
            done.scored[one.name] = said[["score", "flag", "alert"]].iloc[-one.rows :]
        yield some[-1].name, done


def save_persistence(folder: Path) -> None:
    """The general model with the last value for its forecast at every horizon."""
    from gatewatch.models.training.architectures.general import GeneralForecaster
    from gatewatch.models.training.general.train import GeneralConfig, Skill, save

    network = GeneralForecaster(1, 1).eval()
    for parameter in network.head.parameters():
        parameter.data.zero_()
    ones = [1.0] * len(HORIZONS)
    save(network, GeneralConfig(layers=1, hidden=1), Skill(ones, ones, ones), folder)


def _scan(*arguments: str | Path) -> None:
    """Run the command as a user would; its errors end the benchmark."""
    command = [sys.executable, "-m", "gatewatch", "scan", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def _file(files: Path, one: Series) -> Path:
    (found,) = files.glob(f"{one.name}.csv*")
    return found


def _inputs(command: Command, set_name: str, series: list[Series], scratch: Path) -> tuple[Path, Path]:
    """The folders of files to scan and to train on: the set's own, or copies with what the command wants of them."""
    first = series[0]
    files = first.path.parents[1] if set_name == "nab" else first.path.parent
    train = first.train.parent if first.train is not None else files
    paired = all(one.train is None or one.train.name == one.path.name for one in series)
    whole = len(series) == len(list(files.rglob("*.csv*")))
    if set_name == "nab" and not whole:
        for one in series:
            path = scratch / "test" / f"{one.name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(one.path, path)
        return scratch / "test", scratch / "test"
    if set_name == "nab" or (paired and whole and not (command.targets_only or command.history)):
        return files, train
    for one in series:
        assert one.train is not None
        parts = {"train": pd.read_csv(one.train), "test": pd.read_csv(one.path)}
        if command.history:
            parts["test"] = pd.concat([parts["train"], parts["test"]])
        for part, table in parts.items():
            path = scratch / part / f"{one.name}.csv"
            path.parent.mkdir(parents=True, exist_ok=True)
            table[["timestamp", *one.targets] if command.targets_only else table.columns].to_csv(path, index=False)
    return scratch / "test", scratch / "train"
