"""Names of files and devices as names of streams."""

from __future__ import annotations

import numpy as np
import pytest

from gatewatch.models.errors import RecordingError
from gatewatch.models.recordings.recording import Recording
from gatewatch.service.cli_support.stream_names import as_streams, stream_name
from gatewatch.service.doors.door import STREAM_NAME


@pytest.mark.parametrize(
    ("name", "stream"),
    [
        ("pump-7", "pump-7"),
        ("Trend_Gebläse3", "Trend_Geblaese3"),
        ("Pump 3 (new)", "Pump-3-new"),
        ("_é/è", "e-e"),
        ("x" * 200, "x" * 128),
        ("温度", "stream"),
        ("<img src=x>", "img-src-x"),
    ],
)
def test_a_name_that_a_service_takes_is_made_of_any_name(name: str, stream: str) -> None:
    assert stream_name(name) == stream
    assert STREAM_NAME.fullmatch(stream)
    assert stream_name(stream) == stream


def test_two_names_that_become_one_are_refused_and_another_name_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    def recordings(*names: str) -> list[Recording]:
        return [Recording(name, ("a",), np.zeros(1, np.int64), np.zeros((1, 1))) for name in names]

    assert [one.stream for one in as_streams(recordings("ä", "b", "ä"))] == ["ae", "b", "ae"]
    assert capsys.readouterr().err.count("is posted as ae") == 1
    with pytest.raises(RecordingError, match="ä and ae would both be the stream ae"):
        as_streams(recordings("ae", "ä"))
