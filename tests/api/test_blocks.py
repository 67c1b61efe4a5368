"""Every block of code of the pages runs: page by page, in order, beside a service; but those that are named here."""

from __future__ import annotations

import itertools
import os
import re
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Final

import httpx2
import pytest
import yaml

from gatewatch.service.demo.station import write_recordings
from tests.api.test_documents import PAGES, ROOT, blocks, name_of
from tests.api.test_incidents import CALM, fault
from tests.support import programs
from tests.support.cli import gatewatch, without_settings
from tests.support.monitoring import prometheus_of_servers
from tests.support.whole_path import serving

PROMETHEUS: Final = "http://127.0.0.1:9090"
"""Where the pages have Prometheus."""

OTHER: Final = "http://other:8000"
"""And another service."""

NOT_RUN: Final = {
    "benchmarks/results/2026-11-29-fleet.md": {
        "python -m tests.faults.swaps": "takes an hour; test_swaps.py runs it in short",
    },
    "benchmarks/results/2026-11-29-network.md": {
        "python -m benchmarks.memory": "takes hours: the commands of a page of results",
    },
    "docs/evaluate.md": {
        "gatewatch compare": "trains every architecture; test_compare.py does it in short",
    },
    "docs/operations-capacity.md": {
        "python -m benchmarks.capacity": "fills the memory of a machine",
    },
    "docs/operations-kubernetes.md": {
        "docker/helm/render": "needs helm; test_helm.py runs it where it is there",
    },
    "docs/retraining.md": {
        "gatewatch models promote pumps@4 --if-better --from-service": (
            "in place of the block above it, which promotes; test_cli_retrain.py does it"
        ),
    },
    "docs/training.md": {
        "gatewatch demo --write-recordings recordings/": "trains the shipped model for minutes",
        "gatewatch train recordings/ --one-model-per stream --out artefacts/ --dask": (
            "needs a Dask cluster; test_cli_fleets.py starts one"
        ),
    },
}
"""Pages, the beginnings of blocks, and why they are not run."""

HELD: Final = {
    "docs/architecture.md": {
        "service/": "test_the_tree_of_the_architecture_is_the_tree",
        "commands, demo": "a drawing",
    },
    "docs/first-hour.md": {"tank\n": "the picture of a scan in a terminal"},
    "docs/models.md": {
        "log/": "names of files, drawn",
        "GET /v1/rules": "a request and its answer, cut short",
    },
    "docs/operations-kubernetes.md": {"components": "test_the_components_of_an_overlay_are_there"},
    "docs/operations.md": {"user gatewatch": "test_the_access_list_of_the_page_is_enough"},
    "docs/recordings.md": {"timezone": "test_what_stands_beside_a_recording_is_taken"},
    "docs/tutorials/from-vmanomaly.md": {"- alert": "two alerts beside each other"},
    "docs/tutorials/prometheus.md": {"rule_files": "test_prometheus_takes_its_configuration"},
}
"""Likewise blocks of text that no command of the page prints: which test holds them, or what they are."""

ENDLESS: Final = "gatewatch.incidents()"
"""Is in blocks that go on until they are stopped: here when they have printed a line."""

PREPARED: Final = {
    "docs/evaluate.md": """
        mkdir labelled test train
        head -n 300 recordings/pump-2.csv > train/pump-2.csv
        head -n 300 recordings/pump-2.csv > test/pump-2.csv
        awk '{ print $0 "," (NR == 1 ? "label" : (NR > 200 && NR < 230)) }' test/pump-2.csv > labelled/pump-2.csv
        gatewatch train train/ --out artefact
        gatewatch scan test/ --model artefact --out scores/
        printf 'stream,start,end\\npump-2,2026-01-05T03:20:00Z,2026-01-05T03:50:00Z\\n' > events.csv""",
    "docs/models.md": """
        mkdir recordings/pumps recordings/pump recordings/fan recordings/compressor
        for kind in pumps pump fan compressor; do head -n 200 recordings/pump-1.csv > recordings/$kind/one.csv; done
        head -n 300 recordings/pump-2.csv > recordings/pump/one.csv
        gatewatch train recordings/pumps --into pumps --seed 1""",
    "docs/operations-kubernetes.md": "cp -r ROOT/docker docker",
    "docs/operations.md": "cp -r ROOT/docker docker",
    "README.md": "cp -r ROOT/docker docker",
    "docs/retraining.md": """
        rm recordings/pump-[3-6].csv
        mkdir july && head -n 300 recordings/pump-2.csv > july/pump-2.csv
        printf 'stream,start,end\\npump-2,2026-01-05T03:20:00Z,2026-01-05T03:50:00Z\\n' > faults.csv
        gatewatch train recordings --into pumps
        gatewatch train recordings --into pumps --seed 1
        gatewatch models promote pumps@1
        gatewatch models assign 'pump-*' pumps
        gatewatch replay recordings/pump-1.csv""",
    "docs/security.md": """
        gatewatch keys create --scopes read --out key
        gatewatch train recordings/pump-1.csv --out artefacts/mine""",
    "docs/states.md": """
        head -n 200 recordings/pump-1.csv > few.csv
        for version in 1 2 3; do gatewatch train few.csv --into pumps --seed $version; done
        gatewatch models promote pumps@1""",
    "docs/training.md": "rm recordings/pump-[56].csv",
}  # fmt: skip
"""What is there before the first block of a page."""

