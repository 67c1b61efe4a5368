"""Names and words of others, made harmless where they are shown: terminal, HTML, Markdown, a cell of a CSV.

A name may be anything that stands in a file's header. What would move the cursor, turn the direction of writing, end a
line or hide itself is shown as its escape in Python, so that it can still be told apart.
"""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Collection
from itertools import islice

HIDDEN = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
"""Categories of Unicode that are not seen, or act on what surrounds them: controls, formats, surrogates, line ends."""

MARKDOWN = re.compile(r"[\\`*_{}\[\]#|~$:@]|(?<=www)\.")
MOST_LISTED, LONGEST_SHOWN = 20, 80
"""Names in a message, and characters of one."""

FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""With these a spreadsheet takes a cell for a formula, be it in quotes or not."""


def visible(text: str) -> str:
    """Text of several lines in which nothing acts on a terminal; its own line ends stay."""
    return text if text.isascii() and text.isprintable() else "".join(map(_visible, text))


def one_line(text: str) -> str:
    """A name, or a message with names in it, on one line."""
    return visible(text).replace("\n", "\\n")


def listed(names: Collection[str]) -> str:
    """Names with commas between; of very many the first ones."""
    first = [name[:LONGEST_SHOWN] for name in islice(names, MOST_LISTED)]
    more = [f"and {len(names) - MOST_LISTED} more"] if len(names) > MOST_LISTED else []
    return ", ".join(first + more)


def counted(count: int, noun: str) -> str:
    """A number with its noun: 1 row, 2 rows."""
    return f"{count} {noun}{'s' * (count != 1)}"


def as_html(text: str) -> str:
    """Plain text within an element or an attribute."""
    return html.escape(one_line(text))


def as_markdown(text: str) -> str:
    """Plain text within a paragraph or a cell of a table: no tag, no link, no emphasis."""
    return html.escape(MARKDOWN.sub(r"\\\g<0>", one_line(text)), quote=False)


def as_cell(text: str) -> str:
    """A name in a CSV; an apostrophe before one that a spreadsheet would compute keeps it a text."""
    return f"'{one_line(text)}" if text.startswith(FORMULA) else one_line(text)


def _visible(character: str) -> str:
    if character == "\n" or unicodedata.category(character) not in HIDDEN:
        return character
    return character.encode("unicode_escape").decode()
