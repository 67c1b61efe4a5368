"""Every Prometheus series of the service, declared in one place; those with the name of a stream, in named.py."""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, disable_created_metrics, generate_latest
from prometheus_client import values as kept_values

from gatewatch.service.incidents.incident import INCIDENT_REASONS
from gatewatch.service.incidents.rules import GATES
from gatewatch.service.observability.named import NamedSeries
from gatewatch.service.observability.shadowed import Shadowed
from gatewatch.service.observability.tally import Tally

SCORES = (0.1, 0.25, 0.5, 0.75, 1, 1.5, 2, 3, 5, 10, 30, 100)
SECONDS = (0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5)
STAGES = ("wait", "parse", "load", "step", "save")
STATUSES = ("warming_up", "normal", "anomalous", "late", "conflict", "rejected")
CAUSES = ("missing", "corrupt", "format", "model", "channels", "history", "stale", "version")
REJECTIONS = ("form", "stream", "timestamp", "clock", "seq", "gap", "channel", "value", "room", "other")
OPERATIONS = ("score", "check")
DELIVERIES = ("delivered", "failed", "dead")
DRIFT = ("residuals", "inputs")
BATCHES = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024, 4096)


disable_created_metrics()  # type: ignore[no-untyped-call]


def _observe(series: Histogram, value: float) -> None:
    """`series.observe(value)`, which tries one bound after the other (1.5 µs, seven times a batch)."""
    series._sum.inc(value)
    series._buckets[bisect_left(series._upper_bounds, value)].inc(1)


class Stage:
    """A stopwatch that is running; it stops at the end of a `with`, or when told to."""

    def __init__(self, series: Histogram) -> None:
        self._series = series
        self._began = time.perf_counter()

    def done(self) -> None:
        """Stop it and note the time."""
        _observe(self._series, time.perf_counter() - self._began)

    def __enter__(self) -> None: ...

    def __exit__(self, *_: object) -> None:
        self.done()


