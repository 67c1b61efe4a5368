"""Workers: what `gatewatch serve` starts in each of its processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import uuid
from typing import TYPE_CHECKING, Final

from gatewatch.service.observability.tally import Tally

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from fastapi import FastAPI


SERVICE_VARIABLE: Final = "_GATEWATCH_SERVICE"
"""Tells worker processes which service they belong to; see streams/takeover.py."""


def begin_service() -> None:
    """Have worker processes started from now on belong to one service, which may have another model than before."""
    os.environ[SERVICE_VARIABLE] = uuid.uuid4().hex


def service_of_this_process() -> str:
    """The service that this process belongs to; one of its own where it was not told of any."""
    return os.environ.get(SERVICE_VARIABLE) or uuid.uuid4().hex


def app(tally: Tally) -> FastAPI:
    """The app of this process, which counts in the tally and ends with the process that started it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    from gatewatch.service.app import create_app  # here: a process that is sent this function is to answer soon

    return create_app(tally=tally)


def _end_with(parent: BaseProcess) -> None:
    """Stop as after SIGTERM once the parent is gone: without it nobody would, and the port would stay taken."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
