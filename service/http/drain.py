"""Drain: a stop that is announced before it happens.

Whoever hands out connections hears of a stop late: a Kubernetes Service by a second or more, a load balancer at its
next check. Until then /readyz says 503 while everything is answered, with `connection: close`, so that senders open
their next connection elsewhere. Only then is the server stopped.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from types import FrameType
from typing import Final

import structlog

log = structlog.get_logger(__name__)

DRAIN: Final = "drain"
"""Under this name, the app's state tells connections of it."""


class Drain:
    """Holds back SIGTERM for a time; SIGINT, which is what ^C sends, is not held back.

    Attributes:
        began: whether the service is about to stop.
    """

    def __init__(self, seconds: float) -> None:
        self.began = False
        self._seconds = seconds

    def start(self) -> None:
        """Take SIGTERM over from the server; in the main thread only, as signals are."""
        if not self._seconds or threading.current_thread() is not threading.main_thread():
            return
        loop = asyncio.get_running_loop()
        stop = signal.getsignal(signal.SIGTERM)

        def begin(number: int, frame: FrameType | None) -> None:
            if self.began or not callable(stop):  # supervisors may send it to a process and, again, to its group
                return
            self.began = True
            log.info("about to stop", drain_s=self._seconds)
            loop.call_soon_threadsafe(loop.call_later, self._seconds, stop, number, frame)

        signal.signal(signal.SIGTERM, begin)
