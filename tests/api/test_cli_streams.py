"""What streams stand at, from the command line; and recordings as their past."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import httpx2
import pytest
from typer.testing import CliRunner, Result

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli import app
from tests.support.cli import recording
from tests.support.samples import START_MS
from tests.support.whole_path import serving


@pytest.fixture(scope="module")
def service(artefact: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with serving(artefact, tmp_path_factory.mktemp("data"), GATEWATCH_REQUEST_READINGS="1500") as (url, _):
        yield url


def run(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)))


def told(*arguments: str | Path) -> str:
    done = run(*arguments)
    assert done.exit_code == 0, (done.output, done.exception)
    return done.stdout


def known(url: str, stream: str) -> dict[str, object]:
    found: dict[str, object] = httpx2.get(f"{url}/v1/streams/{stream}").json()
    return found


def test_a_stream_is_exported_imported_kept_rolled_back_reset_and_forked(service: str, tmp_path: Path) -> None:
    def streams(*arguments: str | Path) -> str:
        return told("streams", *arguments, "--url", service)

    told("replay", recording(tmp_path / "r.csv", 60), "--stream", "pump", "--url", service)
    file = tmp_path / "pump.state"
    assert streams("export", "pump", "--out", file) == f"{file}: {file.stat().st_size} bytes\n"
    assert streams("import", file, "copy", "--as-new").startswith("copy: 60 readings, the last of ")
    assert streams("snapshot", "pump", "first").startswith("first: pump at 60 readings, ")
    assert streams("reset", "pump").startswith("pump: 0 readings; warming_up, model ")
    assert streams("rollback", "pump", "first").startswith("pump: 60 readings, ")
    assert streams("snapshots", "pump").splitlines()[1].split()[0::2][:2] == ["first", "60"]
    assert streams("fork", "pump", "trial").startswith("trial: 60 readings, ")
    assert streams("reset", "pump", "--sequence").startswith("pump: 60 readings, ")
    assert streams("forget", "pump", "first") == ""
    for arguments, words in (
        (("rollback", "pump", "first"), "stream pump has no snapshot first (404)"),
        (("import", file, "fan"), "the state is of stream pump; expected one of fan"),
        (("import", tmp_path / "none", "fan"), "No such file"),
        (("export", "nobody", "--out", file), "nothing is known of stream nobody (404)"),
        (("fork", "pump", "copy"), "stream copy has readings; expected the name of a new one (409)"),
    ):
        refusal = run("streams", *arguments, "--url", service).exception
        assert isinstance(refusal, GatewatchError), arguments
        assert words in str(refusal)


def test_a_recording_is_taken_in_as_the_past_and_goes_on_where_it_was(service: str, tmp_path: Path) -> None:
    """In requests that the service finds too large at first; by time, since the stream has no numbers."""
    whole, part = recording(tmp_path / "whole.csv", 4000), tmp_path / "part.csv"
    part.write_text("".join(whole.read_text().splitlines(keepends=True)[:1001]))
    assert "1000 taken" in told("replay", part, "--warm-up", "--stream", "past", "--url", service)
    assert known(service, "past")["last_seq"] is None
    done = told("replay", whole, "--warm-up", "--stream", "past", "--url", service)
    assert ("1000 there already" in done, "3000 taken" in done) == (True, True)
    told("replay", whole, "--warm-up", "--stream", "once", "--url", service)
    assert known(service, "past")["tag"] == known(service, "once")["tag"]
    metrics = httpx2.get(f"{service}/metrics").text
    assert "gatewatch_past_readings_total 8000.0" in metrics
    late = {"stream": "past", "timestamp": START_MS / 1000, "values": {"pressure": 1.0, "flow": 1.0}}
    assert httpx2.post(f"{service}/v1/readings", json=late).json()["status"] == "late"


def test_numbered_rows_are_the_past_as_they_would_be_the_present(service: str, tmp_path: Path) -> None:
    path = recording(tmp_path / "r.csv", 400)
    told("replay", path, "--warm-up", "--start-seq", "0", "--stream", "numbered", "--url", service)
    told("replay", path, "--stream", "live", "--url", service)
    assert known(service, "numbered")["tag"] == known(service, "live")["tag"]
    assert "400 there already" in told("replay", path, "--warm-up", "--stream", "live", "--url", service)
    refusal = run("replay", path, "--warm-up", "--out", tmp_path / "o.csv", "--url", service).exception
    assert isinstance(refusal, GatewatchError)
    assert "--warm-up has none" in str(refusal)
