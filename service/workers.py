"""Workers: what `gatewatch serve` starts in each of its processes."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from typing import TYPE_CHECKING

from service.tally import Tally

if TYPE_CHECKING:
    from multiprocessing.process import BaseProcess

    from fastapi import FastAPI


def app(tally: Tally) -> FastAPI:
    """The app of this process, which counts in the tally and ends with the process that started it."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        threading.Thread(target=_end_with, args=(parent,), name="parent", daemon=True).start()
    from service.app import create_app  # here: a process that is sent this function is to answer soon

    return create_app(tally=tally)


def _end_with(parent: BaseProcess) -> None:
    """Stop as after SIGTERM once the parent is gone: without it nobody would, and the port would stay taken."""
    parent.join()
    os.kill(os.getpid(), signal.SIGTERM)
