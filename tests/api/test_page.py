"""The page in a browser: every view, in both themes and on a phone; alive, answerable, and usable by keyboard."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Browser, Page, expect, sync_playwright
from starlette.testclient import TestClient

from gatewatch.models.artefact.repository import Repository
from gatewatch.models.detectors.canary import verify
from tests.api.test_incidents import CALM, FAULT, fault
from tests.support.cli import gatewatch
from tests.support.samples import make_artefact, readings
from tests.support.whole_path import serving

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
PATIENCE_MS = 60_000
"""A busy machine may take its time; what is right comes sooner."""

expect.set_options(timeout=PATIENCE_MS)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium: apt-get install chromium")
VIEWS = (
    "incidents",
    "streams",
    "streams/pump-1",
    "policies",
    "models",
    "health",
    f"incidents/{CALM}.pump-1",
    "nowhere",
)


@pytest.fixture(scope="module")
def url(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(artefact, tmp_path_factory.mktemp("data")) as (url, _):
        for number in range(3):
            httpx2.post(f"{url}/v1/readings", json=fault(f"pump-{number}"), timeout=30).raise_for_status()
        yield url


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def bare_page(browser: Browser) -> Iterator[Page]:
    """A page of its own context, which is closed even if the test fails."""
    with browser.new_context() as context:
        context.set_default_timeout(PATIENCE_MS)
        yield context.new_page()


@pytest.fixture
def page(bare_page: Page) -> Iterator[Page]:
    """A page whose console must stay free of errors, and which asks nobody but the service."""
    page, wrong = bare_page, list[str]()
    page.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on("request", lambda request: None if "127.0.0.1" in request.url else wrong.append(request.url))
    yield page
    page.close()
    assert [one for one in wrong if "404" not in one and "422" not in one] == []  # both are told on the page


def require_width(page: Page, width: int) -> None:
    """The page fits, once its charts have followed the window."""
    page.wait_for_function("width => document.documentElement.scrollWidth <= width", arg=width)


def require_accessible(page: Page) -> None:
    """What is shown now fits a phone, and axe finds nothing, in both themes."""
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width in (1200, 360):
            page.set_viewport_size({"width": width, "height": 800})
            require_width(page, width)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], theme


@needs_browser
@pytest.mark.parametrize("view", VIEWS)
def test_every_view_is_accessible_and_fits_a_phone_in_both_themes(page: Page, url: str, view: str) -> None:
    for theme in ("light", "dark"):
        page.emulate_media(color_scheme=theme)
        for width in (1200, 360):
            page.set_viewport_size({"width": width, "height": 800})
            page.goto(f"{url}/#/{view}")
            page.reload()
            expect(page.locator("main h1, main .error").first).to_be_visible()
            require_width(page, width)
        found = Axe().run(page).response["violations"]
        assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found] == [], theme


@needs_browser
def test_a_live_incident_appears_and_is_answered(page: Page, url: str) -> None:
    page.goto(f"{url}/")
    expect(page.get_by_role("link", name="pump-0")).to_be_visible()
    httpx2.post(f"{url}/v1/readings", json=fault("fresh"), timeout=30).raise_for_status()
    card = page.locator(f"[data-id='{CALM}.fresh']")
    expect(card).to_be_visible()
    page.get_by_label("Your name").fill("Ada")
    page.get_by_label("Your name").blur()
    card.get_by_role("button", name="Acknowledge").click()
    expect(card).to_contain_text("Acknowledged by Ada")
    card.get_by_label("Label").select_option("false_alarm")
    expect(card).to_contain_text("Labelled as a false alarm")
    card.get_by_label("Note").fill("<b>loose</b> cable")
    card.get_by_role("button", name="Add note").click()
    expect(card).to_contain_text("Ada: <b>loose</b> cable")
    shown = httpx2.get(f"{url}/v1/incidents/{CALM}.fresh").json()
    assert (shown["acknowledged"]["by"], shown["label"], shown["notes"][0]["text"]) == (
        "Ada", "false_alarm", "<b>loose</b> cable",
    )  # fmt: skip


@needs_browser
def test_streams_are_searched_and_one_is_followed_and_set(page: Page, url: str) -> None:
    page.goto(f"{url}/#/streams")
    page.get_by_label("Name").fill("pump-*")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(3)
    page.get_by_role("link", name="pump-2").click()
    expect(page.get_by_role("heading", name="pump-2", level=1)).to_be_visible()
    expect(page.locator(".chart canvas").first).to_be_visible()
    expect(page.locator("dl")).to_contain_text(str(CALM + FAULT))
    more = readings("pump-2", CALM + FAULT + 10)[CALM + FAULT :]
    httpx2.post(f"{url}/v1/readings", json=more, timeout=30).raise_for_status()
    expect(page.locator("dl")).to_contain_text(str(CALM + FAULT + 10))
    page.get_by_label("On gap").select_option("hold")
    for window in ("60", "90"):  # and what was set before stays
        page.get_by_label("Reorder window").fill(window)
        page.get_by_role("button", name="Save", exact=True).click()
        expect(page.get_by_role("status")).to_contain_text("Settings saved")
        page.reload()
        expect(page.get_by_label("Reorder window")).to_have_value(window)
    known = httpx2.get(f"{url}/v1/streams/pump-2").json()
    assert (known["reorder_window_s"], known["on_gap"]) == (90, "hold")


@needs_browser
def test_the_table_of_streams_stays_alive_and_says_what_is_refused(page: Page, url: str) -> None:
    page.goto(f"{url}/#/streams?match=late*")
    expect(page.get_by_text("No stream like that.")).to_be_visible()
    httpx2.post(f"{url}/v1/readings", json=fault("late-1"), timeout=30).raise_for_status()
    expect(page.get_by_role("cell", name="late-1")).to_be_visible()
    page.goto(f"{url}/#/streams?sort=size")
    expect(page.get_by_role("alert")).to_be_visible()
    page.get_by_role("link", name="List them by name").click()
    expect(page.get_by_role("cell", name="pump-1")).to_be_visible()


@needs_browser
def test_streams_are_sorted_by_their_headings_and_found_by_tag(page: Page, url: str) -> None:
    policies = {"policies": [{"pattern": "pump-1", "tags": {"site": "north"}}]}
    httpx2.put(f"{url}/v1/policies", json=policies).raise_for_status()
    httpx2.post(f"{url}/v1/readings", json=readings("a-new-one", 3), timeout=30).raise_for_status()
    page.goto(f"{url}/#/streams")
    first = page.locator("tbody tr").first
    expect(first).to_contain_text("a-new-one")
    page.get_by_role("link", name="Status").click()
    expect(page.get_by_role("columnheader", name="Status")).to_have_attribute("aria-sort", "descending")
    expect(page.get_by_text("in the order of")).to_be_visible()
    page.get_by_role("link", name="Score").click()
    expect(page.get_by_role("columnheader", name="Score")).to_have_attribute("aria-sort", "descending")
    scores = [float(score) for score in page.locator("tbody td:nth-child(3)").all_inner_texts()]
    assert scores == sorted(scores, reverse=True)
    page.get_by_label("Tag").fill("site=north")
    page.get_by_role("button", name="Search").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    expect(first).to_contain_text("pump-1")
    require_accessible(page)
    page.get_by_label("Tag").fill("site=south")
    page.get_by_role("button", name="Search").click()
    expect(page.get_by_text("No stream like that.")).to_be_visible()
    httpx2.put(f"{url}/v1/policies", json={"policies": []}).raise_for_status()


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Repository]]:
    """A service with three versions of `pumps` and one of `fans`, and rules; the repository beside it."""
    folder = tmp_path_factory.mktemp("models")
    repository = Repository(str(folder / "models"), verify)
    for seed in range(1, 4):
        repository.add("pumps", make_artefact(folder / str(seed), seed=seed), "ann", f"<i>try</i> {seed}")
    repository.add("fans", make_artefact(folder / "fans", seed=9, channels=("speed", "noise")), "ann")
    for name in ("pumps", "fans"):
        repository.promote(name, "1", "ann")
    with serving(Path("general"), folder / "data", GATEWATCH_MODELS=repository.url) as (url, _):
        rules = {"rules": [{"pattern": "pump-*", "model": "pumps"}], "pins": {"pump-7": "pumps@2"}}
        httpx2.put(f"{url}/v1/rules", json=rules).raise_for_status()
        httpx2.post(f"{url}/v1/readings", json=readings("pump-1", 20), timeout=30).raise_for_status()
        yield url, repository


def champion(repository: Repository) -> int:
    return repository.log.model("pumps").named("champion").version


@needs_browser
def test_a_version_is_promoted_and_rolled_back_by_clicking(page: Page, models: tuple[str, Repository]) -> None:
    url, repository = models
    page.goto(f"{url}/#/models")
    expect(page.get_by_role("region", name="Versions of pumps").locator("tbody tr")).to_have_count(3)
    expect(page.get_by_role("region", name="Versions of pumps")).to_contain_text("<i>try</i> 3")
    expect(page.get_by_role("region", name="Rules")).to_contain_text("pump-*pumps@championversion 1")
    expect(page.get_by_role("region", name="Pins")).to_contain_text("pump-7pumps@2version 2")
    expect(page.get_by_role("button", name="Roll pumps back")).to_be_disabled()
    for version in (2, 3):
        page.get_by_role("button", name=f"Promote pumps {version}").click()
        expect(page.get_by_role("status")).to_contain_text(f"pumps {version} is champion")
        expect(page.get_by_role("button", name=f"Promote pumps {version}")).to_be_disabled()
        assert champion(repository) == version
    expect(page.get_by_role("region", name="Rules")).to_contain_text("version 3")
    for version in (2, 1):
        page.get_by_role("button", name=f"Roll pumps back to {version}").click()
        expect(page.get_by_role("button", name=f"Promote pumps {version}")).to_be_disabled()
        assert champion(repository) == version
    page.get_by_text("Changes of pumps").click()
    expect(page.get_by_role("region", name="Changes of pumps")).to_contain_text("promote 3 as champion, before 2")
    require_accessible(page)


@needs_browser
def test_who_comes_second_is_told_and_changes_nothing(models: tuple[str, Repository], bare_page: Page) -> None:
    (url, repository), page = models, bare_page
    repository.promote("pumps", "1", "bob")
    page.goto(f"{url}/#/models")
    button = page.get_by_role("button", name="Promote pumps 2")
    expect(button).to_be_enabled()
    repository.promote("pumps", "3", "bob")
    button.click()
    expect(page.get_by_role("status")).to_contain_text("pumps has")
    expect(page.get_by_role("button", name="Promote pumps 3")).to_be_disabled()  # what is shown is what there is now
    assert champion(repository) == 3


@needs_browser
def test_policies_are_asked_ordered_and_taken_away(page: Page, models: tuple[str, Repository]) -> None:
    url, _ = models
    httpx2.put(f"{url}/v1/policies", json={"policies": []}).raise_for_status()

    def asked() -> Any:
        return httpx2.get(f"{url}/v1/policies").json()

    page.goto(f"{url}/#/policies")
    for pattern, label, value in (("pump-*", "Tags", "site=north, line=3"), ("fan-*", "Sensitivity", "0.5")):
        page.get_by_role("textbox", name="Pattern").fill(pattern)
        page.get_by_label(label).first.fill(value)
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator("tbody")).to_contain_text(pattern)
    assert asked()["policies"] == [
        {"pattern": "pump-*", "tags": {"site": "north", "line": "3"}}, {"pattern": "fan-*", "sensitivity": 0.5},
    ]  # fmt: skip
    page.get_by_role("button", name="Put fan-* one earlier").click()
    expect(page.locator("tbody tr").first).to_contain_text("fan-*")
    page.get_by_role("button", name="Take fan-* away").click()
    expect(page.locator("tbody tr")).to_have_count(1)
    page.goto(f"{url}/#/streams/pump-1")
    expect(page.get_by_text("With all patterns: Tags: site=north, line=3")).to_be_visible()
    page.get_by_label("Alerts per week").fill("3")
    page.get_by_label("Muted").select_option("yes")
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_text("Alerts per week: 3; Muted: yes")).to_be_visible()
    assert asked()["streams"] == {"pump-1": {"alerts_per_week": 3.0, "muted": True}}
    page.get_by_role("button", name="Add a gate").focus()
    page.keyboard.press("Enter")
    gate = page.get_by_role("group", name="Gate 1")
    expect(gate.get_by_label("Channel")).to_be_focused()
    gate.get_by_label("Channel").fill("flow")
    gate.get_by_label("Direction").select_option("above")
    gate.get_by_label("Absolute").fill("2.5")
    gate.get_by_label("Hours").fill("06:00-22:00")
    page.get_by_role("button", name="Add a gate").click()
    page.get_by_role("group", name="Gate 2").get_by_label("High").fill("9")
    page.get_by_label("Minimum").fill("3")
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_text("hours=06:00-22:00, channel=flow, direction=above, absolute=2.5")).to_be_visible()
    require_accessible(page)
    page.reload()  # what was set is in the form
    page.get_by_role("button", name="Take gate 2 away").click()
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_role("status")).to_contain_text("Policy saved")
    assert asked()["streams"]["pump-1"] == {
        "alerts_per_week": 3.0, "muted": True,
        "gates": [{"channel": "flow", "direction": "above", "absolute": 2.5, "hours": "06:00-22:00"}],
        "minimum": {"readings": 3},
    }  # fmt: skip
    page.get_by_role("button", name="Take gate 1 away").click()
    page.get_by_label("Minimum").fill("")
    page.get_by_label("Muted").select_option("as otherwise")
    page.get_by_label("Alerts per week").fill("")
    page.get_by_role("button", name="Save policy").click()
    expect(page.get_by_text("With all patterns: Tags: site=north, line=3")).to_be_visible()
    assert asked()["streams"] == {}


@needs_browser
def test_a_maintenance_window_is_set_and_ended(page: Page, models: tuple[str, Repository]) -> None:
    url, _ = models
    page.goto(f"{url}/#/policies")
    page.get_by_role("textbox", name="Name").fill("belts")
    page.get_by_role("textbox", name="Start").fill("2020-01-01T00:00:00Z")
    page.get_by_role("textbox", name="End", exact=True).fill("2100-01-01T00:00:00Z")
    page.get_by_role("button", name="Set window").click()
    expect(page.get_by_role("region", name="Maintenance windows")).to_contain_text("beltsgoing on")
    belts = httpx2.get(f"{url}/v1/windows").json()["windows"]["belts"]
    assert (belts["active"], belts["skip"]) == (True, "both")
    page.get_by_role("button", name="End the window belts").click()
    expect(page.get_by_role("status")).to_contain_text("belts is ended")
    assert httpx2.get(f"{url}/v1/windows").json() == {"windows": {}}


@needs_browser
def test_the_page_is_walked_by_keyboard(page: Page, url: str) -> None:
    page.goto(f"{url}/")
    expect(page.get_by_role("link", name="pump-0")).to_be_visible()
    page.keyboard.press("Tab")
    expect(page.get_by_text("Skip to the content")).to_be_focused()
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")
    expect(page.get_by_role("heading", name="Streams")).to_be_visible()


@needs_browser
def test_it_says_so_when_the_service_is_away(artefact: Path, tmp_path: Path, bare_page: Page) -> None:
    page = bare_page
    with serving(artefact, tmp_path / "data", GATEWATCH_SHUTDOWN_GRACE_S="1") as (url, _):  # the page hangs on
        page.goto(f"{url}/")
        expect(page.get_by_text("Nothing is wrong")).to_be_visible()
    page.evaluate("location.hash = '#/streams'")
    expect(page.locator(".error")).to_contain_text("does not answer")


@needs_browser
def test_a_key_is_asked_for_and_a_wrong_one_is_asked_for_again(artefact: Path, tmp_path: Path, bare_page: Page) -> None:
    keys = str(tmp_path / "keys.json")
    secret = gatewatch("keys", "create", "--file", keys, "--scopes", "read").stdout.split()[0]
    page = bare_page
    with serving(artefact, tmp_path / "data", GATEWATCH_KEYS_FILE=keys, GATEWATCH_SHUTDOWN_GRACE_S="1") as (url, _):
        page.goto(f"{url}/#/streams")
        expect(page.get_by_role("dialog")).to_contain_text("This service answers whoever has a key.")
        page.keyboard.press("Escape")
        page.get_by_role("button", name="Sign in").click()
        page.get_by_label("API key").fill("wrong")
        page.keyboard.press("Enter")
        expect(page.get_by_role("dialog")).to_contain_text("The key is refused")
        page.get_by_label("API key").fill(secret)
        page.keyboard.press("Enter")
        expect(page.get_by_text("No stream yet")).to_be_visible()


def test_its_files_come_with_types_tags_and_a_strict_policy(client: TestClient) -> None:
    index = client.get("/")
    assert index.headers["content-type"] == "text/html; charset=utf-8"
    names = {part.split('"')[0] for part in index.text.split('"page/')[1:]}
    assert {"app.js", "style.css", "uPlot.iife.min.js"} <= names
    for name in names:
        found = client.get(f"/page/{name}")
        assert found.status_code == 200, name
        assert "unsafe" not in found.headers["content-security-policy"]
        again = client.get(f"/page/{name}", headers={"if-none-match": found.headers["etag"]})
        assert (again.status_code, again.content) == (304, b"")
    assert client.get("/page/..%2fpage.py").status_code == 404
    assert client.get("/page/none.js").status_code == 404


def test_a_page_of_100_000_streams_costs_as_much_as_one_of_ten(client: TestClient) -> None:
    """It is bounded by its own length: a page of names and one look at each."""
    sent: list[dict[str, Any]] = [{"stream": f"s-{number:05}", "values": {"pressure": 1.0}} for number in range(2500)]
    for start in range(0, len(sent), 500):
        client.post("/v1/readings", json=sent[start : start + 500])
    names, after = [], ""
    while True:
        page = client.get("/v1/streams", params={"details": True, "limit": 1000, "after": after}).json()
        assert page["total"] == 2500
        names += [one["stream"] for one in page["streams"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert names == [f"s-{number:05}" for number in range(2500)]
    some = client.get("/v1/streams", params={"match": "s-*99", "limit": 7}).json()
    assert len(some["streams"]) == 7
    rest = client.get("/v1/streams", params={"match": "s-*99", "after": some["next"]}).json()
    assert [*some["streams"], *rest["streams"]] == [name for name in names if name.endswith("99")]
    assert rest["next"] is None
    assert client.get("/v1/streams", params={"status": "anomalous"}).json()["streams"] == []
