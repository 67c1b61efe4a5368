"""Telemanom's recipe as a peer, and what each of its ingredients is worth.

    python -m benchmarks.quality.telemanom DATA --eval EVAL --out OUT [--sample 6] [--seed 1]

Hundman et al. 2018, "Detecting Spacecraft Anomalies Using LSTMs and Nonparametric Dynamic Thresholding", as they
write it:

    forecast    an LSTM of two layers of 80 units is shown a channel's value and all commands, and forecasts the value
    errors      |value - forecast|, smoothed by an exponential mean
    threshold   μ + z σ of the last 2,100 errors, z such that what lies above lowers μ and σ most; every 70 rows anew
    pruning     incidents whose peaks are not 13 % higher than the next lower one are taken back
    buffer      what is flagged is widened by 100 rows to both sides, so that neighbours become one incident

The first 2,100 rows are judged together, all later ones with up to 70 rows after them, and the buffer reaches back: no
live stream could be judged so. `causal` is without the first and the last; the train part's errors come before it.

Smaller than theirs in one point: the network learns from pieces of LENGTH rows with a loss at each row of their second
half, where theirs takes one window of LENGTH rows for each forecast, 250 times the work.

The errors are kept in OUT/telemanom/errors, so that ingredients can be left out without training anew.
"""

from __future__ import annotations

import argparse
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from numpy.typing import NDArray
from rich.console import Console
from rich.progress import track
from rich.table import Table

from benchmarks.quality.dynamic import LEAST_FALL, WINDOW, cut, dynamic_flags
from benchmarks.quality.measures import Scorers, figures, first_of_incident, interval, resamples
from benchmarks.quality.report import markdown
from benchmarks.quality.series import Series, read_set

LENGTH, HIDDEN, LAYERS, DROPOUT = 250, 80, 2, 0.3
EPOCHS, BATCH, LEARNING_RATE = 35, 64, 1e-3
HELD_OUT, PATIENCE = 0.2, 10
"""The paper's, and of the train part what ends the training."""

SMOOTHED = 105
"""Rows that the exponential mean of errors spans: 5 % of WINDOW."""

BUFFER = 100
QUANTILE = 0.999
"""Of the train part's errors: the fixed threshold that the dynamic one is held against."""

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]


@dataclass(frozen=True)
class Recipe:
    """Which ingredients are in it."""

    forecast: str = "lstm"
    smoothed: bool = True
    dynamic: bool = True
    least_fall: float = LEAST_FALL
    hindsight: bool = True
    buffer: bool = True


WHOLE = Recipe()
CAUSAL = Recipe(hindsight=False, buffer=False)
RECIPES = {
    "as published": WHOLE,
    "value only, no commands": replace(WHOLE, forecast="value"),
    "last value, no network": replace(WHOLE, forecast="last"),
    "errors not smoothed": replace(WHOLE, smoothed=False),
    "fixed threshold": replace(WHOLE, dynamic=False),
    "not pruned": replace(WHOLE, least_fall=0.0),
    "no buffer": replace(WHOLE, buffer=False),
    "no hindsight": replace(WHOLE, hindsight=False),
    "causal: no hindsight, no buffer": CAUSAL,
    "causal, last value": replace(CAUSAL, forecast="last"),
    "causal, fixed threshold": replace(CAUSAL, dynamic=False),
    "last value, not smoothed, fixed": Recipe("last", smoothed=False, dynamic=False),
}
SET = "smap_msl"
SHOWN = ("event P", "event R", "event F1", "FAR %", "composite", "VUS-PR")


def errors(one: Series, forecast: str, seed: int = 0) -> Floats:
    """(N,) how far the forecast of the first target channel was off, train part first."""
    value = one.values[:, 0]
    if forecast == "last":
        return np.abs(np.diff(value, prepend=value[0]))
    inputs = value[:, None] if forecast == "value" else np.column_stack([value, one.others])
    return np.abs(value - _forecast(inputs.astype(np.float32), one.train_rows, seed))


