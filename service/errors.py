"""What a client can run into as a whole request, and its HTTP status. A single bad reading is a result, not an error.

ServiceError
├── BadRequest          400  not JSON, or not readings at all
├── Unauthorized        401  with WWW-Authenticate: no good key
├── Forbidden           403  for a foreign host, or sent by a page of another site
│   └── MissingScope         the key may not do this
├── UnknownStream       404
├── UnknownIncident     404
├── NoProof             404  what an incident is proved from is not kept
├── MethodNotAllowed    405
├── NoRepository        404  models are asked for, and GATEWATCH_MODELS is not set
├── NoSuchModel         404  no such model, version or alias
│   └── NoShadow             the model has no shadow
├── NoSuchSnapshot      404
├── NoSuchChannel       404
├── TooSlow             408  head or body not whole in time; the connection is closed
├── NoBetterModel       409  a version that was to be promoted only if it is better
├── AlreadyThere        409  a stream, or a snapshot, of this name is there; or as many as there may be
├── ChannelInUse        409  a channel that cannot be removed: the model wants it, or it is the only one
├── Outdated            412  somebody else changed what the request changes; look, and do it again
├── TooLarge            413  body or number of readings over the limit
├── UnsupportedMedia    415  neither JSON nor NDJSON, or an unknown encoding
├── InvalidSettings     422  JSON, but not a stream's settings
├── InvalidState        422  no state of a stream, a damaged one, or one that is not for this stream or service
├── InvalidAnswer       422  JSON, but not an answer to an incident
├── InvalidRules        422  JSON, but not rules, or rules to models that are not there
├── InvalidRequest      422  JSON, but not what the route takes
├── UnusableModel       422  a version that cannot be served, or not for the streams of the one before
├── AllRejected         422  no reading of the request could be taken, where a setting wants that said so
├── TooManyWaiting      429  with Retry-After
│   └── OverLimit            of the tenant
├── HeadTooLarge        431  the connection is closed
├── Draining            503  with Retry-After, of /readyz alone: the service is about to stop
├── ProviderUnavailable 503  with Retry-After: tokens cannot be verified
└── StoreUnavailable    503  with Retry-After: Redis is away, hung or refuses; what became of the readings is unknown,
    │                        sending them again is safe
    ├── ModelAway            a model cannot be loaded now: its repository is away, or its artefact is damaged
    ├── ModelFailed          a model raised an error where it should have scored
    ├── Contended            other processes kept writing a stream
    ├── PartlyUnavailable    a node of a Redis Cluster is away, with some of the streams
    │   └── NewerRecord      a later version wrote them in a format that this one cannot read
    ├── Superseded           another model has taken the streams over
    └── ForeignValue         a key of the service holds a value of another kind
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from gatewatch.service.core.stream_key import StreamKey


class ServiceError(Exception):
    """Base; answered as a problem document (RFC 9457) with the class's status and title."""

    status = 500
    title = "Internal error"
    headers: Mapping[str, str] = {}


class BadRequest(ServiceError):
    """The body is not what the route takes."""

    status = 400
    title = "Bad request"


class Forbidden(ServiceError):
    """A browser was made to send it by a page that is not the service's."""

    status = 403
    title = "Forbidden"


class Unauthorized(ServiceError):
    """The request shows no good key."""

    status = 401
    title = "Unauthorized"
    headers: Mapping[str, str] = {"WWW-Authenticate": 'Bearer realm="gatewatch"'}


class MissingScope(Forbidden):
    """The key is good, but not for this."""

    def __init__(self, scope: str) -> None:
        super().__init__(f"the key may not do this; expected one with the scope {scope}")
        self.headers = {"WWW-Authenticate": f'Bearer realm="gatewatch", error="insufficient_scope", scope="{scope}"'}


class UnknownStream(ServiceError):
    """No reading of this stream has been applied yet."""

    status = 404
    title = "Unknown stream"


class UnknownIncident(ServiceError):
    """No incident of this id is kept."""

    status = 404
    title = "Unknown incident"


class NoProof(ServiceError):
    """What an incident is proved from is not kept, or no longer whole."""

    status = 404
    title = "Nothing to prove it from"


class MethodNotAllowed(ServiceError):
    """The path has other methods."""

    status = 405
    title = "Method not allowed"

    def __init__(self, method: str, allowed: Sequence[str]) -> None:
        super().__init__(f"{method[:64]} is not taken here; expected {' or '.join(allowed)}")
        self.headers = {"Allow": ", ".join(allowed)}


class NoSuchSnapshot(ServiceError):
    """The stream has no snapshot of this name."""

    status = 404
    title = "Unknown snapshot"


class NoSuchChannel(ServiceError):
    """The stream has no channel of this name."""

    status = 404
    title = "Unknown channel"


class ChannelInUse(ServiceError):
    """A channel that the stream cannot be without."""

    status = 409
    title = "Channel in use"


class AlreadyThere(ServiceError):
    """What is to be made is there already, or there are as many as there may be."""

    status = 409
    title = "Already there"


class InvalidState(ServiceError):
    """What was sent as a stream's state cannot be taken in."""

    status = 422
    title = "Invalid state"


class TooSlow(ServiceError):
    """The request was not whole in time; sending it again is safe: nothing of it was applied."""

    status = 408
    title = "Request timeout"


class TooLarge(ServiceError):
    """More bytes or readings than one request may carry."""

    status = 413
    title = "Too large"


class UnsupportedMedia(ServiceError):
    """A content type or encoding that is not taken."""

    status = 415
    title = "Unsupported media type"


class NoRepository(ServiceError):
    """There are no models but the one of GATEWATCH_MODEL."""

    status = 404
    title = "No repository of models"


