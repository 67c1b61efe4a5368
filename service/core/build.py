"""build_core: the parts of the core, joined over one store."""

from __future__ import annotations

from typing import NamedTuple

from gatewatch.service.clock import Clock
from gatewatch.service.core.bookkeeping import Bookkeeping
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.corrector import Corrector
from gatewatch.service.core.inspection import Inspection
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.readings import Models
from gatewatch.service.core.repeats import Repeats
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.core.sessions import Sessions
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_limit import StreamLimit
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.observability.metrics import Metrics


class Core(NamedTuple):
    """What others call."""

    scorer: Scorer
    inspection: Inspection
    corrector: Corrector
    books: Bookkeeping


def build_core(
    models: Models,
    store: Store,
    metrics: Metrics,
    backoff: ContentionBackoff,
    takeover: Takeover,
    clock: Clock,
    *,
    save_attempts: int,
    most_streams: int,
    correcting_ms: float = 2000.0,
    stream_channels: int = 64,
) -> Core:
    """Build the core.

    Args:
        save_attempts: to save a stream that other processes write.
        most_streams: that there may be.
        stream_channels: that a stream may have where it may have any.
        correcting_ms: most time that corrections ahead of a late reading may take.
    """
    books = Bookkeeping(metrics, store, clock)
    loader = Loader(store, takeover, StreamLimit(store, most_streams))
    sessions = Sessions(store, loader, metrics, clock, save_attempts)
    corrector = Corrector(store, loader, books, metrics, backoff, clock, save_attempts, correcting_ms)
    repeats = Repeats(store, books, corrector, sessions)
    scorer = Scorer(store, loader, repeats, books, backoff, takeover, metrics, clock, save_attempts, stream_channels)
    return Core(scorer, Inspection(models, store, loader, sessions, clock, save_attempts), corrector, books)
