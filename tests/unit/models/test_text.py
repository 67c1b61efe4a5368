"""Names of others are shown as they are, and act on nothing."""

from __future__ import annotations

import pytest

from gatewatch.models.text import as_cell, as_html, as_markdown, listed, one_line, visible


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b]0;owned\x07", r"\x1b]0;owned\x07"),
        ("\x9b31m", r"\x9b31m"),
        ("\u202elive", r"\u202elive"),
        ("a\u2066b\u200b", r"a\u2066b\u200b"),
        ("a\rb\u2028c", r"a\rb\u2028c"),
        ("\ud800", r"\ud800"),
        ("temp é 温度 µ", "temp é 温度 µ"),
    ],
)
def test_what_would_act_on_a_terminal_is_shown_as_its_escape(text: str, shown: str) -> None:
    assert visible(text) == shown


def test_a_message_has_one_line_whatever_it_quotes() -> None:
    assert one_line("a\nb\r\n") == r"a\nb\r\n"
    assert visible("a\nb") == "a\nb"


def test_a_name_in_html_is_no_tag() -> None:
    assert (
        as_html("<img src=x onerror=\"a('b')\">&\n") == "&lt;img src=x onerror=&quot;a(&#x27;b&#x27;)&quot;&gt;&amp;\\n"
    )


def test_a_name_in_markdown_is_no_tag_no_link_no_cell_and_no_emphasis() -> None:
    assert as_markdown("<script>") == "&lt;script&gt;"
    assert as_markdown("[a](http://b.c)|d\n| e") == r"\[a\](http\://b.c)\|d\\n\| e"
    assert as_markdown("*a* _b_ `c` ![d](e) $f$ #g") == r"\*a\* \_b\_ \`c\` !\[d\](e) \$f\$ \#g"
    assert as_markdown("www.a.b a@b.c") == r"www\.a.b a\@b.c"


@pytest.mark.parametrize("name", ["=cmd|' /C calc'!A0", "+1", "-1", "@SUM(1)", "\t=1", "\r=1"])
def test_a_name_that_a_spreadsheet_would_compute_is_a_text(name: str) -> None:
    assert as_cell(name).startswith("'")
    assert as_cell("flow -1") == "flow -1"


def test_very_many_names_are_not_all_listed() -> None:
    assert listed(["a", "b"]) == "a, b"
    assert listed([f"c{n}" for n in range(30_000)]).endswith("c19, and 29980 more")
    assert len(listed(["x" * 10**6])) < 100
