"""Bench: a service that is asked for what is bad, and neighbours that are none the worse."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

from starlette.testclient import TestClient

Line = tuple[str, str, str]
"""What was done, what came back, and what was seen afterwards."""


class Bench(ABC):
    """A service in this process."""

    def __init__(self, client: TestClient) -> None:
        self.client = client
        self.sent = 0

    @abstractmethod
    def neighbours(self) -> str:
        """Post readings of other streams: they are scored."""

    def asked(self, what: str, reply: Any, status: int, words: str = "") -> Line:
        """A line of a request; `words` are in what the answer says."""
        assert reply.status_code == status, (what, reply.status_code, reply.text)
        detail = reply.json().get("detail", "") if reply.content and isinstance(reply.json(), dict) else ""
        assert words in (detail or reply.text), (what, detail or reply.text)
        return what, f"{status}: {detail[:220]}" if detail else str(status), self.neighbours()
