"""Drain: a stop that is announced before it happens.

Whoever hands out connections hears of a stop late: a Kubernetes Service by a second or more, a load balancer at its
next check. Until then /readyz says 503 while everything is answered, with `connection: close`, so that senders open
their next connection elsewhere. Only then is the server stopped.
"""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Final

import structlog

log = structlog.get_logger(__name__)

DRAIN: Final = "drain"
"""Under this name, the app's state tells connections of it."""


class Drain:
    """Holds back SIGTERM for a time, and ends what would hold up the end. SIGINT, which ^C sends, is not held back.

    Attributes:
        began: whether the service is about to stop.
    """

    def __init__(self, seconds: float, end_streams: Callable[[], None]) -> None:
        """Hold SIGTERM back for `seconds`; `end_streams` ends the replies that would go on for ever."""
        self.began = False
        self._seconds = seconds
        self._end_streams = end_streams

    def start(self) -> None:
        """Take the signals over from the server; in the main thread only, as signals are."""
        if threading.current_thread() is threading.main_thread():
            loop = asyncio.get_running_loop()
            self._take_over(loop, signal.SIGTERM, self._seconds)
            self._take_over(loop, signal.SIGINT, 0.0)

    def _take_over(self, loop: asyncio.AbstractEventLoop, number: signal.Signals, seconds: float) -> None:
        stop = signal.getsignal(number)
        if not callable(stop):
            return

        def begin(number: int, frame: FrameType | None) -> None:
            loop.call_soon_threadsafe(self._end_streams)
            if not seconds:
                stop(number, frame)
            elif not self.began:  # supervisors may send it to a process and, again, to its group
                self.began = True
                log.info("about to stop", drain_s=seconds)
                loop.call_soon_threadsafe(loop.call_later, seconds, stop, number, frame)

        signal.signal(number, begin)