def _forecast(inputs: NDArray[np.float32], train: int, seed: int) -> Floats:
    """(N,) forecasts of the first column of (N, D) inputs, each from the LENGTH rows before at most.

    The first row is forecast as it is.
    """
    torch.manual_seed(seed)
    x = torch.from_numpy(inputs)
    network = torch.nn.LSTM(x.shape[1], HIDDEN, LAYERS, dropout=DROPOUT, batch_first=True)
    readout = torch.nn.Linear(HIDDEN, 1)
    learn_to = train - int(HELD_OUT * train)
    length = max(2, min(LENGTH, learn_to // 2))
    learned, held = (_pieces(part, length) for part in (x[:learn_to], x[max(0, learn_to - length) : train]))
    optimiser = torch.optim.Adam([*network.parameters(), *readout.parameters()], lr=LEARNING_RATE)

    def loss(pieces: torch.Tensor) -> torch.Tensor:
        ahead = readout(network(pieces[:, :-1])[0])[..., 0]
        return torch.nn.functional.mse_loss(ahead[:, length // 2 :], pieces[:, 1 + length // 2 :, 0])

    best, kept, waited = np.inf, [readout.state_dict(), network.state_dict()], 0
    for _ in range(EPOCHS):
        network.train()
        for batch in torch.randperm(len(learned)).split(BATCH):
            optimiser.zero_grad()
            loss(learned[batch]).backward()
            optimiser.step()
        network.eval()
        with torch.no_grad():
            now = float(loss(held))
        waited += 1
        if now < best:
            best, waited = now, 0
            kept = [{name: of.clone() for name, of in part.state_dict().items()} for part in (readout, network)]
        if waited >= PATIENCE:
            break
    readout.load_state_dict(kept[0])
    network.load_state_dict(kept[1])
    network.eval()
    return _ahead(x, network, readout, length)


def _pieces(rows: torch.Tensor, length: int) -> torch.Tensor:
    """(P, length + 1, D) pieces that begin every tenth of their length."""
    size = min(length + 1, len(rows))
    return rows.unfold(0, size, max(1, length // 10)).transpose(1, 2)


def _ahead(x: torch.Tensor, network: torch.nn.LSTM, readout: torch.nn.Linear, length: int) -> Floats:
    """(N,) forecasts from windows that overlap by half, of which the second halves count."""
    half = length // 2
    begins = np.arange(0, max(1, len(x) - half), half)
    found = x[:, 0].double().numpy().copy()
    with torch.no_grad():
        for some in np.array_split(begins, 1 + len(begins) // 64):
            for begin in some.tolist():
                window = x[begin : begin + length]
                said = readout(network(window[None])[0])[0, :, 0].double().numpy()
                first = 0 if begin == 0 else half
                rows = np.arange(begin + first + 1, min(begin + len(window) + 1, len(x)))
                found[rows] = said[first : first + len(rows)]
    return found


def smooth(of: Floats) -> Floats:
    """(N,) an exponential mean over SMOOTHED rows."""
    return np.asarray(pd.Series(of).ewm(span=SMOOTHED).mean())


def judge(recipe: Recipe, of: Floats, train: int) -> tuple[Floats, Flags]:
    """Score and flags of the rows after the train part, by (N,) errors of all.

    The score is the error in units of the train part's QUANTILE.
    """
    of = smooth(of) if recipe.smoothed else of
    usual = max(float(np.quantile(of[:train], QUANTILE)), 1e-9)
    score = of[train:] / usual
    if not recipe.dynamic:
        flag = score > 1.0
    elif recipe.hindsight:
        flag = dynamic_flags(of[train:], least_fall=recipe.least_fall)
        flag[:WINDOW] = cut(of[train : train + WINDOW], recipe.least_fall)
    else:
        flag = dynamic_flags(of, least_fall=recipe.least_fall)[train:]
    if recipe.buffer:
        flag = np.convolve(flag, np.ones(2 * BUFFER + 1))[BUFFER : BUFFER + len(flag)] > 0.5
    return score, flag


def scored(one: Series, recipe: Recipe, out: Path, seed: int = 0) -> pd.DataFrame:
    """Score, flag and alert of each row of a series; errors already in `out` are not made anew."""
    path = out / "telemanom" / "errors" / f"{recipe.forecast}-{seed}" / f"{one.name}.npy"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        np.save(path, errors(one, recipe.forecast, seed))
    score, flag = judge(recipe, np.load(path), one.train_rows)
    return pd.DataFrame({"score": score, "flag": flag.astype(int), "alert": first_of_incident(flag).astype(int)})


def main() -> None:
    """Print the figures of every recipe, and write them to OUT/telemanom/table.md."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("--eval", type=Path, required=True, help="folder of multi_eval.py and nab_score.py")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--sample", type=int, help="series, evenly chosen; all by default")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    scorers, series = Scorers(options.eval), read_set(options.data, SET, options.out, options.sample)
    header = ["recipe", *SHOWN, "event F1 less that of the whole"]
    rows, whole = [], None
    for title, recipe in track(RECIPES.items(), SET):
        counts = scorers.count(
            SET, series, {one.name: scored(one, recipe, options.out, options.seed) for one in series}
        )
        value, drawn = figures(SET, counts), figures(SET, counts, resamples(len(counts)))
        whole = whole or (value["event F1"], drawn["event F1"])
        cells = [f"{value[column][0]:.{1 if '%' in column else 3}f}" for column in SHOWN]
        low, high = interval(drawn["event F1"] - whole[1])
        differs = f"{(value['event F1'] - whole[0])[0]:+.3f} ({low:+.3f} to {high:+.3f})"
        rows.append([title, *cells, "" if title == "as published" else differs])
    table = Table(*header, title=f"telemanom, {len(series)} series")
    for row in rows:
        table.add_row(*row)
    Console(width=150).print(table)
    (options.out / "telemanom" / "table.md").write_text(markdown(header, rows))


if __name__ == "__main__":
    main()
