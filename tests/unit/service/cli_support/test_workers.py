"""A piece of work is done in another process; one that takes its process with it takes nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from gatewatch.models.errors import GatewatchError
from gatewatch.service.cli_support.fleets import Workforce
from gatewatch.service.cli_support.workers import Outcome, WorkerLost, here, in_processes, on_cluster
from tests.support.pieces import Piece, square, threads


def results(outcomes: Iterator[Outcome[Piece, int]]) -> dict[int, int | str]:
    return {
        one.item.number: one.result if one.error is None and one.result is not None else type(one.error).__name__
        for one in outcomes
    }


def pieces(folder: Path) -> list[Piece]:
    """One kills its process once, one always, one cannot be done."""
    dying = [Piece(2, 1, folder), Piece(3, 99, folder)]
    return [Piece(0), Piece(1), *dying, Piece(-4), *map(Piece, range(5, 10))]


DONE = {number: number**2 for number in (0, 1, 2, 5, 6, 7, 8, 9)}


def test_a_killed_process_costs_its_own_piece_alone(tmp_path: Path) -> None:
    asked: list[int] = []

    def one_by_one() -> Iterator[Piece]:
        for piece in pieces(tmp_path):
            asked.append(piece.number)
            yield piece

    outcomes = in_processes(square, one_by_one(), 2)
    first = next(outcomes)
    assert len(asked) <= 3  # few are in memory at once
    assert results(iter([first, *outcomes])) == {**DONE, 3: WorkerLost.__name__, -4: "TrainingError"}
    assert len(list(tmp_path.iterdir())) == 3  # it was tried twice


def test_in_this_process_the_same_comes_of_it() -> None:
    safe = [Piece(number) for number in (0, 1, 2, -4, 5, 6, 7, 8, 9)]
    assert results(here(square, safe)) == {**DONE, -4: "TrainingError"}


def test_processes_have_no_threads_of_their_own_and_leave_the_environment_as_it_was() -> None:
    before = dict(os.environ)
    (found,) = in_processes(threads, [Piece(1)], 1)
    assert found.result == "1"
    assert dict(os.environ) == before


def test_a_bug_is_no_outcome() -> None:
    with pytest.raises(AttributeError):
        list(in_processes(square, [cast(Piece, "no piece")], 1))


def test_a_cluster_does_the_same_and_a_killed_worker_costs_its_own_piece(tmp_path: Path) -> None:
    distributed = pytest.importorskip("distributed")
    options = {"n_workers": 2, "threads_per_worker": 1, "dashboard_address": None, "local_directory": str(tmp_path)}
    flags = tmp_path / "flags"
    flags.mkdir()
    with distributed.LocalCluster(**options) as cluster:
        some = [piece for piece in pieces(flags) if piece.number != 3]
        found = results(on_cluster(square, some, cluster.scheduler_address))
    assert found == {**DONE, -4: "TrainingError"}


def test_what_a_work_cannot_be_done_with_is_said() -> None:
    pytest.importorskip("distributed")
    with pytest.raises(GatewatchError, match="expected at most one of --processes N, --dask ADDRESS"):
        Workforce(2, "tcp://127.0.0.1:9")
    with pytest.raises(GatewatchError, match="no scheduler answers"):
        list(on_cluster(square, [Piece(1)], "nowhere://127.0.0.1:9"))
