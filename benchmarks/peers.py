"""Peers: known detectors that `benchmarks.quality` runs beside Gatewatch on the same recordings.

Each is one function (rows, train) -> (scores, state_bytes): `rows` is (N, C) in standardised units, its first `train`
rows are what it may fit on, `scores` is (N,), higher is stranger. Each is causal: the score of a row depends on this
row, rows before it and the first `train` rows only. `state_bytes` is what one stream keeps from one row to the next,
fitted parameters left out. One setting for all recordings, chosen beforehand, nothing tuned on labels.

To keep the whole run short, k-means and PCA fit on at most FIT_WINDOWS windows of the train part, drawn at random, and
the LSTM takes LSTM_STEPS steps of 32 pieces of 64 rows whatever the length of the train part. Half-space trees go row
by row in Python and take most of the time with it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.quality.series import period

Rows = NDArray[np.float64]
Scored = tuple[Rows, int]

WINDOW = 16  # rows that k-means, PCA and isolation forest look at together, the newest included
FIT_WINDOWS = 5000
LEAST_SPREAD = 0.1  # of the train rows' deviation; a channel that rests for a period has no shape
ROLLING = 200  # rows before the newest one, to which `surprise` compares it
LSTM_STEPS = 300
HIDDEN = 32


def standardise(values: Rows, train: int) -> Rows:
    """(N, C) in units of the train rows' standard deviations from their mean; a channel constant there keeps its unit.

    Beyond 100 the size says nothing more and only harms a fit.
    """
    centre, spread = values[:train].mean(0), values[:train].std(0)
    spread = np.where(spread > 1e-9 * np.maximum(1, np.abs(centre)), spread, 1.0)
    return np.asarray(np.clip((values - centre) / spread, -100, 100))


def surprise(residual: Rows, train: int) -> Rows:
    """Score of a forecast's residuals (N, C): a rolling z-score of their size, the same for every forecaster.

    size = root mean square over channels, each in units of its own residual on the train rows;
    score = (size - mean of the ROLLING sizes before) / max(their deviation, deviation of the train rows' sizes)
    """
    size = np.sqrt((standardise(residual, train) ** 2).mean(1))
    total = np.concatenate([[0.0], size.cumsum()])
    squares = np.concatenate([[0.0], (size**2).cumsum()])
    row = np.arange(1, len(size))
    first = np.maximum(row - ROLLING, 0)
    mean = (total[row] - total[first]) / (row - first)
    deviation = np.sqrt(np.maximum((squares[row] - squares[first]) / (row - first) - mean**2, 0))
    floor = max(float(size[:train].std()), 1e-9)
    return np.concatenate([[0.0], (size[1:] - mean) / np.maximum(deviation, floor)])


def persistence(rows: Rows, train: int) -> Scored:
    """The next row is forecast to be like this one."""
    residual = np.diff(rows, axis=0, prepend=rows[:1])
    return surprise(residual, train), 8 * (ROLLING + rows.shape[1])


def lstm(rows: Rows, train: int) -> Scored:
    """One LSTM layer forecasts the next row; trained on the train rows, then stepped over all of them."""
    import torch

    torch.manual_seed(0)
    channels = rows.shape[1]
    x = torch.from_numpy(rows.astype(np.float32)).clamp(-10, 10)
    network = torch.nn.LSTM(channels, HIDDEN, batch_first=True)
    readout = torch.nn.Linear(HIDDEN, channels)
    optimiser = torch.optim.Adam([*network.parameters(), *readout.parameters()], lr=5e-3)
    pieces = x[:train].unfold(0, min(65, train), 1).transpose(1, 2)  # (pieces, 65, C)
    for _ in range(LSTM_STEPS):
        batch = pieces[torch.randint(len(pieces), (32,))]
        loss = torch.nn.functional.mse_loss(readout(network(batch[:, :-1])[0]), batch[:, 1:])
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    with torch.no_grad():
        forecast = readout(network(x[None, :-1])[0])[0].double().numpy()
    residual = np.concatenate([np.zeros((1, channels)), rows[1:] - forecast])
    return surprise(residual, train), 8 * ROLLING + 4 * 2 * HIDDEN


def windows(rows: Rows) -> NDArray[np.float32]:
    """(N, WINDOW * C): each row with the WINDOW - 1 before it; before the first one stands the first one."""
    padded = np.concatenate([np.repeat(rows[:1], WINDOW - 1, axis=0), rows]).astype(np.float32)
    return np.lib.stride_tricks.sliding_window_view(padded, WINDOW, axis=0).reshape(len(rows), -1)


def to_fit(seen: NDArray[Any], train: int) -> NDArray[Any]:
    """At most FIT_WINDOWS of the train part's windows."""
    if train <= FIT_WINDOWS:
        return seen[:train]
    return seen[np.random.default_rng(0).choice(train, FIT_WINDOWS, replace=False)]


def kmeans(rows: Rows, train: int) -> Scored:
    """Distance of the newest window from the nearest of 16 centres."""
    from sklearn.cluster import KMeans

    seen = windows(rows)
    fitted = KMeans(n_clusters=16, n_init=1, random_state=0).fit(to_fit(seen, train))
    return fitted.transform(seen).min(1).astype(np.float64), 8 * WINDOW * rows.shape[1]


def kmeans_period(rows: Rows, train: int) -> Scored:
    """Distance of the shape of the newest period from the nearest of 16 centres: of what is left of each channel when
    the period's mean and deviation, at least LEAST_SPREAD, are taken out."""
    from sklearn.cluster import KMeans

    length = period(rows[:train, 0])
    padded = np.concatenate([np.repeat(rows[:1], length - 1, axis=0), rows]).astype(np.float32)
    seen = np.lib.stride_tricks.sliding_window_view(padded, length, axis=0)  # (N, C, length)

    def shapes(at: NDArray[np.intp]) -> NDArray[np.float32]:
        found = seen[at] - seen[at].mean(2, keepdims=True)
        found /= np.maximum(found.std(2, keepdims=True), LEAST_SPREAD)
        return np.asarray(found.reshape(len(at), -1))

    fit = shapes(to_fit(np.arange(len(rows)), train))
    fitted = KMeans(n_clusters=min(16, len(fit)), n_init=1, random_state=0).fit(fit)
    pieces = np.array_split(np.arange(len(rows)), 1 + len(rows) // 4096)
    scores = np.concatenate([fitted.transform(shapes(piece)).min(1) for piece in pieces])
    return scores.astype(np.float64), 8 * length * rows.shape[1]


def pca(rows: Rows, train: int) -> Scored:
    """Hotelling's T2 inside the components with 90 % of the variance plus Q, the squared distance from them.

    Each in units of its own 0.99 quantile on the train rows, as process monitoring combines the two.
    """
    seen: NDArray[Any] = windows(rows).astype(np.float64)
    fit = to_fit(seen, train)
    centre = fit.mean(0)
    variance, axes = np.linalg.eigh(np.cov(fit - centre, rowvar=False))
    variance, axes = variance[::-1], axes[:, ::-1]
    kept = 1 + int(np.searchsorted(variance.cumsum(), 0.9 * variance.sum()))
    inside = (seen - centre) @ axes[:, :kept]
    t2 = (inside**2 / np.maximum(variance[:kept], 1e-9)).sum(1)
    q = np.maximum(((seen - centre) ** 2).sum(1) - (inside**2).sum(1), 0)
    limit = [max(float(np.quantile(part[:train], 0.99)), 1e-9) for part in (t2, q)]
    return t2 / limit[0] + q / limit[1], 8 * WINDOW * rows.shape[1]


def isolation_forest(rows: Rows, train: int) -> Scored:
    """How few random cuts isolate the newest window; 100 trees."""
    from sklearn.ensemble import IsolationForest

    seen = windows(rows)
    fitted = IsolationForest(n_estimators=100, random_state=0).fit(seen[:train])
    return -fitted.score_samples(seen).astype(np.float64), 8 * WINDOW * rows.shape[1]


def half_space_trees(rows: Rows, train: int) -> Scored:
    """Half-space trees, which go on learning; a row is scored before it is learned. 10 trees of depth 8."""
    from river.anomaly import HalfSpaceTrees

    low, high = rows[:train].min(0), rows[:train].max(0)
    unit = np.clip((rows - low) / np.where(high > low, high - low, 1.0), 0, 1)
    forest: Any = HalfSpaceTrees(n_trees=10, height=8, window_size=min(250, train // 2), seed=0)
    names = [f"c{channel}" for channel in range(rows.shape[1])]
    scores = np.empty(len(rows))
    for at, row in enumerate(unit.tolist()):
        reading = dict(zip(names, row, strict=True))
        scores[at] = forest.score_one(reading)
        forest.learn_one(reading)
    return scores, 10 * (2**9 - 1) * 2 * 8  # two counters a node


PEERS: dict[str, Callable[[Rows, int], Scored]] = {
    "persistence": persistence,
    "lstm": lstm,
    "kmeans": kmeans,
    "kmeans-period": kmeans_period,
    "pca": pca,
    "isolation-forest": isolation_forest,
    "half-space-trees": half_space_trees,
}
