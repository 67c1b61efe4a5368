"""The training report is one file with every plot in it, and its figures are those of the held-out part."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from gatewatch.models.recordings.recording import Recording
from gatewatch.models.training.config import TrainConfig
from gatewatch.models.training.page import label
from gatewatch.models.training.report import student_quantile, write_report
from gatewatch.models.training.trained.train import Trained, model_card, train

CONFIG = TrainConfig(layers=1, hidden=6, window=16, lanes=4, epochs=8, learning_rate=2e-2)


def still_and_moving() -> Recording:
    """A wave that the last value misses, a channel of noise around it, and one that stands still, with gaps."""
    rng, t = np.random.default_rng(0), np.arange(400)
    values = np.stack([np.sin(t / 2), rng.normal(size=400), np.full(400, 7.0)], axis=1)
    values[rng.random(values.shape) < 0.02] = np.nan
    return Recording("<pump>", ("wave", "noise", "still"), 60_000 * t.astype(np.int64), values.astype(np.float32))


@pytest.fixture(scope="module")
def recordings() -> list[Recording]:
    return [still_and_moving(), still_and_moving().rows(0, 20)]  # one too short


@pytest.fixture(scope="module")
def trained(recordings: list[Recording]) -> Trained:
    return train(recordings, CONFIG)


def test_the_report_is_whole_in_itself_and_the_same_for_the_same_training(
    recordings: list[Recording], trained: Trained, tmp_path: Path
) -> None:
    for name in ("report", "again"):
        write_report(trained, recordings, tmp_path / "new" / f"{name}.html")
    page = (tmp_path / "new" / "report.html").read_text()
    assert page == (tmp_path / "new" / "again.html").read_text()
    for heading in ("Loss", "Forecast against reading", "Residuals", "Threshold and false alarms", "Errors by channel"):
        assert f"<h2>{heading}</h2>" in page
    assert page.count("<svg") == 5
    assert "src=" not in page
    assert "&lt;pump&gt;, the whole held-out part:" in page
    assert f"{trained.manifest.training['held_out_loss']:.4f} nats a value" in page

    held_out = recordings[0].values[300:]
    changes = held_out - recordings[0].values[299:-1]
    cells = page[page.index("<td>noise</td>") :].split("</tr>")[0]
    last_value = float(cells.split("<td>")[3].removesuffix("</td>"))
    assert last_value == pytest.approx(np.sqrt(np.nanmean(changes[:, 1] ** 2)), rel=2e-3)
    assert float(cells.split("<td>")[4].removesuffix("</td>")) < 1  # noise is forecast better by its mean
    assert "<td>still</td>" in page


def test_quantiles_are_those_of_students_t() -> None:
    found = student_quantile(np.array([0.005, 0.025, 0.4, 0.5, 0.9, 0.975]))
    np.testing.assert_allclose(found, [-4.6041, -2.7764, -0.2707, 0.0, 1.5332, 2.7764], atol=1e-4)


def test_names_of_channels_are_shown_as_they_are_and_act_on_no_page(trained: Trained, tmp_path: Path) -> None:
    """What is markup in HTML, in Markdown or in formulas of matplotlib, and what matplotlib would leave out."""
    names = ("<script>alert(1)</script>|[a](http://b.c)", "$\\frac{$", "_x\u202e")
    recording = still_and_moving()
    named = Recording("-->{<img src=x>", names, recording.timestamps_ms, recording.values)
    channels = [
        channel.model_copy(update={"name": name, "unit": "`$m$`"})
        for channel, name in zip(trained.manifest.channels, names, strict=True)
    ]
    manifest = trained.manifest.model_copy(update={"channels": channels})
    write_report(replace(trained, manifest=manifest), [named], tmp_path / "report.html")
    page, card = (tmp_path / "report.html").read_text(), model_card(manifest)
    for text in (page, card):
        assert "<script" not in text
        assert "<img" not in text
        assert "\u202e" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;|" in page
    assert r"| &lt;script&gt;alert(1)&lt;/script&gt;\|\[a\](http\://b.c) | \`\$m\$\` |" in card
    assert r"| \$\\frac\{\$ |" in card
    assert [label("_x"), label("y" * 30)] == [" _x", "y" * 17 + "…"]
