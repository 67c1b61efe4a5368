"""Pictures of a scan: readings, the band that is normal, score and incidents; as HTML or as PNG."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from string import Template

import numpy as np
from numpy.typing import NDArray

from gatewatch.models.errors import GatewatchError
from gatewatch.models.findings import Finding, lasted, with_unit
from gatewatch.models.scores import iso
from gatewatch.models.text import as_html, one_line
from gatewatch.service.cli_support.traces import Trace, drawn

SUFFIXES = (".html", ".png")
POINTS = 3000
"""Of a channel in a file; a screen has about as many."""

WIDTH, HEIGHT, SCORE_HEIGHT, LEFT, RIGHT = 1000, 120, 70, 70, 10
MOST_DOTS = 300
"""Anomalous readings of a channel that are marked, where an incident is told of it."""

HIGHEST_SCORE = 10.0
"""A score above it is drawn there; the scale is that of the square root."""

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>$title</title>
<style>
:root { color-scheme: light dark; --line: #1f5fa8; --band: #1f5fa833; --bad: #c62828; --pale: #c6282822;
  --grid: #8884; }
@media (prefers-color-scheme: dark) {
  :root { --line: #7fb3f0; --band: #7fb3f033; --bad: #ff8a80; --pale: #ff8a8022; }
}
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 1040px; padding: 0 1rem; }
table { border-collapse: collapse; } td, th { padding: .2rem .8rem .2rem 0; text-align: left; vertical-align: top; }
th { border-bottom: 1px solid var(--grid); } .scroll { overflow-x: auto; }
svg { width: 100%; height: auto; display: block; } svg text { font-size: 11px; fill: currentColor; }
.value { fill: none; stroke: var(--line); stroke-width: 1.2; vector-effect: non-scaling-stroke; }
.band { fill: var(--band); } .incident { fill: var(--pale); }
.score { fill: none; stroke: var(--bad); stroke-width: 1.2; }
.edge { stroke: var(--grid); } .dot { fill: var(--bad); }
</style></head><body>
<h1>$title</h1>
<p>$summary</p>
<div class="scroll"><table><thead><tr>$heads</tr></thead><tbody>
$rows
</tbody></table></div>
$pictures
<p>Blue: readings, in the band that was normal. Red: the score; the line across it is the threshold, 1.0.
Shaded: incidents.</p>
</body></html>
""")


def require_picture(path: Path) -> None:
    """Refuse, before a long scan, a picture that cannot be drawn or written.

    Raises:
        GatewatchError: another ending than one of SUFFIXES, a folder, or matplotlib is missing for a PNG.
    """
    if path.suffix not in SUFFIXES or path.is_dir():
        raise GatewatchError(f"--plot {path}: expected a file to write, its name ending in {' or '.join(SUFFIXES)}")
    if path.suffix == ".png":
        try:
            import matplotlib  # noqa: F401 - needed at the end
        except ImportError as error:
            raise GatewatchError(
                "a PNG needs matplotlib: pip install 'gatewatch[plot]'; or name a picture that ends in .html"
            ) from error


def write_picture(path: Path, title: str, summary: str, traces: Sequence[Trace], findings: Sequence[Finding]) -> None:
    """Draw a scan into a file. Raises GatewatchError where it cannot be written."""
    traces = [drawn(trace, POINTS) for trace in traces]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".png":
            _write_png(path, title, traces, findings)
        else:
            path.write_text(page(title, summary, traces, findings), encoding="utf-8")
    except OSError as error:
        raise GatewatchError(f"{path}: the picture cannot be written: {error.strerror}") from error


HEADS = ("stream", "channel", "begins", "lasts", "", "expected", "actual", "score", "why")


def cells_of(one: Finding) -> tuple[str, ...]:
    """An incident as a row of a table, under HEADS."""
    begins = iso(one.start_us)[:19].replace("T", " ")
    length = lasted((one.end_us - one.start_us) / 1e6) if one.readings > 1 else "1 reading"
    return (
        one_line(one.stream), one_line(one.channel), begins, f"{length}{' or more' if one.running else ''}",
        one.direction, with_unit(one.expected, one.unit, one.actual), with_unit(one.actual, one.unit, one.expected),
        f"{one.score:.3g}", one.words(),
    )  # fmt: skip


def page(title: str, summary: str, traces: Sequence[Trace], findings: Sequence[Finding]) -> str:
    """A page that holds all it needs."""
    rows = "\n".join(f"<tr>{''.join(f'<td>{as_html(cell)}</td>' for cell in cells_of(one))}</tr>" for one in findings)
    return PAGE.substitute(
        title=as_html(title), summary=as_html(summary), heads="".join(f"<th>{head}</th>" for head in HEADS), rows=rows,
        pictures="\n".join(_svg(trace, _of(trace, findings)) for trace in traces),
    )  # fmt: skip


def _of(trace: Trace, findings: Sequence[Finding]) -> list[Finding]:
    return [one for one in findings if one.stream == trace.stream]


