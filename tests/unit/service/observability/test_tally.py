"""The tally: what many processes count stands in one memory, whatever becomes of them."""

from __future__ import annotations

import multiprocessing
import os
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from prometheus_client.parser import text_string_to_metric_families

from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.tally import Tally

spawn = multiprocessing.get_context("spawn")


def values(metrics: Metrics) -> dict[str, float]:
    families = text_string_to_metric_families(metrics.exposition().decode())
    return {
        "".join((sample.name, *sample.labels.values())): sample.value
        for family in families
        for sample in family.samples
    }


def count(tally: Tally, scores: int, waiting: int, then: Any) -> None:
    metrics = Metrics(tally)
    metrics.answered("normal", scores)
    metrics.scored(np.full(scores, 0.5, np.float32))
    metrics.waiting.set(waiting)
    metrics.model_in_use(f"model of {scores}", "lstm", 1)
    then.wait()


def test_the_counts_of_processes_add_up_and_outlive_them() -> None:
    tally = Tally.shared()
    here = Metrics(tally)
    here.answered("normal", 1)
    barriers = [spawn.Barrier(2) for _ in range(2)]
    processes = [spawn.Process(target=count, args=(tally, 10 * n + 10, n + 1, barriers[n])) for n in range(2)]
    for process in processes:
        process.start()
    barriers[0].wait(60)
    processes[0].join()
    while values(here)["gatewatch_readings_totalnormal"] != 31:
        assert processes[1].is_alive()
    ended = values(here)
    assert ended["gatewatch_score_count"] == 30
    assert ended["gatewatch_score_bucket0.5"] == 30
    assert ended["gatewatch_waiting_readings"] == 2  # of the process that lives
    assert not [name for name in ended if "model of" in name]
    processes[1].kill()
    processes[1].join()
    assert values(here) == ended | {"gatewatch_waiting_readings": 0}


A_HUNDRED = """
import os
from gatewatch.service.observability.metrics import Metrics
from gatewatch.service.observability.tally import Tally
tally = Tally.shared()
for number in range(100):
    if not (pid := os.fork()):
        metrics = Metrics(tally)
        metrics.answered("normal", 1)
        metrics.exposition()
        os._exit(0)
    os.waitpid(pid, 0)
    if number == 1:
        before = os.fstat(tally._descriptor).st_blocks
last = Metrics(tally)
print(last.exposition().decode())
assert os.fstat(tally._descriptor).st_blocks == before
"""


def test_after_a_hundred_processes_the_counts_are_whole_and_the_memory_has_not_grown() -> None:
    done = subprocess.run([sys.executable, "-c", A_HUNDRED], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert 'gatewatch_readings_total{status="normal"} 100.0' in done.stdout


def test_a_process_with_other_series_does_not_mix_them_up() -> None:
    """As after an upgrade in place: workers are replaced by those of another version."""
    tally = Tally.shared()
    older = Tally(os.dup(tally._descriptor))  # type: ignore[arg-type]
    older.claim()
    for name in ("gone", "gatewatch_replays_total"):
        older.cell("counter", "", name, (), (), "").inc(5)
    assert values(Metrics(tally))["gatewatch_replays_total"] == 5


@pytest.mark.parametrize("variable", ["PROMETHEUS_MULTIPROC_DIR", "prometheus_multiproc_dir"])
def test_a_folder_for_metrics_in_the_environment_is_not_used(variable: str) -> None:
    code = (
        "from gatewatch.service.observability.metrics import Metrics; m = Metrics(); m.answered('normal', 1); "
        "print(m.exposition().decode())"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, variable: "/nowhere/at/all"}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert 'gatewatch_readings_total{status="normal"} 1.0' in done.stdout


def test_every_labelled_series_is_there_from_the_start() -> None:
    """Of one that appears as 1, increase() sees nothing: the first alert would go unnoticed. Three tell of a model."""
    metrics = Metrics()
    labelled = {
        n: v
        for n, v in vars(metrics).items()
        if getattr(v, "_labelnames", ()) and n not in ("_model", "_info", "_drift")
    }
    assert labelled
    assert [name for name, counter in labelled.items() if not counter._metrics] == []
    assert {name: value for name, value in values(metrics).items() if value} == {}


def test_the_sum_of_the_largest_scores_is_finite() -> None:
    metrics = Metrics()
    largest = np.full(3, np.finfo(np.float32).max)
    metrics.scored(largest)
    metrics.scored(largest[:1])
    assert values(metrics)["gatewatch_score_sum"] == pytest.approx(4 * float(largest[0]))
