"""PastPolicies: what is asked of readings of the past."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from functools import lru_cache
from typing import Final

from gatewatch.models.detectors.asked import Asked
from gatewatch.service.core.readings import Policies
from gatewatch.service.core.stream_key import StreamKey
from gatewatch.service.incidents.rules import Rules

RULES_KEPT: Final = 1024


class PastPolicies(Policies):
    """Policies as they are; but no incident begins in the past, so none is held from then on."""

    def __init__(self, policies: Policies) -> None:
        self._policies = policies

    async def know(self, streams: Iterable[StreamKey]) -> None:
        """As of Policies."""
        await self._policies.know(streams)

    def tags(self, stream: StreamKey) -> Mapping[str, str]:
        """As of Policies."""
        return self._policies.tags(stream)

    def is_muted(self, stream: StreamKey) -> bool:
        """As of Policies."""
        return self._policies.is_muted(stream)

    def asked(self, streams: Sequence[StreamKey], channels: Sequence[Sequence[str]]) -> Asked | None:
        """As of Policies."""
        return self._policies.asked(streams, channels)

    def rules(self, streams: Sequence[StreamKey]) -> dict[int, Rules]:
        """As of Policies, without beginnings."""
        return {at: _past(rules) for at, rules in self._policies.rules(streams).items()}


@lru_cache(RULES_KEPT)
def _past(rules: Rules) -> Rules:
    return replace(rules, begins=False)
