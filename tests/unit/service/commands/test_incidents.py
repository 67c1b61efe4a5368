"""What the commands of incidents make of what a service answers."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from gatewatch.models.recordings.labels import read_intervals
from gatewatch.service.commands.incidents import faults
from gatewatch.service.incidents.incident import Incident
from gatewatch.service.incidents.reading import shown
from gatewatch.service.incidents.silence import Head, Watch, found_silent, over
from gatewatch.service.incidents.words import Words
from tests.unit.service.client.test_recordings import answering

AT_MS = 1_800_000_000_000


def test_silences_are_no_faults_whose_readings_are_labelled(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An open one was last heard before its onset, which no file of labels may say."""
    watch = Watch(100, AT_MS, AT_MS, AT_MS, 60_000.0, 0.0, 0.0, 5, silent=False)
    silence = found_silent("pump", "ab", watch, Head(100, AT_MS, silent=False), AT_MS + 600_000, 300_000.0)
    fault: Incident = msgspec.structs.replace(silence, n=7, onset_ms=AT_MS - 60_000, reason="level")
    every = [shown(one, Words(label="true")) for one in (silence, over(silence, AT_MS + 900_000), fault)]
    with answering(200, json.dumps({"incidents": every, "next": None})) as (url, _):
        faults(url=url)
    path = tmp_path / "faults.csv"
    path.write_text(capsys.readouterr().out)
    ((stream, intervals),) = read_intervals(path).items()
    spans = [(one.start_us // 1000 - AT_MS, one.end_us // 1000 - AT_MS) for one in intervals]
    assert (stream, spans) == ("pump", [(-60_000, 0)])
