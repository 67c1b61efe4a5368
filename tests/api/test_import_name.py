"""One name in site-packages, and no other in the way of what the user's folder has."""

from __future__ import annotations

import ast
import os
import subprocess
import sys
from importlib.metadata import distribution
from pathlib import Path

import pytest

from gatewatch.models.artefact.files import SHIPPED
from gatewatch.service.demo.station import DAY_MINUTES, write_recordings

ROOT = Path(__file__).parent.parent.parent
COMMANDS = (
    ([str(Path(sys.executable).with_name("gatewatch"))], "the script"),
    ([sys.executable, "-m", "gatewatch"], "python -m gatewatch"),
)


@pytest.fixture
def users_folder(tmp_path: Path) -> Path:
    """A folder whose models.py, service.py and tests/ end whoever imports them."""
    (tmp_path / "tests").mkdir()
    for name in ("models.py", "service.py", "tests/__init__.py"):
        (tmp_path / name).write_text("raise SystemExit('the file of the user was imported')\n")
    return tmp_path


def run(folder: Path, *command: str) -> str:
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    done = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=200, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_distribution_has_one_name_at_the_top() -> None:
    names = (distribution("gatewatch").read_text("top_level.txt") or "").split()
    assert names == ["gatewatch"]


@pytest.mark.parametrize("program", [program for program, _ in COMMANDS], ids=[name for _, name in COMMANDS])
def test_every_command_works_beside_the_users_own_modules(users_folder: Path, program: list[str]) -> None:
    write_recordings(users_folder / "recordings", days=1, seed=1)
    assert "Usage" in run(users_folder, *program, "serve", "--help")  # every command is imported for the help of one
    recordings = str(users_folder / "recordings")
    run(users_folder, *program, "train", recordings, "--out", "trained", "--epochs", "1", "--hidden", "4")
    run(users_folder, *program, "scan", "--model", "trained", recordings, "--out", "scores")
    assert len(next((users_folder / "scores").iterdir()).read_text().splitlines()) == DAY_MINUTES + 1


def test_the_demo_works_beside_the_users_own_modules(users_folder: Path) -> None:
    (users_folder / "redis.py").write_text("raise SystemExit('the file of the user was imported')\n")
    assert "pump-1" in run(users_folder, *COMMANDS[0][0], "demo", "--once")


def test_every_package_is_installed_with_its_files() -> None:
    """setup.py finds packages by their __init__.py; a folder without one would be missing from the wheel."""
    for top in ("service", "models"):
        for path in (ROOT / top).rglob("*.py"):
            assert path.with_name("__init__.py").exists(), path
    assert (SHIPPED / "general" / "manifest.json").exists()


def test_nothing_is_imported_under_a_second_name() -> None:
    """In a clone, `import models` works by accident, and would make every class of it twice."""
    for folder in ("service", "models", "tests", "benchmarks"):
        for path in (ROOT / folder).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if isinstance(node, ast.Import):
                    names = [alias.name for alias in node.names]
                elif isinstance(node, ast.ImportFrom):
                    names = [node.module or ""]
                else:
                    continue
                assert not {"service", "models"} & {name.split(".")[0] for name in names}, f"{path}:{node.lineno}"