class Metrics:
    """The series of all worker processes, whose values a Tally holds.

    Attributes:
        named: the series that name streams, of what was found last.

    Every series with a label is there from the start, at 0: of one that appears as 1, `increase()` sees nothing.
    """

    def __init__(self, tally: Tally | None = None) -> None:
        """`tally`: that of all worker processes; without it this process is alone."""
        self._tally = tally or Tally()
        self._tally.claim()
        # prometheus-client's own choice depends on a variable of the environment, and on a folder that may be cleaned
        kept_values.ValueClass = self._tally.cell
        self._registry = CollectorRegistry()
        registry = self._registry
        self._readings = Counter("gatewatch_readings", "Readings answered, by status.", ["status"], registry=registry)
        self._rejections = Counter(
            "gatewatch_rejected",
            "Readings rejected, by what is wrong with them.",
            ["reason"],
            registry=registry,
        )
        self._replays = Counter(
            "gatewatch_replays", "Readings sent again and answered as they were the first time.", registry=registry
        )
        self._past = Counter("gatewatch_past_readings", "Readings of the past taken in by warm-ups.", registry=registry)
        self._expired = Counter(
            "gatewatch_streams_expired", "Unused streams forgotten after GATEWATCH_STREAM_DAYS.", registry=registry
        )
        self._score = Histogram(
            "gatewatch_score", "Anomaly scores; 1 is the threshold.", buckets=SCORES, registry=registry
        )
        self._alerts = Counter(
            "gatewatch_alerts",
            "Alerts, by the part of the score that was largest: incidents begun, and what else alerts within one.",
            ["reason"],
            registry=registry,
        )
        self._gated = Counter(
            "gatewatch_gated",
            "Readings that a gate of their stream's policy decided about, by gate; window: of a maintenance window.",
            ["gate"],
            registry=registry,
        )
        self._unlearned = Counter(
            "gatewatch_unlearned",
            "Readings that taught the model nothing, in maintenance windows that skip learning.",
            registry=registry,
        )
        self.budget_bounds = Gauge(
            "gatewatch_budget_streams_at_bound",
            "Streams whose budget loop is at a bound of its factor, and can hold their alerts no nearer.",
            registry=registry,
        )
        self.windows_active = Gauge(
            "gatewatch_windows_active",
            "Maintenance windows that are going on, of the tenants that this process knows.",
            registry=registry,
        )
        self._stage = Histogram(
            "gatewatch_stage_seconds",
            "Time spent by stage of a batch; wait: its oldest reading's.",
            ["stage"],
            buckets=SECONDS,
            registry=registry,
        )
        self._batch = Histogram(
            "gatewatch_batch_readings", "Readings scored together.", buckets=BATCHES, registry=registry
        )
        self._store_errors = Counter(
            "gatewatch_store_errors", "Failed operations on Redis.", ["operation"], registry=registry
        )
        self._foreign = Counter(
            "gatewatch_foreign_values",
            "Requests and batches that met a value of another program under a key of the service.",
            registry=registry,
        )
        self._rebuilt = Counter(
            "gatewatch_states_rebuilt", "States rebuilt from history, by what was wrong.", ["cause"], registry=registry
        )
        self._losses = Counter(
            "gatewatch_store_losses", "Times that Redis was found to have forgotten all streams.", registry=registry
        )
        self._corrections = Counter("gatewatch_corrections", "Late readings applied in their place.", registry=registry)
        self._rescored = Counter(
            "gatewatch_rescored", "Readings scored anew after a late one before them.", registry=registry
        )
        self._sequences = Counter(
            "gatewatch_sequences_restarted", "Senders that began to count their readings anew.", registry=registry
        )
        self._clock_steps = Counter(
            "gatewatch_clock_steps", "Readings in their order whose time lies before the last one's.", registry=registry
        )
        self._takeover = Gauge(
            "gatewatch_takeover",
            "Number of the takeover that this service scores under; 0 once another model has taken over.",
            registry=registry,
        )
        self._models = Gauge(
            "gatewatch_models_loaded",
            "Models of the repository in memory, over all processes.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._models_bytes = Gauge(
            "gatewatch_models_bytes",
            "Memory that they take, about.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._models_refused = Counter(
            "gatewatch_models_refused", "Versions that could not be served; the one before went on.", registry=registry
        )
        self._unknown = Counter(
            "gatewatch_unknown_channels",
            "Readings that were taken without channels that the model of their stream does not know.",
            registry=registry,
        )
        self._alike = Counter(
            "gatewatch_channels_named_alike",
            "Channels that came with a name like another one of their stream.",
            registry=registry,
        )
        self._repository_up = Gauge(
            "gatewatch_repository_up",
            "1 while the repository of models answers, or none is asked; 0 while it cannot be reached.",
            registry=registry,
        )
        self._shadow = Shadowed(registry)
        self._drift = Gauge(
            "gatewatch_model_drift",
            "How far a trained model has aged since this process began; 1 and more is aged.",
            ["model", "of"],
            registry=registry,
        )
        self._rules = Gauge(
            "gatewatch_rules_number", "Number of the rules that this process goes by.", registry=registry
        )
        self._model = Gauge(
            "gatewatch_model_info",
            "1 for the model in use.",
            ["model", "architecture", "format"],
            registry=registry,
        )
        self.store_up = Gauge(
            "gatewatch_store_up",
            "1 while Redis answers and keeps states.",
            registry=registry,
        )
        self.open_anomalies = Gauge(
            "gatewatch_open_anomalies",
            "Streams with an open anomaly, over all processes.",
            registry=registry,
        )
        self.open_grouped = Gauge(
            "gatewatch_open_anomalies_grouped",
            "Those of them whose group has a series.",
            registry=registry,
        )
        self.open_left_out = Gauge(
            "gatewatch_open_anomalies_left_out",
            "Streams with an open anomaly that no series names, nor their group: too many, or not yet told.",
            registry=registry,
        )
        self.silent_streams = Gauge(
            "gatewatch_silent_streams",
            "Streams that have fallen silent and whose incident is open, over all processes.",
            registry=registry,
        )
        self.channel_streams_left_out = Gauge(
            "gatewatch_channel_series_left_out",
            "Chosen streams whose channels have no series: more than there may be.",
            registry=registry,
        )
        self.streams = Gauge("gatewatch_streams", "Streams that Redis holds.", registry=registry)
        self.store_memory = Gauge("gatewatch_store_memory_bytes", "Memory that Redis uses.", registry=registry)
        self.store_memory_limit = Gauge(
            "gatewatch_store_memory_limit_bytes",
            "Memory that Redis may use: its maxmemory or, without one, all of its machine.",
            registry=registry,
        )
        self.waiting_limit = Gauge(
            "gatewatch_waiting_readings_limit",
            "Readings that may wait to be scored; more get 429.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._info = Gauge(
            "gatewatch_info",
            "1 for the version that runs, and the address that people reach it by.",
            ["version", "external_url"],
            registry=registry,
        )
        self.waiting = Gauge(
            "gatewatch_waiting_readings",
            "Readings waiting to be scored.",
            multiprocess_mode="livesum",
            registry=registry,
        )
        self._webhook = Counter(
            "gatewatch_webhook_deliveries", "Deliveries to the webhook, by outcome.", ["outcome"], registry=registry
        )
        self.webhook_waiting = Gauge(
            "gatewatch_webhook_waiting", "Events that wait to be told, over all processes.", registry=registry
        )
        self.silence_behind = Gauge(
            "gatewatch_silence_behind_seconds",
            "How long a stream had been due at most when this process looked whether it is silent, in the last round.",
            registry=registry,
        )
        self.named = NamedSeries()
        registry.register(self.named)
        self._stages = {name: self._stage.labels(name) for name in STAGES}
        self._bounds = np.array([*SCORES, np.inf])
        self._statuses = {status: self._readings.labels(status) for status in STATUSES}
        for counter, labels in (
            (self._rejections, REJECTIONS),
            (self._alerts, INCIDENT_REASONS),
            (self._gated, [gate for gate in dict.fromkeys(GATES) if gate]),
            (self._rebuilt, CAUSES),
            (self._store_errors, OPERATIONS),
            (self._webhook, DELIVERIES),
        ):
            for label in labels:
                counter.labels(label)

    def model_in_use(self, model: str, architecture: str, format_version: int) -> None:
        """Name the model that scores."""
        self._model.labels(model, architecture, str(format_version)).set(1)

    def service(self, version: str, external_url: str) -> None:
        """Name the version that runs, and the address that people reach it by; empty where it is not known."""
        self._info.labels(version, external_url).set(1)

    def stage(self, stage: str) -> Stage:
        """Time a stage: parse, load, step or save."""
        return Stage(self._stages[stage])

    def waited(self, seconds: float) -> None:
        """The reading of a batch that had waited longest had waited so long."""
        _observe(self._stages["wait"], seconds)

    def answered(self, status: str, readings: int) -> None:
        """So many readings got an answer with this status."""
        self._statuses[status].inc(readings)

    def rejected(self, reason: str) -> None:
        """A reading was rejected for one of REJECTIONS."""
        self._rejections.labels(reason).inc()

    def replayed(self, readings: int) -> None:
        """So many readings had been applied before and got their first answer again."""
        self._replays.inc(readings)

    def past(self, readings: int) -> None:
        """So many readings of the past were applied."""
        self._past.inc(readings)

    def expired(self, streams: int) -> None:
        """So many unused streams were forgotten."""
        self._expired.inc(streams)

    def scored(self, scores: NDArray[np.float32]) -> None:
        """Readings were applied, with these scores.

        A batch is counted bucket by bucket. Two scores may sum up to more than a float32 holds.
        """
        if len(scores) == 1:
            _observe(self._score, scores.item())
            return
        counts = np.bincount(np.searchsorted(self._bounds, scores), minlength=len(self._bounds))
        for bucket, count in zip(self._score._buckets, counts.tolist(), strict=True):
            if count:
                bucket.inc(count)
        self._score._sum.inc(float(np.sum(scores, dtype=np.float64)))

    def alerted(self, reason: str) -> None:
        """An incident began; the reason is the part of the score that was largest."""
        self._alerts.labels(reason).inc()

    def gated(self, gates: Mapping[str, int], unlearned: int) -> None:
        """So many readings were decided about by each gate, and so many taught nothing."""
        for gate, readings in gates.items():
            self._gated.labels(gate).inc(readings)
        self._unlearned.inc(unlearned)

    def batch(self, readings: int) -> None:
        """So many readings were taken together."""
        _observe(self._batch, readings)

    def store_error(self, operation: str) -> None:
        """An operation on Redis failed."""
        self._store_errors.labels(operation).inc()

    def webhook(self, outcome: str) -> None:
        """A delivery to the webhook came to one of DELIVERIES; dead is given up, after it has failed."""
        self._webhook.labels(outcome).inc()

    def foreign_value(self) -> None:
        """A key of the service held a value of another program."""
        self._foreign.inc()

    def rebuilt(self, cause: str) -> None:
        """A state was rebuilt: missing, corrupt, format, model, channels, history or stale."""
        self._rebuilt.labels(cause).inc()

    def lost_everything(self) -> None:
        """Redis has forgotten all streams."""
        self._losses.inc()

    def corrected(self, late: int, rescored: int) -> None:
        """So many late readings were applied in their places, and so many after them were scored anew."""
        self._corrections.inc(late)
        self._rescored.inc(rescored)

    def sequence_restarted(self) -> None:
        """A sender began to count its readings anew."""
        self._sequences.inc()

    def clock_stepped(self, readings: int) -> None:
        """So many readings of numbered streams had a time before the one before them."""
        self._clock_steps.inc(readings)

    def takeover(self, number: int) -> None:
        """The process scores under this number; 0 if it does not score any more."""
        self._takeover.set(number)

    def models_loaded(self, models: int, size: int) -> None:
        """So many models of the repository are in memory, and take so many bytes."""
        self._models.set(models)
        self._models_bytes.set(size)

    def model_refused(self) -> None:
        """A version could not be served; the one before goes on."""
        self._models_refused.inc()

    def unknown_channels(self, readings: int) -> None:
        """So many readings were taken without some of their channels."""
        self._unknown.inc(readings)

    def named_alike(self) -> None:
        """A channel came whose name is like that of another one of its stream."""
        self._alike.inc()

    def repository_asked(self, answered: bool) -> None:
        """The repository of models was asked, and answered or could not be reached."""
        self._repository_up.set(answered)

    def shadow_begins(self, model: str) -> None:
        """A model has a shadow from now on."""
        self._shadow.count(model, {})

    def shadow_counted(self, model: str, sums: Mapping[str, float]) -> None:
        """The shadow of a model came to so much more; the names are those of the shadow's figures."""
        self._shadow.count(model, sums)

    def drifted(self, model: str, drift: Mapping[str, float]) -> None:
        """A model has aged so far; by what: `residuals` and `inputs`."""
        for what, far in drift.items():
            self._drift.labels(model, what).set(far)

    def drift_ends(self, model: str) -> None:
        """A model scores nothing any more."""
        for what in DRIFT:
            self._drift.remove(model, what)

    def rules(self, number: int) -> None:
        """The process goes by the rules of this number."""
        self._rules.set(number)

    def exposition(self) -> bytes:
        """The text that Prometheus scrapes, of all worker processes."""
        self._tally.gather()
        return generate_latest(self._registry)
