"""Workers: one piece of work after the other in other processes, on this machine or, with Dask, on many.

Each process of this machine has a pool of its own, of one, so that one that is killed takes nothing with it but the
piece it was at; that is given to a new process once more. Pieces are asked for when there is a worker for them, so that
few are in memory. What a worker does has no threads of its own.
"""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

from gatewatch.models.errors import GatewatchError

ATTEMPTS: Final = 2
"""Processes that one piece may take with it."""

WAITING_A_THREAD: Final = 2
"""Pieces that a cluster has for each of its threads, so that none waits for the next."""

ONE_THREAD: Final = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")

T = TypeVar("T")
R = TypeVar("R")


class WorkerLost(GatewatchError):
    """The processes that were at a piece of work died, for instance because memory ran out."""


@dataclass(frozen=True)
class Outcome(Generic[T, R]):
    """What became of a piece of work: a result, or why there is none."""

    item: T
    result: R | None = None
    error: GatewatchError | None = None


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def here(work: Callable[[T], R], items: Iterable[T]) -> Iterator[Outcome[T, R]]:
    """In this process, one after the other."""
    for item in items:
        try:
            yield Outcome(item, work(item))
        except GatewatchError as error:
            yield Outcome(item, error=error)


def in_processes(work: Callable[[T], R], items: Iterable[T], processes: int) -> Iterator[Outcome[T, R]]:
    """In so many processes of this machine, as they come to an end; see `here`.

    Args:
        work: a function of a module; it and the items are pickled.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(_environment(ONE_THREAD))
        slots = [stack.enter_context(_Slot()) for _ in range(processes)]
        rest, again, running = iter(items), list[tuple[T, int]](), dict[Future[R], tuple[_Slot, T, int]]()
        while True:
            while slots and (piece := again.pop() if again else next(((item, 1) for item in rest), None)):
                slot = slots.pop()
                running[slot.submit(work, piece[0])] = slot, *piece
            if not running:
                return
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                slot, item, attempt = running.pop(future)
                slots.append(slot)
                try:
                    yield Outcome(item, future.result())
                except BrokenProcessPool:
                    slot.begin_anew()
                    if attempt < ATTEMPTS:
                        again.append((item, attempt + 1))
                    else:
                        yield Outcome(item, error=_lost(f"{attempt} processes died of it"))
                except GatewatchError as error:
                    yield Outcome(item, error=error)


class _Slot:
    """A place for one process."""

    def __init__(self) -> None:
        self._pool: ProcessPoolExecutor | None = None

    def __enter__(self) -> _Slot:
        return self

    def __exit__(self, *_: object) -> None:
        """End the process, whatever it is at: it is done with, or nobody waits for it any more."""
        if self._pool is not None:
            processes = list((self._pool._processes or {}).values())
            self._pool.shutdown(wait=False, cancel_futures=True)
            for process in processes:
                process.kill()

    def submit(self, work: Callable[[T], R], item: T) -> Future[R]:
        """Give the process a piece."""
        if self._pool is None:
            self._pool = ProcessPoolExecutor(1, multiprocessing.get_context("spawn"), _leave_interrupts)
        return self._pool.submit(work, item)

    def begin_anew(self) -> None:
        """Take another process for the next piece."""
        self._pool = None


def _leave_interrupts() -> None:
    """Ctrl-C reaches every process of a terminal; the one that was started ends the others."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


@contextlib.contextmanager
def _environment(values: dict[str, str]) -> Iterator[None]:
    """What processes that are started inside find in their environment, besides what they would."""
    before = {name: os.environ.get(name) for name in values}
    os.environ.update(values)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


_ALONE = threading.Lock()


def _one_at_a_time(work: Callable[[T], R], item: T) -> R:
    """A worker of a cluster may have threads; torch has one random state for all of them."""
    with _ALONE:
        return work(item)


def on_cluster(work: Callable[[T], R], items: Iterable[T], address: str) -> Iterator[Outcome[T, R]]:
    """On the workers of a Dask cluster, as they come to an end; see `in_processes`.

    Args:
        address: of its scheduler, as tcp://10.0.0.1:8786.

    Raises:
        GatewatchError: the extra `cluster` is missing, or the scheduler does not answer.
    """
    try:
        from distributed import Client, as_completed
        from distributed.scheduler import KilledWorker
    except ImportError as error:
        raise GatewatchError(f"--dask needs the extra `cluster`: pip install 'gatewatch[cluster]' ({error})") from error
    try:
        client: Any = Client(address, set_as_default=False)
    except (OSError, ValueError) as error:
        raise GatewatchError(
            f"--dask {address}: no scheduler answers ({error}); expected as tcp://10.0.0.1:8786"
        ) from error
    with client:
        threads = sum(client.ncores().values())
        if not threads:
            raise GatewatchError(f"--dask {address}: the scheduler has no worker; start some: dask worker {address}")
        rest, asked, ended = iter(items), dict[Any, T](), as_completed([], loop=client.loop, raise_errors=False)

        def ask_for_one() -> None:
            for item in rest:
                future = client.submit(_one_at_a_time, work, item, pure=False)
                asked[future] = item
                ended.add(future)
                return

        for _ in range(WAITING_A_THREAD * threads):
            ask_for_one()
        for future in ended:
            item, problem = asked.pop(future), future.exception()
            if problem is None:
                yield Outcome(item, future.result())
            elif isinstance(problem, KilledWorker):
                yield Outcome(item, error=_lost("several workers died of it"))
            elif isinstance(problem, GatewatchError):
                yield Outcome(item, error=problem)
            else:
                raise problem
            future.release()
            ask_for_one()


def _lost(how: str) -> WorkerLost:
    return WorkerLost(f"{how}: look whether memory ran out, and run the same command again")
