"""Commands that ask a service show the key of the environment."""

from __future__ import annotations

from pathlib import Path

from gatewatch.service.settings import COMMANDS_KEY
from tests.support.access import add_to_file
from tests.support.cli import gatewatch, recording
from tests.support.whole_path import serving


def test_replay_and_watch_are_let_in_with_the_key_of_the_environment_and_not_without(
    artefact: Path, tmp_path: Path, tenant: str
) -> None:
    shown = add_to_file(tmp_path / "keys.json", tenant, "admin")
    path = recording(tmp_path / "live.csv", 20)
    given = {"GATEWATCH_KEYS_FILE": str(tmp_path / "keys.json"), "GATEWATCH_OPEN": "never"}
    with serving(artefact, tmp_path / "data", **given) as (url, _):

        def run(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
            done = gatewatch(*command, "--url", url, **environment)
            return done.returncode, done.stdout + done.stderr

        for command in (["replay", str(path)], ["watch", "--once"]):
            status, said = run(command, {})
            assert status != 0
            assert "401" in said
            assert "Traceback" not in said
            status, said = run(command, {COMMANDS_KEY: shown})
            assert status == 0, said
            assert shown not in said
