"""ClientSettings: what both clients can be told."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from .outbox import MemoryQueue, Outbox, Queue
from .readings import Reading, Result
from .spool import Spool

log = logging.getLogger("gatewatch.client")

REFUSED_WAIT_S = 10.0
"""Between attempts where the service refuses whole requests, for want of a key say; a person has to mend that."""

ANSWER_TIMEOUT_S = 30.0
"""For the answer to a request. What is not answered by then is sent again."""


@dataclass(frozen=True, kw_only=True)
class ClientSettings:
    """How readings are gathered, kept and sent.

    Attributes:
        key: an API key, sent as bearer token.
        spool: file in which readings wait; without one they wait in memory, and end with the process.
        batch_readings: most readings in a request.
        linger_s: how long a reading waits for others before a request is sent, seconds.
        waiting_readings: most readings that wait; whoever sends more waits too.
        numbered: readings without `seq` get one, so that two of one time are two, and a gap is seen.
        on_result: called with each reading and its result; by default what is rejected or in conflict is logged.
    """

    key: str | None = None
    spool: Path | str | None = None
    batch_readings: int = 500
    linger_s: float = 0.2
    waiting_readings: int = 1_000_000
    numbered: bool = True
    on_result: Callable[[Reading, Result], None] | None = None

    @property
    def headers(self) -> dict[str, str]:
        """Of every request."""
        found = {"content-type": "application/json"}
        return found if self.key is None else found | {"authorization": f"Bearer {self.key}"}

    def outbox(self) -> Outbox:
        """Where readings wait. Raises ClientError for a spool that cannot be used."""
        queue: Queue = MemoryQueue() if self.spool is None else Spool(Path(self.spool))
        return Outbox(queue, self.batch_readings, self.numbered)

    def tell(self, reading: Reading, result: Result) -> None:
        """Hand a result to whoever asked for it; an error in `on_result` is logged, and the readings go on."""
        if self.on_result is not None:
            try:
                self.on_result(reading, result)
            except Exception:
                log.exception("on_result failed for %s", reading)
        elif result.status in ("rejected", "conflict"):
            log.warning("%s, seq %s: %s: %s", reading.stream, reading.seq, result.status, result.error)