def _svg(trace: Trace, findings: Sequence[Finding]) -> str:
    first, last = int(trace.times_us.min()), int(trace.times_us.max())
    x = LEFT + (WIDTH - LEFT - RIGHT) * (trace.times_us - first) / max(1, last - first)
    parts: list[str] = []
    top = 20.0
    for at, title in enumerate(trace.titles()):
        marked = any(one.channel == trace.channels[at] for one in findings)
        parts += _channel_svg(trace, at, x, top, title, marked=marked)
        top += HEIGHT + 30
    height = SCORE_HEIGHT / math.sqrt(HIGHEST_SCORE)
    y = top + SCORE_HEIGHT - np.sqrt(np.minimum(trace.score, HIGHEST_SCORE)) * height
    edge = top + SCORE_HEIGHT - height
    parts.append(f'<text x="{LEFT}" y="{top - 5:.0f}">score</text><path class="score" d="{_path(x, y)}"/>')
    parts.append(
        f'<path class="edge" d="M{LEFT} {edge:.1f}H{WIDTH - RIGHT}"/><text x="5" y="{edge + 4:.0f}">1.0</text>'
    )
    bottom = top + SCORE_HEIGHT
    shade = []
    for one in findings:
        start, end = (
            LEFT + (WIDTH - LEFT - RIGHT) * (at - first) / max(1, last - first) for at in (one.start_us, one.end_us)
        )
        told = as_html(", ".join(cell for cell in cells_of(one) if cell))
        shade.append(
            f'<rect class="incident" x="{start - 1:.1f}" y="15" width="{max(3.0, end - start + 2):.1f}" '
            f'height="{bottom - 15:.0f}"><title>{told}</title></rect>'
        )
    for place, anchor in ((first, "start"), ((first + last) // 2, "middle"), (last, "end")):
        at = {"start": LEFT, "middle": (LEFT + WIDTH - RIGHT) // 2, "end": WIDTH - RIGHT}[anchor]
        parts.append(f'<text x="{at}" y="{bottom + 15:.0f}" text-anchor="{anchor}">{iso(place)[:19]}</text>')
    label = as_html(f"{trace.stream}: readings of {', '.join(trace.channels)}, score, and {len(findings)} incidents")
    return (
        f'<h2>{as_html(trace.stream)}</h2>\n<svg role="img" aria-label="{label}" '
        f'viewBox="0 0 {WIDTH} {bottom + 20:.0f}">'
        f"{''.join(shade)}{''.join(parts)}</svg>"
    )


def _channel_svg(trace: Trace, at: int, x: NDArray[np.float64], top: float, name: str, *, marked: bool) -> list[str]:
    low, high = value_range(trace, at)

    def y(values: NDArray[np.float64]) -> NDArray[np.float64]:
        place: NDArray[np.float64] = top + HEIGHT - (np.clip(values, low, high) - low) / (high - low) * HEIGHT
        return place

    parts = [f'<text x="{LEFT}" y="{top - 5:.0f}">{as_html(name)}</text>']
    band = np.flatnonzero(np.isfinite(trace.low[:, at]))
    if len(band):
        upper, lower = y(trace.high[band, at]), y(trace.low[band, at])
        outline = np.concatenate([upper, lower[::-1]])
        parts.append(f'<path class="band" d="{_path(np.concatenate([x[band], x[band][::-1]]), outline)}Z"/>')
    values = y(trace.values[:, at])
    parts.append(f'<path class="value" d="{_path(x, values)}"/>')
    lone = np.flatnonzero(trace.anomalous & np.isfinite(trace.values[:, at]))[: MOST_DOTS if marked else 0]
    parts += [f'<circle class="dot" cx="{x[one]:.1f}" cy="{values[one]:.1f}" r="1.6"/>' for one in lone]
    for value, place in ((high, top + 10), (low, top + HEIGHT)):
        parts.append(f'<text x="5" y="{place:.0f}">{value:.4g}</text>')
    return parts


def value_range(trace: Trace, at: int) -> tuple[float, float]:
    """The lowest and highest reading of a channel, of what is shown."""
    values = trace.values[:, at]
    known = values[np.isfinite(values)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low - 0.5 * max(1e-9, abs(low)), high + 0.5 * max(1e-9, abs(high)))


def _path(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """A line that is broken where nothing is known."""
    parts, pen = [], "M"
    for one, other in zip(x.tolist(), y.tolist(), strict=True):
        if math.isfinite(other):
            parts.append(f"{pen}{one:.1f} {other:.1f}")
            pen = "L"
        else:
            pen = "M"
    return "".join(parts)


def _write_png(path: Path, title: str, traces: Sequence[Trace], findings: Sequence[Finding]) -> None:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    panels = sum(len(trace.channels) + 1 for trace in traces)
    figure = Figure(figsize=(12, 1.0 + 1.7 * panels), layout="constrained")
    FigureCanvasAgg(figure)
    axes = np.atleast_1d(figure.subplots(panels, 1))
    figure.suptitle(one_line(title).replace("$", r"\$"))
    each = iter(axes)
    for trace in traces:
        times = trace.times_us.astype("datetime64[us]")
        for at, name in enumerate([*trace.titles(), "score"]):
            axis = next(each)
            if at == len(trace.channels):
                axis.plot(times, np.minimum(trace.score, HIGHEST_SCORE), color="tab:red", linewidth=0.8)
                axis.axhline(1.0, color="gray", linewidth=0.6)
            else:
                low, high = value_range(trace, at)
                axis.fill_between(times, trace.low[:, at], trace.high[:, at], alpha=0.2, linewidth=0)
                axis.plot(times, trace.values[:, at], linewidth=0.8)
                axis.set_ylim(low - 0.05 * (high - low), high + 0.05 * (high - low))
            for one in findings:
                if one.stream == trace.stream:
                    begin, end = (np.datetime64(time, "us") for time in (one.start_us, one.end_us))
                    axis.axvspan(begin, end, color="tab:red", alpha=0.15)
            axis.set_title(one_line(f"{trace.stream}: {name}").replace("$", r"\$"), fontsize=9, loc="left")
    figure.savefig(path, dpi=100)
