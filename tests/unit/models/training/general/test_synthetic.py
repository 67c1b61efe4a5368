"""The synthetic corpus: drawn from a seed, of every kind, and never more than a sensor could report."""

from __future__ import annotations

from datetime import UTC, datetime

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gatewatch.models.training.general.synthetic import KINDS, Clock, Corpus, generate

FIVE_MINUTES = 300


@pytest.fixture(scope="module")
def corpus() -> Corpus:
    return generate(40 * len(KINDS), 400, seed=3)


def of_kind(kind: str, series: int = 24, rows: int = 2000, seed: int = 0) -> np.ndarray:
    """(N, T) signals of one kind at five minutes, as they are before a sensor measures them."""
    return KINDS[kind](np.random.default_rng(seed), clock(series, rows))


def clock(series: int, rows: int) -> Clock:
    monday_ms = int(datetime(2026, 5, 4, tzinfo=UTC).timestamp()) * 1000
    times = monday_ms + np.arange(rows) * FIVE_MINUTES * 1000
    return Clock(np.tile(times, (series, 1)), np.full(series, float(FIVE_MINUTES)))


@settings(max_examples=5, deadline=None)
@given(series=st.integers(1, 30), rows=st.integers(2, 60), seed=st.integers(0, 99))
def test_the_same_seed_gives_the_same_corpus(series: int, rows: int, seed: int) -> None:
    once, again, other = generate(series, rows, seed), generate(series, rows, seed), generate(series, rows, seed + 1)
    for part in ("kinds", "timestamps_ms", "values"):
        assert getattr(once, part).tobytes() == getattr(again, part).tobytes()
    assert once.timestamps_ms.tobytes() != other.timestamps_ms.tobytes()


def test_every_kind_occurs_equally_often(corpus: Corpus) -> None:
    assert np.bincount(corpus.kinds).tolist() == [40] * len(KINDS)


def test_values_are_finite_or_missing_and_mostly_there(corpus: Corpus) -> None:
    assert not np.isinf(corpus.values).any()
    missing = np.isnan(corpus.values)
    assert 0.002 < missing.mean() < 0.1
    assert 0.1 < missing.any(axis=1).mean() < 0.3


def test_scales_go_from_millionths_to_thousand_millions(corpus: Corpus) -> None:
    spread = np.nanstd(corpus.values.astype(np.float64), axis=1)
    assert 0 < np.quantile(spread[spread > 0], 0.05) < 1e-4
    assert np.quantile(spread, 0.95) > 1e7


def test_time_goes_on_regularly_on_some_and_irregularly_on_others(corpus: Corpus) -> None:
    gaps = np.diff(corpus.timestamps_ms, axis=1)
    assert (gaps >= 0).all()
    regular = (gaps == gaps[:, :1]).all(axis=1)
    assert 0.5 < regular.mean() < 0.8
    assert {1000, 60_000, 300_000, 3_600_000} <= set(gaps[regular][:, 0].tolist())


def test_the_daily_kind_repeats_by_the_clock() -> None:
    """A day is 288 readings of five minutes; no other lag of about that size fits better."""
    signals = of_kind("daily", rows=288 * 7)
    lags = range(200, 400, 8)
    best = [max(lags, key=lambda lag: np.corrcoef(one[:-lag], one[lag:])[0, 1]) for one in signals]
    assert np.isin(best, [280, 288, 296]).mean() > 0.5


def test_counts_are_whole_and_not_negative() -> None:
    counts = of_kind("counts")
    assert (counts >= 0).all()
    assert (counts == np.round(counts)).all()


def test_two_valued_channels_have_two_values() -> None:
    assert all(len(np.unique(one)) <= 2 for one in of_kind("two_valued"))


def test_some_constant_channels_never_move_and_the_others_seldom_do() -> None:
    moves = (np.diff(of_kind("constants"), axis=1) != 0).mean(axis=1)
    assert (moves == 0).any()
    assert moves.max() < 0.4


def test_heavy_tails_are_heavy() -> None:
    signals = of_kind("heavy_tails")
    z = (signals - signals.mean(axis=1, keepdims=True)) / signals.std(axis=1, keepdims=True)
    assert np.median((z**4).mean(axis=1)) > 4  # normal: 3