STREAMS: Final = {
    "docs/policies.md": ["boiler-3"],
    "docs/proofs.md": ["pump-7"],
    "docs/states.md": ["pump-7"],
}
"""Streams that the service of a page knows, each with an incident."""

INSTEAD: Final = {
    "--stream pump-11": "--stream pump-11 --count 3 --interval-s 0",
    "--processes 8": "--processes 1",
    "4711.boiler-3": f"{CALM}.boiler-3",
    "319.pump-7": f"{CALM}.pump-7",
    "3f9c0a71be52": "$(gatewatch keys list | awk '/gateway 7/ { print $1; exit }')",
}
"""What stands in blocks for what is so only where they were written."""

BEFORE: Final = {
    "docs/thresholds.md": """
from gatewatch.models.artefact.files import load_artefact, model_folder

manifest = load_artefact(model_folder("demo")).manifest
""",
}
"""Lines above a page's Python blocks."""

ROWS: Final = 800
"""Of each recording, with the header: short, and longer than the half day that one page labels."""

_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")


def is_run(page: Path, language: str, content: str) -> bool:
    """Whether a block is code that is not named in NOT_RUN."""
    named = NOT_RUN.get(name_of(page), {})
    return language in ("sh", "python") and not any(content.startswith(beginning) for beginning in named)


RUN: Final = [page for page in PAGES if any(is_run(page, *block) for block in blocks(page))]


class Shell:
    """A folder to run blocks in, with the programs that they call.

    Attributes:
        printed: every line that they have printed.
    """

    def __init__(self, folder: Path, url: str, prometheus: str, other: str) -> None:
        (folder / "bin").mkdir()
        programs.write(folder / "bin")
        self.printed: list[str] = []
        self._folder = folder
        self._url = url
        self._instead = {programs.URL: url, PROMETHEUS: prometheus, OTHER: other, **INSTEAD}
        path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        self._environment = {**without_settings(), programs.PAGE_URL: url, "PATH": path}

    def run(self, language: str, content: str) -> None:
        """Run a block; it must end well."""
        folder = self._folder
        if "--write-recordings" in content:  # two weeks of them: the blocks after it go on with few
            folder = folder / "elsewhere"
            folder.mkdir(exist_ok=True)
        for written, value in self._instead.items():
            content = content.replace(written, value)
        endless = ENDLESS in content
        command = ["python", "-c"] if language == "python" else ["bash", "-euo", "pipefail", "-c"]
        printed = []
        command[0] = shutil.which(command[0], path=self._environment["PATH"]) or command[0]
        process = subprocess.Popen(
            [*command, content], cwd=folder, env=self._environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True, start_new_session=True,
        )  # fmt: skip
        with process, self._incidents() if endless else nullcontext():
            for line in process.stdout or ():
                printed.append(line.rstrip())
                if endless:
                    os.killpg(process.pid, signal.SIGTERM)
        worse = "--if-better" in content and any("is not better than" in line for line in printed)  # chance decides
        assert printed if endless else worse or process.returncode == 0, "\n".join([content, *printed])
        self.printed += printed

    @contextmanager
    def _incidents(self) -> Iterator[None]:
        """Incidents begin all the time."""
        done = threading.Event()

        def begin() -> None:
            for number in itertools.count():
                post_fault(self._url, f"again-{number}")
                if done.wait(0.2):
                    return

        with ThreadPoolExecutor(1) as pool:
            begun = pool.submit(begin)
            try:
                yield
            finally:
                done.set()
            begun.result()


def post_fault(url: str, stream: str) -> None:
    """A stream with an incident."""
    sent = fault(stream)
    sent[0]["values"]["bearing"] = 40.0
    httpx2.post(f"{url}/v1/readings", json=sent).raise_for_status()


