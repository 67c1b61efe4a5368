"""Assignments: the rules that this process goes by, and how they change.

A process also looks whenever it meets a record that another model wrote than its rules say: somebody else may be ahead.
So a stream never goes back to a version that it left.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from gatewatch.service.serving.rules import Assigned, Assignment
from gatewatch.service.serving.shared_document import KeptDocument, SharedDocument


class Assignments(SharedDocument[Assignment]):
    """The assignment that this process goes by.

    Attributes:
        now: it, and the model of a stream by it; replaced as a whole.
        on_change: is told each new one, once this process goes by it.
    """

    def __init__(self, document: KeptDocument, prepare: Callable[[Assignment], Awaitable[None]]) -> None:
        """Take none to begin with."""
        super().__init__("rules", Assignment(), document, prepare)
        self.now = Assigned(self.document)

        self.on_change: Callable[[Assignment], None] = lambda _: None

    async def _go_by(self, document: Assignment) -> None:
        await super()._go_by(document)
        if self.now.assignment is not self.document:
            self.now = Assigned(self.document)
            self.on_change(self.document)
