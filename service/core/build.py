"""build_core: the parts of the core, joined over one store."""

from __future__ import annotations

from typing import NamedTuple

from gatewatch.service.clock import Clock
from gatewatch.service.core.bookkeeping import Bookkeeping
from gatewatch.service.core.contention import ContentionBackoff
from gatewatch.service.core.corrector import Corrector
from gatewatch.service.core.inspection import Inspection
from gatewatch.service.core.loading import Loader
from gatewatch.service.core.readings import Models, Policies
from gatewatch.service.core.repeats import Repeats
from gatewatch.service.core.scorer import Scorer
from gatewatch.service.core.sessions import Sessions
from gatewatch.service.core.store import Store
from gatewatch.service.core.stream_limit import Pace, StreamLimits
from gatewatch.service.core.takeover import Takeover
from gatewatch.service.incidents.closing import Closing
from gatewatch.service.incidents.corrected import CorrectedIncidents
from gatewatch.service.incidents.current import CurrentIncidents
from gatewatch.service.incidents.groups import Groups
from gatewatch.service.incidents.recorder import Recorder
from gatewatch.service.incidents.writing import IncidentWriter
from gatewatch.service.observability.metrics import Metrics


class Core(NamedTuple):
    """What others call."""

    scorer: Scorer
    inspection: Inspection
    corrector: Corrector
    books: Bookkeeping
    loader: Loader
    closing: Closing
    current: CurrentIncidents


def build_core(
    models: Models,
    store: Store,
    metrics: Metrics,
    backoff: ContentionBackoff,
    takeover: Takeover,
    clock: Clock,
    policies: Policies,
    *,
    save_attempts: int,
    most_streams: int,
    most_channels: int | None = None,
    correcting_ms: float = 2000.0,
    pace: Pace | None = None,
    stream_channels: int = 64,
    groups: Groups | None = None,
    tells: bool = True,
    incident_write_s: float = 0.0,
) -> Core:
    """Build the core.

    Args:
        save_attempts: to save a stream that other processes write.
        most_streams: of each tenant.
        most_channels: of all streams of a tenant; None for any number.
        pace: at which tenants may begin streams; None for any.
        stream_channels: that a stream may have where it may have any.
        groups: which incidents belong together; without it none do.
        tells: alerts, see Bookkeeping.
        incident_write_s: how often open incidents are written where nothing else has them written.
        correcting_ms: most time that corrections ahead of a late reading may take.
    """
    books = Bookkeeping(metrics, store, clock, tells=tells)
    writer = IncidentWriter(store, policies, groups, clock, incident_write_s)
    incidents = Recorder(store, writer, clock, incident_write_s)
    loader = Loader(models, store, takeover, StreamLimits(store, most_streams, pace, most_channels), policies)
    sessions = Sessions(models, store, loader, metrics, clock, save_attempts)
    correcting = (metrics, backoff, clock, save_attempts, correcting_ms)
    corrector = Corrector(models, store, loader, CorrectedIncidents(store, writer), writer, books, *correcting)
    repeats = Repeats(store, books, corrector, sessions)
    saving = (backoff, takeover, metrics, clock, save_attempts)
    scorer = Scorer(models, store, loader, repeats, incidents, writer, books, *saving, stream_channels)
    inspection = Inspection(models, store, loader, sessions, clock, save_attempts)
    closing = Closing(models, store, loader, clock, save_attempts)
    return Core(scorer, inspection, corrector, books, loader, closing, CurrentIncidents(models, store, loader))
