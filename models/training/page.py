"""A self-contained HTML page: text, tables and plots, nothing of which comes from another host."""

from __future__ import annotations

import io
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib.figure import Figure

from gatewatch.models.errors import GatewatchError
from gatewatch.models.text import as_html, one_line

INK, GRID = "#1f2933", "#d9dee4"
COLOURS = ("#2f6db5", "#d1602a", "#2e8b57", "#8a4fa3", "#b8952b", "#5b6b7a", "#c2406b", "#1f9aa0", "#7a5230", "#3d3d8f")

STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #1f2933; background: #fff; max-width: 72rem; margin: 2rem auto;
  padding: 0 1rem }
h1 { font-size: 1.5rem } h2 { font-size: 1.15rem; margin-top: 2.2rem }
table { border-collapse: collapse; font-size: 13px } .wide { overflow-x: auto }
th, td { padding: .25rem .6rem; border-bottom: 1px solid #d9dee4; text-align: right; white-space: nowrap }
th:first-child, td:first-child { text-align: left } .chosen { background: #fdf0e9; font-weight: 600 }
svg { max-width: 100%; height: auto } p { max-width: 48rem } .note { color: #52606d }
"""

PLOT_STYLE: Any = {
    "font.size": 9, "axes.edgecolor": INK, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK,
    "axes.grid": True, "grid.color": GRID, "grid.linewidth": 0.6, "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "legend.frameon": False, "lines.linewidth": 1.2,
    "svg.hashsalt": "gatewatch", "text.parse_math": False,
}  # fmt: skip


def svg(figure: Figure) -> str:
    """A figure as an SVG element, always the same one; what was marked as rasterised is pixels."""
    text = io.StringIO()
    with matplotlib.rc_context(PLOT_STYLE):
        figure.savefig(text, format="svg", dpi=110, metadata={"Date": None})
    return text.getvalue()[text.getvalue().index("<svg") :]


def paragraph(text: str, kind: str = "") -> str:
    """A paragraph of plain text."""
    return f'<p class="{kind}">{as_html(text)}</p>'


def table(header: Sequence[str], rows: Sequence[Sequence[str]], chosen: int | None = None) -> str:
    """A table of plain texts; the column `chosen` stands out."""

    def line(cells: Sequence[str], tag: str) -> str:
        kinds = [' class="chosen"' if number == chosen else "" for number in range(len(cells))]
        inside = (f"<{tag}{kind}>{as_html(cell)}</{tag}>" for kind, cell in zip(kinds, cells, strict=True))
        return f"<tr>{''.join(inside)}</tr>"

    body = "".join(line(row, "td") for row in rows)
    return f'<div class="wide"><table>{line(header, "th")}{body}</table></div>'


def label(name: str) -> str:
    """A channel's name in a plot, short; a space before one with _ in front, which matplotlib would not show."""
    shown = one_line(name)
    shown = shown if len(shown) <= 18 else f"{shown[:17]}…"
    return f" {shown}" if shown.startswith("_") else shown


def write_page(path: Path, title: str, parts: Sequence[tuple[str, str]]) -> None:
    """Write a page of headed parts, each HTML already.

    Raises:
        GatewatchError: the file cannot be written.
    """
    sections = "".join(f"<h2>{as_html(heading)}</h2>{content}" for heading, content in parts)
    name = as_html(title)
    write(
        path,
        f'<!doctype html><html lang="en"><meta charset="utf-8"><title>{name}</title><style>{STYLE}</style>'
        f"<h1>{name}</h1>{sections}</html>\n",
    )


def write(path: Path, text: str) -> None:
    """Write a text file and the folder it lies in.

    Raises:
        GatewatchError: it cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise GatewatchError(f"{path}: cannot be written: {error.strerror}") from error
