"""What the service says when it starts."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

from gatewatch.service.app import create_app
from gatewatch.service.settings import Settings
from tests.support.samples import make_artefact


@pytest.mark.parametrize(("history", "warned"), [(255, True), (256, False)])
def test_a_history_too_short_to_rebuild_a_state_is_said_at_the_start(
    settings: Callable[..., Settings], tmp_path: Path, capfd: pytest.CaptureFixture[str], history: int, warned: bool
) -> None:
    artefact = make_artefact(tmp_path / "a", rebuild_readings=256)
    with TestClient(create_app(settings(model=str(artefact), history_readings=history))):
        pass
    lines = [line for line in capfd.readouterr().err.splitlines() if '"level":"warning"' in line.replace(" ", "")]
    assert len(lines) == warned
    assert all("set GATEWATCH_HISTORY_READINGS to 256 or more" in line for line in lines)