@pytest.fixture
def prometheus(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a page's blocks ask a Prometheus, one that has something to tell."""
    asked = any(PROMETHEUS in content for language, content in blocks(page) if is_run(page, language, content))
    if not asked:
        yield ""
    elif shutil.which("prometheus") is None or shutil.which("promtool") is None:
        pytest.skip("needs prometheus and promtool (apt-get install prometheus)")
    else:
        with prometheus_of_servers(tmp_path_factory.mktemp("prometheus")) as url:
            yield url


@pytest.fixture
def other(page: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Where a page's blocks ask another service, that one."""
    if OTHER not in page.read_text():
        yield ""
    else:
        with serving(None, tmp_path_factory.mktemp("other")) as (url, _):
            yield url


@pytest.mark.parametrize("page", RUN, ids=name_of)
def test_the_blocks_of_a_page_run_one_after_the_other(page: Path, prometheus: str, other: str, tmp_path: Path) -> None:
    """In a folder with recordings, and the examples. What the page shows of its commands is what comes."""
    for recording in write_recordings(tmp_path / "recordings", days=1):
        recording.write_text("".join(recording.read_text().splitlines(keepends=True)[:ROWS]))
    (tmp_path / "examples").mkdir()
    for example in (*(ROOT / "examples").glob("*.csv"), *(ROOT / "examples").glob("*.py")):
        shutil.copy(example, tmp_path / "examples")
    with serving(None, tmp_path / "gatewatch-data") as (url, _):
        for stream in STREAMS.get(name_of(page), ()):
            post_fault(url, stream)
        shell = Shell(tmp_path, url, prometheus, other)
        shell.run("sh", PREPARED.get(name_of(page), "").replace("ROOT", str(ROOT)))
        for language, content in blocks(page):
            if is_run(page, language, content):
                shell.run(language, BEFORE.get(name_of(page), "") * (language == "python") + content)
            elif language == "text" and content.startswith("$ gatewatch "):
                require_shown(content, shell.printed)


def require_shown(content: str, printed: list[str]) -> None:
    """What a page shows of an example is what came, in this order."""
    if "examples/" not in content.partition("\n")[0]:
        return
    rest = iter(printed)
    for line in content.splitlines()[1:]:
        assert any(alike(line, other) for other in rest), (line, printed)


def alike(line: str, other: str) -> bool:
    """Whether two lines have the same words, and numbers that are the same to within one in a hundred."""
    if _NUMBER.sub("", line).split() != _NUMBER.sub("", other).split():
        return False
    numbers = zip(_NUMBER.findall(line), _NUMBER.findall(other), strict=True)
    return all(abs(float(one) - float(two)) <= 0.01 * abs(float(two)) for one, two in numbers)


def text_of(page: str, beginning: str) -> str:
    """A block of text."""
    (found,) = [content for language, content in blocks(ROOT / page) if content.startswith(beginning)]
    return found


def test_what_stands_beside_a_recording_is_taken(tmp_path: Path) -> None:
    shutil.copy(ROOT / "examples/tank.csv", tmp_path)
    (tmp_path / "tank.toml").write_text(text_of("docs/recordings.md", "timezone"))
    done = gatewatch("inspect", tmp_path / "tank.csv")
    assert (done.returncode, "day first, in Europe/Berlin" in done.stdout) == (0, True), done


@pytest.mark.skipif(shutil.which("promtool") is None, reason="needs promtool, of Debian's package prometheus")
def test_prometheus_takes_its_configuration(tmp_path: Path) -> None:
    shutil.copy(ROOT / "docker/alerts.yml", tmp_path)
    (tmp_path / "prometheus.yml").write_text(text_of("docs/tutorials/prometheus.md", "rule_files"))
    subprocess.run(["promtool", "check", "config", "prometheus.yml"], cwd=tmp_path, check=True, capture_output=True)


def test_the_components_of_an_overlay_are_there() -> None:
    named = yaml.safe_load(text_of("docs/operations-kubernetes.md", "components"))["components"]
    overlays = [*(ROOT / "docker/kubernetes/overlays").iterdir()]
    assert overlays
    assert [one for one in named for overlay in overlays if not (overlay / one / "kustomization.yml").exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_of_text_is_what_a_command_prints_or_held_elsewhere(page: Path) -> None:
    held = HELD.get(name_of(page), {})
    others = [
        content
        for language, content in blocks(page)
        if language == "text" and not content.startswith("$ gatewatch ") and not content.startswith(tuple(held))
    ]
    assert others == [] or name_of(page).startswith("benchmarks/results/")  # what was printed on a day


def test_every_block_that_is_named_is_there() -> None:
    for name, named in [*NOT_RUN.items(), *HELD.items()]:
        contents = [content for _, content in blocks(ROOT / name)]
        assert [one for one in named if not any(content.startswith(one) for content in contents)] == [], name
