"""The Python client of Gatewatch: sends readings, loses none and has none counted twice, and hears what is anomalous.

The same files are installed as `gatewatch.client` with the service, and alone as `gatewatch_client`; they need neither
numpy nor the service.
"""

from .asynchronous import AsyncClient
from .client import Client
from .errors import ClientError, QueueFull, Refused, SpoolFailed, Unavailable
from .frames import readings_of
from .incidents import Incident, IncidentChannel
from .readings import Reading, Result

__all__ = [
    "AsyncClient",
    "Client",
    "ClientError",
    "Incident",
    "IncidentChannel",
    "QueueFull",
    "Reading",
    "Refused",
    "Result",
    "SpoolFailed",
    "Unavailable",
    "readings_of",
]
