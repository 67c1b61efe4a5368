"""Run the demo: a private Redis and the service, three days of the pump station over HTTP, and what was detected."""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import httpx2
from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, Task, TextColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from gatewatch.client import Client, ClientError, Reading
from gatewatch.models.recordings.recording import Recording
from gatewatch.service.demo.evaluation import FALSE_ALARMS_PER_STREAM_WEEK, Detection, Evaluation, Scored, evaluate
from gatewatch.service.demo.station import CHANNELS, DAY_MINUTES, MINUTE_MS, STREAMS, demo_faults, simulate

DAYS = 3
LIVE_SEED = 7
MINUTES_AT_ONCE = 100
IN_REQUEST = MINUTES_AT_ONCE * len(STREAMS)  # readings; some 80 kB
REPEATED_MINUTES = 20  # sent a second time; the service answers a stream's last 32 readings again
READY_WITHIN_S = 30.0
STOP_WITHIN_S = 15.0
USUAL_PORT = 8000
LOOPBACK = "127.0.0.1"


class DemoError(RuntimeError):
    """The demo cannot go on: the service does not start, or a reading was not scored."""


def run_demo(once: bool, host: str = LOOPBACK, port: int | None = None) -> int:
    """Show the service at work on the simulated station.

    Args:
        once: end after the table; otherwise keep serving until Ctrl-C.
        host, port: where the service listens; a free port if none is named, 8000 if it is free and the service stays.

    Returns:
        Exit status: 0 only if every fault was found in time and on one of its channels, what is normal raised no
        lasting alarm, false alarms are within their budget, and readings sent again got their first answers again.
    """
    console = Console(width=None if sys.stdout.isatty() else 120)
    end_ms = int(time.time() * 1000) // MINUTE_MS * MINUTE_MS
    start_ms = end_ms - (DAYS * DAY_MINUTES - 1) * MINUTE_MS
    faults = demo_faults(start_ms)
    recordings = simulate(start_ms, DAYS * DAY_MINUTES, LIVE_SEED, faults)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(128 + signal.SIGTERM))  # so that nothing is left running
    try:
        with (
            _service(host, _port(host, port, once)) as url,
            Client(url, batch_readings=IN_REQUEST, numbered=False) as client,
        ):
            scored = _post_all(client, recordings, console)
            evaluation = evaluate(scored, faults)
            again = _repeat(client, recordings, scored)
            problems = evaluation.problems + ([again] if again else [])
            console.print(_table(evaluation, start_ms))
            _print_false_alarms(console, evaluation, start_ms)
            _print_verdict(console, evaluation, problems)
            if not once:
                _print_next_steps(console, url, recordings[0])
                with contextlib.suppress(KeyboardInterrupt):
                    signal.pause()
                console.print("Stopping.")
    except (DemoError, ClientError) as error:
        console.print(f"The demo failed: {error}", style="red", markup=False)
        return 1
    except KeyboardInterrupt:
        console.print("Stopped.")
        return 128 + signal.SIGINT
    return 1 if problems else 0


@contextlib.contextmanager
def _service(host: str, port: int) -> Iterator[str]:
    """`gatewatch serve` with the shipped model and a private Redis, in a folder that goes when it stops; its URL."""
    reached = {"0.0.0.0": LOOPBACK, "::": "::1"}.get(host, host)  # noqa: S104 - asked at, not listened on
    url = f"http://[{reached}]:{port}" if ":" in reached else f"http://{reached}:{port}"
    with tempfile.TemporaryDirectory(prefix="gatewatch-demo-") as folder:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("GATEWATCH_")}
        environment |= {
            "GATEWATCH_MODEL": "demo",
            "GATEWATCH_DATA_DIR": str(Path(folder, "data")),
            "GATEWATCH_HOST": host,
            "GATEWATCH_PORT": str(port),
        }
        log = Path(folder, "service.log")
        with log.open("wb") as output:
            process = subprocess.Popen(
                [sys.executable, "-P", "-m", "gatewatch", "serve"],
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C is ours; the service is stopped below
            )
        try:
            _await_ready(url, process, log)
            yield url
        finally:
            process.terminate()
            try:
                process.wait(STOP_WITHIN_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()


def _port(host: str, asked: int | None, once: bool) -> int:
    """The port asked for; else the usual one if nobody listens there and the service stays; else any free one."""
    for port in ([0] if once else [USUAL_PORT, 0]) if asked is None else [asked]:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family) as listener, contextlib.suppress(OSError):
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            return int(listener.getsockname()[1])
    named = "no port is free" if asked is None else f"port {asked} is taken"
    raise DemoError(f"{named} on {host}; name another one with --port or GATEWATCH_PORT")


