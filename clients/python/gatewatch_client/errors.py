"""What can go wrong at the sender's side."""

from __future__ import annotations


class ClientError(Exception):
    """Any error of this client."""


class Unavailable(ClientError):
    """The service did not take the readings within the time allowed. The same readings may be sent again."""


class Refused(ClientError):
    """The service refused a whole request in a way that sending it again does not mend: wrong address, no key."""


class QueueFull(ClientError):
    """As many readings wait as may wait; these were not taken."""


class SpoolFailed(ClientError):
    """The spool's file cannot be written, for a full disk say; what was being put into it was not taken."""