class NoSuchModel(ServiceError):
    """The repository has no such model, version or alias."""

    status = 404
    title = "Unknown model"


class NoBetterModel(ServiceError):
    """A version that was to be promoted only if it is better than the one before, and is not as far as is known."""

    status = 409
    title = "Not better"


class NoShadow(NoSuchModel):
    """A model has no shadow."""

    title = "No shadow"


class Outdated(ServiceError):
    """What was changed is not any more what the request, by its If-Match, says it looked at."""

    status = 412
    title = "Changed meanwhile"


class InvalidRules(ServiceError):
    """What was sent as rules are none, or name a model that is not there."""

    status = 422
    title = "Invalid rules"


class InvalidPolicies(ServiceError):
    """What was sent as policies are none."""

    status = 422
    title = "Invalid policies"


class InvalidRequest(ServiceError):
    """What was sent is JSON, and not what the route takes; nothing was looked at yet."""

    status = 422
    title = "Invalid request"


class UnusableModel(ServiceError):
    """A version that is damaged, does not run here, or has other channels than the one before."""

    status = 422
    title = "Model cannot be served"


class InvalidAnswer(ServiceError):
    """What was sent as an answer to an incident is none."""

    status = 422
    title = "Invalid answer"


class InvalidSettings(ServiceError):
    """What was sent as a stream's settings are none."""

    status = 422
    title = "Invalid settings"


class AllRejected(ServiceError):
    """Every reading was rejected; a sender that looks at the status alone hears of it."""

    status = 422
    title = "All readings rejected"


class TooManyWaiting(ServiceError):
    """More readings wait than may; send again later."""

    status = 429
    title = "Too many readings waiting"
    headers: Mapping[str, str] = {"Retry-After": "1"}


class OverLimit(TooManyWaiting):
    """The tenant has sent as much as it may; others go on."""

    title = "Over the limit of the tenant"

    def __init__(self, message: str, retry_after_s: float) -> None:
        super().__init__(message)
        self.headers = {"Retry-After": str(max(1, math.ceil(retry_after_s)))}


class HeadTooLarge(ServiceError):
    """URL and headers together have more bytes than a head may."""

    status = 431
    title = "Request header fields too large"


class Draining(ServiceError):
    """The service still answers, but is about to stop: send to another one."""

    status = 503
    title = "Stopping"
    headers: Mapping[str, str] = {"Retry-After": "1"}


class ProviderUnavailable(ServiceError):
    """The identity provider's keys cannot be fetched."""

    status = 503
    title = "Identity provider unavailable"
    headers: Mapping[str, str] = {"Retry-After": "5"}


class StoreUnavailable(ServiceError):
    """Redis did not take or give the states; sending the readings again is safe."""

    status = 503
    title = "Store unavailable"
    headers: Mapping[str, str] = {"Retry-After": "1"}


class ModelAway(StoreUnavailable):
    """The model that a stream has by its rules cannot be loaded; the others are scored."""

    title = "Model unavailable"


class ModelFailed(StoreUnavailable):
    """A model raised an error where it should have scored; readings of other models are scored."""

    title = "Model failed"


def other_channels(stream: StreamKey) -> ModelAway:
    """For a reading that came before its stream got a model of other channels, and is to be scored after it."""
    return ModelAway(f"stream {stream.name} got a model of other channels meanwhile; send the readings again")


class Contended(StoreUnavailable):
    """Other processes kept writing one of the streams; Redis is well."""


class PartlyUnavailable(StoreUnavailable):
    """A node of a Redis Cluster did not take or give states; streams of other nodes are none the worse."""

    def __init__(self, message: str, affects: Callable[[StreamKey], bool]) -> None:
        super().__init__(message)
        self.affects = affects


class NewerRecord(PartlyUnavailable):
    """A later version wrote streams in a way of which this one can read neither record nor history."""

    title = "Written by a later version"

    def __init__(self, streams: Collection[StreamKey]) -> None:
        which = f"stream {next(iter(streams)).name}" if len(streams) == 1 else "the stream"  # others' names are theirs
        super().__init__(
            f"a later version of this service wrote {which} in a format that this one cannot read: "
            "send its readings to that version",
            streams.__contains__,
        )


class Superseded(StoreUnavailable):
    """Another model has taken the tenant's streams over; this process scores nothing any more."""

    title = "Another model has taken over"


class ForeignValue(StoreUnavailable):
    """One of the tenant's keys holds a value that another program put there; somebody has to move it away."""

    title = "Foreign value in Redis"


def concerns_all(error: BaseException) -> bool:
    """Whether an error says that nothing can be scored now, and not only readings of some streams or of one model."""
    of_some = (Contended, ForeignValue, ModelAway, ModelFailed, PartlyUnavailable)
    return isinstance(error, StoreUnavailable) and not isinstance(error, of_some)


def cause_of(error: Exception) -> str:
    """What an error of ours came from, for the log; a caller does not see it."""
    cause = error.__cause__
    return "" if cause is None else f"{type(cause).__name__}: {cause}"


def first_of(errors: Sequence[Any]) -> str:
    """The first of pydantic's errors, in words: where, what, and what was found there."""
    first = errors[0]
    where = ".".join(str(part) for part in first["loc"])[:64] or "body"  # a field's name may be as long as a body
    return f"{where}: {first['msg']} (found {str(first.get('input'))[:64]!r})"


def problem(error: BaseException) -> dict[str, Any]:
    """An error as a problem document (RFC 9457); of one that is not ours, no word leaves the service."""
    if isinstance(error, ServiceError):
        return {"type": "about:blank", "title": error.title, "status": error.status, "detail": str(error)}
    detail = "an error of the service, not of the request; it is in the log"
    return {"type": "about:blank", "title": ServiceError.title, "status": ServiceError.status, "detail": detail}