def _await_ready(url: str, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + READY_WITHIN_S
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(httpx2.TransportError):
            if httpx2.get(f"{url}/readyz", trust_env=False, timeout=2).status_code == httpx2.codes.OK:
                return
        time.sleep(0.05)
    state = "is not ready" if process.poll() is None else f"ended with status {process.returncode}"
    lines = log.read_text(errors="replace").splitlines()[-15:]
    raise DemoError("\n".join([f"the service {state}; its last lines:", *lines]))


def _post_all(client: Client, recordings: Sequence[Recording], console: Console) -> list[Scored]:
    """Post every reading, minute by minute across the streams."""
    minutes = len(recordings[0])
    scored: list[Scored] = []
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:3.0f} %"),
        _Rate(),
        TimeRemainingColumn(),
    )
    began = time.monotonic()
    with Progress(*columns, console=console) as progress:
        task = progress.add_task(f"{DAYS} days of {len(recordings)} pumps", total=minutes * len(recordings))
        for start in range(0, minutes, MINUTES_AT_ONCE):
            results, _ = _post(client, recordings, start, min(start + MINUTES_AT_ONCE, minutes))
            scored += results
            progress.advance(task, len(results))
    seconds = time.monotonic() - began
    console.print(
        f"{len(scored):,} readings posted and scored in {seconds:.1f} s, {len(scored) / seconds:,.0f} a second."
    )
    return scored


class _Rate(ProgressColumn):
    """Readings a second."""

    def render(self, task: Task) -> Text:
        return Text("" if task.speed is None else f"{task.speed:,.0f} readings/s")


