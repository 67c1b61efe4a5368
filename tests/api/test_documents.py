"""The pages say what is true: links, commands, options, settings, series, routes, files."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Callable
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Final

import pytest
import redis
import typer
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.cli import app as command
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.settings import COMMANDS_KEY, RENAMED, Settings
from tests.support.cli import gatewatch
from tests.support.samples import post, readings

ROOT: Final = Path(__file__).parent.parent.parent
PAGES: Final = sorted(
    page
    for pattern in ("*.md", "docs/**/*.md", "examples/*.md", "benchmarks/**/*.md", "tests/*.md")
    for page in ROOT.glob(pattern)
)
_FENCE: Final = re.compile(r"^```([^\n]*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_SPAN: Final = re.compile(r"`([^`]+)`")
_OPTION: Final = re.compile(r"(?<![\w-])--[a-z][a-z-]*")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path) -> list[tuple[str, str]]:
    """Language and content of each block of a page, in order."""
    return _FENCE.findall(page.read_text())


def blocks_of(page: Path, language: str) -> list[str]:
    """The contents of those in one language."""
    return [content for of, content in blocks(page) if of == language]


def prose_of(page: Path) -> str:
    return _FENCE.sub("", page.read_text())


def spans_of(page: Path) -> list[str]:
    return [" ".join(span.split()) for span in _SPAN.findall(prose_of(page))]


def lines_of(page: Path) -> list[str]:
    """Every command line of a page, and every span of code in its prose."""
    scripts = "\n".join(blocks_of(page, "sh")).replace("\\\n", " ")
    return [line.partition(" #")[0] for line in scripts.splitlines()] + spans_of(page)


def options() -> dict[str, set[str]]:
    """The options of each command of gatewatch; those of gatewatch itself under an empty name."""
    group = typer.main.get_command(command)
    found = {"": group, **group.commands}  # type: ignore[attr-defined]
    below = {name: [one, *getattr(one, "commands", {}).values()] if name else [one] for name, one in found.items()}
    return {name: {"--help", *(o for c in all_ for p in c.params for o in p.opts)} for name, all_ in below.items()}


def source_of(module: str) -> str:
    spec = find_spec(module)
    assert spec is not None, module
    folder = Path(spec.submodule_search_locations[0]) if spec.submodule_search_locations else None
    return "\n".join(path.read_text() for path in (folder.glob("*.py") if folder else [Path(spec.origin or "")]))


def anchors_of(page: Path) -> set[str]:
    """As GitHub makes them of headings."""
    heads = re.findall(r"^#+ (.*)$", prose_of(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


pages = pytest.mark.parametrize("page", PAGES, ids=name_of)


@pages
def test_every_link_leads_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", _SPAN.sub("", prose_of(page))):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        there = (page.parent / path).resolve() if path else page
        assert there.exists(), target
        assert not anchor or anchor in anchors_of(there), target


def test_the_index_lists_every_page_of_its_folder() -> None:
    index = (ROOT / "docs/index.md").read_text()
    listed = {(ROOT / "docs" / target).resolve() for target in re.findall(r"\]\(([^)#]+)\)", index)}
    assert [
        name_of(page) for page in (ROOT / "docs").rglob("*.md") if page.name != "index.md" and page not in listed
    ] == []


@pages
def test_every_command_and_option_exists(page: Path) -> None:
    known = options()
    for line in lines_of(page):
        for name, rest in re.findall(r"(?:gatewatch|service\.cli) ([a-z-]+)([^|;&]*)", line):
            if name.startswith("--"):
                assert name in known[""], line
            elif name != "on" and not line.startswith("helm "):  # the user of an access list; a release of the chart
                assert name in known, line
                assert set(_OPTION.findall(rest)) <= known[name], line
        for module, rest in re.findall(r"-m ((?:benchmarks|tests|models)[.\w]*)([^|;&]*)", line):
            if not module.endswith("NAME"):
                source = source_of(module)
                assert {*_OPTION.findall(rest)} <= {"--help", *_OPTION.findall(source)}, line


@pages
def test_an_option_by_itself_is_one_of_ours(page: Path) -> None:
    sources = [path.read_text() for room in ("benchmarks", "tests", "examples") for path in (ROOT / room).rglob("*.py")]
    known = set().union(*options().values(), *(re.findall(r'"(--[a-z-]+)"', source) for source in sources))
    alone = [span for span in spans_of(page) if span.startswith("--")]
    assert [span for span in alone if not set(_OPTION.findall(span)) <= known] == []


@pages
def test_every_file_that_is_named_is_there(page: Path) -> None:
    rooms = ("service/", "models/", "tests/", "docker/", "docs/", "examples/", "benchmarks/", ".ci/")
    named = [span for span in spans_of(page) if span.startswith(rooms) and re.fullmatch(r"[\w./-]+", span)]
    assert [path for path in named if not (ROOT / path).exists()] == []


@pages
def test_every_test_that_is_named_is_there(page: Path) -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "tests").rglob("test_*.py"))
    named = [span for span in spans_of(page) if re.fullmatch(r"test_\w+", span)]
    assert [name for name in named if f"def {name}(" not in sources] == []


def test_the_tree_of_the_architecture_is_the_tree() -> None:
    tree = blocks_of(ROOT / "docs/architecture.md", "text")[0]
    folders: list[str] = []
    named = set()
    for line in tree.splitlines():
        depth = (len(line) - len(line.lstrip())) // 2
        folders[depth:] = [line.split()[0]]
        named.add("".join(folders))
    assert [path for path in named if not (ROOT / path).exists()] == []
    rooms = {f"{room.relative_to(ROOT)}/" for top in ("service", "models") for room in (ROOT / top).rglob("*/")}
    assert {room for room in rooms if any((ROOT / room).glob("*.py"))} <= named


@pages
def test_every_setting_and_series_that_is_named_exists(page: Path) -> None:
    text = page.read_text()
    settings = {COMMANDS_KEY, *(f"GATEWATCH_{name.upper()}" for name in (*Settings.model_fields, *RENAMED))}
    assert set(re.findall(r"GATEWATCH_[A-Z0-9_]*[A-Z0-9]", text)) <= settings
    exposed = Metrics().exposition().decode()
    series = {name.removesuffix("_total") for name in re.findall(r"^# TYPE (\w+)", exposed, re.MULTILINE)}
    named = {re.sub(r"_(total|bucket|sum|count)$", "", name) for name in re.findall(r"\bgatewatch_\w+", text)}
    assert named <= series | {"gatewatch_client"}  # a package


def shown(default: object) -> str:
    """A default as the page writes it."""
    if default in (None, ()):
        return "none"
    if isinstance(default, float):
        return f"{default:g}"
    return str(default).lower() if isinstance(default, bool) else str(default)


def test_the_page_of_settings_has_each_with_its_default() -> None:
    rows = re.findall(r"^\| `(GATEWATCH_\w+)` \| `?(.*?)`? \|", (ROOT / "docs/settings.md").read_text(), re.MULTILINE)
    fields = Settings.model_fields.items()
    assert dict(rows) == {f"GATEWATCH_{name.upper()}": shown(field.default) for name, field in fields}
    assert len(rows) == len(fields)


def test_the_page_of_metrics_has_each_series_with_its_type() -> None:
    rows = re.findall(r"^\| `(gatewatch_\w+)(?:\{[\w,]+\})?` \| (\w+) \|", (ROOT / "docs/metrics.md").read_text(), re.M)
    assert dict(rows) == dict(re.findall(r"^# TYPE (gatewatch_\w+) (\w+)", Metrics().exposition().decode(), re.M))


def test_the_page_of_the_api_has_every_route_and_every_status(client: TestClient) -> None:
    page = (ROOT / "docs/http-api.md").read_text()
    paths = client.get("/openapi.json").json()["paths"]
    routes = {f"{method.upper()} {path}" for path, one in paths.items() for method in one}
    assert [route for route in sorted(routes) if f"`{route}`" not in page] == []
    statuses = {status for one in paths.values() for route in one.values() for status in route["responses"]}
    assert [status for status in sorted(statuses) if status[0] == "4" and f"\n| {status} |" not in page] == []


def test_every_statement_of_the_contract_names_its_tests_or_says_that_there_are_none() -> None:
    page = (ROOT / "docs/contract.md").read_text()
    statements = re.split(r"^\*\*(?=\d+\.)", page, flags=re.MULTILINE)[1:]
    assert [int(statement.partition(".")[0]) for statement in statements] == list(range(1, 25))
    bare = [statement for statement in statements if "`test_" not in statement and "no test yet" not in statement]
    assert bare == []


@pages
def test_every_block_can_be_read(page: Path) -> None:
    for block in blocks_of(page, "json"):
        json.loads(block)
    for block in blocks_of(page, "python"):
        compile(block, name_of(page), "exec")
    assert {language for language, _ in blocks(page)} <= {"sh", "python", "json", "text"}


def test_the_chain_tag_is_the_one_that_the_page_computes(client: TestClient) -> None:
    """Of readings some of whose values are missing."""
    names: dict[str, Any] = {}
    (block,) = blocks_of(ROOT / "docs/http-api.md", "python")
    exec(compile(block, "docs/http-api.md", "exec"), names)  # noqa: S102
    sent, tag = readings("tagged", 20), bytes(16)
    post(client, sent)
    for one in sent:
        tag = names["next_tag"](tag, one["seq"], round(1000 * one["timestamp"]), one["values"])
    assert client.get("/v1/streams/tagged").json()["tag"] == tag.hex()


def test_the_access_list_of_the_page_is_enough(settings: Callable[..., Settings], redis_url: str) -> None:
    """And not too much: the user may not read the keys of others."""
    (block,) = [one for one in blocks_of(ROOT / "docs/operations.md", "text") if one.startswith("user ")]
    _, user, *rules = block.split()
    with redis.Redis.from_url(redis_url) as database:
        database.execute_command("ACL", "SETUSER", user, "reset", *rules)
    url = redis_url.replace("unix://", f"unix://{user}:PASSWORD@")
    with redis.Redis.from_url(url) as database, pytest.raises(redis.exceptions.NoPermissionError):
        database.get("others")
    with TestClient(create_app(settings(redis_url=url, channel_series="many-*"))) as client:
        assert client.get("/readyz").status_code == 200, client.get("/readyz").text
        assert client.put("/v1/streams/few", json={"reorder_window_s": 600}).is_success
        sent = readings("few", 40)
        post(
            client,
            [{**sent[place], "values": {"pressure": 900 if place == 30 else 3}} for place in range(40) if place != 38],
        )
        assert post(client, [sent[38]])[0]["corrected"]
        post(client, [{**sent[0], "stream": f"many-{number}"} for number in range(100)])
        post(client, [{**sent[1], "stream": f"many-{number}"} for number in range(100)])
        assert client.get("/v1/streams").json()["total"] == 101
        assert client.get("/v1/streams/few/history").is_success
        exposed = client.get("/metrics").text
        assert "gatewatch_store_up 1.0" in exposed
        assert 'gatewatch_open_anomaly_score{channel="flow"' in exposed
        assert 'gatewatch_channel_value{channel="pressure",stream="many-7"}' in exposed
        assert client.delete("/v1/streams/few").is_success


def test_the_version_is_the_same_everywhere(client: TestClient) -> None:
    stated = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    released = re.findall(r"^## (\S+) \(\d{4}-\d\d-\d\d\)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    assert released[0] == stated
    assert client.get("/openapi.json").json()["info"]["version"] == version("gatewatch")
    assert gatewatch("--version").stdout.strip() == version("gatewatch")