def _post(client: Client, recordings: Sequence[Recording], start: int, stop: int) -> tuple[list[Scored], int]:
    """Post rows `start` to `stop` of all streams; their results in the order sent, and how many were replayed."""
    sent = [
        Reading.of(recording.stream, _values(recording, row), int(recording.timestamps_ms[row]) // 1000)
        for row in range(start, stop)
        for recording in recordings
    ]
    results = client.post(sent)
    scored = []
    for reading, result in zip(sent, results, strict=True):
        if result.score is None:
            raise DemoError(f"{reading} was not scored: {result.status}: {result.error}")
        scored.append(
            Scored(
                stream=reading.stream,
                timestamp_ms=int(reading.timestamp) * 1000,
                status=result.status,
                score=result.score,
                reason=result.reason or "",
                attribution=dict(result.attribution),
            )
        )
    return scored, sum(result.replayed for result in results)


def _values(recording: Recording, row: int) -> dict[str, float | None]:
    values = recording.values[row].tolist()
    return {
        channel: None if math.isnan(value) else float(f"{value:.6g}")
        for channel, value in zip(CHANNELS, values, strict=True)
    }


def _repeat(client: Client, recordings: Sequence[Recording], scored: Sequence[Scored]) -> str:
    """Post the last readings again, as after a lost reply; returns what is wrong with the answers, or ''."""
    minutes = len(recordings[0])
    again, replayed = _post(client, recordings, minutes - REPEATED_MINUTES, minutes)
    first = scored[-len(again) :]
    if replayed != len(again):
        return f"{len(again) - replayed} of {len(again)} readings sent again were not marked as replayed"
    differ = sum(one != other for one, other in zip(first, again, strict=True))
    return f"{differ} of {len(again)} readings sent again got another answer" if differ else ""


def _table(evaluation: Evaluation, start_ms: int) -> Table:
    table = Table(title="Injected and detected", title_justify="left")
    for heading in ("injected", "stream", "channel", "at", "detected after", "reason", "names"):
        table.add_column(heading)
    table.add_column("score", justify="right")
    table.add_column("highest", justify="right")
    table.add_column("")
    for detection in evaluation.detections:
        table.add_row(*_row(detection, start_ms))
    return table


def _row(detection: Detection, start_ms: int) -> list[str]:
    fault, found = detection.fault, detection.found
    channels = "all" if len(fault.channels) == len(CHANNELS) else ", ".join(fault.channels)
    kind = fault.kind if fault.is_fault else f"{fault.kind} (normal)"
    shown = [kind, fault.stream, channels, _moment(fault.start_ms, start_ms)]
    if found is None or detection.delay_minutes is None:
        shown += ["no alarm", "", "", ""]
    else:
        shown += [_duration(detection.delay_minutes), found.reason, found.channel, f"{found.score:.2f}"]
    return [*shown, f"{detection.largest_score:.2f}", "[red]✗[/]" if detection.problem else "[green]✓[/]"]


def _print_false_alarms(console: Console, evaluation: Evaluation, start_ms: int) -> None:
    for alarm in evaluation.false_alarms:
        first = alarm.first
        console.print(
            f"false alarm: {first.stream}, {_moment(first.timestamp_ms, start_ms)}, {alarm.readings} readings, "
            f"{first.reason} of {first.channel}, score up to {alarm.largest_score:.2f}"
        )
    console.print(
        f"{len(evaluation.false_alarms)} false alarms in {evaluation.stream_weeks:.1f} stream-weeks: "
        f"{evaluation.false_alarms_per_stream_week:.1f} per stream and week (budget {FALSE_ALARMS_PER_STREAM_WEEK:g})."
    )


def _print_verdict(console: Console, evaluation: Evaluation, problems: list[str]) -> None:
    if problems:
        console.print("Not as it should be: " + "; ".join(problems), style="bold red", markup=False)
        return
    faults = sum(detection.fault.is_fault for detection in evaluation.detections)
    repeated = REPEATED_MINUTES * len(STREAMS)
    console.print(
        f"As it should be: {faults} of {faults} faults detected, no lasting alarm on the new set-point, "
        f"{repeated} of {repeated} readings sent again got their first answer again.",
        style="bold green",
    )


def _print_next_steps(console: Console, url: str, recording: Recording) -> None:
    row = max(row for row in range(len(recording)) if not any(math.isnan(value) for value in recording.values[row]))
    normal = _values(recording, row)
    strange = {**normal, "pressure": round((normal["pressure"] or 0.0) - 1.5, 3)}
    post = f"curl -s {url}/v1/readings -H 'content-type: application/json' -d"
    lines = [
        f"\nStill serving on {url} (API: {url}/docs). Try in another terminal:\n",
        "# a reading of this moment, and its score",
        f"{post} {_body(recording.stream, normal)}",
        "# the same with a pressure 1.5 bar too low",
        f"{post} {_body(recording.stream, strange)}",
        "# what the service knows of the stream; its metrics",
        f"curl -s {url}/v1/streams/{recording.stream}",
        f"curl -s {url}/metrics | grep ^gatewatch_readings",
        "\nCtrl-C ends it.",
    ]
    console.print("\n".join(lines), soft_wrap=True, markup=False, highlight=False)


def _body(stream: str, values: dict[str, float | None]) -> str:
    """A reading without a timestamp: that of its arrival, so that the line may be run again at once."""
    return f"'{json.dumps({'stream': stream, 'values': values})}'"


def _moment(time_ms: int, start_ms: int) -> str:
    minutes = (time_ms - start_ms) // MINUTE_MS
    return f"day {minutes // DAY_MINUTES + 1} {minutes % DAY_MINUTES // 60:02}:{minutes % 60:02}"


def _duration(minutes: int) -> str:
    if minutes == 0:
        return "at once"
    return f"{minutes} min" if minutes < 120 else f"{minutes / 60:.1f} h"
